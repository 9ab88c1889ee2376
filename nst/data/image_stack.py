"""Decoded images of one batch, in memory that loader processes share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info


class ImageStack:
    """N images of one size as one tensor, each copied once: to its place in the memory that the batch travels in.

    A loader's worker hands its batches over in shared memory. What is made elsewhere is copied there whole.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pixels: torch.Tensor | None = None
        self._places = np.empty(0, np.uint8)

    def put(self, place: int, image: np.ndarray) -> None:
        """Image (H, W, 3) uint8, the same size for all."""
        if self.pixels is None:
            self.pixels = _shared_bytes((self.count, *image.shape))
            self._places = self.pixels.numpy()
        self._places[place] = image

    def tensor(self) -> torch.Tensor:
        """(N, 3, H, W) uint8, in channels_last memory; what was not put is undefined."""
        assert self.pixels is not None
        return self.pixels.permute(0, 3, 1, 2)


def _shared_bytes(shape: tuple[int, ...]) -> torch.Tensor:
    """An uninitialised uint8 tensor; in a loader's worker, of shared memory, as torch's own collate makes it."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload]


def images_to_tensor(images: Sequence[np.ndarray]) -> torch.Tensor:
    """N × (H, W, 3) uint8 → (N, 3, H, W) uint8, in channels_last memory."""
    stack = ImageStack(len(images))
    for place, image in enumerate(images):
        stack.put(place, image)
    return stack.tensor()
