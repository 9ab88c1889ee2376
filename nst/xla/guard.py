"""Counts what makes a compiled training slow: compilations, executions, reads from the device, fallbacks.

Over a whole run, resumed or not, a kind of step is compiled once, executed once per batch, and read from the device
only where a number is shown. The Guard says when that does not hold, or stops the run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as metrics
from lightning.pytorch.callbacks import Callback

from nst.errors import NstError
from nst.progress import say
from nst.settings.trainer import GuardOptions
from nst.training.classifier import Classifier

EXECUTIONS = ("ExecuteTime", "ExecuteReplicatedTime")
STEP_KINDS = ("train", "validation", "test", "predict")
# reads that one evaluation makes at its end: its sums
EVALUATION_READS = 8


def counters() -> Counter[str]:
    """Totals of this process: compiles, executions, transfers (device to host), and each `aten::` fallback."""
    found = Counter(
        {
            "compiles": metrics.counter_value("UncachedCompile") or 0,
            # the name depends on whether the program is divided over devices
            "executions": sum((metrics.metric_data(name) or (0,))[0] for name in EXECUTIONS),
            "transfers": (metrics.metric_data("TransferFromDeviceTime") or (0,))[0],
        }
    )
    for name in metrics.counter_names():
        if name.startswith("aten::") and name != "aten::_local_scalar_dense":  # that is a read, counted above
            found[name] = metrics.counter_value(name)
    return found


@dataclass
class StepTally:
    """What one kind of step has cost."""

    steps: int = 0
    runs: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def fallbacks(self) -> dict[str, int]:
        return {name: count for name, count in self.counts.items() if name.startswith("aten::") and count}

    def facts(self) -> dict[str, Any]:
        names = ("compiles", "executions", "transfers")
        return {"steps": self.steps, **{name: self.counts[name] for name in names}, "fallbacks": self.fallbacks}


class Guard(Callback):
    """Attributes every compilation, execution and transfer to the kind of step in which it happened."""

    def __init__(self, options: GuardOptions) -> None:
        self.options = options
        self.tallies = {kind: StepTally() for kind in STEP_KINDS}
        self._mark = counters()
        self._kind: str | None = None
        self._told: set[str] = set()

    def facts(self) -> dict[str, Any]:
        """Counts by kind of step, of those that were taken."""
        return {kind: tally.facts() for kind, tally in self.tallies.items() if tally.steps}

    def _enter(self, kind: str | None) -> None:
        """What happened since the last call belongs to the kind entered then."""
        if kind is not self._kind:
            xm.wait_device_ops()  # an execution is counted when it ends
        now = counters()
        if self._kind is not None:
            self.tallies[self._kind].counts.update(now - self._mark)
        self._mark, self._kind = now, kind

    def _step(self, kind: str, log_every: int | None = None) -> None:
        self._enter(kind)
        tally = self.tallies[kind]
        self._check(kind, tally, log_every)
        tally.steps += 1

    def _check(self, kind: str, tally: StepTally, log_every: int | None) -> None:
        """Judges the steps that are over, before the next begins."""
        reads = tally.steps + EVALUATION_READS * tally.runs
        if log_every is not None:
            reads = tally.steps // log_every + tally.runs
        allowed = {
            "compiles": self.options.compiles,
            "executions": tally.steps,
            "transfers": reads,
        }
        problems = [
            f"{tally.counts[name]} {name} in {tally.steps} steps, {limit} expected"
            for name, limit in allowed.items()
            if tally.counts[name] > limit
        ]
        problems += [f"{name} ran on the host, {count} times" for name, count in tally.fallbacks.items()]
        if not problems or kind in self._told:
            return
        self._told.add(kind)
        if self.options.action == "stop":
            raise NstError(
                f"the compiled {kind} step does more than it should",
                got="; ".join(problems),
                next="PT_XLA_DEBUG_LEVEL=2 shows where; trainer.guard.action=warn goes on all the same",
            )
        say(f"guard: {kind}: {'; '.join(problems)}")

    # ---- where steps begin and end

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        self._step("train", _log_every(module))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step % _log_every(module):
            self.tallies["train"].runs += 1  # begins between two reads: the next comes early

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.tallies["train"].runs += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._enter(None)
        numbers = self.tallies["train"].counts
        rows = {f"guard/train_{name}": float(numbers[name]) for name in ("compiles", "executions", "transfers")}
        for logger in trainer.loggers:
            logger.log_metrics(rows, step=trainer.global_step)
        self._check("train", self.tallies["train"], _log_every(module))

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._step("validation")

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._enter(None)
        self.tallies["validation"].runs += 1

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._enter(None)
        self._check("validation", self.tallies["validation"], None)

    def on_test_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._step("test")

    def on_test_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._enter(None)
        self._check("test", self.tallies["test"], None)

    def on_predict_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._step("predict")

    def on_predict_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._enter(None)
        self._check("predict", self.tallies["predict"], None)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._enter(None)


def _log_every(module: pl.LightningModule) -> int:
    """Steps between two reads of a training's metrics."""
    assert isinstance(module, Classifier)
    return module.recipe.log_every
