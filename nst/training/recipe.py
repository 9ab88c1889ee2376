"""How a network learns: the numbers of METHOD's Optimiser, Schedule, Loss and Noise sections, as plain settings.

A teacher is a student of generation 0, so both follow the same recipe; the teacher merely has no unlabeled images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from nst.errors import NstError

AUGMENTATIONS = ("randaugment", "standard", "none")


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
        if self.augment not in AUGMENTATIONS:
            raise NstError("unknown noise.*.augment", got=self.augment, valid=", ".join(AUGMENTATIONS))


@dataclass(frozen=True)
class ModelNoise:
    """Dropout and stochastic depth: their rates, and the sides they act on."""

    dropout: float = 0.5
    stochastic_depth: float = 0.2  # drop rate of the last block
    labeled: Side = Side()
    unlabeled: Side = Side()

    def masks(
        self, labeled: int, unlabeled: int, device: torch.device
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Per-sample switches of the joint batch for dropout and stochastic depth: float (B + U,), 1 = noised.

        None stands for "every sample", which spares the multiplication.
        """
        return (
            _switch(self.labeled.dropout, self.unlabeled.dropout, labeled, unlabeled, device),
            _switch(self.labeled.stochastic_depth, self.unlabeled.stochastic_depth, labeled, unlabeled, device),
        )


def _switch(
    on_labeled: bool, on_unlabeled: bool, labeled: int, unlabeled: int, device: torch.device
) -> torch.Tensor | None:
    if on_labeled and (on_unlabeled or not unlabeled):
        return None
    mask = torch.zeros(labeled + unlabeled, device=device)
    mask[:labeled] = float(on_labeled)
    mask[labeled:] = float(on_unlabeled)
    return mask


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

    def steps_per_epoch(self, labeled_samples: int) -> float:
        return labeled_samples / self.labeled_batch_size

    def total_steps(self, labeled_samples: int) -> int:
        """Steps in all; at least 1."""
        return max(1, self.steps or int(self.epochs * self.steps_per_epoch(labeled_samples)))

    def segment_steps(self, labeled_samples: int) -> int:
        """Steps between two checkpoints: the largest divisor of `validate_every` that is at most `checkpoint_every`.

        Validation happens only where a checkpoint is due anyway, so both always tell of the same weights.
        """
        total = self.total_steps(labeled_samples)
        every = min(self.validate_every or total, total)
        if self.validate_every is None or every == total:
            return min(self.checkpoint_every, total)
        return next(steps for steps in range(min(self.checkpoint_every, every), 0, -1) if every % steps == 0)
