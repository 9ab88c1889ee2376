"""Nearest of N perceptual hashes for millions of others, exactly, without comparing all with all.

A hash of 64 bits is cut into four parts of 16. Two hashes that differ in at most d bits agree in one of the parts up to
d // 4 bits (else they would differ in more than d). So every known hash is filed, part by part, under all values of
the part that are so near, and a query looks only under its own four values: with 100,000 known hashes about a
hundred comparisons instead of 100,000.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from nst.errors import NstError

PARTS = 4
PART_BITS = 16
LARGEST_DISTANCE = 11  # bits; beyond, pictures that have nothing in common would be found
QUERIES_AT_ONCE = 4096  # bounds memory


class Lookalikes:
    """The nearest of `hashes` (N,) uint64 within `distance` bits.

    Raises:
        NstError: the distance is out of range.
    """

    def __init__(self, hashes: np.ndarray, distance: int) -> None:
        if not 0 <= distance <= LARGEST_DISTANCE:
            raise NstError("the distance is out of range", got=distance, valid=f"0 to {LARGEST_DISTANCE} bits of 64")
        # equal hashes are filed once: under the first of them
        self.hashes, self.numbers = np.unique(hashes, return_index=True)
        self.distance = distance
        self._files = [self._file(part) for part in range(PARTS)]

    def _file(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Which hashes lie under each value of a part: their rows, and where each value's rows begin (65,537)."""
        masks = [0]
        for bits in range(1, self.distance // PARTS + 1):
            masks += [sum(1 << bit for bit in chosen) for chosen in combinations(range(PART_BITS), bits)]
        values = _part(self.hashes, part)[:, None] ^ np.array(masks, np.int32)[None, :]
        rows = np.repeat(np.arange(len(self.hashes), dtype=np.int32), len(masks))
        counts = np.bincount(values.ravel(), minlength=1 << PART_BITS)
        return rows[np.argsort(values.ravel(), kind="stable")], np.concatenate([[0], np.cumsum(counts)])

    def nearest(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number and distance in bits of the nearest hash, each (Q,); -1 without one, the first of equally near."""
        found = [self._nearest(queries[at : at + QUERIES_AT_ONCE]) for at in range(0, len(queries), QUERIES_AT_ONCE)]
        empty = np.empty(0, np.int64)
        return np.concatenate([empty, *(one for one, _ in found)]), np.concatenate([empty, *(d for _, d in found)])

    def _nearest(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        none = np.iinfo(np.int64).max
        best = np.full(len(queries), none, np.int64)  # distance first, then number
        for part, (rows, begins) in enumerate(self._files):
            values = _part(queries, part)
            counts = begins[values + 1] - begins[values]
            query = np.repeat(np.arange(len(queries)), counts)
            within = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
            row = rows[np.repeat(begins[values], counts) + within]
            apart = np.bitwise_count(queries[query] ^ self.hashes[row]).astype(np.int64)
            near = apart <= self.distance
            np.minimum.at(best, query[near], (apart[near] << 40) | self.numbers[row[near]])
        missing = best == none
        number, apart = best & ((1 << 40) - 1), best >> 40
        return np.where(missing, -1, number), np.where(missing, -1, apart)


def _part(hashes: np.ndarray, part: int) -> np.ndarray:
    return ((hashes >> np.uint64(part * PART_BITS)) & np.uint64(0xFFFF)).astype(np.int32)
