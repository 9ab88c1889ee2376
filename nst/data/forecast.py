"""Tells before a student trains whether a selection will help: how right its labels are, and in which classes.

How right: the teacher has labeled the validation pictures too, whose classes are known and which it never learned from.
Those that the selection would have taken (same answer, confidence at or over the lowest selected of its class) say how
often such labels are right, class by class, weighted by how often the selection shows each class. So nothing rests on
the teacher's confidence being honest. Without validation pictures this is unknown, and said to be.

How spread: shares of the classes among the labeled images, among all answers of the teacher, and in the selection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nst.data.parquet_files import read_table
from nst.data.predictions import Predictions
from nst.data.shard_set import ShardSet
from nst.intervals import TOO_WRONG, of_share
from nst.shown import some

SURER = 0.9  # a confidence at which fewer labels are wrong
TOO_FAR = 0.2  # of a selection's entries that are of other classes than the teacher's answers
PRIOR = 1.0  # pictures that all classes' precision counts for in that of one class: some have few pictures
SHOWN_CLASSES = 20
KINDS = ("labeled", "answers", "selected")  # of shares


@dataclass(frozen=True)
class ValidationAnswers:
    """The teacher's answers to validation pictures (V,): class, confidence, and the true class."""

    label: np.ndarray
    confidence: np.ndarray
    truth: np.ndarray

    @classmethod
    def of(cls, predictions: Predictions, shards: ShardSet) -> ValidationAnswers:
        """From predictions of labeled shards, which know the true classes."""
        columns: list[list[np.ndarray]] = []
        for number, shard in enumerate(shards.shards):
            table = read_table(predictions.shard(shard.name).path, ["index", "label", "confidence"])
            index, label, confidence = (table[name].to_numpy() for name in ("index", "label", "confidence"))
            reader = shards.reader(number)
            truth = [int(reader.read(int(place), only=("cls",))[1]["cls"]) for place in index]
            columns.append([label.astype(np.intp), confidence, np.array(truth, np.intp)])
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))


@dataclass(frozen=True)
class Right:
    """Share of right labels, its 95 % interval, and the validation pictures that say so."""

    share: float
    low: float
    high: float
    pictures: int


def how_right(answers: ValidationAnswers, lowest: np.ndarray, copies: np.ndarray) -> tuple[Right | None, np.ndarray]:
    """How right the labels of a selection are, None where no picture tells; and (C, 2) pictures, right and in all.

    Args:
        lowest: (C,) smallest confidence that is selected of each class, inf where nothing is.
        copies: (C,) entries of each class in the selection.
    """
    taken = answers.confidence.astype(np.float64) >= lowest[answers.label]
    classes = len(lowest)
    pictures = np.bincount(answers.label[taken], minlength=classes)
    right = np.bincount(answers.label[taken & (answers.label == answers.truth)], minlength=classes)
    per_class = np.stack([right, pictures], axis=1)
    total = int(pictures.sum())
    if total == 0 or copies.sum() == 0:
        return None, per_class
    weight, pooled = copies / copies.sum(), right.sum() / total
    drawn = (right + PRIOR * pooled) / (pictures + PRIOR)
    share = float(weight @ drawn)
    # as many pictures of equal weight would be as uncertain; a right and a wrong one are added where all are right
    spread = (right + PRIOR * pooled + 0.5) / (pictures + PRIOR + 1)
    variance = float((weight**2) @ (spread * (1 - spread) / (pictures + PRIOR)))
    middle = (share * total + 0.5) / (total + 1)
    equal = min(middle * (1 - middle) / variance, total)
    low, high = of_share(share, float(equal))
    return Right(share, low, high, total), per_class


def forecast(
    classes: Sequence[str],
    per_class: Sequence[Mapping[str, Any]],
    labeled: Sequence[int] | None,
    answers: ValidationAnswers | None,
) -> dict[str, Any]:
    """What is to be expected of a selection, JSON-able.

    Args:
        per_class: of selection.json: labeled (answers of the teacher), lowest_confidence and copies_total.
        labeled: labeled images of each class; None: unknown.
    """
    lowest = np.array([np.inf if c["lowest_confidence"] is None else c["lowest_confidence"] for c in per_class])
    copies, said = (np.array([c[name] for c in per_class], float) for name in ("copies_total", "labeled"))
    right, each = how_right(answers, lowest, copies) if answers else (None, np.zeros((len(classes), 2), int))
    before, after = _shares(said), _shares(copies)
    return {
        "right": None if right is None else vars(right),
        "validation_pictures": 0 if answers is None else len(answers.label),
        "shares": {
            "labeled": None if labeled is None else _shares(labeled).tolist(),
            "answers": before.tolist(),
            "selected": after.tolist(),
        },
        "per_class": each.tolist(),  # validation pictures, right and in all
        "elsewhere": float(np.abs(before - after).sum() / 2) if copies.sum() else None,
        "missing": [name for name, count in zip(classes, copies, strict=True) if count == 0],
    }


def _shares(counts: Any) -> np.ndarray:
    counts = np.asarray(counts, float)
    return counts / max(counts.sum(), 1)


def warnings(found: Mapping[str, Any], min_confidence: float) -> list[str]:
    """Plain sentences about what will go wrong; empty where nothing speaks against the selection.

    Args:
        min_confidence: by which it was selected.
    """
    told, right = [], found["right"]
    if right and right["share"] < TOO_WRONG:
        sure = "are" if right["high"] < TOO_WRONG else "may well be"
        told.append(
            f"the selected labels {sure} too often wrong: {_right(right)}. Where a quarter was wrong, students of a few"
            " thousand images were worse than their teachers: more labels"
            + (f", or select.min_confidence={SURER} overwrite=true" if min_confidence < SURER else "")
        )
    if found["elsewhere"] is not None and found["elsewhere"] > TOO_FAR:
        told.append(
            f"the selection moves {100 * found['elsewhere']:.0f} % of its entries to other classes than the teacher's"
            " answers have: if the classes are not so frequent where the student is used, "
            + ("" if _as_labeled(found) else "select.prior=labeled (the labels' proportions) or ")
            + "select.images_per_class=null select.max_copies=1 (the answers'), with overwrite=true"
        )
    if missing := found["missing"]:
        names = some([repr(name) for name in missing], 5)
        told.append(f"nothing is selected of {len(missing)} of the classes: {names}; labels alone teach them")
    return told


def _as_labeled(found: Mapping[str, Any]) -> bool:
    """Whether the selection has the proportions of the labels."""
    labeled, selected = found["shares"]["labeled"], found["shares"]["selected"]
    return labeled is not None and float(np.abs(np.subtract(labeled, selected)).sum() / 2) < TOO_FAR / 2


def summary(found: Mapping[str, Any]) -> str:
    """One line: how right the selected labels will be."""
    if found["right"]:
        return f"selected labels: {_right(found['right'])}"
    if found["validation_pictures"]:
        return "selected labels: how many are right is unknown, no validation picture is like those selected"
    return (
        "selected labels: how many are right is unknown without validation pictures"
        " (data.validation_samples=10, then nst shard and nst label)"
    )


def _right(right: Mapping[str, Any]) -> str:
    low, high = 100 * right["low"], 100 * right["high"]
    pictures = f"{right['pictures']} validation pictures"
    return f"{100 * right['share']:.0f} % right (95 % interval {low:.0f} to {high:.0f}, {pictures})"


def table(classes: Sequence[str], found: Mapping[str, Any]) -> str:
    """Shares of the classes in percent, and validation pictures that are like those selected; below 80 columns.

    Of more than SHOWN_CLASSES classes those are shown whose share the selection changes most.
    """
    shares = found["shares"]
    moved = np.abs(np.array(shares["selected"]) - np.array(shares["answers"]))
    order = np.argsort(-moved, kind="stable")[:SHOWN_CLASSES] if len(classes) > SHOWN_CLASSES else range(len(classes))
    width = min(28, max(5, *(len(classes[c]) for c in order)))
    lines = [f"{'class':<{width}}  labeled %  answers %  selected %         right"]
    for c in order:
        name = classes[c] if len(classes[c]) <= width else classes[c][: width - 1] + "…"
        labeled, answers, selected = (
            "–" if share is None else f"{100 * share[c]:.1f}" for share in map(shares.get, KINDS)
        )
        right, pictures = found["per_class"][c]
        told = f"{right} of {pictures}" if pictures else "–"
        lines.append(f"{name:<{width}}  {labeled:>9}  {answers:>9}  {selected:>10}  {told:>12}")
    return "\n".join(lines)
