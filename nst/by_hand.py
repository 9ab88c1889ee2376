"""Tables that people correct in place: one that is not as nst wrote it is theirs, and neither deleted nor replaced.

A run that writes such tables notes their sha256 in its result.json, as `tables`.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from nst import written
from nst.atomic import sha256_file
from nst.documents import read_json
from nst.errors import NstError

TABLES = ("predictions.csv", "predictions.parquet", "unsure.csv", "unreadable.csv")


def contents(folder: Path) -> written.FolderContents | None:
    """What nst has written in a folder and may delete; a table that was changed by hand, at any depth, is not of it."""
    found = written.FolderContents.of(folder)
    if found is None:
        return None
    names = [name for name in found.ours if name.rpartition("/")[2] in TABLES]
    notes = {parent: _noted(parent) for parent in {(folder / name).parent for name in names}}
    found.edited = [name for name in names if _is_changed(folder / name, notes[(folder / name).parent])]
    found.ours = [name for name in found.ours if name not in found.edited]
    found.others = sorted([*found.others, *found.edited])
    return found


def changed(folder: Path, noted: Mapping[str, str]) -> list[Path]:
    """The noted tables of a run that are there and not as they were noted."""
    paths = [folder / name for name in noted]
    return [path for path in paths if path.exists() and _is_changed(path, noted)]


def away(*paths: Path) -> list[str]:
    """Commands that move tables to where nothing is."""
    targets: list[str] = []
    for path in paths:
        names = (f"{path.stem}.mine{number or ''}{path.suffix}" for number in itertools.count())
        targets.append(next(name for name in names if name not in targets and not os.path.lexists(name)))
    return [shlex.join(["mv", str(path), target]) for path, target in zip(paths, targets, strict=True)]


def _noted(run: Path) -> Mapping[str, str] | None:
    """None where it cannot be known."""
    try:
        tables = read_json(run / "result.json").get("tables")
    except NstError:
        return None
    return tables if isinstance(tables, dict) else None


def _is_changed(path: Path, noted: Mapping[str, str] | None) -> bool:
    """A CSV file of which nothing is noted may be; Parquet files nobody edits, and labels may have such a name."""
    if noted is None or path.name not in noted:
        return path.suffix == ".csv"
    return sha256_file(path) != noted[path.name]
