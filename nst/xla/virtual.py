"""What a CPU's virtual devices need to compute as a TPU's cores do: each its own rows of the batch, in sensible time.

XLA's CPU backend does not divide a BatchNorm among devices: it collects the whole batch on each, which then computes
all that follows eight times over. A TPU's compiler takes the layer apart first; here it is written in parts. And a
convolution of many groups, which a CPU runs as plain loops, takes a tenth to a fortieth of the time as a product with
the matrix that it stands for, zeros included, where pictures have few pixels.

The one decision worth knowing: a TPU's own program is left as it is, and so is bfloat16, in which it is checked what a
TPU's program rounds.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import torch_xla.distributed.spmd as xs
from torch import Tensor

from nst.xla.replacing import Replacing, pair
from nst.xla.transfer import send_whole

MOST_ENTRIES = 2**16  # of a channel's matrix: 16 x 16 px in and out; beyond, the zeros cost more than the loops

Pair = tuple[int, int]


# ---- BatchNorm -------------------------------------------------------------------------------------------


def batch_norm(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of (B, C, H, W) as torch_xla has it: the running variance gets a biased one."""
    if not training:
        assert running_mean is not None
        assert running_var is not None
        return (images - _wide(running_mean)) * _wide((running_var + eps).rsqrt() * weight) + _wide(bias)
    result, mean, variance = _BatchNorm.apply(images, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.mul_(1 - momentum).add_(momentum * mean)
            running_var.mul_(1 - momentum).add_(momentum * variance)
    return result


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = images.mean((0, 2, 3))
        centered = images - _wide(mean)
        variance = centered.square().mean((0, 2, 3))
        scale = (variance + eps).rsqrt()
        normal = centered * _wide(scale)
        context.save_for_backward(normal, scale, weight)
        context.mark_non_differentiable(mean, variance)
        return normal * _wide(weight) + _wide(bias), mean, variance

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, scale, weight = context.saved_tensors
        to_bias, to_weight = gradient.sum((0, 2, 3)), (gradient * normal).sum((0, 2, 3))
        values = gradient.numel() // len(scale)
        to_images = gradient - (_wide(to_bias) + normal * _wide(to_weight)) / values
        return to_images * _wide(scale * weight), to_weight, to_bias, None


def _wide(of_channels: Tensor) -> Tensor:
    return of_channels.view(1, -1, 1, 1)


# ---- depthwise convolutions ------------------------------------------------------------------------------


def convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`; depthwise ones of (B, C, H, W) by matrices (C, H W, H' W') if these are small."""
    channels, side = images.shape[1], (images.shape[2], images.shape[3])
    if groups == channels == len(weight) > 1 and bias is None and dilation in (1, (1, 1)):
        kernel = (weight.shape[2], weight.shape[3])
        places, made = _places(side, kernel, pair(stride), pair(padding), images.device)
        if places is not None:
            matrices = (weight.flatten(1) @ places).view(channels, side[0] * side[1], -1)
            return torch.einsum("bci,cio->bco", images.flatten(2), matrices).unflatten(2, made)
    return F.conv2d(images, weight, bias, stride, padding, dilation, groups)


@functools.cache
def _places(side: Pair, kernel: Pair, stride: Pair, padding: Pair, device: torch.device) -> tuple[Tensor | None, Pair]:
    """(h w, H W x H' W') of 0 and 1, which weight of a kernel leads from which pixel to which, and (H', W').

    None where it would be large. It is what the convolution makes of pictures of a single pixel with kernels of a
    single weight.
    """
    rows, columns = (
        (one + 2 * more - size) // step + 1 for one, more, size, step in zip(side, padding, kernel, stride, strict=True)
    )
    if side[0] * side[1] * rows * columns > MOST_ENTRIES:
        return None, (rows, columns)
    with torch.inference_mode(False), torch.no_grad():
        pixels = torch.eye(side[0] * side[1]).view(-1, 1, *side)
        weights = torch.eye(kernel[0] * kernel[1]).view(-1, 1, *kernel)
        places = F.conv2d(pixels, weights, stride=stride, padding=padding).transpose(0, 1).flatten(1)
        if device.type == "xla":
            mesh = xs.get_global_mesh()
            assert mesh is not None
            places = send_whole(places, device, mesh)  # once: an input of every step, held for the process's life
    return places, (rows, columns)


class Divisible(Replacing):
    """BatchNorm in parts, depthwise convolutions as products."""

    replaced: ClassVar = {F.batch_norm: batch_norm, F.conv2d: convolution}
