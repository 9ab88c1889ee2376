"""Sets of photographs: ImageNet-A, -R, -V2, -Sketch, the validation images, or those with ReaL labels (tables 2, 3).

They are cropped to the network's own size, as our own pictures are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nst.evaluation.suite import Block, Kept, Pass, Scorer, Subject, Suite, SuiteKind, framing_facts, shown_images
from nst.robustness import sets
from nst.robustness.classes import SUBSETS, subset_positions

if TYPE_CHECKING:
    from torch import Tensor

    from nst.data.batches import Batch

REAL = "imagenet_real"
WHOLE = "all"  # the one part of a suite that has no others


class Answered(SuiteKind):
    """Single images with one label each."""

    headlines: ClassVar[Mapping[str, str]] = {
        "top1": "top-1 %",
        "top5": "",
        "ece": "",
        "rms_calibration_error": "RMS calibration error %",
        "aurra": "",
        "top1_all_classes": "",
    }


class Real(SuiteKind):
    """Single images with several labels each."""

    headlines: ClassVar[Mapping[str, str]] = {"top1": "top-1 %, any of the labels"}


KINDS = {"answers": Answered(), "real": Real()}


def suites(subject: Subject) -> Iterator[Suite]:
    """Those whose folders are given."""
    for name, folder in subject.folders((*sets.SETS, REAL)):
        yield _suite(subject, name, folder)


def _suite(subject: Subject, name: str, folder: str) -> Suite:
    if name == REAL:
        images = sets.imagenet_real(folder, subject.classes, subject.options.real_labels)
    else:
        images = sets.imagenet_folders(name, folder, subject.classes)
    images = subject.subset(images)

    def opened(part: str) -> Pass:
        positions = subset_positions(name, subject.classes) if name in SUBSETS else None
        scorer = RealScorer() if name == REAL else AnswersScorer(len(images), positions)
        shown = dict.fromkeys(shown_images(images, subject.options.seed), "")
        return Pass(images, subject.photograph(), subject.batch_size, scorer, shown)

    def measured(parts: Kept) -> Block:
        if name != REAL:
            return {"kind": "answers", **parts[WHOLE]["scores"]}
        scores = RealScorer().with_counts(parts.values()).accuracy.compute()
        return {"kind": "real", "top1": scores["real_top1"], "samples": scores["samples"]}

    shown = {"shown_at": subject.image_size, "shown_as": framing_facts(subject.photograph())}
    return Suite(name, subject.facts(images) | shown, [WHOLE], opened, len(images), measured)


class AnswersScorer(Scorer):
    """Counts single images with one label each."""

    def __init__(self, images: int, classes: Sequence[int] | None) -> None:
        from nst.robustness.answers import SetAnswers

        self.answers = SetAnswers(images, classes)
        super().__init__(answers=self.answers)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        self.answers.update(logits, batch["labels"], batch["place"], batch["valid"])
        return self.answers.restricted_logits(logits)

    def kept(self) -> dict[str, Any]:
        return {"scores": self.answers.compute()}  # the sums are as many as the images


class RealScorer(Scorer):
    """Counts single images with several labels each."""

    def __init__(self) -> None:
        from nst.robustness.answers import RealAccuracy

        self.accuracy = RealAccuracy()
        super().__init__(accuracy=self.accuracy)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        self.accuracy.update(logits, batch["labels"], batch["valid"])
        return logits
