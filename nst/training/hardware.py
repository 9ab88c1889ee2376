"""What a training or prediction runs on: the `trainer` group as a dataclass, and the Lightning Trainer for it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import XLAAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from nst.data.datamodule import LoaderOptions
from nst.errors import NstError

Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True)
class Hardware:
    """Where and how computation happens; never changes what is computed beyond rounding.

    Args:
        channels_last: memory format of images and weights; five times faster depthwise convolutions on a CPU.
        sync_batchnorm: BatchNorm over all devices' images, as one device would see them (GPUs only).
        deterministic: True, False or "warn": kernels that give the same bits every time. A CPU's do anyway.
        compile: run the network through torch.compile.
        workers, prefetch: see `LoaderOptions`.
    """

    accelerator: str = "cpu"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: Any = "32-true"
    channels_last: bool = True
    compile: bool = False
    sync_batchnorm: bool = False
    deterministic: Any = False
    workers: int = 1
    prefetch: int = 4

    def __post_init__(self) -> None:
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise NstError("no GPU was found", got="trainer with accelerator=gpu", next="trainer=cpu")

    @property
    def loader(self) -> LoaderOptions:
        return LoaderOptions(self.workers, self.prefetch)

    @property
    def pin_memory(self) -> bool:
        return self.accelerator == "gpu"

    def place(self, network: Network) -> Network:
        """The network in this hardware's memory format."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def trainer(
        self,
        directory: Path,
        *,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        **options: Any,
    ) -> pl.Trainer:
        """A Trainer without Lightning's own bars, checkpoints and samplers: we bring ours."""
        quiet_lightning()
        with _without_xla():
            return pl.Trainer(
                default_root_dir=directory,
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=self.strategy,
                precision=self.precision,
                sync_batchnorm=self.sync_batchnorm,
                deterministic=self.deterministic,
                callbacks=list(callbacks),
                logger=list(loggers) or False,
                enable_checkpointing=any(isinstance(item, pl.callbacks.Checkpoint) for item in callbacks),
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
                **options,
            )


@contextlib.contextmanager
def _without_xla() -> Iterator[None]:
    """Keeps Lightning from importing torch_xla just to print that there is no TPU: it costs seconds."""
    with mock.patch.object(XLAAccelerator, "is_available", staticmethod(lambda: False)):
        yield


def quiet_lightning() -> None:
    """Keeps the terminal for what we say: Lightning's tips and start-up notes do not help a user here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for module in (r"lightning\..*", r"torch\.utils\.data\..*"):
        warnings.filterwarnings("ignore", module=module)
