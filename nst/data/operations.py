"""The 16 operations of RandAugment as pixel arithmetic: (image, argument) -> image, uint8 (H, W, 3).

Paper section 3.1. Which argument belongs to a magnitude, and which operations a variant uses, is decided in
randaugment.py. Every rounding is that of the released code [C] (float32 steps, truncation instead of rounding,
geometry's halves away from zero), so its outputs come out bit for bit. Where [C] does something that was not intended,
there is a second function, `*_fixed`, with the same rounding. What [C] computes per pixel is a table here, and
geometry moves whole RGBX pixels: the same bits in less time.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nst.errors import NstError

Image = NDArray[np.uint8]

GREY = 128  # what geometry and cutout leave behind
MAX_TRANSLATION = 0.75  # of the side, the `*_fixed` operations only
FLOAT = np.float32
_VALUES: Image = np.arange(256, dtype=np.uint8)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], FLOAT) / FLOAT(13)


def require_rgb(image: Image) -> None:
    """Raises NstError unless `image` is a non-empty uint8 (H, W, 3) array."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise NstError(
            "views take RGB images",
            got=f"{image.dtype} of shape {image.shape}",
            valid="uint8 of shape (height, width, 3), not empty",
        )


# ---- levels and colours --------------------------------------------------------------------------------


def autocontrast(image: Image, _: float) -> Image:
    """Each channel stretched to 0..255 by itself; one of a single level stays as it is."""
    planes = cv2.split(image)
    return _merged([cv2.LUT(plane, _stretch(*cv2.minMaxLoc(plane)[:2])) for plane in planes])


def _stretch(lowest: float, highest: float) -> Image:
    """Table (256,) that takes the levels `lowest` to `highest` to 0..255."""
    low, high = FLOAT(lowest), FLOAT(highest)
    if low == high:
        return _VALUES
    scale = FLOAT(255) / (high - low)
    # product and sum in double, rounded once: [C] ran with a fused multiply-add
    stretched = FLOAT(_VALUES * np.float64(scale) + np.float64(-low * scale))
    return np.asarray(np.clip(stretched, 0, 255), np.uint8)


def equalize(image: Image, _: float) -> Image:
    """Each channel's histogram made flat by itself; one of a single level stays as it is."""
    planes = cv2.split(image)
    return _merged([cv2.LUT(plane, _flatten(plane)) for plane in planes])


def _flatten(plane: Any) -> Image:
    """Table (256,) that makes the histogram of a plane (H, W) flat."""
    histogram = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    last = histogram[np.flatnonzero(histogram)[-1]]
    step = (int(histogram.sum()) - int(last)) // 255
    if step == 0:
        return _VALUES
    below = np.cumsum(histogram) - histogram  # pixels darker than each level
    table = np.minimum((below + step // 2) // step, 255)
    table[0] = 0
    return table.astype(np.uint8)


def _merged(planes: list[Any]) -> Image:
    return np.asarray(cv2.merge(planes), np.uint8)


def _lut(image: Image, table: NDArray[np.integer]) -> Image:
    return np.asarray(cv2.LUT(image, table), np.uint8)


def invert(image: Image, _: float) -> Image:
    """255 - v."""
    return np.asarray(cv2.bitwise_not(image), np.uint8)


def solarize_add(image: Image, addition: float) -> Image:
    """`addition` to levels below 128, clipped at 255; brighter ones stay."""
    added = cv2.threshold(image, 127, int(addition), cv2.THRESH_BINARY_INV)[1]
    return np.asarray(cv2.add(image, added), np.uint8)


def posterize_official(image: Image, bits: float) -> Image:
    """Keeps the upper `bits` bits, with the wrap-around of [C]."""
    # the shift is an 8-bit number in [C]: 9 bits give a shift of -1, i.e. 255, which is clamped to 7
    return _posterize(image, min((8 - int(bits)) % 256, 7))


def posterize_fixed(image: Image, bits: float) -> Image:
    """Keeps the upper `bits` bits, clamped to 1..8."""
    return _posterize(image, 8 - min(max(int(bits), 1), 8))


def _posterize(image: Image, shift: int) -> Image:
    return np.bitwise_and(image, np.uint8(0xFF >> shift << shift))


def solarize_official(image: Image, threshold: float) -> Image:
    """Inverts levels from `threshold` modulo 256 on."""
    return _solarize(image, int(threshold) % 256)  # compared as an 8-bit number in [C]


def solarize_fixed(image: Image, threshold: float) -> Image:
    """Inverts levels from `threshold`, at most 255, on."""
    return _solarize(image, min(int(threshold), 255))


def _solarize(image: Image, threshold: int) -> Image:
    inverted = cv2.threshold(image, threshold - 1, 255, cv2.THRESH_BINARY)[1]  # 255 where v >= threshold
    return np.asarray(cv2.bitwise_xor(image, inverted), np.uint8)


def _blend(origin: Image, image: Image, factor: float) -> Image:
    """origin + factor * (image - origin), clipped, **truncated**, every step rounded to float32 as in [C]."""
    mixed = np.subtract(image, origin, dtype=FLOAT)
    mixed *= FLOAT(factor)
    mixed += origin
    np.maximum(mixed, 0, out=mixed)
    np.minimum(mixed, 255, out=mixed)
    return mixed.astype(np.uint8)


def _blend_pictures(origin: Image, image: Image, factor: float) -> Image:
    """`_blend` of two pictures of one shape, from a table of all pairs of levels."""
    pairs = np.asarray(cv2.merge([image.reshape(-1), origin.reshape(-1)]), np.uint8).view(np.uint16)
    return np.asarray(cv2.LUT(pairs, _pair_table(factor)), np.uint8).reshape(image.shape)


# A run's magnitude is one factor, for Color and Sharpness alike; 64 KiB each.
@functools.lru_cache(maxsize=16)
def _pair_table(factor: float) -> Image:
    """`_blend` of every (image level, origin level), in the order of the two bytes read as one number (65536,)."""
    pairs = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return _blend(pairs[:, 1], pairs[:, 0], factor)


def _grey(image: Image) -> Image:
    """Luminance (H, W) as [C] computes it: float32 on values / 255, times 255.5, truncated."""
    red, green, blue = (plane * FLOAT(1 / 255) for plane in cv2.split(image))
    red *= FLOAT(0.2989)
    green *= FLOAT(0.587)
    blue *= FLOAT(0.114)
    red += green
    red += blue
    red *= FLOAT(255.5)
    return red.astype(np.uint8)


def color(image: Image, factor: float) -> Image:
    """Saturation: blend from the grey image."""
    if factor == 1.0:
        return image
    return _blend_pictures(_merged([_grey(image)] * 3), image, factor)


def contrast_official(image: Image, factor: float) -> Image:
    """Blend from a level that only the picture's size decides, as in [C]."""
    # [C] divides the histogram's pixel count, not its weighted sum, by 256
    pivot = min(image.shape[0] * image.shape[1] // 256, 255)
    return _lut(image, _blend(np.full(256, pivot, np.uint8), _VALUES, factor))


def contrast_fixed(image: Image, factor: float) -> Image:
    """Blend from the mean grey."""
    pivot = int(cv2.mean(_grey(image))[0] + 0.5)
    return _lut(image, _blend(np.full(256, pivot, np.uint8), _VALUES, factor))


def brightness(image: Image, factor: float) -> Image:
    """Blend from black."""
    return _lut(image, _blend(np.zeros(256, np.uint8), _VALUES, factor))


def sharpness(image: Image, factor: float) -> Image:
    """Blend from the smoothed image."""
    if factor == 1.0:
        return image
    smooth = image.copy()  # the one-pixel border stays as it is
    smooth[1:-1, 1:-1] = cv2.filter2D(image, cv2.CV_32F, _SMOOTH)[1:-1, 1:-1]  # assigning truncates
    return _blend_pictures(smooth, image, factor)


# ---- cutout --------------------------------------------------------------------------------------------


def cutout(image: Image, rng: np.random.Generator, half_width: int) -> Image:
    """Copy of `image` (H, W, 3) with a square of 2 * `half_width` px filled, centre uniform over pixels."""
    height, width = image.shape[:2]
    return cutout_at(image, int(rng.integers(height)), int(rng.integers(width)), half_width)


def cutout_at(image: Image, row: int, column: int, half_width: int) -> Image:
    """Copy of `image` (H, W, 3), rows row - p .. row + p - 1 and like columns filled, p = `half_width`."""
    image = image.copy()
    rows = slice(max(0, row - half_width), max(0, row + half_width))
    image[rows, max(0, column - half_width) : max(0, column + half_width)] = GREY
    return image


def cutout_centre(image: Image, half_width: float) -> Image:
    """Cutout in the middle of the picture."""
    return cutout_at(image, image.shape[0] // 2, image.shape[1] // 2, int(half_width))
