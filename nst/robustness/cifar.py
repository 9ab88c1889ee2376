"""CIFAR-10-C, -100-C, -10-P and -100-P: arrays of all pictures of a corruption or perturbation, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nst.documents import fingerprint
from nst.errors import NstError
from nst.robustness.baselines import NUM_SEVERITIES
from nst.robustness.classes import cifar_positions
from nst.robustness.image_sets import ImageSet
from nst.robustness.readers import open_array, read_row, require_folder
from nst.robustness.sets import absent_error, expanded, stored_name


def cifar_c(root: str | Path, corruption: str, severity: int, classes: Sequence[str]) -> ImageSet:
    """One corruption at one severity of CIFAR-10-C or -100-C: its fifth of <corruption>.npy.

    Args:
        classes: of the network, as `cifar_positions` takes them; 10 or 100.

    Raises:
        NstError: no such file, or arrays that are not CIFAR-C's.
    """
    root = require_folder("cifar_c", expanded(root))
    images, labels = _array("cifar_c", root / f"{corruption}.npy"), _labels(root / "labels.npy", classes)
    count, rest = divmod(len(images), NUM_SEVERITIES)
    if rest or len(labels) != len(images):
        raise NstError(
            f"cifar_c: {corruption}.npy and labels.npy do not hold five severities of the same images",
            got=f"{len(images)} images, {len(labels)} labels",
            valid="50,000 each",
        )
    start = (severity - 1) * count
    name, path = f"cifar_c/{corruption}/{severity}", root / f"{corruption}.npy"
    return _cifar_set(name, path, labels[start : start + count], start=start)


def cifar_p(root: str | Path, perturbation: str, classes: Sequence[str], difficulty: int = 1) -> ImageSet:
    """Clips (T, 32, 32, 3) of one perturbation of CIFAR-10-P or -100-P; labels are -1 without a labels.npy.

    Raises:
        NstError: no such file, or arrays that are not CIFAR-P's.
    """
    root = require_folder("cifar_p", expanded(root))
    path = root / f"{stored_name(perturbation, difficulty)}.npy"
    count, frames = _array("cifar_p", path).shape[:2]
    has_labels = (root / "labels.npy").is_file()
    labels = _labels(root / "labels.npy", classes) if has_labels else np.full(count, -1, np.int64)
    if len(labels) != count:
        raise NstError(f"cifar_p: {path.name} does not fit labels.npy", got=f"{count} clips, {len(labels)} labels")
    return _cifar_set(f"cifar_p/{path.stem}", path, labels, frames=frames)


def _cifar_set(name: str, path: Path, labels: np.ndarray, *, start: int = 0, frames: int = 1) -> ImageSet:
    keys = [f"{number:05d}" for number in range(len(labels))]
    digest = fingerprint([name, path.stat().st_size, labels])
    return ImageSet(name, keys, labels, partial(read_row, str(path), start), digest, frames)


def _array(suite: str, path: Path) -> np.ndarray:
    """Checked, mapped uint8 array (..., H, W, 3)."""
    if not path.is_file():
        raise absent_error(suite, f"{suite}: no file {path}", path.parent)
    array, dimensions = open_array(str(path)), 4 if suite == "cifar_c" else 5
    if array.dtype != np.uint8 or array.ndim != dimensions or array.shape[-1] != 3:
        raise NstError(
            f"{path} holds no images",
            got=f"{array.dtype} {array.shape}",
            valid="uint8 (N, 32, 32, 3)" if dimensions == 4 else "uint8 (N, T, 32, 32, 3)",
        )
    return array


def _labels(path: Path, classes: Sequence[str]) -> np.ndarray:
    """Labels as positions in the network's class list, (N,) int64."""
    positions = np.array(cifar_positions(classes), np.int64)
    if not path.is_file():
        raise NstError(f"no file {path}", valid="labels.npy beside the images")
    published = open_array(str(path))
    if published.ndim != 1 or not published.size or not np.issubdtype(published.dtype, np.integer):
        raise NstError(
            f"{path} holds no labels", got=f"{published.dtype} {published.shape}", valid="whole numbers (N,), of int64"
        )
    if published.min() < 0 or published.max() >= len(positions):
        raise NstError(
            f"{path} does not fit a network of {len(positions)} classes",
            got=f"labels {published.min()} to {published.max()}",
            next="CIFAR-10-C goes with ten classes, CIFAR-100-C with a hundred",
        )
    return positions[published]
