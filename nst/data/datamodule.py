"""The LightningDataModule: labeled and pseudo-labeled images at unlabeled_ratio, one loader element per step.

Training is cut into segments (one Lightning "epoch" each, reloaded every time), and a segment's loader starts at the
trainer's global step. A resumed run therefore reads exactly the batches that the killed one would have read, without
replaying any.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import Any

import cv2
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from nst.data.batches import Batch, Batches, LabeledSamples, TrainingBatches, UnlabeledSamples
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.parts import parts_of
from nst.data.shared_memory import LoaderOptions, fitting
from nst.errors import NstError, UsageError
from nst.machine import PICTURE_BYTES, keep_freed_memory


class _Steps(Sampler[int]):
    """start, start + stride, ... below stop."""

    def __init__(self, start: int, stop: int, *, stride: int = 1, skipped: int = 0) -> None:
        self.steps, self.skipped = range(start, stop, stride), skipped

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        # Lightning counts the batches of an interrupted segment from the segment's start
        return len(self.steps) + self.skipped


def quiet_worker(_: int) -> None:
    """One thread per worker: the workers are the parallelism; and the process that they serve says when they end."""
    _end_only_for(os.getppid())
    Queue._on_queue_feeder_error = staticmethod(_end_at)  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_freed_memory(PICTURE_BYTES)  # there are many workers, and some pictures are huge


def _end_only_for(parent: int) -> None:
    """Lets SIGTERM end this process only where its parent sends it.

    Who takes a machine away tells all its processes, but a training takes a few more steps to its checkpoint. A parent
    that ends in an error tells its loaders too, and waits for them.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not say who sent a signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads that start later inherit it

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _end_at(error: Exception, _: object) -> None:
    """Ends this process where it cannot hand a batch over: Python's queue drops it, and it would be waited for."""
    traceback.print_exception(error)
    sys.stderr.flush()
    if "torch_" in str(error):  # "unable to write to file </torch_...": full shared memory, as where a write dies of it
        signal.raise_signal(signal.SIGBUS)
    os._exit(1)


class Loader:
    """Iterates over whole batches; a mistake found by a worker is raised here as it was said there.

    Not a DataLoader but around one: torch passes a worker's exception on as the text of its traceback, and Lightning
    rebuilds DataLoaders with samplers of its own.

    Raises:
        NstError: shared memory has no room for a batch.
    """

    def __init__(self, batches: Any, steps: Sampler[int], options: LoaderOptions, *, pin_memory: bool = False) -> None:
        options = fitting(options, batches.nbytes)
        self.loader = DataLoader(
            _Telling(batches),
            batch_size=None,
            sampler=steps,
            num_workers=options.workers,
            prefetch_factor=options.prefetch if options.workers else None,
            collate_fn=_as_is,
            worker_init_fn=quiet_worker,
            pin_memory=pin_memory,
            # a loader draws its workers' base seed from the global generator unless given its own
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if isinstance(batch, NstError):
                raise batch
            yield batch


class _Telling(Dataset):
    """Batches, or the NstError that came up while making one."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | NstError:
        try:
            return self.batches[number]
        except NstError as error:
            return error


def _as_is(batch: Any) -> Any:
    return batch


def evaluation_loader(
    batches: Batches,
    options: LoaderOptions,
    *,
    rank: int = 0,
    world_size: int = 1,
    rounds: int | None = None,
    pin_memory: bool = False,
) -> Loader:
    """Batches rank, rank + world_size, ...; every rank gets the same number, empty ones (all invalid) included.

    Args:
        rounds: how many; None: as many as there are batches for one of the ranks.
    """
    rounds = -(-len(batches) // world_size) if rounds is None else rounds
    return Loader(batches, _Steps(rank, rounds * world_size, stride=world_size), options, pin_memory=pin_memory)


def require_divisible(labeled_batch_size: int, devices: int, *, accumulate: int = 1, lanes: int = 1) -> None:
    """Raises UsageError where devices, micro-batches of one, or lanes of the order would get unequal parts."""
    micro = f"{devices} devices, trainer.accumulate={accumulate}"
    among = {"devices": f"{devices} devices", "micro-batches": micro, "lanes": f"{lanes} lanes"}
    for (what, them), parts in zip(among.items(), (devices, devices * accumulate, lanes), strict=True):
        if labeled_batch_size % parts:
            every = math.lcm(devices * accumulate, lanes)
            raise UsageError(
                f"the labeled batch does not divide by the number of {what}",
                got=f"labeled_batch_size={labeled_batch_size} on {them}",
                valid=f"a multiple of {parts}",
                next=f"student.labeled_batch_size={-(-labeled_batch_size // every) * every}",
            )


class JointDataModule(pl.LightningDataModule):
    """Labeled (and unlabeled) samples for training, a labeled set for validation.

    Args:
        labeled_batch_size: labeled images per step over all ranks.
        unlabeled_ratio: unlabeled images per labeled one.
        total_steps: length of the training.
        segment_steps: steps between two checkpoints. One segment is what Lightning calls an epoch: it resumes most
            reliably at the end of one.
        groups: parts of this rank's joint batch (`nst.data.joint`): the devices that one process feeds.
        accumulate: micro-batches that each device will make of its part.

    Raises:
        UsageError: the batch does not divide by the number of ranks, micro-batches or lanes.
    """

    def __init__(
        self,
        labeled: LabeledSamples,
        unlabeled: UnlabeledSamples | None,
        validation: EvaluationBatches | None,
        *,
        labeled_batch_size: int,
        unlabeled_ratio: int,
        total_steps: int,
        segment_steps: int,
        loader: LoaderOptions,
        pin_memory: bool = False,
        groups: int = 1,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.labeled, self.unlabeled, self.validation = labeled, unlabeled, validation
        self.labeled_batch_size, self.unlabeled_ratio = labeled_batch_size, unlabeled_ratio
        self.total_steps, self.segment_steps = total_steps, segment_steps
        self.loader, self.pin_memory, self.groups = loader, pin_memory, groups
        self.accumulate = accumulate

    def train_dataloader(self) -> Loader:
        rank, world_size = self._place()
        devices = world_size * self.groups
        lanes = self.labeled.stream.lanes
        require_divisible(self.labeled_batch_size, devices, accumulate=self.accumulate, lanes=lanes)
        share = self.labeled_batch_size // world_size
        batches = TrainingBatches(
            self.labeled,
            self.unlabeled,
            labeled_batch_size=share,
            unlabeled_batch_size=share * self.unlabeled_ratio,
            rank=rank,
            world_size=world_size,
            groups=self.groups,
        )
        start = self.trainer.global_step if self.trainer else 0
        begin = start - start % self.segment_steps
        steps = _Steps(start, min(begin + self.segment_steps, self.total_steps), skipped=start - begin)
        return Loader(batches, steps, self.loader, pin_memory=self.pin_memory)

    def val_dataloader(self) -> Loader | list[Loader]:
        if self.validation is None:
            return []
        rank, world_size = self._place()
        return evaluation_loader(
            self.validation, self.loader, rank=rank, world_size=world_size, pin_memory=self.pin_memory
        )

    def _place(self) -> tuple[int, int]:
        return parts_of(self.trainer).place() if self.trainer else (0, 1)
