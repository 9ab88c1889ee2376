"""Noise corruptions: Gaussian, shot, impulse, speckle. (image, draws, strength) -> image, bytes (H, W, 3).

Source: hendrycks/robustness (ImageNet-C, group "noise"; speckle is an extra).
"""

from __future__ import annotations

import numpy as np

from nst.data.operations import Image
from nst.robustness.draws import Draws
from nst.robustness.filters import as_bytes


def gaussian_noise(image: Image, draws: Draws, sigma: float) -> Image:
    """x + N(0, sigma), with x in [0, 1]."""
    noise = draws.normal(image.shape)
    noise *= 255 * sigma
    noise += image
    return as_bytes(noise)


def shot_noise(image: Image, draws: Draws, photons: float) -> Image:
    """Poisson(x * photons) / photons: the fewer photons at white, the coarser."""
    counts = draws.poisson(image, photons)
    values = np.minimum(np.arange(int(counts.max()) + 1) / photons, 1) * 255
    return values.astype(np.uint8).take(counts)


def impulse_noise(image: Image, draws: Draws, fraction: float) -> Image:
    """A `fraction` of the values, each channel by itself, becomes 0 or 255 with even odds."""
    impulses = draws.impulses(image.shape, fraction)
    return np.where(impulses == 0, image, (impulses > 0).view(np.uint8) * np.uint8(255))


def speckle_noise(image: Image, draws: Draws, sigma: float) -> Image:
    """x + x N(0, sigma)."""
    noise = draws.normal(image.shape)
    noise *= sigma
    noise += 1
    noise *= image
    return as_bytes(noise)
