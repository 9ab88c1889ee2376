"""Puts together the counts and names that the ranks of an evaluation have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from nst.data.parts import parts_of


class Summed(Protocol):
    """What `nst.metrics.RunningSums` and their like have in common."""

    def state(self) -> dict[str, Tensor]: ...


Scores = TypeVar("Scores", bound=Summed)


def reduced(scores: Scores, trainer: pl.Trainer) -> Scores:
    """Running sums, added over all ranks."""
    if trainer.world_size > 1:
        for sums in scores.state().values():
            sums.copy_(trainer.strategy.reduce(sums, reduce_op="sum"))
    return scores


def union(values: Iterable[Any], trainer: pl.Trainer) -> list[Any]:
    """The values of all ranks together, each once, sorted."""
    _, world_size = parts_of(trainer).place()
    if world_size == 1:
        return sorted(set(values))
    gathered: list[list[Any]] = [[] for _ in range(world_size)]
    torch.distributed.all_gather_object(gathered, list(values))
    return sorted({value for part in gathered for value in part})
