"""The phases of a training, before anything is loaded that trains: how long each is, and its learning rate per step.

There are two at most: training at the training size, then FixRes fine-tuning (METHOD) on labeled images without
augmentation at the larger size. An epoch is one of the *labeled* set; `step` is the number of updates already made.

The learning rate (paper section 3.1, "Training"; EfficientNet's recipe) is a pure function of the step: nothing to
save, nothing to restore, and a table of (step, rate) tests it. The exponential decay counts from step 0 and not from
the end of warm-up, as in the released code, so the base rate itself is never reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nst.errors import UsageError
from nst.models.architectures import AnyArchitecture, require_size
from nst.settings.learning import Finetune, Recipe, ScheduleOptions, StudentOptions
from nst.settings.network import Noise


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


@dataclass(frozen=True)
class Schedule:
    """Learning rate per step: a linear warm-up from 0, then a decay of a kind: exponential (the paper); cosine or
    constant for small runs.

    Args:
        base_rate: rate after scaling to the batch (`scaled_rate`).
        steps_per_epoch: labeled images / labeled batch size, not rounded.
        options: their decay_epochs is 2.4 for 350 epochs, 4.8 for 700; final_rate_per_256 is for `schedule_for`.
        total_steps: end of the cosine, at 0.

    Raises:
        NstError: a cosine without an end after the warm-up.
    """

    base_rate: float
    steps_per_epoch: float
    options: ScheduleOptions = field(default_factory=ScheduleOptions)
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if self.options.kind == "cosine" and (self.total_steps is None or self.total_steps <= self.warmup_steps):
            raise UsageError(
                "a cosine schedule must end after its warm-up",
                got=f"{self.total_steps} steps in all, {self.warmup_steps} of warm-up",
                next="train for more steps, or a shorter warm-up: student.schedule.warmup_epochs=0",
            )

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up, truncated; 5 epochs also in runs of 700, as in the released code."""
        return int(self.options.warmup_epochs * self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """Rate of the update after `step` updates, exact in float64."""
        if step < self.warmup_steps:
            return self.base_rate * step / self.warmup_steps
        return self.base_rate * DECAYS[self.options.kind](self, step)


def _exponential(schedule: Schedule, step: int) -> float:
    options = schedule.options
    decays = step / (options.decay_epochs * schedule.steps_per_epoch)
    # 1e-9 of a period: a whole step on a boundary must not decay late because 1.1 * 50 > 55 in floats.
    # (The released code divides in float32 and at a few steps decays one step early.)
    return options.decay_rate ** (math.floor(decays + 1e-9) if options.staircase else decays)


def _cosine(schedule: Schedule, step: int) -> float:
    assert schedule.total_steps is not None  # checked at construction
    progress = (step - schedule.warmup_steps) / (schedule.total_steps - schedule.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


DECAYS: dict[str, Callable[[Schedule, int], float]] = {
    "exponential": _exponential,
    "cosine": _cosine,
    "constant": lambda schedule, step: 1.0,
}


def scaled_rate(rate_per_256: float, labeled_batch_size: int) -> float:
    """Base rate by the linear rule: 0.016 per 256 labeled images makes 0.128 for 2048."""
    return rate_per_256 * labeled_batch_size / 256


def decay_epochs_for_final_rate(
    final_rate_per_256: float,
    rate_per_256: float,
    total_epochs: float,
    warmup_epochs: float = 5.0,
    decay_rate: float = 0.97,
) -> float:
    """`decay_epochs` by which the rate falls from one value to the other, both before scaling to the batch.

    The released code's rule for SVHN: (total - warm-up) epochs shared by ln(final/base) / ln(decay_rate)
    decays. As the decay counts from step 0, the rate really ends warm-up's share of decays below the final one.

    Raises:
        NstError: the final rate is not below the base, there is nothing after warm-up, or a decay changes nothing.
    """
    if not 0.0 < final_rate_per_256 < rate_per_256:
        raise UsageError("student.schedule.final_rate_per_256 must lie below the base rate", got=final_rate_per_256,
                       valid=f"above 0, below {rate_per_256}")  # fmt: skip
    if total_epochs <= warmup_epochs:
        raise UsageError("no epoch left after warm-up", got=total_epochs, valid=f"more than {warmup_epochs} epochs")
    if decay_rate == 1:
        raise UsageError(
            "student.schedule.decay_rate=1 never reaches a final rate",
            got=f"final_rate_per_256={final_rate_per_256}",
            valid="below 1",
            next="student.schedule.decay_rate=0.97, or student.schedule.final_rate_per_256=null",
        )
    return (total_epochs - warmup_epochs) / (math.log(final_rate_per_256 / rate_per_256) / math.log(decay_rate))


def schedule_for(recipe: Recipe, length: Length) -> Schedule:
    """A recipe's schedule; `final_rate_per_256` among its options sets `decay_epochs`.

    Raises:
        NstError: a final rate without exponential decay, or as `Schedule`.
    """
    options, rate = recipe.schedule, recipe.optimizer.rate_per_256
    if (final := options.final_rate_per_256) is not None:
        if options.kind != "exponential":
            raise UsageError(
                "student.schedule.final_rate_per_256 is of the exponential decay",
                got=f"kind={options.kind}",
                next="student.schedule.kind=exponential, or student.schedule.final_rate_per_256=null",
            )
        epochs = length.steps / length.steps_per_epoch
        period = decay_epochs_for_final_rate(final, rate, epochs, options.warmup_epochs, options.decay_rate)
        options = replace(options, decay_epochs=period, final_rate_per_256=None)
    return Schedule(scaled_rate(rate, recipe.labeled_batch_size), length.steps_per_epoch, options, length.steps)


@dataclass(frozen=True)
class Phase:
    """One fit: its recipe, noise, length and image sizes, and the name under which its network is kept."""

    name: str  # trained | finetuned
    recipe: Recipe
    noise: Noise
    length: Length
    image_size: int
    test_size: int
    first_step: int = 0

    @property
    def schedule(self) -> Schedule:
        """Raises NstError: warm-up, length and kind make no schedule."""
        return schedule_for(self.recipe, self.length)


def phases(model: AnyArchitecture, student: StudentOptions, noise: Noise, labeled_samples: int) -> list[Phase]:
    """Training, and FixRes fine-tuning where it is asked for."""
    finetune, length = student.finetune, Length.of(student, labeled_samples)
    # a network that will be fine-tuned is judged at its training size before, at the larger one after
    size = model.train_size if finetune.epochs else model.test_size
    first = Phase("trained", student, noise, length, model.train_size, size)
    if not finetune.epochs:
        return [first]
    recipe, larger = finetuning(finetune, student), finetune.image_size or model.test_size
    require_size(model, larger)
    quiet = replace(noise, labeled=replace(noise.labeled, augment="none"))
    return [first, Phase("finetuned", recipe, quiet, Length.of(recipe, labeled_samples), larger, larger, length.steps)]


def finetuning(finetune: Finetune, base: Recipe) -> Recipe:
    """The base recipe, short, at a constant rate, without unlabeled images."""
    return replace(
        base,
        labeled_batch_size=finetune.labeled_batch_size,
        unlabeled_ratio=0,
        loss_scale=1.0,
        epochs=finetune.epochs,
        steps=None,
        optimizer=replace(base.optimizer, rate_per_256=finetune.rate_per_256),
        schedule=ScheduleOptions(kind="constant", warmup_epochs=0),
        frozen_blocks=finetune.frozen_blocks,
        validate_every=None,
    )
