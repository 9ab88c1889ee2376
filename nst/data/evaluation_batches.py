"""Batches for evaluation and labeling: every image once, in order, the last batch padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import Dataset

from nst.data.batches import Batch, Images, View, blank_seen, seen_bytes
from nst.data.image_stack import images_to_tensor
from nst.data.images import BadImage
from nst.data.inputs import Readable
from nst.data.shards import ShardSet


class EvaluationBatches(Dataset):
    """`batches[i]` → the i-th batch of clean views in storage order; a shard's last batch is padded.

    Keys: "images" uint8 (B, 3, H, W), "labels" int64 (B,) (-1 where there is none), "valid" bool (B,). Of the V valid
    ones, which come first, for the host (no tensors, so they are not moved to a device): "index" int64 array (V,),
    "true_labels" (V,), "keys" a list of V str. "bad": names of the images that could not be decoded, in a `Readable`
    behind their numbers in the part.

    A batch never spans two shards, so what is computed for a shard does not depend on the others: labeling can
    be continued shard by shard and gives the same bytes.

    Args:
        shards: or pictures that are in no shards.
        only: shard numbers to read; all by default.
    """

    def __init__(
        self, shards: ShardSet | Readable, view: View, *, batch_size: int, only: Sequence[int] | None = None
    ) -> None:
        self.shards, self.view, self.batch_size = shards.shards, view, batch_size
        self.images = Images(shards) if isinstance(shards, ShardSet) else shards
        self.numbers = list(range(len(shards.shards))) if only is None else list(only)
        self.sizes = [shards.shards[number].samples for number in self.numbers]
        self.ends = np.cumsum([-(-size // batch_size) for size in self.sizes], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def nbytes(self) -> int:
        return self.batch_size * (seen_bytes(self.view) + 9)

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng(0)  # a clean view draws nothing
        rows: list[tuple[np.ndarray, str, int, int]] = []
        bad: list[str] = []
        shard, indices = self._place(number)
        for index in indices:
            try:
                key, image, label = self.images.read(shard, index)
                rows.append((self.view(image, rng), key, index, -1 if label is None else label))
            except BadImage as error:
                bad.append(str(error) if isinstance(self.images, Images) else f"{index}: {error}")
        pictures, keys, places, labels = zip(*rows, strict=True) if rows else ((),) * 4
        return padded(pictures, self.view, keys, places, labels, bad, size=self.batch_size)

    def _place(self, number: int) -> tuple[int, range]:
        """Shard number and sample indices of a batch; no indices behind the last batch."""
        if number >= len(self):
            return -1, range(0)
        slot = int(np.searchsorted(self.ends, number, side="right"))
        start = (number - (int(self.ends[slot - 1]) if slot else 0)) * self.batch_size
        return self.numbers[slot], range(start, min(start + self.batch_size, self.sizes[slot]))


def padded(
    pictures: Sequence[np.ndarray], view: View, keys: Sequence[str], index: ArrayLike, labels: ArrayLike,
    bad: list[str], *, size: int, frames: int = 1,
) -> Batch:  # fmt: skip
    """V samples as a batch of `size`, padding behind them.

    Args:
        pictures: as the view gives them, `frames` of each sample.
        labels: (V,), or (V, M) with several each.
    """
    blank = np.zeros_like(pictures[0]) if pictures else blank_seen(view)
    labels = np.asarray(labels, np.int64)
    return {
        "images": images_to_tensor([*pictures, *[blank] * ((size - len(keys)) * frames)]),
        "labels": filled(labels, size),
        "valid": torch.arange(size) < len(keys),
        "index": np.asarray(index, np.int64),
        "true_labels": labels,
        "keys": list(keys),
        "bad": bad,
    }


def filled(values: np.ndarray, count: int) -> torch.Tensor:
    """Rows (V, ...) and -1 behind them: (count, ...) int64."""
    rows = np.full((count, *values.shape[1:]), -1, np.int64)
    rows[: len(values)] = values
    return torch.from_numpy(rows)
