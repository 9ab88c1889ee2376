"""Which predictions are kept, and how often, as SQL over Parquet (paper section 3.1: filtering and balancing).

Confidence is the teacher's largest probability, class its argmax. [P] keeps confidence >= 0.3 and brings
every class to 130,000 images: the most confident where there are more, duplicates where there are fewer.

    exact     [O] default: a class total is exactly K = images_per_class; each of its n images appears
              floor(K/n) or ceil(K/n) times
    official  [C]: a threshold per class on a 0.01 grid, then every image above it is thinned or duplicated by
              the same expected factor K/total, the fraction decided by a coin: K on average only

The one decision worth knowing: every image draws a *ticket*, md5(seed:key), which decides ties of confidence,
extra copies and coins. So a selection does not depend on threads, row order or packing into shards, and
whether a row is selected follows from its class's cutoff alone: a histogram, a ranking of the one bin per
class that holds the cutoff, and a pass that writes shard by shard. No step sorts all 300M rows.
"""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

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

# Copies of one row, given its class's row of `plan`. CASE is lazy: few rows ever need their ticket.
COPIES = {
    "exact": """base + CASE
        WHEN extra = 0 THEN 0
        WHEN by_confidence AND confidence <> cut_confidence THEN (confidence > cut_confidence)::UINTEGER
        WHEN ticket(key) <> cut_ticket THEN (ticket(key) < cut_ticket)::UINTEGER
        ELSE ((file, index) <= (cut_file, cut_index))::UINTEGER END""",
    "official": "floor(expected) + CASE WHEN expected = floor(expected) THEN 0 "
    "ELSE (ticket(key)::DOUBLE / 18446744073709551616.0 < expected - floor(expected))::UINTEGER END",
}


@contextlib.contextmanager
def open_database(
    predictions: Path, output: Path, seed: int, memory_limit: str, threads: int | None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB over a predictions folder, with `prediction`, `ticket` and the bins.

    It spills into the output folder. The result of no query below depends on `memory_limit` or `threads`.

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
            database.execute(f"CREATE VIEW prediction AS {_source(_pattern(predictions))}")
            database.execute(f"CREATE MACRO ticket(key) AS md5_number_upper('{int(seed)}:' || key)")
            database.execute(f"CREATE MACRO ticket_bin(key) AS (ticket(key) // {2**64 // TICKET_BINS})::INTEGER")
            database.execute(f"CREATE MACRO confidence_bin(c) AS floor(c * {BINS})::INTEGER")
            yield database
    except (duckdb.OutOfMemoryException, duckdb.IOException, duckdb.ParserException) as error:
        raise NstError(
            "the selection's database gave up",
            got=str(error).splitlines()[0],
            valid=f"select.memory_limit={memory_limit} and free disk space in {spill.parent} to spill to",
            next="raise select.memory_limit=..., or make room on the disk",
        ) from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _source(files: str) -> str:
    """Rows of the predictions without their probabilities; float32 widens to double without change."""
    return (
        "SELECT filename AS file, index, key, label, confidence::DOUBLE AS confidence "
        f"FROM read_parquet({files}, filename=true, hive_partitioning=false)"
    )


def _pattern(folder: Path) -> str:
    """SQL literal that matches every Parquet file of a folder, whatever characters its name has."""
    return "'" + glob.escape(str(folder)).replace("'", "''") + "/*.parquet'"


def _table(database: duckdb.DuckDBPyConnection, name: str, **columns: np.ndarray) -> None:
    database.register("incoming", pa.table(columns))
    database.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM incoming")
    database.unregister("incoming")


def count_images(database: duckdb.DuckDBPyConnection, min_confidence: float) -> dict[str, np.ndarray]:
    """label, bin (of confidence), images, above (of confidence >= min_confidence) and best; one row where any."""
    return database.execute(
        """SELECT label, confidence_bin(confidence) AS bin, count(*) AS images, max(confidence) AS best,
                  count(*) FILTER (confidence >= $minimum) AS above
           FROM prediction GROUP BY label, bin""",
        {"minimum": min_confidence},
    ).fetchnumpy()


def plan_exact(
    database: duckdb.DuckDBPyConnection,
    above: np.ndarray,
    min_confidence: float,
    images_per_class: int,
    max_copies: int | None,
) -> None:
    """Table `plan`: all get `base` copies, the best `extra` of a class one more; `cut_*` is their last.

    Best means most confident where images abound, lowest ticket where they are duplicated.

    Args:
        above: (C, BINS + 1) images at or over min_confidence per class and bin of confidence.
    """
    images = above.sum(axis=1)
    wanted = np.where(images > 0, images_per_class, 0)
    if max_copies is not None:
        wanted = np.minimum(wanted, images * max_copies)
    base = wanted // np.maximum(images, 1)
    extra = wanted - base * images
    by_confidence = base == 0
    # columns in order of preference
    counts = np.zeros((len(images), max(BINS + 1, TICKET_BINS)), np.int64)
    counts[by_confidence, : BINS + 1] = above[by_confidence, ::-1]
    label, bin, count = _ticket_histogram(database, np.flatnonzero(~by_confidence & (extra > 0)), min_confidence)
    counts[label, bin] = count
    bin, rank = boundary(counts, extra)
    label = np.arange(len(images))
    rule = {"base": base, "extra": extra, "by_confidence": by_confidence, "bin": bin, "rank": rank}
    _table(database, "rule", label=label, **rule)
    database.execute(
        f"""CREATE OR REPLACE TEMP TABLE plan AS
            WITH candidate AS (
                SELECT label, confidence, key, file, index, by_confidence, rank
                FROM prediction JOIN rule USING (label)
                WHERE extra > 0 AND confidence >= $minimum AND bin = CASE
                    WHEN by_confidence THEN {BINS} - confidence_bin(confidence) ELSE ticket_bin(key) END),
            ranked AS (
                SELECT *, row_number() OVER (
                    PARTITION BY label
                    ORDER BY CASE WHEN by_confidence THEN -confidence ELSE 0 END, ticket(key), file, index
                ) AS place
                FROM candidate)
            SELECT rule.label, base, extra, rule.by_confidence, confidence AS cut_confidence,
                ticket(key) AS cut_ticket, file AS cut_file, index AS cut_index,
                CASE WHEN rule.by_confidence THEN confidence ELSE $minimum END AS lowest
            FROM rule LEFT JOIN (FROM ranked WHERE place = rank) AS cutoff USING (label)""",
        {"minimum": min_confidence},
    )


def _ticket_histogram(
    database: duckdb.DuckDBPyConnection, labels: np.ndarray, min_confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """label, bin and count of the tickets of the given classes."""
    _table(database, "scarce", label=labels)
    rows = database.execute(
        """SELECT label, ticket_bin(key) AS bin, count(*) AS images FROM prediction JOIN scarce USING (label)
           WHERE confidence >= $minimum GROUP BY ALL""",
        {"minimum": min_confidence},
    ).fetchnumpy()
    return rows["label"], rows["bin"], rows["images"]


def boundary(counts: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin that holds the `wanted`-th image (C,) of counts (C, bins), and its place, from 1, in that bin."""
    cumulative = counts.cumsum(axis=1)
    bin = np.minimum((cumulative < wanted[:, None]).sum(axis=1), counts.shape[1] - 1)
    before = np.take_along_axis(cumulative - counts, bin[:, None], axis=1)[:, 0]
    return bin, wanted - before


def plan_official(
    database: duckdb.DuckDBPyConnection,
    images: np.ndarray,
    grid_minimum: int,
    images_per_class: int,
    max_copies: int | None,
) -> np.ndarray:
    """Table `plan`: threshold and expected copies per class; returns the thresholds (C,).

    [C] walks down from 1.00 in steps of 0.01 until a class has its quota or the minimum is reached. It
    compares the stored float32 with a double threshold, so a stored 0.70 lies below 0.70, as in our bins.

    Args:
        images: (C, BINS + 1) images per class and bin of confidence.
        grid_minimum: smallest threshold, in hundredths.
    """
    step = BINS // 100
    hundredths = np.concatenate([images[:, :BINS].reshape(-1, 100, step).sum(axis=2), images[:, BINS:]], axis=1)
    reached = hundredths[:, ::-1].cumsum(axis=1)[:, ::-1]  # images at or over i/100
    index = np.maximum((reached >= images_per_class).sum(axis=1) - 1, grid_minimum)
    total = np.take_along_axis(reached, index[:, None], axis=1)[:, 0]
    expected = np.where(total > 0, images_per_class / np.maximum(total, 1), 0.0)
    if max_copies is not None:
        expected = np.minimum(expected, max_copies)
    threshold = index / 100
    _table(database, "plan", label=np.arange(len(images)), lowest=threshold, expected=expected)
    return threshold


def selected_rows(database: duckdb.DuckDBPyConnection, method: str, files: Sequence[Path]) -> pa.Table:
    """Rows of some prediction files that the table `plan` selects, by file and index: columns and copies > 0."""
    query = f"""
        SELECT file, index, key, label, confidence::FLOAT AS confidence, copies
        FROM (SELECT source.*, ({COPIES[method]})::UINTEGER AS copies
              FROM ({_source("$files")}) AS source JOIN plan USING (label)
              WHERE confidence >= plan.lowest)
        WHERE copies > 0 ORDER BY file, index"""
    return database.sql(query, params={"files": [glob.escape(str(file)) for file in files]}).to_arrow_table()


def split_by_file(table: pa.Table, files: Sequence[Path]) -> list[pa.Table]:
    """`selected_rows`, of which the files are sorted, as one table of SCHEMA per file; empty ones where none are."""
    rows = {run["values"]: run["counts"] for run in table["file"].value_counts().to_pylist()}
    starts, start = {}, 0
    for file, count in rows.items():  # value_counts keeps the order of appearance
        starts[file], start = start, start + count
    parts = [table.slice(starts.get(str(file), 0), rows.get(str(file), 0)) for file in files]
    return [part.select(SCHEMA.names).cast(SCHEMA) for part in parts]


def accuracy(database: duckdb.DuckDBPyConnection, output: Path, truth: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Share of right pseudo-labels before and after selection (copies count), per class and bin.

    Args:
        output: folder of a finished selection.
        truth: Parquet (key, label) with the true classes.
    """
    sources = {
        "before": "SELECT *, 1 AS copies FROM prediction",
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
