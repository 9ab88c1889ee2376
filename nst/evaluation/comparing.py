"""Compares two networks: differences with 95 % intervals, and the words for them.

Where the answers of both to the same pictures are known, these are compared in pairs, else the two accuracies as
independent ones (`nst.intervals`). Nothing is drawn, so the same files say the same. An interval covers the
choice of pictures, not the seed of a training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nst.intervals import of_gain, wilson

FEW_ANSWERS = 0.8  # a network that gives one answer to this share of all pictures has hardly learned another


@dataclass(frozen=True)
class Scores:
    """What an evaluation says of a network.

    Args:
        name: in sentences, such as `gen1`.
        pictures: on which it was measured, such as `validation`.
        top1: percent.
        chance: percent that one answer to all gives, that of the most frequent class; 0 where it is not known.
        answer, answer_share: what the network says most often, and to which percentage of the pictures.
        wrong: keys of the pictures that it gets wrong; None where they are not known.
        looks: views of each picture, over which its answer is the mean.
    """

    name: str
    pictures: str
    images: int
    top1: float
    chance: float
    answer: str
    answer_share: float
    wrong: frozenset[str] | None = None
    looks: int = 1

    @property
    def near_chance(self) -> bool:
        return wilson(self.top1, self.images)[0] <= self.chance


@dataclass(frozen=True)
class Difference:
    """Points of top-1 of one network over another, with the 95 % interval."""

    points: float
    low: float
    high: float
    paired: bool

    @property
    def verdict(self) -> str:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


def scores_of(name: str, pictures: str, result: Mapping[str, Any], wrong: frozenset[str] | None) -> Scores:
    """The scores in an evaluation's result; chance and answers are those of its confusion matrix, where it has one."""
    confusion = result.get("confusion")
    images, chance, answer, share = int(result["samples"]), 0.0, "", 0.0
    if confusion and images:
        answers = [sum(column) for column in zip(*confusion, strict=True)]
        chance, most = 100 * max(map(sum, confusion)) / images, max(answers)
        answer, share = str(result["classes"][answers.index(most)]), 100 * most / images
    return Scores(name, pictures, images, float(result["top1"]), chance, answer, share, wrong)


def difference(new: Scores, old: Scores) -> Difference:
    """How much better `new` is, in points; in pairs where all answers of both to the same pictures are known."""
    same = (new.pictures, new.images) == (old.pictures, old.images)
    wrong = (old.wrong, new.wrong) if same and old.wrong is not None and new.wrong is not None else None
    low, high = of_gain(old.top1, new.top1, old.images, new.images, wrong)
    return Difference(new.top1 - old.top1, low, high, paired=wrong is not None)


def about(scores: Scores) -> str | None:
    """What is to be said of a network by itself; None: nothing."""
    if not scores.near_chance:
        return None
    how = "worse" if scores.top1 < scores.chance else "hardly better"
    return (
        f"{scores.name} is {how} than chance: {scores.top1:.1f} % of {scores.images} {scores.pictures} images,"
        f" where one answer to all gives {scores.chance:.1f} %{_one_answer(scores)}. A student learns noise from it."
        " More labels, longer training (student.steps) or weights to begin with (model.pretrained) may help."
    )


def against(new: Scores, old: Scores, found: Difference) -> str:
    """A student and its teacher, or a network and its control, in a sentence."""
    numbers = (
        f"{found.points:+.2f} points of top-1, 95 % interval {found.low:+.1f} to {found.high:+.1f} on"
        f" {new.images} {new.pictures} images"
    )
    if collapsed(new, old, found):
        fell = f"{new.top1:.1f} % after {old.top1:.1f} % of {old.name}"
        return f"{new.name} has collapsed: {fell}{_one_answer(new)} ({numbers})."
    told = {
        "better": f"{new.name} is better than {old.name}: {numbers}.",
        "worse": f"{new.name} is worse than {old.name}: {numbers}.",
        "undecided": f"{new.name} and {old.name} cannot be told apart: {numbers}.",
    }
    return told[found.verdict]


def collapsed(new: Scores, old: Scores, found: Difference) -> bool:
    """Whether a network has lost more than half of what its teacher knew beyond chance."""
    return found.verdict == "worse" and new.top1 - new.chance < (old.top1 - old.chance) / 2


def _one_answer(scores: Scores) -> str:
    if scores.answer_share < 100 * FEW_ANSWERS:
        return ""
    return f"; its answer to {scores.answer_share:.0f} % of them is '{scores.answer}'"


def best(networks: list[Scores]) -> int:
    """Number of the network with the highest top-1; of equal ones the first."""
    return max(range(len(networks)), key=lambda number: (networks[number].top1, -number))
