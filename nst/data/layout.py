"""From file names to keys, classes and splits: what the arrangement of folders says about the images in it.

A key is the path itself, made safe for WebDataset (`train/airplane/0000.jpg` becomes `train-airplane-0000`), so a
person finds the image again. Where that loses something (odd characters, great length, two files with one key) a short
hash of the whole path keeps it unique, and independent of the reading order.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nst.data.images import IMAGE_EXTENSIONS
from nst.errors import NstError

SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "unlabeled": "unlabeled",
    "extra": "extra",
}
KEY_LENGTH = 80  # a tar header holds names of 100 bytes
UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source; `split` is train, val, test, unlabeled or extra; None: not predefined."""

    key: str
    extension: str
    label: int | None
    split: str | None


@dataclass(frozen=True)
class Contents:
    """Classes, entries in a fixed order, and the thread-safe function that reads the bytes of entry i."""

    classes: tuple[str, ...]
    entries: list[Entry]
    read: Callable[[int], bytes]


def is_image(name: str) -> bool:
    """True for names with an image's extension and no hidden or system folder on the way."""
    file = name.rsplit("/", 1)[-1]
    return not is_hidden(name) and "." in file and file.rsplit(".", 1)[1].lower() in IMAGE_EXTENSIONS


def is_hidden(name: str) -> bool:
    """True for names with a hidden or system file or folder on the way, such as macOS's `._x.jpg`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def split_of(name: str) -> str | None:
    """The split whose folder `name` lies in."""
    top, slash, _ = name.partition("/")
    return SPLIT_FOLDERS.get(top.lower()) if slash else None


def strip_common_folder(names: Sequence[str]) -> list[str]:
    """Names without the folders that wrap all of them: `cifar/train/cat/1.jpg` → `train/cat/1.jpg`."""
    names = list(names)
    while names and "/" in names[0] and not split_of(names[0]):
        wrap = names[0].partition("/")[0] + "/"
        if not all(name.startswith(wrap) for name in names):
            break
        names = [name.removeprefix(wrap) for name in names]
    return names


def label_by_folder(
    names: Sequence[str], labeled: bool | None, source: str, origins: Sequence[str] | None = None
) -> tuple[tuple[str, ...], list[Entry]]:
    """Classes (sorted by name, as ImageFolder does) and one entry per name.

    Args:
        names: relative paths with `/`.
        labeled: whether folders are classes; None: per split, if all images lie in several folders.
        source: for messages.
        origins: what tells apart files of one name, as in two archives; by default the names.

    Raises:
        NstError: an image outside class folders, classes only the test split knows, or a file listed twice.
    """
    has_splits = all(map(split_of, names))
    # `unlabeled` beside class folders is no class: the way most people would lay out pictures of their own
    splits = [split if has_splits or split == "unlabeled" else None for split in map(split_of, names)]
    inner = [name.partition("/")[2] if split else name for name, split in zip(names, splits, strict=True)]
    with_labels = {
        split
        for split in set(splits) - {"unlabeled"}
        if _folders_are_classes([name for name, of in zip(inner, splits, strict=True) if of == split], labeled, source)
    }
    folders = [
        name.partition("/")[0] if split in with_labels else None for name, split in zip(inner, splits, strict=True)
    ]
    classes = _classes(folders, splits, source)
    index = {name: label for label, name in enumerate(classes)}
    keys = unique_keys(names, origins or names)
    entries = [
        Entry(key, _extension(name), index[folder] if folder is not None else None, split)
        for key, name, folder, split in zip(keys, names, folders, splits, strict=True)
    ]
    return classes, entries


def _folders_are_classes(names: Sequence[str], labeled: bool | None, source: str) -> bool:
    outside = next((name for name in names if "/" not in name), None)
    if labeled is None:
        return outside is None and len({name.partition("/")[0] for name in names}) > 1
    if labeled and outside is not None:
        raise NstError(
            f"source {source}: an image lies outside the class folders",
            got=outside,
            valid="<class>/x.jpg, or train/<class>/x.jpg",
            next="move it, or take all images without labels: data.source.labeled=false",
        )
    return labeled


def _classes(folders: Iterable[str | None], splits: Iterable[str | None], source: str) -> tuple[str, ...]:
    seen: dict[str, set[str | None]] = {}
    for folder, split in set(zip(folders, splits, strict=True)):
        if folder is not None:
            seen.setdefault(folder, set()).add(split)
    trained = {name for name, found in seen.items() if found - {"test", "val"}}
    strangers = sorted(seen.keys() - trained)
    if trained and strangers:
        raise NstError(
            f"source {source}: classes that only the test split knows",
            got=", ".join(strangers[:8]),
            valid=", ".join(sorted(trained)[:8]) + (", ..." if len(trained) > 8 else ""),
        )
    return tuple(sorted(seen))


def _extension(name: str) -> str:
    extension = name.rsplit(".", 1)[1].lower()
    return {"jpeg": "jpg", "tiff": "tif"}.get(extension, extension)


def unique_keys(names: Sequence[str], origins: Sequence[str]) -> list[str]:
    """One WebDataset key (no dot, no slash, ASCII) per name; a pure function of the set of names.

    Raises:
        NstError: the same file is listed twice.
    """
    plain = [name.rsplit(".", 1)[0].replace("/", "-") for name in names]
    safe = [re.sub("^__+", "_", UNSAFE.sub("_", text))[:KEY_LENGTH] for text in plain]  # __x is metadata to WebDataset
    shared = Counter(safe)
    keys = [
        key if key == text and shared[key] == 1 else f"{key}-{_short_hash(origin)}"
        for key, text, origin in zip(safe, plain, origins, strict=True)
    ]
    if len(set(keys)) < len(keys):
        counts = Counter(keys)
        twice = next(origin for key, origin in zip(keys, origins, strict=True) if counts[key] > 1)
        raise NstError("a file is listed twice", got=twice, next="remove one of the two")
    return keys


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
