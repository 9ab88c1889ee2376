"""Lightning on PyTorch/XLA: one process per host, one compiled program over all devices (SPMD), data parallel.

To Lightning this is a single process on a CPU. The batch is global, the compiler reduces gradients and BatchNorm
statistics over the devices by itself, and each host reads its part of the data by `SpmdParts`. So no code of
Lightning's for several ranks runs, and what it does run behaves as on one CPU.

A step ends with `torch_xla.sync()`: what was recorded until then becomes one graph, which is compiled the first time
and looked up by its hash afterwards. Every remedy here serves that all steps record the same graph.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch_xla
import torch_xla.distributed.spmd as xs
import torch_xla.runtime as xr
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils._pytree import tree_map

from nst.data.parts import PartedStrategy, Parts
from nst.errors import NstError, Preempted, in_a_line
from nst.training.optim import on_device
from nst.training.tensor_rate import prime
from nst.xla import lifeline
from nst.xla.bfloat16 import XlaPrecision
from nst.xla.hosts import Hosts
from nst.xla.placing import module_to_host, send_rows, send_whole, settle, to_host


class PjrtAccelerator(Accelerator):
    """Any device of the PJRT runtime.

    Not Lightning's XLAAccelerator: that one asks the cloud's metadata server and allows Lightning's own strategies
    only, which start a process per core.
    """

    def setup_device(self, device: torch.device) -> None:
        """Nothing: the runtime has set up all devices."""

    def teardown(self) -> None:
        """Nothing: the runtime lives as long as the process."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("xla", 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1  # a process drives all devices of its host

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "pjrt"


@functools.cache
def data_mesh() -> xs.Mesh:
    """All devices of the job in one row, along which batches are divided."""
    if not xr.is_spmd():
        xr.use_spmd()
    count = xr.global_runtime_device_count()
    mesh = xs.Mesh(np.arange(count), (count,), ("data",))
    xs.set_global_mesh(mesh)
    return mesh


def own_rows(rows: Tensor, devices: Sequence[str], mesh: Sequence[int]) -> Tensor:
    """The rows of a global batch (B, ...) that lie on some of its devices, in the order of these.

    A host's slice is divided among its own devices in their order, and the numbers of a host's devices need not follow
    each other in a pod's mesh: a host of a v4 has a square of chips out of a grid that is counted in rows.

    Args:
        devices: names such as TPU:5.
        mesh: numbers of all devices in the order of the batch.
    """
    places = {number: place for place, number in enumerate(mesh)}
    own = [places[int(name.rpartition(":")[2])] for name in devices]
    return rows.unflatten(0, (len(mesh), -1))[own].flatten(0, 1)


def require_own_rows(mesh: xs.Mesh, hosts: Hosts) -> None:
    """Sends a few numbered rows around, as batches go. All hosts must ask.

    Raises:
        NstError: a host gets back other rows than it sent: images would get each other's labels.
    """
    local = len(torch_xla._XLAC._xla_get_runtime_devices())
    sent = torch.arange(2 * local) + 2 * local * hosts.index
    rows = send_rows(sent, torch_xla.device(), mesh, slices=True) + 0  # computed, as what a step gives
    xs.mark_sharding(rows, mesh, (None,))
    torch_xla.sync()
    found = own_rows(rows.cpu(), torch_xla._XLAC._xla_get_runtime_devices(), mesh.device_ids.tolist())
    if hosts.any(not torch.equal(found, sent)):
        raise NstError(
            "the rows of a batch come back to other hosts than they came from",
            got=f"{found.tolist()} on host {hosts.index}",
            valid=sent.tolist(),
            next="this version of torch_xla divides a batch in another way: report it, with the type of the TPU",
        )


class SpmdParts(Parts):
    """A process per host, whose part of a batch lies on its devices."""

    def __init__(self, hosts: Hosts, mesh: xs.Mesh) -> None:
        self.hosts, self.mesh = hosts, mesh

    def place(self) -> tuple[int, int]:
        return self.hosts.index, self.hosts.count

    def own_rows(self, values: Tensor) -> Tensor:
        """This host's rows of a global (B, ...) tensor, on the CPU, in the order in which it sent them."""
        return own_rows(values.cpu(), torch_xla._XLAC._xla_get_runtime_devices(), self.mesh.device_ids.tolist())

    def arriving(self, values: Tensor) -> Callable[[], Tensor]:
        """Read at once: where reading takes all hosts, all must read at the same step."""
        rows = self.own_rows(values)
        return lambda: rows

    def state(self, tensor: Tensor) -> Tensor:
        """The same on all devices."""
        return send_whole(tensor, torch_xla.device(), self.mesh)


class SpmdStrategy(PartedStrategy):
    """One program over all devices of all hosts."""

    strategy_name = "xla_spmd"

    def __init__(self, precision: XlaPrecision, hosts: Hosts) -> None:
        super().__init__(accelerator=PjrtAccelerator(), precision_plugin=precision)
        self.hosts = hosts
        self.mesh = data_mesh()
        self.parts = SpmdParts(hosts, self.mesh)
        hosts.connect()
        if xr.process_count() > 1:
            require_own_rows(self.mesh, hosts)
        # loggers write through this decorator and know no strategy
        rank_zero_only.rank = hosts.index  # type: ignore[attr-defined]

    # ---- who this process is

    # Lightning's own small tensors (lengths, flags) stay on the host: there, reading one costs nothing
    root_device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where the model, its state and the batches are: all devices of the job as one."""
        return torch_xla.device()

    # what Lightning looks for in strategies of several ranks
    global_rank = local_rank = node_rank = 0
    world_size = 1

    @property
    def is_global_zero(self) -> bool:
        return self.hosts.index == 0

    # ---- state

    def model_to_device(self) -> None:
        assert self.model is not None
        self.model.to(self.device)

    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        assert self.model is not None
        if trainer.state.fn == TrainerFn.FITTING:
            for optimizer in self.optimizers:
                prime(optimizer)
        settle(self.model, self.optimizers, self.mesh)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The state at a path, which host 0 alone reads: a pod's hosts would ask one file server for gigabytes each."""
        if self.hosts.count == 1:
            return super().load_checkpoint(checkpoint_path, weights_only)
        content = self.hosts.read(Path(checkpoint_path))
        # as Lightning reads a file of this machine: this run has written it
        return torch.load(content, map_location="cpu", weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        super().load_model_state_dict(checkpoint, strict)
        assert self.model is not None
        settle(self.model, self.optimizers, self.mesh)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
            for group in optimizer.param_groups:
                group["lr"] = on_device(float(group["lr"]), self.device)
        assert self.model is not None
        settle(self.model, self.optimizers, self.mesh)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if not self.is_global_zero:
            return
        checkpoint = to_host(checkpoint)
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                group["lr"] = float(group["lr"])  # as the trainers of other hardware keep it
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def teardown(self) -> None:
        assert self.lightning_module is not None
        module_to_host(self.lightning_module)
        for optimizer in self.optimizers:
            optimizer.state.clear()
        super().teardown()

    def on_exception(self, exception: BaseException) -> None:
        """Says why this host fails and tells the others, before the teardown, in which it may wait for them and be
        ended before anybody says it. Nothing where all have agreed to stop."""
        if self.hosts.count > 1 and not isinstance(exception, Preempted):
            known = isinstance(exception, (NstError, OSError))
            told = in_a_line(exception) if known else "".join(traceback.format_exception(exception)).rstrip()
            print(f"nst: host {self.hosts.index} fails: {told}", file=sys.stderr, flush=True)
            lifeline.release(in_a_line(exception))
        super().on_exception(exception)

    # ---- steps

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Tensors of a batch to the devices, rows divided among them; what is no tensor stays on the host."""
        send = functools.partial(send_rows, device=self.device, mesh=self.mesh, slices=xr.process_count() > 1)
        return tree_map(lambda value: send(value) if isinstance(value, Tensor) else value, batch)

    def optimizer_step(self, optimizer: Any, closure: Any, model: Any = None, **options: Any) -> Any:
        # the module has seeded torch for this step; the devices' generator, which makes the masks, follows
        torch_xla.manual_seed(torch.initial_seed())
        result = super().optimizer_step(optimizer, closure, model, **options)
        torch_xla.sync()
        return result

    def validation_step(self, *arguments: Any, **options: Any) -> Any:
        return self._whole_graph(super().validation_step(*arguments, **options))

    def test_step(self, *arguments: Any, **options: Any) -> Any:
        return self._whole_graph(super().test_step(*arguments, **options))

    def predict_step(self, *arguments: Any, **options: Any) -> Any:
        return self._whole_graph(super().predict_step(*arguments, **options))

    def _whole_graph(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            # gathered within the step: reading rows that lie on many devices would be a second execution
            xs.mark_sharding(result, self.mesh, (None,) * result.dim())
        torch_xla.sync()  # or all batches would become one graph
        return result

    # ---- between hosts; tensors are global already

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        return tensor

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return tensor

    def barrier(self, name: str | None = None) -> None:
        self.hosts.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return self.hosts.broadcast(obj, src)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        decisions = self.hosts.gather(decision)
        return min(decisions) if all else max(decisions)
