"""Digital corruptions: brightness, contrast, elastic, pixelate, JPEG, saturate. Bytes (H, W, 3) in and out.

Source: hendrycks/robustness (ImageNet-C, group "digital", and brightness of "weather"; saturate is an extra).
"""

from __future__ import annotations

import functools
import io

import cv2
import numpy as np
from PIL import Image as Pillow

from nst.data.operations import Image
from nst.robustness.draws import Draws
from nst.robustness.filters import Field, gaussian_reflected, sum_as_bytes
from nst.robustness.hsv import add_value, scale_saturation


def brightness(image: Image, _: Draws, offset: float) -> Image:
    """Value of HSV + offset."""
    return add_value(image, offset)


def saturate(image: Image, _: Draws, factor: float, offset: float) -> Image:
    """Saturation of HSV * factor + offset."""
    return scale_saturation(image, factor, offset)


def contrast(image: Image, _: Draws, scale: float) -> Image:
    """Every channel scaled about its mean over the image."""
    means = np.array(cv2.sumElems(image)[:3]) / (255 * image.shape[0] * image.shape[1])
    levels = np.arange(256)[:, None] / 255
    table = (np.clip((levels - means) * scale + means, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)


def elastic_transform(image: Image, draws: Draws, amplitude: float, smoothing: float, jitter: float) -> Image:
    """Three corners moved by up to `jitter` px, then every pixel by a smooth random field of `amplitude` px.

    The affine part is often left out elsewhere; at severities 1 and 2 it is most of the effect.
    """
    height, width = image.shape[:2]
    matrix = _jittered_corners(height, width, draws, jitter)
    moved = cv2.warpAffine(image.astype(np.float32), matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    if amplitude:
        x, y = _grid(height, width)
        dx, dy = (gaussian_reflected(draws.uniform((height, width)), smoothing, truncate=3.0) for _ in range(2))
        to_x, to_y = (np.asarray(base + amplitude * shift, np.float32) for base, shift in ((x, dx), (y, dy)))
        moved = cv2.remap(moved, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return sum_as_bytes(moved)


def _jittered_corners(height: int, width: int, draws: Draws, jitter: float) -> Field:
    centre, reach = np.array([width // 2, height // 2], np.float32), min(height, width) // 3
    corners = centre + np.array([[reach, reach], [reach, -reach], [-reach, -reach]], np.float32)
    moved = corners + (draws.uniform((3, 2)) * jitter).astype(np.float32)
    return np.asarray(cv2.getAffineTransform(corners, moved))


@functools.lru_cache(maxsize=8)
def _grid(height: int, width: int) -> tuple[Field, Field]:
    """Column and row of every pixel."""
    rows, columns = np.indices((height, width), np.float32)
    return columns, rows


def pixelate(image: Image, _: Draws, scale: float) -> Image:
    """Box-averaged down to `scale` and up again."""
    height, width = image.shape[:2]
    small = Pillow.fromarray(image).resize((int(width * scale), int(height * scale)), Pillow.Resampling.BOX)
    return np.array(small.resize((width, height), Pillow.Resampling.BOX))


def jpeg_compression(image: Image, _: Draws, quality: int) -> Image:
    """A round trip through JPEG (4:2:0) at `quality`.

    The released files were also written with optimised Huffman tables; those change the file, not the picture.
    """
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Pillow.open(buffer))
