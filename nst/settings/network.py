"""The groups `model` and `noise`: the network, and what disturbs it while it learns (METHOD, Networks and Noise)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nst.kinds import choice, either, flag, network, null, number, text, whole
from nst.settings.common import NETWORKS, RATE, SIZE, SOME
from nst.settings.fields import Group, option, part


@dataclass(frozen=True)
class Weights(Group, at="model"):
    """Where the weights of a network come from, and how it is trained."""

    dropout: float = option(RATE, 0.2, "rate before the classifier; noise.dropout is what a training uses")
    checkpoint: str | Sequence[str] | None = option(
        NETWORKS,
        None,
        "a whole network, to evaluate, export or train on: run, file, timm's name; a list for predict",
    )
    pretrained: bool | str = option(
        either(flag(), network()), False,
        "weights to start from, for any classes; true: timm's of the name; or a file, hub folder, run or package",
    )  # fmt: skip
    remat: bool = option(
        flag(), False, "compute activations again in the backward pass: less memory, about a third more work"
    )


@dataclass(frozen=True)
class Model(Weights, at="model"):
    """An EfficientNet by its scaling."""

    name: str = option(text(200), help="of the network")
    width: float = option(number(0, 32, above=True), 1.0, "factor of all channels")
    depth: float = option(number(0, 32, above=True), 1.0, "factor of the blocks of a stage")
    small_images: bool = option(
        flag(), False, "stages 2 and 3 keep the resolution, as the released code has it for images of 32 px"
    )
    train_size: int = option(SIZE, help="px of training images")
    test_size: int = option(SIZE, help="px of evaluated and labeled images")


@dataclass(frozen=True)
class TimmModel(Weights, at="model"):
    """Any network of timm's by its name."""

    name: str = option(text(200), help="timm's, with or without the tag of weights: convnext_nano, resnet50.a1_in1k")
    train_size: int | None = option(null(SIZE), None, "px of training images; null: as its weights were trained")
    test_size: int | None = option(
        null(SIZE), None, "px of evaluated and labeled images; null: as its weights are tested, or train_size if given"
    )


@dataclass(frozen=True)
class Side(Group, at="noise.labeled"):
    """Which noises act on one side (labeled or unlabeled) of the joint batch; table 6 switches them one by one."""

    augment: str = option(
        choice("randaugment", "standard", "none"), "randaugment", "standard: crop and flip; none: the clean centre view"
    )
    dropout: bool = option(flag(), True, "whether dropout acts on these images")
    stochastic_depth: bool = option(flag(), True, "whether stochastic depth acts on these images")


@dataclass(frozen=True)
class RandAugmentOptions(Group, at="noise.randaugment"):
    """Strength of RandAugment."""

    variant: str = option(choice("official", "fixed", "timm", "torchvision"), "fixed", "whose operations and ranges")
    num_ops: int = option(whole(0, 20), 2, "operations on an image, one after the other; 0: crop and flip alone")
    magnitude: float = option(number(0, 100), 27, "on the released code's scale: not clipped at 10")


@dataclass(frozen=True)
class Noise(Group, at="noise"):
    """All noise of a training: of the images, and of the network."""

    labeled: Side = part(Side)
    unlabeled: Side = part(Side)
    randaugment: RandAugmentOptions = part(RandAugmentOptions)
    min_area: float = option(SOME, 0.08, "smallest share of the image that a random crop takes")
    crop_sampler: str = option(
        choice("torchvision", "official"), "torchvision",
        "official: the released code's, which draws the aspect first and takes no less than a tenth",
    )  # fmt: skip
    crop_resize: str = option(
        choice("fast", "antialias", "official"), "fast", "official: the released code's, TensorFlow 1's bicubic"
    )
    dropout: float = option(RATE, follows="${model.dropout}", help="rate before the classifier")
    stochastic_depth: float = option(RATE, 0.2, "drop rate of the last block")
