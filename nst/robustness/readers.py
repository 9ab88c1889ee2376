"""Files of a released set by number: images, clips, rows of arrays; pixels are read one at a time, as stored."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from nst.data.images import BadImage, decode
from nst.data.layout import is_hidden, is_image, unique_keys
from nst.documents import fingerprint
from nst.errors import NstError, nearest
from nst.shown import some

# ---- files ---------------------------------------------------------------------------------------------------


def read_image(paths: Sequence[str], row: int) -> np.ndarray:
    """An image file, decoded to (H, W, 3)."""
    try:
        # not turned: the published numbers are of pixels as they lie in the file
        return decode(Path(paths[row]).read_bytes(), upright=False)
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from error


def read_clip(paths: Sequence[str], expected: int, row: int) -> np.ndarray:
    """A video whole, (T, H, W, 3), by the decoder of the reference evaluation; T must be `expected`."""
    try:
        with open(paths[row], "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from error
    if head[4:] != b"ftyp" and head[:2] != b"\xff\xd8":  # a playlist would have FFmpeg fetch what it lists
        raise BadImage("neither an MP4 file nor JPEGs one after another")
    # one thread each: loader workers are the parallelism
    capture = cv2.VideoCapture(paths[row], cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    while (frame := capture.read())[0]:
        frames.append(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))
    capture.release()
    if len(frames) != expected:
        raise BadImage(f"{len(frames)} frames, expected {expected}")
    return np.stack(frames)


def read_row(path: str, start: int, row: int) -> np.ndarray:
    """Row `start` + `row` of a .npy file."""
    return np.array(open_array(path)[start + row])


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
        got = some(sorted(held)) if held else None
        raise NstError(f"{name}: no {what} in {root}", got=got, valid=f"{what} in folders such as {some(list(known))}")
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
        valid=f"{len(known)} folders: {some(list(known))}",
        next="give the folder that holds the class folders of this set",
    )


def has_class_files(root: Path) -> bool:
    """Whether `root` is a folder with a folder that has a file: what was unpacked in part leaves empty ones."""
    inner = _subfolders(root) if root.is_dir() else []
    return any(not is_hidden(file) for name in inner for *_, files in os.walk(root / name) for file in files)


def require_folder(name: str, root: Path) -> Path:
    """Raises NstError where the folder of a set, whose name is its option's, is not there."""
    if not root.is_dir():
        option = f"eval.{name.partition('/')[0]}"
        raise NstError(f"{option}: no such folder: {root}", next=f"{option}=<the folder of the unpacked set>")
    return root


def _unwrapped(root: Path, known: Collection[str]) -> Path:
    """`root`, or the only folder in it if the class folders are there: an archive unpacks to `imagenet-a/<wnid>`."""
    folders = _subfolders(root)
    if len(folders) == 1 and folders[0] not in known and any((root / folders[0] / name).is_dir() for name in known):
        return root / folders[0]
    return root


def _subfolders(root: Path) -> list[str]:
    """Names, sorted, without hidden ones and those of a system."""
    return sorted(entry.name for entry in os.scandir(root) if os.path.isdir(entry) and not is_hidden(entry.name))


def size_in_bytes(entry: os.DirEntry[str] | Path) -> int:
    """Of a file; -1 of a dangling link, which will be a BadImage."""
    try:
        return entry.stat().st_size
    except OSError:
        return -1
