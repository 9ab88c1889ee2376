"""Writes an offline W&B run again as a whole, after kills and continuations.

Nothing can be added to a run on disk, and of two with one id `wandb sync` shows the later. So whoever opens the run of
a directory again first writes what its files tell, metrics.csv before all, and then takes away what is superseded.
"""

from __future__ import annotations

import csv
import itertools
import shutil
from pathlib import Path
from typing import Any

from nst.documents import read_json, read_metrics
from nst.written import listed_below

STEP = "trainer/global_step"  # as Lightning's logger names it
PREFIX = "offline-run-"


def write_again(run: Any, directory: Path) -> None:
    """Logs what the files of a training and of its evaluation tell: every row once."""
    table = directory / "metrics.csv"
    rows = read_metrics(table) if table.exists() else []
    for step, group in itertools.groupby(rows, key=lambda row: row[0]):
        run.log({**{name: value for _, name, value in group}, STEP: step})
    for result in (directory / "result.json", directory / "evaluation" / "result.json"):
        if result.exists():
            run.summary.update(plain_values(read_json(result)))
    robustness = directory / "evaluation" / "robustness.csv"
    if robustness.exists():
        with open(robustness, newline="", encoding="utf-8") as file:
            run.log({"robustness/table": as_table(list(csv.DictReader(file)))})


def remove_superseded(directory: Path, own: Path, run_id: str) -> None:
    """Takes away the folders of earlier attempts at this run that nst has written."""
    for path in set(listed_below(directory / "wandb")):
        if path.name.startswith(PREFIX) and path.name.split("-")[3:4] == [run_id] and path != own.absolute():
            shutil.rmtree(path, ignore_errors=True)


def plain_values(result: dict[str, Any]) -> dict[str, Any]:
    """Those that a summary can hold."""
    return {name: value for name, value in result.items() if isinstance(value, (str, int, float))}


def as_table(rows: list[dict[str, Any]]) -> Any:
    """A W&B table of rows by column; what a row does not have is null. W&B takes columns of one type alone: numbers
    where all that is there are some, also as the text of a CSV file, and else text."""
    import wandb

    names: list[Any] = list(dict.fromkeys(name for row in rows for name in row))
    columns = [_column([row.get(name) for row in rows]) for name in names]
    return wandb.Table(columns=names, data=[list(row) for row in zip(*columns, strict=True)])


def _column(values: list[Any]) -> list[Any]:
    """The values of a column, all of one type or None."""
    if all(value is None or isinstance(value, bool) for value in values):
        return values
    try:
        return [None if value in (None, "") else float(value) for value in values]
    except (TypeError, ValueError):
        return [None if value is None else str(value) for value in values]
