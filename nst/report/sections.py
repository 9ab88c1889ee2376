"""The sections of the page: which table, figure and gallery stand where, and what is said when one is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nst.report import figures, selection_figures
from nst.report.page import Drawing, Section, Table, number
from nst.report.paper import published
from nst.report.records import Experiment, Generation
from nst.report.rows import Row, model_name
from nst.report.selection_figures import SelectionData
from nst.shown import short

LARGEST_CONFUSION = 100  # classes; larger matrices are shown as their largest entries only
CONFUSIONS_LISTED = 8
COLUMNS = (  # with spaces and hyphens that do not break
    "run", "model", "params", "labeled", "unlabeled (with copies)", "pseudo-labels right\u00a0%", "top\u20111\u00a0%",
    "±", "top\u20115\u00a0%", "ECE\u00a0%", "loss", "gain",
)  # fmt: skip
ROBUSTNESS = {"corruption_error": "corruption error %", "flip_rate": "flip rate %"}  # of a row → heading
INTERVAL_NOTE = (
    "± is half the 95 % interval that follows from the number of test images alone (Wilson). "
    "ECE: expected calibration error. Gain: points of top-1 over the teacher."
)


def generations(experiment: Experiment, entries: Sequence[Row]) -> Section:
    """The table of all generations with published figures below, and top-1 as a figure."""
    section = Section("Generations" if len(experiment.generations) > 1 else "Result")
    if entries:
        section.blocks.append(_table(entries, experiment.paper))
    waiting = [generation.label for generation in experiment.generations if not generation.finished]
    if waiting:
        section.missing.append(f"Not finished yet: {', '.join(waiting)}.")
    scored = [entry for entry in entries if entry["top1"] is not None]
    if len(scored) > 1:
        labels = [f"{entry['label']}\n{model_name(entry)}" for entry in scored]
        bounds = [(entry["top1_low"], entry["top1_high"]) for entry in scored]
        figure = figures.generations(labels, [entry["top1"] for entry in scored], bounds)
        caption = "Top-1 of the averaged network on the test images; bars are 95 % intervals."
        section.blocks.append(Drawing("generations", figure, caption))
    return section


def _table(entries: Sequence[Row], paper: Mapping[str, Any] | None) -> Table:
    rows = [_cells(entry, first=place == 0) for place, entry in enumerate(entries)]
    kinds = [""] * len(rows)
    where, values = published(paper)
    for name, scores in values:
        cells = [f"published: {name}", where, *[""] * 4, number(scores.get("top1"), ".2f", ""), "",
                 number(scores.get("top5"), ".2f", ""), *[""] * 3]  # fmt: skip
        rows.append(cells)
        kinds.append("published")
    note = INTERVAL_NOTE
    if values:
        note += " Published rows are the paper's, at full size: other data and networks than a scaled-down run's."
    return Table(COLUMNS, rows, kinds=kinds, note=note)


def _cells(entry: Row, *, first: bool) -> list[str]:
    half = (entry["top1_high"] - entry["top1_low"]) / 2 if entry["top1_low"] is not None else None
    size = f"{entry['parameters'] / 1e6:.2f}M" if entry["parameters"] else "–"
    unlabeled = number(entry["unlabeled"]) if entry["unlabeled"] != 0 else "–"
    copies = f" ({number(entry['unlabeled_with_copies'])})" if entry["unlabeled_with_copies"] else ""
    gain = "" if first else number(entry["gain"], "+.2f")
    return [
        entry["label"], model_name(entry), size, number(entry["labeled"]), unlabeled + copies,
        number(entry["pseudo_label_accuracy"], ".1f"), number(entry["top1"], ".2f"), number(half, ".1f"),
        number(entry["top5"], ".2f"), number(entry["ece"], ".2f"), number(entry["loss"], ".3f"), gain,
    ]  # fmt: skip


def comparison(experiments: Sequence[Experiment], rows_of: Sequence[Sequence[Row]], focus: Experiment) -> Section:
    """Experiments side by side: the last network of each."""
    section = Section("Runs compared", f"The sections after this one show {focus.name}.")
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
        rows.append([experiment.name, cells[1], str(len(entries)), number(start, ".2f"), *cells[6:8], cells[11] or "–",
                     cells[9], *(number(end.get(name), ".2f") for name in robust)])  # fmt: skip
        names.append(experiment.name)
        first.append(start)
        last.append(end["top1"])
        bounds.append((end["top1_low"], end["top1_high"]))
    section.blocks.append(Table(columns, rows, note=INTERVAL_NOTE))
    if len(names) > 1:
        caption = "The last network of each run, with the 95 % interval of its test; the teacher where there is one."
        section.blocks.append(Drawing("runs_compared", figures.experiments(names, first, last, bounds), caption))
    return section


def learning(experiment: Experiment) -> Section:
    """Losses and accuracies over the steps of each training."""
    section = Section("Learning curves")
    curves = {generation.label: generation.curves for generation in experiment.generations}
    if not any(metric in run for run in curves.values() for metric in figures.PANELS):
        section.missing.append("No training kept a table of its metrics (logger=none, or metrics.csv was removed).")
        return section
    caption = "Training metrics are of noised batches; test metrics of the averaged network without noise."
    section.blocks.append(Drawing("learning_curves", figures.learning_curves(curves), caption))
    return section


def selection(experiment: Experiment) -> Section:
    """What the teachers said about the unlabeled images, and what of it their students learned from."""
    section = Section("Pseudo-labels")
    found = [selection_data(generation) for generation in experiment.generations if generation.selection]
    if not found:
        why = "labels were made online" if experiment.last.has_teacher else "no student has been taught"
        section.missing.append(f"There is no selection of pseudo-labels in these runs: {why}.")
        return section
    shown = found if len(found) == 1 else [found[0], found[-1]]
    section.text = _selection_text(experiment)
    section.blocks += [
        Drawing("confidence", selection_figures.confidence(shown), "Images per bin of the teacher's confidence."),
        Drawing("class_balance", selection_figures.class_balance(shown),
                "Scarce classes are filled up with copies; of abundant ones the most confident images are kept."),
    ]  # fmt: skip
    known = [data for data in shown if data.accuracy is not None]
    if known:
        caption = "Before selection. Above the diagonal the teacher is less sure than it could be, below it too sure."
        section.blocks.append(Drawing("reliability", selection_figures.reliability(known), caption))
    else:
        section.missing.append("How many pseudo-labels are right is not known: the unlabeled images have no truth.")
    return section


def _selection_text(experiment: Experiment) -> str:
    parts = []
    for generation in experiment.generations:
        document = generation.selection
        if document is None:
            continue
        totals, accuracy = document["totals"], document.get("accuracy")
        text = (
            f"Of {number(totals['images'])} images that {generation.named} labeled, {number(totals['selected'])} were"
        )
        text += f" selected, {number(totals['copies'])} with copies"
        before, after = ((accuracy or {}).get(when, {}).get("accuracy") for when in ("before", "after"))
        if before is not None and after is not None:
            text += f"; {100 * before:.1f} % of the labels were right before, {100 * after:.1f} % after selection"
        parts.append(text + ".")
    return " ".join(parts)


def selection_data(generation: Generation) -> SelectionData:
    """The numbers of a selection.json as arrays."""
    document = generation.selection
    assert document is not None
    histogram, accuracy = document["confidence_histogram"], document.get("accuracy")
    per_class = {name: np.array([entry[name] for entry in document["per_class"]]) for name in
                 ("labeled", "selected", "copies_total")}  # fmt: skip
    return SelectionData(
        label=f"labels by {generation.named}",
        classes=tuple(document["classes"]),
        min_confidence=document["min_confidence"],
        edges=np.array(histogram["edges"]),
        bins_before=np.array(histogram["before"]).sum(axis=0),
        bins_after=np.array(histogram["after"]).sum(axis=0),
        class_before=per_class["labeled"],
        class_selected=per_class["selected"],
        class_after=per_class["copies_total"],
        accuracy=np.array(accuracy["before"]["per_confidence_bin"], float) if accuracy else None,
    )


def classes(experiment: Experiment) -> Section:
    """Accuracy of each class and what is taken for what, for the first and the last network."""
    section = Section("Classes")
    known = {
        g.label: g.evaluation for g in (experiment.first, experiment.last) if (g.evaluation or {}).get("confusion")
    }
    if not known:
        section.missing.append(
            "No confusion matrix was kept. Run nst evaluate model.checkpoint=<run> with eval.confusion=true."
        )
        return section
    names = list(next(iter(known.values()))["classes"])  # type: ignore[index]
    matrices = {label: np.array(found["confusion"]) for label, found in known.items() if found}
    if len(matrices) == 2:
        labels = tuple(matrices)
        of_class = [100 * m.diagonal() / np.where(m.sum(axis=1), m.sum(axis=1), np.nan) for m in matrices.values()]
        figure = figures.class_accuracy(names, of_class[0], of_class[1], (labels[0], labels[1]))
        section.blocks.append(Drawing("class_accuracy", figure, "Accuracy of each class, first and last network."))
    if len(names) <= LARGEST_CONFUSION:
        caption = "Rows are true classes, columns predictions; colour is the share of the row."
        section.blocks.append(Drawing("confusion", figures.confusion(names, matrices), caption))
    section.blocks.append(_confusions(names, matrices))
    return section


def _confusions(names: Sequence[str], matrices: Mapping[str, np.ndarray]) -> Table:
    """The most frequent confusions, first and last network taken together."""
    total = sum(matrices.values(), np.zeros((len(names), len(names)), int))
    np.fill_diagonal(total, 0)
    order = np.argsort(-total, axis=None, kind="stable")[:CONFUSIONS_LISTED]
    pairs = [divmod(int(place), len(names)) for place in order if total.flat[place] > 0]
    rows = [[short(names[row]), short(names[column]), *(number(int(m[row, column])) for m in matrices.values())]
            for row, column in pairs]  # fmt: skip
    columns = ["label", "taken for", *(f"images, {label}" for label in matrices)]
    return Table(columns, rows, note="The most frequent confusions.")
