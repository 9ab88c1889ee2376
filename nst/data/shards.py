"""The health of a shard set; the front door of everything about shards."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nst.atomic import sha256_file
from nst.data.images import READERS, BadImage, decode, image_extension
from nst.data.indexing import index_tars
from nst.data.remote import Remote
from nst.data.shard_set import ShardInfo, ShardSet, listed_problems, load_index, size_problems
from nst.data.shard_writer import write_shards
from nst.data.tar_contents import duplicates, hashes_of, labels_of, shared_keys
from nst.data.tars import TarReader
from nst.errors import NstError

__all__ = ["ShardInfo", "ShardSet", "TarReader", "index_tars", "verify", "write_shards"]


def verify(folder: Path | str, *, remote: Remote | None = None) -> dict[str, Any]:
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
    with ThreadPoolExecutor(READERS) as pool:
        for position, shard in enumerate(shards.shards):
            if shards.path(position).exists():
                reader, found_problems = _open_shard(shards.path(position), shard)
                problems += found_problems
                if reader is not None:
                    problems += _verify_samples(reader, shard.name, shards, pool, counts)
                    readable.append(position)
                    hashes.append(hashes_of(reader))
    names = [shards.shards[position].name for position in readable]
    problems += duplicates(shared_keys(names, hashes, lambda place: shards.reader(readable[place]).keys))
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
        reader = TarReader(path, shard.excluded, shard.prefix)
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
        for key, label in zip(reader.keys, list(labels_of(reader, name, problems)), strict=True):
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
