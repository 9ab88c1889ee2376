"""Chips that a run may be planned for: peak speed, memory, and how many make a host.

The unit is the *core*, by which we mean what the runtime shows as one device and what holds one copy of the network.
On TPU v2 and v3 that is half a chip, on v4 and v5p a whole one (its two halves work as one), on v5e, v6e and GPUs a
whole one too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nst.errors import UsageError, nearest

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of accelerator.

    Args:
        peak: multiplications and additions in bfloat16 (float32 on a CPU) per second and core.
        memory: bytes a core; None where it is the host's.
        cores_per_chip: see the module.
        cores_per_host: of a pod's hosts.
        dimensions: of the chips' mesh by which a slice is named; 0: a slice is named by its number of cores.
        processors: processor cores of a host for each core, half of Cloud TPU's vCPUs, which are hyperthreads.
        bandwidth: bytes a second of a GPU's memory; None where it is not what binds.
    """

    name: str
    peak: float
    memory: float | None
    cores_per_chip: int = 1
    cores_per_host: int = 4
    dimensions: int = 0
    processors: float = 1
    bandwidth: float | None = None

    @property
    def tpu(self) -> bool:
        return self.dimensions > 0


# TPU: peak and memory per chip from docs.cloud.google.com/tpu/docs/v2, .../v3, .../v4, .../v5e, .../v5p, .../v6e
# ("Peak compute per chip (bf16)", "HBM capacity"), divided by the cores of a chip; hosts of a pod have 4 chips.
# Processors: vCPUs of the hosts' machine types (96 on v2 and v3, 240 on v4, 112 on v5e, 208 on v5p, 180 on v6e).
# GPU: peak of dense bfloat16, memory and bandwidth from NVIDIA's data sheets "A100 80GB SXM", "H100 SXM", "H200 SXM"; 8
# a host, which is a DGX: 128 processor cores with A100, 112 with the others.
# CPU: two 8-wide fused multiply-adds a cycle (AVX2) at 3 GHz: 2 * 8 * 2 * 3e9.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", 45e12 / 2, 16 * GIB / 2, cores_per_chip=2, cores_per_host=8, dimensions=2, processors=6),
        Chip("v3", 123e12 / 2, 32 * GIB / 2, cores_per_chip=2, cores_per_host=8, dimensions=2, processors=6),
        Chip("v4", 275e12, 32 * GIB, dimensions=3, processors=30),
        Chip("v5e", 197e12, 16 * GIB, dimensions=2, processors=14),
        Chip("v5p", 459e12, 95 * GIB, dimensions=3, processors=26),
        Chip("v6e", 918e12, 32 * GIB, dimensions=2, processors=22.5),
        Chip("a100", 312e12, 80e9, cores_per_host=8, processors=16, bandwidth=2.04e12),
        Chip("h100", 989e12, 80e9, cores_per_host=8, processors=14, bandwidth=3.35e12),
        Chip("h200", 989e12, 141e9, cores_per_host=8, processors=14, bandwidth=4.8e12),
        Chip("cpu", 96e9, None, cores_per_host=1024),
    )
}
# meshes that a slice comes in (the same pages, "Configurations" and "Topologies")
SQUARE = ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
SLICES = {
    "v2": SQUARE[:6],
    "v3": SQUARE,
    "v5e": ("1x1", "2x2", "2x4", *SQUARE[1:6]),
    "v6e": ("1x1", "2x2", "2x4", *SQUARE[1:6]),
}
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")  # of v4 and v5p; larger ones are whole cubes of 4 x 4 x 4 chips
ONE_HOST = ("1x1", "2x4")  # of v5e and v6e: eight chips in one machine, unlike a pod's hosts
EXAMPLES = "v3:32x32, v4:4x4x4, v5e:16x16, v5p:2x2x1, v6e:4x4, a100:8, h100:8, h200:8, cpu:2"


@dataclass(frozen=True)
class Cluster:
    """A number of chips: `v3:32x32` is 1,024 of them and 2,048 cores."""

    name: str
    chip: Chip
    chips: int

    @property
    def cores(self) -> int:
        return self.chips * self.chip.cores_per_chip

    @property
    def replicas(self) -> int:
        """Copies of the network, among which a batch is divided; the cores of a CPU share one."""
        return 1 if self.chip.name == "cpu" else self.cores

    @property
    def hosts(self) -> int:
        if self.name.partition(":")[2] in ONE_HOST:
            return 1
        return math.ceil(self.cores / self.chip.cores_per_host)

    @property
    def processors(self) -> float:
        """Processor cores of all hosts."""
        return self.cores * self.chip.processors

    @property
    def loader_workers(self) -> int:
        """Loader processes of each of our processes that keep a host's cores busy: one a GPU, else one a host."""
        return round(self.chip.processors if self.chip.bandwidth else self.processors / self.hosts)

    @property
    def peak(self) -> float:
        """Of all cores together, per second."""
        return self.cores * self.chip.peak


def cluster(name: str) -> Cluster:
    """The cluster of a name: a TPU's chip and mesh (`v3:32x32`), or another chip and its number (`h100:8`).

    Raises:
        NstError: an unknown chip, or a number or mesh that it does not come in.
    """
    kind, _, size = name.partition(":")
    if kind not in CHIPS:
        meshes = _meshes(name)
        hint = "" if meshes else nearest(kind, CHIPS)
        told = f"the mesh of a {name}: plan.hardware={' or '.join(meshes)}" if meshes else None
        raise UsageError(f"unknown plan.hardware{hint}", got=name, valid=EXAMPLES, next=told)
    chip = CHIPS[kind]
    shape = "x".join(["N"] * max(chip.dimensions, 1))
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size) or size.count("x") + 1 != max(chip.dimensions, 1):
        what = "the mesh of a TPU slice, in chips" if chip.tpu else "the number of devices"
        raise UsageError(f"plan.hardware lacks {what}", got=name, valid=f"{kind}:{shape}, such as {_example(kind)}")
    sides = [int(side) for side in size.split("x")]
    if chip.tpu and not _comes_in(chip, size, sides):
        cubes = f"{', '.join(CUBES)}, or sides that are multiples of 4, the smallest first"
        raise UsageError(
            f"a TPU {kind} does not come in this mesh",
            got=name,
            valid=", ".join(SLICES[kind]) if kind in SLICES else cubes,
        )
    return Cluster(name, chip, math.prod(sides))


def _meshes(accelerator_type: str) -> list[str]:
    """`v3:4x4` for Cloud TPU's name `v3-32`, which counts TensorCores, two a chip, or for v5litepod and v6e chips."""
    found = re.fullmatch(r"(v2|v3|v4|v5p|v5litepod|v6e)-(\d+)", accelerator_type)
    if found is None:
        return []
    kind, count = found[1].replace("v5litepod", "v5e"), int(found[2])
    chips = count if kind in ("v5e", "v6e") else count // 2
    return [f"{kind}:{mesh}" for mesh in SLICES.get(kind, CUBES) if math.prod(map(int, mesh.split("x"))) == chips]


def _comes_in(chip: Chip, size: str, sides: list[int]) -> bool:
    if chip.name in SLICES:
        return size in SLICES[chip.name]
    return size in CUBES or (all(side % 4 == 0 for side in sides) and sides == sorted(sides))


def _example(kind: str) -> str:
    return next((text for text in EXAMPLES.split(", ") if text.startswith(f"{kind}:")), f"{kind}:8x8")
