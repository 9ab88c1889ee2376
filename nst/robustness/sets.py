"""The released robustness sets by name, from folders as they are published (paper section 3.2).

    imagenet_val, _a, _r, _sketch   <wnid>/x.JPEG            imagenet_v2   0/x.jpeg ... 999/x.jpeg
    imagenet_real                   validation images, flat or not, with several labels each
    imagenet_c                      [<group>/]<corruption>/<1..5>/<wnid>/x.JPEG, of 224 or 299 px
    imagenet_p                      [<group>/]<perturbation>[_2|_3]/<wnid>/x.mp4
    cifar_c, cifar_p                <name>.npy, labels.npy (`nst.robustness.cifar`)

Every opener takes the network's class list and gives a `ImageSet`; `find_cells` tells what a folder holds. ImageNet-A
and -R are to be evaluated on their own 200 classes: `subset_positions`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np

from nst.data.layout import is_hidden, is_image
from nst.documents import fingerprint
from nst.errors import NstError, nearest
from nst.robustness.baselines import (
    CORRUPTIONS,
    DIFFICULTIES,
    EXTRA_CORRUPTIONS,
    EXTRA_PERTURBATIONS,
    NUM_SEVERITIES,
    PERTURBATIONS,
)
from nst.robustness.classes import SUBSETS, imagenet_positions, imagenet_wnids, subset_wnids
from nst.robustness.image_sets import ImageSet
from nst.robustness.readers import class_folders, has_class_files, read_clip, read_image, require_folder, size_in_bytes

SETS = ("imagenet_val", "imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch")
REAL_NAME, REAL_IMAGES = "ILSVRC2012_val_", 50_000  # eight digits follow: from 1, the place among the ReaL labels
FRAMES, TRANSLATE_FRAMES = 31, 41  # of a clip of ImageNet-P
# of copies of -C and -P: names and levels of what they consist of
CELLS: dict[str, tuple[Sequence[str], Sequence[int]]] = {
    "c": (CORRUPTIONS + EXTRA_CORRUPTIONS, range(1, NUM_SEVERITIES + 1)),
    "p": (PERTURBATIONS + EXTRA_PERTURBATIONS, DIFFICULTIES),
}


# ---- one folder, one set ---------------------------------------------------------------------------------------


def imagenet_folders(name: str, root: str | Path, classes: Sequence[str]) -> ImageSet:
    """The set of SETS of that name.

    Args:
        root: the folder that holds the class folders, or the one around it.
        classes: of the network, in the order of its logits, as `imagenet_positions` takes them.

    Raises:
        NstError: no such folder or no images, or a class folder that set or network have not.
    """
    wnids, positions = imagenet_wnids(), imagenet_positions(classes)
    known: Collection[str] = subset_wnids(name) if name in SUBSETS else wnids
    if name == "imagenet_v2":  # numbered in the published order; as text, 10 would come before 2
        known = [str(index) for index in range(len(wnids))]
        positions = {folder: positions[wnid] for folder, wnid in zip(known, wnids, strict=True) if wnid in positions}
    paths, keys, labels, digest = class_folders(name, expanded(root), positions, known)
    return ImageSet(name, keys, labels, partial(read_image, paths), digest)


def imagenet_real(root: str | Path, classes: Sequence[str], labels: str | Path | None = None) -> ImageSet:
    """ImageNet's validation images with their ReaL labels, (N, M) padded with -1; images without any are left out.

    Args:
        root: folder of ILSVRC2012_val_*.JPEG; folders within it do not matter.
        classes: of the network; all 1,000.
        labels: the authors' real.json; None takes timm's copy of it.

    Raises:
        NstError: no such folder, none of these images in it, or not that file of labels.
    """
    root = require_folder("imagenet_real", expanded(root))
    sets = _real_labels(None if labels is None else expanded(labels), classes)
    files = {path.stem: path for pattern in ("", "*/") for path in root.glob(f"{pattern}{REAL_NAME}*.*")
             if is_image(path.name)}  # fmt: skip
    rows = {stem: int(number) - 1 for stem in sorted(files) if (number := stem.removeprefix(REAL_NAME)).isdecimal()}
    keys = [stem for stem, row in rows.items() if 0 <= row < REAL_IMAGES and sets[row, 0] >= 0]
    if not keys:
        raise NstError(f"imagenet_real: no images in {root}", valid=f"{REAL_NAME}00000001.JPEG, ...")
    paths, label = [files[key] for key in keys], sets[[rows[key] for key in keys]]
    digest = fingerprint(["imagenet_real", label, [(path.name, size_in_bytes(path)) for path in paths]])
    return ImageSet("imagenet_real", keys, label, partial(read_image, [str(path) for path in paths]), digest)


def _real_labels(path: Path | None, classes: Sequence[str]) -> np.ndarray:
    """Positions (50000, M) in the network's class list, padded behind with -1."""
    positions = imagenet_positions(classes)
    file = resources.files("timm.data") / "_info" / "imagenet_real_labels.json" if path is None else path
    try:
        published = json.loads(file.read_text(encoding="utf-8"))
        index = np.array([positions[wnid] for wnid in imagenet_wnids()])
        sets = np.full((REAL_IMAGES, max(map(len, published))), -1, np.int64)
        for row, labels in zip(range(REAL_IMAGES), published, strict=True):
            sets[row, : len(labels)] = index[labels]
    except KeyError as error:
        raise NstError(f"the network does not know the class {error}", valid="all 1,000 of ImageNet") from error
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise NstError(
            f"cannot read the ReaL labels {file}", got=error, valid="real.json: a list of 50,000 lists of classes"
        ) from error
    return sets


# ---- ImageNet-C and -P -------------------------------------------------------------------------------------------


def find_cells(suite: str, root: str | Path) -> dict[str, tuple[int, ...]]:
    """Which severities of which corruptions, or difficulties of which perturbations, a copy holds; empty folders do
    not count.

    Args:
        suite: such as imagenet_c, cifar_p: what the copy is one of, or should be.
    """
    names, levels = CELLS[suite.split("_")[1]]
    root = require_folder(suite, expanded(root))
    found = {name: tuple(level for level in levels if _cell(suite, root, name, level)) for name in names}
    return {name: held for name, held in found.items() if held}


def _cell(suite: str, root: Path, name: str, level: int) -> Path | None:
    """The file, or the folder of class folders, of a corruption at a severity or a perturbation at a difficulty; None
    where a copy does not hold it."""
    corrupted = suite.split("_")[1] == "c"
    stored = name if corrupted else stored_name(name, level)
    if suite.startswith("cifar"):
        path = root / f"{stored}.npy"
        return path if path.is_file() else None
    folder = _located(root, stored)
    if folder is not None and corrupted:
        folder /= str(level)
    return folder if folder is not None and has_class_files(folder) else None


def mistaken_kind(suite: str, root: str | Path) -> str | None:
    """What to do where `root` holds arrays and the suite consists of folders, or the other way round; None: neither."""
    kind, arrays = suite.split("_")[1], suite.startswith("cifar")
    other = f"{'imagenet' if arrays else 'cifar'}_{kind}"
    if find_cells(suite, root) or not find_cells(other, root):
        return None
    content = "ImageNet-{}'s folders" if arrays else "CIFAR-{} arrays"
    return f"these are {content.format(kind.upper())}: eval.{other}={root}"


def strange_names(root: str | Path) -> list[str]:
    """Folders and arrays of a copy of -C or -P that are neither a corruption or perturbation nor a group of them,
    each with the name that may be meant, if one is near; and folders of these that hold nothing."""
    (corruptions, _), (perturbations, difficulties) = CELLS.values()
    known = {*corruptions, *(stored_name(name, level) for name in perturbations for level in difficulties)}
    found = []
    for path in sorted(expanded(root).iterdir()):
        name = path.name.removesuffix(".npy")
        content = path.is_dir() or path.suffix == ".npy"
        group = path.is_dir() and any((path / inside).is_dir() for inside in known)
        if content and not group and name not in known | {"labels"} and not name.startswith("."):
            found.append(f"{path.name}{nearest(name, sorted(known))}")
    folders = {name: _located(expanded(root), name) for name in sorted(known)}
    return found + [
        f"{name}/ (no files in folders of classes)"
        for name, folder in folders.items()
        if folder is not None and not has_class_files(folder)
    ]


def stored_name(perturbation: str, difficulty: int = 1) -> str:
    """Folder or file of a perturbation: noise has one of its own per difficulty, the others share their frames."""
    return f"{perturbation}_{difficulty}" if "noise" in perturbation and difficulty > 1 else perturbation


def imagenet_c(root: str | Path, corruption: str, severity: int, classes: Sequence[str]) -> ImageSet:
    """One corruption at one severity of ImageNet-C; keys are the same in all of them.

    Raises:
        NstError: as `imagenet_folders`, or the copy does not hold it.
    """
    folder = _held("imagenet_c", root, corruption, severity, f"{corruption} of severity {severity}")
    name = f"imagenet_c/{corruption}/{severity}"
    paths, keys, labels, digest = class_folders(name, folder, imagenet_positions(classes), imagenet_wnids())
    return ImageSet(name, keys, labels, partial(read_image, paths), digest)


def imagenet_p(root: str | Path, perturbation: str, classes: Sequence[str], difficulty: int = 1) -> ImageSet:
    """Clips (T, H, W, 3) of one perturbation of ImageNet-P; T is 31, and 41 for `translate`, else it is a BadImage.

    Args:
        difficulty: chooses the folder of a noise; of others the frames are the same.

    Raises:
        NstError: as `imagenet_folders`, or the copy does not hold it.
    """
    stored = stored_name(perturbation, difficulty)
    folder = _held("imagenet_p", root, perturbation, difficulty, stored)
    name = f"imagenet_p/{stored}"
    paths, keys, labels, digest = class_folders(
        name, folder, imagenet_positions(classes), imagenet_wnids(), _is_clip, ".mp4 files"
    )
    frames = TRANSLATE_FRAMES if perturbation == "translate" else FRAMES
    return ImageSet(name, keys, labels, partial(read_clip, paths, frames), digest, frames)


def _held(suite: str, root: str | Path, name: str, level: int, told: str) -> Path:
    """The folder of what a copy must hold, `told` in words."""
    folder = _cell(suite, require_folder(suite, expanded(root)), name, level)
    if folder is None:
        raise absent_error(suite, f"{suite}: no {told} in {root}", root)
    return folder


def _located(root: Path, name: str) -> Path | None:
    """`root/<name>` or `root/<group>/<name>`, whichever is a folder."""
    return next((path for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_dir()), None)


def _is_clip(file: str) -> bool:
    return file.lower().endswith(".mp4") and not is_hidden(file)


def absent_error(suite: str, what: str, root: str | Path) -> NstError:
    """The error of a corruption or perturbation that is not there, with what is."""
    held = "; ".join(f"{name}: {', '.join(map(str, levels))}" for name, levels in find_cells(suite, root).items())
    right = f"give the folder that holds the {'files' if suite.startswith('cifar') else 'folders'} of their names"
    return NstError(what, got=held or "none of them", next=mistaken_kind(suite, root) or right)


def expanded(path: str | Path) -> Path:
    return Path(path).expanduser()
