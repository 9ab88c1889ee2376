"""One process on PyTorch/XLA that runs stages in turn: `python -m tests.xla_program <devices> <file of runs>`.

The number of devices is fixed for the life of a process, so every number has a process of its own. The file is a JSON
list of runs: {"stage", "options", and of what is patched: "groups", "die_at" (a step), "preempt_at"}. Printed: a JSON
list of what each run counted, as the Guard saw it. TEST_HOST=index/count/port makes the process one of several hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock


class Died(Exception):
    """Stands for the process dying."""


@contextlib.contextmanager
def in_step(step: int | None, act: Any) -> Iterator[None]:
    """Does something at the start of a training step."""
    from nst.training.classifier import Classifier

    original = Classifier.training_step

    def wrapped(self: Classifier, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == step:
            act()
        return original(self, batch, batch_idx)

    with mock.patch.object(Classifier, "training_step", wrapped):
        yield


def die() -> None:
    raise Died


def run(entry: dict[str, Any]) -> dict[str, Any]:
    from nst.cli import dispatch
    from nst.errors import NstError, Preempted

    os.environ.setdefault("PJRT_DEVICE", "CPU")
    told = {}
    with contextlib.ExitStack() as stack:
        if "groups" in entry:
            from nst.xla.trainers import XlaHardware

            stack.enter_context(mock.patch.object(XlaHardware, "groups", entry["groups"]))
            stack.enter_context(mock.patch.object(XlaHardware, "local_groups", entry["groups"]))
        if "die_at" in entry:
            stack.enter_context(in_step(entry["die_at"], die))
        if "preempt_at" in entry and os.environ.get("NODE_RANK", "1") == "1":  # of several hosts one is told
            stack.enter_context(in_step(entry["preempt_at"], lambda: os.kill(os.getpid(), signal.SIGTERM)))
        try:
            dispatch([entry["stage"], *entry["options"]])
        except (Died, Preempted) as error:
            told["stopped"] = type(error).__name__
        except NstError as error:
            told["error"] = str(error)
    return told


def act_as_host(index: int, count: int, port: int) -> None:
    """Makes this process one of several hosts. Their devices do not see each other here, as a pod's would: each runs
    the program on its own part of the data. What hosts do among themselves is as on a pod."""
    import torch.distributed as dist

    from nst.xla.hosts import Hosts

    os.environ |= {"NODE_RANK": str(index), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=index, world_size=count)
    mock.patch.object(Hosts, "current", return_value=Hosts(index, count)).start()
    if index:
        from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

        refuse = AssertionError("host 0 alone reads the state")
        mock.patch.object(TorchCheckpointIO, "load_checkpoint", side_effect=refuse).start()


def main(devices: int, runs: Path) -> None:
    from nst.xla.environment import configure

    configure("cpu", devices, fast_compile=True)
    if "TEST_HOST" in os.environ:
        act_as_host(*map(int, os.environ["TEST_HOST"].split("/")))
    from nst.xla.guard import counters

    results = []
    for entry in json.loads(runs.read_text()):
        before = counters()
        told = run(entry)
        counted = counters()
        counted.subtract(before)
        results.append({**told, "counters": dict(counted)})
    from nst.xla import lifeline

    lifeline.release()
    print("RESULT " + json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
