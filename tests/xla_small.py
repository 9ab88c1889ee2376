"""Small programs on PyTorch/XLA, several in one process: `python -m tests.xla_small <devices> <program> [arguments]`.

Programs are functions of this module, joined by commas. Printed behind RESULT: JSON, what each returned by its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

# ---- what is computed --------------------------------------------------------------------------------------


def apart(ours: Any, theirs: Any) -> float:
    pairs = [(one.detach().cpu(), other.detach()) for one, other in zip(ours, theirs, strict=True)]
    return max(float((one - other).abs().max() / other.abs().max().clamp(min=1)) for one, other in pairs)


def normed(training: bool, shape: tuple[int, ...] = (20, 3, 8, 8)) -> float:
    """How far BatchNorm on XLA is from BatchNorm on the CPU: outputs, statistics and gradients."""
    import torch

    from nst.models.batch_norm import BatchNorm

    images, found = torch.randn(shape) * 2 + 1, []
    for device in ("xla", "cpu"):
        norm = BatchNorm(3, momentum=0.3, act_layer=torch.nn.SiLU).train(training)
        for place, tensor in enumerate(norm.state_dict().values()):
            tensor.copy_(torch.linspace(0.5, 2, 3) + place if tensor.dim() else tensor)
        norm, leaf = norm.to(device), images.to(device).requires_grad_()
        result = norm(leaf)
        wanted = [leaf, norm.weight, norm.bias]
        found.append([result, *norm.state_dict().values(), *torch.autograd.grad(result.cos().sum(), wanted)])
    return apart(*found)


def convolved(side: tuple[int, int], kernel: int, stride: int, padding: Any, groups: int = 6) -> float:
    """How far a convolution as products is from torch's: outputs and gradients."""
    import torch
    import torch.nn.functional as F

    from nst.xla.virtual import Products

    images, weight = torch.randn(2, 6, *side, requires_grad=True), torch.randn(6, 6 // groups, kernel, kernel)
    weight.requires_grad_()
    found = []
    for mode in (Products(), contextlib.nullcontext()):
        with mode:
            result = F.conv2d(images, weight, None, stride, padding, 1, groups)
        found.append([result, *torch.autograd.grad(result.cos().sum(), [images, weight])])
    return apart(*found)


def as_torch() -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    cases: list[Any] = [
        ((8, 8), 3, 1, 1), ((8, 6), 5, 2, 2), ((9, 9), 3, 2, 0), ((1, 1), 5, 1, 2), ((32, 32), 3, (1, 1), (1, 1)),
        ((8, 8), 3, 1, 1, 2),
    ]  # fmt: skip
    return {
        "training": normed(True),
        "eval": normed(False),
        "two values": normed(True, (2, 3, 1, 1)),
        **{str(case): convolved(*case) for case in cases},
    }


def in_bf16() -> dict[str, list[bool]]:
    """Whether gradients hold values that no bfloat16 holds, by their dtype and rematerialisation."""
    import torch
    from torch import nn

    from nst.models.batch_norm import BatchNorm
    from nst.xla.bfloat16 import XlaPrecision
    from nst.xla.remat import rematerialize

    torch.manual_seed(0)
    norm = BatchNorm(8, act_layer=nn.SiLU)
    block = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), norm, nn.Conv2d(8, 4, 1)).to("xla")
    images = torch.randn(2, 4, 6, 6).to("xla").requires_grad_()
    found = {}
    for dtype in ("float32", "bfloat16"):
        for remat in (False, True):
            block.zero_grad()
            with XlaPrecision("bf16-mixed", dtype).forward_context():
                loss = (rematerialize(block, images) if remat else block(images)).float().square().mean()
            loss.backward()  # outside, as Lightning calls it
            gradients = [block[place].weight.grad.cpu() for place in (0, 2)]
            wide = [(gradient != gradient.bfloat16().float()).any().item() for gradient in gradients]
            found[f"{dtype},{remat}"] = wide
    return found


# ---- the guard ---------------------------------------------------------------------------------------------


def judged_steps(action: str, shapes: list[int], *, reads: int = 0, fallback: bool = False) -> str:
    """What the guard says of steps on so many values each."""
    import torch
    import torch_xla

    from nst.errors import NstError
    from nst.settings.trainer import GuardOptions
    from nst.xla.guard import Guard

    guard = Guard(GuardOptions(action))
    try:
        for shape in shapes:
            guard.on_predict_batch_start(None)
            value = (torch.ones(shape).to(torch_xla.device()) * 3).sum()
            if fallback:
                value = torch.histc(value.unsqueeze(0), bins=4, min=0, max=100)
            torch_xla.sync()
            for _ in range(reads):
                value.cpu()
        guard.on_predict_end(None, None)
    except NstError as error:
        return str(error)
    return ""


def guarded() -> dict[str, str]:
    from nst.xla.strategy import data_mesh

    data_mesh()
    return {
        "good": judged_steps("stop", [7] * 12, reads=1),
        "shapes": judged_steps("stop", [8, 9, 8]),
        "reads": judged_steps("stop", [10] * 12, reads=3),
        "fallback": judged_steps("stop", [11] * 3, fallback=True),
        "warned": judged_steps("warn", [12, 13, 14]),
    }


def judged_reads(transfers: int, runs: int) -> str:
    from nst.errors import NstError
    from nst.settings.trainer import GuardOptions
    from nst.xla.guard import Guard, StepTally

    guard = Guard(GuardOptions("stop"))
    tally = StepTally(steps=120, runs=runs)
    tally.counts["transfers"] = transfers
    try:
        guard._check("train", tally, 10)
    except NstError as error:
        return str(error)
    return ""


def training_reads() -> list[str]:
    return [judged_reads(*case) for case in ((12, 1), (24, 12), (25, 12), (120, 12))]


# ---- hosts -------------------------------------------------------------------------------------------------


def rows() -> dict[str, Any]:
    import numpy as np
    import torch
    import torch_xla.distributed.spmd as xs

    from nst.errors import NstError
    from nst.xla import strategy
    from nst.xla.hosts import Hosts

    strategy.data_mesh()
    told = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        mesh = xs.Mesh(np.array(order), (4,), ("data",))
        strategy.require_own_rows(mesh, Hosts())  # through the devices and back
    with mock.patch.object(strategy, "own_rows", lambda rows, *_: rows.flip(0)):
        try:
            strategy.require_own_rows(mesh, Hosts())
        except NstError as error:
            told.append(str(error))
    # a pod: two hosts with two rows each of a mesh that is counted across them
    own = [
        strategy.own_rows(torch.arange(8), devices, range(4)) for devices in (["TPU:0", "TPU:2"], ["TPU:1", "TPU:3"])
    ]
    return {"told": told, "hosts": [part.tolist() for part in own]}


def alone() -> str:
    import torch.distributed as dist

    from nst.errors import NstError
    from nst.xla import hosts

    error = dist.DistStoreError("timed out after 300 s")
    with mock.patch.object(hosts, "rendezvous", side_effect=error), mock.patch.dict(os.environ, NODE_RANK="1"):
        try:
            hosts.Hosts(1, 4).connect()
        except NstError as fault:
            return str(fault)
    return ""


def a_pod_as_a_host() -> list[str]:
    from nst.errors import NstError
    from nst.xla import trainers
    from nst.xla.hosts import Hosts

    def told(many_hosts: bool) -> str:
        try:
            trainers.XlaHardware(device="tpu", many_hosts=many_hosts)
        except NstError as error:
            return str(error)
        return ""

    with mock.patch.object(trainers, "configure"), mock.patch.object(Hosts, "current", return_value=Hosts(1, 4)):
        return [told(False), told(True)]


def renumbered(index: str, port: str) -> list[Any]:
    """The runtime numbers its processes in another order than the stages number the hosts."""
    host = int(index)
    os.environ |= {"NODE_RANK": index, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    import torch_xla.runtime as xr

    xr.process_count, xr.process_index = lambda: 2, lambda: 1 - host
    xr.use_spmd()
    from nst.xla import lifeline
    from nst.xla.hosts import Hosts

    hosts = Hosts.current()
    hosts.connect()
    said = [hosts.gather(host), hosts.broadcast(f"of host {host}")]
    lifeline.release()
    return said


def reading(index: str, port: str, folder: str) -> list[str]:
    """Three files as each of three hosts has them, of which host 0 alone sees the folder."""
    import torch.distributed as dist

    from nst.xla import hosts

    host = int(index)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=host, world_size=3)
    hosts.PIECE = 1000
    seen = Path(folder) if host == 0 else Path("/not/here")
    return [hosts.Hosts(host, 3).read(seen / name).read().hex() for name in "012"]


def failing(index: str, port: str, *options: str) -> None:
    """One of two hosts that train; host 1 fails in its first step, for which host 0 waits."""
    from tests.xla_program import act_as_host, in_step

    host = int(index)
    act_as_host(host, 2, int(port))
    from nst.cli import main as nst
    from nst.xla import lifeline

    lifeline.GRACE = 15.0  # for host 1 to end by itself

    def act() -> None:
        if host == 1:
            raise OSError(28, "No space left on device", "/full/disk")
        ctypes.PyDLL(None).sleep(500)  # as in a collective, for which the other does not come

    with in_step(0, act):
        nst(["train", *options])


def main(devices: str, programs: str, *arguments: str) -> None:
    from nst.xla.environment import configure

    configure("cpu", int(devices), fast_compile=True)
    import torch_xla  # noqa: F401  starts what the programs run on

    print("RESULT " + json.dumps({name: globals()[name](*arguments) for name in programs.split(",")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
