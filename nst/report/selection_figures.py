"""Figures of pseudo-labels: how sure the teacher is, how selection evens out the classes, how often labels are right.

Paper section 3.1 (filtering and balancing). Figures show at most two selections, the first and the last: those in
between say little more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nst.report.style import (
    BLUE,
    INK,
    MOST_NAMED_CLASSES,
    MUTED,
    ORANGE,
    PAPER,
    SKY,
    legend,
    name_places,
    panels,
    room_for,
    styled,
)

PANEL_HEIGHT = 3.8


@dataclass(frozen=True)
class SelectionData:
    """One selection as the figures need it; `before` and `after` count per class (C,) or bin (B,).

    Args:
        title: whose labels, e.g. "labels of generation 0".
        edges: (B + 1,) of the confidence bins; their counts are images before, copies after selection.
        accuracy: (B,) share of right labels per bin before selection, NaN where unknown; None without truth.
    """

    title: str
    classes: tuple[str, ...]
    min_confidence: float
    edges: np.ndarray
    bins_before: np.ndarray
    bins_after: np.ndarray
    class_before: np.ndarray
    class_selected: np.ndarray
    class_after: np.ndarray
    accuracy: np.ndarray | None = None


@styled()
def confidence(selections: Sequence[SelectionData]) -> Figure:
    """Histogram of the teacher's confidence: all images, and what the student sees."""
    figure, axes = panels("How sure the teacher is, before and after selection", PANEL_HEIGHT, len(selections),
                          sharey=True)  # fmt: skip
    for panel, data in zip(axes, selections, strict=True):
        panel.stairs(data.bins_before, data.edges, fill=True, color=MUTED, alpha=0.4, label="all unlabeled images")
        panel.stairs(data.bins_after, data.edges, color=BLUE, linewidth=1.8, label="selected, with copies")
        _along_confidence(panel, data)
        panel.grid(axis="x", visible=False)
    axes[0].set_ylabel(f"images per {data.edges[1] - data.edges[0]:g} of confidence")
    legend(figure, axes[0], columns=3)
    return figure


def _along_confidence(panel: Axes, data: SelectionData) -> None:
    panel.axvline(data.min_confidence, color=ORANGE, linewidth=1.6, linestyle=(0, (4, 3)),
                  label=f"smallest confidence kept ({data.min_confidence:g})")  # fmt: skip
    panel.set_title(data.title)
    panel.set_xlabel("confidence (largest probability)")
    panel.set_xlim(0, 1)


@styled()
def class_balance(selections: Sequence[SelectionData]) -> Figure:
    """Images per class: as the teacher labels them, as selected, and with the copies that the student sees."""
    height = PANEL_HEIGHT + room_for(selections[-1].classes)
    figure, axes = panels(_balance_title(selections[-1]), height, len(selections), sharey=True)
    for panel, data in zip(axes, selections, strict=True):
        if len(data.classes) <= MOST_NAMED_CLASSES:
            _bars(panel, data)
        else:
            _ranks(panel, data)
        panel.set_title(data.title)
        panel.grid(axis="x", visible=False)
    axes[0].set_ylabel("images")
    legend(figure, axes[0], columns=3)
    return figure


def _balance_title(data: SelectionData) -> str:
    before, after = data.class_before, data.class_after
    evened = after.min() > 0 and before.min() > 0 and after.max() / after.min() < before.max() / before.min()
    return "Selection evens out the classes" if evened else "Images per class, before and after selection"


def _bars(panel: Axes, data: SelectionData) -> None:
    places = np.arange(len(data.classes))
    panel.bar(places, data.class_after, 0.8, color=SKY, alpha=0.45, label="selected, with copies")
    panel.bar(places, data.class_selected, 0.8, color=BLUE, label="selected once")
    panel.plot(places, data.class_before, linestyle="none", marker="_", markersize=150 / len(places) + 4,
               markeredgewidth=2.2, color=INK, label="as labeled")  # fmt: skip
    name_places(panel, places, data.classes)
    panel.tick_params(axis="x", length=0)
    panel.set_xlabel("class")


def _ranks(panel: Axes, data: SelectionData) -> None:
    edges = np.arange(len(data.classes) + 1)
    for counts, color, label in (
        (data.class_before, INK, "as labeled"),
        (data.class_selected, BLUE, "selected once"),
        (data.class_after, SKY, "selected, with copies"),
    ):
        panel.stairs(np.sort(counts)[::-1], edges, color=color, linewidth=1.6, label=label)
    panel.set_xlim(0, len(data.classes))
    panel.set_xlabel("classes, largest first")


@styled()
def reliability(selections: Sequence[SelectionData]) -> Figure:
    """Share of right pseudo-labels per confidence bin; on the diagonal confidence is what it says."""
    figure, axes = panels("How often a pseudo-label is right, by the teacher's confidence", 4.2, len(selections),
                          sharey=True)  # fmt: skip
    for panel, data in zip(axes, selections, strict=True):
        assert data.accuracy is not None
        centres = (data.edges[1:] + data.edges[:-1]) / 2
        sizes = 14 + 130 * np.sqrt(data.bins_before / max(1, data.bins_before.max()))
        panel.plot([0, 1], [0, 100], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="confidence is accuracy")
        panel.scatter(centres, 100 * data.accuracy, s=sizes, color=BLUE, alpha=0.85, edgecolors=PAPER, linewidths=0.8,
                      label="a bin (larger: more images)", zorder=3)  # fmt: skip
        _along_confidence(panel, data)
        panel.set_ylim(-4, 104)
    axes[0].set_ylabel("right pseudo-labels (%)")
    legend(figure, axes[0], columns=3)
    return figure
