"""One pass of a network over a loader, the same for all evaluations: the device counts, the ranks' counts are added.

Counted is by whatever is passed in: the clean scores of `nst evaluate`, or a suite of `nst.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
from torch import Tensor, nn

from nst.data.batches import Batch
from nst.data.datamodule import Batches, evaluation_loader
from nst.data.parts import parts_of
from nst.training.callbacks import StopWhenTold, check_bad_share
from nst.training.gathering import reduced, union
from nst.training.hardware import Machine


class PassSums(Protocol):
    """Sums of a pass over batches."""

    def moved(self, send: Callable[[Tensor], Tensor]) -> Any: ...
    def state(self) -> dict[str, Tensor]: ...

    def add(self, network: nn.Module, batch: Batch) -> Tensor | None:
        """Counts a batch; returns confidence and predicted class of its pictures, (N, 2), where there is one."""
        ...


class Counting(pl.LightningModule):
    """Counts a network's answers over a loader.

    Args:
        advance: told how many samples this rank has seen.
        note: told this rank's answers to a batch, (N, 2), and the batch, on the host; None: they stay on the device.
    """

    def __init__(
        self,
        network: nn.Module,
        counts: PassSums,
        advance: Callable[[int], None],
        note: Callable[[Tensor, Batch], None] | None,
    ) -> None:
        super().__init__()
        self.network, self.counts = network.eval(), counts
        self.advance, self.note = advance, note
        self.bad: set[str] = set()

    def on_test_start(self) -> None:
        self.counts.moved(parts_of(self.trainer).state)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.counts.add(self.network, batch)

    def on_test_batch_end(self, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        # read here and not in the step, which on XLA is a graph that would be cut in two; and whatever the batch holds:
        # where reading takes all hosts, all must read
        if outputs is not None and self.note is not None:
            self.note(parts_of(self.trainer).own_rows(outputs), batch)
        self.bad.update(batch["bad"])
        self.advance(len(batch["keys"]))


class SeenByAll:
    """Tells how many samples all ranks have seen by what this one has: they are about as far, but one of them may get
    more than the others, and no more are told than there are.

    Args:
        advance: told how many more.
        samples: of all ranks together.
    """

    def __init__(self, advance: Callable[[int], None], samples: int, ranks: int) -> None:
        self.advance, self.left, self.ranks = advance, samples, ranks

    def __call__(self, own: int) -> None:
        more = min(own * self.ranks, self.left)
        self.left -= more
        self.advance(more)


def count(
    network: nn.Module,
    counts: PassSums,
    batches: Batches,
    hardware: Machine,
    folder: Path,
    *,
    advance: Callable[[int], None],
    note: Callable[[Tensor, Batch], None] | None = None,
    samples: int,
    images: int,
    max_bad_fraction: float,
) -> tuple[pl.Trainer, list[str]]:
    """Adds the answers of all ranks to `counts`; the trainer, and what could not be read.

    Args:
        folder: for what the trainer writes.
        advance: told how many samples all ranks have seen, nearly.
        samples: of the loaders of all ranks.
        images: of the whole set, of which at most `max_bad_fraction` may be bad.

    Raises:
        NstError: too many bad images, or (`Preempted`) the process was told to stop.
    """
    trainer = hardware.trainer(folder, callbacks=[StopWhenTold()])
    rank, world_size = parts_of(trainer).place()
    module = Counting(network, counts, SeenByAll(advance, samples, world_size), note)
    loader = evaluation_loader(
        batches, hardware.loader, rank=rank, world_size=world_size, pin_memory=hardware.pin_memory
    )
    trainer.test(module, loader, verbose=False)
    bad = union(module.bad, trainer)
    reduced(counts, trainer)
    check_bad_share(bad, images, max_bad_fraction)
    return trainer, bad
