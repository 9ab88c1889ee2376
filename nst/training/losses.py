"""Losses of teacher and student (paper section 2, algorithm 1, steps 1 and 3) as pure functions on tensors.

The student's loss is `labeled + unlabeled_ratio * unlabeled`: the mean cross-entropy over labeled images plus
the ratio-weighted mean over pseudo-labeled ones, whose target is the teacher's distribution (soft) or its
argmax (hard).

Hard pseudo-labels get the same label smoothing as true labels and soft ones get none, as in the released code; the
paper does not say. Everything runs in float32 at least, also under autocast, and nothing reads a tensor's value, so
each function traces to one graph on XLA. Weight decay lives in `optim.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from nst.errors import NstError


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of each sample: logits (B, C), target probabilities (B, C) -> (B,)."""
    return -(_full_precision(targets) * log_softmax(_full_precision(logits), dim=-1)).sum(dim=-1)


def smooth_one_hot(labels: Tensor, num_classes: int, label_smoothing: float = 0.0) -> Tensor:
    """One-hot mixed with the uniform distribution: labels (B,) -> (B, C) float32, (1 - s) * one_hot + s / C."""
    off = label_smoothing / num_classes
    targets = torch.full((labels.shape[0], num_classes), off, dtype=torch.float32, device=labels.device)
    # scatter and not a comparison with arange: a label out of range is an error, not a row without its class
    return targets.scatter_(1, labels.long().unsqueeze(1), 1.0 - label_smoothing + off)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Stored probabilities (B, C) at a temperature: p^(1/T) renormalised, equal to softmax(logits / T).

    Below 1 sharpens, above 1 flattens; 1 only undoes the rounding of float16 storage.
    """
    probs = _full_precision(probs)
    # relative to the largest: a power of small numbers would underflow to 0 / 0 at low temperatures
    powered = (probs / probs.amax(dim=-1, keepdim=True)).pow(1.0 / temperature)
    return powered / powered.sum(dim=-1, keepdim=True)


def soft_targets(teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Targets made inside the step ("online"): teacher logits (B, C) -> softmax(logits / T), no gradient."""
    return (_full_precision(teacher_logits.detach()) / temperature).softmax(dim=-1)


def labeled_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Mean cross-entropy of labeled images: logits (B, C), integer labels (B,) -> ()."""
    return soft_cross_entropy(logits, smooth_one_hot(labels, logits.shape[-1], label_smoothing)).mean()


def unlabeled_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Mean cross-entropy of pseudo-labeled images: logits (B, C) -> ().

    Args:
        targets: soft (B, C) probabilities, used as they are; or hard (B,) integers, smoothed.
        label_smoothing: for hard targets only.

    Raises:
        NstError: the targets are neither of the two.
    """
    if targets.ndim == 2 and targets.is_floating_point():
        return soft_cross_entropy(logits, targets).mean()
    if targets.ndim == 1 and not targets.is_floating_point():
        return labeled_loss(logits, targets, label_smoothing)
    raise NstError(
        "pseudo-labels of a form that is neither soft nor hard",
        got=f"{targets.dtype} of shape {tuple(targets.shape)}",
        valid="soft: floating point (B, C); hard: integer (B,)",
    )


def joint_loss(labeled: Tensor, unlabeled: Tensor, unlabeled_ratio: float, average: str = "sum") -> Tensor:
    """The student's loss from its two means: (), () -> ().

    Paper and released code differ. `sum` (default, the code): labeled + ratio * unlabeled. `joint` (the paper): the
    mean over the concatenated batch, the same divided by 1 + ratio. RMSProp's epsilon and the weight decay keep the two
    from being equivalent.
    """
    total = labeled + unlabeled_ratio * unlabeled
    return total / (1.0 + unlabeled_ratio) if average == "joint" else total


def _full_precision(tensor: Tensor) -> Tensor:
    """Half precision becomes float32, float64 stays: a sum over 1000 classes in bfloat16 has two digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
