"""Labels in a CSV file: which picture is of which class, and in which split.

    file,label,split            file: the picture, relative to `pictures`, or to the folder of the CSV file
    a/1.jpg,daisy,train         label: its class; none, or NaN: the picture is unlabeled
    b/7.jpg,,                   split: train, val, test or unlabeled; may be left out

Instead of `label` there may be a column per class, with 1 in that of the picture's class. The CSV file of `nst predict`
(path, class, confidence, ...) is such a file as it stands, so that it can be corrected by hand and given back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst.data.arrangement import require_class_names
from nst.data.image_list import as_bytes, at_line, read_rows
from nst.data.index_files import has_index
from nst.data.layout import SPLIT_FOLDERS, is_image, part_called
from nst.errors import NstError, nearest
from nst.progress import say
from nst.shown import count_of, some

FILE_NAMES = ("file", "path", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_id",
              "img", "name", "id")  # fmt: skip
LABEL_NAMES = ("label", "class", "category", "target", "labels", "class_name", "species", "dx")
SPLIT_NAMES = ("split", "set", "subset", "partition", "fold")
MISSING = ("nan", "NaN", "<NA>")  # as pandas writes it where it is told to
ANSWERS = re.compile(r"(class|confidence)(_\d+)?")  # what `nst predict` writes beside the path and the class
ONE, ZERO = ("1", "1.0", "true", "x"), ("", "0", "0.0", "false")  # of a column per class; in lower case
SHOWN = 5  # pictures that one line could be
MISSING_SHOWN = 8  # lines whose picture is not there


@dataclass(frozen=True)
class LabelRow:
    """A line of the file: the picture's name as it stands there, its class and its split."""

    line: int
    file: str
    label: str | None
    split: str | None


def read_labels(path: Path, columns: Mapping[str, str | None]) -> list[LabelRow]:
    """The rows of a file of labels, each picture once.

    Args:
        columns: names of the columns "file", "label" and "split"; None: found by the usual names.

    Raises:
        NstError: it cannot be read, has no such columns, or a line that is not valid, by its number.
    """
    (_, header), *table = read_rows(path) or [(1, [])]
    header = [name.strip() for name in header]
    at = _places(path, header, columns)
    place = at.get("split", -1)
    if columns["split"] is None and place >= 0 and all(map(str.isdigit, _cells(table, place) or [""])):
        say(f"{path}: column {header[place]} has numbers, so it names no splits and is not read")
        table = [(number, [*line[:place], "", *line[place + 1 :]]) for number, line in table]
    if "label" not in at and sum(map(bool, header)) == len(at):
        say(f"{path}: no column is known to name the classes, so no picture has one; data.source.label_column names it")
    if "label" in at:  # else each column may be a class
        _tell_unread(path, header, at, table)
    rows = list(_rows(path, header, at, table))
    if "label" in at and (missing := sum(line[at["label"]].strip() in MISSING for _, line in table)):
        say(f"{path}: {count_of(missing, 'line')} with NaN or <NA> for a class: pictures without one")
    if not rows:
        raise NstError(f"{path} names no pictures", valid="a line for each picture below the names of the columns")
    return _once(path, rows)


def _tell_unread(
    path: Path, header: Sequence[str], at: Mapping[str, int], table: Iterable[tuple[int, list[str]]]
) -> None:
    """Says which columns are not read, first what may name splits: its test pictures would be trained on."""
    places = [p for p, name in enumerate(header) if name and p not in at.values() and not ANSWERS.fullmatch(name)]
    if not places:
        return
    splits = [] if "split" in at else [place for place in places if all(map(part_called, _cells(table, place) or [""]))]
    names = some([header[place] for place in dict.fromkeys([*splits, *places])], SHOWN)
    way = f"; if {header[splits[0]]} names the splits: data.source.split_column={header[splits[0]]}" if splits else ""
    say(f"{path}: not read: {count_of(len(places), 'column')}, {names}{way}")


def _cells(table: Iterable[tuple[int, Sequence[str]]], column: int) -> set[str]:
    """What stands in a column."""
    return {line[column].strip() for _, line in table if len(line) > column} - {"", *MISSING}


def _places(path: Path, header: Sequence[str], columns: Mapping[str, str | None]) -> dict[str, int]:
    """Column number of file, label and split; of label and split only where the file has them."""
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise NstError(f"{path} has two columns of one name", got=", ".join(twice), valid="names that differ")
    found = {}
    for kind, names in (("file", FILE_NAMES), ("label", LABEL_NAMES), ("split", SPLIT_NAMES)):
        asked = columns[kind]
        if asked is not None and asked not in header:
            raise NstError(
                f"{path} has no column {asked}{nearest(asked, header)}",
                got=f"data.source.{kind}_column={asked}",
                valid=", ".join(header),
            )
        lower = {name.lower(): place for place, name in reversed(list(enumerate(header)))}
        place = header.index(asked) if asked is not None else next((lower[n] for n in names if n in lower), None)
        if place is not None:
            found[kind] = place
    if "file" not in found:
        valid = f"a first line with names of columns, one of them {', '.join(FILE_NAMES[:6])}, ..."
        if any(is_image(name) for name in header):  # else the first picture would be lost
            what, way = "the first line does not name the columns", "write such a line above it: file,label"
            raise NstError(f"{path}: {what}", got=", ".join(header), valid=valid, next=way)
        labels = "" if "label" in found else " data.source.label_column=<that of the classes>"
        raise NstError(
            f"{path}: no column is known to name the pictures",
            got=", ".join(header) or "an empty file",
            valid=valid,
            next=f"data.source.file_column=<name of the column>{labels}",
        )
    return found


def _rows(
    path: Path, header: Sequence[str], at: Mapping[str, int], table: Iterable[tuple[int, list[str]]]
) -> Iterator[LabelRow]:
    # a column without a name is the index that pandas writes
    others = [place for place, name in enumerate(header) if name and place not in at.values()]
    ones = others if "label" not in at else []
    for number, line in table:
        cells = ["" if cell.strip() in MISSING else cell.strip() for cell in line]
        if not ones and max(at.values()) < len(cells) < len(header):  # one that a person has added
            cells += [""] * (len(header) - len(cells))
        if len(cells) != len(header):
            valid = f"{len(header)}: {', '.join(header)}"
            raise at_line(path, number, f"has {len(cells)} columns", ", ".join(cells)[:100], valid)
        if not cells[at["file"]]:
            raise at_line(
                path, number, "names no picture", ", ".join(cells)[:100], f"a file in column {header[at['file']]}"
            )
        label = (cells[at["label"]] or None) if "label" in at else _one_of(path, number, header, cells, ones)
        split = cells[at["split"]] if "split" in at else ""
        if split and part_called(split) is None:
            raise at_line(path, number, "names no split", split, f"nothing, or one of {', '.join(SPLIT_FOLDERS)}")
        yield LabelRow(number, cells[at["file"]], label, part_called(split) if split else None)


def _one_of(path: Path, number: int, header: Sequence[str], cells: Sequence[str], ones: Sequence[int]) -> str | None:
    """The class whose column has the only 1 of a line; None where none has one."""
    for place in ones:
        if cells[place].lower() not in ONE + ZERO:
            raise at_line(
                path,
                number,
                f"has neither 0 nor 1 in column {header[place]}",
                cells[place],
                "a column label, or one per class with 1, True or x, and 0, False or nothing",
                f"data.source.split_column={header[place]}, if it names the splits"
                if part_called(cells[place])
                else f"mend line {number}, or take column {header[place]} out; or where one column has the classes: "
                "data.source.label_column=<its name>",
            )
    named = [header[place] for place in ones if cells[place].lower() in ONE]
    if len(named) > 1:
        raise at_line(path, number, "is of several classes", ", ".join(named), "a 1 in one column")
    return named[0] if named else None


def _once(path: Path, rows: Sequence[LabelRow]) -> list[LabelRow]:
    """Rows without repetitions of the same; two that contradict each other are refused."""
    seen: dict[str, LabelRow] = {}
    for row in rows:
        before = seen.setdefault(row.file, row)
        if (before.label, before.split) != (row.label, row.split):
            raise at_line(
                path,
                row.line,
                f"contradicts line {before.line} about {row.file}",
                f"{_said(before)} there, {_said(row)} here",
                "one label and one split for every picture",
            )
    return list(seen.values())


def _said(row: LabelRow) -> str:
    return (repr(row.label) if row.label else "no label") + (f" in {row.split}" if row.split else "")


# ---- rows to pictures -----------------------------------------------------------------------------------------------


def placed(path: Path, rows: Sequence[LabelRow], names: Sequence[str], pictures: Path, wrap: str = "") -> list[int]:
    """Position in `names` of every row's picture: by its path below `pictures`, else by its file name, with or without
    suffix, where only one picture has it and the folders of both agree as far as they go.

    Args:
        path: the file of labels, for messages; paths may be relative to its folder or to the working directory.
        names: pictures relative to `pictures`.
        wrap: folder with a slash behind that all of them lie in and that rows need not name.

    Raises:
        NstError: a picture that is not there, or that could be several; two rows name one.
    """
    exact = {name: place for place, name in enumerate(names)}
    by_name: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        file = name.rpartition("/")[2]
        for short in {file, os.path.splitext(file)[0]}:
            by_name.setdefault(short, []).append(place)
    exact |= {name.removeprefix(wrap): place for place, name in enumerate(names)}
    places = [_place(path, row, exact, by_name, names, pictures) for row in rows]
    if missing := [row for row, place in zip(rows, places, strict=True) if place is None]:
        raise _not_there(path, missing, names, pictures)
    found, used = [place for place in places if place is not None], dict[int, LabelRow]()
    for row, place in zip(rows, found, strict=True):
        if (other := used.setdefault(place, row)) is not row:
            raise at_line(path, row.line, f"names the picture of line {other.line}", row.file, "each picture once")
    return found


def _place(
    path: Path,
    row: LabelRow,
    exact: Mapping[str, int],
    by_name: Mapping[str, list[int]],
    names: Sequence[str],
    pictures: Path,
) -> int | None:
    """The place of a row's picture; None where there is none."""
    ways = [as_bytes(row.file), row.file.replace("\\", "/")]
    for name in (name for way in ways for name in _ways(way, path, pictures)):
        if name in exact:
            return exact[name]
    fitting = ([p for p in by_name.get(way.rpartition("/")[2], []) if _fits(way, names[p])] for way in ways)
    alike = next(filter(None, fitting), [])
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise at_line(path, row.line, f"could be {len(alike)} pictures", ", ".join(names[p] for p in alike[:SHOWN]),
                  f"a path below {pictures}")  # fmt: skip
    return None


def _not_there(path: Path, rows: Sequence[LabelRow], names: Sequence[str], pictures: Path) -> NstError:
    """Some rows, and the names that were probably meant."""
    known = names if len(names) < 10_000 else ()
    other_case = {each.casefold(): each for name in names for each in (name, name.rpartition("/")[2])}
    told = [f"{row.file}, did you mean '{other_case[row.file.casefold()]}'?" if row.file.casefold() in other_case
            else row.file + nearest(row.file, known) for row in rows[:MISSING_SHOWN]]  # fmt: skip
    valid = "a picture there (jpg, png, webp, bmp, gif, ppm, tiff)"
    inner = [place for part in ("unlabeled", "labeled") if has_index(place := pictures / part)]
    other = f"name the folder or archive of the pictures: data.source.pictures={inner[0] if inner else '<folder>'}"
    if len(rows) == 1:
        what, way = f"names a picture that is not in {pictures}", f"mend line {rows[0].line}, or {other}"
        return at_line(path, rows[0].line, what, told[0], valid, way)
    lines = [f"line {row.line}: {text}" for row, text in zip(rows, told, strict=False)]
    more = [f"and {len(rows) - MISSING_SHOWN:,} more"] if len(rows) > MISSING_SHOWN else []
    if cased := sum(row.file.casefold() in other_case for row in rows):
        more.append(f"{cased:,} of them differ from a picture's name in capital letters alone")
    return NstError(
        f"{path}: {len(rows):,} lines name pictures that are not in {pictures}",
        got="\n         ".join([*lines, *more]), valid=valid, next=f"mend these lines, or {other}",
    )  # fmt: skip


def _fits(row: str, picture: str) -> bool:
    """Whether a row may mean a picture of its file name: it names no folder, or none that speaks against it."""
    if "/" not in row:
        return True
    known = picture if os.path.splitext(row)[1] else os.path.splitext(picture)[0]
    whole, below = f"/{os.path.normpath(row).lstrip('/')}", f"/{known}"
    return whole.endswith(below) or below.endswith(whole)


def _ways(name: str, path: Path, pictures: Path) -> Iterator[str]:
    """Names below `pictures` that a path in the file may mean."""
    yield os.path.normpath(name)
    top = pictures.resolve()
    for base in (path.parent.resolve(), Path.cwd()):
        whole = Path(os.path.normpath(base / name))
        if whole.is_relative_to(top):
            yield whole.relative_to(top).as_posix()


def classes_of(rows: Sequence[LabelRow], source: str) -> tuple[str, ...]:
    """Names of the classes: numbers by value, other names as text."""
    names = {row.label for row in rows if row.label is not None}
    require_class_names(sorted(names), source, "say it in a column split instead, and name the class in column label")
    if all(name.isdecimal() and name.isascii() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
