"""Brightness and saturation in HSV, without going there: both move each channel along a line known beforehand.

With M and m the largest and smallest channel of a pixel, HSV has V = M, S = (M - m) / M, and every channel is M minus a
share of M - m that only the hue decides. So a new V scales the pixel, a new S scales the distances from M, and hue is
never computed. As in scikit-image, grey has hue 0: what gains saturation turns *red*.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from nst.data.operations import Image

_LEVELS = np.arange(256) / 255
_VALUE = _LEVELS[:, None]
# by (largest, smallest channel); 0 for black
_SATURATION = np.divide(_VALUE - _LEVELS, _VALUE, out=np.zeros((256, 256)), where=_VALUE > 0)


def add_value(image: Image, offset: float) -> Image:
    """V + offset, clipped to [0, 1]; bytes (H, W, 3)."""
    largest = cv2.max(cv2.max(image[..., 0], image[..., 1]), image[..., 2])
    rows = np.asarray(cv2.cvtColor(largest, cv2.COLOR_GRAY2RGB), np.uint16) << 8
    return _value_table(offset).take(rows | image)


@functools.lru_cache(maxsize=64)
def _value_table(offset: float) -> Image:
    """New level by (largest channel, level), flat."""
    # a level lies below the largest by the saturation that the pixel would have, were it the smallest
    share = 1 - np.clip(_SATURATION, 0, 1)
    return (np.clip(_VALUE + offset, 0, 1) * share * 255).astype(np.uint8).ravel()


def scale_saturation(image: Image, factor: float, offset: float) -> Image:
    """S * factor + offset, clipped to [0, 1]; bytes (H, W, 3)."""
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
