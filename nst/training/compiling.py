"""`trainer.compile`: the network through torch.compile, and what a machine needs for it.

Only the network is compiled. Its noise is drawn outside (`Classifier.training_step`), since compiled code would draw
other numbers: so a compiled training differs from any other in rounding alone.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import nn

from nst.errors import NstError, UsageError
from nst.models.networks import Network
from nst.training.hardware import Machine


def compiled(network: Network) -> Any:
    """The network on the same parameters, compiled at its first call. One of a process at a time: it ends others."""
    # the same bits; ATen's own pooling makes its result channels_last by as_strided, whose backward pass inductor (of
    # torch 2.9, on a CPU) calls before there is memory for it
    for module in list(network.modules()):
        for name, pool in list(module.named_children()):
            if (
                isinstance(pool, SelectAdaptivePool2d)
                and pool.pool_type == "avg"
                and isinstance(pool.flatten, nn.Flatten)
            ):
                setattr(module, name, SelectAdaptivePool2d(pool_type="fast", flatten=True))
    # of one piece of code torch keeps eight graphs, those of earlier phases and generations among them; the ninth
    # network would not be compiled, without a word
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)  # else a second image size would make slower code for any size


def require_compilable(hardware: Machine, remat: bool) -> None:
    """Raises NstError where `trainer.compile` cannot work: with rematerialised blocks, or without a compiler."""
    if not hardware.compile:
        return
    if remat:
        raise UsageError(
            "torch.compile does not take rematerialised blocks",
            got="trainer.compile=true, model.remat=true",
            next="trainer.compile=false; or model.remat=false with trainer.accumulate, which needs less memory too",
        )
    if fault := _compiler_fault():
        raise NstError(
            "trainer.compile needs a working C++ compiler and Python's headers",
            got=fault,
            next="on Debian: apt-get install g++ python3-dev; or trainer.compile=false",
        )


def _compiler_fault() -> str | None:
    """Why a module for Python cannot be built here; None if it can. A GPU's need the C compiler that comes along."""
    compiler = os.environ.get("CXX", "g++")  # as torch takes it
    command = [compiler, "-x", "c++", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-"]
    try:
        done = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{compiler}: {error.strerror}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return next((line for line in lines if "error" in line), f"{compiler} ends with exit code {done.returncode}")
