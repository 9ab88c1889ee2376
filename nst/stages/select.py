"""`nst select`: keep confident predictions and balance the classes (paper section 3.1) → selection/*.parquet.

selection.json, written last, tells the totals and every class's story. Which rows are selected is decided in
nst/data/selection.py and cutoffs.py, in three passes over the predictions: counting, looking at the cutoffs, writing
(nst/data/selected.py). A killed selection begins again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from nst.atomic import sha256_file, write_json
from nst.checking import check_values
from nst.config import plain
from nst.data.cutoffs import Exact
from nst.data.predictions import FORMAT, Predictions, read_table
from nst.data.selected import SHARDS_PER_FILE, Tally, file_name, write
from nst.data.selection import BINS, REPORT_BINS, Counts, Official, Rule
from nst.data.shard_set import ShardSet, load_index
from nst.errors import NstError, UsageError
from nst.progress import say
from nst.runs import Run
from nst.stages.apart import keep_apart
from nst.stages.places import predictions_folder, selection_folder, shards_place

ROWS_PER_PROCESS = 5_000_000  # of fewer it is not worth the start of another one
PARTS = 2  # per process: one that is slow is waited for less


def run(
    predictions: Path | str,
    output: Path | str,
    *,
    truth: Path | str | None = None,
    unlabeled: ShardSet | None = None,
    memory_limit: str = "4GB",
    threads: int | None = None,
    overwrite: bool = False,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Selects from a predictions folder into `output`; returns the totals, which are also in result.json.

    Args:
        truth: Parquet (key, label) with the true classes, to report the accuracy of the pseudo-labels.
        unlabeled: the shards as they are now; predictions of others are refused. None: not compared.
        threads: that select; None: one a core. memory_limit: of DuckDB, where there is a truth to compare with.
            The result does not depend on them.
        options: of `Rule`.

    Raises:
        NstError: options or predictions are invalid, a class stays empty, or memory or disk do not suffice.
    """
    rule = Rule(**options)
    _check(rule)
    opened = Predictions.open(predictions)
    opened.require(shards=unlabeled)
    inputs = {
        **asdict(rule),
        "teacher": opened.teacher,
        "predictions": opened.digest,
        "truth": sha256_file(truth) if truth else None,
    }
    files = ["selection.json", *(file_name(n) for n in range(-(-len(opened.shards) // SHARDS_PER_FILE)))]
    with Run(output, "select", inputs, config=config, overwrite=overwrite, files=files) as stage:
        if stage.done and (Path(output) / "selection.json").exists():
            return stage.result()
        workers = min(threads or os.cpu_count() or 1, 1 + opened.samples // ROWS_PER_PROCESS)
        with processes(workers) as each:
            selection = selected(opened, rule, Path(output), each, PARTS * workers)
        summary = {"format": FORMAT, "predictions": opened.digest, **asdict(rule), **selection}
        if truth:
            from nst.data.truth import accuracy, open_database  # here: DuckDB is needed for nothing else

            with open_database(Path(output), memory_limit, threads) as database:
                summary["accuracy"] = accuracy(database, opened.folder, Path(output), Path(truth), opened.classes)
        write_json(Path(output) / "selection.json", summary)
        shown = ("totals", "accuracy") if truth else ("totals",)
        return stage.finish({**asdict(rule), **{name: summary[name] for name in shown}})


Each = Callable[..., Iterator[Any]]  # calls a function with each of some arguments; results come in order


@contextmanager
def processes(workers: int) -> Iterator[Each]:
    """What calls functions side by side in so many processes; with one it is this process.

    Not in threads: most of the work are short calls of NumPy and Arrow, between which threads wait for each other.
    """
    if workers == 1:
        yield map
        return
    # not forked: threads of the parent may hold locks that no one would ever release in the child
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool.map
        except BrokenProcessPool as error:
            raise NstError(
                "a process that selects died",
                got=error,
                next="most often memory ran out: select.threads=1; the same command begins again",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def selected(predictions: Predictions, rule: Rule, output: Path, each: Each, parts: int) -> dict[str, Any]:
    """Selects and writes; returns what selection.json tells besides the options."""
    shards = list(enumerate(predictions.shards.values()))
    files = [(number, shard.path) for number, shard in shards]
    share = [files[start::parts] for start in range(min(parts, len(files)))]
    classes = len(predictions.classes)
    counts = Counts.empty(classes)
    for more in each(partial(Counts.of, classes, rule), share):
        counts.add(more)
    if not rule.allow_empty_classes:
        _refuse_empty_classes(counts, predictions, rule)
    quota = rule.images_per_class or int(counts.above.sum(axis=1).max())
    method: Exact | Official = (Official if rule.method == "official" else Exact)(counts, quota, rule)
    while isinstance(method, Exact) and method.open.any():
        method.narrow(each(method.look, share))
    groups = enumerate(shards[start : start + SHARDS_PER_FILE] for start in range(0, len(shards), SHARDS_PER_FILE))
    tally, written = Tally.empty(classes), []
    for file in each(partial(write, output, method, rule, classes), groups):
        tally.add(file.tally)
        written.append(file)
    threshold = method.threshold if isinstance(method, Official) else np.full(classes, rule.min_confidence)
    return {
        "teacher": predictions.teacher,
        **summary(predictions.classes, counts, tally, threshold, quota),
        "shards": [shard for file in written for shard in file.shards],
        "footers": {file.name: file.footer for file in written},
    }


def summary(classes: Sequence[str], counts: Counts, tally: Tally, threshold: np.ndarray, quota: int) -> dict[str, Any]:
    """Totals, every class's story and the histograms; `threshold` (C,) is [C]'s."""
    images, above = counts.images.sum(axis=0, dtype=np.int64), counts.above.sum(axis=1)
    report = images[:, :BINS].reshape(-1, REPORT_BINS, BINS // REPORT_BINS).sum(axis=2)
    report[:, -1] += images[:, BINS]
    copies = tally.copies.sum(axis=1)
    per_class = [
        {
            "class": name,
            "labeled": int(report[c].sum()),
            "above_min": int(above[c]),
            "selected": int(tally.selected[c]),
            "copies_total": int(copies[c]),
            "threshold": float(threshold[c]),
            "lowest_confidence": float(tally.lowest[c]) if tally.selected[c] else None,
        }
        for c, name in enumerate(classes)
    ]
    return {
        "classes": classes,
        "totals": {
            "images": int(images.sum()),
            "above_min": int(above.sum()),
            "selected": int(tally.selected.sum()),
            "copies": int(copies.sum()),
            "images_per_class": quota,
        },
        "per_class": per_class,
        "confidence_histogram": {
            "edges": [round(i / REPORT_BINS, 2) for i in range(REPORT_BINS + 1)],
            "before": report.tolist(),
            "after": tally.copies.tolist(),
        },
    }


def _refuse_empty_classes(counts: Counts, predictions: Predictions, rule: Rule) -> None:
    empty = np.flatnonzero(counts.above.sum(axis=1) == 0)
    if len(empty) == 0:
        return
    images, best, classes = counts.images.sum(axis=(0, 2), dtype=np.int64), _best(predictions), predictions.classes
    shown = [
        f"{classes[c]!r}: {images[c]} images labeled as it" + (f", best confidence {best[c]:.3f}" if images[c] else "")
        for c in empty[:5]
    ]
    below = f" and below {rule.max_confidence:g}" if rule.max_confidence is not None else ""
    raise NstError(
        f"{len(empty)} of {len(classes)} classes have no image of confidence {rule.min_confidence:g} or more{below}",
        got="; ".join(shown) + ("; ..." if len(empty) > 5 else ""),
        valid="at least one confident image per class",
        next="lower select.min_confidence=..., label more images, or accept it: select.allow_empty_classes=true",
    )


def _best(predictions: Predictions) -> np.ndarray:
    """Largest confidence of each class (C,)."""
    best = np.zeros(len(predictions.classes))
    for shard in predictions.shards.values():
        label, confidence = read_table(shard.path, ["label", "confidence"]).columns
        np.maximum.at(best, label.to_numpy(), confidence.to_numpy())
    return best


def _check(rule: Rule) -> None:
    checked = asdict(rule)
    for free in ("seed", "allow_empty_classes"):
        del checked[free]
    check_values("select", **checked)
    low, high = rule.min_confidence, rule.max_confidence
    if high is not None and high <= low:
        raise UsageError(
            "select.max_confidence is a probability above min_confidence", got=high,
            valid=f"above {low:g}, up to 1, or null",
        )  # fmt: skip
    if rule.method == "official" and abs(low * 100 - round(low * 100)) > 1e-9:
        raise UsageError(
            "select.method=official works on a 0.01 grid",
            got=f"min_confidence={low}",
            valid="multiples of 0.01",
            next="select.method=exact takes any minimum",
        )


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
        raise NstError(f"there is no finished labeling in {predictions}", next="nst label")
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
