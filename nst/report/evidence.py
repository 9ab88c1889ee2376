"""Raw numbers of finished runs, a line for each network: docs/results/<series>.csv, which `bin/bench series` writes.

Whoever reads gets what was written, or a sentence that names the file and the line.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nst.documents import read_text
from nst.errors import NstError

# metric → its words, and whether more of it is better; all are percentages
METRICS = {
    "top1": ("top-1", True),
    "corruption_error": ("corruption error", False),
    "flip_rate": ("flips", False),
    **{f"fgsm_{epsilon}": (f"top-1 under FGSM {epsilon}", True) for epsilon in (1, 2, 4, 8, 16)},
    "pgd_16": ("top-1 under PGD 16", True),
}
KEYS = ("series", "row", "seed", "network")
# of a run and its network: what is told and not computed with
FACTS = ("model", "labels", "selected", "selected_right", "steps", "cpu_seconds", "wall_seconds", "command",
         "versions", "commit")  # fmt: skip
COLUMNS = (*KEYS, *METRICS, "images", "pairs", "options", *FACTS)
CONTROL = "control"
Pair = tuple[int, int]  # images that only this network, only the other one gets right


@dataclass(frozen=True)
class Line:
    """A network of a run.

    Args:
        network: gen0, gen1, ... or control; `network` of an evaluation.
        scores: metric → percent.
        images: of the test set.
        pairs: other network (`gen0`, or `row/network`, or `series/row/network`) → wins and losses against it.
        options: digest of the options in which the row differs from the defaults.
        facts: column of FACTS → text.
        place: file and line, for sentences.
    """

    series: str
    row: str
    seed: int
    network: str
    scores: Mapping[str, float]
    images: int
    pairs: Mapping[str, Pair]
    options: str
    facts: Mapping[str, str] = field(default_factory=dict)
    place: str = ""

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.series, self.row, self.seed, self.network

    @property
    def generation(self) -> int | None:
        """Its number; None of the control."""
        found = re.fullmatch(r"gen(\d+)", self.network)
        return int(found[1]) if found else None


def read_folder(folder: Path) -> list[Line]:
    """All lines of the CSV files of a folder, each network once.

    Raises:
        NstError: there is no such folder, a file is damaged, or two lines contradict each other.
    """
    if not folder.is_dir():
        raise NstError(f"{folder} is no folder of results", next="nst report --findings <folder of CSV files>")
    return consistent(line for path in sorted(folder.glob("*.csv")) for line in read(path))


def consistent(lines: Iterable[Line]) -> list[Line]:
    """The lines, of equal ones the first.

    Raises:
        NstError: two give a network different numbers, or seeds of a row were run with different options.
    """
    known: dict[tuple[str, str, int, str], Line] = {}
    options: dict[tuple[str, str], Line] = {}
    for line in lines:
        other = known.setdefault(line.key, line)
        if (other.scores, other.images) != (line.scores, line.images):
            raise _contradiction(f"two numbers of {'/'.join(map(str, line.key))}", other, line)
        first = options.setdefault((line.series, line.row), line)
        if first.options != line.options:
            raise _contradiction(f"{line.series}/{line.row} was run with two sets of options", first, line)
    return list(known.values())


def _contradiction(what: str, one: Line, other: Line) -> NstError:
    return NstError(what, got=f"{one.place} and {other.place}", next="take out the lines that do not belong there")


def read(path: Path) -> list[Line]:
    """The lines of a file.

    Raises:
        NstError: it is not such a table.
    """
    table = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    found = []
    try:
        if (heads := next(table, None)) != list(COLUMNS):
            raise ValueError(f"the columns are {', '.join(heads or ['none'])}")
        for cells in table:
            if len(cells) != len(COLUMNS):
                raise ValueError(f"{len(cells)} cells instead of {len(COLUMNS)}")
            line = dict(zip(COLUMNS, cells, strict=True))
            found.append(_line(line, f"{path.name} line {table.line_num}"))
    except (ValueError, csv.Error) as error:
        raise NstError(
            f"{path} is damaged", got=f"line {max(table.line_num, 1)}: {error}",
            valid=f"columns {', '.join(COLUMNS[:6])}, ..., as bin/bench series writes them",
            next="take it again from version control, or move it away",
        ) from error  # fmt: skip
    return found


def _line(cells: Mapping[str, str], place: str) -> Line:
    seed, images = _count("seed", cells["seed"]), _count("images", cells["images"])
    scores = {name: _percent(name, cells[name]) for name in METRICS if cells[name]}
    if not (cells["series"] and cells["row"] and cells["network"] and images and scores):
        raise ValueError("a line needs series, row, seed, network, images and a score")
    pairs = dict(_pair(text, images) for text in cells["pairs"].split())
    facts = {name: cells[name] for name in FACTS}
    key = cells["series"], cells["row"], seed, cells["network"]
    return Line(*key, scores, images, pairs, cells["options"], facts, place)


def _count(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise ValueError(f"{name} is no whole number: {text[:40]!r}")
    return int(text)


def _percent(name: str, text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 100):
        raise ValueError(f"{name} is no percentage: {text[:40]!r}")
    return value


def _pair(text: str, images: int) -> tuple[str, Pair]:
    name, *counts = text.split(":")
    if len(counts) != 2:
        raise ValueError(f"a pair is network:wins:losses, not {text[:40]!r}")
    wins, losses = (_count("a pair", count) for count in counts)
    if wins + losses > images:
        raise ValueError(f"more pairs than images: {text[:40]!r}")
    return name, (wins, losses)
