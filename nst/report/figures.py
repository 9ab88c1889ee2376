"""Figures of results: generations, learning curves, classes, confusions, experiments side by side.

One function per figure, from plain data to a matplotlib Figure; nothing is read or written here. A title is a
sentence, and where it makes a claim it is chosen by the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nst.report.style import (
    BLUE,
    GRID,
    INK,
    MARKER,
    MOST_NAMED_CLASSES,
    MUTED,
    SERIES,
    SLANTED_LETTERS,
    VERMILLION,
    fitting,
    heat,
    legend,
    name_places,
    panels,
    room_for,
    styled,
)
from nst.shown import short

PANELS = {
    "train/labeled_loss": "Loss on labeled images (nats)",
    "train/unlabeled_loss": "Loss on pseudo-labeled images (nats)",
    "train/labeled_top1": "Top-1 on noised labeled batches (%)",
    "validation/top1": "Top-1 on held-out images, no noise (%)",
}
MOST_COUNTED_CLASSES = 12  # more counts do not fit into the cells of a confusion matrix


@styled()
def generations(
    titles: Sequence[str],
    top1: Sequence[float],
    bounds: Sequence[tuple[float | None, float | None]],
    certain: bool | None = None,
    control: bool = False,
) -> Figure:
    """Top-1 (%) of teacher and students in order, with the 95 % interval of each where `bounds` has one.

    Args:
        certain: whether the gain of the last student is more than its interval; None where that is not known.
        control: the last entry is no student: it learned from the labels alone, and stands by itself.
    """
    students = len(top1) - control
    gain = top1[students - 1] - top1[0]
    claim = "Students gain on their teacher" if gain > 0 else "The students do not beat their teacher"
    claim = "No sure difference between students and teacher" if certain is False else claim
    title = f"{claim}: {gain:+.2f} points" if students > 1 else "Top-1 of the teacher"
    figure, (axes,) = panels(title, 3.4)
    places = np.arange(len(top1))
    for part, color in ((slice(students), BLUE), (slice(students, None), VERMILLION)):
        axes.plot(places[part], top1[part], color=color, **MARKER, zorder=3)
        for place, (low, high) in zip(places[part], bounds[part], strict=True):
            if low is not None and high is not None:
                axes.plot([place, place], [low, high], color=color, linewidth=5, alpha=0.22, solid_capstyle="butt")
    if control:
        axes.axhline(top1[-1], color=VERMILLION, linewidth=1, linestyle="--", alpha=0.6, zorder=1)
    following = [*top1[1:students], top1[students - 1], *top1[students:]]
    for place, value, next_one in zip(places, top1, following, strict=True):
        offset = (8, -14) if next_one >= value else (8, 6)  # on the side that the line does not go to
        axes.annotate(f"{value:.2f}", (place, value), offset, textcoords="offset points", fontweight="bold")
    axes.set_xticks(places, titles)
    axes.set_xlim(-0.35, len(top1) - 0.5)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("top-1 on test images (%)")
    return figure


@styled()
def learning_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> Figure:
    """A panel per metric of PANELS that any run has; curves maps run → metric → (step, value)."""
    shown = [metric for metric in PANELS if any(_has_signal(run.get(metric)) for run in curves.values())]
    columns = min(2, len(shown))
    rows = -(-len(shown) // 2)
    figure, axes = panels("How training went, step by step", 0.8 + 2.8 * rows, columns, rows)
    for panel, metric in zip(axes, shown, strict=False):
        for number, (title, run) in enumerate(curves.items()):
            if _has_signal(run.get(metric)):
                steps, values = zip(*run[metric], strict=True)
                dots: dict[str, Any] = {"marker": "o", "markersize": 4} if len(steps) < 12 else {}
                panel.plot(steps, values, color=series_color(number), label=title, **dots)
        panel.set_title(PANELS[metric])
        panel.set_xlabel("step")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        panel.margins(x=0.02)
        if "loss" in metric:
            panel.set_ylim(bottom=0)
    for unused in axes[len(shown) :]:
        unused.set_visible(False)
    legend(figure, *axes, columns=4)
    return figure


def _has_signal(curve: Sequence[tuple[int, float]] | None) -> bool:
    """False for a loss that a run does not have, which is logged as zeros."""
    return bool(curve) and any(value != 0 for _, value in curve or ())


def series_color(number: int) -> str:
    """Colour of the number-th run: the teacher grey, its students in colours."""
    return SERIES[0] if number == 0 else SERIES[1:][(number - 1) % (len(SERIES) - 1)]


@styled()
def class_accuracy(classes: Sequence[str], teacher: np.ndarray, student: np.ndarray, titles: tuple[str, str]) -> Figure:
    """Accuracy (C,) in percent of each class for teacher and student; NaN for a class not seen."""
    known = np.isfinite(teacher) & np.isfinite(student)
    better, worse = int((student > teacher)[known].sum()), int((student < teacher)[known].sum())
    title = f"{better} of {known.sum()} classes gain, {worse} lose"
    if len(classes) > MOST_NAMED_CLASSES:
        return _class_scatter(title, teacher, student, titles)
    order = [place for place in np.argsort(teacher, kind="stable") if known[place]]
    figure, (axes,) = panels(title, 1.4 + 0.27 * len(order))
    places = np.arange(len(order))
    before, after = teacher[order], student[order]
    colors = [BLUE if gain else VERMILLION for gain in after >= before]
    axes.hlines(places, before, after, color=colors, linewidth=2.2, alpha=0.5)
    axes.plot(before, places, color=MUTED, linestyle="none", **MARKER, label=titles[0])
    axes.plot(after, places, color=BLUE, linestyle="none", **{**MARKER, "marker": "D"}, label=titles[1])
    axes.set_yticks(places, fitting([classes[place] for place in order]))
    axes.set_xlabel("top-1 of the class (%)")
    axes.set_xlim(right=102)
    axes.grid(axis="y", visible=False)
    legend(figure, axes, columns=2)
    return figure


def _class_scatter(title: str, teacher: np.ndarray, student: np.ndarray, titles: tuple[str, str]) -> Figure:
    figure, (axes,) = panels(title, 5.4)
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(teacher, student, s=16, color=BLUE, alpha=0.55, linewidths=0)
    axes.set_xlabel(f"top-1 of a class, {titles[0]} (%)")
    axes.set_ylabel(f"{titles[1]} (%)")
    axes.set_aspect("equal")
    return figure


@styled()
def confusion(
    classes: Sequence[str],
    matrices: Mapping[str, np.ndarray],
    title: str = "What is taken for what",
    axis_names: tuple[str, str] = ("label", "prediction"),
) -> Figure:
    """Confusion matrices (C, C) of counts, row label and column prediction, coloured by share of the row.

    Args:
        axis_names: of rows and of columns.
    """
    count = len(classes)
    height = 4.6 if len(matrices) > 1 else 6.0
    figure, axes = panels(title, height + room_for(classes), len(matrices), sharey=True)
    for panel, (title, matrix) in zip(axes, matrices.items(), strict=True):
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        panel.pcolormesh(share, cmap=heat(), vmin=0, vmax=1, rasterized=count > MOST_NAMED_CLASSES)
        if count <= MOST_COUNTED_CLASSES:
            _write_counts(panel, matrix, share)
        panel.set_aspect("equal")
        panel.grid(visible=False)
        panel.set_title(title)
        panel.set_xlabel(axis_names[1])
        panel.spines[["top", "right"]].set_visible(True)
        panel.spines[:].set_color(GRID)
        panel.tick_params(length=0)
        _name_cells(panel, classes)
    axes[0].set_ylabel(axis_names[0])
    axes[0].invert_yaxis()  # of all
    return figure


def _write_counts(panel: Axes, matrix: np.ndarray, share: np.ndarray) -> None:
    for row, column in np.argwhere(matrix > 0):
        color = "#ffffff" if share[row, column] > 0.55 else INK
        text = f"{int(matrix[row, column])}"
        panel.text(column + 0.5, row + 0.54, text, ha="center", va="center", fontsize=7.5, color=color)


def _name_cells(panel: Axes, classes: Sequence[str]) -> None:
    if len(classes) > MOST_NAMED_CLASSES:
        return
    places = np.arange(len(classes)) + 0.5
    name_places(panel, places, classes, fontsize=8.5)
    panel.set_yticks(places, fitting(classes, SLANTED_LETTERS), fontsize=8.5)


@styled()
def experiments(
    names: Sequence[str],
    first: Sequence[float | None],
    last: Sequence[float],
    bounds: Sequence[tuple[float | None, float | None]],
) -> Figure:
    """Top-1 (%) of every experiment's last network with its 95 % interval, and of its teacher where it has one."""
    best = short(names[int(np.argmax(last))], 80)
    figure, (axes,) = panels(f"Best by top-1: {best}", 1.5 + 0.4 * len(names))
    places = np.arange(len(names))
    for place, (start, end, (low, high)) in enumerate(zip(first, last, bounds, strict=True)):
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=BLUE, linewidth=6, alpha=0.2, solid_capstyle="butt")
        if start is not None:
            axes.plot([start, end], [place, place], color=MUTED, linewidth=1.4)
            axes.plot(start, place, color=MUTED, **MARKER, label="teacher")
        axes.annotate(f"{end:.2f}", (end, place), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
    axes.plot(last, places, color=BLUE, linestyle="none", **{**MARKER, "marker": "D"}, label="last network")
    axes.set_yticks(places, fitting(names, 80))
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("top-1 on test images (%)")
    legend(figure, axes, columns=2)
    return figure
