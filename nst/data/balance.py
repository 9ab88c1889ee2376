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
duplicated: of such there are fewer than K a class, however many images there are.
"""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nst.data.predictions import read_table
from nst.data.tickets import tickets
from nst.errors import NstError

# The 1000 bins refine [C]'s 0.01 grid and the report's 0.05 bins. Exact: float32 times 1000 fits a double.
BINS = 1000
REPORT_BINS = 20
TICKET_BINS = 1024
SCHEMA = pa.schema(
    [
        ("index", pa.uint32()),
        ("key", pa.string()),
        ("label", pa.uint16()),
        ("confidence", pa.float32()),
        ("copies", pa.uint32()),
    ]
)
METHODS = ("exact", "official")
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
        sizes: rows of each file.
        confidence: in double, which holds float32 exactly.
        passed: bool, of those whose confidence may be selected.
    """

    number: int
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
        return cls(number, sizes, table, label.astype(np.int64), confidence, limits.admit(confidence))

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
    before = np.take_along_axis(cumulative - counts, bin[:, None], axis=1)[:, 0]
    return bin, wanted - before


# ---- exact -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Places, classes and tickets of some rows of one batch."""

    place: np.ndarray  # uint32
    label: np.ndarray  # uint16
    ticket: np.ndarray  # uint64

    @classmethod
    def of(cls, rows: Rows, chosen: np.ndarray, seed: int) -> Drawn:
        place = np.flatnonzero(chosen)
        label = rows.label[place].astype(np.uint16)
        return cls(place.astype(np.uint32), label, rows.tickets(place, seed))

    def bins(self) -> np.ndarray:
        return (self.ticket // np.uint64(2**64 // TICKET_BINS)).astype(np.int64)

    def where(self, chosen: np.ndarray) -> Drawn:
        return Drawn(self.place[chosen], self.label[chosen], self.ticket[chosen])


@dataclass(frozen=True)
class Look:
    """What the cutoffs are found from, of one batch.

    Args:
        near: images in the bin of confidence that holds their class's cutoff, where images abound.
        confidence: of those.
        lots: images of the classes whose extra copies are drawn.
    """

    number: int
    near: Drawn
    confidence: np.ndarray
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
        bin, self.rank = boundary(above[:, ::-1], self.extra)  # the most confident first
        self.bin = BINS - bin
        self.looks: dict[int, Look] = {}
        # each class's last image with one more copy
        self.cut_confidence = np.full(len(images), np.inf)
        self.cut_ticket = np.zeros(len(images), np.uint64)
        self.cut_batch, self.cut_place = (np.zeros(len(images), np.int64) for _ in range(2))

    def look(self, rows: Rows) -> Look:
        """Finds what may lie at a cutoff."""
        near = Drawn.of(
            rows, rows.passed & self.abundant[rows.label] & (rows.bins() == self.bin[rows.label]), self.seed
        )
        lots = Drawn.of(rows, rows.passed & self.scarce[rows.label], self.seed)
        return Look(rows.number, near, rows.confidence[near.place], lots)

    def decide(self, looks: Iterator[Look]) -> None:
        """Finds the cutoff of every class."""
        self.looks = {look.number: look for look in looks}
        counts = np.zeros(len(self.base) * TICKET_BINS, np.int64)
        for look in self.looks.values():
            counts += np.bincount(look.lots.label * np.int64(TICKET_BINS) + look.lots.bins(), minlength=len(counts))
        bin, rank = boundary(counts.reshape(-1, TICKET_BINS), self.extra)
        edge = {look.number: look.lots.where(look.lots.bins() == bin[look.lots.label]) for look in self.looks.values()}
        self._cut(self.scarce, rank, edge, {number: np.zeros(len(lots.place)) for number, lots in edge.items()})
        near = {look.number: look.near for look in self.looks.values()}
        self._cut(self.abundant, self.rank, near, {look.number: look.confidence for look in self.looks.values()})

    def _cut(
        self, classes: np.ndarray, rank: np.ndarray, drawn: dict[int, Drawn], confidence: dict[int, np.ndarray]
    ) -> None:
        """The cutoff of some classes is the rank-th of their candidates, by confidence, ticket and place."""
        chosen = np.flatnonzero(classes)
        if not len(chosen):
            return
        batch = np.concatenate([np.full(len(part.place), number) for number, part in drawn.items()])
        place, label, ticket = (
            np.concatenate([getattr(part, name) for part in drawn.values()]) for name in ("place", "label", "ticket")
        )
        sure = np.concatenate(list(confidence.values()))
        order = np.lexsort((place, batch, ticket, -sure, label))
        last = order[np.searchsorted(label[order], chosen) + rank[chosen] - 1]
        self.cut_confidence[chosen], self.cut_ticket[chosen] = sure[last], ticket[last]
        self.cut_batch[chosen], self.cut_place[chosen] = batch[last], place[last]

    def copies(self, rows: Rows) -> np.ndarray:
        """How often each row is selected (N,)."""
        copies = self.base[rows.label]
        copies += self.abundant[rows.label] & (rows.confidence > self.cut_confidence[rows.label])
        copies[~rows.passed] = 0
        if rows.number in self.looks:
            look = self.looks[rows.number]
            tied = look.near.where(look.confidence == self.cut_confidence[look.near.label])
            for drawn in (tied, look.lots):
                copies[drawn.place] += self._wins(rows.number, drawn)
        return copies

    def _wins(self, number: int, drawn: Drawn) -> np.ndarray:
        cut = self.cut_ticket[drawn.label]
        batch, place = self.cut_batch[drawn.label], self.cut_place[drawn.label]
        earlier = (number < batch) | ((number == batch) & (drawn.place <= place))
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
