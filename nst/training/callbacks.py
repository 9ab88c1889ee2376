"""What happens around training and evaluation: checkpoints, the progress bar, bad samples, and being told to stop."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from nst.advice import again
from nst.atomic import atomic_path
from nst.data.parts import parts_of
from nst.documents import damaged
from nst.errors import NstError, Preempted, in_a_line
from nst.progress import Bar, say
from nst.training.classifier import Classifier
from nst.training.gathering import union
from nst.training.loggers import MetricsTable

SHOWN_NAMES = 20
LOOK_S = 5.0  # after which ranks ask each other again whether one was told to stop


class StopSignal:
    """Whether the process has been told to stop.

    A preempted machine gets SIGTERM and half a minute. Lightning's own handler would stop each rank at a step of its
    own, as if it had succeeded, and none at all while it predicts. Here a process alone hears it after every step. Of
    several ranks all must stop at the same one, so they ask each other every LOOK_S seconds, counted in steps.
    """

    def __init__(self) -> None:
        self._told = False
        self._look_steps, self._next_look, self._looked = 1, 0, 0.0  # between two looks; of the next; s

    def listen(self, step: int = 0) -> None:
        """From this step on; the trainer's end brings back the handler from before."""
        self._look_steps, self._next_look, self._looked = 1, step + 1, time.perf_counter()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *_: object) -> None:
        self._told = True

    def heard(self, trainer: pl.Trainer, step: int) -> bool:
        """Whether some rank was told, as far as ranks ask each other at this step."""
        if step < self._next_look:
            return False
        if self.agreed(trainer):
            return True
        now = time.perf_counter()
        if parts_of(trainer).place()[1] > 1:
            # twice as far as the last at most: devices that work behind the host's back seem faster than they are
            fitting = int(LOOK_S * self._look_steps / max(now - self._looked, 1e-6))
            self._look_steps = trainer.strategy.broadcast(max(1, min(fitting, 2 * self._look_steps)))
        self._next_look, self._looked = step + self._look_steps, now
        return False

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether some rank was told; all must ask."""
        return trainer.strategy.reduce_boolean_decision(self._told, all=False)


class KeepLast(Checkpoint):
    """Writes the state at the end of every segment and when the process is told to stop, over the one before.

    The state also tells how long metrics.csv was, so that a resumed run goes on from exactly there.

    Args:
        continued: called when a state has been loaded and metrics.csv is as it was then.
    """

    def __init__(
        self, path: Path, metrics: Path, title: str = "train", continued: Callable[[], None] | None = None
    ) -> None:
        self.path, self.metrics, self.title, self.continued = path, metrics, title, continued
        self.stop = StopSignal()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop.listen(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(module, Classifier)
        # the end of a segment stops after its own checkpoint
        if not trainer.is_last_batch and self.stop.heard(trainer, trainer.global_step):
            module.on_train_batch_end(*args)  # callbacks come first, but this step belongs into the checkpoint's sums
            self._write(trainer)
            raise self._preempted(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._write(trainer)
        if self.stop.agreed(trainer):
            raise self._preempted(trainer)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # after the last segment; one within a training waits for its end
            self.stop.listen()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING and self.stop.heard(trainer, batch_idx + 1):
            raise self._preempted(trainer)

    def _preempted(self, trainer: pl.Trainer) -> Preempted:
        return Preempted(
            f"told to stop (SIGTERM) at step {trainer.global_step}; the state is kept",
            next="the same command continues",
        )

    def _write(self, trainer: pl.Trainer) -> None:
        # every rank takes part in saving, rank 0 writes
        writer = atomic_path(self.path) if trainer.is_global_zero else contextlib.nullcontext(self.path)
        with writer as temporary:
            trainer.save_checkpoint(temporary)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics_bytes"] = self.metrics.stat().st_size if self.metrics.exists() else 0

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        say(f"{self.title}: continuing from step {checkpoint['global_step']}")
        if trainer.is_global_zero:
            MetricsTable(self.metrics).cut_to(checkpoint["metrics_bytes"])
            if self.continued is not None:
                self.continued()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            kept = "nothing is kept yet"
            if self.path.exists():
                state = torch.load(self.path, mmap=True, map_location="cpu", weights_only=True)
                kept = f"the state of step {state['global_step']} is kept"
            say(f"{self.title}: stopped at step {trainer.global_step}; {kept}")


def require_whole(state: Path) -> None:
    """Compares a state from which a training continues with the checksums in it, which torch itself does not read.

    Raises:
        NstError: it is cut, or bits of it have changed.
    """
    try:
        with zipfile.ZipFile(state) as archive:
            for info in archive.infolist():
                archive.open(info).close()  # its name is in two places, which must agree
            sums = {info.filename.partition("/")[2]: info.CRC for info in archive.infolist()}
        reader = torch._C.PyTorchFileReader(str(state))  # the data as torch will find them
        wrong = next((name for name in sums if zlib.crc32(reader.get_record(name)) != sums[name]), "")
        if "data.pkl" not in sums:
            wrong = "no state of a training"
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError) as error:  # NotImplementedError is one
        wrong = in_a_line(error)
    if wrong:
        again = f"{shlex.join(['rm', str(state)])}, then the same command: this phase of the training begins again"
        raise damaged(state, f"{wrong} ({state.stat().st_size} bytes)", again)


class StopWhenTold(Callback):
    """Ends an evaluation or a labeling after SIGTERM, on all ranks at once; files that it has written stay."""

    def __init__(self) -> None:
        self.stop = StopSignal()

    def on_test_start(self, *_: Any) -> None:
        self.stop.listen()

    def on_predict_start(self, *_: Any) -> None:
        self.stop.listen()

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._stop(trainer, *args)

    def on_predict_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._stop(trainer, *args)

    def _stop(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if self.stop.heard(trainer, batch_idx + 1):
            raise Preempted(
                "told to stop (SIGTERM); the parts that are finished are kept", next="the same command continues"
            )


NOTED = ("train/labeled_loss", "train/unlabeled_loss", "validation/top1")


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
        self.bar.update(trainer.global_step, training_note(module.latest))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.__exit__(type(exception), exception, None)


def training_note(latest: Mapping[str, float]) -> str:
    """The losses of both sides, each a mean over its images: their sum grows with `student.unlabeled_ratio`."""
    labeled, unlabeled, top1 = (latest.get(name) for name in NOTED)
    parts = [f"loss {labeled:.3f}"] if labeled is not None else []
    parts += [f"pseudo-labels {unlabeled:.3f}"] if unlabeled else []  # a teacher has none
    parts += [f"top-1 {top1:.1f}"] if top1 is not None else []
    return " ".join(parts)


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
            next=f"repair or leave out these files, or {again(f'max_bad_fraction={enough(len(bad) / samples)}')}",
        )


def enough(share: float) -> float:
    """A share as `max_bad_fraction` allows it, rounded up to whole percents."""
    return math.ceil(100 * share) / 100


def bad_sample_summary(bad: Collection[str]) -> dict[str, Any]:
    """How the result tells of bad samples: count, and the first names."""
    return {"count": len(bad), "names": sorted(bad)[:SHOWN_NAMES]}
