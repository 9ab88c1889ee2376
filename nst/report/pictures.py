"""The section of sample pictures: of the first teacher's labels, of labels that changed, of the last mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nst.report import gallery
from nst.report.labeled import UNKNOWN, Labeled
from nst.report.page import Gallery, Section, number
from nst.report.records import Experiment, Generation, opening


def pictures(experiment: Experiment, count: int) -> Section:
    """Galleries of `count` pictures each, or a sentence why one is missing."""
    section = Section("Pictures")
    if count == 0:
        section.missing.append("Pictures were left out: report.examples=0.")
        return section
    for made in (_teachers(experiment, count), _mistakes(experiment.last, count)):
        if isinstance(made, str):
            section.missing.append(made)
        else:
            section.blocks += made
    if section.blocks:
        section.text = "Under each picture: what the network says and how sure it is. ✓ and ✗ where the truth is known."
    return section


def _teachers(experiment: Experiment, count: int) -> list[Gallery] | str:
    """What the first teacher says, and what a later one says instead."""
    teachers = [entry for entry in experiment.labelers if any(entry.predictions_folder.glob("*.parquet"))]
    if not teachers:
        return "No predictions for unlabeled images are kept in these runs."
    folder = teachers[0].data_folder("unlabeled")
    if folder is None or not any(folder.glob("*.tar")):
        return f"No pictures of pseudo-labels: the unlabeled shards are not in {folder} any more."
    labeled = teachers[0].labeled
    if labeled is None:
        return f"No pictures of pseudo-labels: {teachers[0].named} has labeled no image."
    galleries = [*_selected_and_wrong(teachers, folder, count), *_by_confidence(teachers[0], labeled, folder, count)]
    if len(teachers) > 1:
        galleries.append(_changed(teachers, labeled, folder, count))
    shown = [entry for entry in galleries if entry.pictures]
    return shown or f"No pictures of pseudo-labels: the shards in {folder} are not those that were labeled."


def _selected_and_wrong(teachers: Sequence[Generation], folder: Path, count: int) -> list[Gallery]:
    """The surest wrong labels that the last student learned from; none where the truth is not known."""
    last = next((entry for entry in reversed(teachers) if entry.selection), None)
    labeled = last.labeled if last else None
    if last is None or labeled is None:
        return []
    selected = labeled.copies > 0
    wrong = selected & labeled.wrong
    rows = gallery.surest(labeled, wrong, count)
    text = f"{number(int(wrong.sum()))} of the {number(int(selected.sum()))} images that are selected of what "
    text += f"{last.named} labeled have a wrong label, and are learned from. The most confident first.{_scope(labeled)}"
    return [Gallery("Selected and wrong", text, gallery.pictures(labeled, rows, folder))]


def _scope(labeled: Labeled) -> str:
    return "" if labeled.complete else f" Chosen from the first {number(len(labeled))} images."


def _by_confidence(teacher: Generation, labeled: Labeled, folder: Path, count: int) -> list[Gallery]:
    scope = _scope(labeled)
    kept = labeled.copies > 0
    kinds = [("Sure", "The most confident labels of {}, the classes taking turns.", np.ones(len(kept), bool), True)]
    if kept.any():
        kinds += [
            ("Barely kept", "The least confident labels of {} that its student still learns from.", kept, False),
            ("Rejected", "The least confident labels of {} among those that were not selected.", ~kept, False),
        ]
    galleries = []
    for title, text, among, most_confident in kinds:
        rows = gallery.choose(labeled, among, count, most_confident=most_confident)
        galleries.append(Gallery(title, text.format(teacher.named) + scope, gallery.pictures(labeled, rows, folder)))
    return galleries


def _changed(teachers: Sequence[Generation], labeled: Labeled, folder: Path, count: int) -> Gallery:
    """Images that the last teacher labels otherwise than the first; where the truth is known, corrected ones first."""
    later = teachers[-1].labeled
    if later is None:
        return Gallery("Changed", "", [])
    first = dict(zip(labeled.key.tolist(), labeled.label.tolist(), strict=True))
    before = np.array([first.get(key, UNKNOWN) for key in later.key.tolist()])
    changed = (before != UNKNOWN) & (before != later.label)
    corrected = changed & (later.truth == later.label)
    spoiled = changed & (later.truth == before)
    text = f"{opening(teachers[-1].named)} labels {number(int(changed.sum()))} of {number(len(later))} images "
    text += f"otherwise than {teachers[0].named}"
    if (later.truth != UNKNOWN).any():
        text += f": {number(int(corrected.sum()))} corrected, {number(int(spoiled.sum()))} spoiled"
        text += ", the others wrong both times. Corrected ones are shown" if corrected.any() else ""
    among = corrected if corrected.any() else changed
    rows = gallery.choose(later, among, count, most_confident=True)
    return Gallery("Changed", text + ", the most confident first.", gallery.pictures(later, rows, folder, before))


def _mistakes(generation: Generation, count: int) -> list[Gallery] | str:
    """The last network's most confident mistakes on the test images."""
    evaluation, folder = generation.evaluation, generation.data_folder("test")
    if not evaluation or "classes" not in evaluation:
        return f"No pictures of mistakes: {generation.named} has no evaluation that names classes."
    mistakes = evaluation.get("mistakes", [])[:count]
    if not mistakes:
        return f"{opening(generation.named)} makes no mistake on the test images."
    if folder is None or not any(folder.glob("*.tar")):
        return f"No pictures of mistakes: the test shards are not in {folder} any more."
    shown = gallery.mistaken(mistakes, evaluation["classes"], folder)
    if not shown:
        return f"No pictures of mistakes: the shards in {folder} are not those of the evaluation."
    return [Gallery("Mistakes", f"Test images that {generation.named} gets wrong, the most confident first.", shown)]
