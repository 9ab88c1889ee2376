"""Every source of images: data sets, folders and archives, each a list of entries and a way to read one.

Files are passed on byte for byte and only arrays are encoded (as PNG, lossless), so a shard holds exactly the pixels
that its source holds. Listing is lazy and apart from the `digest` of names and contents, which knows files again that
have not changed, so that a finished run is recognised without reading the data again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from nst.data.archives import scan_archives
from nst.data.arrangement import label_by_folder
from nst.data.files import contents_of, list_pictures, read_file, status_of
from nst.data.images import encode_png
from nst.data.label_files import classes_of, placed, read_labels
from nst.data.layout import Contents, Entry, Ignored, is_image, split_of, strip_common_folder, unique_keys
from nst.data.named_pictures import pictures_at
from nst.data.source import Source
from nst.data.torchvision_sets import FILE_SETS, arrays, files
from nst.documents import fingerprint
from nst.errors import NstError, UsageError, nearest

IMAGENET_IMAGES = {"train": 1_281_167, "val": 50_000}
IMAGENET_CLASSES = 1000


# ---- arrays --------------------------------------------------------------------------


def digits() -> Source:
    """The 1,797 digits (8 x 8 pixels, 17 grey levels) bundled with scikit-learn; no predefined split."""

    def scan() -> Contents:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        entries = [Entry(f"digits-{i:04d}", "png", int(label), None) for i, label in enumerate(bunch.target)]
        return Contents(tuple(map(str, range(10))), entries, lambda i: encode_png(pixels[i]))

    return Source("digits", fingerprint(["digits", 1797]), scan, lossless=True)


# ---- folders -------------------------------------------------------------------------


def folder(root: str | Path, labeled: bool | None = None, ignore: Sequence[str] = ()) -> Source:
    """Image files under `root`: `[train|val|test/]<class>/x.jpg`, `unlabeled/`, or unlabeled in any arrangement.

    Args:
        root: the folder; an archive will do too.
        labeled: whether folder names are classes; None: as their arrangement says.
        ignore: names or patterns, relative to root, of files and folders to leave out.
    """
    path = _path(root)
    return tar(path, labeled, ignore) if path.is_file() else _folder_source("folder", path, labeled, ignore=ignore)


def imagenet(root: str | Path = "datasets/imagenet", download: bool = False) -> Source:
    """ImageNet 2012: `root/train/<wnid>`, `root/val/<wnid>`; classes are the wnids, sorted.

    Where these folders are missing, torchvision unpacks the official archives that lie in `root`.
    """
    path = _path(root)
    if download:
        raise NstError(
            "ImageNet cannot be downloaded without an account",
            next=f"fetch the ILSVRC2012 train, val and devkit archives from image-net.org into {path}",
        )
    if not all((path / split).is_dir() for split in IMAGENET_IMAGES):
        _unpack_imagenet(path)
    inner = _folder_source("imagenet", path, True, tuple(IMAGENET_IMAGES))

    def scan() -> Contents:
        contents = inner.contents
        found = {name: sum(entry.split == name for entry in contents.entries) for name in IMAGENET_IMAGES}
        if found != IMAGENET_IMAGES or len(contents.classes) != IMAGENET_CLASSES:
            raise NstError(
                f"{path} is not the whole of ImageNet",
                got=f"{len(contents.classes)} classes, {found}",
                valid=f"{IMAGENET_CLASSES} classes, {IMAGENET_IMAGES}",
                next="for a part of it, or other data of the same form: data=folder data.source.root=<folder>",
            )
        return contents

    return Source("imagenet", inner.digest, scan)


def _unpack_imagenet(path: Path) -> None:
    from torchvision.datasets import ImageNet

    try:
        for split in IMAGENET_IMAGES:
            ImageNet(str(path), split=split)
    except (RuntimeError, OSError) as error:
        raise NstError(
            f"no ImageNet in {path}",
            got=error,
            valid="folders train/<wnid> and val/<wnid>, or the official ILSVRC2012 archives",
            next="name the folder that holds it: data.source.root=...",
        ) from error


def _folder_source(
    name: str,
    root: Path,
    labeled: bool | None,
    only: tuple[str, ...] | None = None,
    ignore: Sequence[str] = (),
) -> Source:
    if not root.is_dir():
        way = "name the folder that holds the images: data.source.root=..."
        if re.match(r"[a-z0-9]+:/", str(root)):
            way = f"download what is at that address, and {way}"
        raise NstError(f"no such folder: {root}", next=way)
    ignored = Ignored(ignore)
    listing = list_pictures(root, only or ("",), ignored)

    def scan() -> Contents:
        names = list(listing.files)
        inner, wrap = strip_common_folder(names)
        if not (inner and split_of(inner[0])):  # a wrapper is one where it holds splits
            inner, wrap = names, ""
        folders = [folder.removeprefix(wrap) for folder in listing.folders if folder.startswith(wrap)]
        extensions = [extension for extension, _ in listing.files.values()]
        classes, entries = label_by_folder(inner, labeled, name, extensions=extensions, folders=folders)
        notes = ([f"everything is read from {root / wrap}"] if wrap else []) + listing.passed.lines() + ignored.lines()
        return Contents(classes, entries, lambda i: read_file(root / names[i]), tuple(notes))

    def digest() -> str:
        files = [(file, status) for file, (_, status) in listing.files.items()]
        names = [file for file, _ in files]
        return fingerprint([name, labeled, list(zip(names, contents_of(root, files), strict=True))])

    return Source(name, digest, scan)


def tar(root: str | Path | Sequence[str], labeled: bool | None = None, ignore: Sequence[str] = ()) -> Source:
    """Images in one or several archives (.tar, .tar.gz, .tar.bz2, .tar.xz, .zip), arranged as for `folder`.

    A folder that wraps everything is ignored; of several archives, train.tar, test.tar ... hold that split.
    """
    paths = [_path(path) for path in ([root] if isinstance(root, str | Path) else root)]
    for path in paths:
        if path.is_dir():
            raise NstError(
                f"{path} is a folder, not an archive", next=f"data=folder data.source.root={quote(str(path))}"
            )
        if is_image(path.name):
            folder_of = quote(f"data.source.root={path.parent}")
            raise NstError(
                f"{path} is a picture, no folder and no archive", next=f"the folder that holds it: {folder_of}"
            )
        if path.suffix.lower() in (".csv", ".tsv"):
            raise NstError(f"{path} is a table, no archive", next=f"data=csv {quote(f'data.source.root={path}')}")
    states = [status_of(path) for path in paths]

    def digest() -> str:
        found = [(path.name, *contents_of(path, [("", state)])) for path, state in zip(paths, states, strict=True)]
        return fingerprint(["tar", labeled, list(ignore), found])

    return Source("tar", digest, lambda: scan_archives(paths, labeled, ignore))


def labels_in_csv(
    root: str | Path,
    pictures: str | Path | None = None,
    file_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
) -> Source:
    """Pictures that a CSV file names, with their labels and splits (`nst.data.label_files`).

    Args:
        root: the CSV file.
        pictures: folder, archive or shards of the pictures; None: the folder of the CSV file.
        file_column, label_column, split_column: names of columns; None: found by their usual names.
    """
    path = _path(root)
    place = _path(pictures) if pictures is not None else path.parent
    rows = read_labels(path, {"file": file_column, "label": label_column, "split": split_column})
    found = pictures_at(place)
    names = list(found.extensions)
    at = placed(path, rows, names, place, strip_common_folder(names)[1])
    chosen = [names[position] for position in at]

    def scan() -> Contents:
        classes = classes_of(rows, "csv")
        label = {name: number for number, name in enumerate(classes)}
        entries = [
            Entry(
                key, found.extensions[name], None if row.label is None else label[row.label], row.split, name, row.line
            )
            for key, name, row in zip(unique_keys(chosen, chosen), chosen, rows, strict=True)
        ]
        unnamed = len(names) - len(set(at))
        notes = [f"pictures in {place} that {path.name} does not name: {unnamed}"] if unnamed else []
        return Contents(classes, entries, lambda position: found.read(chosen[position]), tuple(notes))

    def digest() -> str:
        return fingerprint(["csv", [[row.file, row.label, row.split] for row in rows], found.contents(chosen)])

    return Source("csv", digest, scan)


SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "cifar10": arrays("cifar10", "CIFAR10", ("train", "test"), by_flag=True),
    "cifar100": arrays("cifar100", "CIFAR100", ("train", "test"), by_flag=True),
    "svhn": arrays("svhn", "SVHN", ("train", "extra", "test"), by_flag=False),
    "stl10": arrays("stl10", "STL10", ("train", "test", "unlabeled"), by_flag=False),
    "imagenet": imagenet,
    "folder": folder,
    "tar": tar,
    "csv": labels_in_csv,
    **{name: files(name, folder) for name in FILE_SETS},
}


def open_source(name: str, **options: Any) -> Source:
    """The source of that name; options that are None are left to its defaults.

    Raises:
        NstError: unknown name or option, a missing one, or no data there.
    """
    if name not in SOURCES:
        raise UsageError("unknown source", got=f"'{name}'{nearest(name, SOURCES)}", valid=", ".join(SOURCES))
    given = {option: value for option, value in options.items() if value is not None}
    if name != "tar" and isinstance(given.get("root"), list):
        raise UsageError(f"source {name} takes one folder", got=f"data.source.root={given['root']}")
    parameters = inspect.signature(SOURCES[name]).parameters
    if unknown := sorted(given.keys() - parameters.keys()):
        raise UsageError(
            f"source {name} has no option {unknown[0]}",
            valid=", ".join(parameters) or f"{name} takes no options",
        )
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in given]
    if missing:
        option = f"data.source.{missing[0]}"
        raise UsageError(f"option '{option}' needs a value", next=f"{option}=<folder or file>")
    return SOURCES[name](**given)


def takes(name: str, option: str) -> bool:
    """Whether a source has an option, such as `labeled`, by which it gives its pictures without labels."""
    return name in SOURCES and option in inspect.signature(SOURCES[name]).parameters


def _path(path: str | Path) -> Path:
    return Path(path).expanduser()
