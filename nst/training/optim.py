"""Weight decay and optimiser (paper section 3.1, "Training"; EfficientNet's recipe), and how a rate reaches it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from timm.optim.rmsprop_tf import RMSpropTF
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from nst.errors import UsageError, nearest
from nst.settings.learning import ELSEWHERE
from nst.shown import as_typed
from nst.training.tensor_rate import TensorRateAdamW, TensorRateRMSprop, TensorRateSGD

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


# constructor, the same for a rate that is a tensor, and our defaults. RMSProp is TensorFlow's: epsilon inside the
# root, mean square from 1, rate inside the momentum buffer; torch.optim.RMSprop differs in all three.
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], Callable[..., Optimizer], dict[str, Any]]] = {
    "rmsprop": (RMSpropTF, TensorRateRMSprop, {"alpha": 0.9, "eps": 1e-3, "momentum": 0.9}),
    "adamw": (torch.optim.AdamW, TensorRateAdamW, {}),
    "sgd": (torch.optim.SGD, TensorRateSGD, {"momentum": 0.9, "nesterov": True}),
}
# of these constructors' options: the network's parameters, and those for steps that are recorded or differentiated,
# which these are not
NO_OPTIONS = ("params", "capturable", "differentiable")


def build_optimizer(
    name: str,
    groups: Iterable[dict[str, Any]],
    lr: float,
    options: Mapping[str, Any] | None = None,
    *,
    tensor_rate: bool = False,
) -> Optimizer:
    """Optimiser by name over `parameter_groups`; `options` override the defaults in `OPTIMIZERS`.

    Weight decay of `rmsprop` and `sgd` is the gradient of an L2 loss, as in the released code. `adamw`
    decouples it (a weight shrinks by lr * decay, outside the normalisation): the same groups, but 1e-5 is
    another strength.

    Args:
        tensor_rate: the groups' "lr" will be replaced by () tensors on the parameters' device (`on_device`).

    Raises:
        NstError: as `require_options`.
    """
    options = options or {}
    require_options(name, options, tensor_rate=tensor_rate)
    constructor, with_tensor_rate, defaults = OPTIMIZERS[name]
    return (with_tensor_rate if tensor_rate else constructor)(list(groups), lr=lr, **{**defaults, **options})


def require_options(name: str, options: Mapping[str, Any], *, tensor_rate: bool = False) -> None:
    """Raises UsageError for an option that the optimiser does not have or nst gives it, one that has no form with a
    tensor as rate, or a value that is none."""
    constructor, _, defaults = OPTIMIZERS[name]
    signature = inspect.signature(constructor).parameters
    usual = {key: entry.default for key, entry in signature.items() if key not in (*ELSEWHERE, *NO_OPTIONS)} | defaults
    for option, value in options.items():
        typed = f"student.optimizer.{option}={_typed(value)}"
        if option in ELSEWHERE:
            raise UsageError(f"the {option} of {name} has an option of its own", got=typed, next=ELSEWHERE[option])
        if option not in usual:
            raise UsageError(f"{name} has no such option{nearest(option, usual)}", got=typed, valid=", ".join(usual))
        if not _is_like(value, usual[option]):
            raise UsageError(f"student.optimizer.{option} cannot be this", got=typed, valid=_words(usual[option]))
    if tensor_rate:
        _require_supported(name, options)
    try:
        constructor([nn.Parameter(torch.zeros(1))], lr=0.1, **{**defaults, **options})
    except (ValueError, RuntimeError) as error:
        of_these = {option: usual[option] for option in {**options, **defaults}}
        by_default = ", ".join(f"student.optimizer.{option}={_typed(value)}" for option, value in of_these.items())
        raise UsageError(f"{name} refuses its options", got=error, valid=f"by default {by_default}") from error


def _is_like(value: Any, usual: Any) -> bool:
    """Whether a value is of the kind of the usual one, which is None where torch decides between yes and no."""
    if isinstance(usual, tuple):
        return isinstance(value, (list, tuple)) and len(value) == len(usual) and all(map(_is_like, value, usual))
    if usual is None or isinstance(usual, bool):
        return isinstance(value, bool) or value is usual
    return type(value) in (int, float)


def _words(usual: Any) -> str:
    if isinstance(usual, tuple):
        return f"{len(usual)} numbers, by default {_typed(usual)}"
    return "true or false" if usual is None or isinstance(usual, bool) else f"a number, by default {usual}"


def _typed(value: Any) -> str:
    return as_typed(list(value) if isinstance(value, tuple) else value)


# variants that the optimisers with a tensor rate lack
RARE_OPTIONS = ("amsgrad", "maximize", "dampening", "fused", "centered", "decoupled_decay", "caution")


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
