"""The environment that torch_xla needs before it is loaded, and the words where it cannot work.

Nothing here imports torch_xla at the top, because it reads its settings once, when it is first imported, and keeps
them for the life of the process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys

from nst.errors import NstError

# compile in seconds instead of minutes, and run slower: for tests and small networks on a CPU
FAST_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)


def require_torch_xla() -> None:
    """Raises NstError where torch_xla is not installed, or was built for another torch."""
    if importlib.util.find_spec("torch_xla") is None:
        raise NstError(
            "this trainer needs torch_xla, which is not installed",
            next="NST_EXTRAS=xla bin/install, on Linux; or trainer=cpu, trainer=gpu",
        )
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torch_xla")}
    # their C++ interface changes with every minor version: others fail at import, with a missing symbol
    if len({tuple(version.split(".")[:2]) for version in versions.values()}) > 1:
        raise NstError(
            "torch_xla was built for another torch",
            got=", ".join(f"{name} {version}" for name, version in versions.items()),
            valid="the same major and minor version of both",
            next="NST_EXTRAS=xla bin/install brings the pair that requirements-xla.lock names",
        )


def configure(device: str, virtual_devices: int, *, fast_compile: bool) -> None:
    """Sets the environment for this process's one torch_xla runtime.

    Args:
        device: "cpu" or "tpu".
        virtual_devices: parts that a CPU is divided into; 1 and more. A TPU's cores are found by themselves.
        fast_compile: `FAST_COMPILE`, on a CPU.

    Raises:
        NstError: no TPU, or torch_xla already runs with other settings.
    """
    wanted = {"PJRT_DEVICE": device.upper()}
    if device == "cpu":
        # the last two keep torch_xla from asking the cloud's metadata server, which takes seconds without a network
        wanted |= {"CPU_NUM_DEVICES": str(virtual_devices), "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v3-8"}
        if fast_compile:
            os.environ.setdefault("XLA_FLAGS", FAST_COMPILE)
    else:
        require_tpu()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "torch_xla" in sys.modules:
        differ = [f"{name}={os.environ.get(name)}" for name, value in wanted.items() if os.environ.get(name) != value]
        if differ:
            raise NstError(
                "torch_xla already runs in this process, with other settings",
                got=", ".join(differ),
                valid=", ".join(f"{name}={value}" for name, value in wanted.items()),
                next="use one trainer for all generations of a run",
            )
    os.environ.update(wanted)


def require_tpu() -> None:
    """Chooses the TPU, where torch_xla is not loaded yet, and loads it.

    Raises:
        NstError: there is no TPU, or nothing to drive it.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise NstError("the TPU library libtpu is not installed", next="NST_EXTRAS=tpu bin/install")
    if "torch_xla" not in sys.modules:
        os.environ["PJRT_DEVICE"] = "TPU"  # over what is left there from an earlier command
    from torch_xla._internal import tpu

    if tpu.num_available_chips() == 0:
        raise NstError(
            "no TPU was found in this machine",
            got="trainer.device=tpu",
            next="bin/tpu create makes one; trainer=xla_cpu runs the same program on virtual devices",
        )


def announce_host(device: str, many_hosts: bool) -> None:
    """Tells the stages which of a pod's hosts this is, before any of them starts: host 0 writes.

    Raises:
        NstError: the pod's metadata do not tell.
    """
    if device != "tpu" or not many_hosts or "NODE_RANK" in os.environ:
        return
    require_torch_xla()
    require_tpu()
    from torch_xla._internal import tpu

    try:
        os.environ["NODE_RANK"] = str(tpu.worker_id())
    except (OSError, ValueError, KeyError) as error:
        raise NstError(
            "the TPU's metadata do not tell which host of the pod this is",
            got=str(error) or type(error).__name__,
            next="start with bin/tpu run, or set NODE_RANK=<number of this host>; trainer=tpu for a single host",
        ) from error
