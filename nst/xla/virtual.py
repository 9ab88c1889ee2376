"""Makes a CPU's virtual devices compute as a TPU's cores do, in sensible time.

XLA's CPU backend runs a convolution of many groups as plain loops. Where pictures have few pixels it takes a tenth to a
fortieth of the time as a product with the matrix that it stands for, zeros included.

A TPU's own program is left as it is, and so is bfloat16, in which it is checked what a TPU's program rounds.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import torch_xla.distributed.spmd as xs
from torch import Tensor

from nst.xla.placing import send_whole
from nst.xla.replacing import Replacing, pair

MOST_ENTRIES = 2**16  # of a channel's matrix: 16 x 16 px in and out; beyond, the zeros cost more than the loops

Pair = tuple[int, int]


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


class Products(Replacing):
    """Depthwise convolutions as products."""

    replaced: ClassVar = {F.conv2d: convolution}
