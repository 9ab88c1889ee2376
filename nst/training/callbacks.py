"""What happens around training: checkpoints, the progress bar, and the count of bad samples."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Checkpoint

from nst.errors import NstError
from nst.progress import Bar
from nst.runs import atomic_path
from nst.training.classifier import Classifier, union
from nst.training.loggers import MetricsTable

SHOWN_NAMES = 20


class KeepLast(Checkpoint):
    """Writes the state at the end of every segment, atomically, over the one before.

    It also remembers how long metrics.csv was, so that a resumed run goes on from exactly there.
    """

    def __init__(self, path: Path, metrics: Path) -> None:
        self.path, self.metrics = path, metrics

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # every rank takes part in saving, rank 0 writes
        writer = atomic_path(self.path) if trainer.is_global_zero else contextlib.nullcontext(self.path)
        with writer as temporary:
            trainer.save_checkpoint(temporary)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics_bytes"] = self.metrics.stat().st_size if self.metrics.exists() else 0

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            MetricsTable(self.metrics).cut_to(checkpoint["metrics_bytes"])


class TrainingBar(Callback):
    """Stage, step, loss and time left."""

    def __init__(self, stage: str, total_steps: int) -> None:
        self.stage, self.total_steps = stage, total_steps
        self.bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        bar = Bar(self.stage, self.total_steps, start=trainer.global_step, quiet=not trainer.is_global_zero)
        self.bar = bar.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(module, Classifier)
        assert self.bar is not None
        loss, top1 = module.latest.get("train/loss"), module.latest.get("validation/top1")
        note = "" if loss is None else f"loss {loss:.3f}"
        note += "" if top1 is None else f" top-1 {top1:.1f}"
        self.bar.update(trainer.global_step, note)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.__exit__(type(exception), exception, None)


class BadSampleLimit(Callback):
    """Stops when too large a share of the images could not be decoded.

    Args:
        samples: distinct images in the training sets.
        limit: largest share that is tolerated.
    """

    def __init__(self, samples: int, limit: float) -> None:
        self.samples, self.limit = samples, limit

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # at the end of a segment, before its checkpoint, and on all ranks at once: none waits for one that stopped
        assert isinstance(module, Classifier)
        module.bad_samples = set(union(module.bad_samples, trainer))
        check_bad_share(module.bad_samples, self.samples, self.limit)


def check_bad_share(bad: Collection[str], samples: int, limit: float) -> None:
    """Raises NstError when more than `limit` of `samples` are bad."""
    if len(bad) > limit * samples:
        raise NstError(
            f"{len(bad)} of {samples} images cannot be decoded",
            got="; ".join(sorted(bad)[:3]),
            valid=f"at most {limit:.2%} (max_bad_fraction={limit})",
            next="repair or leave out these files, or raise max_bad_fraction",
        )


def bad_sample_summary(bad: Collection[str]) -> dict[str, Any]:
    """How the result tells of bad samples: count, and the first names."""
    return {"count": len(bad), "names": sorted(bad)[:SHOWN_NAMES]}
