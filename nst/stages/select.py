"""`nst select`: keep confident predictions and balance the classes (paper section 3.1) → selection/*.parquet.

One file per shard with the selected rows and how often each appears; selection.json, written last, tells the
totals and every class's story. Which rows those are is decided in nst/data/balance.py, by one rule per class:
so shards are written one after the other, and memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from nst.checking import check_values
from nst.config import plain
from nst.data.balance import (
    BINS,
    REPORT_BINS,
    Counts,
    ExactPlan,
    Limits,
    OfficialPlan,
    Rows,
    accuracy,
    open_database,
    thinned,
)
from nst.data.predictions import FORMAT, Predictions, PredictionShard, footer_digest, parquet_name
from nst.data.shard_set import ShardSet, load_index
from nst.errors import NstError, UsageError
from nst.progress import say
from nst.runs import Run, atomic_path, sha256_file, write_json
from nst.stages.apart import keep_apart
from nst.stages.places import predictions_folder, selection_folder, shards_place

T = TypeVar("T")
ROWS_PER_BATCH = 1_000_000
BATCHES_AHEAD = 4


def run(
    predictions: Path | str,
    output: Path | str,
    *,
    method: str = "exact",
    min_confidence: float = 0.3,
    max_confidence: float | None = None,
    images_per_class: int | None = 130_000,
    max_copies: int | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    allow_empty_classes: bool = False,
    truth: Path | str | None = None,
    unlabeled: ShardSet | None = None,
    memory_limit: str = "4GB",
    threads: int | None = None,
    overwrite: bool = False,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Selects from a predictions folder into `output`; returns the totals, which are also in result.json.

    Args:
        max_confidence: only images below it; None: no limit.
        images_per_class: K, entries per class after duplication; None: the largest class above the minimum.
        max_copies: no image appears more often, even if its class stays below K; None: no limit.
        fraction: of the selected images, drawn uniformly; class totals are then K x fraction on average.
        truth: Parquet (key, label) with the true classes, to report the accuracy of the pseudo-labels.
        unlabeled: the shards as they are now; predictions of others are refused. None: not compared.
        threads: that select; None: one a core. memory_limit: of DuckDB, where there is a truth to compare with.
            The result does not depend on them.

    Raises:
        NstError: options or predictions are invalid, a class stays empty, or memory or disk do not suffice.
    """
    _check_options(method, min_confidence, max_confidence, images_per_class, max_copies, fraction)
    opened = Predictions.open(predictions)
    opened.require(shards=unlabeled)
    options: dict[str, Any] = {
        "method": method,
        "min_confidence": min_confidence,
        "max_confidence": max_confidence,
        "images_per_class": images_per_class,
        "max_copies": max_copies,
        "fraction": fraction,
        "seed": seed,
        "allow_empty_classes": allow_empty_classes,
    }
    inputs = {
        **options,
        "teacher": opened.teacher,
        "predictions": opened.digest,
        "truth": sha256_file(truth) if truth else None,
    }
    files = ["selection.json", *(parquet_name(name) for name in opened.shards)]
    with Run(output, "select", inputs, config=config, overwrite=overwrite, files=files) as stage:
        if stage.done and (Path(output) / "selection.json").exists():
            return stage.result()
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            selection = Selection(opened, pool, **options)
            selection.plan()
            shards = selection.write(Path(output))
        summary = {
            "format": FORMAT,
            "predictions": opened.digest,
            **options,
            **selection.summary(),
            "shards": shards,
        }
        if truth:
            with open_database(Path(output), memory_limit, threads) as database:
                folders = opened.folder, Path(output), Path(truth)
                summary["accuracy"] = accuracy(database, *folders, opened.classes)
        write_json(Path(output) / "selection.json", summary)
        shown = ("totals", "accuracy") if truth else ("totals",)
        return stage.finish({**options, **{name: summary[name] for name in shown}})


class Selection:
    """Plan (a cutoff per class), write (a file per shard) and summary of one selection over C classes."""

    def __init__(
        self,
        predictions: Predictions,
        pool: ThreadPoolExecutor,
        *,
        method: str,
        min_confidence: float,
        max_confidence: float | None,
        images_per_class: int | None,
        max_copies: int | None,
        fraction: float,
        seed: int,
        allow_empty_classes: bool,
    ) -> None:
        self.predictions, self.pool, self.seed = predictions, pool, seed
        self.method, self.limits = method, Limits(min_confidence, max_confidence)
        self.images_per_class, self.max_copies, self.fraction = images_per_class, max_copies, fraction
        self.allow_empty_classes = allow_empty_classes
        self.batches = list(enumerate(_batches(list(predictions.shards.values()))))
        count = len(predictions.classes)
        bins = (count, BINS + 1)
        self.counts = Counts(np.zeros(bins, np.int64), np.zeros(bins, np.int64), best=np.zeros(count))
        self.threshold = np.full(count, min_confidence)  # [C]'s, per class
        self.rule: Callable[[Rows], np.ndarray]  # copies of every row
        self.after = np.zeros((count, REPORT_BINS), np.int64)  # copies
        self.selected = np.zeros(count, np.int64)
        self.lowest = np.full(count, np.inf)

    def plan(self) -> None:
        """Counts, checks that no class is empty, and finds one rule per class."""
        for counts in self._each(lambda rows: Counts.of(rows, len(self.threshold))):
            self.counts.add(counts)
        if not self.allow_empty_classes:
            self._refuse_empty_classes()
        above, quota = self.counts.above, self._quota()
        if self.method == "official":
            grid = round(self.limits.low * 100)
            official = OfficialPlan(above, grid, quota, self.max_copies, self.seed)
            self.rule, self.threshold = official.copies, official.threshold
        else:
            exact = ExactPlan(above, quota, self.max_copies, self.seed)
            exact.decide(self._each(exact.look, "key"))
            self.rule = exact.copies

    def write(self, output: Path) -> list[dict[str, Any]]:
        """Writes the selected rows of every shard; returns name, sha256, samples and copies per shard."""
        written = []

        def selected(rows: Rows) -> list[pa.Table]:
            return rows.selected(thinned(self.rule(rows), rows, self.fraction, self.seed))

        batches = self._each(selected, "index", "key")
        with ThreadPoolExecutor(8) as writers:  # a file waits for its fsync most of the time
            for (_, batch), tables in zip(self.batches, batches, strict=True):
                paths = [output / parquet_name(shard.name) for shard in batch]
                writing = [writers.submit(_write_shard, *pair) for pair in zip(paths, tables, strict=True)]
                self._tally(pa.concat_tables(tables))
                footers = [file.result() for file in writing]
                written += [
                    {
                        "name": shard.name,
                        "sha256": shard.sha256,
                        **({} if shard.excluded is None else {"excluded": shard.excluded}),
                        "samples": len(part),
                        "copies": int(part["copies"].to_numpy().sum()),
                        "footer": footer,
                    }
                    for shard, part, footer in zip(batch, tables, footers, strict=True)
                ]
        return written

    def _each(self, function: Callable[[Rows], T], *columns: str) -> Iterator[T]:
        """`function` of every batch of rows, in order, computed ahead by the pool's threads."""

        def compute(number: int, batch: Sequence[PredictionShard]) -> T:
            return function(Rows.read(number, [shard.path for shard in batch], columns, self.limits))

        waiting: deque[Future[T]] = deque()
        for numbered in self.batches:
            waiting.append(self.pool.submit(compute, *numbered))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def summary(self) -> dict[str, Any]:
        """What selection.json tells besides options and shards; call after `write`."""
        report = self.counts.images[:, :BINS].reshape(-1, REPORT_BINS, BINS // REPORT_BINS).sum(axis=2)
        report[:, -1] += self.counts.images[:, BINS]
        copies = self.after.sum(axis=1)
        per_class = [
            {
                "class": name,
                "labeled": int(self.counts.images[c].sum()),
                "above_min": int(self.counts.above[c].sum()),
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
                "images": int(self.counts.images.sum()),
                "above_min": int(self.counts.above.sum()),
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
        return self.images_per_class or int(self.counts.above.sum(axis=1).max())

    def _refuse_empty_classes(self) -> None:
        empty = np.flatnonzero(self.counts.above.sum(axis=1) == 0)
        if len(empty) == 0:
            return
        shown = [
            f"{self.predictions.classes[c]!r}: {self.counts.images[c].sum()} images labeled as it"
            + (f", best confidence {self.counts.best[c]:.3f}" if self.counts.images[c].any() else "")
            for c in empty[:5]
        ]
        below = f" and below {self.limits.high:g}" if self.limits.high is not None else ""
        raise NstError(
            f"{len(empty)} of {len(self.predictions.classes)} classes have no image of confidence "
            f"{self.limits.low:g} or more{below}",
            got="; ".join(shown) + ("; ..." if len(empty) > 5 else ""),
            valid="at least one confident image per class",
            next="lower select.min_confidence=..., label more images, or accept it: select.allow_empty_classes=true",
        )

    def _tally(self, table: pa.Table) -> None:
        label, confidence, copies = (table[n].to_numpy() for n in ("label", "confidence", "copies"))
        # a float32 product could round up over an edge, a double one is exact
        bin = np.minimum(confidence.astype(np.float64) * REPORT_BINS, REPORT_BINS - 1).astype(np.int64)
        place = label * np.int64(REPORT_BINS) + bin
        counted = np.bincount(place, weights=copies, minlength=self.after.size)  # exact: whole numbers in double
        self.after += counted.astype(np.int64).reshape(self.after.shape)
        self.selected += np.bincount(label, minlength=len(self.selected))
        np.minimum.at(self.lowest, label, confidence)


def _check_options(
    method: str,
    min_confidence: float,
    max_confidence: float | None,
    images_per_class: int | None,
    max_copies: int | None,
    fraction: float,
) -> None:
    check_values(
        "select", method=method, min_confidence=min_confidence, max_confidence=max_confidence,
        images_per_class=images_per_class, max_copies=max_copies, fraction=fraction,
    )  # fmt: skip
    if max_confidence is not None and max_confidence <= min_confidence:
        raise UsageError(
            "select.max_confidence is a probability above min_confidence", got=max_confidence,
            valid=f"above {min_confidence:g}, up to 1, or null",
        )  # fmt: skip
    if method == "official" and abs(min_confidence * 100 - round(min_confidence * 100)) > 1e-9:
        raise UsageError(
            "select.method=official works on a 0.01 grid",
            got=f"min_confidence={min_confidence}",
            valid="multiples of 0.01",
            next="select.method=exact takes any minimum",
        )


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


def _write_shard(path: Path, table: pa.Table) -> str:
    """Returns the digest of the file's footer."""
    with atomic_path(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", use_dictionary=["label", "copies"], write_page_checksum=True
        )
        return footer_digest(temporary)


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    say(f"{selection_folder(cfg.teacher, cfg.stage)}: {summary_line(result)}")
    return result


def from_cfg(cfg: DictConfig) -> dict[str, Any]:
    """`run` with the arguments that the configuration asks for."""
    keep_apart(cfg, "select")
    predictions, output = (place(cfg.teacher, cfg.stage) for place in (predictions_folder, selection_folder))
    if not (predictions / "DONE").exists():
        raise NstError(f"there is no finished labeling in {predictions}", next="nst label, with the same options")
    folder = Path(shards_place(cfg.data, "unlabeled"))  # of an address nothing exists here, and nothing is compared
    truth = folder / "truth.parquet"
    return run(
        predictions,
        output,
        seed=cfg.seed,
        truth=truth if truth.exists() else None,
        unlabeled=load_index(folder) if (folder / "index.json").exists() else None,
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
