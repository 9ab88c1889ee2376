"""Writing shard sets: samples into tars of bounded size, and the index.json that makes them a set.

Equal input gives equal bytes (fixed headers, no times, no paths), so the sha256 in the index identifies the data for
every later stage. index.json is written last: a folder that has one is complete.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from nst.atomic import atomic_path, write_json
from nst.data.remote import Remote
from nst.data.shard_set import FORMAT, ShardInfo, ShardSet, in_index, load_index, require_whole
from nst.data.source import Sample
from nst.errors import NstError
from nst.written import note

SAMPLES_PER_SHARD = 1000
MAX_SHARD_BYTES = 512 << 20  # of image bytes; also what writing one shard holds in memory
SHOWN_SKIPPED = 100


def write_shards(
    folder: Path | str,
    prefix: str,
    samples: Iterable[Sample],
    *,
    classes: Sequence[str],
    labeled: bool,
    name: str,
    source: Mapping[str, Any] | None = None,
    split: str = "",
    seed: int | None = None,
    skipped: Sequence[str] = (),
    samples_per_shard: int = SAMPLES_PER_SHARD,
    max_bytes: int = MAX_SHARD_BYTES,
) -> ShardSet:
    """Writes `samples` in their order to `<folder>/<prefix>-000000.tar` ... and the index after them.

    Args:
        labeled: write `.cls`; every sample must then have a label. False: labels are left out.
        skipped: names of the images that were left out, for the index.
        samples_per_shard, max_bytes: a shard ends with whichever comes first.

    Raises:
        NstError: no samples, a key that is used twice or not valid, a label that is missing or out of range.
    """
    folder = Path(folder)
    note(folder / "index.json")  # which refuses one that is not nst's
    (folder / "index.json").unlink(missing_ok=True)  # an index beside shards that are being replaced would lie
    counts: Counter[int] = Counter()
    keys: set[str] = set()
    shards = []
    for number, batch in enumerate(_batches(samples, samples_per_shard, max_bytes)):
        _check(batch, keys, len(classes) if labeled else None)
        counts.update(sample.label for sample in batch if labeled and sample.label is not None)
        shards.append(_write_shard(folder / f"{prefix}-{number:06d}.tar", batch, labeled))
    if not shards:
        raise NstError(f"no samples to write to {folder}")
    return write_index(
        folder,
        shards,
        classes,
        counts if labeled else None,
        name=name,
        source=source,
        split=split,
        seed=seed,
        skipped=skipped,
    )


def _batches(samples: Iterable[Sample], most: int, max_bytes: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    size = 0
    for sample in samples:
        if batch and (len(batch) == most or size + len(sample.image) > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(sample)
        size += len(sample.image)
    if batch:
        yield batch


def _check(batch: Sequence[Sample], keys: set[str], num_classes: int | None) -> None:
    for sample in batch:
        if not re.fullmatch(r"[^./\s\0]{1,90}", sample.key) or not sample.key.isascii() or sample.key.startswith("__"):
            raise NstError(
                "not a WebDataset key", got=repr(sample.key), valid="1-90 ASCII characters without . / space"
            )
        if sample.key in keys:
            raise NstError("a key is used twice", got=sample.key, valid="keys that are unique in the set")
        if num_classes is not None and (sample.label is None or not 0 <= sample.label < num_classes):
            raise NstError(f"{sample.key}: label is missing or out of range", got=sample.label,
                           valid=f"0 to {num_classes - 1}")  # fmt: skip
        keys.add(sample.key)


class ShardTar:
    """A tar that grows, with the same bytes for the same samples; counts and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from webdataset.writer import TarWriter  # here, because it imports torch

        self.file, self.sha256, self.bytes, self.samples = file, hashlib.sha256(), 0, 0
        self._tar = TarWriter(self, encoder=False, mtime=0, user="", group="", mode=0o444)

    def write(self, data: bytes) -> int:
        """What the tar is made of, as its writer gives it."""
        if self.file.closed:  # tarfile writes once more when a tar that was given up is taken apart
            return len(data)
        self.sha256.update(data)
        self.bytes += len(data)
        return self.file.write(data)

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """A sample: its files by extension."""
        self._tar.write({"__key__": key, **files})
        self.samples += 1

    def close(self, name: str) -> ShardInfo:
        """Ends the tar, which the index then knows by this name."""
        self._tar.close()
        return ShardInfo(name, self.samples, self.bytes, self.sha256.hexdigest())


def _write_shard(path: Path, batch: Sequence[Sample], labeled: bool) -> ShardInfo:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        tar = ShardTar(file)
        for sample in batch:
            label = {"cls": str(sample.label).encode()} if labeled else {}
            tar.add(sample.key, {sample.extension: sample.image, **label})
        return tar.close(path.name)


def write_index(
    folder: Path,
    shards: Sequence[ShardInfo],
    classes: Sequence[str],
    counts: Mapping[int, int] | None,
    *,
    name: str,
    source: Mapping[str, Any] | None,
    split: str = "",
    seed: int | None = None,
    skipped: Sequence[str] = (),
    shards_at: Path | str | None = None,
    remote: Remote | None = None,
) -> ShardSet:
    """Writes index.json, which makes the folder a shard set; `counts` of each label, None for unlabeled."""
    index: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "source": source,
        "split": split,
        "seed": seed,
        "classes": list(classes),
        "labeled": counts is not None,
        "samples": sum(shard.samples for shard in shards),
        "label_counts": [counts.get(label, 0) for label in range(len(classes))] if counts is not None else [],
        "shards": [shard.as_json() for shard in shards],
        "skipped": {"count": len(skipped), "names": list(skipped[:SHOWN_SKIPPED])},
    }
    write_json(folder / "index.json", index | ({"shards_at": in_index(shards_at)} if shards_at else {}))
    written = load_index(folder, remote)
    return require_whole(written.at(shards_at) if shards_at else written)
