"""The inside of timm's networks: their layers in order, and modules of ours in the place of timm's."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.layers.norm_act import BatchNormAct2d
from timm.models import group_parameters
from torch import Tensor, nn

from nst.errors import NstError, in_a_line
from nst.models.batch_norm import BatchNorm
from nst.models.noise import NoiseSwitch, StochasticDepth
from nst.models.timm_architecture import TimmArchitecture

UNCALLED = (nn.ModuleList, nn.ModuleDict)  # whose parts are called instead
EXCHANGED = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)
OPTIONAL = ("drop_path_rate", "drop_rate")  # arguments that a family may not have


@dataclass(frozen=True)
class Layer:
    """A layer as timm counts them: names of its parameters, and of the module that most of them make; empty: none."""

    parameters: tuple[str, ...]
    module: str


def layers_of(body: nn.Module) -> list[Layer]:
    """Stem, blocks and head. A family that does not tell its layers apart is one layer."""
    matcher = getattr(body, "group_matcher", None)
    if matcher is None:
        return [Layer(tuple(name for name, _ in body.named_parameters()), "")]
    groups = group_parameters(body, matcher(coarse=False))
    everywhere = collections.Counter(inside for names in groups.values() for name in names for inside in _owners(name))
    modules = {name for name, module in body.named_modules() if type(module) not in UNCALLED}
    return [Layer(tuple(groups[number]), _module_of(groups[number], everywhere, modules)) for number in sorted(groups)]


def _module_of(names: Sequence[str], everywhere: Mapping[str, int], modules: Collection[str]) -> str:
    """The largest module that holds nothing of other layers; timm counts a norm or a downsampling to a block's."""
    counts = collections.Counter(inside for name in names for inside in _owners(name))
    pure = [inside for inside, count in counts.items() if count == everywhere[inside] and inside in modules]
    return max(pure, key=lambda inside: counts[inside], default="")


def _owners(name: str) -> list[str]:
    """`a`, `a.b` of the parameter `a.b.weight`."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def classifier_modules(body: nn.Module) -> list[nn.Module]:
    """All modules that give the logits: one layer in nearly every family."""
    parts = body.get_classifier()  # type: ignore[operator]
    return [module for part in (parts if isinstance(parts, tuple | list) else [parts]) for module in part.modules()]


def classifier_names(body: nn.Module) -> set[str]:
    """Names in the state dict of all that depends on the number of classes."""
    inside = {id(module) for module in classifier_modules(body)}
    owners = {name for name, module in body.named_modules() if id(module) in inside}
    return {name for name in body.state_dict() if name.rpartition(".")[0] in owners}


class Again:
    """A block's forward pass when its `TimmNetwork` is rematerialised: it keeps its first input only."""

    def __init__(self, network: Any, block: nn.Module) -> None:
        self.network, self.block = network, block

    def __call__(self, x: Tensor, *more: Any, **options: Any) -> Any:
        plain = Plain(self.block, more, options)
        learnt = any(isinstance(value, Tensor) and value.requires_grad for value in (*more, *options.values()))
        # what a block shares with others may get its gradient through them: such a block keeps what it computes
        whole = learnt or not isinstance(x, Tensor)  # of branches: a list of tensors
        if not torch.is_grad_enabled() or not self.network.grad_checkpointing or whole:
            return plain(x)
        return self.network.checkpoint(plain, x)


class Plain(nn.Module):
    """A block as its class computes it, with all inputs but the first given."""

    def __init__(self, block: nn.Module, more: tuple[Any, ...], options: dict[str, Any]) -> None:
        super().__init__()
        self.block, self.more, self.options = block, more, options

    def forward(self, x: Tensor) -> Any:
        return type(self.block).forward(self.block, x, *self.more, **self.options)


def created(architecture: TimmArchitecture, num_classes: int, stochastic_depth: float) -> nn.Module:
    """timm's network, without noise of its own but stochastic depth where the family has it."""
    options: dict[str, Any] = {"drop_rate": 0.0, "drop_path_rate": stochastic_depth}
    options |= {"num_classes": num_classes, **architecture.options}
    while True:
        try:
            return timm.create_model(architecture.name, pretrained=False, **options)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:  # each family has its own way to refuse
            lacking = next((name for name in OPTIONAL if name in options and name in str(error)), None)
            if lacking is None:
                raise NstError(
                    f"timm does not build {architecture.name}",
                    got=f"{in_a_line(error)}; {architecture.train_size} px, {num_classes} classes",
                    next="another model.train_size, or another model.name",
                ) from error
            del options[lacking]


def exchange_batch_norm(body: nn.Module) -> None:
    """Puts our BatchNorm in the place of timm's and torch's, with the same parameters and activation."""
    for module in list(body.modules()):
        for name, norm in list(module.named_children()):
            if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or type(norm) not in EXCHANGED:
                continue
            if norm.affine and norm.track_running_stats:
                ours = BatchNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum or 0.1, apply_act=False)
                ours._parameters.update(norm._parameters)
                ours._buffers.update(norm._buffers)
                if isinstance(norm, BatchNormAct2d):
                    ours.drop, ours.act = norm.drop, norm.act
                setattr(module, name, ours)


def exchange_drop_path(body: nn.Module, switch: NoiseSwitch) -> list[StochasticDepth]:
    """Puts our stochastic depth in the place of timm's; and no other dropout is left that nothing here controls."""
    paths = []
    for module in list(body.modules()):
        for name, inner in list(module.named_children()):
            if isinstance(inner, DropPath):
                paths.append(StochasticDepth(inner.drop_prob, switch))
                setattr(module, name, paths[-1])
            elif isinstance(inner, nn.Dropout):
                inner.p = 0.0
    return paths
