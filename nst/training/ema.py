"""Exponential moving average of a network: what evaluates, labels and teaches next (paper section 3.1).

BatchNorm's running statistics are averaged like weights, as in the released code. Averaged weights with the statistics
of the last step are a network that never existed.

The decay warms up, min(cap, (1 + n) / (10 + n)), with n counted *after* the step: the first update has n = 1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from nst.errors import NstError


@overload
def decay_at(n: float, cap: float = ...) -> float: ...
@overload
def decay_at(n: Tensor, cap: float = ...) -> Tensor: ...
def decay_at(n: float | Tensor, cap: float = 0.9999) -> float | Tensor:
    """Decay of the n-th update, n counted after the increment: 2/11 at n = 1, 0.9999 from n = 89990 on."""
    decay = (1 + n) / (10 + n)
    return decay.clamp(max=cap) if isinstance(decay, Tensor) else min(cap, decay)


class Ema(nn.Module):
    """A frozen copy of a network, always in eval mode, whose floating-point state is a moving average of it.

    Args:
        network: copied, its present values are the start; the bare network, not a DDP or compiled wrapper.
        cap: largest decay, below 1; about 1/(1 - cap) updates are averaged.
    """

    def __init__(self, network: nn.Module, cap: float = 0.9999) -> None:
        super().__init__()
        self.cap = cap
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._pairs: _Pairs | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged network's output."""
        return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> Ema:
        """Keeps the averaged network in eval mode: a parent's `.train()` must not turn on its noise."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def update(self, network: nn.Module, n: float | Tensor) -> None:
        """Moves the average towards `network`, in place, in a few fused kernels.

        Parameters and floating-point buffers are averaged, other buffers (counters) copied.

        Args:
            n: number of the update, 1 for the first; a () tensor on XLA, where a number that changes would recompile
                the step.

        Raises:
            NstError: the network is not the one that was copied, or is in half precision.
        """
        if self._pairs is None or not self._pairs.current(network):
            self._pairs = _pair(self.network, network)
        pairs = self._pairs
        weight = 1 - decay_at(n, self.cap)
        if pairs.averages:
            if isinstance(weight, Tensor):
                # In place, XLA would run Python for every tensor (see nst.training.tensor_rate).
                # A tensor goes in a list of itself: alone it would be read back to the host as a number.
                weights = [weight] * len(pairs.averages)
                torch._foreach_copy_(pairs.averages, torch._foreach_lerp(pairs.averages, pairs.values, weights))
            else:
                torch._foreach_lerp_(pairs.averages, pairs.values, weight)
        if pairs.copies:
            torch._foreach_copy_(pairs.copies, pairs.originals)

    def __getstate__(self) -> dict[str, Any]:
        # The cache refers to the training network: a pickle or copy of the average must not carry that along.
        return {**self.__dict__, "_pairs": None}


@dataclass(frozen=True)
class _Slot:
    """A place in a module that holds a tensor, and the tensor it held when we looked."""

    owner: dict[str, Any]
    key: str
    tensor: Tensor


@dataclass(frozen=True)
class _Pairs:
    """Flat tensor lists of one (average, network) pair: walking L2's 1914 takes 4 ms, this check 0.1."""

    network: nn.Module
    slots: list[_Slot]
    averages: list[Tensor]
    values: list[Tensor]
    copies: list[Tensor]
    originals: list[Tensor]

    def current(self, network: nn.Module) -> bool:
        # `.to(device)` puts new buffers (on XLA new parameters too) in the same places
        return self.network is network and all(slot.owner.get(slot.key) is slot.tensor for slot in self.slots)


def _pair(average: nn.Module, network: nn.Module) -> _Pairs:
    ours, theirs = _slots(average), _slots(network)
    _require_same(ours, theirs)
    both = [(slot.tensor, theirs[name].tensor) for name, slot in ours.items()]
    floating = [pair for pair in both if pair[0].is_floating_point()]
    others = [pair for pair in both if not pair[0].is_floating_point()]
    return _Pairs(
        network=network,
        slots=[*ours.values(), *theirs.values()],
        averages=[a for a, _ in floating],
        values=[v for _, v in floating],
        copies=[a for a, _ in others],
        originals=[v for _, v in others],
    )


def _slots(network: nn.Module) -> dict[str, _Slot]:
    """Parameters and buffers by full name, each tensor once however many modules share it."""
    slots: dict[str, _Slot] = {}
    seen: set[int] = set()
    for prefix, module in network.named_modules():
        for owner in (module._parameters, module._buffers):
            for key, tensor in owner.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    slots[f"{prefix}.{key}" if prefix else key] = _Slot(owner, key, tensor)
    return slots


def _require_same(ours: dict[str, _Slot], theirs: dict[str, _Slot]) -> None:
    different = sorted(ours.keys() ^ theirs.keys())
    different += [n for n in ours.keys() & theirs.keys() if ours[n].tensor.shape != theirs[n].tensor.shape]
    if different:
        raise NstError(
            "the EMA was made from another network",
            got=f"{len(different)} tensors differ in name or shape, first {different[0]}",
            valid="the network given to Ema(network), without DDP or compile wrapper",
        )
    tensors = [(n, slot.tensor) for slots in (ours, theirs) for n, slot in slots.items()]
    half = [f"{n} is {tensor.dtype}" for n, tensor in tensors if tensor.dtype in (torch.float16, torch.bfloat16)]
    if half:
        # a step of 1e-4 of the distance is lost in the rounding: the average would stand still without a word
        raise NstError(
            "an EMA in half precision would not move",
            got=half[0],
            valid="float32 weights; mixed precision keeps them so",
            next="trainer.precision=bf16-mixed",
        )
