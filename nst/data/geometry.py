"""RandAugment's operations that move pixels, with the rounding of the released code [C]; see nst/data/operations.py."""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nst.data.operations import FLOAT, GREY, MAX_TRANSLATION, Image


def translate_x(image: Image, pixels: float) -> Image:
    """Content moves left by `pixels`."""
    moved = _moved(image.shape[1], pixels)
    if moved is None:
        return _warp(image, (1, 0, pixels, 0, 1, 0))
    result = np.full_like(image, GREY, order="C")
    result[:, moved[0]] = image[:, moved[1]]
    return result


def translate_y(image: Image, pixels: float) -> Image:
    """Content moves up by `pixels`."""
    moved = _moved(image.shape[0], pixels)
    if moved is None:
        return _warp(image, (1, 0, 0, 0, 1, pixels))
    result = np.full_like(image, GREY, order="C")
    result[moved[0]] = image[moved[1]]
    return result


def translate_x_fixed(image: Image, pixels: float) -> Image:
    """As translate_x, by at most 3/4 of the width."""
    limit = MAX_TRANSLATION * image.shape[1]
    return translate_x(image, min(max(pixels, -limit), limit))


def translate_y_fixed(image: Image, pixels: float) -> Image:
    """As translate_y, by at most 3/4 of the height."""
    limit = MAX_TRANSLATION * image.shape[0]
    return translate_y(image, min(max(pixels, -limit), limit))


def shear_x(image: Image, slope: float) -> Image:
    """Row y moves left by `slope` * y; the pivot is the top-left pixel."""
    return _warp(image, (1, slope, 0, 0, 1, 0))


def shear_y(image: Image, slope: float) -> Image:
    """Column x moves up by `slope` * x; the pivot is the top-left pixel."""
    return _warp(image, (1, 0, 0, slope, 1, 0))


def rotate(image: Image, degrees: float) -> Image:
    """About the centre, counter-clockwise by `degrees`."""
    angle = FLOAT(degrees) * FLOAT(np.pi / 180)
    cos, sin = FLOAT(math.cos(angle)), FLOAT(math.sin(angle))  # NumPy's float32 ones are an ulp off at some angles
    right, bottom = FLOAT(image.shape[1] - 1), FLOAT(image.shape[0] - 1)
    x_offset = (right - (cos * right - sin * bottom)) / FLOAT(2)
    y_offset = (bottom - (sin * right + cos * bottom)) / FLOAT(2)
    return _warp(image, (cos, -sin, x_offset, sin, cos, y_offset))


def _warp(image: Image, matrix: tuple[float | np.float32, ...]) -> Image:
    positions = _positions(image.shape[0], image.shape[1], matrix)
    # OpenCV moves one 32-bit number twice as fast as three bytes
    pixels = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), np.uint8).view(np.int32)[..., 0]
    options: dict[str, Any] = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": _GREY_PIXEL}
    warped = np.asarray(cv2.remap(pixels, positions, _NO_FRACTIONS, cv2.INTER_NEAREST, **options), np.int32)
    return np.asarray(cv2.cvtColor(warped[..., None].view(np.uint8), cv2.COLOR_RGBA2RGB), np.uint8)


@functools.lru_cache(maxsize=64)
def _moved(length: int, pixels: float) -> tuple[slice, slice] | None:
    """Where a line of pixels lands that moves by `pixels`, and which of them stay inside; None if not in one piece."""
    source = _clipped(np.arange(length, dtype=FLOAT) + FLOAT(pixels), length)
    inside = np.flatnonzero((source >= 0) & (source < length))
    if not len(inside):
        return slice(0), slice(0)
    first, last = inside[0], inside[-1]
    if last - first + 1 != len(inside) or (np.diff(source[inside]) != 1).any():
        return None  # float32 rounded a fraction near one half both ways
    return slice(first, last + 1), slice(int(source[first]), int(source[last]) + 1)


# A run sees few sizes and magnitudes, so the positions of a warp are computed once: 5 operations x 2 signs.
@functools.lru_cache(maxsize=32)
def _positions(height: int, width: int, matrix: tuple[float | np.float32, ...]) -> NDArray[np.int16]:
    """Input column and row read by each output pixel, int16 (H, W, 2); -1 or the side's length: outside."""
    a, b, c, d, e, f = (FLOAT(entry) for entry in matrix)
    x = np.arange(width, dtype=FLOAT)[None, :]
    y = np.arange(height, dtype=FLOAT)[:, None]
    columns, rows = _clipped(a * x + b * y + c, width), _clipped(d * x + e * y + f, height)
    return np.stack([columns, rows], axis=-1).astype(np.int16)


def _clipped(positions: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Whole positions; -1 or `length`: outside."""
    return np.clip(_round_half_away(positions), -1, length)


def _round_half_away(values: NDArray[np.float32]) -> NDArray[np.float32]:
    whole = np.trunc(values)
    return whole + np.where(np.abs(values - whole) >= FLOAT(0.5), np.sign(values), FLOAT(0))


_NO_FRACTIONS = np.empty(0, np.uint16)  # remap's second map: whole pixel positions have none


_GREY_PIXEL = float(np.array([GREY, GREY, GREY, 255], np.uint8).view(np.int32)[0])
