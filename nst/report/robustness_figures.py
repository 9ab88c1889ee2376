"""Figures of robustness: errors per corruption, over severities, flips per perturbation, attacks, film strips.

One function per figure, from plain data; the paper's figure 2 and tables 4 to 6 are of this kind. Networks come
teacher first.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nst.report.style import INK, MARKER, MUTED, VERMILLION, WIDTH, legend, panels, styled
from nst.shown import short

Values = Sequence[float | None]
Colors = Mapping[str, str]  # of each network, by title
STRIP_LEFT = 1.15  # inches for the names at the left of a strip
STRIP_PX = 96  # smallest side of a frame as it is embedded: small pictures stay sharp
LETTER, LINES = 0.074, 2  # inches; of a class name under a frame
LEFT_LETTERS = int(STRIP_LEFT / LETTER)


@styled()
def bars(title: str, names: Sequence[str], networks: Mapping[str, Values], axis: str, colors: Colors) -> Figure:
    """A group of bars per condition, a bar per network; with two or more conditions their means as lines."""
    figure, (axes,) = panels(title, 4.0)
    places, width = np.arange(len(names)), 0.8 / len(networks)
    for number, (title, values) in enumerate(networks.items()):
        heights = np.array(values, float)
        left = places - 0.4 + width * number
        axes.bar(left, heights, width * 0.92, align="edge", color=colors[title], label=title)
        if len(names) > 1 and np.isfinite(heights).all():
            axes.axhline(heights.mean(), color=colors[title], linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xticks(places, [readable(name) for name in names], rotation=38, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(bottom=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(axis)
    legend(figure, axes, columns=5)
    return figure


@dataclass(frozen=True)
class Panel:
    """Curves of one panel: its name, places along the axis, and values (%) there by network; None is left out."""

    name: str
    places: Sequence[float]
    networks: Mapping[str, Values]


@styled()
def severity_curves(groups: Sequence[Panel], colors: Colors) -> Figure:
    """A panel per group of corruptions, a curve per network: error (%) of clean images, then at severity 1 to 5."""
    figure, axes = panels("Errors by severity", 3.3, len(groups), sharey=True)
    _draw_curves(figure, axes, groups, colors, ("severity (0: clean)", "top-1 error (%)"), len(groups))
    for panel in axes:
        panel.set_xticks(range(6))
        panel.set_xlim(-0.4, 5.4)
    return figure


@styled()
def attacks(found: Sequence[Panel], colors: Colors) -> Figure:
    """Top-1 (%) over epsilon, a panel per attack."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = panels(_attack_title(found[-1]), 0.9 + 2.9 * rows, columns, rows, sharey=True)
    _draw_curves(figure, axes, found, colors, ("ε (1/255)", "top-1 under attack (%)"), columns)
    for panel in axes:
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 8, 10]))
    return figure


def _draw_curves(
    figure: Figure, axes: Sequence[Axes], found: Sequence[Panel], colors: Colors, names: tuple[str, str], columns: int
) -> None:
    """Draws each panel on its axes; `names` are those of both axes."""
    for place, (drawn, panel) in enumerate(zip(axes, found, strict=False)):
        for title, values in panel.networks.items():
            heights = np.array(values, float)
            known = np.isfinite(heights)
            drawn.plot(np.array(panel.places)[known], heights[known], color=colors[title], label=title,
                       **{**MARKER, "markersize": 5})  # fmt: skip
        drawn.set_title(panel.name)
        drawn.set_xlabel(names[0])
        if place % columns == 0:
            drawn.set_ylabel(names[1])
    axes[0].set_ylim(bottom=0)  # of all, and not before the last is drawn
    for unused in axes[len(found) :]:
        unused.set_visible(False)
    legend(figure, axes[0], columns=5)


def _attack_title(panel: Panel) -> str:
    """Teacher and last student at the largest epsilon of an attack."""
    first, *_, last = [values[-1] for values in panel.networks.values()] * 2
    before = f"{first:.1f} → " if len(panel.networks) > 1 else ""
    return f"Top-1 under attack, {panel.name} at ε = {panel.places[-1]:g}: {before}{last:.1f} %"


@dataclass(frozen=True)
class StripData:
    """Frames (S, S, 3) of one clip and what each network says of each, teacher first."""

    name: str
    label: str | None
    frames: Sequence[np.ndarray]
    numbers: Sequence[int]
    predicted: Mapping[str, Sequence[str]]


@styled()
def strips(title: str, clips: Sequence[StripData]) -> Figure:
    """Film strips, one below the other, with the networks' answers under each frame; wrong ones in colour, with ×."""
    columns = max(len(clip.frames) for clip in clips)
    side = (WIDTH - STRIP_LEFT - 0.1) / columns
    said = [f"{text} ×" for clip in clips for texts in clip.predicted.values() for text in texts]
    line = 0.15 * max(len(_wrapped(text, int(side / LETTER))) for text in said)
    each = 0.2 + side + sum(line + 0.06 for _ in clips[0].predicted) + 0.2
    height = 0.5 + each * len(clips)
    figure, (axes,) = panels(title, height)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))  # one canvas, in inches from the upper left
    axes.axis("off")
    for place, clip in enumerate(clips):
        _strip(axes, clip, top=0.5 + each * place, side=side, line=line)
    axes.set(xlim=(0, WIDTH), ylim=(height, 0), aspect="auto")
    return figure


def _strip(axes: Axes, clip: StripData, *, top: float, side: float, line: float) -> None:
    """One strip, `top` inches below the upper edge."""
    truth = "\n".join(_wrapped(f"is {clip.label}", LEFT_LETTERS)) if clip.label else ""
    frames_top = top + 0.2
    _say(axes, 0.08, frames_top + side / 2, f"{readable(clip.name)}\n{truth}".strip(), weight="bold")
    for column, (frame, number) in enumerate(zip(clip.frames, clip.numbers, strict=True)):
        left = STRIP_LEFT + side * column
        factor = -(-STRIP_PX // len(frame))
        enlarged = frame.repeat(factor, axis=0).repeat(factor, axis=1)
        axes.imshow(enlarged, extent=(left, left + 0.95 * side, frames_top + 0.95 * side, frames_top),
                    interpolation="none")  # fmt: skip
        _say(axes, left + 0.475 * side, top + 0.12, f"{number + 1}", ha="center", color=MUTED)
    for row, (title, said) in enumerate(clip.predicted.items()):
        middle = frames_top + side + line / 2 + (line + 0.06) * row
        _say(axes, 0.08, middle, title, color=MUTED)
        for column, text in enumerate(said):
            wrong = clip.label is not None and text != clip.label
            name = "\n".join(_wrapped(f"{text} ×" if wrong else text, int(side / LETTER)))
            _say(axes, STRIP_LEFT + side * (column + 0.475), middle, name, ha="center",
                 color=VERMILLION if wrong else INK)  # fmt: skip


def _say(axes: Axes, left: float, top: float, text: str, ha: str = "left", **options: Any) -> None:
    axes.text(left, top, text, ha=ha, va="center", fontsize=7.5, **options)


def _wrapped(text: str, letters: int) -> list[str]:
    return textwrap.wrap(short(text, 200), letters, max_lines=LINES, placeholder="…") or [""]


def readable(name: str) -> str:
    """A corruption's or perturbation's name for people."""
    return name.replace("_", " ").replace("jpeg", "JPEG")
