"""Batches of an image set, like `EvaluationBatches`: padded, so shapes never change.

A clip is never split. Its frames lie one after another in `images`, so the network sees ordinary images, and
`(N * T, ...)` answers are N clips again by a reshape.
"""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from nst.data.batches import Batch, View, seen_bytes
from nst.data.evaluation_batches import filled, padded
from nst.data.images import BadImage
from nst.robustness.image_sets import ImageSet


class ImageSetBatches(Dataset):
    """`batches[i]` → the i-th batch in the order of the set; behind the last one, an empty one.

    Keys: "images" uint8 (N * T, 3, H, W) with T = 1 of sets without clips; "labels" int64 (N,) or (N, M), -1 for
    none; "valid" bool (N,); "place" int64 (N,) in the set, and "cells" (N,) of sets that have them, -1 for padding.
    Of the V valid ones, which come first, for the host: "index" int64 array (V,), the same places; "true_labels"
    (V,) or (V, M); "keys" a list of V str. "bad": what could not be read, which is padding, as is what the last
    batch lacks.

    Args:
        view: what the network sees of an image or frame; it must not be random.
        batch_size: N, images or clips.
    """

    def __init__(self, images: ImageSet, view: View, *, batch_size: int) -> None:
        self.images, self.view, self.batch_size = images, view, batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    @property
    def nbytes(self) -> int:
        return self.batch_size * (self.images.frames * seen_bytes(self.view) + 25)

    def __getitem__(self, number: int) -> Batch:
        read: list[tuple[int, np.ndarray]] = []
        bad: list[str] = []
        start = number * self.batch_size
        for index in range(start, min(start + self.batch_size, len(self.images))):
            try:
                read.append((index, self.images[index]))
            except BadImage as error:
                bad.append(str(error))
        places = np.array([index for index, _ in read], np.int64)
        shown = [self._seen(frame) for _, image in read for frame in _frames(image)]
        keys, labels = [self.images.keys[index] for index, _ in read], self.images.labels[places]
        batch = padded(shown, self.view, keys, places, labels, bad, size=self.batch_size, frames=self.images.frames)
        batch["place"] = filled(places, self.batch_size)
        if self.images.cells is not None:
            batch["cells"] = filled(self.images.cells[places], self.batch_size)
        return batch

    def pictures(self, index: int) -> np.ndarray:
        """What the network sees of a sample: its frames, or the one picture, (T, H, W, 3).

        Raises:
            BadImage: it cannot be read.
        """
        return np.stack([self._seen(frame) for frame in _frames(self.images[index])])

    def _seen(self, image: np.ndarray) -> np.ndarray:
        return self.view(image, np.random.default_rng(0))  # a clean view draws nothing


def _frames(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (T, H, W, 3) -> (T, H, W, 3)."""
    return image.reshape(-1, *image.shape[-3:])
