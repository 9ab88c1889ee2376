"""Suggestions: plain rules on the facts of a finished run. A rule that misses a fact says nothing.

`nst doctor` judges options before a training, these rules judge what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import numpy as np

from nst.evaluation.comparing import about, scores_of
from nst.intervals import TOO_WRONG
from nst.report.generation_rows import Row, certain, is_untested
from nst.report.page import Section, number
from nst.report.records import Document, Experiment, opening
from nst.shown import short

MANY_COPIES = 10  # of an image
WIDE = 3.0  # points, half an interval
FEW_UNLABELED = 3  # times the labeled images
STILL_RISING = 1.0  # points of top-1 in the last fifth of a training
NAMED = 4


@dataclass(frozen=True)
class Outcome:
    """What the rules look at; `labels` is the last selection."""

    experiment: Experiment
    entries: Sequence[Row]
    control: Row | None
    labels: Document | None

    @property
    def first(self) -> Row:
        return self.entries[0]

    @property
    def last(self) -> Row:
        return self.entries[-1]

    @property
    def has_students(self) -> bool:
        return len(self.entries) > 1

    @property
    def classes(self) -> Sequence[str]:
        found: Sequence[str] = (self.experiment.last.evaluation or {}).get("classes", ())
        return found


def section(experiment: Experiment, entries: Sequence[Row], control: Row | None) -> Section:
    """The advice of all rules that have any."""
    found = Section("What to try next")
    if entries:
        selections = [labeler.selection for labeler in experiment.labelers if labeler.selection]
        outcome = Outcome(experiment, entries, control, selections[-1] if selections else None)
        found.points = [text for rule in RULES for text in rule(outcome)]
    if not found.points:
        found.missing.append("Nothing in these results calls for another setting.")
    return found


def near_chance(outcome: Outcome) -> Iterator[str]:
    first = next(each for each in outcome.experiment.generations if each.finished)
    evaluation = first.evaluation
    if evaluation is None or "samples" not in evaluation:  # released sets alone were evaluated
        return
    if told := about(scores_of(opening(first.named), "test", evaluation, None)):
        yield told


def untested(outcome: Outcome) -> Iterator[str]:
    if is_untested(outcome.last):
        checkpoint = quote(f"model.checkpoint={outcome.experiment.last.directory}")
        yield f"Its top-1 is of the images that its training held out: nst evaluate {checkpoint} tests it."


def worse(outcome: Outcome) -> Iterator[str]:
    last = outcome.last
    if outcome.has_students and certain(last["gain_low"], last["gain_high"]) and last["gain"] < 0:
        yield (
            f"The last student is worse than its teacher by {-last['gain']:.1f} points. Look at the pictures that are "
            "selected and wrong; then try a larger select.min_confidence, weaker noise (noise.randaugment.magnitude), "
            "or more steps (student.steps)."
        )


def within_chance(outcome: Outcome) -> Iterator[str]:
    last = outcome.last
    if outcome.has_students and certain(last["gain_low"], last["gain_high"]) is False:
        yield (
            f"{number(last['test_images'])} test images cannot tell the last student from its teacher. More test "
            "images narrow the interval, and the same command with -m seed=0,1,2 says what the seed does."
        )


def beaten_by_control(outcome: Outcome) -> Iterator[str]:
    control = outcome.control
    if control is None or control["beaten_by"] is None:
        return
    lead, surely = control["beaten_by"], certain(control["beaten_low"], control["beaten_high"])
    if lead <= 0 or surely is False:
        does = f"is better by {-lead:.1f} points" if surely else "does as well"
        gained = (outcome.last["gain"] or 0) > 0
        told = "what the students gained may be of their size or time" if gained else "the pseudo-labels did not help"
        yield (
            f"The control, which learned from the labels alone, {does}: {told}. Pseudo-labels help more where "
            "they are righter, or where there are more of them."
        )


def wrong_labels(outcome: Outcome) -> Iterator[str]:
    accuracy = ((outcome.labels or {}).get("accuracy") or {}).get("after") or {}
    share = accuracy.get("accuracy")
    if share is None and outcome.labels is not None:
        yield from forecast_of(outcome.labels)
    if share is None or outcome.labels is None or share >= TOO_WRONG:
        return
    text = f"Only {100 * share:.1f} % of the pseudo-labels are right."
    known = {name: value for name, value in zip(outcome.labels["classes"], accuracy["per_class"], strict=True)
             if value is not None}  # fmt: skip
    worst = [name for name in sorted(known, key=lambda name: known[name]) if known[name] < share][:NAMED]
    text += f" Least right are those of {_named(worst)}." if worst else ""
    yield f"{text} A larger select.min_confidence keeps fewer and righter ones."


def forecast_of(labels: Document) -> Iterator[str]:
    """Where the truth is not known, but labeled pictures speak against the labels."""
    right = (labels.get("forecast") or {}).get("right")
    if right and right["high"] < TOO_WRONG:
        yield (
            f"By {right['pictures']} validation pictures, only {100 * right['share']:.0f} % of the pseudo-labels are "
            "right. More labels help, and a larger select.min_confidence keeps fewer and righter ones."
        )


def _may_be_lower(outcome: Outcome) -> bool:
    """Whether no rule advises a larger select.min_confidence."""
    return not any(any(rule(outcome)) for rule in (worse, wrong_labels))


def empty_classes(outcome: Outcome) -> Iterator[str]:
    empty = [entry["class"] for entry in _per_class(outcome) if not entry["selected"]]
    if empty:
        lower = ", or lower select.min_confidence" if _may_be_lower(outcome) else ""
        yield (
            f"No pseudo-label is of {_named(empty)}: students can only unlearn what has none. Label more images "
            f"there{lower}."
        )


def repeated(outcome: Outcome) -> Iterator[str]:
    many = {
        entry["class"]: entry["copies_total"] / entry["selected"]
        for entry in _per_class(outcome)
        if entry["selected"] and entry["copies_total"] > MANY_COPIES * entry["selected"]
    }
    if many:
        most = sorted(many, key=lambda name: -many[name])
        yield (
            f"Few images are repeated often in {_named(most)} (up to {many[most[0]]:.0f} times each), and a wrong "
            f"label as often. select.max_copies={MANY_COPIES} limits that."
        )


def few_unlabeled(outcome: Outcome) -> Iterator[str]:
    labeled, images = outcome.first["labeled"], outcome.last["unlabeled"]
    if outcome.has_students and labeled and images is not None and images < FEW_UNLABELED * labeled:
        lower = ", or a smaller select.min_confidence," if _may_be_lower(outcome) else ""
        yield (
            f"The last student saw {number(images)} unlabeled images beside {number(labeled)} labeled ones. More of "
            f"them{lower} give it more to learn from."
        )


def still_rising(outcome: Outcome) -> Iterator[str]:
    curve = outcome.experiment.last.curves.get("validation/top1", [])
    if len(curve) < NAMED:
        return
    end = curve[-1][0]
    before = [value for step, value in curve if step <= 0.8 * end]
    if before and curve[-1][1] - before[-1] > STILL_RISING:
        yield (
            f"The last network still rose by {curve[-1][1] - before[-1]:.1f} points in its last steps: more of them "
            "may help (student.steps)."
        )


def wide_interval(outcome: Outcome) -> Iterator[str]:
    low, high = outcome.last["top1_low"], outcome.last["top1_high"]
    if not outcome.has_students and low is not None and (high - low) / 2 > WIDE:
        yield (
            f"{number(outcome.last['test_images'])} test images give top-1 to ± {(high - low) / 2:.1f} points only: "
            "compare settings on more of them."
        )


def confused(outcome: Outcome) -> Iterator[str]:
    matrix = np.array((outcome.experiment.last.evaluation or {}).get("confusion") or [[0]])
    np.fill_diagonal(matrix, 0)
    if outcome.classes and matrix.sum() and matrix.max() >= 0.2 * matrix.sum():
        row, column = divmod(int(matrix.argmax()), len(matrix))
        yield (
            f"{short(outcome.classes[row])} is taken for {short(outcome.classes[column])} in {matrix.max()} of "
            f"{matrix.sum()} mistakes. More labels of both may help, or one class of the two."
        )


RULES: tuple[Callable[[Outcome], Iterator[str]], ...] = (
    near_chance, untested, worse, within_chance, beaten_by_control, wrong_labels, empty_classes, repeated,
    few_unlabeled, still_rising, wide_interval, confused,
)  # fmt: skip


def _per_class(outcome: Outcome) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (outcome.labels or {}).get("per_class", ())
    return found


def _named(names: Sequence[str]) -> str:
    """A few of the names, in words."""
    shown = [short(name) for name in names[:NAMED]]
    if len(names) > NAMED:
        return f"{', '.join(shown)} and {len(names) - NAMED} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
