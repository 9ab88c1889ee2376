"""Moves of a whole picture in the perturbation sequences: affine maps, tilts, and the crops taken afterwards.

Source: hendrycks/robustness (ImageNet-P), with the affine map of torchvision 0.2 that its 2018 files were made
with. That map turns about (W/2 + 0.5, H/2 + 0.5), half a pixel from the middle; later versions turn about the middle,
which changes more than half of the pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from nst.data.operations import Image

Matrix = NDArray[np.float64]


def affine_matrix(
    picture: Image, *, degrees: float = 0, shift: float = 0, scale: float = 1, shear: float = 0
) -> Matrix:
    """Output to input position (2, 3) of a picture (H, W, 3) turned clockwise by `degrees`, sheared by `shear`
    degrees, scaled, and moved to the right by `shift` px."""
    turn = math.radians(degrees)
    skew = turn + math.radians(shear)
    determinant = math.cos(skew) * math.cos(turn) + math.sin(skew) * math.sin(turn)
    share = 1 / scale / determinant
    (a, b), (d, e) = turned = [
        [share * math.cos(skew), share * math.sin(skew)],
        [share * -math.sin(turn), share * math.cos(turn)],
    ]
    x, y = picture.shape[1] * 0.5 + 0.5, picture.shape[0] * 0.5 + 0.5
    # in this order, so that the numbers are the reference's to the last bit: ties decide truncated levels
    offset = [row[0] * (-x - shift) + row[1] * -y + middle for row, middle in zip(turned, (x, y), strict=True)]
    return np.array([[a, b, offset[0]], [d, e, offset[1]]])


def moved(picture: Image, matrix: Matrix, *, bilinear: bool = True) -> Image:
    """The picture (H, W, 3) under an affine `matrix` (2, 3), black where there is none of it."""
    whole = Pillow.fromarray(picture)
    numbers = tuple(matrix.ravel().tolist())
    filter_ = Pillow.Resampling.BILINEAR if bilinear else Pillow.Resampling.NEAREST
    return np.asarray(whole.transform(whole.size, Pillow.Transform.AFFINE, numbers, resample=filter_))


def tilt_matrix(picture: Image, degrees: float) -> Matrix:
    """Input to output position (3, 3) of a picture (H, W, 3) turned about its vertical, then its horizontal axis.

    The focal length is the picture's diagonal. The picture stands one pixel behind the pivot, so it shrinks a little
    even at angle 0; that is how the reference has it.
    """
    height, width = picture.shape[:2]
    focal, angle = math.hypot(width, height), math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    centred = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])  # z is the one pixel
    about_vertical = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    about_horizontal = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    turned = about_horizontal @ about_vertical @ centred
    turned[2, 2] += focal
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return camera @ turned


def tilted(picture: Image, matrix: Matrix) -> Image:
    """The picture (H, W, 3) under a perspective `matrix` (3, 3), bilinear, black where there is none of it."""
    return np.asarray(cv2.warpPerspective(picture, matrix, picture.shape[1::-1]), np.uint8)


def centre(picture: Image, width: int, height: int) -> Image:
    """The centre crop of torchvision: halves of a pixel are rounded to even."""
    top, left = round((picture.shape[0] - height) / 2), round((picture.shape[1] - width) / 2)
    return picture[top : top + height, left : left + width]


def resized(picture: Image, width: int, height: int) -> Image:
    """Pillow's antialiased bilinear."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Pillow.fromarray(picture).resize((width, height), Pillow.Resampling.BILINEAR))
