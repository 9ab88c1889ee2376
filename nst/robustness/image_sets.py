"""Images by number, whatever they are read from; our own shards as such a set.

An index is made at once and in a fixed order, with labels that are positions in the *network's* class list, never the
places of folders. So partial copies are safe, a subset is a choice of rows, and a file that cannot be read is a
BadImage that is reported, not the end. Pixels come as they are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nst.data.images import BadImage
from nst.data.shard_set import ShardSet
from nst.documents import fingerprint
from nst.errors import NstError

if TYPE_CHECKING:
    from nst.data.batches import Images


@dataclass(frozen=True)
class ImageSet:
    """Images or clips by number, read when asked for.

    Args:
        name: such as `imagenet_c/fog/3`.
        keys: unique in the set; the same for one image in all its corruptions.
        labels: (N,) int64, or (N, M) with several each; -1 is none.
        read: gives the pixels of number i or raises BadImage.
        digest: identifies the content by names and sizes. The files are not read for it: ImageNet-C has millions.
        frames: T of a set of clips, 1 of images.
        rows: what `read` knows the samples as; None is their number.
        cells: (N,) int64, which corruption at which severity a sample shows (`CorruptionErrors.cell`), -1 for none;
            of sets that hold several.
    """

    name: str
    keys: Sequence[str]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    digest: str
    frames: int = 1
    rows: Sequence[int] | None = None
    cells: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> np.ndarray:
        """Pixels of an image, uint8 (H, W, 3), or of a clip, (T, H, W, 3).

        Raises:
            BadImage: it cannot be read; the message names it.
        """
        try:
            return self.pixels(number)
        except BadImage as error:
            raise BadImage(f"{self.name}/{self.keys[number]}: {error}") from error

    def pixels(self, number: int) -> np.ndarray:
        """What `read` gives for sample `number`.

        Raises:
            BadImage: it cannot be read; the message does not name it.
        """
        return self.read(number if self.rows is None else self.rows[number])

    def picture_size(self) -> tuple[int, int]:
        """Height and width in px of the first picture that can be read: 224 or 299 decides which row a score is.

        Raises:
            NstError: none can.
        """
        bad: list[str] = []
        for number in range(len(self)):
            try:
                image = self[number]
            except BadImage as error:
                bad.append(str(error))
            else:
                return image.shape[-3], image.shape[-2]
        raise NstError(f"no image of {self.name} can be read", got=bad[0])

    def subset(self, max_images: int | None, seed: int = 0) -> ImageSet:
        """`max_images` of the set in their old order, every class in proportion; None or more than all: itself.

        Which ones follows from seed and keys alone: all corruptions of a set show the same images, and a smaller
        subset is part of a larger one.
        """
        if max_images is None or max_images >= len(self):
            return self
        return self.chosen(stratified(self.keys, self.classes, max_images, seed))

    @property
    def classes(self) -> np.ndarray:
        """One label of each sample, (N,)."""
        return self.labels if self.labels.ndim == 1 else self.labels[:, 0]

    def chosen(self, numbers: Sequence[int] | np.ndarray) -> ImageSet:
        """The samples of these numbers, in this order, as a set of their own."""
        numbers = np.asarray(numbers, np.int64)
        rows = numbers if self.rows is None else np.asarray(self.rows)[numbers]
        return replace(
            self,
            keys=[self.keys[number] for number in numbers],
            labels=self.labels[numbers],
            rows=rows.tolist(),
            digest=fingerprint([self.digest, hashlib.sha256(numbers.tobytes()).hexdigest()]),
            cells=None if self.cells is None else self.cells[numbers],
        )


def stratified(keys: Sequence[str], classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Numbers (count,), rising, of a random part of the keys in which every class has its share."""
    tickets = np.array(
        [int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()) for key in keys], np.uint64
    )
    order = np.lexsort((tickets, classes))
    _, starts, sizes = np.unique(classes[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    share = (place + 0.5) / np.repeat(sizes, sizes)  # how far into its class; the lowest of all classes are taken
    return np.sort(order[np.lexsort((tickets[order], share))[:count]])


def joined(name: str, sets: Sequence[ImageSet], cells: Sequence[int]) -> ImageSet:
    """Several sets of images as one, the samples of each with its cell (see `ImageSet`)."""
    sizes = [len(images) for images in sets]
    return ImageSet(
        name,
        [key for images in sets for key in images.keys],
        np.concatenate([images.labels for images in sets]),
        partial(_read_joined, sets, np.cumsum(sizes)),
        fingerprint([images.digest for images in sets]),
        frames=sets[0].frames,
        cells=np.repeat(np.asarray(cells, np.int64), sizes),
    )


def _read_joined(sets: Sequence[ImageSet], ends: np.ndarray, row: int) -> np.ndarray:
    """From several sets, whose samples end at `ends`."""
    place = int(np.searchsorted(ends, row, side="right"))
    images = sets[place]
    try:
        return images.pixels(row - (int(ends[place - 1]) if place else 0))
    except BadImage as error:
        raise BadImage(f"of {images.name}: {error}") from error


# ---- our shards ------------------------------------------------------------------------------------------------


def shard_images(shards: ShardSet) -> ImageSet:
    """A labeled shard set as images by number; what a cut shard lacks is a BadImage when it is read."""
    from nst.data.batches import Images  # which loads torch

    keys, labels = [], []
    for place, shard in enumerate(shards.shards):
        reader = shards.reader(place)
        for index in range(shard.samples):
            key, fields = reader.read(index, only=("cls",)) if index < len(reader) else (f"{shard.name}#{index}", {})
            label = fields.get("cls", b"")
            keys.append(key)
            labels.append(int(label) if label.strip().isdigit() else -1)
        reader.close()
    ends = np.cumsum([shard.samples for shard in shards.shards])
    read = partial(_read_sharded, Images(shards), ends)
    return ImageSet("test", keys, np.array(labels, np.int64), read, shards.digest)


def _read_sharded(images: Images, ends: np.ndarray, row: int) -> np.ndarray:
    """Sample `row` of all shards together, which end at `ends`."""
    place = int(np.searchsorted(ends, row, side="right"))
    key, image, label = images.read(place, row - (int(ends[place - 1]) if place else 0))
    if label is None or label < 0:
        raise BadImage(f"{key}: no label")
    return image
