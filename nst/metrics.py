"""What an evaluation counts: top-1, top-5, loss, calibration, confusion (paper section 3.2, table 2).

Everything is a sum kept on the device, so an evaluation never waits for the accelerator before `compute`, ranks are
merged by adding their `state`, and the result does not depend on how the data were batched. Padded samples of a ragged
last batch are masked out with `valid`.

A tie between logits goes to the lower class (as argmax) and a NaN is always wrong: a network that has collapsed or
diverged must not score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nst.errors import NstError

EQUAL_BINS = 15  # confidence bins of the expected calibration error
MAX_CONFUSION_CLASSES = 1000
TEMPERATURES = tuple(2.0 ** (step / 2) for step in range(-6, 7))  # 1/8 to 8, between which the best one is looked for


def label_rank(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes are ahead of the label: (B, C), (B,) -> (B,) int64; 0 is right, below 5 is top-5.

    Ties go to the lower class; a NaN is ahead of everything, and a label whose logit is NaN is last.
    """
    labels = labels.long().unsqueeze(1)
    own = logits.gather(1, labels)
    classes = torch.arange(logits.shape[1], device=logits.device)
    # Counting instead of sorting: cheaper on accelerators, and ties and NaN have a defined place.
    return (~(logits <= own) | ((logits == own) & (classes < labels))).sum(dim=1)


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k largest logits: (B, C), (B,) -> (B,) bool; k is capped to C."""
    return label_rank(logits, labels) < min(k, logits.shape[1])


def calibration_bins(
    confidence: Tensor, correct: Tensor, valid: Tensor | None = None, bins: int = EQUAL_BINS
) -> Tensor:
    """Sums per confidence bin: (B,), (B,) -> (3, bins) float64 with count, summed confidence, number correct.

    Bin i of equal width is (i/bins, (i+1)/bins] (Guo et al. 2017, section 3); 0 belongs to the first.
    """
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    # Edges are rounded to the confidence's type: the float nearest to an edge lies on it.
    index = (confidence.unsqueeze(1) > edges.to(confidence.dtype)).sum(dim=1)
    member = index.unsqueeze(1) == torch.arange(bins, device=confidence.device)
    if valid is not None:
        member = member & valid.unsqueeze(1)
    # where and not a product: padding may hold NaN. A reduction and not a scatter: same result every time.
    weights = torch.stack([torch.ones_like(confidence), confidence, correct.to(confidence.dtype)]).double()
    return torch.where(member, weights.unsqueeze(2), 0.0).sum(dim=1)


def calibration_error(sums: Tensor) -> Tensor:
    """ECE from `calibration_bins` sums: (3, bins) -> (), as a fraction.

    Sum over bins of n_b / N * |accuracy_b - mean confidence_b| (Guo et al. 2017, equation 3).
    """
    count, confidence, correct = sums
    return (correct - confidence).abs().sum() / count.sum()


def tempered_sums(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """What `fitted_temperature` needs of a batch: (B, C), (B,), (B,) -> (len(TEMPERATURES) + 2,) float64.

    The sum over images of log sum exp(logits / T) for each T, then of the label's logit and of the mean logit.
    """
    partitions = [(logits / temperature).logsumexp(dim=1) for temperature in TEMPERATURES]
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    terms = torch.stack([*partitions, own, logits.mean(dim=1)]).double()
    return torch.where(valid, terms, 0.0).sum(dim=1)


def fitted_temperature(sums: Tensor, samples: int) -> float:
    """The T of least cross-entropy of softmax(logits / T), of `tempered_sums`; 1 where it makes no difference.

    Labels are smoothed by 1 / (samples + 2), as Platt (1999, section 2.2) does, so that few images, of which all are
    right, make no network sure of everything. Between the steps of TEMPERATURES a parabola in log T is laid.
    """
    *partitions, own, mean = sums.tolist()
    smoothing = 1.0 / (samples + 2)
    towards = (1.0 - smoothing) * own + smoothing * mean
    losses = [total - towards / temperature for total, temperature in zip(partitions, TEMPERATURES, strict=True)]
    spread = max(losses) - min(losses)
    if not spread > 1e-6 * samples:  # it makes no difference: all logits are equal, or NaN
        return 1.0
    least = min(range(1, len(losses) - 1), key=losses.__getitem__)
    before, at, after = losses[least - 1 : least + 2]
    bend = before - 2 * at + after
    # falling all the way to an end it may bend the other way
    shift = max(-1.0, min(1.0, (before - after) / (2 * bend))) if bend > 0 else math.copysign(1.0, before - after)
    return TEMPERATURES[least] * (TEMPERATURES[least + 1] / TEMPERATURES[least]) ** shift


def accuracy_by_class(confusion: Tensor) -> Tensor:
    """Accuracy of each class in percent: confusion (C, C) -> (C,) float64, NaN for a class not seen."""
    return 100.0 * confusion.diagonal().double() / confusion.sum(dim=1)


class RunningSums:
    """Tensors that only grow by addition: on the host until they are moved, no value read before they are computed.

    Args:
        sums: by name, each of one dimension or more.
    """

    def __init__(self, **sums: Tensor) -> None:
        self._sums = sums

    def moved(self, send: Callable[[Tensor], Tensor]) -> Self:
        """The same with its sums where `send` puts them: the device of the batches."""
        self._sums = {name: send(values) for name, values in self._sums.items()}
        return self

    def state(self) -> dict[str, Tensor]:
        """The sums themselves: reduce each over ranks by addition, in place."""
        return self._sums


class EvaluationSums(RunningSums):
    """Running sums of one evaluation, on the host until they are moved.

    Args:
        num_classes: C; the (C, C) matrix `confusion`, label by prediction, is kept up to 1000.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # Whole numbers in int64 and the rest in float64: float32 sums stop counting at 16.7 million images.
        sums = {
            "counts": torch.zeros(3, dtype=torch.int64),  # images, top-1 right, top-5 right
            "loss": torch.zeros(1, dtype=torch.float64),
            "calibration": torch.zeros((3, EQUAL_BINS), dtype=torch.float64),
        }
        if num_classes <= MAX_CONFUSION_CLASSES:
            sums["confusion"] = torch.zeros((num_classes, num_classes), dtype=torch.int64)
        super().__init__(**sums)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch: logits (B, C), labels (B,), valid (B,) bool, False for padding whatever it holds."""
        if valid is None:
            valid = torch.ones_like(labels, dtype=torch.bool)
        logits = logits.float()
        labels = torch.where(valid, labels.long(), 0)  # padding may carry any label, -1 too
        top1 = topk_correct(logits, labels, 1)
        loss = cross_entropy(logits, labels, reduction="none").double()
        confidence = logits.softmax(dim=1).amax(dim=1)
        right = torch.stack([valid, top1 & valid, topk_correct(logits, labels, 5) & valid])
        self._sums["counts"] += right.sum(dim=1)
        self._sums["loss"] += torch.where(valid, loss, 0.0).sum()
        self._sums["calibration"] += calibration_bins(confidence, top1, valid)
        if "confusion" in self._sums:
            cell = labels * self.num_classes + logits.argmax(dim=1)
            self._sums["confusion"].view(-1).index_add_(0, cell, valid.long())

    def compute(self) -> dict[str, float]:
        """`top1`, `top5`, `ece` in percent, mean cross-entropy `loss` in nats, `samples`. Synchronises.

        Raises:
            NstError: no sample was counted.
        """
        samples, top1, top5 = self._sums["counts"].tolist()
        if samples == 0:
            raise NstError(
                "nothing was evaluated",
                got="0 samples",
                next="check the data: nst shard --verify shard.output=<folder of the test set>",
            )
        return {
            "top1": 100.0 * top1 / samples,
            "top5": 100.0 * top5 / samples,
            "loss": float(self._sums["loss"]) / samples,
            "ece": 100.0 * float(calibration_error(self._sums["calibration"].cpu())),
            "samples": float(samples),
        }


class ValidationSums(EvaluationSums):
    """The same on the images that validate a training, with the temperature at which confidences fit these best.

    See Guo et al. 2017, section 4.2. Nobody fits one to test images.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._sums["tempered"] = torch.zeros(len(TEMPERATURES) + 2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> None:
        super().update(logits, labels, valid)
        if valid is None:
            valid = torch.ones_like(labels, dtype=torch.bool)
        self._sums["tempered"] += tempered_sums(logits.float(), torch.where(valid, labels.long(), 0), valid)

    def compute(self) -> dict[str, float]:
        """As of `EvaluationSums`, and `temperature`."""
        scores = super().compute()
        return {**scores, "temperature": fitted_temperature(self._sums["tempered"], int(scores["samples"]))}
