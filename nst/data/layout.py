"""Reads file names: which are pictures, whose split a folder is, and the key of each picture.

A key is the path itself, made safe for WebDataset (`train/airplane/0000.jpg` becomes `train-airplane-0000`), so a
person finds the image again. Where that loses something (odd characters, great length, two files with one key) a short
hash of the whole path keeps it unique, and independent of the reading order.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache

from nst.data.images import IMAGE_EXTENSIONS
from nst.errors import NstError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
    "extra": "extra",
    # in other languages, without accents; no word that could be a class of its own
    **dict.fromkeys(("trainingsdaten", "trainingsbilder", "entrainement", "apprentissage", "entrenamiento",
                     "addestramento", "treino", "treinamento"), "train"),
    **dict.fromkeys(("validierung", "validierungsdaten", "validacion", "validazione", "validacao"), "val"),
    **dict.fromkeys(("testdaten", "testbilder"), "test"),
    **dict.fromkeys(("unsortiert", "unbeschriftet", "non_etiquete", "sin_etiquetar"), "unlabeled"),
}  # fmt: skip
KEY_LENGTH = 80  # a tar header holds names of 100 bytes
UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source.

    Args:
        split: train, val, test, unlabeled or extra; None: not predefined.
        name: of its file, as people know it; empty: it has none.
        line: of the file of labels that names it.
    """

    key: str
    extension: str
    label: int | None
    split: str | None
    name: str = ""
    line: int | None = None


class Passed:
    """What was passed over: names by reason."""

    def __init__(self) -> None:
        self._names: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str) -> None:
        self._names[reason].append(name)

    def each(self) -> Iterator[tuple[str, str]]:
        """Every name with its reason."""
        yield from ((name, reason) for reason, names in self._names.items() for name in names)

    def lines(self) -> list[str]:
        """A line for each reason: `3 passed over, no picture (.txt): notes.txt, ...`"""
        return [f"{len(names)} passed over, {reason}: {min(names)}" + (", ..." if len(names) > 1 else "")
                for reason, names in sorted(self._names.items())]  # fmt: skip


class Ignored:
    """What `data.source.ignore` leaves out: files and folders by name or pattern, relative to where reading begins."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.patterns = patterns
        self._used: set[str] = set()

    def __call__(self, name: str) -> bool:
        matching = {each for each in self.patterns if name == each.rstrip("/") or fnmatch(name, each)}
        self._used |= matching
        return bool(matching)

    def with_outer(self, name: str) -> bool:
        """Whether a file, or a folder that holds it, is left out."""
        parts = name.split("/")
        return True in [self("/".join(parts[:count])) for count in range(1, len(parts) + 1)]

    def lines(self) -> list[str]:
        """A line for each pattern that has matched nothing."""
        return [f"data.source.ignore: nothing is called {each}" + ("" if "*" in each else f"; deeper in: */{each}")
                for each in self.patterns if each not in self._used]  # fmt: skip


NOTHING = Ignored()


@dataclass(frozen=True)
class Contents:
    """Classes, entries in a fixed order, and the thread-safe function that reads the bytes of entry i.

    Args:
        notes: what a user should know of how it was read, in lines.
    """

    classes: tuple[str, ...]
    entries: list[Entry]
    read: Callable[[int], bytes]
    notes: tuple[str, ...] = ()


def is_image(name: str) -> bool:
    """True for names with an image's extension and no hidden or system folder on the way."""
    return not is_hidden(name) and extension_by_name(name) is not None


def extension_by_name(name: str) -> str | None:
    """The usual extension of the picture that a file of this name holds; None where its suffix says none."""
    suffix = os.path.splitext("x" + name.rsplit("/", 1)[-1])[1][1:].lower()  # x: .png alone is a suffix too
    return {"jpeg": "jpg", "tiff": "tif"}.get(suffix, suffix) if suffix in IMAGE_EXTENSIONS else None


def is_hidden(name: str) -> bool:
    """True for names with a hidden or system file or folder on the way, such as macOS's `._x.jpg`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


@lru_cache(maxsize=4096)
def part_called(word: str) -> str | None:
    """The split that a word names, in capitals and with accents too."""
    letters = unicodedata.normalize("NFKD", word.strip().lower())
    return SPLIT_FOLDERS.get("".join(letter for letter in letters if not unicodedata.combining(letter)))


def split_of(name: str) -> str | None:
    """The split whose folder `name` lies in."""
    top, slash, _ = name.partition("/")
    return part_called(top) if slash else None


def strip_common_folder(names: Sequence[str]) -> tuple[list[str], str]:
    """Names without the folders that wrap all of them (`cifar/train/cat/1.jpg` → `train/cat/1.jpg`), and these folders
    with a slash behind."""
    names, wrap = list(names), ""
    while names and "/" in names[0] and not split_of(names[0]):
        outer = names[0].partition("/")[0] + "/"
        if not all(name.startswith(outer) for name in names):
            break
        names = [name.removeprefix(outer) for name in names]
        wrap += outer
    return names, wrap


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
