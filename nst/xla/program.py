"""What goes to the TPU compiler and what comes back, as plain data: neither torch_xla nor jax is loaded here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nst.data.views import ONCE, Turn
from nst.models.architectures import AnyArchitecture
from nst.training.phases import Phase


@dataclass(frozen=True)
class TrainStep:
    """What decides how a train step is compiled.

    Args:
        cores: that the batch will be divided among.
        accumulate: micro-batches that each makes of its part.
        targets: "soft" or "hard" pseudo-labels.
        teacher: architecture and image size of an online teacher.
        teacher_turns: in which it looks at an image.
    """

    architecture: AnyArchitecture
    phase: Phase
    classes: int
    cores: int
    accumulate: int = 1
    remat: bool = False
    precision: str = "bf16-mixed"
    gradient_dtype: str = "float32"
    targets: str = "soft"
    teacher: tuple[AnyArchitecture, int] | None = None
    teacher_turns: tuple[Turn, ...] = ONCE

    @property
    def labeled(self) -> int:
        """Labeled images of the global batch."""
        return self.phase.recipe.labeled_batch_size

    @property
    def unlabeled(self) -> int:
        return self.labeled * self.phase.recipe.unlabeled_ratio


@dataclass(frozen=True)
class Program:
    """A traced step in a file.

    Args:
        path: the HLO module as protobuf.
        shapes: of its inputs, in order.
        batch: numbers of the inputs whose rows are divided among the cores; all others are the same on every core.
        replaced: number of an output -> number of the input whose memory it takes over.
    """

    path: Path
    shapes: tuple[tuple[int, ...], ...]
    batch: tuple[int, ...]
    replaced: dict[int, int]


@dataclass(frozen=True)
class Collective:
    """All operations of one kind and type by which cores exchange data in a step; bytes of one core's results."""

    kind: str
    dtype: str
    operations: int
    bytes: int


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one core's program.

    Args:
        arguments, outputs, temporaries: bytes of memory; `aliased` of the outputs lie where arguments were.
        code: bytes of the program itself, which lie in the same memory.
        flops: the compiler's own estimate of a step.
        seconds: that compiling took.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    flops: float
    collectives: tuple[Collective, ...]
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes that a core must have."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
_CALL = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_LAYOUT = re.compile(r"\{[^}]*\}")
_TENSOR = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(hlo: Iterable[str]) -> tuple[Collective, ...]:
    """The collectives in the lines of a compiled HLO module; one that reduces several tensors counts once a type."""
    found: dict[tuple[str, str], list[int]] = {}
    for line in hlo:
        if match := _CALL.search(line):
            results, kind, start = match.groups()
            tensors = _TENSOR.findall(_LAYOUT.sub("", results))
            if start and kind in ("all-gather", "collective-permute"):
                # begun here and ended elsewhere: what it gives are its operands and its results
                tensors = tensors[len(tensors) // 2 :]
            for dtype in dict.fromkeys(dtype for dtype, _ in tensors):
                entry = found.setdefault((kind, dtype), [0, 0])
                entry[0] += 1
                entry[1] += sum(_bytes(*tensor) for tensor in tensors if tensor[0] == dtype)
    return tuple(Collective(kind, dtype, *entry) for (kind, dtype), entry in sorted(found.items()))


def _bytes(dtype: str, shape: str) -> int:
    return SIZES[dtype] * math.prod(int(side) for side in shape.split(",") if side)
