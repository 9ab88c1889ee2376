"""Classes and splits of images, read from the arrangement of their folders.

An arrangement is read where it says one thing, and refused with the ways to say which where it could mean two: a
folder or picture beside train/ and test/, pictures beside class folders, splits inside another folder, an empty class.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from nst.data.layout import Entry, part_called, split_of, unique_keys
from nst.errors import NstError
from nst.shown import count_of, some

WITH_CLASSES = ("train", "val", "test")  # splits whose folders are classes
NO_CLASSES = {"dev", "eval", "holdout"}  # a folder of such a name is hardly a class, nor one that is called like a part
AS_UNLABELED = "data.source.labeled=false takes all pictures without labels"
SHOWN = 8
SAME_INSIDE = 0.5  # of the folders inside the smaller of two: from here on they may be parts with the same classes
MOST_PARTS = 4  # that data come in; more folders are classes, whatever is in them
SPLIT_NAMES: Mapping[str | None, str] = {"test": "the test split", "val": "the val split"}


def label_by_folder(
    names: Sequence[str],
    labeled: bool | None,
    source: str,
    origins: Sequence[str] | None = None,
    *,
    extensions: Sequence[str],
    folders: Iterable[str],
) -> tuple[tuple[str, ...], list[Entry]]:
    """Classes (sorted by name, as ImageFolder does) and one entry per name.

    Args:
        names: relative paths with `/`.
        labeled: whether folders are classes; None: as their arrangement says.
        source: for messages.
        origins: what tells apart files of one name, as in two archives; by default the names.
        extensions: of the kinds of pictures.
        folders: all there are, also those that hold no picture.

    Raises:
        NstError: an arrangement that can be read in two ways, an image outside class folders, a class that only the
            test split knows or that has no image, a name that is not UTF-8, or a file listed twice.
    """
    splits = _splits(names, labeled, source)
    inner = [name.partition("/")[2] if split else name for name, split in zip(names, splits, strict=True)]
    with_labels = {
        split
        for split in set(splits) - {"unlabeled"}
        if _folders_are_classes([n for n, of in zip(inner, splits, strict=True) if of == split], split, labeled, source)
    }
    of_classes = [
        name.partition("/")[0] if split in with_labels else None for name, split in zip(inner, splits, strict=True)
    ]
    classes = _classes(of_classes, splits, source)
    if labeled is None:
        _refuse_empty(classes, names, splits, folders, source)
    index = {name: label for label, name in enumerate(classes)}
    keys = unique_keys(names, origins or names)
    entries = [
        Entry(key, extension, index[folder] if folder is not None else None, split, name)
        for key, name, extension, folder, split in zip(keys, names, extensions, of_classes, splits, strict=True)
    ]
    return classes, entries


def _splits(names: Sequence[str], labeled: bool | None, source: str) -> list[str | None]:
    """The split of every name: of all or of none, but that `unlabeled` may stand beside class folders."""
    splits = [split_of(name) for name in names]
    known = set(splits) - {None}
    if not known or None not in splits or known == {"unlabeled"}:
        return splits
    if labeled is not None:  # the user has said what folders are
        return [split if split == "unlabeled" else None for split in splits]
    strangers = sorted({name.partition("/")[0] for name, split in zip(names, splits, strict=True) if split is None})
    tops = sorted({name.partition("/")[0] for name, split in zip(names, splits, strict=True) if split is not None})
    rename = f"; or if {tops[0]}/ is a class, rename that folder" if len(tops) == 1 else ""
    raise NstError(
        f"source {source}: pictures beside {_told(f'{top}/' for top in tops)} belong to no part",
        got=_told(strangers),
        valid="train/, val/, test/ and unlabeled/, and no other pictures beside them",
        next=f"move it into one of them, or leave it out: {ignore_option(strangers)}{rename}",
    )


def _folders_are_classes(names: Sequence[str], split: str | None, labeled: bool | None, source: str) -> bool:
    """Whether the folders of one split, or of a source without splits, are classes."""
    outside = sorted(name for name in names if "/" not in name)
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if labeled is not None:
        if labeled and outside:
            raise _outside(source, outside)
        return labeled
    if split == "extra":
        return not outside and len(tops) > 1
    at = f"{split}/" if split else ""
    if outside and tops:
        raise _beside(source, at, outside, tops)
    if outside:
        if split in WITH_CLASSES:
            raise _flat(source, split, outside)
        return False
    if split is None:
        _refuse_splits_inside(names, tops, source)
        _refuse_same_inside(names, source)
        if len(tops) == 1:
            raise _wrapped(source, next(iter(tops)))
    return True


def _outside(source: str, outside: Sequence[str]) -> NstError:
    return NstError(
        f"source {source}: a picture lies outside the class folders",
        got=_told(outside),
        valid="<class>/x.jpg, or train/<class>/x.jpg",
        next="move it, or take all images without labels: data.source.labeled=false",
    )


def _beside(source: str, at: str, outside: Sequence[str], tops: Iterable[str]) -> NstError:
    names = [f"{at}{name}" for name in outside]
    lie = f"{count_of(len(outside), 'picture')} {'lies' if len(outside) == 1 else 'lie'}"
    return NstError(
        f"source {source}: {lie} beside the folders {_told(f'{at}{top}/' for top in tops)}",
        got=_told(names),
        valid=f"{at or ''}<class>/x.jpg for all of them",
        next=f"move them, or leave them out: {ignore_option(names)}; or {AS_UNLABELED}",
    )


def _flat(source: str, split: str, outside: Sequence[str]) -> NstError:
    return NstError(
        f"source {source}: the pictures in {split}/ have no class folders",
        got=_told(f"{split}/{name}" for name in outside),
        valid=f"{split}/<class>/x.jpg; pictures without labels in unlabeled/",
        next="sort them into folders, or give a file of labels: data=csv data.source.root=<labels.csv>; or "
        f"leave them out: {ignore_option([split])}; or {AS_UNLABELED}",
    )


def _refuse_splits_inside(names: Sequence[str], tops: Iterable[str], source: str) -> None:
    """Raises NstError where folders called train, test or the like lie inside what would be classes."""
    inside = sorted({"/".join(name.split("/")[:2]) for name in names
                     if name.count("/") > 1 and _is_no_class(name.split("/")[1])})  # fmt: skip
    if not inside:
        return
    wraps = sorted({folder.partition("/")[0] for folder in inside})
    others = [top for top in sorted(tops) if top not in wraps]
    way = f"name that folder: data.source.root=<the folder>/{wraps[0]}" if len(wraps) == 1 else "move them to the top"
    raise NstError(
        f"source {source}: {_told(f'{name}/' for name in inside)} would lie inside a class",
        got=f"the classes {_told(sorted(tops))}",
        valid="train/<class>/x.jpg, with train/ at the top",
        next=f"{way}" + (f", or leave out what lies beside it: {ignore_option(others)}" if others else ""),
    )


def _refuse_same_inside(names: Sequence[str], source: str) -> None:
    """Raises NstError where what would be classes hold folders of the same names, as parts of the data do that are
    called otherwise than train/ and test/."""
    inside: dict[str, Counter[str]] = {}
    for name in names:
        top, *inner = name.split("/")
        inside.setdefault(top, Counter())[inner[0] if len(inner) > 1 else ""] += 1
    mostly = {top: {*found} - {""} for top, found in inside.items() if len(found) > 1 and 2 * found[""] < found.total()}
    if len(mostly) > MOST_PARTS:
        return
    alike = {
        top
        for top, found in mostly.items()
        for other, theirs in mostly.items()
        if other != top and len(found & theirs) >= max(2, SAME_INSIDE * min(len(found), len(theirs)))
    }
    if not alike:
        return
    tops = sorted(alike)
    raise NstError(
        f"source {source}: {_told(f'{top}/' for top in tops)} hold folders of the same names, so they may be parts of"
        " the data and no classes",
        got=f"{_told(mostly[tops[0]])} in {tops[0]}/, and the classes would be {_told(inside)}",
        valid="train/<class>/x.jpg, val/<class>/x.jpg, test/<class>/x.jpg and unlabeled/x.jpg; or <class>/x.jpg",
        next="rename the parts: train/, test/, val/, unlabeled/; or if these folders are the classes:"
        " data.source.labeled=true",
    )


def _is_no_class(name: str) -> bool:
    """Whether a folder of this name is hardly a class."""
    return part_called(name) is not None or name.lower() in NO_CLASSES


def _wrapped(source: str, top: str) -> NstError:
    return NstError(
        f"source {source}: all pictures lie in one folder, {top}/",
        valid="two class folders or more, or train/<class> beside test/<class>",
        next=f"if its folders are the classes: data.source.root=<the folder>/{top}; {AS_UNLABELED}",
    )


def _classes(folders: Iterable[str | None], splits: Iterable[str | None], source: str) -> tuple[str, ...]:
    seen: dict[str, set[str | None]] = {}
    for folder, split in set(zip(folders, splits, strict=True)):
        if folder is not None:
            seen.setdefault(folder, set()).add(split)
    trained = {name for name, found in seen.items() if found - {"test", "val"}}
    strangers = sorted(seen.keys() - trained)
    if trained and strangers:
        where = sorted({SPLIT_NAMES[split] for name in strangers for split in seen[name]})
        raise NstError(
            f"source {source}: classes that are only in {' and '.join(where)}",
            got=_told(strangers),
            valid=_told(sorted(trained)),
            next="add pictures of them for training, or leave them out: "
            f"{ignore_option([f'*/{one}' for one in strangers])}",
        )
    require_class_names(sorted(seen), source)
    return tuple(sorted(seen))


def require_class_names(names: Sequence[str], source: str, way: str | None = None) -> None:
    """Raises NstError, which tells `way`, where a name is a split's, or cannot be written in UTF-8."""
    for name in names:
        if _is_no_class(name):
            anywhere = [name, f"*/{name}"]
            inner = anywhere[1:] if split_of(f"{name}/x") else anywhere  # of train/train/ the outer one is the part
            raise NstError(
                f"source {source}: a class would be called {name}",
                got=f"the classes {_told(names)}",
                valid="names of classes; train, val, test and unlabeled are parts of the data",
                next=way or f"move it, or leave it out: {ignore_option(inner)}",
            )
        if name != name.encode("utf-8", "replace").decode():
            told, raw = ascii(name)[1:-1].replace("\\udc", "\\x"), os.fsencode(name)
            raise NstError(
                f"source {source}: the name of the class folder {told} is not UTF-8",
                got=repr(raw)[2:-1],
                valid="names in UTF-8, as Linux and macOS write them",
                next=f"rename it, in each folder that holds it: mv $'{told}' '{raw.decode('latin-1')}'",
            )


def _refuse_empty(
    classes: Sequence[str],
    names: Sequence[str],
    splits: Sequence[str | None],
    folders: Iterable[str],
    source: str,
) -> None:
    """Raises NstError for class folders of the training part that hold no picture."""
    if not classes:
        return
    tops = {name.partition("/")[0] for name, split in zip(names, splits, strict=True) if split == "train"}
    parts = [f"{top}/" for top in tops] or [""]
    empty = sorted(
        folder
        for folder in folders
        for part in parts
        if folder.startswith(part)
        and "/" not in folder.removeprefix(part)
        and folder.removeprefix(part) not in classes
        and (part or part_called(folder) is None)
    )
    if empty:
        raise NstError(
            f"source {source}: class folders without a picture that can be read",
            got=_told(empty),
            valid="pictures (jpg, png, webp, bmp, gif, ppm, tiff) in every class folder",
            next=f"add pictures, or leave them out: {ignore_option(empty)}",
        )


def _told(names: Iterable[str]) -> str:
    return some(sorted(names), SHOWN)


def ignore_option(names: Sequence[str]) -> str:
    """The option that leaves these out, as a shell takes it."""
    if len(names) > SHOWN:
        return "data.source.ignore=[<name>,...]"
    listed = names[0] if len(names) == 1 else f"[{','.join(names)}]"
    return f"data.source.ignore={shlex.quote(listed)}"
