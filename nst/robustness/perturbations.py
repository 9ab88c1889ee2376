"""The perturbation sequences of ImageNet-P made on the fly: 10 of the benchmark and 4 extras, as frames.

Paper section 4.1, table 5. Source: hendrycks/robustness, the generators for 224, 299, 64 and 32 px. Noise sequences
begin with the clean image, draw afresh for every frame and come in three strengths; the others move a little from
frame to frame. Moves happen on the *whole* picture, which is cropped afterwards, so what enters at an edge is more of
the picture and not black; colours, noise and blurs work on the crop.

Results from here are not ImageNet-P: the released sequences went through a video codec, these did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

from nst.data.operations import Image
from nst.data.stream import generator
from nst.errors import NstError
from nst.robustness import noises, warps
from nst.robustness.baselines import DIFFICULTIES, EXTRA_PERTURBATIONS, PERTURBATIONS
from nst.robustness.corruptions import require_picture
from nst.robustness.digital import brightness
from nst.robustness.draws import Draws
from nst.robustness.filters import Field, gaussian, motion_blurred, sum_as_bytes
from nst.robustness.perturbation_tables import TABLES
from nst.robustness.severities import table_side
from nst.robustness.warps import affine_matrix, moved, tilt_matrix, tilted
from nst.robustness.weather import add_snow, add_water, liquid_layer, snow_flakes, whiten

NAMES = PERTURBATIONS + EXTRA_PERTURBATIONS
# compared with frame 0, and stronger when more difficult
NOISES: dict[str, Callable[..., Image]] = {
    "gaussian_noise": noises.gaussian_noise,
    "shot_noise": noises.shot_noise,
    "speckle_noise": noises.speckle_noise,
}
FRAMES = 31
_MIDDLE = 15
_CENTRAL_SHARE = 0.875  # of each side, in views of the 299 px benchmark


class Perturbations:
    """Every sequence, for frames of one size.

    Args:
        side: of the frames, 8 px or more; strengths come from the table of the nearest benchmark (`table`).

    Attributes:
        table: 32, 64, 224 or 299.
    """

    def __init__(self, side: int) -> None:
        self.side, self.table = side, table_side(side)
        self._settings = TABLES[self.table]

    def __call__(self, picture: Image, name: str, rng: np.random.Generator | Draws, *, difficulty: int = 1) -> Image:
        """Frames (T, side, side, 3) of a picture (H, W, 3) at the size that `base` gives it; all bytes.

        Args:
            difficulty: 1 to 3, the strength of noise. Other sequences are the same at each: there it is the
                distance between the frames that the scores compare.

        Raises:
            NstError: no such difficulty, or a picture that is not RGB bytes or smaller than the frames.
        """
        if difficulty not in DIFFICULTIES:
            raise NstError(f"{name} has no such difficulty", got=difficulty, valid="1, 2 or 3")
        require_picture(picture)
        if not self._settings.square and min(picture.shape[:2]) < self.side:
            raise NstError(
                "the picture is smaller than its frames",
                got=f"{picture.shape[1]} x {picture.shape[0]} px",
                valid=f"sides of {self.side} px or more",
                next="resize it with Perturbations.base",
            )
        draws = rng if isinstance(rng, Draws) else Draws(rng)
        picture = np.ascontiguousarray(picture)
        if name in NOISES:
            strength = getattr(self._settings, name)[difficulty - 1]
            clean = self.view(picture)
            return np.stack([clean, *(NOISES[name](clean, draws, strength) for _ in range(1, FRAMES))])
        return np.stack(list(_SEQUENCES[name](self, picture, draws)))

    def frame_count(self, name: str) -> int:
        """T of a sequence: 31 but for a few."""
        others = {"translate": self._settings.translate[0], "motion_blur": self._settings.motion_frames}
        return others.get(name, FRAMES)

    def base(self, picture: Image) -> Image:
        """The picture (H, W, 3) at the size at which it is perturbed: short side 256 px for frames of 224 (other
        sides of that table in proportion), untouched for the 299 px table, else as large as the frames."""
        height, width = picture.shape[:2]
        if self._settings.square:
            return picture
        short = round(self.side * 256 / 224) if self.table == 224 else self.side
        if width < height:
            return warps.resized(picture, short, int(short * height / width))
        return warps.resized(picture, int(short * width / height), short)

    def view(self, picture: Image) -> Image:
        """What a network sees of a picture at its base size: (side, side, 3)."""
        height, width = picture.shape[:2]
        if not self._settings.square:
            return warps.centre(picture, self.side, self.side)
        central = warps.centre(picture, int(width * _CENTRAL_SHARE), int(height * _CENTRAL_SHARE))
        return warps.resized(central, self.side, self.side)

    # ---- blurs and colours ---------------------------------------------------------------------------

    def _motion_blur(self, picture: Image, _: Draws) -> Iterator[Image]:
        radius, sigma, degrees, upright = self._settings.motion
        for frame in range(self._settings.motion_frames):
            angle = (frame - upright) * degrees
            if self._settings.whole_motion:
                yield self.view(motion_blurred(picture, radius, sigma, angle))
            else:
                yield motion_blurred(self.view(picture), radius, sigma, angle)

    def _gaussian_blur(self, picture: Image, _: Draws) -> Iterator[Image]:
        first, growth, truncate = self._settings.gaussian_blur
        clean = self.view(picture).astype(np.float32)
        for frame in range(FRAMES):
            yield sum_as_bytes(gaussian(clean, first + growth * frame, truncate=truncate))

    def _brightness(self, picture: Image, draws: Draws) -> Iterator[Image]:
        clean = self.view(picture)
        for frame in range(FRAMES):
            yield brightness(clean, draws, (frame - _MIDDLE) * self._settings.brightness / 100)

    # ---- weather -------------------------------------------------------------------------------------

    def _snow(self, picture: Image, draws: Draws) -> Iterator[Image]:
        """One fall of snow, blown at a slowly turning angle."""
        deviation, zoom, radius, sigma = self._settings.snow
        whitened = whiten(self.view(picture), 0.85)
        flakes = snow_flakes((self.side, self.side), draws, 0.05, deviation, zoom, threshold=0.5)
        for frame in range(FRAMES):
            yield add_snow(whitened, motion_blurred(flakes, radius, sigma, 4 * frame - 150))

    def _spatter(self, picture: Image, draws: Draws) -> Iterator[Image]:
        """One splash of water, running down."""
        clean = self.view(picture)
        liquid = liquid_layer((self.side, self.side), draws, *self._settings.spatter)
        for _ in range(FRAMES):
            yield add_water(clean, liquid, strength=0.6)
            liquid = _run_down(liquid, self._settings.drag)

    # ---- moves ---------------------------------------------------------------------------------------

    def _translate(self, picture: Image, _: Draws) -> Iterator[Image]:
        frames, middle = self._settings.translate
        for frame in range(frames):
            yield self.view(moved(picture, affine_matrix(picture, shift=frame - middle), bilinear=False))

    def _rotate(self, picture: Image, _: Draws) -> Iterator[Image]:
        for frame in range(FRAMES):
            yield self.view(moved(picture, affine_matrix(picture, degrees=frame - _MIDDLE)))

    def _shear(self, picture: Image, _: Draws) -> Iterator[Image]:
        for frame in range(FRAMES):
            yield self.view(moved(picture, affine_matrix(picture, shear=frame - _MIDDLE)))

    def _tilt(self, picture: Image, _: Draws) -> Iterator[Image]:
        for frame in range(FRAMES):
            yield self.view(tilted(picture, tilt_matrix(picture, (frame - _MIDDLE) * self._settings.tilt)))

    def _scale(self, picture: Image, _: Draws) -> Iterator[Image]:
        first, growth = self._settings.scale
        return self._zooms(picture, ((frame * growth + first) / 100 for frame in range(FRAMES)))

    def _zoom_blur(self, picture: Image, _: Draws) -> Iterator[Image]:
        """The mean of the clean image and the zooms so far."""
        clean = self.view(picture)
        yield clean
        total = clean / np.float32(255)  # and so on in float32: its roundings decide levels, as in the reference
        zooms = self._zooms(picture, (1 + 0.004 * frame for frame in range(1, FRAMES)))
        for count, zoom in enumerate(zooms, start=2):
            total += zoom / np.float32(255)
            yield (total / np.float32(count) * np.float32(255)).astype(np.uint8)

    def _zooms(self, picture: Image, scales: Iterable[float]) -> Iterator[Image]:
        if self._settings.square:
            picture = self.view(picture)
        for scale in scales:
            zoom = moved(picture, affine_matrix(picture, scale=scale))
            yield zoom if self._settings.square else self.view(zoom)


_SEQUENCES: dict[str, Callable[[Perturbations, Image, Draws], Iterator[Image]]] = {
    "motion_blur": Perturbations._motion_blur,
    "zoom_blur": Perturbations._zoom_blur,
    "snow": Perturbations._snow,
    "brightness": Perturbations._brightness,
    "translate": Perturbations._translate,
    "rotate": Perturbations._rotate,
    "tilt": Perturbations._tilt,
    "scale": Perturbations._scale,
    "gaussian_blur": Perturbations._gaussian_blur,
    "spatter": Perturbations._spatter,
    "shear": Perturbations._shear,
}


def perturbation_generator(seed: int, name: str, difficulty: int, key: str) -> np.random.Generator:
    """The generator of one sequence: no order, worker or batch size can change what it draws."""
    return generator("perturbation", int(seed), name, int(difficulty), str(key))


def _run_down(liquid: Field, drag: tuple[float, ...]) -> Field:
    """Each row a weighted sum of the row below it, itself, and rows above; nothing comes in at the edges."""
    height = len(liquid)
    padded = cv2.copyMakeBorder(liquid, len(drag) - 2, 1, 0, 0, cv2.BORDER_CONSTANT, value=0)
    offsets = range(len(drag) - 1, -1, -1)  # of the row below, the row itself, the row above ... in `padded`
    return np.sum([weight * padded[top : top + height] for weight, top in zip(drag, offsets, strict=True)], axis=0)
