"""Answers to single images: ImageNet-A and -R on their 200 classes, calibration, ReaL (paper tables 2 and 3).

The logits are cut to a set's own classes *before* softmax and argmax, as in the evaluation that the paper follows
(natural-adv-examples/eval.py), so top-1, top-5 and confidence are 200-way. Answers are kept per image, each at its
place in the set: calibration needs them sorted, and ranks are merged by adding `state`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nst.errors import NstError
from nst.metrics import RunningSums, calibration_bins, calibration_error, label_rank

ADAPTIVE_BIN_SIZE = 100  # images per bin of the RMS calibration error


# ---- calibration -----------------------------------------------------------------------------------------


def rms_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """RMS calibration error in percent, bins of 100 images by confidence: (N,), (N,); None below 2 bins.

    sqrt(sum_b n_b / N * (mean confidence_b - accuracy_b)^2), the last bin with the remainder. The reference
    (natural-adv-examples/calibration_tools.py) leaves out that last bin, which holds the most confident images;
    so do we, for comparison with published numbers.
    """
    confidence, correct = _by_confidence(confidence, correct)
    bins = len(confidence) // ADAPTIVE_BIN_SIZE
    if bins < 2:
        return None
    starts = np.arange(bins) * ADAPTIVE_BIN_SIZE
    sizes = np.diff(np.append(starts, len(confidence)))
    gaps = (np.add.reduceat(confidence, starts) - np.add.reduceat(correct, starts)) / sizes
    return 100.0 * float(np.sqrt((sizes * gaps**2)[:-1].sum() / len(confidence)))


def aurra(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the response rate accuracy curve in percent: (N,), (N,).

    Mean over k of the accuracy on the k most confident images (natural-adv-examples/calibration_tools.py).
    """
    _, correct = _by_confidence(confidence, correct)
    return 100.0 * float(np.mean(np.cumsum(correct[::-1]) / np.arange(1, len(correct) + 1)))


def _by_confidence(confidence: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 by rising confidence; among equals the right ones first, whatever order they came in."""
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    order = np.lexsort((-correct, confidence))
    return confidence[order], correct[order]


# ---- running -----------------------------------------------------------------------------------------------


class SetAnswers(RunningSums):
    """Answers to the images of one set.

    Args:
        images: size of the set.
        classes: positions among the logits of the classes that count (see `classes.subset_positions`), in any
            order; None counts all. Of a set with more classes, the images of the others are left out.
    """

    def __init__(self, images: int, classes: Sequence[int] | None = None) -> None:
        # rank + 1, so that 0 is an image that was not answered
        ranks = {name: torch.zeros(images, dtype=torch.int64) for name in ("rank", "full_rank")}
        super().__init__(**ranks, confidence=torch.zeros(images))
        self.classes = None if classes is None else torch.tensor(list(classes))

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, index: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch: logits (B, C), labels (B,) among the C, index (B,) in the set, valid (B,) bool or None."""
        valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
        logits, labels, index = logits.float(), torch.where(valid, labels, 0), torch.where(valid, index, 0)
        own, own_labels, inside = self._restricted(logits, labels)
        values = {
            "rank": label_rank(own, own_labels) + 1,
            "full_rank": label_rank(logits, labels) + 1,
            "confidence": own.softmax(dim=1).amax(dim=1),
        }
        for name, value in values.items():
            self._sums[name].index_add_(0, index, torch.where(valid & inside, value, 0))

    def _restricted(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | bool]:
        """Logits and labels among the classes that count, and which labels are."""
        if self.classes is None:
            return logits, labels, True
        classes = self.classes.to(labels.device, non_blocking=True)
        same = labels.unsqueeze(1) == classes
        return logits.index_select(1, classes), same.long().argmax(dim=1), same.any(dim=1)

    def restricted_logits(self, logits: Tensor) -> Tensor:
        """The logits (B, C), those of classes that do not count -inf: what to show as the set's prediction."""
        if self.classes is None:
            return logits
        classes = self.classes.to(logits.device, non_blocking=True)
        counts = (torch.arange(logits.shape[1], device=logits.device).unsqueeze(1) == classes).any(dim=1)
        return logits.masked_fill(~counts, -torch.inf)

    def compute(self) -> dict[str, float | None]:
        """`top1`, `top5`, `ece`, `rms_calibration_error`, `aurra` in percent, and `samples`. Synchronises.

        Where classes are restricted, `top1_all_classes` is the (lower) accuracy over all logits.

        Raises:
            NstError: no image was answered.
        """
        kept = {name: values.cpu().numpy() for name, values in self._sums.items()}
        answered = kept["rank"] > 0
        samples = int(answered.sum())
        if samples == 0:
            raise NstError("nothing was evaluated", got="0 images", next="check the folder of the set")
        rank, confidence = kept["rank"][answered] - 1, kept["confidence"][answered]
        correct = rank < 1
        bins = calibration_bins(torch.from_numpy(confidence), torch.from_numpy(correct))
        result: dict[str, float | None] = {
            "top1": 100.0 * int(correct.sum()) / samples,
            "top5": 100.0 * int((rank < 5).sum()) / samples,
            "ece": 100.0 * float(calibration_error(bins)),
            "rms_calibration_error": rms_calibration_error(confidence, correct),
            "aurra": aurra(confidence, correct),
            "samples": float(samples),
        }
        if self.classes is not None:
            result["top1_all_classes"] = 100.0 * int((kept["full_rank"] == 1).sum()) / samples
        return result


class RealAccuracy(RunningSums):
    """ReaL accuracy: right if the prediction is any of an image's labels (Beyer et al. 2020)."""

    def __init__(self) -> None:
        super().__init__(counts=torch.zeros(2, dtype=torch.int64))  # images with a label, right ones

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch: logits (B, C), labels (B, M) padded with -1, valid (B,) bool or None.

        An image without any label is left out.
        """
        counted = (labels >= 0).any(dim=1)
        counted = counted if valid is None else counted & valid
        hit = (labels == logits.argmax(dim=1, keepdim=True)).any(dim=1) & ~logits.isnan().any(dim=1)
        self._sums["counts"] += torch.stack([counted, counted & hit]).sum(dim=1)

    def compute(self) -> dict[str, float]:
        """`real_top1` in percent and `samples`, the images with a label. Synchronises.

        Raises:
            NstError: no image with a label was counted.
        """
        samples, right = self._sums["counts"].tolist()
        if samples == 0:
            raise NstError("nothing was evaluated", got="0 images with ReaL labels")
        return {"real_top1": 100.0 * right / samples, "samples": float(samples)}
