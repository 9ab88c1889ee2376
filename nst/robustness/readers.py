"""Images by number: an index over the files of a released set, or our own shards; pixels are read one at a time.

The one decision worth knowing: an index is made at once and in a fixed order, with labels that are positions in
the *network's* class list, never the places of folders. So partial copies are safe, a subset is a choice of rows,
and a file that cannot be read is a BadImage that is reported, not the end. Pixels come as they are stored.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from nst.data.batches import Images
from nst.data.images import BadImage, decode
from nst.data.layout import is_hidden, is_image, unique_keys
from nst.data.shard_set import ShardSet
from nst.documents import fingerprint
from nst.errors import NstError, nearest


class Sample(NamedTuple):
    """One image, or one clip: key, pixels uint8 (H, W, 3) or (T, H, W, 3), and label: int or (M,), -1 is none."""

    key: str
    image: np.ndarray
    label: int | np.ndarray


@dataclass(frozen=True)
class ImageSet:
    """Images or clips by number, read when asked for.

    Args:
        name: such as `imagenet_c/fog/3`.
        keys: unique in the set; the same for one image in all its corruptions.
        labels: (N,) int64, or (N, M) with several each; -1 is none.
        read: gives the pixels of number i or raises BadImage.
        digest: identifies the content by names and sizes, without reading it.
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

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`.

        Raises:
            BadImage: it cannot be read; the message names it.
        """
        label = self.labels[number]
        try:
            image = self.pixels(number)
        except BadImage as error:
            raise BadImage(f"{self.name}/{self.keys[number]}: {error}") from error
        return Sample(self.keys[number], image, label if label.ndim else int(label))

    def pixels(self, number: int) -> np.ndarray:
        """What `read` gives for sample `number`.

        Raises:
            BadImage: it cannot be read; the message does not name it.
        """
        return self.read(number if self.rows is None else self.rows[number])

    def samples(self, bad: list[str]) -> Iterator[Sample]:
        """All samples that can be read, in order; the others are told in `bad`."""
        for number in range(len(self)):
            try:
                yield self[number]
            except BadImage as error:
                bad.append(str(error))

    def picture_size(self) -> tuple[int, int]:
        """Height and width in px of the first picture that can be read: 224 or 299 decides which row a score is.

        Raises:
            NstError: none can.
        """
        bad: list[str] = []
        for _, image, _ in self.samples(bad):
            return image.shape[-3], image.shape[-2]
        raise NstError(f"no image of {self.name} can be read", got=bad[0])

    def subset(self, max_images: int | None, seed: int = 0) -> ImageSet:
        """`max_images` of the set in their old order, every class in proportion; None or more than all: itself.

        Which ones follows from seed and keys alone: all corruptions of a set show the same images, and a smaller
        subset is part of a larger one.
        """
        if max_images is None or max_images >= len(self):
            return self
        if max_images < 1:
            raise NstError("a subset needs an image", got=max_images, valid="max_images of 1 or more, or null")
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
        JoinedReads(sets, np.cumsum(sizes)),
        fingerprint([images.digest for images in sets]),
        frames=sets[0].frames,
        cells=np.repeat(np.asarray(cells, np.int64), sizes),
    )


@dataclass(frozen=True)
class JoinedReads:
    """Reads of several sets, whose samples end at `ends`."""

    sets: Sequence[ImageSet]
    ends: np.ndarray

    def __call__(self, row: int) -> np.ndarray:
        place = int(np.searchsorted(self.ends, row, side="right"))
        images = self.sets[place]
        try:
            return images.pixels(row - (int(self.ends[place - 1]) if place else 0))
        except BadImage as error:
            raise BadImage(f"of {images.name}: {error}") from error


# ---- our shards ------------------------------------------------------------------------------------------------


def shard_images(shards: ShardSet) -> ImageSet:
    """A labeled shard set as images by number; what a cut shard lacks is a BadImage when it is read."""
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
    return ImageSet("test", keys, np.array(labels, np.int64), ShardReads(Images(shards), ends), shards.digest)


@dataclass(frozen=True)
class ShardReads:
    """Reads sample 0, 1, ... of all shards together, which end at `ends`."""

    images: Images
    ends: np.ndarray

    def __call__(self, row: int) -> np.ndarray:
        place = int(np.searchsorted(self.ends, row, side="right"))
        key, image, label = self.images.read(place, row - (int(self.ends[place - 1]) if place else 0))
        if label is None or label < 0:
            raise BadImage(f"{key}: no label")
        return image


# ---- files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageFiles:
    """Reads image files, decoded to (H, W, 3)."""

    paths: Sequence[str]

    def __call__(self, row: int) -> np.ndarray:
        try:
            return decode(Path(self.paths[row]).read_bytes())
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class ClipFiles:
    """Reads videos whole, (T, H, W, 3), by the decoder of the reference evaluation; T must be `frames`."""

    paths: Sequence[str]
    frames: int

    def __call__(self, row: int) -> np.ndarray:
        try:
            with open(self.paths[row], "rb") as file:
                head = file.read(8)
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error
        if head[4:] != b"ftyp" and head[:2] != b"\xff\xd8":  # a playlist would have FFmpeg fetch what it lists
            raise BadImage("neither an MP4 file nor JPEGs one after another")
        # one thread each: loader workers are the parallelism
        capture = cv2.VideoCapture(self.paths[row], cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        frames = []
        while (frame := capture.read())[0]:
            frames.append(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))
        capture.release()
        if len(frames) != self.frames:
            raise BadImage(f"{len(frames)} frames, expected {self.frames}")
        return np.stack(frames)


@dataclass(frozen=True)
class ArrayRows:
    """Reads rows `start`, `start` + 1, ... of a .npy file."""

    path: str
    start: int = 0

    def __call__(self, row: int) -> np.ndarray:
        return np.array(open_array(self.path)[self.start + row])


@functools.lru_cache(maxsize=8)
def open_array(path: str) -> np.ndarray:
    """A .npy file, mapped and not read."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise NstError(f"cannot read {path}", got=error, next="copy or download it again") from error


def class_folders(
    name: str,
    root: Path,
    labels: Mapping[str, int],
    known: Collection[str],
    kind: Callable[[str], bool] = is_image,
    what: str = "images",
) -> tuple[list[str], list[str], np.ndarray, str]:
    """Paths, keys, labels (N,) and digest of `root/<class>/<file>`, sorted by name.

    Args:
        labels: label by folder name.
        known: folder names that the published set has.
        kind: which file names count.
        what: the name of such files.

    Raises:
        NstError: no such folder or none of these files in it, or a class folder that set or network have not.
    """
    root = _unwrapped(require_folder(name, root), known)
    found = []
    for folder in _subfolders(root):
        files = sorted((entry.name, size_in_bytes(entry)) for entry in os.scandir(root / folder) if kind(entry.name))
        if files and (folder not in known or folder not in labels):
            raise _wrong_folder(name, root, folder, known)
        found += [(folder, *file) for file in files]
    if not found:
        held = [f"{folder}/{entry.name}" for folder in _subfolders(root) for entry in os.scandir(root / folder)]
        got = _some(sorted(held)) if held else None
        raise NstError(f"{name}: no {what} in {root}", got=got, valid=f"{what} in folders such as {_some(known)}")
    names = [f"{folder}/{file}" for folder, file, _ in found]
    label = np.array([labels[folder] for folder, _, _ in found], np.int64)
    return [str(root / path) for path in names], unique_keys(names, names), label, fingerprint([name, found])


def _wrong_folder(name: str, root: Path, folder: str, known: Collection[str]) -> NstError:
    if folder in known:
        return NstError(
            f"{name}: the network does not know the class {folder}", valid="a network of ImageNet's 1,000 classes"
        )
    return NstError(
        f"{name} has no class {folder}{nearest(folder, known)}",
        got=str(root / folder),
        valid=f"{len(known)} folders: {_some(known)}",
        next="give the folder that holds the class folders of this set",
    )


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:4]) + (", ..." if len(names) > 4 else "")


def has_class_files(root: Path) -> bool:
    """Whether `root` is a folder with a folder that has a file: what was unpacked in part leaves empty ones."""
    inner = _subfolders(root) if root.is_dir() else []
    return any(not is_hidden(file) for name in inner for *_, files in os.walk(root / name) for file in files)


def require_folder(name: str, root: Path) -> Path:
    if not root.is_dir():
        raise NstError(f"{name}: no such folder: {root}", next="give the folder into which the set was unpacked")
    return root


def _unwrapped(root: Path, known: Collection[str]) -> Path:
    """`root`, or the only folder in it if the class folders are there: an archive unpacks to `imagenet-a/<wnid>`."""
    folders = _subfolders(root)
    if len(folders) == 1 and folders[0] not in known and any((root / folders[0] / name).is_dir() for name in known):
        return root / folders[0]
    return root


def _subfolders(root: Path) -> list[str]:
    """Names, sorted, without hidden ones and those of a system."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name))


def size_in_bytes(entry: os.DirEntry[str] | Path) -> int:
    """Of a file; -1 of a dangling link, which will be a BadImage."""
    try:
        return entry.stat().st_size
    except OSError:
        return -1
