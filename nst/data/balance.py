"""Which predictions are kept, and how often (paper section 3.1: filtering and balancing).

Confidence is the teacher's largest probability, class its argmax. [P] keeps confidence >= 0.3 and brings
every class to 130,000 images: the most confident where there are more, duplicates where there are fewer.

    exact     [O] default: a class total is exactly K = images_per_class; each of its n images appears
              floor(K/n) or ceil(K/n) times
    official  [C]: a threshold per class on a 0.01 grid, then every image above it is thinned or duplicated by
              the same expected factor K/total, the fraction decided by a coin: K on average only

The one decision worth knowing: every image draws a *ticket* (nst/data/tickets.py), which decides ties of confidence,
extra copies and coins. So a selection does not depend on threads, row order or packing into shards, and whether a row
is selected follows from its class's cutoff alone: a histogram, a look at what may lie at a cutoff, and a pass that
writes shard by shard. No step sorts all 300M rows. Kept in memory are 14 bytes for each image of a class that is
duplicated, of which there are fewer than K a class, and 26 bytes for each of at most MOST_NEAR images near a cutoff.
If more are near, as with a teacher that is sure of everything, they are counted in finer bins and looked at again.
"""

from __future__ import annotations

import contextlib
import glob
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nst.data.predictions import read_table
from nst.data.tickets import tickets
from nst.errors import NstError
from nst.written import FOLDER, note

# The 1000 bins refine [C]'s 0.01 grid and the report's 0.05 bins. Exact: float32 times 1000 fits a double.
BINS = 1000
REPORT_BINS = 20
TICKET_BINS = 1024
MOST_NEAR = 2**22  # images held near the cutoffs of all classes: 0.1 GB, 0.3 GB while they are sorted
CODE_BINS = 2**15  # of a bin of confidence: one for every float32 in it from 0.5 on
CELLS = 2**25  # finer bins of all classes that need them, at most: 0.1 GB, 0.4 GB while they are summed
SCHEMA = pa.schema(
    [
        ("index", pa.uint32()),
        ("key", pa.string()),
        ("label", pa.uint16()),
        ("confidence", pa.float32()),
        ("copies", pa.uint32()),
    ]
)
APART = 2**40  # added to a seed: of draws that have nothing to do with those of the seed itself


@dataclass(frozen=True)
class Limits:
    """Which confidences may be selected: from `low` on, and below `high` where there is one (figure 4's bins)."""

    low: float
    high: float | None = None

    def admit(self, confidence: np.ndarray) -> np.ndarray:
        """Bool (N,)."""
        passed = confidence >= self.low
        if self.high is not None:
            passed &= confidence < self.high
        return passed


@dataclass(frozen=True)
class Rows:
    """The rows (N,) of some neighbouring prediction files, in order.

    Args:
        number: of this batch of files; a row is named by it and its place here.
        files: which they are.
        limits: that decide what passes.
        sizes: rows of each file.
        confidence: in double, which holds float32 exactly.
        passed: bool, of those whose confidence may be selected.
    """

    number: int
    files: Sequence[Path]
    limits: Limits
    sizes: list[int]
    table: pa.Table
    label: np.ndarray
    confidence: np.ndarray
    passed: np.ndarray

    @classmethod
    def read(cls, number: int, files: Sequence[Path], columns: Sequence[str], limits: Limits) -> Rows:
        """Label, confidence and what else is asked for."""
        tables = [read_table(file, [*columns, "label", "confidence"]) for file in files]
        table = pa.concat_tables(tables).combine_chunks()
        label, confidence = (table[name].to_numpy() for name in ("label", "confidence"))
        confidence = confidence.astype(float)
        sizes = [len(part) for part in tables]
        passed = limits.admit(confidence)
        return cls(number, files, limits, sizes, table, label.astype(np.int64), confidence, passed)

    def bins(self) -> np.ndarray:
        """Of confidence (N,), 0 to BINS."""
        return np.floor(self.confidence * BINS).astype(np.int64)

    def tickets(self, places: np.ndarray, seed: int) -> np.ndarray:
        return tickets(self.table["key"].take(pa.array(places)), seed)

    def selected(self, copies: np.ndarray) -> list[pa.Table]:
        """A table of SCHEMA per file, with the rows of copies > 0."""
        table = self.table.append_column("copies", pa.array(copies, pa.uint32())).select(SCHEMA.names).cast(SCHEMA)
        starts = np.cumsum(self.sizes) - self.sizes
        parts = (
            (table.slice(start, size), copies[start : start + size] > 0)
            for start, size in zip(starts.tolist(), self.sizes, strict=True)
        )
        return [part.filter(pa.array(chosen)) for part, chosen in parts]


@dataclass
class Counts:
    """Images per class and bin of confidence (C, BINS + 1): all, and those within the limits."""

    images: np.ndarray
    above: np.ndarray
    best: np.ndarray  # confidence (C,)

    @classmethod
    def of(cls, rows: Rows, classes: int) -> Counts:
        shape = (classes, BINS + 1)
        place = rows.label * (BINS + 1) + rows.bins()
        images, above = (
            np.bincount(which, minlength=classes * (BINS + 1)).reshape(shape) for which in (place, place[rows.passed])
        )
        best = np.zeros(classes)
        np.maximum.at(best, rows.label, rows.confidence)
        return cls(images, above, best)

    def add(self, more: Counts) -> None:
        self.images += more.images
        self.above += more.above
        np.maximum(self.best, more.best, out=self.best)


def boundary(counts: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin that holds the `wanted`-th image (C,) of counts (C, bins), and its place, from 1, in that bin."""
    cumulative = counts.cumsum(axis=1)
    bin = np.minimum((cumulative < wanted[:, None]).sum(axis=1), counts.shape[1] - 1)
    reached, within = (np.take_along_axis(table, bin[:, None], axis=1)[:, 0] for table in (cumulative, counts))
    return bin, wanted - (reached.astype(np.int64) - within)


def placed(keys: Sequence[np.ndarray], label: np.ndarray, classes: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Which row is the `rank`-th (C,), from 1, of each of some classes, sorted by keys (N,), the first key first."""
    order = np.lexsort((*reversed(keys), label))
    return order[np.searchsorted(label[order], classes) + rank - 1]


# ---- exact -----------------------------------------------------------------------------------------------


def codes(confidence: np.ndarray) -> np.ndarray:
    """Float32 bits of confidences, the surest first: no two differ by less than 1, uint64."""
    # positive floats are ordered as their bits are
    return np.uint64(2**32 - 1) - confidence.astype(np.float32).view(np.uint32)


def confidences(codes: np.ndarray) -> np.ndarray:
    """What `codes` was made of, in double."""
    return (np.uint64(2**32 - 1) - codes).astype(np.uint32).view(np.float32).astype(float)


def code_ranges(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last code in each of some bins of confidence."""

    def smallest(bins: np.ndarray) -> np.ndarray:
        nearest = (bins / BINS).astype(np.float32)
        return np.where(nearest.astype(float) * BINS < bins, np.nextafter(nearest, np.float32(2)), nearest)

    return codes(smallest(bins + 1)) + np.uint64(1), codes(smallest(bins))


def positions(number: int, place: np.ndarray) -> np.ndarray:
    """Of rows of a batch among those of all, uint64: what decides between images of one ticket."""
    return np.uint64(number << 32) + place.astype(np.uint64)


@dataclass(frozen=True)
class Drawn:
    """Places, classes and tickets of some rows of one batch."""

    place: np.ndarray  # uint32
    label: np.ndarray  # uint16
    ticket: np.ndarray  # uint64

    @classmethod
    def of(cls, rows: Rows, place: np.ndarray, seed: int) -> Drawn:
        label = rows.label[place].astype(np.uint16)
        return cls(place.astype(np.uint32), label, rows.tickets(place, seed))

    def bins(self) -> np.ndarray:
        return (self.ticket // np.uint64(2**64 // TICKET_BINS)).astype(np.int64)


@dataclass(frozen=True)
class Near:
    """Images near a cutoff: class (N,), and code, ticket and position (3, N)."""

    label: np.ndarray  # uint16
    digits: np.ndarray  # uint64


class Search:
    """Finds the rank-th image of some classes by code, ticket and position, its three digits, in bounded memory.

    A class's image lies between `low` and `high` (3, C), at first the bounds of a bin of confidence. Where few others
    do they are held and sorted. Otherwise they are counted in cells of the first digit that is open, and the next
    look is at one cell. Call `look` on all batches, which may happen in several threads, then `narrow`, until there
    is none of `left`.

    Args:
        classes: (C,) bool, those with something to find.
        bin: (C,) of confidence.
        count: (C,) images in it.
        rank: (C,) of the image to find among them, from 1.
    """

    def __init__(self, classes: np.ndarray, bin: np.ndarray, count: np.ndarray, rank: np.ndarray, seed: int) -> None:
        self.left, self.count, self.rank, self.seed = classes, count, rank, seed
        self.low, self.high = np.zeros((3, len(bin)), np.uint64), np.full((3, len(bin)), 2**64 - 1, np.uint64)
        self.low[0], self.high[0] = code_ranges(bin)
        self.lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        """Decides of which classes the next look holds images and of which it counts them."""
        images = np.where(self.left, self.count, 0)
        order = np.argsort(images, kind="stable")  # the largest classes are counted
        self.wide = np.zeros(len(images), bool)
        self.wide[order] = (images[order].cumsum() > MOST_NEAR) & (images[order] > 1)
        # most rows are far away: one comparison of doubles keeps them out
        self.least = np.where(self.left, confidences(self.high[0]), np.inf)
        self.most = confidences(self.low[0])
        self.digit = (self.low < self.high).argmax(axis=0)
        number = np.arange(len(images))
        self.first, self.last = self.low[self.digit, number], self.high[self.digit, number]
        cells = np.minimum(np.where(self.digit == 0, CODE_BINS, TICKET_BINS), max(16, CELLS // max(self.wide.sum(), 1)))
        # the range itself, its last included, may be 2**64
        self.width = (self.last - self.first) // cells.astype(np.uint64) + np.uint64(1)
        needed = (self.last - self.first) // self.width
        self.row = self.wide.cumsum() - 1
        self.cells = np.zeros((self.wide.sum(), int(needed[self.wide].max(initial=0)) + 1), np.uint32)

    def look(self, rows: Rows) -> Near:
        """Counts what is to be counted; returns what is to be held."""
        inside = rows.confidence >= self.least[rows.label]
        inside &= rows.confidence <= self.most[rows.label]
        place = np.flatnonzero(inside & rows.passed)
        label, code = rows.label[place], codes(rows.confidence[place])
        by_code = self.wide[label] & (self.digit[label] == 0)
        self._tally(label[by_code], code[by_code])  # with no need of tickets, which take time
        place, label, code = place[~by_code], label[~by_code], code[~by_code]
        digits = np.stack([code, rows.tickets(place, self.seed), positions(rows.number, place)])
        inside = np.ones(len(label), bool)
        for digit, low, high in zip(digits, self.low, self.high, strict=True):
            inside &= (digit >= low[label]) & (digit <= high[label])
        label, digits = label[inside], digits[:, inside]
        counted = self.wide[label]
        self._tally(label[counted], digits[self.digit[label[counted]], counted.nonzero()[0]])
        return Near(label[~counted].astype(np.uint16), digits[:, ~counted])

    def _tally(self, label: np.ndarray, value: np.ndarray) -> None:
        cell = ((value - self.first[label]) // self.width[label]).astype(np.int64)
        with self.lock:
            np.add.at(self.cells.reshape(-1), self.row[label] * self.cells.shape[1] + cell, np.uint32(1))

    def narrow(self, parts: Sequence[Near]) -> None:
        """Draws the bounds closer, or together, after a look."""
        held = np.flatnonzero(self.left & ~self.wide)
        if len(held):
            label = np.concatenate([part.label for part in parts])
            digits = np.concatenate([part.digits for part in parts], axis=1)
            found = placed(list(digits), label, held, self.rank[held])
            self.low[:, held] = self.high[:, held] = digits[:, found]
        wide = np.flatnonzero(self.wide)
        if len(wide):
            cell, self.rank[wide] = boundary(self.cells, self.rank[wide])
            self.count[wide] = self.cells[np.arange(len(wide)), cell]
            low = self.first[wide] + cell.astype(np.uint64) * self.width[wide]
            self.low[self.digit[wide], wide] = low
            self.high[self.digit[wide], wide] = low + np.minimum(self.width[wide] - np.uint64(1), self.last[wide] - low)
        self.left = self.wide
        self._begin()


@dataclass(frozen=True)
class Look:
    """What the cutoffs are found from, of one batch.

    Args:
        again: reads it, with its keys.
        near: images near the cutoff of their class, where images abound.
        lots: images of the classes whose extra copies are drawn.
    """

    number: int
    again: Callable[[], Rows]
    near: Near
    lots: Drawn


class ExactPlan:
    """All images of a class get `base` copies, the best `extra` of them one more; arrays (C,).

    Best means most confident where images abound, lowest ticket where they are duplicated. Call `look` on all batches,
    which may happen in several threads, `decide` once, then `copies` on all batches.

    Args:
        above: (C, BINS + 1) images within the limits per class and bin of confidence.
    """

    def __init__(self, above: np.ndarray, images_per_class: int, max_copies: int | None, seed: int) -> None:
        images = above.sum(axis=1)
        wanted = np.where(images > 0, images_per_class, 0)
        if max_copies is not None:
            wanted = np.minimum(wanted, images * max_copies)
        self.seed = seed
        self.base = wanted // np.maximum(images, 1)
        self.extra = wanted - self.base * images
        self.abundant = (self.base == 0) & (self.extra > 0)
        self.scarce = (self.base > 0) & (self.extra > 0)
        bin, rank = boundary(above[:, ::-1], self.extra)  # the most confident first
        bin = BINS - bin
        self.search = Search(self.abundant, bin, above[np.arange(len(bin)), bin], rank, seed)
        self.threads: set[int] = set()  # that have looked: as many look again
        self.lots: dict[int, Drawn] = {}
        # each class's last image with one more copy
        self.cut_confidence = np.full(len(images), np.inf)
        self.cut_ticket, self.cut_position = (np.zeros(len(images), np.uint64) for _ in range(2))

    def look(self, rows: Rows) -> Look:
        """Finds what may lie at a cutoff."""
        self.threads.add(threading.get_ident())
        lots = Drawn.of(rows, np.flatnonzero(rows.passed & self.scarce[rows.label]), self.seed)
        again = partial(Rows.read, rows.number, rows.files, ["key"], rows.limits)
        return Look(rows.number, again, self.search.look(rows), lots)

    def decide(self, looks: Iterable[Look]) -> None:
        """Finds the cutoff of every class. Reads all batches again where too many images are near one."""
        looked = list(looks)
        self.search.narrow([look.near for look in looked])
        self.lots = {look.number: look.lots for look in looked}
        batches = [look.again for look in looked]
        del looked  # what was near is no longer needed
        self._cut_scarce()
        while self.search.left.any():
            with ThreadPoolExecutor(len(self.threads)) as pool:
                self.search.narrow(list(pool.map(lambda again: self.search.look(again()), batches)))
        code, ticket, position = self.search.low[:, self.abundant]
        self.cut_confidence[self.abundant] = confidences(code)
        self.cut_ticket[self.abundant], self.cut_position[self.abundant] = ticket, position

    def _cut_scarce(self) -> None:
        """Where copies are drawn the last to get one more is the `extra`-th by ticket and position."""
        chosen = np.flatnonzero(self.scarce)
        if not len(chosen):
            return
        counts = np.zeros(len(self.base) * TICKET_BINS, np.int64)
        for lots in self.lots.values():
            counts += np.bincount(lots.label * np.int64(TICKET_BINS) + lots.bins(), minlength=len(counts))
        bin, rank = boundary(counts.reshape(-1, TICKET_BINS), self.extra)
        edge = [(number, lots, lots.bins() == bin[lots.label]) for number, lots in self.lots.items()]
        label, ticket = (
            np.concatenate([getattr(lots, name)[here] for _, lots, here in edge]) for name in ("label", "ticket")
        )
        position = np.concatenate([positions(number, lots.place[here]) for number, lots, here in edge])
        last = placed([ticket, position], label, chosen, rank[chosen])
        self.cut_ticket[chosen], self.cut_position[chosen] = ticket[last], position[last]

    def copies(self, rows: Rows) -> np.ndarray:
        """How often each row is selected (N,)."""
        copies = self.base[rows.label]
        cut = self.cut_confidence[rows.label]
        copies += self.abundant[rows.label] & (rows.confidence > cut)
        copies[~rows.passed] = 0
        tied = Drawn.of(rows, np.flatnonzero(rows.passed & (rows.confidence == cut)), self.seed)
        for drawn in (tied, self.lots[rows.number]):
            copies[drawn.place] += self._wins(rows.number, drawn)
        return copies

    def _wins(self, number: int, drawn: Drawn) -> np.ndarray:
        cut = self.cut_ticket[drawn.label]
        earlier = positions(number, drawn.place) <= self.cut_position[drawn.label]
        return (drawn.ticket < cut) | ((drawn.ticket == cut) & earlier)


# ---- official --------------------------------------------------------------------------------------------


class OfficialPlan:
    """A threshold and expected copies per class; arrays (C,).

    [C] walks down from 1.00 in steps of 0.01 until a class has its quota or the minimum is reached. It
    compares the stored float32 with a double threshold, so a stored 0.70 lies below 0.70, as in our bins.

    Args:
        above: (C, BINS + 1) images within the limits per class and bin of confidence.
        grid_minimum: smallest threshold, in hundredths.
    """

    def __init__(
        self, above: np.ndarray, grid_minimum: int, images_per_class: int, max_copies: int | None, seed: int
    ) -> None:
        step = BINS // 100
        hundredths = np.concatenate([above[:, :BINS].reshape(-1, 100, step).sum(axis=2), above[:, BINS:]], axis=1)
        reached = hundredths[:, ::-1].cumsum(axis=1)[:, ::-1]  # images at or over i/100
        index = np.maximum((reached >= images_per_class).sum(axis=1) - 1, grid_minimum)
        total = np.take_along_axis(reached, index[:, None], axis=1)[:, 0]
        expected = np.where(total > 0, images_per_class / np.maximum(total, 1), 0.0)
        self.expected = expected if max_copies is None else np.minimum(expected, max_copies)
        self.threshold = index / 100
        self.seed = seed

    def copies(self, rows: Rows) -> np.ndarray:
        """How often each row is selected (N,)."""
        chosen = rows.passed & (rows.confidence >= self.threshold[rows.label])
        expected = np.where(chosen, self.expected[rows.label], 0.0)
        copies = np.floor(expected).astype(np.int64)
        fraction = expected - copies
        coin = np.flatnonzero(fraction)
        copies[coin] += rows.tickets(coin, self.seed).astype(float) / 2.0**64 < fraction[coin]
        return copies


# ---- a part of it -----------------------------------------------------------------------------------------


def thinned(copies: np.ndarray, rows: Rows, fraction: float, seed: int) -> np.ndarray:
    """The copies (N,) of a uniform share of the selected images, 0 of the others (table 8).

    Smaller shares lie within larger ones. An image's lot is drawn apart from the ticket that has selected it.
    """
    if fraction < 1:
        chosen = np.flatnonzero(copies)
        lots = rows.tickets(chosen, seed + APART).astype(float) / 2.0**64
        copies[chosen[lots >= fraction]] = 0
    return copies


# ---- how right it is -------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_database(output: Path, memory_limit: str, threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that spills into the output folder.

    Raises:
        NstError: memory, disk or the form of `memory_limit` do not suffice for what is done inside the block.
    """
    spill = output / ".spill"
    note(spill, kind=FOLDER)
    shutil.rmtree(spill, ignore_errors=True)  # of a killed run
    settings: dict[str, Any] = {
        "memory_limit": memory_limit,
        "temp_directory": str(spill),
        "preserve_insertion_order": False,
    }
    if threads is not None:
        settings["threads"] = threads
    try:
        with duckdb.connect(config=settings) as database:
            yield database
    except (duckdb.OutOfMemoryException, duckdb.IOException, duckdb.ParserException) as error:
        raise NstError(
            "the comparison with the true classes gave up",
            got=str(error).splitlines()[0],
            valid=f"select.memory_limit={memory_limit} and free disk space in {spill.parent} to spill to",
            next="raise select.memory_limit=..., or make room on the disk",
        ) from error
    except duckdb.Error as error:
        raise NstError(
            "the true classes cannot be compared",
            got=str(error).splitlines()[0],
            next="make truth.parquet again, as the unlabeled shards; or move it away, and nothing is compared",
        ) from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _pattern(folder: Path) -> str:
    """SQL literal that matches every Parquet file of a folder, whatever characters its name has."""
    return "'" + glob.escape(str(folder)).replace("'", "''") + "/*.parquet'"


def accuracy(
    database: duckdb.DuckDBPyConnection, predictions: Path, output: Path, truth: Path, classes: Sequence[str]
) -> dict[str, Any]:
    """Share of right pseudo-labels before and after selection (copies count), per class and bin.

    Args:
        predictions, output: folders of predictions and of the selection made from them.
        truth: Parquet (key, label) with the true classes.
    """
    sources = {
        "before": f"SELECT *, 1 AS copies FROM read_parquet({_pattern(predictions)}, hive_partitioning=false)",
        "after": f"FROM read_parquet({_pattern(output)}, hive_partitioning=false)",
    }
    report = {}
    for name, source in sources.items():
        rows = database.execute(
            f"""SELECT labeled.label, sum(copies) AS images,
                       least(floor(confidence::DOUBLE * {REPORT_BINS}), {REPORT_BINS - 1})::INTEGER AS bin,
                       coalesce(sum(copies) FILTER (labeled.label = truth.label), 0) AS right
                FROM ({source}) AS labeled
                JOIN read_parquet($truth, hive_partitioning=false) AS truth USING (key) GROUP BY ALL""",
            {"truth": glob.escape(str(truth))},
        ).fetchnumpy()
        counts = np.zeros((2, len(classes), REPORT_BINS))
        counts[0, rows["label"], rows["bin"]] = rows["images"]
        counts[1, rows["label"], rows["bin"]] = rows["right"]
        report[name] = _ratios(*counts)
    return report


def _ratios(images: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    def ratio(axis: int | None) -> list[float | None]:
        parts, whole = np.atleast_1d(right.sum(axis=axis)), np.atleast_1d(images.sum(axis=axis))
        return [float(part / all) if all else None for part, all in zip(parts, whole, strict=True)]

    return {
        "images": int(images.sum()),
        "accuracy": ratio(None)[0],
        "per_class": ratio(1),
        "per_confidence_bin": ratio(0),
    }
