"""`nst select`: keep confident predictions and balance the classes (paper section 3.1) → selection/*.parquet.

One file per shard with the selected rows and how often each appears; selection.json, written last, tells the
totals and every class's story. Which rows those are is decided in nst/data/balance.py, by one rule per class:
so shards are written one after the other, and memory does not grow with their number.
"""

from __future__ import annotations

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
from nst.data.balance import (
    BINS,
    COPIES,
    REPORT_BINS,
    accuracy,
    count_images,
    open_database,
    plan_exact,
    plan_official,
    selected_rows,
    split_by_file,
)
from nst.data.predictions import FORMAT, Predictions, PredictionShard, parquet_name
from nst.errors import NstError, require_choice
from nst.progress import say
from nst.runs import Run, atomic_path, sha256_file, write_json
from nst.stages.places import predictions_folder, selection_folder

ROWS_PER_BATCH = 1_000_000


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
        "predictions": opened.digest,
        "truth": sha256_file(truth) if truth else None,
    }
    with Run(output, "select", inputs, config=config, overwrite=overwrite) as stage:
        if stage.done:
            return stage.result()
        with open_database(opened.folder, Path(output), seed, memory_limit, threads) as database:
            selection = Selection(opened, database, **options)
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
                summary["accuracy"] = accuracy(database, Path(output), Path(truth), opened.classes)
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
                files = [shard.path for shard in batch]
                table = selected_rows(self.database, self.method, files)
                self._tally(table)
                tables = split_by_file(table, files)
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
        rows = count_images(self.database, self.min_confidence)
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

    def _tally(self, table: pa.Table) -> None:
        label, confidence, copies = (table[n].to_numpy() for n in ("label", "confidence", "copies"))
        # a float32 product could round up over an edge, a double one is exact
        bin = np.minimum(confidence.astype(np.float64) * REPORT_BINS, REPORT_BINS - 1).astype(np.int64)
        np.add.at(self.after, (label, bin), copies)
        self.selected += np.bincount(label, minlength=len(self.selected))
        np.minimum.at(self.lowest, label, confidence)


def _check_options(method: str, min_confidence: float, images_per_class: int | None, max_copies: int | None) -> None:
    require_choice("select.method", method, COPIES)
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


def _write_shard(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    say(f"{selection_folder(cfg)}: {summary_line(result)}")
    return result


def from_cfg(cfg: DictConfig) -> dict[str, Any]:
    """`run` with the arguments that the configuration asks for."""
    predictions, output = predictions_folder(cfg), selection_folder(cfg)
    if not (predictions / "DONE").exists():
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
