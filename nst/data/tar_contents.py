"""Reads keys and labels of the samples in tars, and finds keys that stand twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress

import numpy as np
import xxhash

from nst.data.tars import TarReader


def labels_of(reader: TarReader, name: str, problems: list[str]) -> Iterator[int | None]:
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


def hashes_of(reader: TarReader) -> np.ndarray:
    """uint64 hash of every key: what a set of hundreds of millions can keep in memory."""
    found = [xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape")) for key in reader.keys]
    return np.array(found, dtype=np.uint64)


def shared_keys(
    names: Sequence[str], hashes: Sequence[np.ndarray], keys: Callable[[int], list[str]]
) -> dict[str, list[str]]:
    """Keys that the set holds more than once, with the tars; `keys` reads a tar's again, only where hashes meet."""
    values, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]), return_counts=True)
    suspects = values[counts > 1]
    if not len(suspects):
        return {}
    where: dict[str, list[str]] = {}
    for place, (name, found) in enumerate(zip(names, hashes, strict=True)):
        if (meets := np.isin(found, suspects)).any():
            for key in compress(keys(place), meets):
                where.setdefault(key, []).append(name)
    return {key: found for key, found in sorted(where.items()) if len(found) > 1}


def duplicates(shared: Mapping[str, Sequence[str]]) -> list[str]:
    """The same in words."""
    return [f"key {key} in {' and '.join(found)}" for key, found in shared.items()]
