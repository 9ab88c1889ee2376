"""Chooses the numbers of a step on XLA: float32, or bfloat16 where it is safe.

bf16-mixed is autocast: convolutions and the classifier in bfloat16; BatchNorm, activations, losses, weights and the
optimiser in float32. Autocast would also make the weights' *gradients* bfloat16 before they are summed over the
devices. `gradient_dtype` says in which type that all-reduce happens. float32 is what the released code does and the
default; bfloat16 halves the traffic, and its sum over 2,048 cores has two digits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import Precision
from torch import Tensor

from nst.errors import require_choice
from nst.xla.replacing import Replacing, pair
from nst.xla.virtual import Products

PRECISIONS = ("32-true", "bf16-mixed")


class XlaPrecision(Precision):
    """float32, or bfloat16 autocast on XLA.

    Args:
        precision: "32-true" or "bf16-mixed".
        gradient_dtype: of the gradients' all-reduce under bf16-mixed.
        virtual: the devices are parts of a CPU (`nst.xla.virtual`).

    Raises:
        NstError: another precision.
    """

    def __init__(self, precision: str = "32-true", gradient_dtype: str = "float32", *, virtual: bool = False) -> None:
        require_choice("trainer.precision", precision, PRECISIONS)
        self.precision = precision  # type: ignore[assignment]
        self.gradient_dtype = gradient_dtype
        self.virtual = virtual

    @contextlib.contextmanager
    def forward_context(self) -> Iterator[None]:
        if self.precision == "32-true":
            with Products() if self.virtual else contextlib.nullcontext():
                yield
            return
        wide = WideWeightGradients() if self.gradient_dtype == "float32" else contextlib.nullcontext()
        with torch.autocast("xla", dtype=torch.bfloat16), wide:
            yield


def _convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    geometry = (pair(stride), pair(padding), pair(dilation), False, (0, 0), groups)
    result = _WideConvolution.apply(images, weight, geometry)
    return result if bias is None else result + bias.to(result.dtype).view(1, -1, 1, 1)


def _linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    result = _WideLinear.apply(features, weight)
    return result if bias is None else result + bias.to(result.dtype)


class _WideConvolution(torch.autograd.Function):
    """bfloat16 convolution whose weight gradient is computed from the same inputs into float32."""

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, geometry: tuple[Any, ...]) -> Tensor:
        images = images.to(torch.bfloat16)
        context.save_for_backward(images, weight)
        context.geometry = geometry
        with torch.autocast("xla", enabled=False):
            return torch.ops.aten.convolution(images, weight.to(torch.bfloat16), None, *geometry)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = context.saved_tensors
        backward = torch.ops.aten.convolution_backward
        wanted_images, wanted_weight, _ = context.needs_input_grad
        to_images = to_weight = None
        if wanted_images:
            narrow = weight.to(torch.bfloat16)
            to_images = backward(gradient, images, narrow, None, *context.geometry, (True, False, False))[0]
        if wanted_weight:
            wide = gradient.float(), images.float()
            to_weight = backward(*wide, weight, None, *context.geometry, (False, True, False))[1]
        return to_images, to_weight, None


class _WideLinear(torch.autograd.Function):
    """bfloat16 linear layer whose weight gradient is computed from the same inputs into float32."""

    @staticmethod
    def forward(context: Any, features: Tensor, weight: Tensor) -> Tensor:
        features = features.to(torch.bfloat16)
        context.save_for_backward(features, weight)
        with torch.autocast("xla", enabled=False):
            return features @ weight.to(torch.bfloat16).T

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weight = context.saved_tensors
        wanted_features, wanted_weight = context.needs_input_grad
        to_features = gradient @ weight.to(torch.bfloat16) if wanted_features else None
        to_weight = gradient.float().T @ features.float() if wanted_weight else None
        return to_features, to_weight


class WideWeightGradients(Replacing):
    """Makes the weight gradients of convolutions and linear layers under autocast come out in float32.

    The partial sums of a device are then float32 when they meet those of the others. Inputs are bfloat16 all the same,
    so the multiplications cost what they did.
    """

    replaced: ClassVar = {F.conv2d: _convolution, F.linear: _linear}
