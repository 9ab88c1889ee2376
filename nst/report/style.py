"""How all figures look, and how they are written: PNG and SVG files, and SVG inside the page.

Inside the page the colours of ink, grid and paper become CSS variables and text stays text, so one drawing serves
light and dark screens, print, search and screen readers. Files are the same bytes for the same data: no dates, no
random names.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nst.atomic import atomic_path
from nst.shown import short, shown

INK, MUTED, GRID, PAPER = "#1b1c20", "#63666f", "#dfe1e6", "#fefeff"
# Okabe and Ito's colours, which people with any common colour blindness tell apart
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
SERIES = (MUTED, BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
WIDTH = 9.0  # inches: the column of the page at about 100 px each
DPI = 150
LETTERS, SLANTED_LETTERS = 32, 22  # of a name beside an axis, and aslant below one
MOST_NAMED_CLASSES = 30  # more names do not fit beside an axis

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "nst",
    "text.parse_math": False,  # a class named $x$ is no formula
    "savefig.dpi": DPI,
}
MARKER: dict[str, Any] = {"marker": "o", "markersize": 7, "markeredgecolor": PAPER, "markeredgewidth": 1.2}
THEMED = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper", BLUE: "--blue"}


def fitting(names: Sequence[str], letters: int = LETTERS) -> list[str]:
    """Names of classes or runs as there is room for them in a figure."""
    return [short(name, letters) for name in names]


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draws a block, or with `@styled()` a function, in our style, and leaves matplotlib's settings as they were."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # letters that the font of files lacks, once for each drawing; the page's text is drawn by the browser
        warnings.filterwarnings("ignore", r"Glyph .* missing from (current )?font", UserWarning)
        yield


def heat() -> LinearSegmentedColormap:
    """From nothing to blue by opacity, so that it works on light and on dark paper."""
    return LinearSegmentedColormap.from_list("nst", [to_rgba(BLUE, 0.0), to_rgba(BLUE)])


def panels(title: str, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width with its title, and its axes row by row."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.05))
    figure.suptitle(title, x=0.008, ha="left", fontsize=12, fontweight="bold", color=INK)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def legend(figure: Figure, *axes: Axes, columns: int) -> None:
    """A legend below the panels, with one entry per label."""
    entries = {text: line for panel in axes for line, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    ncols = max(1, min(columns, len(entries)))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=ncols)


def name_places(axes: Axes, places: Any, names: Sequence[str], **options: Any) -> None:
    """Names of classes below an axis, aslant where they are words."""
    shown_names = fitting(names, SLANTED_LETTERS)
    if max(map(len, shown_names)) > 2:
        options |= {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, shown_names, **options)


def room_for(names: Sequence[str]) -> float:
    """Inches that long names below an axis need more than short ones."""
    return 0.07 * max(0, min(SLANTED_LETTERS, max(map(len, names))) - 6) if len(names) <= MOST_NAMED_CLASSES else 0.0


def svg_document(figure: Figure) -> str:
    """The figure as a whole SVG file on white."""
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG of 150 dpi."""
    with atomic_path(path) as temporary, styled():
        figure.savefig(temporary, format="png", metadata={"Software": None}, facecolor="white")


def inline_svg(document: str, name: str, description: str) -> str:
    """An SVG file's drawing as an element for the page: themed colours, no background, ids that start with `name`."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the background is drawn first
    # several drawings share one document: ids must not meet
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for color, variable in THEMED.items():
        svg = svg.replace(color, f"var({variable})")
    label = f'class="figure" role="img" aria-label="{html.escape(shown(description))}"'
    return re.sub(r'^<svg(.*?) width="[^"]*" height="[^"]*"', lambda match: f"<svg {label}{match[1]}", svg, count=1)
