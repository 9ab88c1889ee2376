"""From sections to report.html: one file with everything in it, that opens offline and prints.

The page is data (`Page`, `Section`) until the very end, and the template only places it; what is said is decided in
sections.py, how it looks in page.html and style.css.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from nst.report.gallery import Picture
from nst.report.style import inline_svg, svg_document
from nst.shown import short, shown

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """Columns of a table and its rows of cells.

    Args:
        texts: columns of text; those behind them are numbers, set to the right.
        kinds: per row a class name for the style, e.g. "published".
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 2
    kinds: Sequence[str] = ()
    note: str = ""
    block = "table"


@dataclass(frozen=True)
class Drawing:
    """A figure, the name of its files, and the sentence under it."""

    name: str
    figure: Figure
    caption: str
    block = "drawing"

    @cached_property
    def document(self) -> str:
        return svg_document(self.figure)

    @property
    def element(self) -> Markup:
        return Markup(inline_svg(self.document, self.name, self.caption))


@dataclass(frozen=True)
class Gallery:
    """Pictures under a heading, with a sentence that says how they were chosen."""

    title: str
    text: str
    pictures: Sequence[Picture]
    block = "gallery"


@dataclass
class Section:
    """A part of the page.

    Args:
        missing: why something that belongs here is not here.
        points: a list, below the text.
        links: name → address of a file beside the page, below the blocks.
    """

    title: str
    text: str = ""
    blocks: list[Table | Drawing | Gallery] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """Title, one sentence, headline numbers (value, name, remark), sections, provenance, and the command to repeat."""

    title: str
    summary: str
    numbers: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    facts: Mapping[str, str]
    command: str | None
    configs: Mapping[str, str]  # heading → text of a config.yaml
    kind: str = "report of a run"

    def anchors(self) -> list[str]:
        """The ids of the sections, no two alike: classes `cat 1` and `cat-1` may both have one."""
        found = {"provenance": 0}
        for section in self.sections:
            plain = "".join(letter if letter.isalnum() else "-" for letter in section.title.lower())
            names = (f"{plain}-{place}" if place else plain for place in itertools.count())
            found[next(name for name in names if name not in found)] = 0
        return list(found)[1:]

    def drawings(self) -> list[Drawing]:
        blocks = (block for section in self.sections for block in section.blocks)
        return [block for block in blocks if isinstance(block, Drawing)]


def render(page: Page) -> str:
    """The HTML of the page; needs no other file and no network."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["short"] = short
    environment.filters["breakable"] = breakable
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(page=page, style=style, zip=zip)


def breakable(name: str) -> Markup:
    """A shortened name that breaks between its words, HerbaceousVegetation and river_bank too, where room is scarce."""
    return Markup("<wbr>").join(re.split(r"(?<=[a-z])(?=[A-Z])|(?<=[_/.-])(?=\w)", shown(short(name))))


def number(value: Any, form: str = ",d", unknown: str = "–") -> str:
    """A number as text for a cell; a dash where it is not known."""
    return unknown if value is None else format(value, form)
