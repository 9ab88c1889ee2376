"""Which view of an image a network gets: noised for learning, clean for evaluation, labeling and ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nst.data.randaugment import RandAugment, small_image_constants
from nst.data.transforms import Augment, CenterView


@dataclass(frozen=True)
class Pictures:
    """What kind of pictures a data set has, as far as the views must know.

    Args:
        small: the small-image pipeline [C] (whole image, RandAugment, cutout, reflect-pad crop) instead of ImageNet's.
        flip: whether a mirrored picture shows the same class; not so for digits.
        cutout: width in px of the small-image pipeline's fixed cutout; 0 is off.
        pad: px by which a small image is padded before its random crop.
        resize: of the clean view of large pictures: "antialias", "fast" or "official" [C]. Small ones are resized
            alike for learning and evaluation.
    """

    small: bool = False
    flip: bool = True
    cutout: int = 0
    pad: int = 4
    resize: str = "antialias"


@dataclass(frozen=True)
class Augmentation:
    """The strength of augmentation: RandAugment's variant, operations and magnitude, and how crops are made.

    Args:
        min_area: smallest share of the picture that a random crop takes.
        crop_sampler: "torchvision", or "official": [C]'s distribution of crops.
        crop_resize: "fast", "antialias", or "official": [C]'s bicubic of TensorFlow 1.
    """

    variant: str = "fixed"
    num_ops: int = 2
    magnitude: float = 27
    min_area: float = 0.08
    crop_sampler: str = "torchvision"
    crop_resize: str = "fast"


class Framing(Protocol):
    """How a network that was trained elsewhere is shown photographs, where that is not the paper's way; `CenterView`
    tells what its options mean."""

    @property
    def crop(self) -> str: ...
    @property
    def resize(self) -> str: ...
    @property
    def kept(self) -> float: ...


def clean_view(image_size: int, pictures: Pictures, framing: Framing | None = None) -> CenterView:
    """The centre view (whole image when small) at `image_size` px."""
    if pictures.small:
        return CenterView(image_size, crop="none")
    if framing is not None:
        return CenterView(image_size, crop=framing.crop, resize=framing.resize, kept=framing.kept)
    return CenterView(image_size, crop="center", resize=pictures.resize)


def training_view(kind: str, image_size: int, pictures: Pictures, strength: Augmentation) -> Augment | CenterView:
    """The view of one side: "randaugment", "standard" (crop and flip only), or "none" (clean)."""
    if kind == "none":
        return clean_view(image_size, pictures)
    randaugment = None
    if kind == "randaugment" and strength.num_ops:
        constants = small_image_constants(image_size) if pictures.small else {}
        randaugment = RandAugment(strength.num_ops, strength.magnitude, strength.variant, **constants)
    return Augment(
        image_size,
        crop="pad" if pictures.small else "random_resized",
        min_area=strength.min_area,
        flip=pictures.flip,
        randaugment=randaugment,
        # [C] cuts out as part of the strong pipeline only; crop and flip stay the standard ones
        cutout=pictures.cutout if randaugment else 0,
        pad=pictures.pad,
        resize=strength.crop_resize,
        sampler=strength.crop_sampler,
    )
