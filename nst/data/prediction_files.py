"""The files of one labeling: a shard's predictions and the names of its bad images, each written whole.

Apart from the stage, because machines that label for another one need this and nothing of the configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nst.atomic import atomic_path, write_json
from nst.data.predictions import FORMAT, PredictionMetadata, key_hashes, parquet_name
from nst.data.shard_set import ShardInfo
from nst.documents import fingerprint, read_json
from nst.errors import NstError
from nst.sharing import wait_until_seen


@dataclass(frozen=True)
class PredictionFiles:
    """The Parquet files of one labeling, and which samples of each shard were bad.

    Args:
        keep: probabilities are stored where the confidence is at least this.
    """

    folder: Path
    metadata: PredictionMetadata
    keep: float

    def names(self, shard: ShardInfo) -> list[str]:
        """Of both files of a shard, relative to the folder."""
        return [str(path.relative_to(self.folder)) for path in (self._path(shard), self._bad_path(shard))]

    def written(self, shard: ShardInfo) -> bool:
        return self._path(shard).exists() and self._bad_path(shard).exists()

    def write(self, shard: ShardInfo, index: np.ndarray, keys: list[str], probs: np.ndarray, bad: list[str]) -> None:
        name, sha256, excluded = shard.identity
        metadata = replace(self.metadata, shard_name=name, shard_sha256=sha256, shard_excluded=excluded)
        write_json(self._bad_path(shard), {"bad": bad})
        write_predictions(self._path(shard), index=index, keys=keys, probs=probs, metadata=metadata, keep=self.keep)

    def bad_samples(self, shard: ShardInfo) -> list[str]:
        """Names of the images that could not be decoded, once both files of the shard are seen here."""
        wait_until_seen(self._path(shard))
        return read_json(wait_until_seen(self._bad_path(shard)))["bad"]

    def _path(self, shard: ShardInfo) -> Path:
        return self.folder / parquet_name(shard.name)

    def _bad_path(self, shard: ShardInfo) -> Path:
        return self.folder / "bad" / f"{Path(shard.name).stem}.json"


def write_predictions(
    path: Path | str,
    *,
    index: np.ndarray,
    keys: Sequence[str],
    probs: np.ndarray,
    metadata: PredictionMetadata,
    keep: float,
) -> None:
    """Writes one shard's predictions: probs (N, C) float32 that sum to 1, index (N,) strictly increasing.

    `confidence` is the largest probability before rounding to float16; `probs` is null where below keep.

    Raises:
        NstError: a row is no distribution, the number of classes is not C, or the disk is full.
    """
    # a shard of which no image could be decoded still gets its (empty) file
    probs = np.asarray(probs, np.float32).reshape((len(keys), -1) if len(keys) else (0, len(metadata.classes)))
    index = np.asarray(index, dtype=np.uint32)
    _check_predictions(index, probs, metadata)
    label = probs.argmax(axis=1).astype(np.uint16)
    # a float32 softmax may exceed 1 by a rounding error; the histograms end at 1
    confidence = np.minimum(probs.max(axis=1), np.float32(1.0))
    stored = probs.astype(np.float16)
    # compared in double, as the selection compares min_confidence
    mask = confidence.astype(np.float64) < keep
    columns = {
        "index": index,
        "key": pa.array(list(keys), pa.string()),
        "key_hash": key_hashes(keys),
        "label": label,
        "confidence": confidence,
        "probs": pa.FixedSizeListArray.from_arrays(
            pa.array(stored.ravel()), probs.shape[1], mask=pa.array(mask, pa.bool_())
        ),
    }
    footer = footer_of(metadata, keep, rows=_digest(index, keys, label, confidence, stored[~mask]))
    with atomic_path(path) as temporary:
        write_columns(temporary, columns, footer)


def write_columns(path: Path, columns: Mapping[str, Any], footer: Mapping[str, Any]) -> None:
    """Writes the columns of one shard (N,), and what the file says of itself.

    A selection reads all columns but the probabilities, of thousands of files: they are hardly compressed, and only
    probabilities may be null. Selecting takes two thirds of the time that it takes with zstd and nulls everywhere.
    """
    schema = pa.schema(
        [
            pa.field("index", pa.uint32(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("key_hash", pa.uint64(), nullable=False),
            pa.field("label", pa.uint16(), nullable=False),
            pa.field("confidence", pa.float32(), nullable=False),
            pa.field("probs", columns["probs"].type),
        ]
    )
    table = pa.table(dict(columns), schema=schema)
    with pq.ParquetWriter(
        path,
        schema,
        compression={**dict.fromkeys(schema.names, "none"), "key": "lz4", "probs.list.element": "zstd"},
        column_encoding={"index": "DELTA_BINARY_PACKED"},
        use_dictionary=["label"],  # probabilities hardly ever repeat
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=max(len(table), 1))
        # not in the schema, of which the file has a second copy
        writer.add_key_value_metadata({"nst": json.dumps(footer)})


def _check_predictions(index: np.ndarray, probs: np.ndarray, metadata: PredictionMetadata) -> None:
    count, width = probs.shape
    if len(index) != count or np.any(np.diff(index.astype(np.int64)) <= 0):
        raise ValueError(f"index must be strictly increasing, one entry for each of {count} keys")
    if width != len(metadata.classes) or width > 65_536:
        raise NstError(
            f"predictions for {metadata.shard_name} do not match the class list",
            got=f"{width} probabilities per image, {len(metadata.classes)} classes",
            valid="one probability per class, at most 65536 classes",
        )
    wrong = ~(np.abs(probs.sum(axis=1, dtype=np.float64) - 1.0) < 1e-2) | (probs < 0).any(axis=1)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise NstError(
            f"the teacher's output for {int(wrong.sum())} of {count} images of {metadata.shard_name} "
            "is not a probability distribution",
            got=f"sample {index[first]}: sum {probs[first].sum():g}, smallest {probs[first].min():g}",
            valid="finite values of at least 0 that sum to 1 (the softmax of the logits)",
            next="check the teacher: nst evaluate model.checkpoint=<the teacher>",
        )


def footer_of(metadata: PredictionMetadata, keep: float, rows: str) -> dict[str, Any]:
    """What a file says of itself; `rows`: digest of what it holds."""
    excluded = {} if metadata.shard_excluded is None else {"excluded": metadata.shard_excluded}
    return {
        "format": FORMAT,
        "teacher": metadata.teacher_sha256,
        "classes": list(metadata.classes),
        "class_digest": fingerprint(list(metadata.classes)),
        "image_size": metadata.image_size,
        "shard": {"name": metadata.shard_name, "sha256": metadata.shard_sha256, **excluded},
        "keep": keep,
        "rows_sha256": rows,
        "config": metadata.extra,
    }


def _digest(index: np.ndarray, keys: Sequence[str], *columns: np.ndarray) -> str:
    digest = hashlib.sha256("\0".join(keys).encode())
    for column in (index, *columns):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()
