"""Learning rate per step (paper section 3.1, "Training"; EfficientNet's recipe).

The exponential decay counts from step 0 and not from the end of warm-up, as in the released code, so the base rate
itself is never reached. A learning rate is a pure function of the step: nothing to save, nothing to restore, and a
table of (step, rate) tests it.

An epoch is an epoch of the *labeled* set; `step` is the number of updates already made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from nst.errors import UsageError
from nst.settings.learning import Recipe
from nst.training.recipe import Length


@dataclass(frozen=True)
class Schedule:
    """Learning rate per step: a linear warm-up from 0, then a decay by `kind`.

    Args:
        base_rate: rate after scaling to the batch (`scaled_rate`).
        steps_per_epoch: labeled images / labeled batch size, not rounded.
        kind: exponential (the paper); cosine (to 0 at `total_steps`) or constant for small runs.
        warmup_epochs: length of warm-up; its steps are truncated to a whole number.
        decay_rate: factor of one exponential decay.
        decay_epochs: epochs between two of them: 2.4 for 350 epochs, 4.8 for 700.
        staircase: decay in jumps and not smoothly.
        total_steps: end of the cosine.

    Raises:
        NstError: a cosine without an end after the warm-up.
    """

    base_rate: float
    steps_per_epoch: float
    kind: str = "exponential"
    warmup_epochs: float = 5.0
    decay_rate: float = 0.97
    decay_epochs: float = 2.4
    staircase: bool = True
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if self.kind == "cosine" and (self.total_steps is None or self.total_steps <= self.warmup_steps):
            raise UsageError(
                "a cosine schedule must end after its warm-up",
                got=f"{self.total_steps} steps in all, {self.warmup_steps} of warm-up",
                next="train for more steps, or a shorter warm-up: student.schedule.warmup_epochs=0",
            )

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up; 5 epochs also in runs of 700, as in the released code."""
        return int(self.warmup_epochs * self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """Rate of the update after `step` updates, exact in float64."""
        if step < self.warmup_steps:
            return self.base_rate * step / self.warmup_steps
        return self.base_rate * DECAYS[self.kind](self, step)


def _exponential(schedule: Schedule, step: int) -> float:
    decays = step / (schedule.decay_epochs * schedule.steps_per_epoch)
    # 1e-9 of a period: a whole step on a boundary must not decay late because 1.1 * 50 > 55 in floats.
    # (The released code divides in float32 and at a few steps decays one step early.)
    return schedule.decay_rate ** (math.floor(decays + 1e-9) if schedule.staircase else decays)


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
        NstError: the final rate is not below the base, or there is nothing after warm-up.
    """
    if not 0.0 < final_rate_per_256 < rate_per_256:
        raise UsageError("student.schedule.final_rate_per_256 must lie below the base rate", got=final_rate_per_256,
                       valid=f"above 0, below {rate_per_256}")  # fmt: skip
    if total_epochs <= warmup_epochs:
        raise UsageError("no epoch left after warm-up", got=total_epochs, valid=f"more than {warmup_epochs} epochs")
    return (total_epochs - warmup_epochs) / (math.log(final_rate_per_256 / rate_per_256) / math.log(decay_rate))


def schedule_for(recipe: Recipe, length: Length) -> Schedule:
    """A recipe's schedule; `final_rate_per_256` among its options sets `decay_epochs`.

    Raises:
        NstError: a final rate without exponential decay, or as `Schedule`.
    """
    options, rate = dict(vars(recipe.schedule)), recipe.optimizer.rate_per_256
    final = options.pop("final_rate_per_256")
    if final is not None:
        if options["kind"] != "exponential":
            raise UsageError(
                "student.schedule.final_rate_per_256 is of the exponential decay",
                got=f"kind={options['kind']}",
                next="student.schedule.kind=exponential, or student.schedule.final_rate_per_256=null",
            )
        shape = {name: options[name] for name in ("warmup_epochs", "decay_rate")}
        epochs = length.steps / length.steps_per_epoch
        options["decay_epochs"] = decay_epochs_for_final_rate(final, rate, epochs, **shape)
    rate = scaled_rate(rate, recipe.labeled_batch_size)
    return Schedule(base_rate=rate, steps_per_epoch=length.steps_per_epoch, total_steps=length.steps, **options)
