"""EfficientNet B0-B7, L0-L2, the small-image variant and any other width and depth (section 3.1, table 7).

The network is timm's EfficientNet as its `tf_efficientnet_*` builds it: same modules, same parameter names, so
released weights load with strict names, and TensorFlow's asymmetric padding, so they also compute the same. timm's
dropout and DropPath are replaced by those of `nst.models.noise`, which can be switched off sample by sample. They hold
no parameters, so the state dict is still timm's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.layers import get_act_layer
from timm.models import efficientnet as timm_efficientnet
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nst.errors import NstError, UsageError
from nst.models.architectures import (
    ARCHITECTURES,
    HEAD_CHANNELS,
    SQUEEZE_RATIO,
    STAGES,
    STEM_CHANNELS,
    Architecture,
    strides,
)
from nst.models.batch_norm import BatchNorm, still_statistics
from nst.models.freezing import Freezing
from nst.models.noise import Dropout, Noised, NoiseSwitch, StochasticDepth

ACTIVATION = "swish"
BATCH_NORM_MOMENTUM = 0.01  # [C]: 0.99 of the old statistics stay; timm would leave PyTorch's 0.1
BATCH_NORM_EPS = 1e-3

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class EfficientNet(Noised, Freezing, timm_efficientnet.EfficientNet):
    """timm's EfficientNet with per-sample noise: normalised images (B, 3, H, W) to logits (B, num_classes).

    Args:
        architecture: width, depth and variant.
        num_classes: size of the classifier.
        dropout: rate before the classifier.
        stochastic_depth: drop rate at the end of a linear rule: block i of N has this * i / N.

    Weights start as in [C] (timm's default is the same): convolutions normal with variance 2 / fan_out, where fan_out
    of a depthwise kernel is its area; classifier uniform within 1 / sqrt(num_classes); biases 0.
    """

    def __init__(
        self, architecture: Architecture, num_classes: int, *, dropout: float, stochastic_depth: float
    ) -> None:
        super().__init__(
            block_args=decode_arch_def(_stages(architecture), architecture.depth),
            num_classes=num_classes,
            num_features=architecture.channels(HEAD_CHANNELS),
            stem_size=STEM_CHANNELS,
            pad_type="same",
            act_layer=get_act_layer(ACTIVATION),
            norm_layer=_batch_norm,
            round_chs_fn=partial(round_channels, multiplier=architecture.width),
        )
        self.architecture = architecture
        self.stochastic_depth = stochastic_depth
        self.checkpoint: Callable[[nn.Module, Tensor], Tensor] = rematerialize  # XLA has another
        self.trunk_dtype: torch.dtype | None = None  # of inference in another; see `keep_in`
        self.noise = NoiseSwitch()
        self.dropout = Dropout(dropout, self.noise)
        for index, block in enumerate(self.residual_blocks):
            if block.has_skip:
                block.drop_path = StochasticDepth(self.stochastic_depth_rate(index), self.noise)

    @property
    def residual_blocks(self) -> list[Any]:
        """The N inverted-residual blocks in order, through all stages."""
        return [block for stage in self.blocks for block in cast(nn.Sequential, stage)]

    def stochastic_depth_rate(self, index: int) -> float:
        """Drop rate of block `index` by the linear rule, whether or not it has a skip to drop around."""
        return self.stochastic_depth * index / len(self.residual_blocks)

    def _drawing(self) -> list[tuple[Dropout | StochasticDepth, tuple[int, ...]]]:
        paths = [block.drop_path for block in self.residual_blocks if block.has_skip]
        layers = [*((path, (1, 1, 1)) for path in paths), (self.dropout, (self.num_features,))]
        return [(layer, shape) for layer, shape in layers if layer.rate]

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to feature maps (B, C, h, w); rematerialised if `set_grad_checkpointing`."""
        again = self.grad_checkpointing and torch.is_grad_enabled()
        x = self.bn1(self.conv_stem(x if self.trunk_dtype is None else x.to(self.trunk_dtype)))
        for block in self.residual_blocks:
            x = self.checkpoint(block, x) if again else block(x)
        return self.bn2(self.conv_head(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps (B, C, h, w) to logits (B, num_classes), or to pooled features (B, C)."""
        x = self.dropout(self.global_pool(x if self.trunk_dtype is None else x.float()))
        return x if pre_logits else self.classifier(x)

    def keep_in(self, dtype: torch.dtype) -> None:
        """Weights and feature maps of the trunk in this type, for inference; pooling and classifier stay in float32."""
        for name, part in self.named_children():
            if name != "classifier":
                part.to(dtype)
        self.trunk_dtype = dtype

    def parts(self) -> list[tuple[str, bool, list[nn.Parameter], list[nn.Module]]]:
        parts: list[tuple[str, bool, list[nn.Module]]] = [("stem", False, [self.conv_stem, self.bn1])]
        parts += [(f"block {number}", True, [block]) for number, block in enumerate(self.residual_blocks)]
        parts.append(("head", False, [self.conv_head, self.bn2, self.classifier]))
        return [
            (name, block, [parameter for module in modules for parameter in module.parameters()], modules)
            for name, block, modules in parts
        ]

    @property
    def classifier_names(self) -> set[str]:
        """Names in the state dict of all that depends on the number of classes."""
        return {"classifier.weight", "classifier.bias"}


def _batch_norm(channels: int, **options: Any) -> BatchNorm:
    """As timm's builder takes it: a function is called as it is, another class would become timm's own."""
    return BatchNorm(
        channels, momentum=BATCH_NORM_MOMENTUM, eps=BATCH_NORM_EPS, act_layer=get_act_layer(ACTIVATION), **options
    )


def rematerialize(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, keeping `x` only: the rest is computed again in the backward pass."""
    return checkpoint(block, x, use_reentrant=False, context_fn=partial(_recompute_contexts, block))


def _recompute_contexts(block: nn.Module) -> tuple[Any, Any]:
    """What a rematerialised block runs in: the first time and again in the backward pass."""
    return contextlib.nullcontext(), still_statistics(block)


def _stages(architecture: Architecture) -> list[list[str]]:
    """timm's definition of the stages: block type, repeats, kernel, stride, expansion, channels, squeeze ratio."""
    return [
        [
            f"{'ds' if stage.expansion == 1 else 'ir'}_r{stage.repeats}_k{stage.kernel}_s{stride}_e{stage.expansion}"
            f"_c{stage.channels}_se{SQUEEZE_RATIO}"
        ]
        for stage, stride in zip(STAGES, strides(architecture), strict=True)
    ]


def build(
    architecture: Architecture,
    num_classes: int,
    *,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
) -> EfficientNet:
    """A freshly initialised network in train mode; `dropout` None takes the architecture's.

    Raises:
        NstError: no classes, or a size or a rate that makes no network.
    """
    if num_classes < 1:
        raise NstError("a classifier needs classes", got=num_classes, valid="num_classes >= 1")
    if architecture.width <= 0 or architecture.depth <= 0:
        raise UsageError(
            "a network needs a width and a depth",
            got=f"width {architecture.width}, depth {architecture.depth}",
            valid=f"numbers above 0; known: {', '.join(ARCHITECTURES)}",
        )
    rate = architecture.dropout if dropout is None else dropout
    return EfficientNet(architecture, num_classes, dropout=rate, stochastic_depth=stochastic_depth)


def normalize(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) of 0 to 255, uint8 or float, in units of ImageNet's mean and deviation, as in [C].

    Differentiable for float images (attacks); the memory format (channels_last or not) is kept.
    """
    x = images if images.is_floating_point() else images.float()
    # non_blocking: the few bytes follow the stream instead of waiting for it
    constants = torch.tensor((IMAGENET_MEAN, IMAGENET_STD), dtype=x.dtype).to(x.device, non_blocking=True)
    mean, std = constants.view(2, 3, 1, 1)
    return (x - mean) / std
