"""Digital corruptions: brightness, contrast, elastic, pixelate, JPEG, saturate. Bytes (H, W, 3) in and out.

Source: hendrycks/robustness (ImageNet-C, group "digital", and brightness of "weather"; saturate is an extra).

Brightness and saturation are those of HSV, without going there: both move each channel along a line known beforehand.
With M and m the largest and smallest channel of a pixel, HSV has V = M, S = (M - m) / M, and every channel is M minus a
share of M - m that only the hue decides. So a new V scales the pixel, a new S scales the distances from M, and hue is
never computed. As in scikit-image, grey has hue 0: what gains saturation turns *red*.
"""

from __future__ import annotations

import functools
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from nst.data.operations import Image
from nst.robustness.draws import Draws
from nst.robustness.filters import Field, gaussian_reflected, sum_as_bytes


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


# ---- brightness and saturation -------------------------------------------------------------------------------------

_LEVELS = np.arange(256) / 255
_VALUE = _LEVELS[:, None]
# by (largest, smallest channel); 0 for black
_SATURATION = np.divide(_VALUE - _LEVELS, _VALUE, out=np.zeros((256, 256)), where=_VALUE > 0)


def brightness(image: Image, _: Draws, offset: float) -> Image:
    """Value of HSV + offset, clipped to [0, 1]."""
    largest = cv2.max(cv2.max(image[..., 0], image[..., 1]), image[..., 2])
    rows = np.asarray(cv2.cvtColor(largest, cv2.COLOR_GRAY2RGB), np.uint16) << 8
    return _value_table(offset).take(rows | image)


@functools.lru_cache(maxsize=64)
def _value_table(offset: float) -> Image:
    """New level by (largest channel, level), flat."""
    # a level lies below the largest by the saturation that the pixel would have, were it the smallest
    share = 1 - np.clip(_SATURATION, 0, 1)
    return (np.clip(_VALUE + offset, 0, 1) * share * 255).astype(np.uint8).ravel()


def saturate(image: Image, _: Draws, factor: float, offset: float) -> Image:
    """Saturation of HSV * factor + offset, clipped to [0, 1]."""
    planes = cv2.split(image)
    largest = cv2.max(cv2.max(planes[0], planes[1]), planes[2])
    smallest = cv2.min(cv2.min(planes[0], planes[1]), planes[2])
    grey = largest == smallest
    chroma = np.where(grey, 1, largest - smallest).astype(np.float64)
    rows = np.asarray(largest, np.uint16) << 8
    saturation = _saturation_table(factor, offset).take(rows | np.asarray(smallest))
    changed = []
    for channel, plane in enumerate(planes):
        share = (largest - plane) / chroma
        if channel > 0:
            share[grey] = 1
        changed.append((_LEVELS[largest] * (1 - share * saturation) * 255).astype(np.uint8))
    return np.asarray(cv2.merge(changed), np.uint8)


@functools.lru_cache(maxsize=64)
def _saturation_table(factor: float, offset: float) -> NDArray[np.float64]:
    """New saturation by (largest, smallest channel), flat."""
    return np.clip(_SATURATION * factor + offset, 0, 1).ravel()
