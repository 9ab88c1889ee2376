"""Makes a network ready to label: BatchNorm folded into the convolutions before it, the trunk in bf16 if wanted.

In eval mode BatchNorm is a scale and a shift per channel. A convolution can do both by itself, so a pass over every
feature map is saved: a fifth of the time on a CPU. Only the trunk is ever in bf16. Pooling and classifier stay in
float32, because logits rounded to 8 bits would reorder classes that are close.
"""

from __future__ import annotations

import copy

import torch
from timm.layers import Conv2dSame
from timm.models import efficientnet, regnet, resnet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nst.errors import NstError
from nst.models.batch_norm import BatchNorm
from nst.models.efficientnet import EfficientNet
from nst.models.networks import Network

FOLDED = (efficientnet.EfficientNet, resnet.ResNet, regnet.RegNet)
PLAIN = (nn.Conv2d, Conv2dSame)  # convolutions whose weight is used as it is


def labeling_network(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """The folded copy of a network: normalised images (B, 3, H, W) float32 to logits (B, C) float32.

    Args:
        network: in eval mode; it is not changed.
        dtype: of the trunk's weights and feature maps.

    Raises:
        NstError: the network is in train mode: its BatchNorm would not be what is folded.
    """
    copied = folded(network)
    copied.keep_in(dtype)
    return copied


def folded(network: Network) -> Network:
    """A copy that computes the same up to float32's rounding, without BatchNorm as far as it is known to follow a
    convolution at once: of ours without any, of timm's in the families of `FOLDED`.

    Raises:
        NstError: the network is in train mode.
    """
    if any(module.training for module in network.modules()):
        raise NstError("only a network in eval mode can be folded", got="train mode", next="network.eval()")
    copied = copy.deepcopy(network)
    copied.set_grad_checkpointing(False)
    if isinstance(copied, EfficientNet):
        for block in [copied, *copied.residual_blocks]:
            fold_block(block)
        left = [name for name, module in copied.named_modules() if isinstance(module, _BatchNorm)]
        assert not left, f"BatchNorm without its convolution: {left}"
    elif isinstance(copied.body, FOLDED):
        for module in copied.body.modules():
            fold_block(module)
    return copied.requires_grad_(False)


def fold_block(block: nn.Module) -> None:
    """Folds a module's own BatchNorms; these families register each right after its convolution."""
    convolution: nn.Conv2d | None = None
    for name, module in list(block.named_children()):
        if isinstance(module, BatchNorm) and convolution is not None:
            _fold(convolution, module)
            setattr(block, name, module.act)  # it ends in the activation, or in nothing
        convolution = module if isinstance(module, nn.Conv2d) and type(module) in PLAIN else None


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: _BatchNorm) -> None:
    """Scale and shift of `norm` go into weight and bias; in float64, so that only the last rounding is left."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight
    convolution.weight = nn.Parameter((weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype))
    convolution.bias = nn.Parameter(shift.to(weight.dtype))
