"""How long a recipe trains on a labeled set, and the recipe of a fine-tuning after it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nst.settings.learning import Finetune, Recipe, ScheduleOptions


@dataclass(frozen=True)
class Length:
    """What a training needs to know of its labeled set: how many steps it makes of it.

    Args:
        steps_per_epoch: labeled images / labeled batch size, not rounded.
        steps: in all; at least 1.
        segment: steps between two checkpoints, which are one epoch to Lightning: at most `checkpoint_every`.
        segments_per_validation: None: no validation but the one at the end.
    """

    steps_per_epoch: float
    steps: int
    segment: int
    segments_per_validation: int | None

    @classmethod
    def of(cls, recipe: Recipe, labeled_samples: int) -> Length:
        """Of a recipe on so many labeled images.

        Validations lie on the ends of segments, so that checkpoint and validation always tell of the same weights:
        `validate_every` is cut into the fewest segments that are short enough, of equal length. Rounding that length
        up puts validations up to `segments_per_validation - 1` steps further apart than asked for (7 in segments of at
        most 3: 9).
        """
        per_epoch = labeled_samples / recipe.labeled_batch_size
        steps = max(1, recipe.steps or int(recipe.epochs * per_epoch))
        every = recipe.validate_every
        if every is None or every >= steps:
            return cls(per_epoch, steps, min(recipe.checkpoint_every, steps), None)
        parts = math.ceil(every / recipe.checkpoint_every)
        return cls(per_epoch, steps, math.ceil(every / parts), parts)

    @property
    def segments(self) -> int:
        return -(-self.steps // self.segment)


def finetuning(finetune: Finetune, base: Recipe) -> Recipe:
    """The base recipe, short, at a constant rate, without unlabeled images."""
    return replace(
        base,
        labeled_batch_size=finetune.labeled_batch_size,
        unlabeled_ratio=0,
        epochs=finetune.epochs,
        steps=None,
        optimizer=replace(base.optimizer, rate_per_256=finetune.rate_per_256),
        schedule=ScheduleOptions(kind="constant", warmup_epochs=0),
        frozen_blocks=finetune.frozen_blocks,
        validate_every=None,
    )
