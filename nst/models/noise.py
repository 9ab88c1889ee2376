"""Model noise: dropout and stochastic depth that can be switched off sample by sample (section 2, table 6).

Labeled and unlabeled images share one forward, so that BatchNorm sees both, yet table 6 removes the noise on the
unlabeled ones only. A clean sample is multiplied by exactly 1, so it comes out bit for bit as if there were no noise,
and no Python branch looks at a mask: any mixture is one graph under XLA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nst.errors import NstError

# what is drawn from: torch's generator (None) or another; or the uniform numbers themselves, drawn before
Draws = torch.Generator | Tensor | None


class NoiseSwitch:
    """Which samples of the batch are noised; one object shared by all noise modules of one network.

    Both masks are (B,): 1 = noised, 0 = clean; None = all noised. A plain object, so it adds nothing to the
    state dict, and a deep copy of a network gets a switch of its own. The masks have to stay as they are
    until the backward pass is through: rematerialised blocks read them again.
    """

    def __init__(self) -> None:
        self.dropout: Tensor | None = None
        self.stochastic_depth: Tensor | None = None


def dropout(x: Tensor, rate: float, noised: Tensor | None, generator: Draws = None) -> Tensor:
    """Zeroes each value of `x` (B, ...) with probability `rate`, scales the rest by 1 / (1 - rate).

    Samples with `noised` (B,) 0 pass unchanged; None noises all.
    """
    return _drop(x, rate, noised, x.shape, generator)


def stochastic_depth(x: Tensor, rate: float, noised: Tensor | None, generator: Draws = None) -> Tensor:
    """Zeroes whole samples of `x` (B, ...) with probability `rate`, scales the rest by 1 / (1 - rate).

    Samples with `noised` (B,) 0 pass unchanged; None noises all. Rescaling while training is [C]'s; the
    stochastic depth paper scales at test time instead.
    """
    return _drop(x, rate, noised, torch.Size([x.shape[0]] + [1] * (x.ndim - 1)), generator)


def _drop(x: Tensor, rate: float, noised: Tensor | None, shape: torch.Size, generator: Draws) -> Tensor:
    """`x` times 0 or 1 / survival, drawn for each entry of `shape`, times 1 where not `noised`."""
    if rate == 0.0:
        return x
    survival = 1.0 - rate
    if isinstance(generator, Tensor):
        draw = generator
        if draw.shape != shape:
            raise ValueError(f"numbers of shape {tuple(draw.shape)} drawn for noise of {tuple(shape)}")
    else:
        draw = uniform(shape, x.device, generator)
    factor = (draw < survival) / survival
    if noised is not None:
        if noised.shape != x.shape[:1]:
            # a mask left over from another batch; shapes are known while tracing, so this costs nothing
            raise ValueError(f"noise mask of shape {tuple(noised.shape)} for a batch of {x.shape[0]}")
        mask = noised.to(device=x.device, dtype=torch.bool).view(-1, *[1] * (x.ndim - 1))
        factor = torch.where(mask, factor, 1.0)
    return x * factor.to(x.dtype)


def uniform(shape: Sequence[int], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """What noise is drawn from, in float32 whatever it acts on: bfloat16 has 256 steps between 0 and 1."""
    return torch.rand(shape, device=device, dtype=torch.float32, generator=generator)


class _Noise(nn.Module):
    """A rate and the switch; identity in eval mode and at rate 0."""

    drawn: Tensor | None = None  # beforehand, for the samples of the next forward pass; None: drawn there

    def __init__(self, rate: float, switch: NoiseSwitch) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise NstError(f"{type(self).__name__} needs a rate below 1", got=rate, valid="0 <= rate < 1")
        self.rate = rate
        self.switch = switch

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"


class Dropout(_Noise):
    """Dropout on the pooled features (B, C) before the classifier."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate, self.switch.dropout, self.drawn) if self.training else x


class StochasticDepth(_Noise):
    """Drops the residual branch (B, ...) of whole samples."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        drawn = None if self.drawn is None else self.drawn.view(-1, *[1] * (x.ndim - 1))
        return stochastic_depth(x, self.rate, self.switch.stochastic_depth, drawn)


class Noised:
    """What a network with noise per sample can be told about it; for networks, beside `nn.Module`."""

    noise: NoiseSwitch

    def set_noise(self, dropout: Tensor | None = None, stochastic_depth: Tensor | None = None) -> None:
        """Says which samples are noised in train mode: masks (B,) of 1 and 0, or None for all.

        They hold until set again, and must not change between a forward and its backward pass.
        """
        self.noise.dropout = dropout
        self.noise.stochastic_depth = stochastic_depth

    def draw_noise(self, samples: int, device: torch.device, generator: torch.Generator | None = None) -> list[Tensor]:
        """What a forward pass over so many samples would draw, in its order, for `use_noise`: (samples, ...) each."""
        return [uniform((samples, *shape), device, generator) for _, shape in self._drawing()]

    def use_noise(self, draws: Sequence[Tensor | None] | None) -> None:
        """Makes forward passes take their noise from these numbers, a row for each sample; None: draw it themselves."""
        layers = [layer for layer, _ in self._drawing()]
        for layer, drawn in zip(layers, draws or [None] * len(layers), strict=True):
            layer.drawn = drawn

    def _drawing(self) -> list[tuple[Dropout | StochasticDepth, tuple[int, ...]]]:
        """The layers that draw in train mode, and the shape of what they draw for a sample."""
        raise NotImplementedError
