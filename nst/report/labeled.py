"""The unlabeled images one by one: a network's label, how often it was selected, and the truth.

Only the first shards are read, up to SCANNED_ROWS predictions, so a report of 300M images takes no longer than one of
300k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nst.data import selected
from nst.data.parquet_files import read_table
from nst.data.predictions import noted_footers, parquet_name, read_footer
from nst.documents import damaged, read_document

SCANNED_ROWS = 200_000
UNKNOWN = -1


@dataclass(frozen=True)
class Labeled:
    """Predictions for N images: shard, key, label, confidence, copies (0: rejected), true label."""

    classes: Sequence[str]
    shard: np.ndarray  # (N,) str, file name without ending
    key: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    copies: np.ndarray
    truth: np.ndarray  # (N,) UNKNOWN where not known
    complete: bool  # all shards were read

    def __len__(self) -> int:
        return len(self.key)

    @property
    def wrong(self) -> np.ndarray:
        """(N,) bool: the label is known to be wrong."""
        return (self.truth != UNKNOWN) & (self.truth != self.label)

    def confusion(self) -> np.ndarray | None:
        """(C, C) selected images by truth and label, each once; None where the truth of none is known."""
        counted = (self.copies > 0) & (self.truth >= 0) & (self.truth < len(self.classes))
        if not counted.any():
            return None
        matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(matrix, (self.truth[counted], self.label[counted]), 1)
        return matrix


def read_labeled(predictions: Path, selection: Path, truth: Path | None) -> Labeled | None:
    """The predictions of the first shards, at least SCANNED_ROWS where there are as many; None where there are none."""
    paths = sorted(predictions.glob("*.parquet"))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("shard", "key", "label", "confidence", "copies")}
    noted = noted_footers(predictions) if (predictions / "predictions.json").exists() else {}
    summary = read_document(selection / "selection.json") or {"shards": []}
    chosen = {parquet_name(shard["name"]): shard for shard in summary["shards"]}
    rows = 0
    for number, path in enumerate(paths):
        if rows >= SCANNED_ROWS:
            paths = paths[:number]
            break
        table = read_table(path, ["index", "key", "label", "confidence"], footer=noted.get(path.name))
        found = {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
        found["shard"] = np.full(len(table), path.stem, dtype=object)
        copies: dict[int, int] = {}
        if (shard := chosen.get(path.name)) is not None:
            kept = selected.read(selection, summary, shard, ["index", "copies"])
            copies = dict(zip(kept["index"].to_pylist(), kept["copies"].to_pylist(), strict=True))
        found["copies"] = np.array([copies.get(place, 0) for place in found["index"].tolist()], np.int64)
        for name, parts in columns.items():
            parts.append(found[name])
        rows += len(table)
    if not rows:
        return None
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    complete = len(paths) == len(list(predictions.glob("*.parquet")))
    truths = _truths(truth, joined["key"])
    classes = list(read_footer(paths[0]).classes)
    return Labeled(classes, **joined, truth=truths, complete=complete)


def _truths(path: Path | None, keys: np.ndarray) -> np.ndarray:
    if path is None or not path.exists():
        return np.full(len(keys), UNKNOWN)
    try:
        table = pq.read_table(path, filters=[("key", "in", keys.tolist())], page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        away = f"make it again, as the unlabeled shards; or mv {path} away, and the report does without it"
        raise damaged(path, error, away) from error
    known = dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))
    return np.array([known.get(key, UNKNOWN) for key in keys.tolist()])
