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
        NstError: an option that it does not have, or one that has no form with a tensor as rate.
    """
    constructor, with_tensor_rate, defaults = OPTIMIZERS[name]
    accepted = [option for option in inspect.signature(constructor).parameters if option not in ("params", "lr")]
    for option in options:
        if option not in accepted:
            raise UsageError(
                f"{name} has no such option{nearest(option, accepted)}", got=option, valid=", ".join(accepted)
            )
    if tensor_rate:
        constructor = with_tensor_rate
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
