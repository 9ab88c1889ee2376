"""Endless, seeded order over shards: a pure function of (seed, name, position).

A stream numbers its samples 0, 1, 2, ... without end; one pass over the set after the other. Within a pass the
shards are permuted, taken in windows of a few shards, and the entries of a window are permuted together, so the
reader touches a bounded number of tars at a time while small sets are shuffled completely.

Many hosts would all read all shards that way. So the order may be dealt into lanes: the permuted shards, one behind
the other, are cut into equal runs, one a lane, and each lane has windows of its own. Position p belongs to lane
p mod lanes; a batch has its rows lane by lane, so a host's part of it comes from its own lanes, whatever the number of
hosts. A shard at a cut is read by two lanes. One lane is the plain order.

Nothing is *drawn while reading*. Whoever knows (seed, name, position) knows the entry, so the order does not depend on
workers, batch size or how often a run was killed, and resuming at step k costs nothing: no sample before it is read
again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from nst.errors import NstError

WINDOW_SHARDS = 16
LANE_SHARDS = 4  # of a lane's window at least: a host keeps so many, and all hosts together mix many more
_CACHED_WINDOWS = 4
_Run = tuple[int, np.ndarray, np.ndarray]  # entries of one window: the pass, shards (N,), rows (N,)


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


@dataclass(frozen=True)
class _Lane:
    """One lane of one pass: its pieces of shards in their order, and where its windows of them end."""

    shards: np.ndarray  # (P,)
    first: np.ndarray  # (P,) row of each shard at which its piece begins
    sizes: np.ndarray  # (P,) rows of each piece
    ends: np.ndarray  # (W,) entries of the lane until the end of each window


class Stream:
    """The order in which the entries of a shard set are seen, pass after pass.

    Args:
        sizes: entries per shard. For pseudo-labeled shards these are rows of the selection, copies counted.
        seed: the run's seed.
        name: tells streams of one run apart ("labeled", "unlabeled").
        lanes: parts of each pass with windows of their own; another number is another order.
        window_shards: shards whose entries are mixed with each other in a lane; None: 16 over all lanes, 4 at least.

    Raises:
        NstError: there is no entry at all.
    """

    def __init__(
        self, sizes: Sequence[int], *, seed: int, name: str, lanes: int = 1, window_shards: int | None = None
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.length = int(self.sizes.sum())
        if self.length == 0:
            raise NstError(f"the {name} set has no samples", valid="at least one")
        self.seed, self.name, self.lanes = seed, name, lanes
        self.window_shards = window_shards or max(LANE_SHARDS, -(-WINDOW_SHARDS // lanes))
        self._windows: OrderedDict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._passes: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lanes: OrderedDict[tuple[int, int], _Lane] = OrderedDict()

    def entries(self, start: int, stop: int, *, lane: int = 0) -> Entries:
        """Entries start, ..., stop - 1 of one lane: those at positions lane + lanes * start, ... of the stream."""
        return _joined(self._runs(lane, start, stop))

    def batch(self, step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Entries:
        """The entries of one rank at one step: its part of the rows of all ranks, which lie lane by lane.

        Raises:
            ValueError: the rows of all ranks do not divide by the lanes.
        """
        share, rest = divmod(batch_size * world_size, self.lanes)
        if rest:
            raise ValueError(f"{batch_size * world_size} rows do not divide by {self.lanes} lanes")
        runs: list[_Run] = []
        row, end = rank * batch_size, (rank + 1) * batch_size
        while row < end:
            lane, offset = divmod(row, share)
            start, count = step * share + offset, min(share - offset, end - row)
            runs += self._runs(lane, start, start + count)
            row += count
        return _joined(runs)

    def _runs(self, lane: int, place: int, stop: int) -> Iterator[_Run]:
        """Entries place, ..., stop - 1 of a lane, window by window."""
        while place < stop:
            number = (lane + self.lanes * place) // self.length
            ends = self._lane(number, lane).ends
            offset = place - self._begin(number, lane)
            window = int(np.searchsorted(ends, offset, side="right"))
            begin = int(ends[window - 1]) if window else 0
            shards, rows = self._window(number, lane, window)
            take = slice(offset - begin, min(offset - begin + stop - place, len(rows)))
            yield number, shards[take], rows[take]
            place += take.stop - take.start

    def _begin(self, pass_number: int, lane: int) -> int:
        """Entries of a lane before a pass: its positions below that of the pass."""
        return -((lane - pass_number * self.length) // self.lanes)

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Shard order of a pass (S,), and where in the pass each shard ends if they lie one behind the other (S,)."""
        if number not in self._passes:
            order = generator(self.seed, self.name, number).permutation(len(self.sizes))
            self._passes[number] = (order, np.cumsum(self.sizes[order]))
            if len(self._passes) > 2:
                self._passes.popitem(last=False)
        return self._passes[number]

    def _lane(self, pass_number: int, lane: int) -> _Lane:
        """A lane's run of a pass. Lanes have as many entries as the pass has positions of theirs, so cuts are exact."""
        key = (pass_number, lane)
        if key not in self._lanes:
            order, ends = self._pass(pass_number)
            counts = [self._begin(pass_number + 1, g) - self._begin(pass_number, g) for g in range(lane + 1)]
            begin, end = sum(counts[:lane]), sum(counts)
            # empty shards belong to the first or last lane, or a window of one lane would hold others than it used to
            first = int(np.searchsorted(ends, begin, side="right")) if lane else 0
            last = int(np.searchsorted(ends, end)) + 1 if lane + 1 < self.lanes else len(ends)
            shards = order[first:last]
            starts = ends[first:last] - self.sizes[shards]
            from_row = np.maximum(begin - starts, 0)
            sizes = np.minimum(self.sizes[shards], end - starts) - from_row
            windows = np.arange(0, len(shards), self.window_shards)
            self._lanes[key] = _Lane(shards, from_row, sizes, np.cumsum(np.add.reduceat(sizes, windows)))
            if len(self._lanes) > 2 * self.lanes:
                self._lanes.popitem(last=False)
        return self._lanes[key]

    def _window(self, pass_number: int, lane: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Permuted (shards, rows) of one window."""
        key = (pass_number, lane, window)
        if key not in self._windows:
            run = self._lane(pass_number, lane)
            take = slice(window * self.window_shards, (window + 1) * self.window_shards)
            shards, sizes = run.shards[take], run.sizes[take]
            rows = np.concatenate([first + np.arange(size) for first, size in zip(run.first[take], sizes, strict=True)])
            place = (window,) if self.lanes == 1 else (window, lane, self.lanes)
            mix = generator(self.seed, self.name, pass_number, *place).permutation(len(rows))
            self._windows[key] = (np.repeat(shards, sizes)[mix], rows[mix])
            if len(self._windows) > _CACHED_WINDOWS + self.lanes:
                self._windows.popitem(last=False)
        return self._windows[key]


def _joined(runs: Iterable[_Run]) -> Entries:
    numbers, shards, rows = zip(*runs, strict=True)
    passes = np.repeat(np.asarray(numbers, dtype=np.int64), [len(run) for run in rows])
    return Entries(passes, np.concatenate(shards), np.concatenate(rows))
