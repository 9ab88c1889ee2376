"""How a network learns: the numbers of METHOD's Optimiser, Schedule, Loss and Noise sections, as plain settings.

A teacher is a student of generation 0, so both follow the same recipe; the teacher merely has no unlabeled images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from nst.checking import check_fields


@dataclass(frozen=True)
class Side:
    """Which noises act on one side (labeled or unlabeled) of the joint batch; table 6 switches them one by one.

    Args:
        augment: "randaugment" (crop, flip, RandAugment), "standard" (crop, flip) or "none" (the clean centre view).
        dropout: whether dropout acts on these images.
        stochastic_depth: whether stochastic depth acts on these images.
    """

    augment: str = "randaugment"
    dropout: bool = True
    stochastic_depth: bool = True

    def __post_init__(self) -> None:
        check_fields("noise.labeled", self)


@dataclass(frozen=True)
class ModelNoise:
    """Dropout and stochastic depth: their rates, and the sides they act on."""

    dropout: float = 0.5
    stochastic_depth: float = 0.2  # drop rate of the last block
    labeled: Side = Side()
    unlabeled: Side = Side()

    def masks(
        self, labeled: int, unlabeled: int, device: torch.device, *, groups: int = 1
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Switches of the joint batch's samples, in its layout, for dropout and stochastic depth: (B + U,), 1 = noised.

        None stands for "every sample", which spares the multiplication.
        """
        return (
            _switch(self.labeled.dropout, self.unlabeled.dropout, labeled, unlabeled, device, groups),
            _switch(self.labeled.stochastic_depth, self.unlabeled.stochastic_depth, labeled, unlabeled, device, groups),
        )


def _switch(
    on_labeled: bool, on_unlabeled: bool, labeled: int, unlabeled: int, device: torch.device, groups: int
) -> torch.Tensor | None:
    if on_labeled and (on_unlabeled or not unlabeled):
        return None
    share = [float(on_labeled)] * (labeled // groups) + [float(on_unlabeled)] * (unlabeled // groups)
    return torch.tensor(share * groups).to(device, non_blocking=True)


@dataclass(frozen=True)
class Recipe:
    """One training: batch, length, optimiser, schedule and loss. Defaults are the paper's ([C] where they differ).

    Args:
        labeled_batch_size: labeled images per step, over all devices.
        unlabeled_ratio: unlabeled images per labeled one.
        epochs: passes over the labeled set; `steps`, when given, overrides it.
        optimizer: name and options for `nst.training.optim.build_optimizer`, plus `rate_per_256`: the learning rate
            for 256 labeled images, scaled linearly with the labeled batch.
        schedule: `kind`, `warmup_epochs`, and what that kind needs (see `nst.training.optim.Schedule`).
        ema_decay: cap of the weights' moving average.
        batchnorm_momentum: weight of the newest batch in BatchNorm's statistics (TensorFlow's 0.99 is 0.01 here).
        loss_average: "sum" ([C]: labeled mean + ratio × unlabeled mean) or "joint" ([P]: divided by 1 + ratio).
        gradient_clip: largest gradient norm; None clips nothing.
        frozen_blocks: stem and this many first blocks do not learn (FixRes fine-tuning).
        validate_every: steps between validations; None validates at the end only.
        checkpoint_every: steps between checkpoints, at most.

    Raises:
        NstError: a number that makes no training, named with its option.
    """

    labeled_batch_size: int = 2048
    unlabeled_ratio: int = 3
    epochs: float = 350
    steps: int | None = None
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"name": "rmsprop", "rate_per_256": 0.016})
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"kind": "exponential", "warmup_epochs": 5})
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    loss_average: str = "sum"
    ema_decay: float = 0.9999
    batchnorm_momentum: float = 0.01
    gradient_clip: float | None = None
    frozen_blocks: int = 0
    validate_every: int | None = None
    checkpoint_every: int = 1000
    log_every: int = 10

    def __post_init__(self) -> None:
        check_fields("student", self)

    def steps_per_epoch(self, labeled_samples: int) -> float:
        return labeled_samples / self.labeled_batch_size

    def total_steps(self, labeled_samples: int) -> int:
        """Steps in all; at least 1."""
        return max(1, self.steps or int(self.epochs * self.steps_per_epoch(labeled_samples)))

    def segment_steps(self, labeled_samples: int) -> int:
        """Steps between two checkpoints, which are one epoch to Lightning: at most `checkpoint_every`.

        Validations lie on such boundaries, so that both always tell of the same weights: `validate_every` is cut
        into the fewest segments that are short enough, of equal length. Rounding that length up puts validations
        up to `segments_per_validation - 1` steps further apart than asked for (7 in segments of at most 3: 9).
        """
        total = self.total_steps(labeled_samples)
        every = self.validate_every
        if every is None or every >= total:
            return min(self.checkpoint_every, total)
        return math.ceil(every / math.ceil(every / self.checkpoint_every))

    def segments_per_validation(self, labeled_samples: int) -> int | None:
        """Segments between two validations; None: no validation but the one at the end."""
        every = self.validate_every
        if every is None or every >= self.total_steps(labeled_samples):
            return None
        return math.ceil(every / self.checkpoint_every)
