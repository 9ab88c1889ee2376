"""Which predictions are selected, and how often (paper section 3.1: filtering and balancing).

Confidence is the teacher's largest probability, class its argmax. [P] keeps confidence >= 0.3 and brings every class
to 130,000 images: the most confident where there are more, duplicates where there are fewer.

    exact     [O] default: a class total is exactly K = images_per_class; each of its n images appears
              floor(K/n) or ceil(K/n) times
    official  [C]: a threshold per class on a 0.01 grid, then every image above it is thinned or duplicated by the
              same expected factor K/total, the fraction decided by a coin: K on average only

Chance is an image's *ticket*, made of seed and key alone: it decides ties of confidence, extra copies and coins. So
a selection does not depend on the number of processes, the order of rows or their packing into shards.

All is counted over plain integers, a shard's rows at a time: `Counts`, then the cutoffs (nst/data/cutoffs.py), then
`copies`. Memory is that of counters and of a bounded number of rows near the cutoffs; no step sorts all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from nst.data.predictions import read_table

BINS = 1000  # of confidence: they refine [C]'s 0.01 grid and the report's 0.05 bins; float32 x 1000 is exact in double
REPORT_BINS = 20
LOT_BITS = 10  # of a ticket, counted in the first pass
APART = 2**40  # added to a seed: of draws that have nothing to do with those of the seed itself


def tickets(key_hashes: np.ndarray, seed: int) -> np.ndarray:
    """The number `seed`, from 0, of the SplitMix64 generator that begins at each hash: uint64 (N,) to uint64 (N,).

    Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014), figure 16, with the
    constants of Vigna's splitmix64.c.
    """
    state = key_hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


@dataclass(frozen=True)
class Rule:
    """The options of a selection.

    Args:
        min_confidence, max_confidence: only images from the one on and below the other (figure 4's bins); None: no
            limit.
        images_per_class: K, entries per class after duplication; None: the largest class within the limits.
        max_copies: no image appears more often, even if its class stays below K; None: no limit.
        fraction: of the selected images, drawn uniformly (table 8); class totals are then K x fraction on average.
    """

    method: str = "exact"
    min_confidence: float = 0.3
    max_confidence: float | None = None
    images_per_class: int | None = 130_000
    max_copies: int | None = None
    fraction: float = 1.0
    seed: int = 0
    allow_empty_classes: bool = False


Part = Sequence[tuple[int, Path]]  # some files of predictions, numbered among all


@dataclass(frozen=True)
class Rows:
    """The rows (N,) of one file of predictions.

    Args:
        number: of the file among all; a row's position is named by it and its place here.
        label: int64; confidence: float64, which holds float32 exactly; key_hash: uint64.
        passed: bool, of those within the limits.
    """

    number: int
    table: pa.Table
    label: np.ndarray
    confidence: np.ndarray
    key_hash: np.ndarray
    passed: np.ndarray

    @classmethod
    def read(cls, number: int, path: Path, rule: Rule, *more: str) -> Rows:
        """`more`: columns of the table besides."""
        table = read_table(path, [*more, "label", "confidence", "key_hash"])
        label, confidence, key_hash = (table[name].to_numpy() for name in ("label", "confidence", "key_hash"))
        confidence = confidence.astype(np.float64)
        passed = confidence >= rule.min_confidence
        if rule.max_confidence is not None:
            passed &= confidence < rule.max_confidence
        return cls(number, table, label.astype(np.int64), confidence, key_hash, passed)

    def positions(self, place: np.ndarray) -> np.ndarray:
        """Of some rows among those of all files, from 1, uint64."""
        return np.uint64((self.number << 32) + 1) + place.astype(np.uint64)


@dataclass
class Counts:
    """What the first pass counts, of C classes.

    Args:
        images: (2, C, BINS + 1) per bin of confidence, outside the limits and within them.
        lots: (C, 2**LOT_BITS) per first bits of the ticket, within the limits.
    """

    images: np.ndarray
    lots: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> Counts:
        return cls(np.zeros((2, classes, BINS + 1), np.uint32), np.zeros((classes, 2**LOT_BITS), np.uint32))

    @classmethod
    def of(cls, classes: int, rule: Rule, part: Part) -> Counts:
        """Of the rows of some files."""
        found = cls.empty(classes)
        for number, path in part:
            rows = Rows.read(number, path, rule)
            bin = (rows.confidence * BINS).astype(np.int64)
            np.add.at(found.images.reshape(-1), (rows.passed * classes + rows.label) * (BINS + 1) + bin, np.uint32(1))
            within = np.flatnonzero(rows.passed)
            lot = (tickets(rows.key_hash[within], rule.seed) >> np.uint64(64 - LOT_BITS)).astype(np.int64)
            np.add.at(found.lots.reshape(-1), (rows.label[within] << LOT_BITS) + lot, np.uint32(1))
        return found

    def add(self, more: Counts) -> None:
        self.images += more.images
        self.lots += more.lots

    @property
    def above(self) -> np.ndarray:
        """(C, BINS + 1) images within the limits."""
        return self.images[1].astype(np.int64)


def boundary(counts: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell (C,) of counts (C, cells) that holds the `wanted`-th row (C,), the rows in it, and the row's number there.

    Numbers are from 1.
    """
    cumulative = counts.cumsum(axis=1, dtype=np.int64)
    cell = np.minimum((cumulative < wanted[:, None]).sum(axis=1), counts.shape[1] - 1)
    reached, within = (np.take_along_axis(table, cell[:, None], axis=1)[:, 0] for table in (cumulative, counts))
    return cell, within.astype(np.int64), wanted - (reached - within)


class Official:
    """A threshold and expected copies per class; arrays (C,).

    [C] walks down from 1.00 in steps of 0.01 until a class has its quota or the minimum is reached. It compares the
    stored float32 with a double threshold, so a stored 0.70 lies below 0.70, as in our bins.
    """

    def __init__(self, counts: Counts, images_per_class: int, rule: Rule) -> None:
        above, step = counts.above, BINS // 100
        hundredths = np.concatenate([above[:, :BINS].reshape(-1, 100, step).sum(axis=2), above[:, BINS:]], axis=1)
        reached = hundredths[:, ::-1].cumsum(axis=1)[:, ::-1]  # images at or over i/100
        index = np.maximum((reached >= images_per_class).sum(axis=1) - 1, round(rule.min_confidence * 100))
        total = np.take_along_axis(reached, index[:, None], axis=1)[:, 0]
        expected = np.where(total > 0, images_per_class / np.maximum(total, 1), 0.0)
        self.expected = expected if rule.max_copies is None else np.minimum(expected, rule.max_copies)
        self.threshold = index / 100
        self.seed = rule.seed

    def copies(self, rows: Rows) -> np.ndarray:
        """How often each row is selected (N,)."""
        chosen = rows.passed & (rows.confidence >= self.threshold[rows.label])
        expected = np.where(chosen, self.expected[rows.label], 0.0)
        copies = np.floor(expected).astype(np.int64)
        return copies + (tickets(rows.key_hash, self.seed) / 2.0**64 < expected - copies)


def thinned(copies: np.ndarray, rows: Rows, rule: Rule) -> np.ndarray:
    """The copies (N,) of a uniform share of the selected images, 0 of the others (table 8).

    Smaller shares lie within larger ones. An image's lot is drawn apart from the ticket that has selected it.
    """
    if rule.fraction == 1:
        return copies
    return np.where(tickets(rows.key_hash, rule.seed + APART) / 2.0**64 < rule.fraction, copies, 0)
