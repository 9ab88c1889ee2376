"""The files of a selection: the selected rows of SHARDS_PER_FILE shards, a row group each.

    selection/selection-<number>.parquet   index, key, label, confidence, copies (> 0)

selection.json, written last, says of each shard which `file` and `row_group` hold its rows, and of each file the digest
of its footer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nst.atomic import atomic_path
from nst.data.cutoffs import Exact
from nst.data.parquet_files import footer_digest, read_table
from nst.data.predictions import PredictionShard
from nst.data.selection import REPORT_BINS, Official, Rows, SelectionRule, thinned
from nst.untrusted import require_file_name

SHARDS_PER_FILE = 100
SCHEMA = pa.schema(
    [
        pa.field("index", pa.uint32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.uint16(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("copies", pa.uint32(), nullable=False),
    ]
)


@dataclass
class Tally:
    """What has been selected, of C classes: images, copies per bin of the report, lowest confidence."""

    selected: np.ndarray  # (C,)
    copies: np.ndarray  # (C, REPORT_BINS)
    lowest: np.ndarray  # (C,)

    @classmethod
    def empty(cls, classes: int) -> Tally:
        return cls(np.zeros(classes, np.int64), np.zeros((classes, REPORT_BINS), np.int64), np.full(classes, np.inf))

    def count(self, label: np.ndarray, confidence: np.ndarray, copies: np.ndarray) -> None:
        """Adds rows (N,); confidences in double, where their product with the bins is exact."""
        bin = np.minimum(confidence * REPORT_BINS, REPORT_BINS - 1).astype(np.int64)
        np.add.at(self.copies.reshape(-1), label * REPORT_BINS + bin, copies)
        np.add.at(self.selected, label, 1)
        np.minimum.at(self.lowest, label, confidence)

    def add(self, more: Tally) -> None:
        self.selected += more.selected
        self.copies += more.copies
        np.minimum(self.lowest, more.lowest, out=self.lowest)


@dataclass(frozen=True)
class Written:
    """One file: its name, the digest of its footer, and what selection.json tells of each of its shards."""

    name: str
    footer: str
    shards: list[dict[str, Any]]
    tally: Tally


def file_name(number: int) -> str:
    return f"selection-{number:06d}.parquet"


Group = tuple[int, Sequence[tuple[int, PredictionShard]]]  # number of a file, and its shards, numbered among all


def write(output: Path, method: Exact | Official, rule: SelectionRule, group: Group) -> Written:
    """Writes one file of a selection."""
    number_of_file, shards = group
    path = output / file_name(number_of_file)
    tally = Tally.empty(rule.classes)
    told: list[dict[str, Any]] = []
    with atomic_path(path) as temporary:
        # dictionaries and statistics of so few rows cost a quarter of the time and save nothing, zstd another
        options: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(temporary, SCHEMA, write_page_checksum=True, **options) as writer:
            for number, shard in shards:
                table = _selected(Rows.read(number, shard.path, method.taken, "index", "key"), method, rule, tally)
                writer.write_table(table, row_group_size=max(len(table), 1))
                told.append(_about(shard, table, path.name, row_group=len(told)))
        return Written(path.name, footer_digest(temporary), told, tally)


def _selected(rows: Rows, method: Exact | Official, rule: SelectionRule, tally: Tally) -> pa.Table:
    """The selected rows of one shard, which are counted too."""
    copies = thinned(method.copies(rows), rows, rule)
    chosen = np.flatnonzero(copies)
    label, confidence, copies = rows.label[chosen], rows.confidence[chosen], copies[chosen]
    tally.count(label, confidence.astype(np.float64), copies)
    places = pa.array(rows.place[chosen])
    index, key = (rows.table[name].combine_chunks().take(places) for name in ("index", "key"))
    columns = [index, key, label.astype(np.uint16), confidence, copies.astype(np.uint32)]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)


def _about(shard: PredictionShard, table: pa.Table, file: str, row_group: int) -> dict[str, Any]:
    return {
        "name": shard.name,
        "sha256": shard.sha256,
        **({} if shard.excluded is None else {"excluded": shard.excluded}),
        "samples": len(table),
        "copies": int(table["copies"].to_numpy().sum()),
        "file": file,
        "row_group": row_group,
    }


def read(folder: Path, summary: Mapping[str, Any], shard: Mapping[str, Any], columns: list[str]) -> pa.Table:
    """The selected rows of one shard.

    Args:
        summary: of selection.json, and its entry for the shard.

    Raises:
        NstError: the file cannot be read, or is not what was written.
    """
    name = require_file_name(shard["file"], folder / "selection.json")
    return read_table(folder / name, columns, footer=summary["footers"][name], row_group=shard["row_group"])
