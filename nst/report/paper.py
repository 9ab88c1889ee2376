"""The paper's tables and figures again, from runs: ours below the published row, mean and deviation over the seeds.

A recipe says in its `paper` block where its figures belong:

    paper:
      places: [table 6]
      row: without Aug
      columns: [null, 130M unlabeled]      # of each generation, the first first; null: belongs nowhere

Published figures and the layout are in `nst.recipes`. A run is found by the block in its configuration, wherever it
lies; twins of other data (`scale`) are never averaged with each other or with runs of full size, and stand in tables of
their own. These keep the paper's headings, and say what such a heading is of a twin.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table as Shown

from nst.documents import read_config, read_json
from nst.errors import NstError, UsageError, nearest
from nst.progress import plain_table
from nst.recipes import EXHIBITS
from nst.recipes.published import Exhibit
from nst.report.generation_rows import model_name
from nst.report.records import Document
from nst.shown import in_markdown, short

FULL_SIZE = "full size"
SUITE_METRICS = {  # kind of a suite → metric → its name in a result
    "answers": {"top1": "top1", "top5": "top5"},
    "corruptions": {"top1": "top1", "mce": "mce", "corruption_error": "mean_error"},
    "perturbations": {"top1": "top1", "mfr": "mfr", "flip_rate": "mean_flip_probability"},
}
STAGES = ("iterate", "evaluate")  # whose runs have rows; the trainings inside them carry the same block


def exhibit(kind: str, number: int) -> Exhibit:
    """`exhibit("table", 6)`.

    Raises:
        NstError: the paper has none such, or not for training.
    """
    name = f"{kind} {number}"
    if name not in EXHIBITS:
        raise UsageError(
            f"there is no {name} to report{nearest(name, EXHIBITS)}",
            valid=", ".join(entry for entry in EXHIBITS if entry.startswith(kind)),
        )
    return EXHIBITS[name]


def published(block: Mapping[str, Any] | None) -> tuple[str, list[tuple[str, dict[str, float]]]]:
    """Of a recipe: where its figures stand (`table 6, without Aug`), and (column, metric → value) of each.

    Raises:
        NstError: the `paper` block is not one.
    """
    if not block:
        return "", []
    _require_block(block)
    row = block["row"]
    for name in block["places"]:
        figures = EXHIBITS[name].rows.get(row, {}) if name in EXHIBITS else {}
        found = [(column, figures[column]) for column in block["columns"] if column in figures]
        if found:
            return f"{name}, {row}", found
    return "", []


def _require_block(block: Any, where: str = "a configuration", next: str | None = None) -> None:
    given = block if isinstance(block, Mapping) else {}
    lists = [given.get(name) for name in ("places", "columns")]
    if isinstance(given.get("row"), str) and all(
        isinstance(each, Sequence) and type(each) is not str for each in lists
    ):
        return
    raise UsageError(
        f"the paper block of {where} is not one", got=block,
        valid="{places: [table 6], row: without Aug, columns: [null, 130M unlabeled]}", next=next,
    )  # fmt: skip


@dataclass(frozen=True)
class CellResult:
    """What one run contributes to a place: one network in one cell.

    Args:
        scale: of the data, as the twin's configuration names it.
        network: its size, in words.
        metrics: metric → value.
    """

    scale: str
    row: str
    column: str
    seed: int
    network: str
    metrics: dict[str, float]
    directory: Path


@dataclass(frozen=True)
class Cell:
    """The runs of one cell: mean and sample standard deviation (None of a single one) of a metric over the seeds."""

    measurements: tuple[CellResult, ...]

    @property
    def seeds(self) -> int:
        return len(self.measurements)

    def value(self, metric: str) -> tuple[float, float | None] | None:
        values = [found.metrics[metric] for found in self.measurements if metric in found.metrics]
        if not values:
            return None
        return fmean(values), stdev(values) if len(values) > 1 else None


Cells = dict[tuple[str, str], Cell]  # (row, column) → runs


# ---- collecting ---------------------------------------------------------------------------------------------------


def collect(where: Exhibit, folders: Sequence[Path]) -> dict[str, Cells]:
    """Scale → the cells of a place, from all finished runs below `folders`; the full size first.

    Raises:
        NstError: no run below belongs there, two have the same cell and seed, or a `paper` block is not one.
    """
    found: dict[str, dict[tuple[str, str], dict[int, CellResult]]] = defaultdict(lambda: defaultdict(dict))
    for measurement in _measurements(where, folders):
        seeds = found[measurement.scale][measurement.row, measurement.column]
        other = seeds.setdefault(measurement.seed, measurement)
        if other.metrics != measurement.metrics:
            raise NstError(
                f"two runs have seed {measurement.seed} of {measurement.row}, {measurement.column}",
                got=f"{other.directory} and {measurement.directory}",
                next="name the folders that belong together: report.runs=[runs/a,runs/b]",
            )
    if not found:
        raise NstError(
            f"no finished run belongs to {where.name}",
            got=f"searched: {', '.join(map(str, folders))}",
            next=f"run its recipes, e.g. nst iterate -m 'experiment=glob(small_{where.file_name}_*)' seed=0,1,2",
        )
    scales = sorted(found, key=lambda name: (name != FULL_SIZE, name))
    return {
        scale: {key: Cell(tuple(seeds[seed] for seed in sorted(seeds))) for key, seeds in found[scale].items()}
        for scale in scales
    }


def _measurements(where: Exhibit, folders: Sequence[Path]) -> Iterator[CellResult]:
    for path in sorted({path for folder in folders for path in folder.rglob("config.yaml")}):
        if not (path.parent / "result.json").exists():  # of no stage of ours, or of one that goes on
            continue
        config = read_config(path)
        paper = config.get("paper") or {}
        if config.get("stage") not in STAGES or not paper:
            continue
        _require_block(paper, str(path), next="leave this run out: report.runs=[runs/a,runs/b]")
        if where.name not in paper["places"]:
            continue
        result = read_json(path.parent / "result.json")
        scale = (config.get("scale") or {}).get("label", FULL_SIZE)
        rows = result.get("generations") or [result]
        for row, column in zip(rows, paper["columns"], strict=False):
            if column is not None:
                network = model_name(row) if "model" in row else ""
                metrics = measured(row, where.suites.get(column))
                yield CellResult(scale, paper["row"], column, config["seed"], network, metrics, path.parent)


def measured(result: Document, suite: str | None = None) -> dict[str, float]:
    """Metrics, as published figures name them, of a generation's row or of an evaluation's result.json.

    Args:
        suite: whose figures alone are wanted; None: those of the clean test set, and of attacks.
    """
    blocks = result.get("robustness", {})
    found: dict[str, float | None] = {}
    if suite is None:
        found |= {name: result.get(name) for name in ("top1", "top5", "corruption_error", "mce", "flip_rate", "mfr")}
        for name, block in blocks.items():
            if block["kind"] == "attack":
                pairs = zip(block["epsilons"], block["top1"], strict=True)
                found |= {f"{name}_{epsilon:g}": value for epsilon, value in pairs}
    elif suite in blocks:
        found |= {name: blocks[suite].get(own) for name, own in SUITE_METRICS[blocks[suite]["kind"]].items()}
    if "parameters" in result:
        found["params_m"] = result["parameters"] / 1e6
    return {name: float(value) for name, value in found.items() if value is not None}


# ---- tables -------------------------------------------------------------------------------------------------------


def lines(where: Exhibit, cells: Cells) -> tuple[list[str], list[list[str]]]:
    """Headings of one or two lines, and rows of text: a published one, below it ours."""
    rows = [*where.rows, *sorted({row for row, _ in cells} - set(where.rows))]
    shown = [
        (column, metric)
        for column in where.columns
        for metric in where.metrics
        if any(metric in where.rows.get(row, {}).get(column, {}) for row in rows)
        or any(cell.value(metric) for key, cell in cells.items() if key[1] == column)
    ]
    headings = [""] + [
        "\n".join(([column] if len(where.columns) > 1 else []) + [where.metrics[metric]]) for column, metric in shown
    ]
    table = []
    for row in rows:
        figures = where.rows.get(row, {})
        values = [figures.get(column, {}).get(metric) for column, metric in shown]
        table.append([short(row, 80), *("" if value is None else f"{value:.1f}" for value in values)])
        ours = {column: cells[row, column] for column in where.columns if (row, column) in cells}
        if ours:
            mine = [ours[column].value(metric) if column in ours else None for column, metric in shown]
            table.append([_ours(list(ours.values())), *map(_text, mine)])
    return headings, table


def _ours(cells: Sequence[Cell]) -> str:
    """`  ours: small w0.5 d0.5, 3 seeds`."""
    networks = list(dict.fromkeys(found.network for cell in cells for found in cell.measurements if found.network))
    seeds = sorted({cell.seeds for cell in cells})
    count = "-".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    return "  ours: " + ", ".join([*(short(name) for name in networks[-1:]), count])


def _text(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return ""
    mean, deviation = value
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def heading(where: Exhibit, scale: str) -> str:
    """`Table 6, scaled down (digits, ...): noise removed ...`."""
    name = where.name.capitalize()
    return f"{name}: {where.title}" if scale == FULL_SIZE else f"{name}, scaled down ({short(scale)}): {where.title}"


def twin_note(where: Exhibit, scale: str, cells: Cells) -> str:
    """What the headings above or beside our numbers are of this twin; nothing to say: an empty text."""
    used = {heading for key in cells for heading in key}
    told = [f'"{heading}" is {meaning}' for heading, meaning in where.twin_headings.items() if heading in used]
    return f"Scaled down, {'; '.join(told)}." if told and scale != FULL_SIZE else ""


def terminal_table(where: Exhibit, scale: str, cells: Cells) -> Shown:
    """The table for a terminal of 80 columns."""
    headings, rows = lines(where, cells)
    shown = plain_table(heading(where, scale), twin_note(where, scale, cells) or None)
    for number, text in enumerate(headings):
        shown.add_column(text, justify="right" if number else "left", vertical="bottom")
    for row in rows:
        shown.add_row(*row, style="bold" if row[0].startswith("  ours") else None)
    return shown


def markdown(where: Exhibit, scale: str, cells: Cells) -> str:
    """The table for docs/."""
    headings, rows = lines(where, cells)
    body = [[text.replace("\n", "<br>") for text in headings], ["---", *["--:"] * (len(headings) - 1)]]
    body += [["  " * row[0].startswith("  ") + in_markdown(row[0]), *row[1:]] for row in rows]
    table = "\n".join("| " + " | ".join(row) + " |" for row in body)
    note = twin_note(where, scale, cells)
    return "\n\n".join([heading(where, scale), table, *([f"*{note}*"] if note else [])]) + "\n"


COLUMNS = ("place", "scale", "row", "column", "metric", "published", "ours", "deviation", "seeds")


def numbers(where: Exhibit, found: Mapping[str, Cells]) -> Iterator[dict[str, Any]]:
    """Every number, unrounded: a row of COLUMNS per scale, row, column and metric."""
    for scale, cells in found.items():
        for (row, column), cell in cells.items():
            for metric in sorted({name for entry in cell.measurements for name in entry.metrics}):
                mean, deviation = cell.value(metric) or (math.nan, None)
                published = where.rows.get(row, {}).get(column, {}).get(metric)
                values = (where.name, scale, row, column, metric, published, mean, deviation, cell.seeds)
                yield dict(zip(COLUMNS, values, strict=True))
