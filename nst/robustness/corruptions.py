"""The corruptions of ImageNet-C made on the fly: 15 of the benchmark and 4 extras, each at severity 1 to 5.

Paper section 4.1, table 4. Source: hendrycks/robustness, whose semantics are followed where names suggest others:
glass blur copies instead of swapping, motion blur is ImageMagick's one-sided one, elastic moves three corners
first, zoom counts the image twice, bytes are truncated.

Results from here are *not* ImageNet-C. The released files were drawn from unknown seeds, with other frost, and saved as
JPEG at quality 85, which takes a quarter off the noise (`jpeg_quality`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nst.data.operations import Image
from nst.data.stream import generator
from nst.errors import NstError
from nst.robustness import blurs, digital, noises, weather
from nst.robustness.baselines import CORRUPTIONS, EXTRA_CORRUPTIONS
from nst.robustness.draws import Draws
from nst.robustness.frost import SCALES, Textures
from nst.robustness.severities import SEVERITIES, levels, table_side

NAMES = CORRUPTIONS + EXTRA_CORRUPTIONS
MIN_SIDE = 8  # px; the shuffles, crops and corners of smaller images are degenerate

_FUNCTIONS: dict[str, Callable[..., Image]] = {
    "gaussian_noise": noises.gaussian_noise,
    "shot_noise": noises.shot_noise,
    "impulse_noise": noises.impulse_noise,
    "defocus_blur": blurs.defocus_blur,
    "glass_blur": blurs.glass_blur,
    "motion_blur": blurs.motion_blur,
    "zoom_blur": blurs.zoom_blur,
    "snow": weather.snow,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noises.speckle_noise,
    "gaussian_blur": blurs.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}


class Corruptions:
    """Every corruption, for images of one size.

    Args:
        side: of the images, 8 px or more; their severities come from the table of the nearest benchmark (`table`).
        frost_folder: of frost photographs (see `nst.robustness.frost`); None: procedural ones.
        jpeg_quality: of a last round trip through JPEG; 85 at 224 and 299 px as in the released files, None: none.

    Attributes:
        table: side of the severity table in use: 32, 64, 224 or 299.
        frost_source: "procedural", or name and hash of the folder's textures.

    Raises:
        NstError: a folder without textures.
    """

    def __init__(self, side: int, *, frost_folder: Path | str | None = None, jpeg_quality: int | None = None) -> None:
        self.table, self.jpeg_quality = table_side(side), jpeg_quality
        self._textures = Textures(frost_folder, scale=SCALES[self.table])
        self._functions = _FUNCTIONS | {"frost": functools.partial(weather.frost, self._textures)}

    @property
    def frost_source(self) -> str:
        return self._textures.source

    def __call__(self, image: Image, name: str, severity: int, rng: np.random.Generator | Draws) -> Image:
        """The corrupted image, (H, W, 3) bytes in and out, by its arguments alone; H and W are free from 8 px on.

        Raises:
            NstError: no such severity, or not an RGB image of bytes.
        """
        if severity not in SEVERITIES:
            raise NstError(f"{name} has no such severity", got=severity, valid="1 (weakest) to 5")
        require_picture(image)
        draws = rng if isinstance(rng, Draws) else Draws(rng)
        parameters = levels(name, self.table)[severity - 1]
        corrupted = self._functions[name](np.ascontiguousarray(image), draws, *parameters)
        if self.jpeg_quality is not None:
            corrupted = digital.jpeg_compression(corrupted, draws, self.jpeg_quality)
        return corrupted


def corruption_generator(seed: int, name: str, severity: int, key: str) -> np.random.Generator:
    """The generator of one corrupted image: no order, worker or batch size can change what it draws."""
    return generator("corruption", int(seed), name, int(severity), str(key))


def require_picture(image: Image) -> None:
    """Raises NstError unless `image` is uint8 (H, W, 3) with sides of MIN_SIDE or more."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MIN_SIDE:
        raise NstError(
            "images must be RGB bytes",
            got=f"{image.dtype} of shape {image.shape}",
            valid=f"uint8 of shape (height, width, 3), sides of {MIN_SIDE} px or more",
        )
