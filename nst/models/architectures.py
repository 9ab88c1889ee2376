"""What defines a network, as plain data: EfficientNets by their scaling, timm's by their names. Loads no torch.

What can be known of an EfficientNet without building it, its blocks and its parameters, follows from the table of B0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nst.models.timm_architecture import TimmArchitecture, frozen, require_only
from nst.recipes.network_table import NETWORKS
from nst.settings.data import Framing


class Stage(NamedTuple):
    """A stage of B0 before scaling; without expansion its blocks are depthwise-separable, else inverted residuals."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
SQUEEZE_RATIO = 0.25  # of a block's input channels
SMALL_IMAGE_STAGES = (2, 3)  # [C]: with 32 px images these keep their resolution, the stem still halves it
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280  # before scaling by width
CHANNEL_MULTIPLE = 8
LEAST_CHANNELS = 0.9  # of the scaled number, that rounding to a multiple may leave


@dataclass(frozen=True)
class Architecture:
    """What defines a network up to its number of classes; the sizes (px) and dropout rate it is used with."""

    width: float
    depth: float
    train_size: int = 224
    test_size: int = 224
    dropout: float = 0.2
    small_images: bool = False
    name: str = ""

    def channels(self, base: int) -> int:
        """`base` channels scaled by width, to the nearest multiple of 8; the next one where that is 10 % too few."""
        scaled = base * self.width
        nearest = int(scaled + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
        found = max(CHANNEL_MULTIPLE, nearest)
        return found + CHANNEL_MULTIPLE if found < LEAST_CHANNELS * scaled else found


AnyArchitecture = Architecture | TimmArchitecture

ARCHITECTURES: dict[str, Architecture] = {
    row.name: Architecture(row.width, row.depth, row.train_size, row.test_size, row.dropout, name=row.name)
    for row in NETWORKS
}


def strides(architecture: Architecture) -> list[int]:
    """Of each stage; the small-image variant has none in `SMALL_IMAGE_STAGES`."""
    keep_size = SMALL_IMAGE_STAGES if architecture.small_images else ()
    return [1 if number in keep_size else stage.stride for number, stage in enumerate(STAGES, start=1)]


def block_counts(architecture: Architecture) -> list[int]:
    """Number of residual blocks of each stage."""
    return [math.ceil(stage.repeats * architecture.depth) for stage in STAGES]


# ---- parameters ------------------------------------------------------------------------------------------


class Parameter(NamedTuple):
    """A parameter by its name in the state dict.

    Args:
        size: numbers that it holds.
        normalising: it is a BatchNorm's.
    """

    name: str
    size: int
    normalising: bool = False


def parameters(architecture: Architecture, num_classes: int) -> Iterator[Parameter]:
    """What an EfficientNet learns, in the order of its modules, without building it."""
    channels = architecture.channels(STEM_CHANNELS)
    yield from _convolution("conv_stem", 3 * channels * 3**2)
    yield from _batch_norm("bn1", channels)
    for number, (stage, count) in enumerate(zip(STAGES, block_counts(architecture), strict=True)):
        wide = architecture.channels(stage.channels)
        for block in range(count):
            yield from _block(f"blocks.{number}.{block}", stage, channels, wide)
            channels = wide
    head = architecture.channels(HEAD_CHANNELS)
    yield from _convolution("conv_head", channels * head)
    yield from _batch_norm("bn2", head)
    yield from _convolution("classifier", head * num_classes, num_classes)


def _block(name: str, stage: Stage, inner: int, outer: int) -> Iterator[Parameter]:
    """A block from `inner` to `outer` channels: expanded, depthwise, squeezed, projected."""
    wide = inner if stage.expansion == 1 else inner * stage.expansion
    squeezed = round(wide * (SQUEEZE_RATIO / stage.expansion))
    last = 2 if stage.expansion == 1 else 3
    if stage.expansion != 1:
        yield from _convolution(f"{name}.conv_pw", inner * wide)
        yield from _batch_norm(f"{name}.bn1", wide)
    yield from _convolution(f"{name}.conv_dw", wide * stage.kernel**2)
    yield from _batch_norm(f"{name}.bn{last - 1}", wide)
    yield from _convolution(f"{name}.se.conv_reduce", wide * squeezed, squeezed)
    yield from _convolution(f"{name}.se.conv_expand", squeezed * wide, wide)
    yield from _convolution(f"{name}.conv_pw{'l' if stage.expansion != 1 else ''}", wide * outer)
    yield from _batch_norm(f"{name}.bn{last}", outer)


def _convolution(name: str, size: int, biases: int = 0) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", size)
    if biases:
        yield Parameter(f"{name}.bias", biases)


def _batch_norm(name: str, channels: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", channels, normalising=True)
    yield Parameter(f"{name}.bias", channels, normalising=True)


# ---- of either kind --------------------------------------------------------------------------------------


def architecture_from(record: Mapping[str, Any]) -> AnyArchitecture:
    """The architecture from its fields in a file.

    Raises:
        TypeError: they are not those of any.
    """
    if "width" in record:
        return Architecture(**record)
    return TimmArchitecture(**{name: frozen(value) for name, value in record.items()})


def framing_at(architecture: AnyArchitecture, image_size: int) -> Framing | None:
    """How photographs are shown to the network at that size in px; None: as the paper shows them."""
    return architecture.framing(image_size) if isinstance(architecture, TimmArchitecture) else None


def only_size(architecture: AnyArchitecture) -> int | None:
    """px that the network takes; None: it takes others too."""
    return architecture.only_size if isinstance(architecture, TimmArchitecture) else None


def require_size(architecture: AnyArchitecture, image_size: int) -> None:
    """Raises UsageError where the network cannot take images of that size in px."""
    require_only(only_size(architecture), image_size, architecture.name)
