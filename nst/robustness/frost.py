"""Frost textures: the user's photographs, or crystals grown here.

The benchmark's five photographs carry no licence, so they are not shipped. Who has them names their folder; else
textures of our own stand in, and a result says which (`Textures.source`), because frost numbers on other textures
are not comparable. The benchmark draws from frost1 .. frost5 only (its sixth file is never used, its second and third
are the same picture), and so do we when a folder has those names.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import cv2
import numpy as np

from nst.data.images import IMAGE_EXTENSIONS, BadImage, decode
from nst.data.operations import Image
from nst.data.stream import generator
from nst.errors import NstError
from nst.robustness.draws import Draws
from nst.robustness.filters import Field, plasma

BENCHMARK_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
SCALES = {32: 0.2, 64: 0.3, 224: 1.0, 299: 1.0}  # of the textures, by the side of the table
GROWN_SIDE = 640  # px
GROWN_DENSITIES = (0.3, 0.5, 0.7, 1.0)  # how much of the pane is covered, one texture each


class Textures:
    """What frost is cut from.

    Args:
        folder: of photographs; None: grown textures.
        scale: of the textures relative to the images.

    Raises:
        NstError: no such folder, nothing in it that is a picture, or a damaged picture.
    """

    def __init__(self, folder: Path | str | None = None, *, scale: float = 1.0) -> None:
        self.folder, self.scale = None if folder is None else Path(folder), scale
        self._files = [] if self.folder is None else _files(self.folder)
        self._fitted: tuple[tuple[int, int], list[Image]] = ((0, 0), [])  # to the images that were seen last

    @functools.cached_property
    def source(self) -> str:
        """`procedural`, or the folder's name and a hash of the pictures used."""
        if self.folder is None:
            return "procedural"
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in self._files))
        return f"{self.folder.resolve().name} sha256:{digest.hexdigest()[:12]}"

    def crop(self, height: int, width: int, draws: Draws) -> Image:
        """A random crop (height, width, 3) of a random texture, which is enlarged where it would not cover it."""
        size, textures = self._fitted
        if size != (height, width):
            textures = [_fitted(texture, self.scale, height, width) for texture in self._textures]
            self._fitted = (height, width), textures
        texture = textures[draws.index(len(textures))]
        top, left = draws.index(texture.shape[0] - height), draws.index(texture.shape[1] - width)
        return texture[top : top + height, left : left + width]

    @functools.cached_property
    def _textures(self) -> list[Image]:
        return [_read(file) for file in self._files] if self._files else [_grown(share) for share in GROWN_DENSITIES]


def _files(folder: Path) -> list[Path]:
    known = [folder / name for name in BENCHMARK_FILES]
    if all(file.is_file() for file in known):
        return known
    files = sorted(file for file in folder.glob("*") if file.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS)
    if not files:
        raise NstError(
            "the folder of frost textures holds none",
            got=folder,
            valid=f"a folder with {', '.join(BENCHMARK_FILES)}, or any pictures",
            next="eval.frost_folder=null draws frost instead",
        )
    return files


def _read(file: Path) -> Image:
    try:
        return decode(file.read_bytes())
    except BadImage as error:
        raise NstError(f"the frost texture {file} cannot be read", got=error, valid="a whole picture") from error


def _fitted(texture: Image, scale: float, height: int, width: int) -> Image:
    """The texture at `scale`, or at the smallest larger one at which a crop has room to move."""
    needed = max((height + 1) / texture.shape[0], (width + 1) / texture.shape[1])
    scale = max(scale, needed)
    if scale == 1:
        return texture
    size = max(round(texture.shape[1] * scale), width + 1), max(round(texture.shape[0] * scale), height + 1)
    return np.asarray(cv2.resize(texture, size), np.uint8)


# ---- grown textures --------------------------------------------------------------------------------------

_WHITENESS = (0.0, 0.35, 0.7, 1.0)
_COLOURS = ((18, 40, 70), (90, 125, 150), (165, 195, 212), (242, 248, 250))  # from the night outside to thick ice
_TWIG_ANGLE = 0.9  # radians between a stem and what grows on it


@functools.cache
def _grown(density: float) -> Image:
    """Feathers of ice on a dark pane (GROWN_SIDE, GROWN_SIDE, 3); the same at every call."""
    rng = generator("frost", density)
    side = GROWN_SIDE
    ice = np.zeros((side, side), np.uint8)
    for lines, level in zip(_feathers(rng, round(25 + 70 * density)), (90, 150, 230), strict=True):
        sixteenths = list((lines.reshape(-1, *lines.shape[-2:]) * 16).astype(np.int32))
        cv2.polylines(ice, sixteenths, False, level, 1, cv2.LINE_AA, shift=4)
    crystals = ice.astype(np.float32) / 255
    near, far = cv2.GaussianBlur(crystals, (0, 0), 5), cv2.GaussianBlur(crystals, (0, 0), 25)
    haze = cv2.resize(plasma(512, 1.9, Draws(rng)), (side, side))
    grain = cv2.GaussianBlur(rng.standard_normal(ice.shape, dtype=np.float32), (0, 0), 0.8)
    whiteness = 0.05 + 0.3 * density + 0.3 * haze + 0.35 * crystals + 0.05 * near + 0.15 * far + 0.07 * grain
    return cv2.merge([np.interp(whiteness, _WHITENESS, colour).astype(np.uint8) for colour in np.transpose(_COLOURS)])


def _feathers(rng: np.random.Generator, count: int) -> tuple[Field, Field, Field]:
    """Needles, barbs and stems as polylines (..., points, 2) in px: each grows on both sides of the next."""
    pieces, barb_pieces, both = 60, 8, np.array([-1, 1])
    length = rng.uniform(0.15, 0.6, (count, 1)) * GROWN_SIDE
    along = np.linspace(0, 1, pieces)
    heading = rng.uniform(0, 2 * np.pi, (count, 1)) + rng.normal(0, 1.2, (count, 1)) * along
    heading = heading + np.cumsum(rng.normal(0, 0.05, heading.shape), axis=1)
    stems = _walk(rng.uniform(-0.1, 1.1, (count, 2)) * GROWN_SIDE, heading, length[:, 0] / pieces)

    taper = np.sin(np.pi * (0.1 + 0.9 * along)) ** 0.7 * (1 - along) ** 0.4
    reach = (0.28 * length * taper)[..., None] * rng.uniform(0.5, 1.1, (count, pieces, 2))
    angle = heading[..., None] + both * rng.normal(_TWIG_ANGLE, 0.15, reach.shape)
    bent = angle[..., None] - 0.5 * both[:, None] * np.linspace(0, 1, barb_pieces)  # towards the stem's tip
    barbs = _walk(stems[:, 1:, None], bent, reach / barb_pieces)

    needle = (0.25 * reach[..., None] * np.linspace(1, 0, barb_pieces))[..., None] * both.clip(1)
    needle = needle * rng.uniform(0.4, 1, needle.shape)
    needles = _walk(barbs[..., 1:, None, :], (bent[..., None] + _TWIG_ANGLE * both)[..., None], needle)
    return needles, barbs, stems


def _walk(start: Field, heading: Field, step: Field) -> Field:
    """Polylines (..., K + 1, 2) from `start` (..., 2), K pieces of `step` (...) px along `heading` (..., K)."""
    moves = step[..., None, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    origin = np.broadcast_to(start[..., None, :], (*moves.shape[:-2], 1, 2))
    return np.concatenate([origin, origin + np.cumsum(moves, axis=-2)], axis=-2)
