"""Evaluations within a training: every so many steps, the averaged network is measured by whatever is passed in.

An evaluation comes *after* the checkpoint of its step. It may take minutes, and a
machine that is taken away meanwhile loses no training by it: a resumed run begins with the evaluation that is due at
its checkpoint, and finds in the evaluation's folder what was measured before. So nothing has to be remembered, and
the rows in metrics.csv, which is cut back to the checkpoint, are written once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn

from nst.training.classifier import Classifier

Measure = Callable[[nn.Module, int, Path], Mapping[str, float]]


@dataclass(frozen=True)
class Monitor:
    """What is measured within a training.

    Args:
        every: steps; measured is at the first end of a segment at or after each multiple.
        measure: from a network, the px at which it is tested and a folder for what it keeps to numbers by name. All
            ranks call it together, with the same network.
    """

    every: int
    measure: Measure


class Monitoring(Callback):
    """Calls a Monitor when it is due, and logs its numbers at that step.

    Args:
        directory: of the run.
        image_size: px at which the network is tested.
        segment_steps, total_steps: of this phase.
    """

    def __init__(
        self, monitor: Monitor, directory: Path, image_size: int, *, segment_steps: int, total_steps: int
    ) -> None:
        self.monitor, self.directory, self.image_size = monitor, directory, image_size
        self.segment_steps, self.total_steps = segment_steps, total_steps
        self._measured_step = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._measure(trainer, module)  # of a resumed run: Lightning begins its epoch without saying so

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._measure(trainer, module)

    def at_end(self, trainer: pl.Trainer, module: Classifier) -> None:
        """The evaluation of the last step; not a hook, because a run resumed behind that step has no hooks."""
        self._measure(trainer, module, self.total_steps)

    def due(self, step: int, first_step: int = 0) -> bool:
        """Whether a multiple of `every` lies in the segment that ends with this phase's step `step`.

        Args:
            first_step: steps of earlier phases.
        """
        if step < 1 or (step % self.segment_steps and step != self.total_steps):
            return False
        before = (step - 1) // self.segment_steps * self.segment_steps
        return (first_step + step) // self.monitor.every > (first_step + before) // self.monitor.every

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule, step: int | None = None) -> None:
        assert isinstance(module, Classifier)
        step = trainer.global_step if step is None else step
        if step == self._measured_step or not self.due(step, module.first_step):
            return
        shown = module.first_step + step
        folder = self.directory / "robustness" / f"{shown:06d}"
        numbers = self.monitor.measure(_average(trainer, module), self.image_size, folder)
        for logger in module.loggers:
            logger.log_metrics(dict(numbers), step=shown)
        self._measured_step = step
        module.since = time.perf_counter()  # none of it counts as time of the training's steps


def _average(trainer: pl.Trainer, module: Classifier) -> nn.Module:
    """A copy of the averaged network; on several ranks rank 0's, which is the one that is kept.

    The others' may have other BatchNorm statistics. A copy, because an evaluation moves its network about.
    """
    network = copy.deepcopy(module.ema.network)
    if trainer.world_size > 1:
        network.load_state_dict(trainer.strategy.broadcast(network.state_dict()))
    return network
