"""Learning rate, weight decay and optimiser (paper section 3.1, "Training"; EfficientNet's recipe).

The exponential decay counts from step 0 and not from the end of warm-up, as in the released code, so the base rate
itself is never reached. A learning rate is a pure function of the step: nothing to save, nothing to restore, and a
table of (step, rate) tests it.

An epoch is an epoch of the *labeled* set; `step` is the number of updates already made.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim.rmsprop_tf import RMSpropTF
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from nst.errors import UsageError, nearest
from nst.settings.learning import Recipe
from nst.training.recipe import Length
from nst.training.tensor_rate import TensorRateAdamW, TensorRateRMSprop, TensorRateSGD


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
        NstError: unknown `kind`, or lengths that make no schedule.
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
        if self.kind not in DECAYS:
            raise UsageError(
                f"unknown learning-rate schedule{nearest(self.kind, DECAYS)}",
                got=self.kind,
                valid=", ".join(DECAYS),
            )
        for name in ("steps_per_epoch", "decay_rate", "decay_epochs"):
            if not getattr(self, name) > 0.0:
                raise UsageError(f"{name} of the learning-rate schedule", got=getattr(self, name), valid="above 0")
        if self.warmup_epochs < 0.0:
            raise UsageError("warmup_epochs is negative", got=self.warmup_epochs, valid="0 or more (paper: 5)")
        if self.kind == "cosine" and (self.total_steps is None or self.total_steps <= self.warmup_steps):
            raise UsageError(
                "a cosine schedule must end after its warm-up",
                got=f"total_steps={self.total_steps}, warm-up of {self.warmup_steps} steps",
                next="train for more steps, or lower student.schedule.warmup_epochs",
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


def _constant(schedule: Schedule, step: int) -> float:
    return 1.0


DECAYS: dict[str, Callable[[Schedule, int], float]] = {
    "exponential": _exponential,
    "cosine": _cosine,
    "constant": _constant,
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
    decays. As the decay counts from step 0, the rate really ends warm-up's share of decays below the final
    one.

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


NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two optimiser groups: decayed, and those of normalising layers without decay.

    Biases are decayed too: the released code adds its L2 loss to every variable that is not BatchNorm. LayerNorm and
    its kin are BatchNorm's counterpart in other networks. Frozen parameters are left out.

    Raises:
        NstError: nothing is trainable.
    """
    decayed: dict[int, nn.Parameter] = {}
    undecayed: dict[int, nn.Parameter] = {}
    for module in network.modules():
        group = undecayed if isinstance(module, NORMS) else decayed
        # by identity: a parameter shared between modules is updated once
        group.update((id(p), p) for p in module.parameters(recurse=False) if p.requires_grad)
    if not decayed and not undecayed:
        raise UsageError(
            "the network has no trainable parameter", next="freeze fewer layers: student.finetune.frozen_blocks=0"
        )
    groups = ((decayed, weight_decay), (undecayed, 0.0))
    return [{"params": list(members.values()), "weight_decay": decay} for members, decay in groups if members]


# constructor and our defaults. RMSProp is TensorFlow's: epsilon inside the root, mean square from 1, rate
# inside the momentum buffer; torch.optim.RMSprop differs in all three.
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "rmsprop": (RMSpropTF, {"alpha": 0.9, "eps": 1e-3, "momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}


# the same for a rate that is a tensor
TENSOR_RATE: dict[str, Callable[..., Optimizer]] = {
    "rmsprop": TensorRateRMSprop,
    "adamw": TensorRateAdamW,
    "sgd": TensorRateSGD,
}


def build_optimizer(
    name: str, groups: Iterable[dict[str, Any]], lr: float, *, tensor_rate: bool = False, **options: Any
) -> Optimizer:
    """Optimiser by name over `parameter_groups`; `options` override the defaults in `OPTIMIZERS`.

    Weight decay of `rmsprop` and `sgd` is the gradient of an L2 loss, as in the released code. `adamw`
    decouples it (a weight shrinks by lr * decay, outside the normalisation): the same groups, but 1e-5 is
    another strength.

    Args:
        tensor_rate: the groups' "lr" will be replaced by () tensors on the parameters' device (`on_device`).

    Raises:
        NstError: unknown optimiser or option, or one that has no form with a tensor as rate.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f"unknown optimiser{nearest(name, OPTIMIZERS)}", got=name, valid=", ".join(OPTIMIZERS))
    constructor, defaults = OPTIMIZERS[name]
    accepted = [option for option in inspect.signature(constructor).parameters if option not in ("params", "lr")]
    for option in options:
        if option not in accepted:
            raise UsageError(
                f"{name} has no such option{nearest(option, accepted)}", got=option, valid=", ".join(accepted)
            )
    if tensor_rate:
        constructor = TENSOR_RATE[name]
        _require_supported(name, options)
    try:
        return constructor(list(groups), lr=lr, **{**defaults, **options})
    except ValueError as error:
        raise UsageError(f"{name} refuses its options", got=error, valid=f"defaults: {defaults}") from error


# variants that the optimisers with a tensor rate lack
RARE_OPTIONS = ("amsgrad", "maximize", "dampening", "differentiable", "fused", "centered", "decoupled_decay", "caution")


def _require_supported(name: str, options: Mapping[str, Any]) -> None:
    rare = [option for option in RARE_OPTIONS if options.get(option)]
    rare += [] if options.get("lr_in_momentum", True) else ["lr_in_momentum"]
    if rare:
        option = f"student.optimizer.{rare[0]}"
        raise UsageError(
            f"{name} has no {rare[0]} on this trainer",
            got=f"{option}={options[rare[0]]}",
            next=f"leave out {option}, or use trainer=cpu or gpu",
        )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Gives every group the rate of the next update; where it is a tensor, a new one on the same device."""
    for group in optimizer.param_groups:
        group["lr"] = on_device(rate, group["lr"].device) if isinstance(group["lr"], Tensor) else rate


def on_device(number: float, device: torch.device) -> Tensor:
    """A number as a () float32 tensor that a compiled graph takes as an input.

    It travels as one element of a vector: torch_xla makes scalars of certain values (0, 1, ones it holds already)
    constants of the graph, which would then be compiled again.
    """
    return torch.tensor([number], dtype=torch.float32).to(device)[0]
