"""What a training adds up step by step on the device, and what is told of it every `log_every` steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nst.errors import NstError

# the order of `Classifier.note`, the gradient norm last
TRAIN_METRICS = ("loss", "labeled_loss", "unlabeled_loss", "labeled_top1", "gradient_norm")
NOTHING_SUMMED: Mapping[str, Any] = {"sums": [0.0] * len(TRAIN_METRICS), "steps": 0, "images": 0, "seconds": 0.0}


def means_of(sums: Sequence[float], *, steps: int, until: int) -> dict[str, float]:
    """The means by name over a number of steps.

    Args:
        sums: over these steps, in the order of TRAIN_METRICS.
        until: number of the last of them.

    Raises:
        NstError: the loss is not finite.
    """
    means = {name: value / steps for name, value in zip(TRAIN_METRICS, sums, strict=True)}
    if not math.isfinite(means["loss"]):
        raise NstError(
            f"the loss is {means['loss']}",
            got=f"it appeared between steps {until - steps} and {until}",
            next="lower student.optimizer.rate_per_256, or set student.gradient_clip=1",
        )
    return means
