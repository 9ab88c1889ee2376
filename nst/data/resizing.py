"""Resizing to squares: fast, antialiased, bilinear, and as the released code [C] does it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from nst.data.operations import Image


def resize_fast(image: Image, size: int) -> Image:
    """OpenCV's bicubic to (size, size, 3), after area-averaging what shrinks more than twofold.

    Like [C] it does not antialias below a factor of two, where aliasing is slight and a random crop hides it.
    """
    height, width = image.shape[:2]
    if height >= 2 * size or width >= 2 * size:
        reduced = width // max(1, width // size), height // max(1, height // size)
        image = np.asarray(cv2.resize(image, reduced, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def resize_antialias(image: Image, size: int, how: Pillow.Resampling = Pillow.Resampling.BICUBIC) -> Image:
    """By Pillow, which widens its kernel when it shrinks, to (size, size, 3)."""
    return np.array(Pillow.fromarray(np.ascontiguousarray(image)).resize((size, size), how))


def resize_official(image: Image, size: int) -> Image:
    """[C]'s bicubic to (size, size, 3), clipped and truncated as [C] does before RandAugment."""
    return np.clip(official_bicubic(image, size), 0, 255).astype(np.uint8)


def official_bicubic(image: Image, size: int) -> NDArray[np.float32]:
    """TensorFlow 1's bicubic: uint8 (H, W, 3) -> float32 (size, size, 3), not clipped.

    Coefficient -0.75, source position = index * scale (no half-pixel shift), fraction rounded to 1/1024, border
    replicated, no antialiasing.
    """
    across = _interpolate(np.moveaxis(image.astype(np.float32), 1, 0), size)
    return _interpolate(np.moveaxis(across, 1, 0), size)


def _interpolate(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Cubic interpolation of `values` (N, ...) along the first axis to (size, ...)."""
    length = len(values)
    position = np.arange(size, dtype=np.float32) * np.float32(length / size)
    whole = np.floor(position).astype(np.int64)
    fraction = np.rint((position - whole) * 1024) / 1024
    result = np.zeros((size, *values.shape[1:]), np.float32)
    for tap in (-1, 0, 1, 2):
        weight = _cubic_kernel(np.abs(fraction - tap)).astype(np.float32)
        result += weight[:, None, None] * values[np.clip(whole + tap, 0, length - 1)]
    return result


def _cubic_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)
