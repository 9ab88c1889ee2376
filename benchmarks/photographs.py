"""JPEGs that cost what photographs cost to decode, made by seed: no download, the same bytes on every machine.

Detail falls with frequency as in natural pictures (amplitude about 1/f), on it lie shapes with soft edges. At
quality 95 they average 400 x 350 px and about 110 kB, as ImageNet's files do; a photograph's bits, which decide
the cost of decoding, are mostly such detail.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from nst.data.shard_set import ShardSet
from nst.data.shard_writer import write_shards
from nst.data.source import Sample
from nst.data.stream import generator

CLASSES = 10
QUALITY = 95
SIDES = ((300, 400), (350, 450))  # px, height and width from .. to


def shard_set(folder: Path, count: int, *, samples_per_shard: int = 250, seed: int = 0) -> ShardSet:
    """The labeled shard set of `count` photographs in `folder`; made unless it lies there already."""
    name = f"photographs-{count}-{seed}"
    folder = folder / name
    if (folder / "index.json").exists():
        return ShardSet.open(folder)
    classes = [str(number) for number in range(CLASSES)]
    return write_shards(
        folder,
        "photographs",
        samples(count, seed),
        classes=classes,
        labeled=True,
        name=name,
        samples_per_shard=samples_per_shard,
    )


def samples(count: int, seed: int = 0) -> Iterator[Sample]:
    for number in range(count):
        pixels = photograph(generator("photograph", seed, number))
        data = simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorspace="RGB", colorsubsampling="420")
        yield Sample(f"{number:08d}", data, "jpg", number % CLASSES)


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Pixels (H, W, 3) uint8."""
    height, width = (int(rng.integers(low, high)) for low, high in SIDES)
    light, warm, cold = (_texture(rng, height, width) for _ in range(3))
    planes = [light + 0.4 * warm, light - 0.2 * (warm + cold), light + 0.4 * cold]
    picture = np.clip(np.stack(planes, axis=-1) * 45 + rng.integers(80, 170, 3), 0, 255).astype(np.uint8)
    for _ in range(6):
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        centre = int(rng.integers(width)), int(rng.integers(height))
        covered = cv2.circle(picture.copy(), centre, int(rng.integers(10, 90)), colour, -1, cv2.LINE_AA)
        picture = cv2.addWeighted(picture, 0.5, covered, 0.5, 0)
    return np.asarray(picture, np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Random detail (H, W) of standard deviation 1 whose amplitude falls as a power of frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = frequency ** -rng.uniform(0.9, 1.2) * np.exp(2j * np.pi * rng.random(frequency.shape))
    detail = np.fft.irfft2(spectrum, (height, width))
    return detail / detail.std()
