"""What people see of an evaluation: a sheet of pictures per part, and what the network says of each.

    parts/<part>.png|jpg    images in rows of COLUMNS; of clips, one row of frames each
    parts/<part>.json       its "shown": key, label, caption, confidence and predicted class of every frame, in order

Which pictures are shown follows from the seed and not from the answers, so sheets of a teacher and a student show the
same ones and can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from nst.atomic import atomic_path
from nst.robustness.padded import ImageSetBatches

COLUMNS = 12
FRAMES_SHOWN = 11
LARGEST_PX = 96
SMALL_PX = 48  # up to here pictures are kept pixel by pixel, above as JPEG
QUALITY = 90

Answer = tuple[int, tuple[float, ...], tuple[int, ...]]  # number of a sample; confidence and class of its frames


def write_sheet(stem: Path, batches: ImageSetBatches, numbers: Sequence[int]) -> dict[str, Any]:
    """Writes the pictures of samples as `stem`.png or .jpg; returns how to find them there.

    Returns `file`, `tile` (px), `columns`, and `frames`: the number of the frame in each column, None of images.
    """
    frames = batches.images.frames
    chosen = shown_frames(frames)
    tiles = [_tile(picture) for number in numbers for picture in batches.pictures(number)[chosen]]
    columns = len(chosen) if frames > 1 else COLUMNS
    side = tiles[0].shape[0]
    sheet = np.full((-(-len(tiles) // columns) * side, columns * side, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * side, place % columns * side
        sheet[top : top + side, left : left + side] = tile
    small = side <= SMALL_PX
    path = stem.with_name(f"{stem.name}.{'png' if small else 'jpg'}")
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(
            temporary, **({"format": "PNG"} if small else {"format": "JPEG", "quality": QUALITY})
        )
    return {"file": path.name, "tile": side, "columns": columns, "frames": chosen if frames > 1 else None}


def shown_frames(frames: int) -> list[int]:
    """Numbers of the frames of a clip that are shown: the first, the last, and evenly between."""
    return np.linspace(0, frames - 1, min(frames, FRAMES_SHOWN)).round().astype(int).tolist()


def entries(
    answers: Sequence[Answer], batches: ImageSetBatches, captions: Mapping[int, str], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """What the network says of shown samples, in words.

    An image with several labels goes by the one that is answered, where it is among them, else by the first.
    """
    images = batches.images

    def label(number: int, answer: int) -> str | None:
        of_image = np.atleast_1d(images.labels[number])
        chosen = answer if answer in of_image else int(of_image[0])
        return classes[chosen] if chosen >= 0 else None

    return [
        {
            "key": images.keys[number],
            "caption": captions[number],
            "label": label(number, int(predicted[0])),
            "predicted": [classes[place] for place in predicted],
            "confidence": [round(value, 4) for value in confidence],
        }
        for number, confidence, predicted in answers
    ]


def _tile(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3), square as a network sees it, at its size or LARGEST_PX."""
    if max(picture.shape[:2]) <= LARGEST_PX:
        return picture
    return np.asarray(cv2.resize(picture, (LARGEST_PX, LARGEST_PX), interpolation=cv2.INTER_AREA), np.uint8)
