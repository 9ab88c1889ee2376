"""A folder per class with a link to each of its pictures; of pictures inside archives and shards, a copy.

Nothing that somebody else has put there is replaced: a picture whose name is taken gets another one. A link or copy
that an earlier sorting of the same input has made goes where the picture is gone, or of another class now.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst import leftovers, written
from nst.atomic import write_json
from nst.data.files import known_status
from nst.documents import read_json
from nst.errors import UsageError
from nst.untrusted import LONGEST_NAME

COPIES = ".nst_copies.json"  # name below the folder → the input that it is of, and its status
AT_ONCE = 1000  # names noted before their files appear
UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')  # in names on some file system; `/` on all


@dataclass(frozen=True)
class Sorted:
    """A picture to be sorted: its class's folder, path as it is told, its file, or what reads it where it has none."""

    folder: str
    path: str
    file: Path | None
    read: Callable[[], bytes]


def require_folder(folder: Path) -> None:
    """Raises UsageError where there can be no such folder, since it or one above it is a file."""
    first = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not first.is_dir():
        raise UsageError(
            f"pictures cannot be sorted into {folder}",
            got=f"{first}, which is no folder",
            valid="a folder, or none yet",
        )


def sort_into(folder: Path, pictures: Iterable[Sorted], root: str) -> int:
    """Links (or writes) every picture below `folder`; returns how many.

    Args:
        root: the input, whose own path is no part of the pictures' names.
    """
    written.begin(folder)
    plan: dict[Path, Sorted] = {}
    for picture in pictures:
        plan[_free(folder / picture.folder, file_name(picture.path, root), picture, plan)] = picture
    for place in {place.parent for place in plan}:
        require_folder(place)
    places = {os.path.abspath(picture.file): place for place, picture in plan.items() if picture.file is not None}
    whole = os.path.abspath(root)
    _forget(folder, places, os.path.join(whole, ""))
    copies = sorted(str(place.relative_to(folder)) for place, picture in plan.items() if picture.file is None)
    others = _forget_copies(folder, copies, whole)
    new = [(place, picture) for place, picture in plan.items() if not os.path.lexists(place)]
    for start in range(0, len(new), AT_ONCE):
        _put(dict(new[start : start + AT_ONCE]))
    if copies or (folder / COPIES).exists():
        ours = {name: [whole, *known_status(folder / name)] for name in copies}
        write_json(folder / COPIES, {"copies": others | ours})
    return len(plan)


def _forget_copies(folder: Path, copies: Sequence[str], root: str) -> dict[str, Any]:
    """Deletes our copies of pictures of this input that are not to be there now, unless a person has changed them.

    Returns:
        what is noted of other inputs' copies.
    """
    path = folder / COPIES
    known: dict[str, Any] = read_json(path)["copies"] if path.exists() else {}
    old = {name for name, (source, *_) in known.items() if source == root}
    gone = old.difference(copies)
    written.unlink(*(folder / name for name in sorted(gone) if [*known_status(folder / name)] == known[name][1:]))
    return {name: note for name, note in known.items() if name not in old}


def _put(pictures: Mapping[Path, Sorted]) -> None:
    """Notes these places, which are free, then fills them."""
    for place in pictures:
        place.parent.mkdir(parents=True, exist_ok=True)
    written.note(*(place for place, picture in pictures.items() if picture.file is not None), kind=written.LINK)
    written.note(*(place for place, picture in pictures.items() if picture.file is None))
    for place, picture in pictures.items():
        if picture.file is not None:
            place.symlink_to(os.path.abspath(picture.file))
            continue
        temporary = leftovers.temporary(place)
        temporary.write_bytes(picture.read())
        os.replace(temporary, place)


def class_folders(classes: Sequence[str]) -> list[str]:
    """A name for the folder of every class: its own, as far as one may have it; with `~2` behind it where it is taken.

    Classes whose own name will do come first: of `a/b` and `a_b` the second has the folder a_b, and the first a_b~2.
    """
    wanted = [_shortened(UNSAFE.sub("_", name).strip(". ") or "_") for name in classes]
    folders = {name: name for name, folder in zip(classes, wanted, strict=True) if name == folder}
    taken = set(folders)
    for name, folder in zip(classes, wanted, strict=True):
        if name in folders:
            continue
        others = (f"{folder}~{number}" for number in itertools.count(2))
        folders[name] = next(each for each in itertools.chain([folder], others) if each not in taken)
        taken.add(folders[name])
    return [folders[name] for name in classes]


def file_name(path: str, root: str) -> str:
    """The name of a picture among all of its class: the folders on its way are part of it."""
    inner = path[len(root) :] if path.startswith(root) and path != root else path
    name = UNSAFE.sub("_", inner.strip("/").replace("/", "-")) if inner != path else os.path.basename(path)
    return _shortened(name.lstrip(".") or "_")


def _shortened(name: str) -> str:
    if len(os.fsencode(name)) <= LONGEST_NAME - 8:
        return name
    stem, ending = os.path.splitext(name)
    return os.fsdecode(os.fsencode(stem)[: LONGEST_NAME - 8 - len(os.fsencode(ending))]) + ending


def _free(folder: Path, name: str, picture: Sorted, taken: Container[Path]) -> Path:
    """A place of that name, or with `~2`, `~3` behind it, where nothing else is."""
    stem, ending = os.path.splitext(name)
    number, place = 1, folder / name
    while place in taken or not _may_be(place, picture):
        number += 1
        place = folder / f"{stem}~{number}{ending}"
    return place


def _may_be(place: Path, picture: Sorted) -> bool:
    """Whether there is nothing, or what this sorting would put there."""
    if not os.path.lexists(place):
        return True
    if picture.file is not None:
        return place.is_symlink() and os.readlink(place) == os.path.abspath(picture.file)
    return place.is_file() and not place.is_symlink() and place.read_bytes() == picture.read()


def _forget(folder: Path, places: Mapping[str, Path], root: str) -> None:
    """Deletes our links to pictures of this input that stand elsewhere than they are to be now."""
    contents = written.FolderContents.of(folder)
    for name in contents.ours if contents else []:
        link = folder / name
        target = os.readlink(link) if link.is_symlink() else ""
        if (target in places or target.startswith(root)) and places.get(target) != link:
            link.unlink()
