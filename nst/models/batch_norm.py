"""BatchNorm over the whole batch, wherever its parts lie: one layer on every kind of hardware.

On one device it is torch's own kernel. Where ranks hold parts of the batch (DDP), they exchange the statistics of their
parts, and in the backward pass two sums per channel. Where a compiled program holds all of it (XLA), it is written as
plain reductions, which any compiler divides among the devices; a CPU's would collect the batch for torch's operation.

Ranks exchange in train mode only. A teacher, a moving average and frozen blocks are in eval mode: they wait for
nobody, and nothing is ever converted or reverted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IMAGES = (0, 2, 3)  # the dimensions of (B, C, H, W) that a channel's statistics are over

Statistics = tuple[Tensor, Tensor, Any]  # mean (C,), biased variance (C,), values per channel: a number or (1,)


class BatchNorm(BatchNormAct2d):
    """timm's BatchNorm and activation of (B, C, H, W), with timm's names; also torch's of (B, C) and (B, C, L).

    The running variance averages the unbiased one, as torch's, also on XLA, whose own operation takes the biased one;
    so does [C]. They differ by n / (n - 1) for n values of a channel: 1.3 % at 80, nothing at ImageNet's batch.
    """

    moves = True  # the running statistics, with every batch in train mode
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            return self(x.reshape(*x.shape[:2], -1, 1)).reshape(x.shape)
        return self.act(self.drop(self._normalized(x)))

    def _normalized(self, x: Tensor) -> Tensor:
        compiled = x.device.type == "xla"
        if self.training and self.moves:
            self.num_batches_tracked.add_(1)
        # on the meta device shapes alone are asked for (nst.plan.layer_costs), by one rank or by all
        if self.training and (compiled or (ranks() > 1 and not x.is_meta)):
            x = x.float() if compiled else x  # float32 also under autocast
            mean, variance, values = whole_statistics(x)
            self._move(mean, variance * (values / (values - 1)))
            return _Normalized.apply(x, self.weight, self.bias, mean, variance, values, self.eps)
        mean, variance = self.running_mean, self.running_var
        if compiled:
            return (x - _wide(mean)) * _wide((variance + self.eps).rsqrt() * self.weight) + _wide(self.bias)
        momentum = self.momentum if self.moves else 0.0
        return F.batch_norm(x, mean, variance, self.weight, self.bias, self.training, momentum, self.eps)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        if self.moves:
            self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
            self.running_var.mul_(1 - self.momentum).add_(self.momentum * variance)


@contextlib.contextmanager
def still_statistics(block: nn.Module) -> Iterator[None]:
    """Keeps the second run of a rematerialised block from moving the statistics by the same batch again."""
    norms = [module for module in block.modules() if isinstance(module, BatchNorm)]
    try:
        for module in norms:
            module.moves = False
        yield
    finally:
        for module in norms:
            module.moves = True


def micro_momentum(momentum: float, parts: int) -> float:
    """The weight of a micro-batch in the running statistics with which so many weigh as much as one whole batch."""
    return momentum if parts == 1 else 1 - (1 - momentum) ** (1 / parts)


def ranks() -> int:
    """Processes that each hold a part of the batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def whole_statistics(x: Tensor) -> Statistics:
    """Mean and variance of the whole batch, of which `x` is this rank's part, in float32. All ranks must ask."""
    values = x.numel() // x.shape[1]
    if x.device.type == "xla":
        assert values > 1, f"a batch of shape {tuple(x.shape)} has one value per channel, and no variance"
        mean = x.mean(IMAGES)
        return mean, (x - _wide(mean)).square().mean(IMAGES), values
    # a GPU's kernel adds bfloat16 up in float32, a CPU's does not
    mean, variance = torch.batch_norm_update_stats(x if x.is_cuda else x.float(), None, None, 0.0)
    own = torch.cat([mean, variance, torch.full((1,), values, dtype=mean.dtype, device=mean.device)])
    every = own.new_empty(ranks() * len(own))
    dist.all_gather_into_tensor(every, own)
    means, variances, counts = every.view(ranks(), -1).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    # around the common mean; from sums of squares it would be a small difference of large numbers
    return mean, (counts * (variances + (means - mean).square())).sum(0) / total, total


class _Normalized(torch.autograd.Function):
    """`x` by the statistics of the whole batch, through which its gradient goes as well.

    Gradients are of the sum of all ranks' losses; those of weight and bias are this rank's part of it, and DDP averages
    them like all others.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, values: Any, eps: float
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        context.save_for_backward(x, weight, mean, scale)
        context.values = values
        if x.device.type == "xla":
            return (x - _wide(mean)) * _wide(scale) * _wide(weight) + _wide(bias)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = context.saved_tensors
        parts = _by_kernels if x.is_cuda else _by_parts
        return *parts(gradient, x, weight, mean, scale, context.values), None, None, None, None


def _by_parts(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, values: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of images, weight and bias."""
    wide, normal = gradient.float(), (x.float() - _wide(mean)) * _wide(scale)
    to_bias, to_weight = wide.sum(IMAGES), (wide * normal).sum(IMAGES)
    whole_bias, whole_weight = (to_bias, to_weight) if x.device.type == "xla" else _summed(to_bias, to_weight)
    to_images = wide - (_wide(whole_bias) + normal * _wide(whole_weight)) / values
    return (to_images * _wide(scale * weight)).to(x.dtype), to_weight, to_bias


def _by_kernels(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by a GPU's kernels, which read and write bfloat16 and keep float32 to themselves."""
    x, gradient = _dense(x), _dense(gradient)
    *own, to_weight, to_bias = torch.batch_norm_backward_reduce(gradient, x, mean, scale, weight, True, True, True)
    sums = _summed(*own)
    count = values.to(torch.int32)
    to_images = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, sums[0], sums[1], count)
    return to_images, to_weight, to_bias


def _summed(*own: Tensor) -> tuple[Tensor, ...]:
    """The sums over all ranks of (C,) tensors, in one exchange."""
    together = torch.stack(own)
    dist.all_reduce(together)
    return tuple(together)


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _wide(of_channels: Tensor) -> Tensor:
    return of_channels.view(1, -1, 1, 1)
