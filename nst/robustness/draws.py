"""What corruptions and perturbations draw, from one generator: the only randomness in them.

A corruption asks for *a thing* (a Poisson count for every pixel value, a shift for every pixel), not for numbers of a
certain generator. So the law is exact while the way to it is ours and fast, and a test can hand in the reference's own
stream and compare pixel by pixel.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from nst.data.operations import Image

BUCKETS = 4096  # of a uniform number, per level; one bucket in 50 or so holds more than one count
_UNSETTLED = np.iinfo(np.uint16).max


class Draws:
    """Fields of random numbers, float32 where they are real.

    Args:
        rng: where they come from; equal generators, equal fields.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.floating]:
        """Standard normal."""
        return self._rng.standard_normal(shape, dtype=np.float32)

    def uniform(self, shape: tuple[int, ...]) -> NDArray[np.floating]:
        """Uniform in [-1, 1)."""
        field = self._rng.random(shape, dtype=np.float32)
        field *= np.float32(2)
        field -= np.float32(1)
        return field

    def angle(self, low: float, high: float) -> float:
        """Uniform in [low, high), degrees."""
        return float(self._rng.uniform(low, high))

    def index(self, count: int) -> int:
        """Uniform in 0 .. count - 1."""
        return int(self._rng.integers(count))

    def shifts(self, count: int, reach: int) -> NDArray[np.integer]:
        """Pairs of whole numbers in [-reach, reach), (count, 2)."""
        return self._rng.integers(-reach, reach, size=(count, 2), dtype=np.int8)

    def impulses(self, shape: tuple[int, ...], fraction: float) -> NDArray[np.int8]:
        """+1 (salt) or -1 (pepper), each on half of `fraction` of the values, else 0."""
        chance = self._rng.random(shape, dtype=np.float32)
        return (chance < fraction / 2).view(np.int8) - (chance >= 1 - fraction / 2).view(np.int8)

    def poisson(self, image: Image, rate: float) -> NDArray[np.integer]:
        """Poisson counts of mean image / 255 * rate, shape of the image.

        By inversion: 12 random bits choose a bucket of the level's table; the few buckets that hold a boundary
        between counts are settled by a second uniform number. Fifteen times as fast as a sampler per pixel.
        """
        table, cumulative, width = _poisson_table(rate)
        bucket = self._rng.integers(BUCKETS, size=image.shape, dtype=np.uint16)
        counts = table.take(image * np.uint32(BUCKETS) + bucket)
        unsettled = np.flatnonzero(counts == _UNSETTLED)
        level = image.reshape(-1)[unsettled].astype(np.int64)
        within = (bucket.reshape(-1)[unsettled] + self._rng.random(len(unsettled))) / BUCKETS
        counts.reshape(-1)[unsettled] = np.searchsorted(cumulative, level + within, side="right") - level * width
        return counts


@functools.lru_cache(maxsize=16)
def _poisson_table(rate: float) -> tuple[NDArray[np.uint16], NDArray[np.float64], int]:
    """Count by (level, bucket), flat; level + cumulative probability by (level, count), flat; counts per level."""
    counts = np.arange(int(rate + 12 * rate**0.5 + 20))
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    means = np.arange(256)[:, None] / 255 * rate
    log_means = np.log(np.maximum(means, 1e-300))  # level 0: all weight on the count 0, without 0 * -inf
    cumulative = np.cumsum(np.exp(counts * log_means - means - log_factorial), axis=1)
    cumulative[:, -1] = 1
    keys = (np.minimum(cumulative, 1) + np.arange(256)[:, None]).ravel()
    edges = (np.arange(256)[:, None] + np.arange(BUCKETS + 1) / BUCKETS).ravel()
    rank = np.searchsorted(keys, edges, side="right").reshape(256, -1) - np.arange(256)[:, None] * len(counts)
    table = np.where(rank[:, :-1] == rank[:, 1:], rank[:, :-1], _UNSETTLED).astype(np.uint16)
    return table.ravel(), keys, len(counts)
