"""`nst select`: keep confident predictions and balance the classes, as SQL over Parquet (paper section 3.1).

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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from nst.config import plain
from nst.data.pseudo_labels import FORMAT, Predictions, PredictionShard, parquet_name
from nst.errors import NstError, nearest
from nst.progress import say
from nst.runs import Run, atomic_path, fingerprint, sha256_file, write_json

# The 1000 bins refine [C]'s 0.01 grid and the report's 0.05 bins. Exact: float32 times 1000 fits a double.
BINS = 1000
REPORT_BINS = 20
TICKET_BINS = 1024
ROWS_PER_BATCH = 1_000_000
SCHEMA = pa.schema(
    [
        ("index", pa.uint32()),
        ("key", pa.string()),
        ("label", pa.uint16()),
        ("confidence", pa.float32()),
        ("copies", pa.uint32()),
    ]
)


def run(
    predictions: Path | str,
    output: Path | str,
    *,
    method: str = "exact",
    min_confidence: float = 0.3,
    images_per_class: int | None = 130_000,
    max_copies: int | None = None,
    seed: int = 0,
    allow_empty_classes: bool = False,
    truth: Path | str | None = None,
    memory_limit: str = "4GB",
    threads: int | None = None,
    overwrite: bool = False,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Selects from a predictions folder into `output`; returns the totals, which are also in result.json.

    Args:
        images_per_class: K, entries per class after duplication; None: the largest class above the minimum.
        max_copies: no image appears more often, even if its class stays below K; None: no limit.
        truth: Parquet (key, label) with the true classes, to report the accuracy of the pseudo-labels.
        memory_limit, threads: of DuckDB; the result does not depend on them.

    Raises:
        NstError: options or predictions are invalid, a class stays empty, or memory or disk do not suffice.
    """
    _check_options(method, min_confidence, images_per_class, max_copies)
    opened = Predictions.open(predictions)
    options: dict[str, Any] = {
        "method": method,
        "min_confidence": min_confidence,
        "images_per_class": images_per_class,
        "max_copies": max_copies,
        "seed": seed,
        "allow_empty_classes": allow_empty_classes,
    }
    inputs = {
        **options,
        "teacher": opened.teacher,
        "predictions": fingerprint({shard.name: shard.digest for shard in opened.shards.values()}),
        "truth": sha256_file(truth) if truth else None,
    }
    with Run(output, "select", inputs, config=config, overwrite=overwrite) as stage:
        if stage.done:
            return stage.result()
        with _database(opened, Path(output), seed, memory_limit, threads) as database:
            selection = Selection(opened, database, **options)
            selection.plan()
            shards = selection.write(Path(output))
            summary = {"format": FORMAT, **options, **selection.summary(), "shards": shards}
            if truth:
                summary["accuracy"] = _accuracy(database, Path(output), Path(truth), opened.classes)
        write_json(Path(output) / "selection.json", summary)
        shown = ("totals", "accuracy") if truth else ("totals",)
        return stage.finish({**options, **{name: summary[name] for name in shown}})


class Selection:
    """Plan (a cutoff per class), write (a file per shard) and summary of one selection over C classes."""

    def __init__(
        self,
        predictions: Predictions,
        database: duckdb.DuckDBPyConnection,
        *,
        method: str,
        min_confidence: float,
        images_per_class: int | None,
        max_copies: int | None,
        seed: int,
        allow_empty_classes: bool,
    ) -> None:
        self.predictions, self.database = predictions, database
        self.method, self.min_confidence = method, min_confidence
        self.images_per_class, self.max_copies = images_per_class, max_copies
        self.allow_empty_classes = allow_empty_classes
        count = len(predictions.classes)
        self.images = np.zeros((count, BINS + 1), np.int64)  # per class and bin of confidence
        self.above = np.zeros((count, BINS + 1), np.int64)  # the same, of confidence >= min_confidence
        self.best = np.zeros(count)
        self.threshold = np.full(count, min_confidence)  # [C]'s, per class
        self.after = np.zeros((count, REPORT_BINS), np.int64)  # copies
        self.selected = np.zeros(count, np.int64)
        self.lowest = np.full(count, np.inf)

    def plan(self) -> None:
        """Counts, checks that no class is empty, and leaves the table `plan` with one rule per class."""
        self._count()
        if not self.allow_empty_classes:
            self._refuse_empty_classes()
        if self.method == "exact":
            plan_exact(self.database, self.above, self.min_confidence, self._quota(), self.max_copies)
        else:
            grid = round(self.min_confidence * 100)
            self.threshold = plan_official(self.database, self.images, grid, self._quota(), self.max_copies)

    def write(self, output: Path) -> list[dict[str, Any]]:
        """Writes the selected rows of every shard; returns name, sha256, samples and copies per shard."""
        written = []
        with ThreadPoolExecutor(8) as pool:  # a file waits for its fsync most of the time
            for batch in _batches(list(self.predictions.shards.values())):
                table = self._select(batch)
                self._tally(table)
                tables = _split(table, batch)
                list(pool.map(_write_shard, [output / parquet_name(shard.name) for shard in batch], tables))
                written += [
                    {
                        "name": shard.name,
                        "sha256": shard.sha256,
                        "samples": len(part),
                        "copies": int(part["copies"].to_numpy().sum()),
                    }
                    for shard, part in zip(batch, tables, strict=True)
                ]
        return written

    def summary(self) -> dict[str, Any]:
        """What selection.json tells besides options and shards; call after `write`."""
        report = self.images[:, :BINS].reshape(-1, REPORT_BINS, BINS // REPORT_BINS).sum(axis=2)
        report[:, -1] += self.images[:, BINS]
        copies = self.after.sum(axis=1)
        per_class = [
            {
                "class": name,
                "labeled": int(self.images[c].sum()),
                "above_min": int(self.above[c].sum()),
                "selected": int(self.selected[c]),
                "copies_total": int(copies[c]),
                "threshold": float(self.threshold[c]),
                "lowest_confidence": float(self.lowest[c]) if self.selected[c] else None,
            }
            for c, name in enumerate(self.predictions.classes)
        ]
        return {
            "classes": self.predictions.classes,
            "teacher": self.predictions.teacher,
            "totals": {
                "images": int(self.images.sum()),
                "above_min": int(self.above.sum()),
                "selected": int(self.selected.sum()),
                "copies": int(copies.sum()),
                "images_per_class": self._quota(),
            },
            "per_class": per_class,
            "confidence_histogram": {
                "edges": [round(i / REPORT_BINS, 2) for i in range(REPORT_BINS + 1)],
                "before": report.tolist(),
                "after": self.after.tolist(),
            },
        }

    def _quota(self) -> int:
        return self.images_per_class or int(self.above.sum(axis=1).max())

    def _count(self) -> None:
        rows = self.database.execute(
            """SELECT label, confidence_bin(confidence) AS bin, count(*) AS images, max(confidence) AS best,
                      count(*) FILTER (confidence >= $minimum) AS above
               FROM prediction GROUP BY label, bin""",
            {"minimum": self.min_confidence},
        ).fetchnumpy()
        label, bin = rows["label"], rows["bin"]
        self.images[label, bin] = rows["images"]
        self.above[label, bin] = rows["above"]
        np.maximum.at(self.best, label, rows["best"])

    def _refuse_empty_classes(self) -> None:
        empty = np.flatnonzero(self.above.sum(axis=1) == 0)
        if len(empty) == 0:
            return
        shown = [
            f"{self.predictions.classes[c]!r}: {self.images[c].sum()} images labeled as it"
            + (f", best confidence {self.best[c]:.3f}" if self.images[c].any() else "")
            for c in empty[:5]
        ]
        raise NstError(
            f"{len(empty)} of {len(self.predictions.classes)} classes have no image of confidence "
            f"{self.min_confidence:g} or more",
            got="; ".join(shown) + ("; ..." if len(empty) > 5 else ""),
            valid="at least one confident image per class",
            next="lower select.min_confidence=..., label more images, or accept it: select.allow_empty_classes=true",
        )

    def _select(self, batch: Sequence[PredictionShard]) -> pa.Table:
        """Selected rows of some shards, by file and index."""
        query = f"""
            SELECT file, index, key, label, confidence::FLOAT AS confidence, copies
            FROM (SELECT source.*, ({COPIES[self.method]})::UINTEGER AS copies
                  FROM ({_source("$files")}) AS source JOIN plan USING (label)
                  WHERE confidence >= plan.lowest)
            WHERE copies > 0 ORDER BY file, index"""
        files = [glob.escape(str(shard.path)) for shard in batch]
        return self.database.sql(query, params={"files": files}).to_arrow_table()

    def _tally(self, table: pa.Table) -> None:
        label, confidence, copies = (table[n].to_numpy() for n in ("label", "confidence", "copies"))
        # a float32 product could round up over an edge, a double one is exact
        bin = np.minimum(confidence.astype(np.float64) * REPORT_BINS, REPORT_BINS - 1).astype(np.int64)
        np.add.at(self.after, (label, bin), copies)
        self.selected += np.bincount(label, minlength=len(self.selected))
        np.minimum.at(self.lowest, label, confidence)


# ------------------------------------------------------------------------------------------------ rules

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


# ------------------------------------------------------------------------------------------------ tools


def _check_options(method: str, min_confidence: float, images_per_class: int | None, max_copies: int | None) -> None:
    if method not in COPIES:
        raise NstError(f"unknown select.method{nearest(method, COPIES)}", got=method, valid=", ".join(COPIES))
    if not 0 <= min_confidence <= 1:
        raise NstError("select.min_confidence is a probability", got=min_confidence, valid="0 to 1")
    if method == "official" and abs(min_confidence * 100 - round(min_confidence * 100)) > 1e-9:
        raise NstError(
            "select.method=official works on a 0.01 grid",
            got=f"min_confidence={min_confidence}",
            valid="multiples of 0.01",
            next="select.method=exact takes any minimum",
        )
    for name, value in (("images_per_class", images_per_class), ("max_copies", max_copies)):
        if value is not None and value < 1:
            raise NstError(f"select.{name} is a count", got=value, valid="1 or more, or null")


def _source(files: str) -> str:
    """Rows of the predictions without their probabilities; float32 widens to double without change."""
    return (
        "SELECT filename AS file, index, key, label, confidence::DOUBLE AS confidence "
        f"FROM read_parquet({files}, filename=true, hive_partitioning=false)"
    )


def _pattern(folder: Path) -> str:
    """SQL literal that matches every Parquet file of a folder, whatever characters its name has."""
    return "'" + glob.escape(str(folder)).replace("'", "''") + "/*.parquet'"


@contextlib.contextmanager
def _database(
    predictions: Predictions, output: Path, seed: int, memory_limit: str, threads: int | None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB with `prediction`, `ticket` and the bins; it spills into the output folder."""
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
            database.execute(f"CREATE VIEW prediction AS {_source(_pattern(predictions.folder))}")
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


def _table(database: duckdb.DuckDBPyConnection, name: str, **columns: np.ndarray) -> None:
    database.register("incoming", pa.table(columns))
    database.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM incoming")
    database.unregister("incoming")


def _batches(shards: Sequence[PredictionShard]) -> Iterator[list[PredictionShard]]:
    """Neighbouring shards, together about ROWS_PER_BATCH rows: bounds memory, amortises the query."""
    batch: list[PredictionShard] = []
    rows = 0
    for shard in shards:
        batch.append(shard)
        rows += shard.samples
        if rows >= ROWS_PER_BATCH:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _split(table: pa.Table, batch: Sequence[PredictionShard]) -> list[pa.Table]:
    """One table per shard of the batch, from rows that are sorted by file."""
    rows = {run["values"]: run["counts"] for run in table["file"].value_counts().to_pylist()}
    starts, start = {}, 0
    for file, count in rows.items():  # value_counts keeps the order of appearance
        starts[file], start = start, start + count
    files = [str(shard.path) for shard in batch]
    return [table.slice(starts.get(file, 0), rows.get(file, 0)).select(SCHEMA.names).cast(SCHEMA) for file in files]


def _write_shard(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _accuracy(database: duckdb.DuckDBPyConnection, output: Path, truth: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Share of right pseudo-labels before and after selection (copies count), per class and bin."""
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


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    say(f"{cfg.teacher.selection}: {summary_line(result)}")
    return result


def from_cfg(cfg: DictConfig) -> dict[str, Any]:
    """`run` with the arguments that the configuration asks for."""
    predictions, output = cfg.teacher.predictions, cfg.teacher.selection
    if cfg.teacher.run is None and (predictions is None or output is None):
        raise NstError("select whose predictions?", next="nst select teacher.run=<run directory of the teacher>")
    if not (Path(predictions) / "DONE").exists():
        raise NstError(f"there is no finished labeling in {predictions}", next="nst label, with the same options")
    truth = Path(cfg.data.unlabeled) / "truth.parquet"
    return run(
        predictions,
        output,
        seed=cfg.seed,
        truth=truth if truth.exists() else None,
        overwrite=cfg.overwrite,
        config=plain(cfg),
        **plain(cfg.select),
    )


def summary_line(result: Mapping[str, Any]) -> str:
    """One line about a selection: how many images, how often, and how right where that is known."""
    totals = result["totals"]
    line = f"{totals['selected']} of {totals['images']} images selected, {totals['copies']} with copies"
    if "accuracy" in result:
        before, after = (100 * result["accuracy"][name]["accuracy"] for name in ("before", "after"))
        line += f"; pseudo-labels right: {before:.1f} % before, {after:.1f} % after selection"
    return line
