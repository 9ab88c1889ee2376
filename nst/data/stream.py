"""Endless, seeded order over shards: a pure function of (seed, name, position).

A stream numbers its samples 0, 1, 2, ... without end; one pass over the set after the other. Within a pass the
shards are permuted, taken in windows of a few shards, and the entries of a window are permuted together, so the
reader touches a bounded number of tars at a time while small sets are shuffled completely.

The one decision worth knowing: nothing is *drawn while reading*. Whoever knows (seed, name, position) knows the
entry, so the order does not depend on workers, batch size or how often a run was killed, and resuming at step k
costs nothing: no sample before it is read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from nst.errors import NstError

WINDOW_SHARDS = 16
_CACHED_WINDOWS = 4


def generator(*key: object) -> np.random.Generator:
    """A generator of its own for every key, e.g. (seed, "labeled", pass, sample key): equal key, equal draws."""
    digest = xxhash.xxh3_128_intdigest(repr(key).encode())
    return np.random.Generator(np.random.Philox(key=digest))


@dataclass(frozen=True)
class Entries:
    """A run of stream entries: which pass, shard and row within the shard, each of shape (N,) int64."""

    passes: np.ndarray
    shards: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.passes.tolist(), self.shards.tolist(), self.rows.tolist(), strict=True)


class Stream:
    """The order in which the entries of a shard set are seen, pass after pass.

    Args:
        sizes: entries per shard. For pseudo-labeled shards these are rows of the selection, copies counted.
        seed: the run's seed.
        name: tells streams of one run apart ("labeled", "unlabeled").
        window_shards: shards whose entries are mixed with each other.

    Raises:
        NstError: there is no entry at all.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int, name: str, window_shards: int = WINDOW_SHARDS) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.length = int(self.sizes.sum())
        if self.length == 0:
            raise NstError(f"the {name} set has no samples", valid="at least one")
        self.seed, self.name, self.window_shards = seed, name, window_shards
        self._windows: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._passes: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def entries(self, start: int, stop: int) -> Entries:
        """Entries at positions start, ..., stop - 1 of the endless stream."""
        parts: list[tuple[int, np.ndarray, np.ndarray]] = []
        position = start
        while position < stop:
            pass_number, offset = divmod(position, self.length)
            order, ends = self._pass(pass_number)
            window = int(np.searchsorted(ends, offset, side="right"))
            begin = int(ends[window - 1]) if window else 0
            shards, rows = self._window(pass_number, window, order)
            take = slice(offset - begin, min(offset - begin + stop - position, len(rows)))
            parts.append((pass_number, shards[take], rows[take]))
            position += take.stop - take.start
        return Entries(
            np.concatenate([np.full(len(rows), number, dtype=np.int64) for number, _, rows in parts]),
            np.concatenate([shards for _, shards, _ in parts]),
            np.concatenate([rows for _, _, rows in parts]),
        )

    def batch(self, step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Entries:
        """The entries of one rank at one step; the ranks' batches lie side by side in the stream."""
        start = (step * world_size + rank) * batch_size
        return self.entries(start, start + batch_size)

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Shard order of a pass (S,) and the cumulative sizes of its windows (W,)."""
        if number not in self._passes:
            order = generator(self.seed, self.name, number).permutation(len(self.sizes))
            starts = np.arange(0, len(order), self.window_shards)
            self._passes[number] = (order, np.cumsum(np.add.reduceat(self.sizes[order], starts)))
            if len(self._passes) > 2:
                self._passes.popitem(last=False)
        return self._passes[number]

    def _window(self, pass_number: int, window: int, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Permuted (shards, rows) of one window."""
        key = (pass_number, window)
        if key not in self._windows:
            shards = order[window * self.window_shards : (window + 1) * self.window_shards]
            sizes = self.sizes[shards]
            rows = np.concatenate([np.arange(size) for size in sizes])
            mix = generator(self.seed, self.name, pass_number, window).permutation(len(rows))
            self._windows[key] = (np.repeat(shards, sizes)[mix], rows[mix])
            if len(self._windows) > _CACHED_WINDOWS:
                self._windows.popitem(last=False)
        return self._windows[key]
