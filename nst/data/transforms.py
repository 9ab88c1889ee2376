"""Image-level views: uint8 (H, W, 3) of any size in, uint8 (size, size, 3) out.

Paper section 3.1 (student: random-resized crop, flip, RandAugment) and 2 (the teacher labels clean images).

    Augment     what a student learns from        CenterView  what is evaluated, and what the teacher labels

The released code [C] resizes by TensorFlow 1's bicubic, which neither antialiases nor aligns pixel centres. Models
trained elsewhere do not expect that, so it is the named choice `official`, and the default is ordinary bicubic; both
see the same crop box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from PIL import Image as Pillow

from nst.data.operations import Image, cutout, require_rgb
from nst.data.randaugment import RandAugment
from nst.data.resizing import official_bicubic, resize_antialias, resize_fast, resize_official
from nst.errors import NstError

CROP_PADDING = 32  # evaluation keeps size / (size + 32) of the short side
CROP_TRIES = 10
ASPECT = (3 / 4, 4 / 3)  # of random crops, width / height
OFFICIAL_MIN_COVERED = 0.1  # [C] asks for crops of 8 %, but also that they cover a tenth of the picture
Box = tuple[int, int, int, int]  # top, left, height, width


# ---- resizing --------------------------------------------------------------------------------------------


RESIZE: dict[str, Callable[[Image, int], Image]] = {
    "fast": resize_fast,
    "antialias": resize_antialias,
    "official": resize_official,
    "bilinear": partial(resize_antialias, how=Pillow.Resampling.BILINEAR),  # of networks trained elsewhere
}


# ---- crop boxes ------------------------------------------------------------------------------------------


def center_crop_box(height: int, width: int, image_size: int) -> Box:
    """Evaluation: a centred square of image_size / (image_size + 32) of the short side, truncated [C]."""
    side = max(1, min(height, width) * image_size // (image_size + CROP_PADDING))
    return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def random_crop_box(
    height: int, width: int, rng: np.random.Generator, min_area: float = 0.08, *, sampler: str = "torchvision"
) -> Box:
    """A random box of at least `min_area` of the picture, width / height within ASPECT.

    Ten tries, then the largest centred box of a permitted aspect. `torchvision` draws the area uniformly and
    the aspect log-uniformly; `official` [C] draws the aspect, then the height, uniformly; nothing below 10 %.
    """
    for _ in range(CROP_TRIES):
        box_height, box_width = SAMPLERS[sampler](height, width, rng, min_area)
        if 0 < box_height <= height and 0 < box_width <= width:
            # [C] draws from height - box_height positions, not one more: it misses the last one
            last = 1 if sampler == "torchvision" else 0
            top = int(rng.integers(max(1, height - box_height + last)))
            left = int(rng.integers(max(1, width - box_width + last)))
            return top, left, box_height, box_width
    box_height = max(1, min(height, round(width / ASPECT[0])))
    box_width = max(1, min(width, round(height * ASPECT[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _torchvision_size(height: int, width: int, rng: np.random.Generator, min_area: float) -> tuple[int, int]:
    # the bits of rng.uniform, in a tenth of its time
    area = height * width * (min_area + (1.0 - min_area) * rng.random())
    lowest = math.log(ASPECT[0])
    ratio = math.exp(lowest + (math.log(ASPECT[1]) - lowest) * rng.random())
    return round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))


def _official_size(height: int, width: int, rng: np.random.Generator, min_area: float) -> tuple[int, int]:
    """One try of TensorFlow's distorted-bounding-box sampler; (0, 0) when the box is refused."""
    ratio = rng.uniform(*ASPECT)
    total = height * width
    lowest = round(math.sqrt(min_area * total / ratio))
    highest = min(height, round(math.sqrt(total / ratio)), math.ceil((width + 0.5) / ratio) - 1)
    box_height = highest if lowest >= highest else lowest + int(rng.integers(highest - lowest + 1))
    box_width = round(box_height * ratio)
    if box_height * box_width < min_area * total:  # rounding may fall just below: one row more
        box_height += 1
        box_width = round(box_height * ratio)
    covered = box_height * box_width / total
    if covered < max(min_area, OFFICIAL_MIN_COVERED) or covered > 1:
        return 0, 0
    return box_height, box_width


SAMPLERS: dict[str, Callable[[int, int, np.random.Generator, float], tuple[int, int]]] = {
    "torchvision": _torchvision_size,
    "official": _official_size,
}


# ---- views -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augment:
    """A student's noisy view.

    `random_resized` (ImageNet): crop and resize, flip, RandAugment. `pad` (small images, [C]): whole image
    resized if its size differs, RandAugment, fixed cutout, random crop out of the reflect-padded image, flip.
    `none`: as `pad`, without the crop.

    Args:
        min_area: smallest random-resized crop, fraction of the picture.
        flip: mirror half of the images; False for digits.
        turn: turn each by 0 to 3 quarters, drawn uniformly.
        cutout: full width in pixels of the fixed cutout of small images (16 of 32 in [C]), 0 is off.
        pad: reflected pixels per side.
        resize, sampler: of `random_resized` alone; `official` for each is [C]'s.

    Raises:
        NstError: `pad` reaches beyond the picture.
    """

    image_size: int
    crop: str = "random_resized"
    min_area: float = 0.08
    flip: bool = True
    turn: bool = False
    randaugment: RandAugment | None = None
    cutout: int = 0
    pad: int = 4
    resize: str = "fast"
    sampler: str = "torchvision"

    def __post_init__(self) -> None:
        if self.crop == "pad" and not 0 <= self.pad < self.image_size:
            raise NstError("pad is in pixels of the view", got=self.pad, valid=f"0 to {self.image_size - 1}")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """uint8 (H, W, 3) -> uint8 (image_size, image_size, 3), a function of `image` and `rng` alone."""
        require_rgb(image)
        return self._imagenet(image, rng) if self.crop == "random_resized" else self._small(image, rng)

    def _imagenet(self, image: Image, rng: np.random.Generator) -> Image:
        height, width = image.shape[:2]
        box = random_crop_box(height, width, rng, self.min_area, sampler=self.sampler)
        image = _resized(_cropped(image, box), self.image_size, self.resize)
        image = self._flipped_and_turned(image, rng)
        return self._colour_and_cut(image, rng)

    def _small(self, image: Image, rng: np.random.Generator) -> Image:
        image = _resized(image, self.image_size, "antialias")  # as CenterView: both see the same pixels
        image = self._colour_and_cut(image, rng)
        if self.crop == "pad":
            image = reflect_pad_crop(image, rng, self.pad)
        return self._flipped_and_turned(image, rng)

    def _colour_and_cut(self, image: Image, rng: np.random.Generator) -> Image:
        if self.randaugment is not None:
            image = self.randaugment(image, rng)
        return cutout(image, rng, self.cutout // 2) if self.cutout else image

    def _flipped_and_turned(self, image: Image, rng: np.random.Generator) -> Image:
        if self.flip and rng.random() < 0.5:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
        return np.ascontiguousarray(np.rot90(image, int(rng.integers(4)))) if self.turn else image


@dataclass(frozen=True)
class CenterView:
    """The clean view of evaluation and of the labeling teacher: centre crop and bicubic resize, not random.

    Args:
        crop: `center` (ImageNet), or `none` (small images): all of it, resized only if its size differs. `squash`
            keeps the picture's shape, which resizing then changes: of networks trained elsewhere.
        resize: `antialias` (Pillow), `fast` (OpenCV), `bilinear`, or `official` [C]: clipped and rounded to bytes
            here, where [C] feeds unclipped floats.
        kept: share of the side that a crop keeps; None is the paper's, image_size / (image_size + 32).
    """

    image_size: int
    crop: str = "center"
    resize: str = "antialias"
    kept: float | None = None

    def __post_init__(self) -> None:
        if self.image_size < 1:  # as a file of weights from elsewhere may say
            raise NstError("image_size must be at least 1 pixel", got=self.image_size)

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Image:
        """uint8 (H, W, 3) -> uint8 (image_size, image_size, 3); `rng` is not used, only accepted."""
        require_rgb(image)
        if self.crop != "none":
            image = self._cropped(image)
        if self.resize == "official" and image.shape[:2] != (self.image_size, self.image_size):
            return np.rint(np.clip(official_bicubic(image, self.image_size), 0, 255)).astype(np.uint8)
        return _resized(image, self.image_size, self.resize)

    def _cropped(self, image: Image) -> Image:
        height, width = image.shape[:2]
        if self.crop == "center" and self.kept is None:
            return _cropped(image, center_crop_box(height, width, self.image_size))
        kept = self.image_size / (self.image_size + CROP_PADDING) if self.kept is None else self.kept
        sides = (height, width) if self.crop == "squash" else (min(height, width),) * 2
        down, across = (max(1, round(side * kept)) for side in sides)
        return _cropped(image, ((height - down) // 2, (width - across) // 2, down, across))


def reflect_pad_crop(image: Image, rng: np.random.Generator, pad: int) -> Image:
    """Random crop of the image's own size, out of `image` (H, W, 3) with `pad` mirrored pixels per side."""
    height, width = image.shape[:2]
    top, left = int(rng.integers(2 * pad + 1)), int(rng.integers(2 * pad + 1))
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def _cropped(image: Image, box: Box) -> Image:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def _resized(image: Image, size: int, how: str) -> Image:
    if image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    return RESIZE[how](image, size)
