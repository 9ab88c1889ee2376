"""The teacher's predictions on disk: one Parquet file per shard of unlabeled images (paper section 2.1).

    predictions/<shard>.parquet   index, key, key_hash, label, confidence, probs (null where confidence < keep)

A row names its image by `index`, its place in the shard, and by `key`; `key_hash` is what chance is drawn from
(nst/data/selection.py). predictions.json is written last.

Every file carries teacher, class list and a digest of its rows in its footer. So a footer (kilobytes) stands for the
file (megabytes) when inputs are fingerprinted, and labels of two teachers or two class lists cannot be mixed by
accident.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from nst.atomic import write_json
from nst.data.parquet_files import raw_footer, read_table
from nst.documents import damaged, fingerprint, read_json, way_on
from nst.errors import NstError, nearest
from nst.untrusted import require_file_name

if TYPE_CHECKING:
    from nst.data.shard_set import Identity, ShardSet  # it brings the decoders of images

FORMAT = 2  # of predictions and selections


@dataclass(frozen=True)
class PredictionMetadata:
    """Who labeled which shard: sha256 of the teacher's checkpoint and of the tar, image size in pixels.

    `shard_excluded` is a digest of the positions that were passed over (`ShardInfo.identity`), None if none were.
    """

    teacher_sha256: str
    classes: Sequence[str]
    image_size: int
    shard_name: str
    shard_sha256: str
    extra: dict[str, Any] = field(default_factory=dict)  # the label stage's configuration, for people
    shard_excluded: str | None = None


def parquet_name(shard_name: str) -> str:
    """unlabeled-000003.tar → unlabeled-000003.parquet."""
    return f"{Path(shard_name).stem}.parquet"


def key_hashes(keys: Sequence[str]) -> np.ndarray:
    """64 bits that stand for each key (N,) where chance decides: XXH3 of its UTF-8 bytes, uint64."""
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys))


@dataclass(frozen=True)
class PredictionShard:
    """One predictions file, as far as its footer tells."""

    path: Path
    name: str  # of the tar
    sha256: str  # of the tar
    samples: int  # rows: images that could be decoded
    teacher: str
    classes: tuple[str, ...]
    keep: float
    digest: str  # sha256 of the footer, which holds a digest of the rows
    excluded: str | None = None  # digest of what was excluded of the tar

    @property
    def identity(self) -> Identity:
        """The shard as it was labeled; see `ShardInfo.identity`."""
        return self.name, self.sha256, self.excluded


class Predictions:
    """A folder of predictions by one teacher over one class list. Reads footers only, until `read`."""

    def __init__(self, folder: Path, shards: Sequence[PredictionShard]) -> None:
        self.folder = folder
        self.shards = {shard.name: shard for shard in sorted(shards, key=lambda shard: shard.name)}
        first = next(iter(self.shards.values()))
        self.classes = list(first.classes)
        self.teacher = first.teacher
        self.keep = max(shard.keep for shard in shards)

    @classmethod
    def open(cls, folder: Path | str) -> Predictions:
        """Raises NstError if labeling has not finished or two files disagree on teacher or classes."""
        folder = Path(folder)
        files = sorted(folder.glob("*.parquet"))
        if not files or not (folder / "predictions.json").exists():
            raise NstError(
                f"{folder} is not a finished folder of predictions",
                got=f"{len(files)} Parquet files" + (", no predictions.json" if files else ""),
                valid="one Parquet file per unlabeled shard and predictions.json, which is written last",
                next="nst label; a killed one continues where it stopped",
            )
        shards, noted = _read_footers(files), noted_footers(folder)
        for shard in shards:
            if shard.digest != noted.get(shard.path.name, shard.digest):
                raise damaged(shard.path, "its footer is not the one that nst label wrote")
        _check_agreement(shards)
        return cls(folder, shards)

    @property
    def digest(self) -> str:
        """Identity of all rows: what a selection was made from, and what a student learns from."""
        return fingerprint({shard.name: shard.digest for shard in self.shards.values()})

    @property
    def noised(self) -> bool:
        """Whether the teacher labeled under noise (`teacher.noised`)."""
        return bool(read_json(self.folder / "predictions.json").get("noised"))

    @property
    def samples(self) -> int:
        """Rows of all shards."""
        return sum(shard.samples for shard in self.shards.values())

    def read(self, shard_name: str) -> dict[str, np.ndarray]:
        """Columns of one shard: index, key, label, confidence (N,); probs (N, C) float16, NaN if not kept."""
        table = read_table(self.shard(shard_name).path)
        columns = {name: table[name].to_numpy() for name in ("index", "key", "label", "confidence")}
        return {**columns, "probs": self._probs(table)}

    def shard(self, shard_name: str) -> PredictionShard:
        """Raises NstError if the folder has no predictions for that shard."""
        if shard_name not in self.shards:
            raise NstError(
                f"no predictions for shard {shard_name!r} in {self.folder}{nearest(shard_name, self.shards)}",
                valid=f"{len(self.shards)} shards, {next(iter(self.shards))} to {list(self.shards)[-1]}",
                next="nst label",
            )
        return self.shards[shard_name]

    def require(
        self, *, classes: Sequence[str] | None = None, teacher: str | None = None, shards: ShardSet | None = None
    ) -> None:
        """Raises NstError if these are over other classes, of other shards or by another teacher (its sha256)."""
        if shards and (difference := shards.difference([shard.identity for shard in self.shards.values()])):
            raise NstError(
                f"predictions in {self.folder} are of other shards",
                got=difference,
                valid=f"the {len(shards.shards)} shards of {shards.folder}",
                next="point data.unlabeled at the shards that were labeled, or label again: nst label overwrite=true",
            )
        if classes is not None and list(classes) != self.classes:
            raise NstError(
                f"predictions in {self.folder} are over other classes",
                got=_first_difference(self.classes, list(classes)),
                next="label again with a teacher of these classes: nst label overwrite=true",
            )
        if teacher is not None and teacher != self.teacher:
            raise NstError(
                f"predictions in {self.folder} are by another teacher",
                got=f"checkpoint sha256 {self.teacher}",
                valid=f"checkpoint sha256 {teacher}",
                next="label again with the wanted teacher: nst label overwrite=true",
            )

    def _probs(self, table: pa.Table) -> np.ndarray:
        column = table["probs"].combine_chunks()
        probs = np.full((len(column), len(self.classes)), np.nan, np.float16)
        kept = column.is_valid().to_numpy(zero_copy_only=False)
        probs[kept] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(self.classes))
        return probs


def finish_predictions(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes predictions.json, the mark that all shards are labeled, with the digest of every file's footer."""
    footers = {shard.path.name: shard.digest for shard in _read_footers(sorted(folder.glob("*.parquet")))}
    write_json(folder / "predictions.json", {**summary, "footers": footers})


def noted_footers(folder: Path) -> dict[str, str]:
    """Digests of the footers by file name, as labeling has noted them at its end."""
    return read_json(folder / "predictions.json")["footers"]


def _read_footers(files: Sequence[Path]) -> list[PredictionShard]:
    seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    with ThreadPoolExecutor(16) as pool:  # on a network file system a footer costs a round trip
        # equal class lists become one: thousands of names for each of many shards would fill the memory
        return [replace(shard, classes=seen.setdefault(shard.classes, shard.classes))
                for shard in pool.map(read_footer, files)]  # fmt: skip


def read_footer(path: Path) -> PredictionShard:
    """What a file says of itself.

    Raises:
        NstError: it is no whole file of predictions.
    """
    try:
        footer_bytes = raw_footer(path)
        metadata = pq.read_metadata(pa.BufferReader(footer_bytes))
        footer = _told((metadata.metadata or {})[b"nst"])
        if footer["format"] != FORMAT:
            raise _other_format(path, footer["format"])
        shard = footer["shard"]
        return PredictionShard(
            path=path,
            name=require_file_name(shard["name"], path),
            sha256=shard["sha256"],
            samples=metadata.num_rows,
            teacher=footer["teacher"],
            classes=tuple(footer["classes"]),
            keep=footer["keep"],
            digest=hashlib.sha256(footer_bytes[:-8]).hexdigest(),
            excluded=shard.get("excluded"),
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise NstError(
            f"{path} is not a predictions file",
            got=f"{type(error).__name__}: {error}",
            valid="a Parquet file written by nst label",
            next=f"{way_on(path)}: it labels only what is missing",
        ) from error


def _told(text: bytes) -> dict[str, Any]:
    """What a footer says. The class list, most of it, is read once for all files that begin alike."""
    head, found, rest = text.partition(b', "class_digest"')
    return {**_head(head), **json.loads(b'{"class_digest"' + rest)} if found else json.loads(text)


@lru_cache(maxsize=4)
def _head(text: bytes) -> Mapping[str, Any]:
    head = json.loads(text + b"}")
    return {**head, "classes": tuple(head["classes"])}


def _other_format(path: Path, found: Any) -> NstError:
    return NstError(
        f"{path} has another format",
        got=found,
        valid=f"{FORMAT}, which has a hash of every key",
        next="nst label teacher.predictions=<folder>, then this with that teacher.predictions=<folder>",
    )


def _check_agreement(shards: Sequence[PredictionShard]) -> None:
    first, seen = shards[0], dict[str, Path]()
    for shard in shards:
        problem = None
        if shard.teacher != first.teacher:
            problem = f"teacher {first.teacher} in {first.path.name}, {shard.teacher} in {shard.path.name}"
        elif shard.classes != first.classes:
            problem = f"{shard.path.name}: {_first_difference(shard.classes, first.classes)} in {first.path.name}"
        elif shard.name in seen:
            problem = f"shard {shard.name} both in {seen[shard.name].name} and in {shard.path.name}"
        if problem:
            raise NstError(
                f"predictions in {first.path.parent} do not belong together",
                got=problem,
                valid="one file per shard, all by one teacher over one class list",
                next=f"{way_on(shard.path)}: it labels only what is missing",
            )
        seen[shard.name] = shard.path


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} classes instead of {len(expected)}"
    at = next(i for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)) if ours != theirs)
    return f"class {at} is {found[at]!r} instead of {expected[at]!r}"
