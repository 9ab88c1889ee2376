"""The section on pseudo-labels: how sure and how right they are, how they are spread over the classes, and what for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nst.data import forecast
from nst.report import figures, selection_figures
from nst.report.class_tables import LARGEST_CONFUSION, fewer, frequent_confusions
from nst.report.page import Drawing, Section, Table, number
from nst.report.records import Experiment, Generation, opening
from nst.report.selection_figures import SelectionData
from nst.shown import capital, short, some

LABEL_COLUMNS = ("class", "threshold", "labeled so", "selected", "with copies", "copies of each")
RIGHT_COLUMNS = ("right before\u00a0%", "right after\u00a0%")  # where the truth is known
PAIR = ("class", "labeled as")
LABEL_NOTE = (
    "Labels by {}. Threshold: the least confidence that is kept. With copies: how often the student sees images of "
    "the class in a pass. Right: share of the labels, before and after selection, copies counted."
)


def selection(experiment: Experiment) -> Section:
    """What the teachers said about the unlabeled images, and what of it their students learned from."""
    section = Section("Pseudo-labels")
    found = [generation for generation in experiment.labelers if generation.selection]
    if not found:
        section.missing.append(f"There is no selection of pseudo-labels in these runs: {_why_none(experiment)}.")
        return section
    shown = found if len(found) == 1 else [found[0], found[-1]]
    data = [selection_data(generation) for generation in shown]
    section.text = " ".join(map(_selection_text, found))
    section.points += [sentence for generation in found for sentence in foretold(generation)]
    section.blocks += [
        Drawing("confidence", selection_figures.confidence(data), "Images per bin of the teacher's confidence."),
        Drawing("class_balance", selection_figures.class_balance(data),
                "Scarce classes are filled up with copies; of abundant ones the most confident images are kept."),
        labels_by_class(found[-1]),
    ]  # fmt: skip
    known = [entry for entry in data if entry.accuracy is not None]
    if not known:
        section.missing.append(
            "How many pseudo-labels are right is not known for certain: the unlabeled images have no truth."
        )
        return section
    caption = "Before selection. Above the diagonal the teacher is less sure than it could be, below it too sure."
    section.blocks.append(Drawing("reliability", selection_figures.reliability(known), caption))
    section.blocks += _confusion(shown)
    return section


def _why_none(experiment: Experiment) -> str:
    last = experiment.last
    if not last.has_teacher:
        return "no student has been taught"
    if last.labeled_online or last.labeler is None:
        return "labels were made online"
    return f"{last.labeler.selection_folder} is not there any more"


def _selection_text(generation: Generation) -> str:
    document = generation.selection
    assert document is not None
    totals, accuracy = document["totals"], document.get("accuracy") or {}
    text = f"Of {number(totals['images'])} images that {generation.named} labeled, {number(totals['selected'])} were"
    text += f" selected, {number(totals['copies'])} with copies"
    before, after = (accuracy.get(when, {}).get("accuracy") for when in ("before", "after"))
    if before is not None and after is not None:
        text += f"; {100 * before:.1f} % of the labels were right before, {100 * after:.1f} % after selection"
    return text + "."


def foretold(generation: Generation) -> list[str]:
    """What was known of a selection before its student trained: how right it would be, and what spoke against it."""
    document = generation.selection or {}
    if (found := document.get("forecast")) is None:  # a selection from before there were forecasts
        return []
    when = f", foretold of {generation.named} before its student learned" if found["right"] else ""
    told = [f"{capital(forecast.summary(found))}{when}."]
    if few := [short(entry["class"]) for entry in document.get("relaxed") or () if entry["taken"]]:
        who = opening(generation.named)
        told.append(f"{who} was sure of too few images of {some(few, 5)}; their surest were taken.")
    return [*told, *(f"Warning: {warning}." for warning in forecast.warnings(found, document["min_confidence"]))]


def selection_data(generation: Generation) -> SelectionData:
    """The numbers of a selection.json as arrays."""
    document = generation.selection
    assert document is not None
    histogram, accuracy = document["confidence_histogram"], document.get("accuracy")
    per_class = {name: np.array([entry[name] for entry in document["per_class"]]) for name in
                 ("labeled", "selected", "copies_total")}  # fmt: skip
    return SelectionData(
        title=f"labels by {generation.named}",
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


def labels_by_class(generation: Generation) -> Table:
    """A row per class of a selection: what was labeled so, what was selected, and how right that is."""
    document = generation.selection
    assert document is not None
    accuracy = document.get("accuracy")
    right = [accuracy[when]["per_class"] for when in ("before", "after")] if accuracy else []
    rows = [
        [*_label_cells(entry), *(number(100 * shares[place] if shares[place] is not None else None, ".1f")
                                 for shares in right)]
        for place, entry in enumerate(document["per_class"])
    ]  # fmt: skip
    repeated = [-_repeats(entry) for entry in document["per_class"]]
    rows, left_out = fewer(rows, repeated, "most often repeated")
    columns = [*LABEL_COLUMNS, *(RIGHT_COLUMNS if right else ())]
    return Table(columns, rows, texts=1, note=LABEL_NOTE.format(generation.named) + left_out)


def _label_cells(entry: Mapping[str, Any]) -> list[str]:
    lowest = entry["lowest_confidence"] if entry["lowest_confidence"] is not None else entry["threshold"]
    counts = [number(entry[name]) for name in ("labeled", "selected", "copies_total")]
    repeats = number(_repeats(entry), ".1f") if entry["selected"] else "–"
    return [short(entry["class"]), f"{lowest:.2f}", *counts, repeats]


def _repeats(entry: Mapping[str, Any]) -> float:
    """How often an image of a class is seen, on average."""
    return float(entry["copies_total"] / max(1, entry["selected"]))


def _confusion(shown: Sequence[Generation]) -> list[Drawing | Table]:
    """What the selected labels take for what, where the truth is known."""
    found = {f"labels by {each.named}": each.labeled for each in shown}
    matrices = {name: matrix for name, each in found.items() if each and (matrix := each.confusion()) is not None}
    if not matrices:
        return []
    each = next(labeled for labeled in found.values() if labeled is not None)
    scope = "" if each.complete else f" Of the first {number(len(each))} images."
    blocks: list[Drawing | Table] = []
    if len(each.classes) <= LARGEST_CONFUSION:
        figure = figures.confusion(each.classes, matrices, "What the selected labels take for what", PAIR)
        caption = f"Rows are true classes, columns the labels that students learn from, each image once.{scope}"
        blocks.append(Drawing("label_confusion", figure, caption))
    note = f"The most frequent mistakes among the selected labels, each image once.{scope}"
    mistakes = frequent_confusions(each.classes, matrices, note, PAIR)
    return [*blocks, mistakes] if mistakes.rows else blocks
