"""The machine of a training or prediction: the `trainer` group as a dataclass, and the Lightning Trainer for it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import XLAAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from nst.data.shared_memory import LoaderOptions
from nst.errors import UsageError
from nst.machine import host_memory, require_loaders
from nst.replaced import replaced
from nst.settings.trainer import TorchOptions
from nst.training import ranks
from nst.training.gpus import device_count, require_gpus

Network = TypeVar("Network", bound=torch.nn.Module)
Value = TypeVar("Value")


class Machine(Protocol):
    """Where and how computation happens; never changes what is computed beyond rounding.

    `Hardware` is torch's own: CPU, one GPU, many GPUs. `nst.xla` has another for TPUs. What stands here in full holds
    where every device has a process of its own, and takes a step's operations as they come.
    """

    @property
    def precision(self) -> Any: ...
    @property
    def compile(self) -> bool: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def loader(self) -> LoaderOptions: ...
    @property
    def pin_memory(self) -> bool: ...
    @property
    def memory(self) -> float | None:
        """Bytes of one device; None where only the device knows."""
        ...

    @property
    def memories(self) -> int:
        """Devices that share a batch, each with a memory of its own."""
        ...

    @property
    def local_groups(self) -> int:
        """Devices that one process feeds: the parts of its batch."""
        return 1

    @property
    def groups(self) -> int:
        """Parts of the batch that a step of the Classifier sees."""
        return 1

    @property
    def devices_in_all(self) -> int:
        """Devices that the batch is divided over, those of all processes and hosts."""
        ...

    @property
    def device_numbers(self) -> bool:
        """Whether numbers that change from step to step (learning rate, EMA decay) go to the device as tensors: where
        the step is a compiled graph, a Python number would be part of it."""
        return False

    def whole(self, batch_size: int) -> int:
        """The next batch size that divides by the devices of a process."""
        return batch_size

    def agreed(self, value: Value) -> Value:
        """The first host's value of what hosts may see differently, such as a file on a network disk. All must ask."""
        ...

    def keep_apart(self, tensors: Sequence[torch.Tensor]) -> None:
        """Between micro-batches: what comes next must not begin before these are computed."""
        ...

    def place(self, network: Network) -> Network: ...
    def trainer(
        self, directory: Path, *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = (), **options: Any
    ) -> pl.Trainer: ...
    def facts(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What a training's result says about this machine."""
        return {}


@dataclass(frozen=True)
class Hardware(TorchOptions, Machine):
    """CPU or GPUs through torch's own backends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_loaders(self.workers)
        if self.accumulate > 1 and str(self.precision).startswith("16"):
            # whose loss is scaled: micro-batches leave gradients before the scaler has seen it
            raise UsageError(
                "micro-batches need a precision without loss scaling",
                got=f"trainer.precision={self.precision}, trainer.accumulate={self.accumulate}",
                valid="32-true, bf16-mixed",
                next="trainer.precision=bf16-mixed",
            )
        if self.accelerator == "gpu":
            require_gpus(self.devices)

    @property
    def loader(self) -> LoaderOptions:
        return LoaderOptions(self.workers, self.prefetch, self._devices_here)

    @property
    def pin_memory(self) -> bool:
        return self.accelerator == "gpu"

    @property
    def memory(self) -> float | None:
        gpu = self.accelerator == "gpu"
        return float(torch.cuda.get_device_properties(0).total_memory) if gpu else host_memory()

    @property
    def memories(self) -> int:
        return self.devices_in_all if self.accelerator == "gpu" else 1

    @property
    def devices_in_all(self) -> int:
        return self._devices_here * self.num_nodes

    def keep_apart(self, tensors: Sequence[torch.Tensor]) -> None:
        """Nothing: operations run in the order in which they are called."""

    def agreed(self, value: Value) -> Value:
        return ranks.agreed(value, self._devices_here, self.num_nodes)

    @property
    def _devices_here(self) -> int:
        """Devices of this machine that are asked for."""
        return device_count(self.devices, torch.cuda.device_count() if self.accelerator == "gpu" else 1)

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
        if self.deterministic:
            # the same kernels, but no filling of every new tensor, which is to show reads of memory nobody wrote
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return bare_trainer(
            directory,
            callbacks,
            loggers,
            plugins=[ranks.environment(self._devices_here, self.num_nodes)],
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=self.strategy,
            precision=self.precision,
            deterministic=self.deterministic,
            # shapes never change, so cuDNN may try its convolutions once and keep the fastest; which one wins is chance
            benchmark=self.accelerator == "gpu" and not self.deterministic,
            **options,
        )


def bare_trainer(
    directory: Path, callbacks: Sequence[Callback], loggers: Sequence[Logger], **options: Any
) -> pl.Trainer:
    """A Trainer without Lightning's own bars, checkpoints and samplers: we bring ours."""
    quiet_lightning()
    # Lightning would import torch_xla just to print that there is no TPU: it costs seconds
    with replaced(XLAAccelerator, "is_available", staticmethod(lambda: False)):
        return pl.Trainer(
            default_root_dir=directory,
            callbacks=list(callbacks),
            logger=list(loggers) or False,
            enable_checkpointing=any(isinstance(item, pl.callbacks.Checkpoint) for item in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            **options,
        )


def quiet_lightning() -> None:
    """Keeps the terminal for what we say: Lightning's tips and start-up notes do not help a user here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for module in (r"lightning\..*", r"torch\.utils\.data\..*"):
        warnings.filterwarnings("ignore", module=module)
