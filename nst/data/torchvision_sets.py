"""Data sets that torchvision fetches and checks: those that are arrays, and those of files, which are read as they are.

A set of files may also lie in a folder or archive of one's own, arranged as for `folder`: its root then names that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nst.data.arrangement import require_class_names
from nst.data.files import contents_of, read_file, status_of
from nst.data.images import encode_png
from nst.data.layout import Contents, Entry, extension_by_name, part_called, unique_keys
from nst.data.source import Source
from nst.documents import fingerprint
from nst.errors import NstError


def arrays(name: str, class_name: str, splits: Sequence[str], by_flag: bool) -> Callable[..., Source]:
    """A source over a torchvision data set that is one array; torchvision checks the MD5 of its files."""

    def build(root: str | Path = "datasets", download: bool = False) -> Source:
        def load(split: str) -> Any:
            chosen = {"train": split == "train"} if by_flag else {"split": split}
            return _load(f"{name} ({split})", class_name, Path(root).expanduser(), download, chosen)

        return Source(name, fingerprint([name]), lambda: _concatenated(load, splits), lossless=True)

    build.__doc__ = f"torchvision's {class_name}: {', '.join(splits)}; downloaded only when told to."
    return build


def _concatenated(load: Callable[[str], Any], splits: Sequence[str]) -> Contents:
    entries: list[Entry] = []
    parts: list[np.ndarray] = []
    starts = [0]
    classes: tuple[str, ...] = ()
    for split in splits:
        data = load(split)
        pixels = data.data if data.data.shape[-1] == 3 else data.data.transpose(0, 2, 3, 1)
        labels = data.targets if hasattr(data, "targets") else data.labels
        classes = tuple(getattr(data, "classes", None) or map(str, range(10)))  # SVHN's classes are the digits
        entries += [
            Entry(f"{split}-{i:06d}", "png", int(label) if label >= 0 else None, split)
            for i, label in enumerate(labels)
        ]
        parts.append(pixels)
        starts.append(len(entries))

    def read(position: int) -> bytes:
        part = int(np.searchsorted(starts, position, side="right")) - 1
        return encode_png(parts[part][position - starts[part]])

    return Contents(classes, entries, read)


# ---- files -----------------------------------------------------------------------------------------------------------

# torchvision's class, and its name of our splits; None where it has none
FILE_SETS: dict[str, tuple[str, Mapping[str, str] | None]] = {
    "eurosat": ("EuroSAT", None),
    "flowers102": ("Flowers102", {"train": "train", "val": "val", "test": "test"}),
    "oxford_pets": ("OxfordIIITPet", {"train": "trainval", "test": "test"}),
    "food101": ("Food101", {"train": "train", "test": "test"}),
    "dtd": ("DTD", {"train": "train", "val": "val", "test": "test"}),
    "fgvc_aircraft": ("FGVCAircraft", {"train": "train", "val": "val", "test": "test"}),
    "country211": ("Country211", {"train": "train", "val": "valid", "test": "test"}),
    "gtsrb": ("GTSRB", {"train": "train", "test": "test"}),
    "imagenette": ("Imagenette", {"train": "train", "val": "val"}),
    "sun397": ("SUN397", None),
}


def files(name: str, own: Callable[..., Source]) -> Callable[..., Source]:
    """A source over one of FILE_SETS; `own` reads a folder or archive that is arranged by splits and classes."""
    class_name, splits = FILE_SETS[name]

    def build(root: str | Path = "datasets/torchvision", download: bool = False) -> Source:
        path = Path(root).expanduser()
        if path.is_file() or (path.is_dir() and any(part_called(part.name) for part in path.iterdir())):
            return own(path)
        found: list[tuple[Path, int, str | None]] = []
        classes: tuple[str, ...] = ()
        for split, theirs in (splits or {"": ""}).items():
            own_form = ", or a folder or archive with train/<class> and test/<class>"
            data = _load(name, class_name, path, download, {"split": theirs} if theirs else {}, own_form)
            found += [(file, label, split or None) for file, label in _labeled_files(data)]
            classes = _class_names(data, classes)
        return _file_source(name, path, classes, found)

    where = ", ".join(splits) if splits else "no splits of its own"
    build.__doc__ = f"torchvision's {class_name}: {where}; or a folder or archive of it with train/ and test/."
    return build


def _load(name: str, class_name: str, root: Path, download: bool, chosen: Mapping[str, Any], own_form: str = "") -> Any:
    """A data set of torchvision's; `own_form`: what else its folder may be."""
    import torchvision

    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
        return getattr(torchvision.datasets, class_name)(root=str(root), download=download, **chosen)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        raise NstError(
            f"{name} is not in {root}, and could not be fetched" if download else f"{name} is not in {root}",
            got=error,
            valid=f"what torchvision has fetched{own_form}",
            next="name what holds it: data.source.root=..., or fetch it: data.source.download=true",
        ) from error


def _labeled_files(data: Any) -> list[tuple[Path, int]]:
    """Path and label of every picture of a torchvision set, which keeps them under one of few names."""
    for pairs in ("samples", "_samples"):
        if hasattr(data, pairs):
            return [(Path(file), int(label)) for file, label in getattr(data, pairs)]
    names = next(getattr(data, name) for name in ("_image_files", "_images") if hasattr(data, name))
    return [(Path(file), int(label)) for file, label in zip(names, data._labels, strict=True)]


def _class_names(data: Any, before: Sequence[str]) -> tuple[str, ...]:
    """Names of the labels; where a name stands for several labels, or is a path, it is made one of its own."""
    names = [one[0] if isinstance(one, tuple) else str(one) for one in getattr(data, "classes", [])]
    if not names:  # GTSRB has numbers only
        names = [str(label) for label in range(max([len(before), *(label + 1 for _, label in _labeled_files(data))]))]
    return tuple(f"{name} ({label})" if names.count(name) > 1 else name for label, name in enumerate(names))


def _file_source(
    name: str, root: Path, classes: tuple[str, ...], found: Sequence[tuple[Path, int, str | None]]
) -> Source:
    names = [f"{split}/{path.name}" if split else f"{classes[label]}/{path.name}" for path, label, split in found]
    states = [status_of(path) for path, _, _ in found]

    def scan() -> Contents:
        require_class_names(classes, name)
        keys = unique_keys(names, [str(path) for path, _, _ in found])
        entries = [
            Entry(key, extension_by_name(path.name) or "jpg", label, split)
            for key, (path, label, split) in zip(keys, found, strict=True)
        ]
        return Contents(classes, entries, lambda position: read_file(found[position][0]))

    def digest() -> str:
        top = root.resolve()
        listed = [
            (str(path.resolve().relative_to(top)), state) for (path, *_), state in zip(found, states, strict=True)
        ]
        kinds = [[label, split] for _, label, split in found]
        return fingerprint([name, list(classes), names, kinds, contents_of(top, listed)])

    return Source(name, digest, scan)
