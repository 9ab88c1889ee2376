"""Figures of the paper's tables and figures from runs: ours with the deviation over seeds, beside the published ones.

One function per kind of figure, from the cells that `nst.report.paper.collect` found to a matplotlib Figure. Ours and
the paper's are panels of their own: accuracies of other data do not share an axis.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from nst.report.paper import FULL_SIZE, Cell, CellResult, Cells, Exhibit, twin_note
from nst.report.style import BLUE, GREEN, MARKER, MUTED, ORANGE, VERMILLION, panels, styled

ATTACKS = ("fgsm", "pgd")
COLORS = (MUTED, BLUE, VERMILLION, GREEN, ORANGE)
NOTE_SIZE, NOTE_WIDTH, NOTE_LINE = 8.5, 126, 0.17  # points, characters of a line, inches of its height


def draw(where: Exhibit, scale: str, cells: Cells) -> Figure | None:
    """The figure of a place: curves for figures 1, 3 and 4 and table 9, bars for the other tables; None where no run
    measured what it shows."""
    cells = {key: cell for key, cell in cells.items() if key[1] in where.columns}
    measured = {name for cell in cells.values() for name in _metrics(cell)}
    if where.name == "figure 3":  # of any epsilon
        measured = {name for name in measured if name.startswith(ATTACKS)}
    else:
        measured &= set(where.metrics)
    if not measured:
        return None
    kinds: dict[str, Callable[[Exhibit, str, Cells], Figure]] = {
        "figure 1": against_parameters,
        "table 9": against_parameters,
        "figure 3": against_epsilon,
        "figure 4": against_confidence,
    }
    return kinds.get(where.name, bars)(where, scale, cells)


@styled()
def bars(where: Exhibit, scale: str, cells: Cells) -> Figure:
    """A bar per row and column of ours, and of the paper's where it has numbers, of the place's first known metric."""
    rows = _rows(where, cells)
    metric = next(name for name in where.metrics if any(cell.value(name) for cell in cells.values()))
    columns = max(1, len({column for _, column in cells}))
    figure, (ours, paper) = panels(_title(where, scale), 1.6 + 0.42 * len(rows) * columns, 2, sharey=True)
    _bars(ours, where, rows, cells, metric)
    ours.set_title(f"ours: {where.metrics[metric]}")
    published = published_cells(where, rows)
    known = next((name for name in where.metrics if any(cell.value(name) for cell in published.values())), None)
    if known:
        _bars(paper, where, rows, published, known)
        paper.set_title(f"the paper: {where.metrics[known]}")
    else:
        paper.set_visible(False)
    begins = _begins({"ours": ours, "the paper": paper} if known else {"ours": ours})
    _legend(figure, ours, paper, notes=(twin_note(where, scale, cells), begins), least=2)
    return figure


def _bars(axes: Axes, where: Exhibit, rows: list[str], cells: Cells, metric: str) -> None:
    columns = [column for column in where.columns if any(key[1] == column for key in cells)]
    height = 0.8 / max(len(columns), 1)
    extent: list[float] = []
    for number, column in enumerate(columns):
        color = COLORS[1:][where.columns.index(column) % (len(COLORS) - 1)]
        for place, row in enumerate(rows):
            value = cells[row, column].value(metric) if (row, column) in cells else None
            if value is None:
                continue
            mean, deviation = value
            y = place - 0.4 + (number + 0.5) * height
            axes.barh(y, mean, height * 0.86, color=color, alpha=0.75, label=column)
            if deviation is not None:
                axes.errorbar(mean, y, xerr=deviation, color=MUTED, capsize=3, linewidth=1.2)
            text = f"{mean:.1f}" + (f" ± {deviation:.1f}" if deviation is not None else "")
            axes.annotate(
                text, (mean + (deviation or 0), y), (5, 0), textcoords="offset points", va="center", fontsize=8.5
            )
            extent += [mean - (deviation or 0), mean + (deviation or 0)]
    axes.set_yticks(range(len(rows)), [textwrap.fill(row, 26) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    span = max(max(extent) - min(extent), 1.0)
    # differences are what matters; the note below the bars says where they begin
    # room for the numbers beside the bars, and no percentages over 100
    axes.set_xlim(max(0.0, min(extent) - span), max(extent) + 0.9 * span)
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high and (tick <= 100 or max(extent) > 100)])


def _begins(panels_: dict[str, Axes]) -> str:
    """Where bars do not begin at 0, without which their lengths would be read as ratios."""
    cut = [f"{axes.get_xlim()[0]:.3g} ({name})" for name, axes in panels_.items() if axes.get_xlim()[0] > 0]
    return f"Bars begin at {' and '.join(cut)}, not at 0." if cut else ""


@styled()
def against_parameters(where: Exhibit, scale: str, cells: Cells) -> Figure:
    """Top-1 against parameters (log), a line per column."""
    figure, (ours, paper) = panels(_title(where, scale), 3.9, 2)
    for axes, title, found in ((ours, "ours", cells), (paper, "the paper", published_cells(where, list(where.rows)))):
        sizes: list[float] = []
        for number, column in enumerate(where.columns):
            points = sorted(
                (_parameters(where, row, cell), *cell.value("top1"))  # type: ignore[misc]
                for (row, of), cell in found.items()
                if of == column and cell.value("top1") and _parameters(where, row, cell)
            )
            sizes += [size for size, *_ in points]
            _curve(axes, points, COLORS[number], column)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        ticks = sorted({round(size, 2) for size in sizes})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel("parameters (millions)")
        axes.set_ylabel("top-1 (%)")
        axes.set_title(title)
    _legend(figure, ours, paper, notes=(twin_note(where, scale, cells),))
    return figure


def _parameters(where: Exhibit, row: str, cell: Cell) -> float | None:
    known = cell.value("params_m")
    if known is not None:
        return known[0]
    return next((found["params_m"] for found in where.rows.get(row, {}).values() if "params_m" in found), None)


@styled()
def against_epsilon(where: Exhibit, scale: str, cells: Cells) -> Figure:
    """Top-1 over the size of the attack, a panel per attack and a line per network."""
    measured = {name.rpartition("_")[0] for cell in cells.values() for name in _metrics(cell)}
    attacks = [name for name in ATTACKS if name in measured]
    figure, axes = panels(_title(where, scale), 3.9, len(attacks), sharey=True)
    for panel, attack in zip(axes, attacks, strict=True):
        for number, row in enumerate(_rows(where, cells)):
            cell = next(cell for key, cell in cells.items() if key[0] == row)
            names = [name for name in _metrics(cell) if name.startswith(f"{attack}_")]
            points = sorted((float(name.rpartition("_")[2]), *cell.value(name)) for name in names)  # type: ignore[misc]
            _curve(panel, points, COLORS[number % len(COLORS)], row)
        panel.set_title({"fgsm": "FGSM", "pgd": "PGD, 10 steps"}[attack])
        panel.set_xlabel("epsilon (of 255)")
        panel.set_ylim(bottom=0)
    axes[0].set_ylabel("top-1 (%)")
    _legend(figure, *axes, notes=(twin_note(where, scale, cells),))
    return figure


@styled()
def against_confidence(where: Exhibit, scale: str, cells: Cells) -> Figure:
    """Top-1 over the bins of confidence, a line for soft and one for hard labels, and the teacher's as a level."""
    figure, (axes,) = panels(_title(where, scale), 3.9)
    bins = sorted({row for row, _ in cells})
    teachers = [found for (_, column), cell in cells.items() if column == "supervised" for found in cell.measurements]
    level = Cell(tuple({found.seed: found for found in teachers}.values())).value("top1")
    if level:
        axes.axhline(level[0], color=MUTED, linestyle=(0, (4, 3)), label="supervised (the teacher)")
    for number, column in enumerate(where.columns[1:], 1):
        known = [(place, cells[row, column].value("top1")) for place, row in enumerate(bins) if (row, column) in cells]
        shift = 0.06 * (2 * number - 3)  # error bars side by side
        points = [(place + shift, *value) for place, value in known if value]
        _curve(axes, points, COLORS[number], f"{column} labels")
    axes.set_xticks(range(len(bins)), bins)
    axes.set_xlabel("confidence of the teacher")
    axes.set_ylabel("top-1 (%)")
    _legend(figure, axes, notes=(twin_note(where, scale, cells),))
    return figure


# ---- parts --------------------------------------------------------------------------------------------------------


def _rows(where: Exhibit, cells: Cells) -> list[str]:
    """Rows that runs belong to, in the paper's order; behind these such as the paper has not."""
    ours = {row for row, _ in cells}
    return [*(row for row in where.rows if row in ours), *sorted(ours - set(where.rows))]


def published_cells(where: Exhibit, rows: list[str]) -> Cells:
    """The paper's numbers in the form of ours."""
    return {
        (row, column): Cell((CellResult(FULL_SIZE, row, column, 0, "", dict(metrics), Path()),))
        for row in rows
        for column, metrics in where.rows.get(row, {}).items()
    }


def _curve(axes: Axes, points: Sequence[tuple[float, float, float | None]], color: str, label: str) -> None:
    if not points:
        return
    x, mean, deviation = zip(*points, strict=True)
    axes.plot(x, mean, color=color, label=label, **MARKER, zorder=3)
    spread = np.array([value or 0.0 for value in deviation])
    if spread.any():
        axes.errorbar(x, mean, yerr=spread, color=color, linestyle="none", capsize=3, linewidth=1.2)


def _metrics(cell: Cell) -> list[str]:
    return sorted({name for found in cell.measurements for name in found.metrics})


def _title(where: Exhibit, scale: str) -> str:
    name = where.name.capitalize()
    title = name if scale == FULL_SIZE else f"{name}, scaled down: {scale}"
    return textwrap.shorten(title, 90, placeholder=" ...")


def _legend(figure: Figure, *axes: Axes, notes: Sequence[str], least: int = 1) -> None:
    """A legend for all panels, of `least` entries or more, below the notes."""
    entries = {text: line for panel in axes for line, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    entries = entries if len(entries) >= least else {}
    told = [line for note in notes for line in textwrap.wrap(note, NOTE_WIDTH)]
    if not (entries or told):
        return
    figure.set_figheight(figure.get_figheight() + NOTE_LINE * len(told))
    # as the legend's title: the layout makes room for legends, and a text of the figure's would lie upon it
    legend = figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=max(1, min(4, len(entries))),
        title="\n".join(told), title_fontsize=NOTE_SIZE,
    )  # fmt: skip
    legend.get_title().set_color(MUTED)
