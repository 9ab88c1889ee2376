"""Which view of an image a network gets: noised for learning, clean for evaluation, labeling and ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nst.data.operations import Image
from nst.data.randaugment import RandAugment, small_image_constants
from nst.data.stream import generator
from nst.data.transforms import Augment, CenterView
from nst.settings.data import Framing, Pictures
from nst.settings.network import Noise


def clean_view(image_size: int, pictures: Pictures, framing: Framing | None = None) -> CenterView:
    """The centre view (whole image when small) at `image_size` px."""
    if pictures.small:
        return CenterView(image_size, crop="none")
    if framing is not None:
        return CenterView(image_size, crop=framing.crop, resize=framing.resize, kept=framing.kept)
    return CenterView(image_size, crop="center", resize=pictures.resize)


@dataclass(frozen=True)
class NoisedView:
    """A student's noisy view that is always the same one of a picture: what a noised teacher labels."""

    view: Augment | CenterView

    @property
    def image_size(self) -> int:
        return self.view.image_size

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Image:
        """uint8 (H, W, 3) -> uint8 (image_size, image_size, 3); draws from the picture, not from `rng`."""
        return self.view(image, generator("noised teacher", image.shape, image.tobytes()))


SeenAs = CenterView | NoisedView


class Turn(NamedTuple):
    """A square picture, mirrored left to right or not, then turned counter-clockwise."""

    quarters: int = 0
    mirrored: bool = False


ONCE = (Turn(),)


def turns(pictures: Pictures) -> tuple[Turn, ...]:
    """Every turn in which such a picture shows the same class, as it is first: 1, 2, 4 or 8."""
    mirrored = (False, True) if pictures.flip else (False,)
    return tuple(Turn(quarters, each) for quarters in range(4 if pictures.turn else 1) for each in mirrored)


@dataclass(frozen=True)
class SideBySide:
    """The views of one picture that several networks need, from left to right in one array.

    So they travel as one picture does; `windows` says where each lies.
    """

    views: tuple[SeenAs, ...]

    @property
    def windows(self) -> list[tuple[int, int]]:
        """(left, size) px of each view."""
        sizes = [view.image_size for view in self.views]
        return [(sum(sizes[:place]), size) for place, size in enumerate(sizes)]

    @property
    def image_size(self) -> int:
        return max(view.image_size for view in self.views)

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Image:
        """uint8 (H, W, 3) -> uint8 (largest size, sum of sizes, 3), black below the smaller ones."""
        whole = np.zeros((self.image_size, sum(size for _, size in self.windows), 3), np.uint8)
        for view, (left, size) in zip(self.views, self.windows, strict=True):
            whole[:size, left : left + size] = view(image, rng)
        return whole


def training_view(
    kind: str, image_size: int, pictures: Pictures, noise: Noise, framing: Framing | None = None
) -> Augment | CenterView:
    """The view of one side: "randaugment", "standard" (crop and flip only), or "none" (clean)."""
    if kind == "none":
        return clean_view(image_size, pictures, framing)
    randaugment, strength = None, noise.randaugment
    if kind == "randaugment" and strength.num_ops:
        constants = small_image_constants(image_size) if pictures.small else {}
        randaugment = RandAugment(strength.num_ops, strength.magnitude, strength.variant, **constants)
    return Augment(
        image_size,
        crop="pad" if pictures.small else "random_resized",
        min_area=noise.min_area,
        flip=pictures.flip,
        turn=pictures.turn,
        randaugment=randaugment,
        # [C] cuts out as part of the strong pipeline only; crop and flip stay the standard ones
        cutout=pictures.cutout if randaugment else 0,
        pad=pictures.pad,
        resize=noise.crop_resize,
        sampler=noise.crop_sampler,
    )
