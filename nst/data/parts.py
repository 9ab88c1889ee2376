"""The part of the data and of its results that a process has: the hardware's answers, for whatever is given a Trainer.

`Parts` answers for torch's own strategies, which know of ranks. A strategy that runs one program over many processes
(SPMD) hides them from Lightning: it is a `PartedStrategy`, and brings answers of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor


class Parts:
    """A process per device, each with its own rows of every batch."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def place(self) -> tuple[int, int]:
        """Which part of the data this process reads: its number, and how many parts there are."""
        return self.trainer.global_rank, self.trainer.world_size

    def own_rows(self, values: Tensor) -> Tensor:
        """What a step computed for this process's rows of the batch, (B, ...) on the host."""
        return values.cpu()

    def arriving(self, values: Tensor) -> Callable[[], Tensor]:
        """The same, on its way while the next step computes; what is returned waits for it."""
        return on_the_way(values)

    def state(self, tensor: Tensor) -> Tensor:
        """State that steps add to, made on the host, to where the steps run.

        Made there, its first value would be a constant of a compiled step, and the second step another graph (XLA).
        """
        return tensor.to(self.trainer.strategy.root_device)


class PartedStrategy(Strategy):
    """A strategy that divides batches by itself."""

    parts: Parts


def parts_of(trainer: pl.Trainer) -> Parts:
    """What a Trainer's hardware says."""
    strategy = trainer.strategy
    return strategy.parts if isinstance(strategy, PartedStrategy) else Parts(trainer)


def on_the_way(values: Tensor) -> Callable[[], Tensor]:
    """Starts the copy of what a step has computed to the host; what is returned waits for it."""
    if not values.is_cuda:
        return lambda: values.cpu()
    host = values.to("cpu", non_blocking=True)  # into pinned memory
    copied = torch.cuda.Event()
    copied.record()

    def arrived() -> Tensor:
        copied.synchronize()
        return host

    return arrived
