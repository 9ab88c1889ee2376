"""Corrupted images and perturbation sequences of any image set, made when they are read: sets like the released ones.

The corrupted set is *image-major*. All variants of one image follow each other, and a reader keeps the picture that it
decoded last, so a loader worker decodes each image once for all of its 75.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nst.documents import fingerprint
from nst.robustness.corruptions import Corruptions, corruption_generator
from nst.robustness.image_sets import ImageSet
from nst.robustness.perturbations import Perturbations, perturbation_generator

if TYPE_CHECKING:
    from nst.data.batches import View
    from nst.robustness.scores import CorruptionErrors

Variant = tuple[str, int]  # corruption and severity
CLEAN: Variant = ("clean", 0)


def corrupted(
    images: ImageSet, view: View, corruptions: Corruptions, variants: Sequence[Variant], errors: CorruptionErrors,
    seed: int,
) -> ImageSet:  # fmt: skip
    """Every variant of every image: sample V * i + v is variant v of image i.

    Args:
        view: the clean picture that is corrupted.
        variants: V; `CLEAN` leaves the picture as it is, and has cell -1.
        errors: numbers the cells.
    """
    cells = [-1 if variant == CLEAN else errors.cell(*variant) for variant in variants]
    return ImageSet(
        f"{images.name} corrupted",
        [key for key in images.keys for _ in variants],
        np.repeat(images.classes, len(variants)),
        CorruptedReads(images, view, corruptions, variants, seed),
        fingerprint([images.digest, list(variants), seed]),
        cells=np.tile(np.array(cells, np.int64), len(images)),
    )


@dataclass(eq=False)
class CorruptedReads:
    """Reads variant `row % V` of image `row // V`."""

    images: ImageSet
    view: View
    corruptions: Corruptions
    variants: Sequence[Variant]
    seed: int
    _last: tuple[int, np.ndarray] | None = None  # number of the image that was read last, and its picture

    def __call__(self, row: int) -> np.ndarray:
        number, place = divmod(row, len(self.variants))
        clean = self._clean(number)
        if self.variants[place] == CLEAN:
            return clean
        name, severity = self.variants[place]
        rng = corruption_generator(self.seed, name, severity, self.images.keys[number])
        return self.corruptions(clean, name, severity, rng)

    def _clean(self, number: int) -> np.ndarray:
        if self._last is None or self._last[0] != number:
            self._last = number, self.view(self.images.pixels(number), np.random.default_rng(0))
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def perturbed(
    images: ImageSet, view: View | None, perturbations: Perturbations, name: str, difficulty: int, seed: int
) -> ImageSet:
    """One perturbation sequence of every image, as clips.

    Args:
        view: of small images, which are perturbed as the network sees them; None perturbs the whole photograph and
            crops afterwards, as the benchmark does.
    """
    return ImageSet(
        f"{images.name} {name}",
        images.keys,
        images.classes,
        partial(_read_perturbed, images, view, perturbations, name, difficulty, seed),
        fingerprint([images.digest, name, difficulty, seed]),
        frames=perturbations.frame_count(name),
    )


def _read_perturbed(
    images: ImageSet, view: View | None, perturbations: Perturbations, name: str, difficulty: int, seed: int, row: int
) -> np.ndarray:
    """The sequence of image `row`."""
    key, image = images.keys[row], images.pixels(row)
    picture = view(image, np.random.default_rng(0)) if view else perturbations.base(image)
    return perturbations(picture, name, perturbation_generator(seed, name, difficulty, key), difficulty=difficulty)


def whole_images(variants: int, batch_size: int) -> int:
    """Pictures per batch of a corrupted set: near `batch_size`, but all variants of at least one image, so that no
    image is decoded by two loader workers."""
    return variants * max(1, round(batch_size / variants))
