"""The released robustness sets by name, from folders as they are published (paper section 3.2).

    imagenet_val, _a, _r, _sketch   <wnid>/x.JPEG            imagenet_v2   0/x.jpeg ... 999/x.jpeg
    imagenet_real                   validation images, flat or not, with several labels each
    imagenet_c                      [<group>/]<corruption>/<1..5>/<wnid>/x.JPEG, of 224 or 299 px
    imagenet_p                      [<group>/]<perturbation>[_2|_3]/<wnid>/x.mp4
    cifar_c, cifar_p                <name>.npy, labels.npy (`nst.robustness.cifar`)

Every opener takes the network's class list and gives a `ImageSet`; `find_corruptions` and `find_perturbations`
tell what a folder holds. ImageNet-A and -R are to be evaluated on their own 200 classes: `subset_positions`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from nst.data.layout import is_hidden, is_image
from nst.documents import fingerprint
from nst.errors import NstError, nearest
from nst.robustness.baselines import CORRUPTION_GROUPS, DIFFICULTIES, EXTRA_PERTURBATIONS, NUM_SEVERITIES, PERTURBATIONS
from nst.robustness.classes import (
    SUBSETS,
    imagenet_positions,
    imagenet_wnids,
    subset_wnids,
)
from nst.robustness.image_sets import ImageSet
from nst.robustness.readers import (
    ClipFiles,
    ImageFiles,
    class_folders,
    has_class_files,
    require_folder,
    size_in_bytes,
)

SETS = ("imagenet_val", "imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch")
REAL_NAME, REAL_IMAGES = "ILSVRC2012_val_", 50_000  # eight digits follow: from 1, the place among the ReaL labels
FRAMES, TRANSLATE_FRAMES = 31, 41  # of a clip of ImageNet-P


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
    return ImageSet(name, keys, labels, ImageFiles(paths), digest)


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
    return ImageSet("imagenet_real", keys, label, ImageFiles([str(path) for path in paths]), digest)


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


def find_corruptions(root: str | Path, *, arrays: bool) -> dict[str, tuple[int, ...]]:
    """Which severities of which corruptions a copy of ImageNet-C holds, or, with `arrays`, of CIFAR-C; extra ones
    included, and empty folders not."""
    root = require_folder("corruptions", expanded(root))
    names = [name for group in CORRUPTION_GROUPS.values() for name in group]
    severities = tuple(range(1, NUM_SEVERITIES + 1))
    if arrays:
        return {name: severities for name in names if (root / f"{name}.npy").is_file()}
    folders = {name: folder for name in names if (folder := _located(root, name)) is not None}
    found = {
        name: tuple(severity for severity in severities if has_class_files(folder / str(severity)))
        for name, folder in folders.items()
    }
    return {name: held for name, held in found.items() if held}


def find_perturbations(root: str | Path, *, arrays: bool) -> dict[str, tuple[int, ...]]:
    """Which difficulties of which perturbations can be computed from a copy of ImageNet-P or, with `arrays`, of
    CIFAR-P; empty folders do not count."""
    root = require_folder("perturbations", expanded(root))
    names = dict.fromkeys((*PERTURBATIONS, *EXTRA_PERTURBATIONS))

    def held(stored: str) -> bool:
        if arrays:
            return (root / f"{stored}.npy").is_file()
        return (folder := _located(root, stored)) is not None and has_class_files(folder)

    found = {name: tuple(level for level in DIFFICULTIES if held(stored_name(name, level))) for name in names}
    return {name: difficulties for name, difficulties in found.items() if difficulties}


def mistaken_kind(suite: str, root: str | Path) -> str | None:
    """What to do where `root` holds arrays and the suite consists of folders, or the other way round; None: neither."""
    kind, arrays = suite.split("_")[1], suite.startswith("cifar")
    find = find_corruptions if kind == "c" else find_perturbations
    if find(root, arrays=arrays) or not find(root, arrays=not arrays):
        return None
    other = "imagenet" if arrays else "cifar"
    content = "ImageNet-{}'s folders" if arrays else "CIFAR-{} arrays"
    return f"these are {content.format(kind.upper())}: eval.{other}_{kind}={root}"


def strange_names(root: str | Path) -> list[str]:
    """Folders and arrays of a copy of -C or -P that are neither a corruption or perturbation nor a group of them,
    each with the name that may be meant, if one is near; and folders of these that hold nothing."""
    corruptions = [name for group in CORRUPTION_GROUPS.values() for name in group]
    perturbations = [
        stored_name(name, level) for name in (*PERTURBATIONS, *EXTRA_PERTURBATIONS) for level in DIFFICULTIES
    ]
    known = {*corruptions, *perturbations}
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
    folder = _located(require_folder("imagenet_c", expanded(root)), corruption)
    if folder is None or not has_class_files(folder / str(severity)):
        raise absent_error("imagenet_c", f"imagenet_c: no {corruption} of severity {severity} in {root}", root)
    name = f"imagenet_c/{corruption}/{severity}"
    paths, keys, labels, digest = class_folders(
        name, folder / str(severity), imagenet_positions(classes), imagenet_wnids()
    )
    return ImageSet(name, keys, labels, ImageFiles(paths), digest)


def imagenet_p(
    root: str | Path, perturbation: str, classes: Sequence[str], difficulty: int = 1, frames: int | None = None
) -> ImageSet:
    """Clips (T, H, W, 3) of one perturbation of ImageNet-P.

    Args:
        difficulty: chooses the folder of a noise; of others the frames are the same.
        frames: T; None is 31, and 41 for `translate`. A clip of another length is a BadImage.

    Raises:
        NstError: as `imagenet_folders`, or the copy does not hold it.
    """
    stored = stored_name(perturbation, difficulty)
    folder = _located(require_folder("imagenet_p", expanded(root)), stored)
    if folder is None or not has_class_files(folder):
        raise absent_error("imagenet_p", f"imagenet_p: no {stored} in {root}", root)
    name = f"imagenet_p/{stored}"
    paths, keys, labels, digest = class_folders(
        name, folder, imagenet_positions(classes), imagenet_wnids(), _is_clip, ".mp4 files"
    )
    frames = frames or (TRANSLATE_FRAMES if perturbation == "translate" else FRAMES)
    return ImageSet(name, keys, labels, ClipFiles(paths, frames), digest, frames)


def _located(root: Path, name: str) -> Path | None:
    """`root/<name>` or `root/<group>/<name>`, whichever is a folder."""
    return next((path for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_dir()), None)


def _is_clip(file: str) -> bool:
    return file.lower().endswith(".mp4") and not is_hidden(file)


def absent_error(suite: str, what: str, root: str | Path) -> NstError:
    """The error of a corruption or perturbation that is not there, with what is."""
    find = find_corruptions if suite.endswith("_c") else find_perturbations
    arrays = suite.startswith("cifar")
    held = "; ".join(f"{name}: {', '.join(map(str, levels))}" for name, levels in find(root, arrays=arrays).items())
    right = f"give the folder that holds the {'files' if arrays else 'folders'} of their names"
    return NstError(what, got=held or "none of them", next=mistaken_kind(suite, root) or right)


def expanded(path: str | Path) -> Path:
    return Path(path).expanduser()
