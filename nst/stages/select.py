"""`nst select`: keep confident predictions and balance the classes (paper section 3.1) → selection/*.parquet.

selection.json, written last, tells the totals and every class's story. Which rows are selected is decided in
nst/data/selection.py and cutoffs.py, in three passes over the predictions: counting, looking at the cutoffs, writing
(nst/data/selected.py). A killed selection begins again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from nst.atomic import sha256_file, write_json
from nst.config import job_from
from nst.data import forecast
from nst.data.cutoffs import Exact
from nst.data.index_files import has_index
from nst.data.predictions import FORMAT, Predictions
from nst.data.selected import SHARDS_PER_FILE, Tally, file_name, write
from nst.data.selection import BINS, REPORT_BINS, WITHIN, Counts, Official, SelectionRule, Wanted
from nst.data.shard_set import ShardSet, load_index
from nst.errors import NstError, UsageError
from nst.finished import generations_in
from nst.pool import workers
from nst.progress import say
from nst.runs import Run
from nst.settings.job import SelectJob
from nst.stages.apart import keep_apart
from nst.stages.places import has_validation_set, open_shards, predictions_folder, selection_folder, shards_place

PARTS = 2  # per thread: one that is slow is waited for less
SHOWN_CLASSES = 5
NOT_INPUTS = ("memory_limit", "threads")  # options on which the result does not depend


def run(job: SelectJob, output: Path) -> dict[str, Any]:
    """Selects from the teacher's predictions into `output`; returns the totals, which are also in result.json.

    Where the unlabeled shards are on this machine, predictions of others are refused, and how often labels are right
    is told if they have a truth.parquet.

    Raises:
        NstError: options or predictions are invalid, or memory or disk do not suffice.
    """
    options = job.select
    check(job)
    opened = Predictions.open(predictions_folder(job.teacher, job.stage))
    folder = Path(shards_place(job.data, "unlabeled"))  # of an address nothing exists here, and nothing is compared
    opened.require(shards=load_index(folder) if has_index(folder) else None)
    truth = folder / "truth.parquet" if (folder / "truth.parquet").exists() else None
    rule = SelectionRule(options, job.seed, _shares(job, opened.classes), opened.keep)
    watched = _validation(job, opened)
    asked = {name: value for name, value in asdict(options).items() if name not in NOT_INPUTS}
    asked["seed"] = job.seed
    inputs = {
        **asked,
        **({"shares": rule.shares.tolist()} if options.prior == "labeled" else {}),
        "teacher": opened.teacher,
        "predictions": opened.digest,
        "validation": watched.digest if watched else None,
        "truth": sha256_file(truth) if truth else None,
    }
    files = ["selection.json", *(file_name(n) for n in range(-(-len(opened.shards) // SHARDS_PER_FILE)))]
    with Run(output, "select", inputs, config=job.config, overwrite=job.overwrite, files=files) as stage:
        if stage.done and (output / "selection.json").exists():
            return stage.result()
        threads = options.threads or os.cpu_count() or 1
        with workers(threads, len(opened.shards)) as pool:
            selection = selected(opened, rule, output, pool.map, PARTS * threads)
        document = {"format": FORMAT, "predictions": opened.digest, **asked, **selection}
        if truth:
            from nst.data.truth import accuracy, open_database  # here: DuckDB is needed for nothing else

            with open_database(output, options.memory_limit, options.threads) as database:
                document["accuracy"] = accuracy(database, opened.folder, output, truth, opened.classes)
        labeled = _labeled(job, opened.classes)
        counts = None if labeled is None else labeled.label_counts
        answers = None
        if watched:
            answers = forecast.ValidationAnswers.of(watched, open_shards(job.data, "validation", job.remote))
        document["forecast"] = forecast.forecast(opened.classes, document["per_class"], counts, answers)
        write_json(output / "selection.json", document)
        shown = [name for name in ("totals", "relaxed", "forecast", "accuracy", "classes") if name in document]
        return stage.finish({**asked, **{name: document[name] for name in shown}})


Each = Callable[..., Iterator[Any]]  # calls a function with each of some arguments; results come in order


def selected(predictions: Predictions, rule: SelectionRule, output: Path, each: Each, parts: int) -> dict[str, Any]:
    """Selects and writes; returns what selection.json tells besides the options."""
    shards = list(enumerate(predictions.shards.values()))
    files = [(number, shard.path) for number, shard in shards]
    share = [files[start::parts] for start in range(min(parts, len(files)))]
    counts = Counts.empty(rule.classes)
    for more in each(partial(Counts.of, rule), share):
        counts.add(more)
    wanted = Wanted.of(counts, rule)
    method: Exact | Official
    method = Official(wanted, rule) if rule.options.method == "official" else Exact(wanted, counts, rule)
    while isinstance(method, Exact) and method.open.any():
        method.narrow(each(method.look, share))
    groups = enumerate(shards[start : start + SHARDS_PER_FILE] for start in range(0, len(shards), SHARDS_PER_FILE))
    tally, written = Tally.empty(rule.classes), []
    for file in each(partial(write, output, method, rule), groups):
        tally.add(file.tally)
        written.append(file)
    threshold = method.threshold if isinstance(method, Official) else wanted.minimum
    return {
        "teacher": predictions.teacher,
        **summary(predictions.classes, counts, wanted, tally, threshold),
        "shards": [shard for file in written for shard in file.shards],
        "footers": {file.name: file.footer for file in written},
    }


def summary(
    classes: Sequence[str], counts: Counts, wanted: Wanted, tally: Tally, threshold: np.ndarray
) -> dict[str, Any]:
    """Totals, every class's story and the histograms; `threshold` (C,) is [C]'s."""
    images, above = counts.images.sum(axis=0, dtype=np.int64), counts.images[WITHIN].sum(axis=1)
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
            "images_per_class": wanted.average,
        },
        "relaxed": [
            {
                "class": classes[c],
                "labeled": int(report[c].sum()),
                "sure": int(above[c]),
                "taken": int(tally.selected[c]),
                "from_confidence": per_class[c]["lowest_confidence"],
            }
            for c in np.flatnonzero(wanted.few).tolist()
        ],
        "per_class": per_class,
        "confidence_histogram": {
            "edges": [round(i / REPORT_BINS, 2) for i in range(REPORT_BINS + 1)],
            "before": report.tolist(),
            "after": tally.copies.tolist(),
        },
    }


def _shares(job: SelectJob, classes: Sequence[str]) -> np.ndarray:
    """Each class's quota as a multiple of images_per_class (C,).

    Raises:
        NstError: prior=labeled without labeled images of the teacher's classes.
    """
    if job.select.prior == "equal":
        return np.ones(len(classes))
    labeled = _labeled(job, classes)
    if labeled is None:
        raise _no_proportions(job, f"shards of {len(classes)} classes, of which {', '.join(classes[:3])}")
    counts = np.array(labeled.label_counts, float)
    return len(classes) * counts / counts.sum()


def _no_proportions(job: SelectJob, valid: str) -> NstError:
    return NstError(
        "select.prior=labeled needs the labeled images of the teacher's classes",
        got=f"data.labeled={job.data.labeled}",
        valid=valid,
        next="data.labeled=<the shards that the teacher has learned from>, or select.prior=equal",
    )


def _labeled(job: SelectJob, classes: Sequence[str]) -> ShardSet | None:
    """The labeled images, where they are on this machine and of the same classes."""
    labeled = load_index(job.data.labeled) if has_index(job.data.labeled) else None
    return labeled if labeled and list(labeled.classes) == list(classes) else None


def _validation(job: SelectJob, predictions: Predictions) -> Predictions | None:
    """The teacher's answers to the validation images; None where there are none, or they were labeled by another."""
    folder = predictions.folder / "validation"
    if not has_validation_set(job.data) or not (folder / "DONE").exists():
        return None
    watched, shards = Predictions.open(folder), open_shards(job.data, "validation", job.remote)
    watched.require(classes=predictions.classes, teacher=predictions.teacher, shards=shards)
    return watched


def check(job: SelectJob) -> None:
    """Tells now what a selection by these options would refuse, whatever the teacher says.

    Raises:
        NstError: the options do not fit together, or no labeled images are on this machine that prior=labeled needs.
    """
    options = job.select
    low, high = options.min_confidence, options.max_confidence
    if high is not None and high <= low:
        raise UsageError(
            "select.max_confidence is a probability above min_confidence", got=high,
            valid=f"above {low:g}, up to 1, or null",
        )  # fmt: skip
    if options.method == "official" and abs(low * 100 - round(low * 100)) > 1e-9:
        raise UsageError(
            "select.method=official works on a 0.01 grid",
            got=f"min_confidence={low}",
            valid="multiples of 0.01",
            next="select.method=exact takes any minimum",
        )
    if options.prior == "labeled" and not has_index(job.data.labeled):
        raise _no_proportions(job, "a folder of shards on this machine")


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    say(f"{selection_folder(cfg.teacher, cfg.stage)}: {summary_line(result)}")
    return result


def from_cfg(cfg: DictConfig) -> dict[str, Any]:
    """The selection that the configuration asks for; says what was not as asked."""
    keep_apart(cfg, "select")
    job = job_from(SelectJob, cfg)
    predictions = predictions_folder(job.teacher, job.stage)
    if not (predictions / "DONE").exists():
        what = f"there is no finished labeling in {predictions}"
        for labeled in reversed(generations_in(predictions.parent)):
            if (labeled / "predictions" / "DONE").exists():
                raise NstError(what, next=f"nst label; or, of labels that are there: nst select teacher.run={labeled}")
        raise NstError(what, next="nst label")
    result = run(job, selection_folder(job.teacher, job.stage))
    tell(result)
    return result


def tell(result: Mapping[str, Any]) -> None:
    """Says what a student will learn from, and what speaks against it, while there is still time to stop."""
    found = result["forecast"]
    say(forecast.table(result["classes"], found))
    if found["right"] or "accuracy" not in result:  # where the truth is known, it is told, and no doubt beside it
        say(forecast.summary(found))
    for warning in [*warnings(result), *forecast.warnings(found, result["min_confidence"])]:
        say(f"warning: {warning}")


def warnings(result: Mapping[str, Any]) -> list[str]:
    """Sentences about classes that had too few sure images; the first few by name."""
    few, minimum = result["relaxed"], result["min_confidence"]
    found = []
    for entry in few[:SHOWN_CLASSES]:
        if entry["taken"] > entry["sure"]:
            instead = f"its {entry['taken']} surest are taken, from {entry['from_confidence']:g} on"
        elif entry["taken"]:
            instead = "there are no others to take"
        elif entry["labeled"]:
            instead = f"probabilities of none of its {entry['labeled']} were kept (label.keep), so it stays empty"
        else:
            instead = "no image is labeled as it, so it stays empty"
        found.append(
            f"class {entry['class']!r} has {entry['sure']} images of confidence {minimum:g} or more: {instead}"
        )
    if len(few) > SHOWN_CLASSES:
        found.append(f"so are {len(few)} classes in all, which selection.json lists as relaxed")
    return found


def summary_line(result: Mapping[str, Any]) -> str:
    """One line about a selection: how many images, how often, and how right where that is known."""
    totals = result["totals"]
    line = f"{totals['selected']} of {totals['images']} images selected, {totals['copies']} with copies"
    if "accuracy" in result and totals["selected"]:
        before, after = (100 * result["accuracy"][name]["accuracy"] for name in ("before", "after"))
        line += f"; pseudo-labels right: {before:.1f} % before, {after:.1f} % after selection"
    return line
