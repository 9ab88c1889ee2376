"""Any network of timm's with noise per sample, as teacher and student; the paper's are in `nst.models.efficientnet`.

The network is timm's, module by module and name by name; three kinds of module are exchanged for ours, none of which
changes a name of the state dict. DropPath becomes the stochastic depth of `nst.models.noise`, at the rates of the
network's own rule; dropout stands before the classifier; BatchNorm is the one that ranks, SPMD programs and
rematerialised blocks need. Images come normalised as for all our networks, and are brought to the network's own
normalisation inside, so that losses, attacks and evaluations know one kind of image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nst.models.efficientnet import IMAGENET_MEAN, IMAGENET_STD, rematerialize
from nst.models.freezing import Freezing
from nst.models.noise import Dropout, Noised, NoiseSwitch, StochasticDepth
from nst.models.timm_architecture import TimmArchitecture
from nst.models.timm_layers import (
    Again,
    classifier_modules,
    classifier_names,
    created,
    exchange_batch_norm,
    exchange_drop_path,
    layers_of,
)

LEVELS = 255.0


class Renormalize(nn.Module):
    """Images as `efficientnet.normalize` makes them, as a network sees them with this mean and deviation of 0 to 1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        own_mean, own_std = (LEVELS * torch.tensor(values) for values in (mean, std))
        scale, shift = torch.tensor(IMAGENET_STD) / own_std, (torch.tensor(IMAGENET_MEAN) - own_mean) / own_std
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class TimmNetwork(Noised, Freezing):
    """A network of timm's with per-sample noise: normalised images (B, 3, H, W) to logits (B, num_classes).

    Args:
        architecture: its name, sizes and normalisation.
        num_classes: size of the classifier.
        dropout: rate before the classifier.
        stochastic_depth: drop rate at the end of the network's own rule, a linear one in nearly every family.

    Raises:
        NstError: timm refuses to build it.
    """

    def __init__(
        self, architecture: TimmArchitecture, num_classes: int, *, dropout: float, stochastic_depth: float
    ) -> None:
        super().__init__()
        self.architecture, self.num_classes = architecture, num_classes
        self.grad_checkpointing = False
        self.trunk_dtype: torch.dtype | None = None  # of inference in another; see `keep_in`
        self.checkpoint: Callable[[nn.Module, Tensor], Tensor] = rematerialize  # XLA has another
        self.noise = NoiseSwitch()
        self.body = created(architecture, num_classes, stochastic_depth)
        exchange_batch_norm(self.body)
        self.paths = exchange_drop_path(self.body, self.noise)
        self.dropouts = nn.ModuleList(Dropout(dropout, self.noise) for _ in self.classifiers)
        for layer, before in zip(self.classifiers, self.dropouts, strict=True):
            layer.register_forward_pre_hook(partial(_through, before))
        self.layers = layers_of(self.body)
        as_ours = _same(architecture.mean, IMAGENET_MEAN) and _same(architecture.std, IMAGENET_STD)
        self.renormalize = nn.Identity() if as_ours else Renormalize(architecture.mean, architecture.std)

    @property
    def num_features(self) -> int:
        """Of what enters the classifier."""
        return int(self.classifiers[0].weight.shape[1])

    @property
    def classifiers(self) -> list[nn.Linear | nn.Conv2d]:
        """The layers that give the logits: one in nearly every family."""
        return [layer for layer in classifier_modules(self.body) if isinstance(layer, nn.Linear | nn.Conv2d)]

    @property
    def classifier_names(self) -> set[str]:
        """Names in the state dict of all that depends on the number of classes."""
        return classifier_names(self.body)

    @property
    def residual_blocks(self) -> list[nn.Module]:
        """What timm takes for the layers between stem and head, in order; of some families whole stages."""
        return [self.body.get_submodule(layer.module) for layer in self.layers[1:-1] if layer.module]

    def _drawing(self) -> list[tuple[Dropout | StochasticDepth, tuple[int, ...]]]:
        wide = [(layer.weight.shape[1], *[1] * (layer.weight.ndim - 2)) for layer in self.classifiers]
        layers: list[Any] = [*((path, ()) for path in self.paths), *zip(self.dropouts, wide, strict=True)]
        return [(layer, shape) for layer, shape in layers if layer.rate]

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised as ours are, to what the family has before its head."""
        x = self.renormalize(images)
        return self.body.forward_features(x.to(self.trunk_dtype or x.dtype))  # type: ignore[operator]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.body.forward_head(x)  # type: ignore[operator]

    def keep_in(self, dtype: torch.dtype) -> None:
        """Weights and feature maps in this type, for inference; the classifier stays in float32."""
        self.body.to(dtype)
        for layer in self.classifiers:
            layer.float()
        self.trunk_dtype = dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks keep only what enters them, and are computed again in the backward pass."""
        self.grad_checkpointing = enable
        for block in self.residual_blocks:
            block.__dict__.pop("forward", None)
            if enable:
                block.forward = Again(self, block)

    def parts(self) -> list[tuple[str, bool, list[nn.Parameter], list[nn.Module]]]:
        names = ["stem", *(f"block {number}" for number in range(len(self.layers) - 2)), "head"]
        parts = []
        for name, layer in zip(names, self.layers, strict=False):
            owners = dict.fromkeys(parameter.rpartition(".")[0] for parameter in layer.parameters)
            inside = [layer.module] if name.startswith("block") and layer.module else [o for o in owners if o]
            modules = [self.body.get_submodule(owner) for owner in inside]
            parameters = [self.body.get_parameter(parameter) for parameter in layer.parameters]
            parts.append((name, name.startswith("block"), parameters, modules))
        return parts

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """By timm's names: this class adds nothing to them."""
        return self.body.state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[f"{prefix}body.{name[len(prefix) :]}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *more)


def _through(before: nn.Module, layer: nn.Linear, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What enters a classifier, after the dropout before it."""
    return before(inputs[0].to(layer.weight.dtype)), *inputs[1:]


def _same(values: tuple[float, ...], levels: tuple[float, ...]) -> bool:
    return all(abs(LEVELS * value - level) < 1e-6 for value, level in zip(values, levels, strict=True))
