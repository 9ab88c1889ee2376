"""Linear filters and fields that corruptions and perturbations share: blurs, zoom, plasma clouds.

Source: what the generators of ImageNet-C use of scikit-image, SciPy and ImageMagick, worked out anew on OpenCV.
Images are in levels (0 .. 255) and float32, and become bytes by *truncation* (`as_bytes`), as in the benchmark;
rounding would make every corruption half a level brighter.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nst.data.operations import Image
from nst.robustness.draws import Draws

Field = NDArray[np.floating]

# float32 sums of weighted levels end a hair below the whole level that they should reach: a white sky would turn 254.
# Ten times as much makes smooth pictures brighter than the reference's; 2e-5 is too little for some of them.
_HAIR = np.float32(5e-5)
# ImageMagick works on 16 bits: it rounds there, and truncates to 8
_HALF_STEP_OF_16_BITS = np.float32(0.5 / 257)


def as_bytes(levels: NDArray[Any]) -> Image:
    """Float levels to bytes: clipped to 0 .. 255, fractions dropped. Overwrites `levels`."""
    np.clip(levels, 0, 255, out=levels)
    return levels.astype(np.uint8)


def sum_as_bytes(levels: NDArray[Any]) -> Image:
    """As `as_bytes`, for weighted sums of levels in float32, whose rounding errors it forgives."""
    levels += _HAIR
    return as_bytes(levels)


def grey_to_rgb(plane: Field) -> Field:
    """(H, W) -> (H, W, 3); arithmetic on whole images is far faster than broadcasting over three channels."""
    return np.asarray(cv2.cvtColor(plane, cv2.COLOR_GRAY2RGB))


# ---- Gaussian --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def gaussian_kernel(sigma: float, truncate: float = 4.0) -> NDArray[np.float64]:
    """Normalised weights (2 r + 1,), r = `truncate` sigma rounded; a single 1 where that is 0 (SciPy)."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    return weights / weights.sum()


def gaussian(field: Field, sigma: float, *, truncate: float = 4.0, border: int = cv2.BORDER_REPLICATE) -> Field:
    """Gaussian blur of (H, W) or (H, W, C), in the precision of `field`."""
    kernel = gaussian_kernel(sigma, truncate).astype(field.dtype)
    return np.asarray(cv2.sepFilter2D(field, -1, kernel, kernel, borderType=border))


def gaussian_reflected(field: Field, sigma: float, truncate: float) -> Field:
    """Gaussian blur of a plane (H, W) mirrored at its edges, for sigmas up to many times its size."""
    height, width = field.shape
    if len(gaussian_kernel(sigma, truncate)) <= 31:
        return gaussian(field, sigma, truncate=truncate, border=cv2.BORDER_REFLECT)
    rows, columns = _reflected_blur(height, sigma, truncate), _reflected_blur(width, sigma, truncate)
    return rows @ field.astype(np.float32) @ columns.T


@functools.lru_cache(maxsize=16)
def _reflected_blur(side: int, sigma: float, truncate: float) -> NDArray[np.float32]:
    """The blur of one axis as a matrix (side, side): wide kernels fold back on few pixels."""
    weights = gaussian_kernel(sigma, truncate)
    radius = len(weights) // 2
    reach = np.arange(side)[:, None] + np.arange(-radius, radius + 1)
    folded = reach % (2 * side)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], np.minimum(folded, 2 * side - 1 - folded)), weights)
    return matrix.astype(np.float32)


# ---- disk ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def disk_kernel(radius: float, edge: float) -> NDArray[np.float32]:
    """A disk with its edge smoothed by `edge` px, (17, 17) up to radius 8, else (2 r + 1, 2 r + 1)."""
    reach = 8 if radius <= 8 else int(radius)
    smooth = (3, 3) if radius <= 8 else (5, 5)
    offsets = np.arange(-reach, reach + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    return np.asarray(cv2.GaussianBlur(disk, smooth, sigmaX=edge), np.float32)


# ---- motion ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def motion_kernel(radius: float, sigma: float) -> NDArray[np.float64]:
    """Half a Gaussian (2 ceil(radius) + 1,), normalised: the trace of a moving camera (ImageMagick)."""
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def motion_blurred(image: Image, radius: float, sigma: float, degrees: float) -> Image:
    """Motion blur of (H, W) or (H, W, 3) bytes, edges replicated.

    Weight i reads the pixel i steps along the direction, rounded to whole pixels: a sum of shifted images.
    """
    weights = motion_kernel(radius, sigma)
    dx, dy = _motion_offsets(len(weights), degrees)
    left, top = max(0, -min(dx)), max(0, -min(dy))
    borders = (top, max(0, *dy), left, max(0, *dx))
    padded = cv2.copyMakeBorder(image, *borders, cv2.BORDER_REPLICATE).astype(np.float32)
    height, width = image.shape[:2]
    total = np.zeros(image.shape, np.float32)
    for weight, x, y in zip(weights.tolist(), dx, dy, strict=True):
        if weight > 1e-6:
            cv2.scaleAdd(padded[top + y : top + y + height, left + x : left + x + width], weight, total, total)
    total += _HALF_STEP_OF_16_BITS
    return as_bytes(total)


def _motion_offsets(count: int, degrees: float) -> tuple[list[int], list[int]]:
    """Columns and rows of the first `count` steps; ties are broken as ImageMagick's arithmetic breaks them."""
    across, along = count * math.sin(math.radians(degrees)), count * math.cos(math.radians(degrees))
    length = math.hypot(across, along)
    dx = [math.ceil(step * along / length - 0.5) for step in range(count)]
    dy = [math.ceil(step * across / length - 0.5) for step in range(count)]
    return dx, dy


# ---- zoom: the middle of the image, enlarged by a factor >= 1 to the image's size, bilinear -------------------


def zoomed(image: Field, factor: float) -> Field:
    """Zoom of (H, W, C) float32, to a few thousandths of a level."""
    height, width = image.shape[:2]
    rows, columns = _zoom(height, factor), _zoom(width, factor)
    matrix = np.array([[columns.step, 0, columns.start], [0, rows.step, rows.start]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def zoomed_plane(plane: Field, factor: float) -> Field:
    """Zoom of (H, W), exact: what follows may compare it with a threshold."""
    rows, columns = (_zoom_matrix(side, factor, plane.dtype.str) for side in plane.shape)
    (top, bottom), (left, right) = (_zoom(side, factor).crop for side in plane.shape)
    return rows @ plane[top:bottom, left:right] @ columns.T


class _Zoom(NamedTuple):
    crop: tuple[int, int]  # first pixel and the one after the last
    start: float  # position read by output pixel 0; pixel i reads start + i * step
    step: float


@functools.lru_cache(maxsize=256)
def _zoom(side: int, factor: float) -> _Zoom:
    """Positions along one axis: the crop's first and last pixel stay in place, superfluous pixels are trimmed."""
    length = math.ceil(side / factor)
    enlarged = round(length * factor)
    first, step = (side - length) // 2, (length - 1) / max(enlarged - 1, 1)
    return _Zoom((first, first + length), first + (enlarged - side) // 2 * step, step)


@functools.lru_cache(maxsize=64)
def _zoom_matrix(side: int, factor: float, dtype: str) -> Field:
    """Weights (side, crop) of one axis."""
    zoom = _zoom(side, factor)
    position = zoom.start - zoom.crop[0] + zoom.step * np.arange(side)
    pixels = np.arange(zoom.crop[1] - zoom.crop[0])
    return np.maximum(1 - np.abs(position[:, None] - pixels), 0).astype(dtype)


# ---- plasma ----------------------------------------------------------------------------------------------


def plasma(side: int, decay: float, draws: Draws) -> Field:
    """Clouds in [0, 1], (side, side) with `side` a power of two: diamond-square on a torus.

    Each round halves the grid, sets the new points to the mean of four neighbours plus a uniform offset, and
    divides the offsets' scale by `decay`.
    """
    step, scale = side, 100.0
    heights = np.zeros((side, side), np.float32)

    def offset_mean(total: Field) -> Field:
        return total / 4 + scale**2 * draws.uniform(total.shape)

    while step >= 2:
        half = step // 2
        corners, centres = heights[::step, ::step], heights[half::step, half::step]
        columns, rows = corners + _turned(corners, 1, axis=0), corners + _turned(corners, 1, axis=1)
        centres[...] = offset_mean(columns + _turned(columns, 1, axis=1))
        heights[::step, half::step] = offset_mean(rows + centres + _turned(centres, -1, axis=0))
        heights[half::step, ::step] = offset_mean(columns + centres + _turned(centres, -1, axis=1))
        step, scale = half, scale / decay
    heights -= heights.min()
    return heights / heights.max()


def _turned(grid: Field, by: int, axis: int) -> Field:
    """np.roll(grid, -by, axis), whose overhead is most of the time on grids this small."""
    parts = (grid[by:], grid[:by]) if axis == 0 else (grid[:, by:], grid[:, :by])
    return np.concatenate(parts, axis=axis)
