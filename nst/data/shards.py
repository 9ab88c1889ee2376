"""Shard sets from elsewhere and their state of health; the front door of everything about shards.

The one decision worth knowing: tars that other tools wrote (img2dataset's, for one) are used where they
lie. `index_tars` only adds the index.json, and refuses what would fail later, in training: tars that were
cut short, keys used twice, samples without an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from nst.data.images import BadImage, decode, image_extension
from nst.data.shard_set import (
    ShardInfo,
    ShardSet,
    listed_problems,
    load_index,
    size_problems,
    write_index,
    write_shards,
)
from nst.data.tars import TarReader
from nst.errors import NstError
from nst.runs import sha256_file

__all__ = ["ShardInfo", "ShardSet", "TarReader", "index_tars", "verify", "write_shards"]


def index_tars(folder: Path | str, classes: Sequence[str] | None = None) -> ShardSet:
    """Writes index.json for the WebDataset tars that lie in `folder`, such as img2dataset's.

    Labels come from `.cls`, which all samples must have or none; class names not given are numbers.

    Raises:
        NstError: no tars, one cut short, samples without an image, labels for some only, keys used twice.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise NstError(f"no tars in {folder}", valid="<name>.tar, uncompressed")
    shards: list[ShardInfo] = []
    hashes: list[np.ndarray] = []
    problems: list[str] = []
    found: Counter[int | None] = Counter()
    for path in paths:
        reader = TarReader(path)
        problems += _content_problems(reader)
        found.update(_labels(reader, problems))
        hashes.append(_hashes(reader))
        shards.append(ShardInfo(path.name, len(reader), path.stat().st_size, sha256_file(path)))
    problems += _duplicate_keys(paths, hashes)
    unlabeled = found.pop(None, 0)
    if found and unlabeled:
        problems.append(f"{unlabeled} of {unlabeled + found.total()} samples have no .cls")
    if problems:
        raise listed_problems(f"{folder} cannot be indexed", problems, "remove or download again the files named here")
    counts = {label: number for label, number in found.items() if label is not None}
    names = list(classes) if classes is not None else [str(i) for i in range(max(counts, default=-1) + 1)]
    if counts and (max(counts) >= len(names) or min(counts) < 0):
        valid = f"0 to {len(names) - 1}"
        raise NstError("labels are out of range", got=f"{min(counts)} to {max(counts)}", valid=valid)
    shards = [shard for shard in shards if shard.samples]
    name = folder.resolve().name
    return write_index(folder, shards, names, counts or None, name=name, source={"name": "tars"})


def _content_problems(reader: TarReader) -> list[str]:
    name = reader.path.name
    problems = [f"{name}: cut short after {len(reader)} whole samples"] if reader.truncated else []
    without = [reader.keys[i] for i in range(len(reader)) if image_extension(reader.extensions(i)) is None]
    if without:
        problems.append(f"{name}: {len(without)} samples without an image, first {without[0]}")
    return problems


def _labels(reader: TarReader, problems: list[str]) -> Iterator[int | None]:
    """Label of every sample from its .cls, None without one; text that is no number joins `problems`."""
    for position in range(len(reader)):
        if "cls" not in reader.extensions(position):
            yield None
            continue
        key, content = reader.read(position)
        try:
            yield int(content["cls"])
        except ValueError:
            problems.append(f"{reader.path.name}: {key}.cls is {content['cls'][:20]!r}, not a class number")
            yield None
    reader.close()


def _hashes(reader: TarReader) -> np.ndarray:
    """uint64 hash of every key: what a set of hundreds of millions can keep in memory."""
    found = [xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape")) for key in reader.keys]
    return np.array(found, dtype=np.uint64)


def _duplicate_keys(paths: Sequence[Path], hashes: Sequence[np.ndarray]) -> list[str]:
    """Keys that the set holds more than once; tars are read again only where hashes meet."""
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    suspects = values[counts > 1]
    if not len(suspects):
        return []
    where: dict[str, list[str]] = {}
    for path, found in zip(paths, hashes, strict=True):
        positions = np.flatnonzero(np.isin(found, suspects))
        keys = TarReader(path).keys if len(positions) else []
        for position in positions:
            where.setdefault(keys[position], []).append(path.name)
    return [f"key {key} in {' and '.join(names)}" for key, names in sorted(where.items()) if len(names) > 1]


def verify(folder: Path | str, *, workers: int = 4) -> dict[str, Any]:
    """Checks a set to the last pixel: sizes, sha256, sample counts, unique keys, labels, every image decoded.

    Returns:
        folder, samples, shards, bytes, labeled, classes (how many), label_counts, digest.

    Raises:
        NstError: anything wrong, by name.
    """
    shards = load_index(Path(folder))
    problems = size_problems(shards)
    readable: list[Path] = []
    hashes: list[np.ndarray] = []
    counts: Counter[int] = Counter()
    with ThreadPoolExecutor(workers) as pool:
        for position, shard in enumerate(shards.shards):
            if shards.path(position).exists():
                reader, found_problems = _open_shard(shards.path(position), shard)
                problems += found_problems
                if reader is not None:
                    problems += _verify_samples(reader, shards, pool, counts)
                    readable.append(reader.path)
                    hashes.append(_hashes(reader))
    problems += _duplicate_keys(readable, hashes) if readable else []
    found = tuple(counts[label] for label in range(len(shards.classes))) if shards.labeled else ()
    if not problems and found != shards.label_counts:
        problems.append(f"labels per class {found}, {shards.label_counts} in the index")
    if problems:
        raise listed_problems(
            f"{folder} does not verify", problems, "copy the shards again, or make them again: nst shard"
        )
    return {
        "folder": str(folder),
        "samples": shards.samples,
        "shards": len(shards.shards),
        "bytes": sum(shard.bytes for shard in shards.shards),
        "labeled": shards.labeled,
        "classes": len(shards.classes),
        "label_counts": list(found),
        "digest": shards.digest,
    }


def _open_shard(path: Path, shard: ShardInfo) -> tuple[TarReader | None, list[str]]:
    problems = [] if sha256_file(path) == shard.sha256 else [f"{shard.name}: sha256 differs from the index"]
    try:
        reader = TarReader(path)
    except NstError as error:
        return None, [*problems, str(error).replace("\n", ";")]
    if reader.truncated or len(reader) != shard.samples:
        cut = " (cut short)" if reader.truncated else ""
        problems.append(f"{shard.name}: {len(reader)} whole samples{cut}, {shard.samples} in the index")
    return reader, problems


def _verify_samples(reader: TarReader, shards: ShardSet, pool: ThreadPoolExecutor, counts: Counter[int]) -> list[str]:
    """Decodes every image and, in a labeled set, adds its labels to `counts`; what is wrong, in words."""
    problems: list[str] = []
    if shards.labeled:
        for key, label in zip(reader.keys, list(_labels(reader, problems)), strict=True):
            if label is None or not 0 <= label < len(shards.classes):
                problems.append(f"{reader.path.name}: {key}: label {label}, valid 0 to {len(shards.classes) - 1}")
            else:
                counts[label] += 1
    images = pool.map(lambda position: _image_problem(reader, position), range(len(reader)))
    problems += [problem for problem in images if problem]
    reader.close()
    return problems


def _image_problem(reader: TarReader, position: int) -> str | None:
    key, content = reader.read(position)
    extension = image_extension(content)
    if extension is None:
        return f"{reader.path.name}: {key}: no image among {', '.join(content)}"
    try:
        decode(content[extension])
    except BadImage as error:
        return f"{reader.path.name}: {key}.{extension}: {error}"
    return None
