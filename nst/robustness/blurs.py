"""Blur corruptions: defocus, glass, motion, zoom, Gaussian. (image, draws, strengths) -> image, bytes (H, W, 3).

Source: hendrycks/robustness (ImageNet-C, group "blur"; Gaussian is an extra).
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from nst.data.operations import Image
from nst.robustness.draws import Draws
from nst.robustness.filters import as_bytes, disk_kernel, gaussian, motion_blurred, sum_as_bytes, zoomed


def defocus_blur(image: Image, _: Draws, radius: float, edge: float) -> Image:
    """The mean over a disk."""
    # in double precision, as the reference: its kernels do not sum to one exactly, which decides flat regions
    return as_bytes(cv2.filter2D(image / 255, -1, disk_kernel(radius, edge)) * 255)


def gaussian_blur(image: Image, _: Draws, sigma: float) -> Image:
    """Gaussian blur, edges replicated."""
    return sum_as_bytes(gaussian(image.astype(np.float32), sigma))


def motion_blur(image: Image, draws: Draws, radius: float, sigma: float) -> Image:
    """Motion blur in a direction drawn from -45 .. 45 degrees."""
    return motion_blurred(image, radius, sigma, draws.angle(-45, 45))


def zoom_blur(image: Image, _: Draws, stop: float, step: float) -> Image:
    """The mean over zooms 1, 1 + step, ... < stop, with the image itself counted once more."""
    factors = np.arange(1, stop, step)  # of floats: 1.11 by 0.01 includes 1.11, as in the reference
    clean = image.astype(np.float32)
    total = clean * 2
    for factor in factors[1:]:
        total += zoomed(clean, float(factor))
    total /= len(factors) + 1
    return sum_as_bytes(total)


def glass_blur(image: Image, draws: Draws, sigma: float, reach: int, rounds: int) -> Image:
    """Blurred, shuffled over distances of up to `reach` px in so many rounds, and blurred again."""
    shuffled = as_bytes(gaussian(image / 255, sigma) * 255)
    for _ in range(rounds):
        shuffled = shuffle(shuffled, draws, reach)
    return as_bytes(gaussian(shuffled / 255, sigma) * 255)


def shuffle(image: Image, draws: Draws, reach: int) -> Image:
    """Each pixel, from the last to the first, becomes a copy of a neighbour at a random shift.

    The reference means to swap the two, but on NumPy views `a, b = b, a` copies b to a and leaves b. As it works
    in place, a neighbour that was visited before has its new value: the copy is a copy of a copy. So we follow
    every pixel to the end of its chain, and copy all of them at once.
    """
    height, width = image.shape[:2]
    visited = _scan(height, width, reach)
    dx, dy = draws.shifts(len(visited), reach).T
    source = np.arange(height * width)
    source[visited] += dy.astype(np.int64) * width + dx
    copies_new = source > np.arange(height * width)  # else: the neighbour's value before the round
    following = np.flatnonzero(copies_new)
    while len(following):
        neighbour = source[following]
        source[following], copies_new[following] = source[neighbour], copies_new[neighbour]
        following = following[copies_new[following]]
    return image.reshape(-1, 3).take(source, axis=0).reshape(image.shape)


@functools.lru_cache(maxsize=64)
def _scan(height: int, width: int, reach: int) -> NDArray[np.int64]:
    """Indices of the pixels that change, in the order in which they do."""
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    return (rows[:, None] * width + columns).ravel()
