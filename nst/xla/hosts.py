"""Messages between the processes of a pod, one per host, outside the compiled program.

The compiled program reduces gradients and statistics over all devices by itself. What is left are small matters
between hosts: waiting for each other, agreeing to stop, collecting names. They go through a gloo process group. What
becomes of a host while the others wait for it, in the program or here, is the lifeline's business (`nst.xla.lifeline`).
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch_xla.runtime as xr
from torch.distributed.rendezvous import rendezvous

from nst.errors import NstError, in_a_line
from nst.xla import lifeline

# longer than the slowest thing that one host does alone: compiling, or writing a checkpoint of the largest network
PATIENCE = datetime.timedelta(minutes=60)
PIECE = 64 * 2**20  # bytes of a file at a time


@dataclass(frozen=True)
class Hosts:
    """This process's number among the processes of the job, and how many there are."""

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Hosts:
        """As the runtime counts them, which this initialises, and numbered as the stages number them.

        That is NODE_RANK (`nst.xla.environment.announce_host`): who writes was decided by it before.
        """
        count = xr.process_count()
        return cls(int(os.environ.get("NODE_RANK", xr.process_index())) if count > 1 else 0, count)

    def connect(self) -> None:
        """Starts the process group and the lifeline, once; nothing on a single host.

        Raises:
            NstError: some do not come, within minutes.
        """
        if self.count == 1:
            return
        if not dist.is_initialized():
            import torch_xla.distributed.xla_backend  # noqa: F401 (registers xla://, which finds a host to meet at)

            # the meeting place alone: as an init_method, xla:// would number the hosts as the runtime does
            try:
                store, _, _ = next(rendezvous("xla://", self.index, self.count))
                store.set_timeout(PATIENCE)
                dist.init_process_group("gloo", store=store, rank=self.index, world_size=self.count, timeout=PATIENCE)
            except dist.DistError as error:
                raise NstError(
                    "the hosts of the pod do not all come together",
                    got=in_a_line(error),
                    next="see the log of each: bin/tpu status <name>, bin/tpu logs <name> --worker <number>",
                ) from error
        lifeline.hold(self.index, self.count, _meeting_place(), self.broadcast)

    def barrier(self) -> None:
        if self.count > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on one of the hosts at least; all must ask."""
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        """The values of all hosts, by number."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any, source: int = 0) -> Any:
        return self.gather(value)[source]

    def read(self, path: Path) -> io.BytesIO:
        """The content of a file as host 0 sees it, sent on piece by piece; the others do not touch it. All must ask."""
        content = io.BytesIO()
        with open(path, "rb") if self.index == 0 else contextlib.nullcontext() as file:
            left = self.broadcast(path.stat().st_size if file else None)
            while left:
                piece = bytearray(min(left, PIECE))
                if file and file.readinto(piece) != len(piece):
                    raise OSError(errno.EIO, "the file became shorter while it was read", str(path))
                if self.count > 1:
                    dist.broadcast(torch.frombuffer(piece, dtype=torch.uint8), 0)
                content.write(piece)
                left -= len(piece)
        content.seek(0)
        return content


def _meeting_place() -> str:
    """The address at which torch_xla lets the hosts find each other."""
    if xr.device_type() != "TPU" or "MASTER_ADDR" in os.environ:
        return os.environ.get("MASTER_ADDR", "localhost")
    from torch_xla._internal import tpu

    return str(tpu.discover_master_worker_ip())
