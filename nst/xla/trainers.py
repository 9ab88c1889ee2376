"""The trainers xla_cpu, tpu and tpu_pod: the same program on a CPU's virtual devices, one TPU host, or a whole pod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor

from nst.data.shared_memory import LoaderOptions
from nst.errors import NstError
from nst.machine import host_memory, require_loaders
from nst.models.efficientnet import EfficientNet
from nst.models.timm_network import TimmNetwork
from nst.settings.trainer import XlaOptions
from nst.training.hardware import Machine, Network, Value, bare_trainer
from nst.xla.environment import configure


@dataclass(frozen=True)
class XlaHardware(XlaOptions, Machine):
    """Devices of PyTorch/XLA, all in one SPMD program.

    Raises:
        NstError: there is no such device here, or many hosts where one was told of.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require_loaders(self.workers)
        configure(self.device, self.virtual_devices, fast_compile=self.fast_compile)
        # only now may torch_xla be loaded
        from nst.xla.bfloat16 import XlaPrecision
        from nst.xla.strategy import data_mesh

        XlaPrecision(self.precision, self.gradient_dtype)
        data_mesh()
        if self.device == "tpu" and not self.many_hosts and (hosts := self._hosts().count) > 1:
            # each would take itself for the one that writes
            raise NstError(
                "this TPU has several hosts",
                got=f"trainer.many_hosts=false on one of {hosts}",
                valid="trainer=tpu_pod",
                next="bin/tpu run <name> -- <stage> trainer=tpu_pod ..., on every host",
            )

    compile = False
    pin_memory = False
    device_numbers = True

    @property
    def loader(self) -> LoaderOptions:
        return LoaderOptions(self.workers, self.prefetch)

    @property
    def memory(self) -> float | None:
        return host_memory() if self.device == "cpu" else None

    @property
    def memories(self) -> int:
        return 1  # virtual devices share the host's

    @property
    def local_groups(self) -> int:
        return self.groups // self._hosts().count

    @property
    def groups(self) -> int:
        from nst.xla.strategy import data_mesh

        return data_mesh().size()

    @property
    def devices_in_all(self) -> int:
        return self.groups

    def whole(self, batch_size: int) -> int:
        devices = self.local_groups
        return -(-batch_size // devices) * devices

    def keep_apart(self, tensors: Sequence[Tensor]) -> None:
        """A barrier for the compiler, which would else be free to compute all micro-batches at once."""
        import torch_xla.core.xla_model as xm

        xm.optimization_barrier_(list(tensors))

    def agreed(self, value: Value) -> Value:
        hosts = self._hosts()
        hosts.connect()
        return hosts.broadcast(value)

    def place(self, network: Network) -> Network:
        """The network with XLA's rematerialisation; layouts are the compiler's business."""
        from nst.xla.remat import rematerialize

        if isinstance(network, EfficientNet | TimmNetwork):
            network.checkpoint = rematerialize
        return network

    def _hosts(self) -> Any:
        from nst.xla.hosts import Hosts

        return Hosts.current()

    def trainer(
        self, directory: Path, *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = (), **options: Any
    ) -> pl.Trainer:
        from nst.xla.bfloat16 import XlaPrecision
        from nst.xla.guard import Guard
        from nst.xla.strategy import SpmdStrategy

        precision = XlaPrecision(self.precision, self.gradient_dtype, virtual=self.device == "cpu")
        strategy = SpmdStrategy(precision, self._hosts())
        return bare_trainer(
            directory,
            [Guard(self.guard), *callbacks],
            loggers,
            strategy=strategy,
            devices=1,
            inference_mode=False,  # tensors made in inference mode cannot be moved to XLA and changed there
            **options,
        )

    def facts(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Devices and hosts, and what the Guard counted."""
        from nst.xla.guard import Guard

        guards = [callback for callback in trainer.callbacks if isinstance(callback, Guard)]  # type: ignore[attr-defined]
        counted = guards[0].facts()
        return {"device": self.device, "devices": self.groups, "hosts": self._hosts().count, "guard": counted}
