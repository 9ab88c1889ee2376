"""Shard sets from elsewhere and their state of health; the front door of everything about shards.

Tars that other tools wrote (img2dataset's, for one) are used where they lie. `index_tars` only adds the index.json,
and refuses what would fail later, in training: tars that were cut short, keys used twice, samples without an image.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from nst.atomic import sha256_file
from nst.data.images import BadImage, decode, image_extension
from nst.data.remote import Remote
from nst.data.shard_set import ShardInfo, ShardSet, emptied_shards, listed_problems, load_index, size_problems
from nst.data.shard_writer import write_index, write_shards
from nst.data.tars import TarReader
from nst.data.transfer import is_remote, join, list_tars
from nst.errors import NstError
from nst.progress import Progress, silent

log = logging.getLogger(__name__)

__all__ = ["ShardInfo", "ShardSet", "TarReader", "index_tars", "verify", "write_shards"]


@dataclass(frozen=True)
class _Look:
    """What one tar holds."""

    shard: ShardInfo
    keys: np.ndarray
    labels: Counter[int | None]
    problems: list[str]


def index_tars(
    folder: Path | str,
    classes: Sequence[str] | None = None,
    *,
    output: Path | str | None = None,
    remote: Remote | None = None,
    workers: int = 4,
    progress: Progress = silent,
) -> ShardSet:
    """Writes index.json for the WebDataset tars that lie in `folder`, such as img2dataset's.

    Labels come from `.cls`, which all samples must have or none; class names not given are numbers. Captions and other
    files are left alone. What an earlier index excluded of a shard stays excluded while the shard is the same.

    Args:
        folder: path or address; from an address every tar is fetched once.
        output: where index.json goes; None: to the tars.
        workers: threads that read.

    Raises:
        NstError: no tars, one cut short, samples without an image, labels for some only, keys used twice.
    """
    output = Path(output if output is not None else folder)
    names = list_tars(folder) if is_remote(folder) else sorted(path.name for path in Path(folder).glob("*.tar"))
    if not names:
        raise NstError(f"no tars in {folder}", valid="<name>.tar, uncompressed")
    opened = _Opener(folder, remote or Remote())
    before = _excluded_before(output)
    with ThreadPoolExecutor(workers) as pool:
        looks = pool.map(lambda name: _look(name, *opened(name), before), names)
        found = list(progress(looks, "indexing", len(names)))
    labels = sum((look.labels for look in found), Counter[int | None]())
    problems = [problem for look in found for problem in look.problems]
    problems += _duplicate_keys(names, [look.keys for look in found], lambda place: opened.keys(names[place], before))
    if problems := [*problems, *_label_problems(labels)]:
        raise listed_problems(f"{folder} cannot be indexed", problems, "remove or download again the files named here")
    return _write_found(output, folder, [look.shard for look in found], labels, classes, remote, before)


@dataclass(frozen=True)
class _Opener:
    """Path on this machine and sha256 of a tar that no index describes yet."""

    folder: Path | str
    remote: Remote

    def __call__(self, name: str) -> tuple[Path, str]:
        if is_remote(self.folder):
            return self.remote.unknown_shard(join(self.folder, name), name)
        path = Path(self.folder) / name
        return path, sha256_file(path)

    def keys(self, name: str, before: Mapping[str, ShardInfo]) -> list[str]:
        path, sha256 = self(name)
        return TarReader(path, _excluded_of(sha256, before)).keys


def _excluded_before(folder: Path) -> dict[str, ShardInfo]:
    """Shards of which an index written earlier leaves images out, or all, by their sha256."""
    if not (folder / "index.json").exists():
        return {}
    # in this order: what the index names, it knows best
    known = {shard.sha256: shard for shard in [*emptied_shards(folder), *load_index(folder).shards]}
    return {sha256: shard for sha256, shard in known.items() if shard.excluded}


def _excluded_of(sha256: str, before: Mapping[str, ShardInfo]) -> tuple[int, ...]:
    return before[sha256].excluded if sha256 in before else ()


def _look(name: str, path: Path, sha256: str, before: Mapping[str, ShardInfo]) -> _Look:
    excluded = _excluded_of(sha256, before)
    size = path.stat().st_size
    try:
        reader = TarReader(path, excluded)
    except NstError as error:
        problem = f"{name}: {error}".replace("\n", ";")
        return _Look(ShardInfo(name, 0, size, sha256), np.empty(0, np.uint64), Counter(), [problem])
    problems = _content_problems(reader, name)
    labels = Counter(_labels(reader, name, problems))
    return _Look(ShardInfo(name, len(reader), size, sha256, excluded), _hashes(reader), labels, problems)


def _label_problems(labels: Counter[int | None]) -> list[str]:
    unlabeled = labels[None]
    if not unlabeled or unlabeled == labels.total():
        return []
    return [f"{unlabeled} of {labels.total()} samples have no .cls"]


def _write_found(
    output: Path,
    folder: Path | str,
    shards: Sequence[ShardInfo],
    labels: Counter[int | None],
    classes: Sequence[str] | None,
    remote: Remote | None,
    before: Mapping[str, ShardInfo],
) -> ShardSet:
    counts = {label: number for label, number in labels.items() if label is not None}
    names = list(classes) if classes is not None else [str(i) for i in range(max(counts, default=-1) + 1)]
    if counts and (max(counts) >= len(names) or min(counts) < 0):
        valid = f"0 to {len(names) - 1}"
        raise NstError("labels are out of range", got=f"{min(counts)} to {max(counts)}", valid=valid)
    same, there = {shard.sha256 for shard in shards}, {shard.name for shard in shards}
    # an emptied shard that is gone is no loss: only one that came back as another is told
    changed = [
        shard for sha256, shard in before.items() if sha256 not in same and (shard.samples or shard.name in there)
    ]
    if changed:
        log.warning(
            "%d shards from which images were excluded are gone or have changed: exclude them again", len(changed)
        )
    elsewhere = folder if is_remote(folder) else Path(folder).resolve()
    return write_index(
        output,
        [shard for shard in shards if shard.samples],
        names,
        counts or None,
        name=str(folder).rstrip("/").rsplit("/", 1)[-1] if is_remote(folder) else Path(folder).resolve().name,
        source={"name": "tars"},
        shards_at=None if elsewhere == output.resolve() else elsewhere,
        remote=remote,
    )


def _content_problems(reader: TarReader, name: str) -> list[str]:
    problems = [f"{name}: cut short after {len(reader)} whole samples"] if reader.truncated else []
    if reader.links:
        problems.append(f"{name}: {reader.links} links, which are not followed")
    without = [reader.keys[i] for i in range(len(reader)) if image_extension(reader.extensions(i)) is None]
    if without:
        problems.append(f"{name}: {len(without)} samples without an image, first {without[0]}")
    return problems


def _labels(reader: TarReader, name: str, problems: list[str]) -> Iterator[int | None]:
    """Label of every sample from its .cls, None without one; text that is no number joins `problems`."""
    for position in range(len(reader)):
        if "cls" not in reader.extensions(position):
            yield None
            continue
        key, content = reader.read(position, only=("cls",))
        try:
            yield int(content["cls"])
        except ValueError:
            problems.append(f"{name}: {key}.cls is {content['cls'][:20]!r}, not a class number")
            yield None
    reader.close()


def _hashes(reader: TarReader) -> np.ndarray:
    """uint64 hash of every key: what a set of hundreds of millions can keep in memory."""
    found = [xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape")) for key in reader.keys]
    return np.array(found, dtype=np.uint64)


def _duplicate_keys(names: Sequence[str], hashes: Sequence[np.ndarray], keys: Callable[[int], list[str]]) -> list[str]:
    """Keys that the set holds more than once; `keys` reads a tar's again, only where hashes meet."""
    values, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]), return_counts=True)
    suspects = values[counts > 1]
    if not len(suspects):
        return []
    where: dict[str, list[str]] = {}
    for place, (name, found) in enumerate(zip(names, hashes, strict=True)):
        if (meets := np.isin(found, suspects)).any():
            for key in compress(keys(place), meets):
                where.setdefault(key, []).append(name)
    return [f"key {key} in {' and '.join(found)}" for key, found in sorted(where.items()) if len(found) > 1]


def verify(folder: Path | str, *, remote: Remote | None = None, workers: int = 4) -> dict[str, Any]:
    """Checks a set to the last pixel: sizes, sha256, sample counts, unique keys, labels, every image decoded.

    Returns:
        folder, samples, excluded, shards, bytes, labeled, classes (how many), label_counts, digest.

    Raises:
        NstError: anything wrong, by name.
    """
    shards = load_index(folder, remote)
    problems = size_problems(shards)
    readable: list[int] = []
    hashes: list[np.ndarray] = []
    counts: Counter[int] = Counter()
    with ThreadPoolExecutor(workers) as pool:
        for position, shard in enumerate(shards.shards):
            if shards.path(position).exists():
                reader, found_problems = _open_shard(shards.path(position), shard)
                problems += found_problems
                if reader is not None:
                    problems += _verify_samples(reader, shard.name, shards, pool, counts)
                    readable.append(position)
                    hashes.append(_hashes(reader))
    names = [shards.shards[position].name for position in readable]
    problems += _duplicate_keys(names, hashes, lambda place: shards.reader(readable[place]).keys)
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
        "excluded": shards.excluded,
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
        reader = TarReader(path, shard.excluded)
    except NstError as error:
        return None, [*problems, str(error).replace("\n", ";")]
    if reader.truncated or len(reader) != shard.samples:
        cut = " (cut short)" if reader.truncated else ""
        problems.append(f"{shard.name}: {len(reader)} whole samples{cut}, {shard.samples} in the index")
    return reader, problems


def _verify_samples(
    reader: TarReader, name: str, shards: ShardSet, pool: ThreadPoolExecutor, counts: Counter[int]
) -> list[str]:
    """Decodes every image and, in a labeled set, adds its labels to `counts`; what is wrong, in words."""
    problems: list[str] = []
    if shards.labeled:
        for key, label in zip(reader.keys, list(_labels(reader, name, problems)), strict=True):
            if label is None or not 0 <= label < len(shards.classes):
                problems.append(f"{name}: {key}: label {label}, valid 0 to {len(shards.classes) - 1}")
            else:
                counts[label] += 1
    images = pool.map(lambda position: _image_problem(reader, name, position), range(len(reader)))
    problems += [problem for problem in images if problem]
    reader.close()
    return problems


def _image_problem(reader: TarReader, name: str, position: int) -> str | None:
    key, content = reader.read(position)
    extension = image_extension(content)
    if extension is None:
        return f"{name}: {key}: no image among {', '.join(content)}"
    try:
        decode(content[extension])
    except BadImage as error:
        return f"{name}: {key}.{extension}: {error}"
    return None
