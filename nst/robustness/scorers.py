"""How a batch adds to each kind of score: the network's answers, counted.

The one decision worth knowing: the classifier computes in float32 whatever the trainer's precision. Under bfloat16
logits tie, and a prediction that changes with a tie would pass for a flip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nst.data.batches import Batch
from nst.metrics import RunningSums
from nst.models.efficientnet import EfficientNet, normalize
from nst.models.precision import full_precision
from nst.robustness.answers import Answers, RealAccuracy
from nst.robustness.attacks import Attack, AttackScores
from nst.robustness.scores import CorruptionErrors, FlipScores, top_classes

Counts = dict[str, list[Any]]  # sums by name, as JSON keeps them


class Scorer:
    """Sums of one pass over some batches (see `ImageSetBatches`).

    Args:
        parts: what is summed, by name.
    """

    def __init__(self, **parts: RunningSums) -> None:
        self.parts = parts

    def moved(self, send: Callable[[Tensor], Tensor]) -> Self:
        for part in self.parts.values():
            part.moved(send)
        return self

    def state(self) -> dict[str, Tensor]:
        """All sums: reduce each over ranks by addition, in place."""
        return {f"{name}.{key}": sums for name, part in self.parts.items() for key, sums in part.state().items()}

    def counts(self) -> Counts:
        """All sums as plain numbers, for a file. Synchronises."""
        return {name: sums.tolist() for name, sums in self.state().items()}

    def with_counts(self, files: Sequence[Counts]) -> Self:
        """The same after adding the sums that several passes have left in files."""
        for counts in files:
            for name, sums in self.state().items():
                sums += torch.tensor(counts[name], dtype=sums.dtype)
        return self

    def kept(self) -> dict[str, Any]:
        """What a file keeps of a pass: its sums, which those of other passes are added to."""
        return {"counts": self.counts()}

    def add(self, network: nn.Module, batch: Batch) -> Tensor | None:
        """Counts a batch; returns confidence and predicted class of its pictures, (N * T, 2), where there is one."""
        raise NotImplementedError


class AnswersScorer(Scorer):
    """Single images with one label each."""

    def __init__(self, images: int, classes: Sequence[int] | None) -> None:
        self.answers = Answers(images, classes)
        super().__init__(answers=self.answers)

    def add(self, network: nn.Module, batch: Batch) -> Tensor:
        logits = full_logits(network, batch["images"])
        self.answers.update(logits, batch["labels"], batch["place"], batch["valid"])
        return guesses(self.answers.restricted_logits(logits))

    def kept(self) -> dict[str, Any]:
        return {"scores": self.answers.compute()}  # the sums are as many as the images


class RealScorer(Scorer):
    """Single images with several labels each."""

    def __init__(self) -> None:
        self.accuracy = RealAccuracy()
        super().__init__(accuracy=self.accuracy)

    def add(self, network: nn.Module, batch: Batch) -> Tensor:
        logits = full_logits(network, batch["images"])
        self.accuracy.update(logits, batch["labels"], batch["valid"])
        return guesses(logits)


class CorruptionScorer(Scorer):
    """Images with a cell each; cell -1 is a clean image."""

    def __init__(self, corruptions: Sequence[str]) -> None:
        self.errors, self.clean = CorruptionErrors(corruptions), RealAccuracy()
        super().__init__(errors=self.errors, clean=self.clean)

    def add(self, network: nn.Module, batch: Batch) -> Tensor:
        logits = full_logits(network, batch["images"])
        labels, cells, valid = batch["labels"], batch["cells"], batch["valid"]
        self.errors.update(logits, labels, cells, valid & (cells >= 0))
        self.clean.update(logits, labels.unsqueeze(1), valid & (cells < 0))
        return guesses(logits)

    def measured(self) -> dict[str, Any]:
        """Errors in percent by corruption and severity, top-1 and top-5, and top-1 on the clean images."""
        top1, top5 = self.errors.errors(), self.errors.errors(top=5)
        seen = [name for name, row in top1.items() if any(error is not None for error in row)]
        images, right = self.clean.state()["counts"].tolist()
        return {
            "kind": "corruptions",
            "errors": {name: top1[name] for name in seen},
            "top5_errors": {name: top5[name] for name in seen},
            "clean_error": 100.0 - 100.0 * right / images if images else None,
        }


class FlipScorer(Scorer):
    """Clips of `frames` frames of one perturbation, at several difficulties at once.

    Args:
        difficulties: one alone of noise, whose clips differ; any of the others, whose frames are the same.
    """

    def __init__(self, perturbation: str, difficulties: Sequence[int], frames: int) -> None:
        self.flips = {str(level): FlipScores(perturbation, level) for level in difficulties}
        self.frames = frames
        super().__init__(**self.flips)

    def add(self, network: nn.Module, batch: Batch) -> Tensor:
        logits = full_logits(network, batch["images"])
        top5 = top_classes(logits).unflatten(0, (-1, self.frames))
        for flips in self.flips.values():
            flips.update(top5, batch["labels"], batch["valid"])
        return guesses(logits)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Scores by difficulty."""
        return {level: flips.compute() for level, flips in self.flips.items()}


class AttackScorer(Scorer):
    """Single images under one attack, made with the network's own gradients."""

    def __init__(self, method: Attack, epsilons: Sequence[float], seed: int) -> None:
        self.scores = AttackScores(method, epsilons, seed=seed)
        super().__init__(scores=self.scores)

    def add(self, network: nn.Module, batch: Batch) -> None:
        self.scores.update(network, batch["images"], batch["labels"], batch["valid"], batch["keys"])


@full_precision()
def full_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, C) in float32 of images (B, 3, H, W) of 0 to 255, also under autocast."""
    if not isinstance(network, EfficientNet):  # somebody else's, whose classifier we do not know
        with torch.autocast(images.device.type, enabled=False):
            return network(normalize(images)).float()
    pooled = network.forward_head(network.forward_features(normalize(images)), pre_logits=True)
    classifier = network.classifier
    with torch.autocast(images.device.type, enabled=False):
        return linear(pooled.float(), classifier.weight.float(), classifier.bias.float())


def guesses(logits: Tensor) -> Tensor:
    """Confidence and predicted class: (B, C) -> (B, 2) float32; a class left out by -inf is never one."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return torch.stack([confidence, predicted.float()], dim=1)
