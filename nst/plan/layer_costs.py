"""What one image costs in a network: multiply-accumulates, parameters and activations, part by part.

The parts are the stem, each residual block, and the head. Nothing is looked up in a table. The network itself runs on
the meta device, where tensors have shapes and no memory, and hooks count, so any width, depth and image size is exact.
Of a transformer the products of its attention, which are no layers, are left out: a tenth at 224 px. torch's
FlopCounterMode has them, but neither what autograd keeps nor where stochastic depth reaches: the hooks would stay.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nst.models.architectures import AnyArchitecture, require_size
from nst.models.networks import Network, build
from nst.models.noise import StochasticDepth

IMAGES = 2  # that run: what belongs to images is told from what belongs to channels by its first dimension


@dataclass
class Part:
    """Stem, residual block or head, for one image; sizes of activations in elements.

    Args:
        macs: multiply-accumulates of convolutions and linear layers, forward.
        statistics: BatchNorm's running means and variances.
        inputs: what enters the part.
        outputs: what its convolutions, and linear layers on tokens, give.
        saved: what autograd keeps for the backward pass, without compiler.
    """

    name: str
    block: bool = False
    macs: int = 0
    parameters: int = 0
    statistics: int = 0
    inputs: int = 0
    outputs: int = 0
    saved: int = 0


@dataclass(frozen=True)
class NetworkCost:
    """The parts of a network in order, at one image size.

    Args:
        dropping: residual branches that stochastic depth reaches; layers of it that nothing calls do not count.
        folds: some of them get parts of images in the place of images.
    """

    image_size: int
    num_classes: int
    parts: tuple[Part, ...]
    dropping: int = 0
    folds: bool = False

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def statistics(self) -> int:
        return sum(part.statistics for part in self.parts)

    @property
    def macs(self) -> int:
        """Of one image, forward."""
        return sum(part.macs for part in self.parts)

    def learning(self, frozen_blocks: int) -> tuple[Part, ...]:
        """The parts that a backward pass reaches (FixRes freezes stem and first blocks)."""
        return self.parts[frozen_blocks + 1 :] if frozen_blocks else self.parts

    def training_flops(self, frozen_blocks: int = 0, *, remat: bool = False) -> int:
        """Of one image: 2 per multiply-accumulate forward, 4 backward, 2 more where a block is computed again."""
        learning = self.learning(frozen_blocks)
        again = sum(part.macs for part in learning if part.block) if remat else 0
        return 2 * (self.macs + 2 * sum(part.macs for part in learning) + again)

    @property
    def inference_flops(self) -> int:
        return 2 * self.macs


@functools.cache
def measure(architecture: AnyArchitecture, num_classes: int, image_size: int) -> NetworkCost:
    """Counts the network for images of that size in px, without memory and without computing.

    Raises:
        NstError: a width or depth that makes no network.
    """
    require_size(architecture, image_size)
    with torch.device("meta"):
        network = build(architecture, num_classes)
        images = torch.empty(IMAGES, 3, image_size, image_size)
    parts = _modules(network)
    counter = _Counter(parts, {_storage(parameter) for parameter in network.parameters()})
    hooks = [module.register_forward_hook(counter.count) for module in network.modules()]
    hooks += [modules[0].register_forward_pre_hook(counter.enter(part)) for part, modules in parts]
    with torch.autograd.graph.saved_tensors_hooks(counter.save, lambda tensor: tensor):
        network(images)
    for hook in hooks:
        hook.remove()
    return NetworkCost(image_size, num_classes, tuple(part for part, _ in parts), counter.dropping, counter.folds)


def _modules(network: Network) -> list[tuple[Part, list[nn.Module]]]:
    """The parts, each with the modules that make it; the first is where it begins."""
    parts = []
    for name, block, parameters, modules in network.parts():
        part = Part(name, block=block, parameters=sum(parameter.numel() for parameter in parameters))
        part.statistics = sum(b.numel() for module in modules for b in module.buffers() if b.is_floating_point())
        parts.append((part, modules))
    return parts


@dataclass
class _Counter:
    """Adds what the hooks see to the part that runs."""

    parts: list[tuple[Part, list[nn.Module]]]
    seen: set[int]  # storages already counted, and the parameters', which are no activations
    part: Part = field(init=False)
    dropping: int = 0
    folds: bool = False

    def __post_init__(self) -> None:
        self.part = self.parts[0][0]
        self.kept: list[Tensor] = []  # alive, so that no storage is given out twice

    def enter(self, part: Part) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.part = part
            tensors = inputs[0] if inputs and isinstance(inputs[0], list) else inputs[:1]  # of branches: a list
            part.inputs = sum(tensor.numel() for tensor in tensors) // IMAGES

        return hook

    def count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            self.part.macs += output.numel() // IMAGES * module.weight[0].numel()
            self.part.outputs += output.numel() // IMAGES
        elif isinstance(module, nn.Linear):
            self.part.macs += output.numel() // IMAGES * module.in_features
            self.part.outputs += output.numel() // IMAGES if output.ndim > 2 else 0  # of tokens, as of pixels
        elif isinstance(module, StochasticDepth) and module.rate:
            self.dropping += 1
            self.folds |= len(inputs[0]) != IMAGES

    def save(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self.seen and tensor.ndim > 1 and len(tensor) % IMAGES == 0:
            self.seen.add(_storage(tensor))
            self.kept.append(tensor)
            self.part.saved += tensor.numel() // IMAGES
        return tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
