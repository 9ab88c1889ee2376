"""The group `trainer`: what a training or prediction runs on. It never changes what is computed beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nst.kinds import choice, either, flag, whole
from nst.settings.fields import Group, option, part


@dataclass(frozen=True)
class TrainerOptions(Group, at="trainer"):
    """What every trainer has."""

    accelerator: str = option(choice("cpu", "gpu", "xla"), "cpu")
    precision: Any = option(choice("32-true", "bf16-mixed", "16-mixed"), "32-true", "of the network's computations")
    accumulate: int = option(
        whole(1, 10_000), 1, "micro-batches of a step, one after the other: less memory, the same batch (docs/scale.md)"
    )
    workers: int = option(whole(0, 1024), 1, "loader processes")
    prefetch: int = option(whole(1, 1024), 4, "batches ready per worker")

    @property
    def exchanged(self) -> str:
        """Type in which devices exchange gradients."""
        return "float32"


@dataclass(frozen=True)
class TorchOptions(TrainerOptions, at="trainer"):
    """CPU or GPUs through torch's own backends."""

    devices: int | str = option(either(whole(1, 4096), choice("auto")), 1, "of this machine; auto: all")
    num_nodes: int = option(whole(1, 100_000), 1, "machines")
    strategy: str = option(choice("auto", "ddp"), "auto", "ddp: DistributedDataParallel")
    channels_last: bool = option(flag(), True, "memory format; depthwise convolutions are five times slower without")
    compile: bool = option(flag(), False, "the network through torch.compile (docs/gpus.md)")
    deterministic: Any = option(
        either(flag(), choice("warn")), False,
        "the same bits every time; a CPU's kernels give them anyway. false: a GPU's fastest kernels (docs/gpus.md)",
    )  # fmt: skip


@dataclass(frozen=True)
class GuardOptions(Group, at="trainer.guard"):
    """What is done where a compiled step is not what it should be."""

    action: str = option(choice("warn", "stop"), "warn", "warn: say it once per kind of step; stop: end the run")
    compiles: int = option(whole(1, 1000), 1, "per kind of step and process")


@dataclass(frozen=True)
class XlaOptions(TrainerOptions, at="trainer"):
    """Devices of PyTorch/XLA, all in one SPMD program."""

    accelerator: str = option(choice("cpu", "gpu", "xla"), "xla")
    device: str = option(choice("cpu", "tpu"), "cpu", "what the program runs on")
    virtual_devices: int = option(whole(1, 64), 1, "parts of a CPU; a TPU's cores are found by themselves")
    many_hosts: bool = option(flag(), False, "this is one of a pod's hosts")
    gradient_dtype: str = option(
        choice("float32", "bfloat16"), "float32",
        "of the gradients' sum over the devices under bf16-mixed; bfloat16 halves the traffic",
    )  # fmt: skip
    fast_compile: bool = option(flag(), False, "compile in seconds, run slower: for small networks on a CPU")
    guard: GuardOptions = part(GuardOptions)

    @property
    def exchanged(self) -> str:
        return self.gradient_dtype
