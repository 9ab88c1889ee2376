"""The sections of the page: their tables, figures and galleries, and a sentence in place of one that is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from nst.report import figures
from nst.report.class_tables import LARGEST_CONFUSION, by_class, frequent_confusions, precision_and_recall
from nst.report.generation_rows import Row, certain, compared, is_untested, looked_at, model_name
from nst.report.page import Drawing, Section, Table, number
from nst.report.paper import published
from nst.report.records import Experiment
from nst.report.summary import verdicts
from nst.shown import some

COLUMNS = {  # of a cell → heading, with spaces and hyphens that do not break
    "run": "run", "model": "model", "params": "params", "labeled": "labeled", "unlabeled": "unlabeled (with copies)",
    "right": "pseudo-labels right\u00a0%", "top1": "top\u20111\u00a0%", "half": "±", "gain": "gain",
    "top5": "top\u20115\u00a0%", "ece": "ECE\u00a0%", "loss": "loss",
}  # fmt: skip
ROBUSTNESS = {"corruption_error": "corruption error %", "flip_rate": "flip rate %"}  # of a row → heading
INTERVAL_NOTE = (
    "± is half the 95 % interval that follows from the number of test images alone (Wilson). ECE: expected calibration "
    "error. Gain: points of top-1 over the teacher, ± half its own interval, image by image where all mistakes are "
    "kept; a gain within it may be chance."
)


def generations(experiment: Experiment, entries: Sequence[Row], control: Row | None) -> Section:
    """The table of all generations with the control and published figures below, and top-1 as a figure."""
    section = Section("Generations" if len(experiment.generations) > 1 else "Result")
    section.text = " ".join([*verdicts(entries, control), *_best(experiment)])
    if entries:
        section.blocks.append(_table(entries, control, experiment.paper))
    waiting = [generation.title for generation in experiment.generations if not generation.finished]
    if waiting:
        section.missing.append(f"Not finished yet: {', '.join(waiting)}.")
    scored = [entry for entry in entries if entry["top1"] is not None]
    if len(scored) > 1 and scored[-1]["gain"] is not None:
        beside = [control] if control is not None and control["top1"] is not None else []
        shown = [*scored, *beside]
        titles = [f"{entry['label']}\n{model_name(entry)}" for entry in shown]
        bounds = [(entry["top1_low"], entry["top1_high"]) for entry in shown]
        sure = certain(scored[-1]["gain_low"], scored[-1]["gain_high"])
        top1 = [entry["top1"] for entry in shown]
        figure = figures.generations(titles, top1, bounds, sure, control=bool(beside))
        caption = "Top-1 of the averaged network on the test images; bars are 95 % intervals."
        caption += " The control learned from the labels alone." if beside else ""
        section.blocks.append(Drawing("generations", figure, caption))
    return section


def _best(experiment: Experiment) -> list[str]:
    """Which generation was chosen by validation images, where one was."""
    best = experiment.result.get("best")
    if not best:
        return []
    name = next((each.named for each in experiment.generations if each.number == best["generation"]), "another")
    score, images = best["validation_top1"], number(best["validation_images"])
    return [f"Best of them on the {images} validation images, and chosen by these alone: {name}, {score:.2f} %."]


def _table(entries: Sequence[Row], control: Row | None, paper: Mapping[str, Any] | None) -> Table:
    lines = [_cells(entry, first=place == 0) for place, entry in enumerate(entries)]
    kinds = [""] * len(lines)
    if control is not None:
        lines.append(_cells(control, first=False))
        kinds.append("control")
    where, values = published(paper)
    for name, scores in values:
        known = {metric: number(scores.get(metric), ".2f", "") for metric in ("top1", "top5")}
        lines.append({"run": f"published: {name}", "model": where, **known})
        kinds.append("published")
    note = INTERVAL_NOTE
    if control is not None:
        note += " The control is a network as the last student's that learned from the labels alone."
    if values:
        note += " Published rows are the paper's, at full size: other data and networks than a scaled-down run's."
    rows = [[line.get(column, "") for column in COLUMNS] for line in lines]
    return Table(list(COLUMNS.values()), rows, kinds=kinds, note=note)


def _cells(entry: Row, *, first: bool) -> dict[str, str]:
    """What a table says of a network, by the names of COLUMNS."""
    half = (entry["top1_high"] - entry["top1_low"]) / 2 if entry["top1_low"] is not None else None
    size = f"{entry['parameters'] / 1e6:.2f}M" if entry["parameters"] else "–"
    unlabeled = number(entry["unlabeled"]) if entry["unlabeled"] != 0 else "–"
    copies = f" ({number(entry['unlabeled_with_copies'])})" if entry["unlabeled_with_copies"] else ""
    around = "" if entry["gain_low"] is None else f"\u00a0±\u00a0{(entry['gain_high'] - entry['gain_low']) / 2:.1f}"
    gain = "" if first else number(entry["gain"], "+.2f") + around
    return {
        "run": entry["label"],
        "model": model_name(entry),
        "params": size,
        "labeled": number(entry["labeled"]),
        "unlabeled": unlabeled + copies,
        "right": number(entry["pseudo_label_accuracy"], ".1f"),
        "top1": number(entry["top1"], ".2f"),
        "half": number(half, ".1f"),
        "gain": gain,
        "top5": number(entry["top5"], ".2f"),
        "ece": number(entry["ece"], ".2f"),
        "loss": number(entry["loss"], ".3f"),
    }


def comparison(experiments: Sequence[Experiment], rows_of: Sequence[Sequence[Row]], focus: Experiment) -> Section:
    """Experiments side by side: the last network of each."""
    unlike = looked_at([entries[-1] for entries in rows_of if entries], "experiment")
    first_words = _told_apart(experiments, rows_of) + (f"{unlike} " if unlike is not None else "")
    section = Section("Runs compared", f"{first_words}The sections after this one show {focus.name}.")
    columns = ["run", "model", "generations", "teacher top-1 %", "top-1 %", "±", "gain", "ECE %"]
    robust = [name for name in ROBUSTNESS if any(name in entry for entries in rows_of for entry in entries[-1:])]
    columns += [ROBUSTNESS[name] for name in robust]
    rows, names, first, last, bounds = [], [], [], [], []
    for experiment, entries in zip(experiments, rows_of, strict=True):
        if not entries or entries[-1]["top1"] is None:
            rows.append([experiment.name, "not finished", *["–"] * (len(columns) - 2)])
            continue
        end, start = entries[-1], entries[0]["top1"] if len(entries) > 1 else None
        cells = _cells(end, first=len(entries) == 1)
        told = [cells["model"], str(len(entries)), number(start, ".2f"), cells["top1"], cells["half"],
                cells["gain"] or "–", cells["ece"]]  # fmt: skip
        rows.append([experiment.name, *told, *(number(end.get(name), ".2f") for name in robust)])
        names.append(experiment.name)
        first.append(start)
        last.append(end["top1"])
        bounds.append((end["top1_low"], end["top1_high"]))
    section.blocks.append(Table(columns, rows, note=INTERVAL_NOTE))
    if untested := [entries[-1]["experiment"] for entries in rows_of if entries and is_untested(entries[-1])]:
        section.missing.append(
            f"Top-1 is of the images that the training held out for {some(untested)}: nst evaluate tests a network."
        )
    if len(names) > 1:
        interval = "" if all(low is None for low, _ in bounds) else ", with the 95 % interval of its test"
        caption = f"The last network of each run{interval}; the teacher where there is one."
        section.blocks.append(Drawing("runs_compared", figures.experiments(names, first, last, bounds), caption))
    return section


def _told_apart(experiments: Sequence[Experiment], rows_of: Sequence[Sequence[Row]]) -> str:
    """Which runs are no worse than the best as far as the test images can tell; empty where that is not known."""
    last = [(rows[-1], runs.last) for runs, rows in zip(experiments, rows_of, strict=True)
            if rows and rows[-1]["top1"] is not None]  # fmt: skip
    if len(last) < 2:
        return ""
    best, network = max(last, key=lambda pair: float(pair[0]["top1"]))
    others = [(row, compared(row, best, other, network)) for row, other in last if row is not best]
    known = [(row, interval) for row, interval in others if interval is not None]
    equal = [row["experiment"] for row, interval in known if not certain(*interval)]
    if not known:
        return ""
    name = f"The best by top-1, {best['experiment']},"
    if not equal:
        return f"{name} is better than all others by more than the test images alone explain. "
    return f"{name} cannot be told apart on these test images from {some(equal)}. "


def learning(experiment: Experiment) -> Section:
    """Losses and accuracies over the steps of each training."""
    section = Section("Learning curves")
    curves = {generation.title: generation.curves for generation in experiment.generations}
    if not any(metric in run for run in curves.values() for metric in figures.PANELS):
        section.missing.append("No training kept a table of its metrics (logger=none, or metrics.csv was removed).")
        return section
    caption = (
        "Training metrics are of noised batches; held-out images (validation's where there are some, else the test's)"
    )
    caption += " are seen by the averaged network, without noise."
    section.blocks.append(Drawing("learning_curves", figures.learning_curves(curves), caption))
    return section


def classes(experiment: Experiment, directory: Path) -> Section:
    """Accuracy of each class and what is taken for what, for the first and the last network.

    Args:
        directory: of the page, from which files are linked.
    """
    section = Section("Classes")
    if (mistakes := experiment.last.mistakes) is not None and len(mistakes):
        name = f"All {number(len(mistakes))} mistakes of {experiment.last.named} on the test images, as CSV"
        section.links[name] = quote(relpath(experiment.last.mistakes_file, directory))
    known = {
        g.title: g.evaluation for g in (experiment.first, experiment.last) if (g.evaluation or {}).get("confusion")
    }
    if not known:
        section.missing.append(
            "No confusion matrix was kept. Run nst evaluate model.checkpoint=<run> with eval.confusion=true."
        )
        return section
    names = list(next(iter(known.values()))["classes"])  # type: ignore[index]
    matrices = {title: np.array(found["confusion"]) for title, found in known.items() if found}
    if len(matrices) == 2 and experiment.first.looks == experiment.last.looks:
        titles = tuple(matrices)
        first, last = (precision_and_recall(matrix)[1] for matrix in matrices.values())
        figure = figures.class_accuracy(names, first, last, (titles[0], titles[1]))
        section.blocks.append(Drawing("class_accuracy", figure, "Accuracy of each class, first and last network."))
    if len(names) <= LARGEST_CONFUSION:
        caption = "Rows are true classes, columns predictions; colour is the share of the row."
        section.blocks.append(Drawing("confusion", figures.confusion(names, matrices), caption))
    section.blocks.append(by_class(names, matrices))
    confusions = frequent_confusions(names, matrices, "The most frequent confusions.", ("label", "taken for"))
    if confusions.rows:
        section.blocks.append(confusions)
    else:
        section.missing.append("No test image was taken for another class.")
    return section
