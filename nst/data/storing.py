"""Pictures as shards store them: as they were, or smaller where they are larger than asked for.

A phone's picture of 12 million pixels takes 60 ms to decode each time that a network looks at it.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import simplejpeg

from nst.data.images import HEAD, BadImage, decode, encode_png, extension_of, shorter_side
from nst.data.source import Sample, Source

LOSSY = ("jpg", "webp")
QUALITY = 90  # of a JPEG that is stored smaller, with colours at half the resolution, as cameras write them


class Storing:
    """Samples of a source by position, their pictures' shorter side at most `size` px (null: any).

    A picture that is larger is turned upright, shrunk by area averaging, and encoded as JPEG if it was JPEG or
    WebP, else as PNG; others keep their bytes, and so do those that do not decode. May be called from several threads.

    Attributes:
        shrunk: positions of the pictures that were stored smaller.
    """

    def __init__(self, source: Source, size: int | None) -> None:
        self.source, self.size, self.shrunk = source, size, set[int]()

    def __call__(self, position: int) -> Sample:
        """Raises NstError if the picture cannot be read."""
        sample = self.source.sample(position)
        if self.size is None:
            return sample
        shorter = shorter_side(sample.image)  # which saves decoding the small ones
        if shorter is not None and shorter <= self.size:
            return sample
        try:
            pixels = decode(sample.image)
        except BadImage:  # as shard.check_images=false lets it pass
            return sample
        if min(pixels.shape[:2]) <= self.size:
            return sample
        self.shrunk.add(position)
        smaller = shrink(pixels, self.size)
        if extension_of(sample.image[:HEAD]) in LOSSY:
            image = simplejpeg.encode_jpeg(smaller, QUALITY, colorspace="RGB", colorsubsampling="420")
            return replace(sample, image=image, extension="jpg")
        return replace(sample, image=encode_png(smaller), extension="png")


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pixels (H, W, 3) uint8, larger than `size` both ways, with a shorter side of `size`; the shape stays."""
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    return np.asarray(cv2.resize(pixels, target, interpolation=cv2.INTER_AREA), np.uint8)
