"""Weather corruptions: snow, frost, fog, spatter. (image, draws, strengths) -> image, bytes (H, W, 3).

Source: hendrycks/robustness (ImageNet-C, group "weather", whose fourth, brightness, is in digital.py; spatter
is an extra).
"""

from __future__ import annotations

import cv2
import numpy as np

from nst.data.operations import Image
from nst.robustness.draws import Draws
from nst.robustness.filters import (
    Field,
    as_bytes,
    gaussian,
    grey_to_rgb,
    motion_blurred,
    plasma,
    sum_as_bytes,
    zoomed_plane,
)
from nst.robustness.frost import Textures

WATER = (175, 238, 238)  # pale turquoise
MUD = (63, 42, 20)
_DROP_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


# ---- snow ------------------------------------------------------------------------------------------------


def snow(
    image: Image, draws: Draws, mean: float, deviation: float, zoom: float, threshold: float, radius: float,
    sigma: float, share: float,
) -> Image:  # fmt: skip
    """Flakes blown in one direction, and their mirror image, over a whitened image."""
    flakes = snow_flakes(image.shape[:2], draws, mean, deviation, zoom, threshold)
    return add_snow(whiten(image, share), motion_blurred(flakes, radius, sigma, draws.angle(-135, -45)))


def snow_flakes(
    shape: tuple[int, ...], draws: Draws, mean: float, deviation: float, zoom: float, threshold: float
) -> Image:
    """Bytes (H, W): enlarged normal noise, cut off below `threshold`."""
    flakes = zoomed_plane(draws.normal(shape) * deviation + mean, zoom)
    flakes[flakes < threshold] = 0
    return (np.clip(flakes, 0, 1) * 255).astype(np.uint8)


def whiten(image: Image, share: float) -> Field:
    """`share` of the image (H, W, 3), the rest of its maximum with a bright grey copy; levels."""
    clean = image.astype(np.float32)
    bright = grey_to_rgb(cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY) * 1.5 + 127.5)
    return np.asarray(cv2.addWeighted(clean, share, cv2.max(clean, bright), 1 - share, 0))


def add_snow(levels: Field, layer: Image) -> Image:
    """`levels` (H, W, 3) plus the layer (H, W) and the layer turned by 180 degrees."""
    both = layer.astype(np.float32) + layer[::-1, ::-1]
    return sum_as_bytes(levels + grey_to_rgb(both))


# ---- frost and fog ---------------------------------------------------------------------------------------


def frost(textures: Textures, image: Image, draws: Draws, image_weight: float, frost_weight: float) -> Image:
    """Weighted sum with a random crop of a random texture."""
    texture = textures.crop(image.shape[0], image.shape[1], draws)
    return sum_as_bytes(cv2.addWeighted(image, image_weight, texture, frost_weight, 0, dtype=cv2.CV_32F))


def fog(image: Image, draws: Draws, amount: float, decay: float) -> Image:
    """Plasma clouds added, the brightest level kept."""
    height, width = image.shape[:2]
    clouds = plasma(1 << (max(height, width) - 1).bit_length(), decay, draws)[:height, :width]
    brightest = int(image.max()) / 255
    scale = brightest / (brightest + amount)
    clouds = np.ascontiguousarray(clouds, np.float32) * (255 * amount * scale)
    return as_bytes(cv2.scaleAdd(image.astype(np.float32), scale, grey_to_rgb(clouds)))


# ---- spatter ---------------------------------------------------------------------------------------------


def spatter(
    image: Image, draws: Draws, mean: float, deviation: float, smoothing: float, threshold: float, strength: float,
    mud: float,
) -> Image:  # fmt: skip
    """Drops of water that refract, or opaque mud."""
    liquid = liquid_layer(image.shape[:2], draws, mean, deviation, smoothing, threshold)
    if not mud:
        return add_water(image, liquid, strength)
    cover = gaussian((liquid > threshold).astype(np.float32), strength)
    cover[cover < 0.8] = 0
    colour = cv2.merge([cover * level for level in MUD])
    return sum_as_bytes(image * (1 - grey_to_rgb(cover)) + colour)


def liquid_layer(
    shape: tuple[int, ...], draws: Draws, mean: float, deviation: float, smoothing: float, threshold: float
) -> Field:
    """Smoothed normal noise (H, W), zero below `threshold`."""
    liquid = gaussian(draws.normal(shape) * deviation + mean, smoothing)
    liquid[liquid < threshold] = 0
    return liquid


def add_water(image: Image, liquid: Field, strength: float) -> Image:
    """Drops lit at their rims: what is far from an edge of the layer stays clear."""
    depth = (liquid * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(depth, 50, 150), cv2.DIST_L2, 5)
    rim = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    relief = cv2.blur(cv2.filter2D(rim, cv2.CV_8U, _DROP_RELIEF), (3, 3))
    shine = depth * relief.astype(np.float32)
    if not shine.any():  # no drop: dry. The reference divides by zero here and returns black.
        return image.copy()
    shine *= strength / shine.max()
    return sum_as_bytes(image + cv2.merge([shine * level for level in WATER]))
