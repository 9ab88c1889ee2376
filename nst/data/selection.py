"""Which predictions are selected, and how often (paper section 3.1: filtering and balancing).

Confidence is the teacher's largest probability, class its argmax. [P] keeps confidence >= 0.3 and brings every class
to 130,000 images: the most confident where there are more, duplicates where there are fewer.

    exact     [O] default: a class total is exactly its quota K; each of its n images appears floor(K/n) or ceil(K/n)
              times
    official  [C]: a threshold per class on a 0.01 grid, then every image above it is thinned or duplicated by the
              same expected factor K/total, the fraction decided by a coin: K on average only

Chance is an image's *ticket*, made of seed and key alone: it decides ties of confidence, extra copies and coins. So
a selection does not depend on the number of threads, the order of rows or their packing into shards.

All is counted over plain integers, a shard's rows at a time: `Counts`, then what each class may take (`Wanted`), then
the cutoffs (nst/data/cutoffs.py), then `copies`. Memory is that of counters and of a bounded number of rows near the
cutoffs; no step sorts all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from nst.data.parquet_files import read_table
from nst.settings.stages import SelectOptions

BINS = 1000  # of confidence: they refine [C]'s 0.01 grid and the report's 0.05 bins; float32 x 1000 is exact in double
REPORT_BINS = 20
LOT_BITS = 10  # of a ticket, counted in the first pass
APART = 2**40  # added to a seed: of draws that have nothing to do with those of the seed itself
FEWEST = 10  # images of a class, or its quota if that is less: with fewer sure ones it takes its next surest, too
BELOW, WITHIN, ABOVE = range(3)  # the limits of confidence
UNSEEN = np.float32(-1)  # the confidence of no image

Part = Sequence[tuple[int, Path]]  # some files of predictions, numbered among all


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


def at_least(confidence: np.ndarray | float) -> np.ndarray:
    """The smallest float32 that is at least so much: predictions hold float32, limits are doubles."""
    wide = np.asarray(confidence, np.float64)
    near = wide.astype(np.float32)
    return np.where(near < wide, np.nextafter(near, np.float32(np.inf)), near)


@dataclass(frozen=True)
class SelectionRule:
    """A selection as it is asked for.

    Args:
        shares: (C,) a class's quota as a multiple of images_per_class, 1 on average; all 1: equal classes.
        kept: confidence from which probabilities were stored: less sure images are no help to a class of too few.
    """

    options: SelectOptions
    seed: int
    shares: np.ndarray
    kept: float = 0.0

    @property
    def classes(self) -> int:
        return len(self.shares)


@dataclass(frozen=True)
class Bounds:
    """Confidences (C,) float32 between which each class's images are looked at, both among them."""

    least: np.ndarray
    most: np.ndarray

    @classmethod
    def of(cls, options: SelectOptions, minimum: np.ndarray) -> Bounds:
        """From each class's minimum (C,) up to, but not on, the options' maximum."""
        above = np.inf if options.max_confidence is None else options.max_confidence
        most = np.nextafter(at_least(above), np.float32(-np.inf))
        return cls(at_least(minimum), np.full(len(minimum), most))


@dataclass(frozen=True)
class Rows:
    """The rows (N,) of one file of predictions that lie within bounds.

    Args:
        number: of the file among all; a row's position is named by it and its place.
        place: in the file; label: both intp. confidence: float32. key_hash: uint64.
    """

    number: int
    table: pa.Table
    place: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    key_hash: np.ndarray

    @classmethod
    def read(cls, number: int, path: Path, bounds: Bounds, *more: str) -> Rows:
        """`more`: columns of the table besides."""
        table = read_table(path, [*more, "label", "confidence", "key_hash"])
        label, confidence = table["label"].to_numpy().astype(np.intp), table["confidence"].to_numpy()
        place = np.flatnonzero((confidence >= bounds.least[label]) & (confidence <= bounds.most[label]))
        key_hash = table["key_hash"].to_numpy()[place]
        return cls(number, table, place, label[place], confidence[place], key_hash)

    def positions(self, at: np.ndarray) -> np.ndarray:
        """Of some of these rows among those of all files, from 1, uint64."""
        return np.uint64((self.number << 32) + 1) + self.place[at].astype(np.uint64)


@dataclass
class Counts:
    """What the first pass counts, of C classes.

    Args:
        images: (3, C, BINS + 1) per bin of confidence, below the limits, within them and above.
        lots: (C, 2**LOT_BITS) per first bits of the ticket, within the limits.
        only: (C,) float32, the one confidence within the limits; UNSEEN without images, NaN if there are several.
    """

    images: np.ndarray
    lots: np.ndarray
    only: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> Counts:
        images, lots = (np.zeros(shape, np.uint32) for shape in ((3, classes, BINS + 1), (classes, 2**LOT_BITS)))
        return cls(images, lots, np.full(classes, UNSEEN))

    @classmethod
    def of(cls, rule: SelectionRule, part: Part) -> Counts:
        """Of the rows of some files."""
        found = cls.empty(rule.classes)
        limits = Bounds.of(rule.options, np.array([rule.options.min_confidence]))
        for _, path in part:
            table = read_table(path, ["label", "confidence", "key_hash"])
            label, confidence = table["label"].to_numpy().astype(np.intp), table["confidence"].to_numpy()
            where = (confidence >= limits.least).astype(np.intp) + (confidence > limits.most)
            bin = np.multiply(confidence, BINS, dtype=np.float64).astype(np.intp)
            np.add.at(found.images.reshape(-1), (where * rule.classes + label) * (BINS + 1) + bin, np.uint32(1))
            within = np.flatnonzero(where == WITHIN)
            ticket = tickets(table["key_hash"].to_numpy()[within], rule.seed)
            lot = (ticket >> np.uint64(64 - LOT_BITS)).astype(np.intp)
            np.add.at(found.lots.reshape(-1), (label[within] << LOT_BITS) + lot, np.uint32(1))
            found._see(label[within], confidence[within])
        return found

    def _see(self, label: np.ndarray, confidence: np.ndarray) -> None:
        """Notes the confidences (N,) of these classes (N,)."""
        open = ~np.isnan(self.only)[label]  # of no row after the first files, if teachers answer as they do
        label, confidence = label[open], confidence[open]
        unseen = self.only[label] == UNSEEN
        self.only[label[unseen]] = confidence[unseen]
        self.only[label[confidence != self.only[label]]] = np.nan

    def add(self, more: Counts) -> None:
        self.images += more.images
        self.lots += more.lots
        seen = np.flatnonzero(more.only != UNSEEN)
        self._see(seen, more.only[seen])


@dataclass(frozen=True)
class Wanted:
    """What each class may take, and how often in all; arrays (C,).

    Args:
        images: (C, BINS + 1) of those that it may take, per bin of confidence.
        quota: entries, copies counted; 0 where it has no images.
        minimum: confidence from which it takes them.
        few: bool, of those with too few sure images; their minimum is lower, if there are others.
        average: K, the mean quota before classes without images are left out.
    """

    images: np.ndarray
    quota: np.ndarray
    minimum: np.ndarray
    few: np.ndarray
    average: int

    @classmethod
    def of(cls, counts: Counts, rule: SelectionRule) -> Wanted:
        """images_per_class=null: as many as the largest class has; of the labeled shares: as many as there are."""
        options, images = rule.options, counts.images[WITHIN].astype(np.int64)
        totals = images.sum(axis=1)
        equal = options.prior == "equal"
        average = options.images_per_class or (int(totals.max()) if equal else round(totals.sum() / rule.classes))
        quota = np.maximum(np.rint(average * rule.shares), rule.shares > 0).astype(np.int64)
        minimum = np.full(rule.classes, options.min_confidence)
        least = np.minimum(quota, FEWEST)
        few = (totals < least) & (not options.allow_empty_classes)
        step = BINS // 100 if options.method == "official" else 1
        lowest = step * math.ceil(rule.kept * BINS / step)
        for c in np.flatnonzero(few & counts.images[BELOW, :, lowest:].any(axis=1)):
            lower = counts.images[BELOW : WITHIN + 1, c].sum(axis=0, dtype=np.int64)
            reached = lower[::-1].cumsum()[::-1]  # images in or over a bin
            bin = max(int((reached >= least[c]).sum()) - 1, lowest) // step * step
            minimum[c] = bin / BINS
            images[c, bin:] = lower[bin:]
        return cls(images, np.where(images.any(axis=1), quota, 0), minimum, few, average)


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

    def __init__(self, wanted: Wanted, rule: SelectionRule) -> None:
        images, step = wanted.images, BINS // 100
        hundredths = np.concatenate([images[:, :BINS].reshape(-1, 100, step).sum(axis=2), images[:, BINS:]], axis=1)
        reached = hundredths[:, ::-1].cumsum(axis=1)[:, ::-1]  # images at or over i/100
        lowest = np.round(wanted.minimum * 100).astype(np.int64)
        index = np.maximum((reached >= np.maximum(wanted.quota, 1)[:, None]).sum(axis=1) - 1, lowest)
        total = np.take_along_axis(reached, index[:, None], axis=1)[:, 0]
        expected = np.where(total > 0, wanted.quota / np.maximum(total, 1), 0.0)
        most = rule.options.max_copies
        self.expected = expected if most is None else np.minimum(expected, most)
        self.threshold = index / 100
        self.taken = Bounds.of(rule.options, self.threshold)
        self.seed = rule.seed

    def copies(self, rows: Rows) -> np.ndarray:
        """How often each row is selected (N,)."""
        expected = self.expected[rows.label]
        copies = np.floor(expected).astype(np.int64)
        return copies + (tickets(rows.key_hash, self.seed) / 2.0**64 < expected - copies)


def thinned(copies: np.ndarray, rows: Rows, rule: SelectionRule) -> np.ndarray:
    """The copies (N,) of a uniform share of the selected images, 0 of the others (table 8).

    Smaller shares lie within larger ones. An image's lot is drawn apart from the ticket that has selected it.
    """
    fraction = rule.options.fraction
    if fraction == 1:
        return copies
    return np.where(tickets(rows.key_hash, rule.seed + APART) / 2.0**64 < fraction, copies, 0)
