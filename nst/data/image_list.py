"""Lists in text files: of pictures in CSV or TSV, without labels as `nst predict` writes them, and of class names.

`nst.data.label_files` reads those with labels.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from urllib.parse import unquote

from nst.data.layout import extension_by_name
from nst.errors import NstError

PLAIN = (".txt", ".lst", ".list")  # a path in each line, whole
LISTS = (".csv", ".tsv", *PLAIN)
COLUMNS = ("path", "file", "filename", "image", "image_path", "filepath", "file_name", "file_path", "img")
ADDRESS = re.compile("file:(?://(?:localhost)?)?(/.*)", re.IGNORECASE)  # of a file, as file managers copy it
SEPARATORS = re.compile("[,;\t]")
NAMES_A_FILE = re.compile(r"://|[/\\]|\.\w{2,5}$")  # whatever is in it
SEPARATOR = re.compile(r'"?sep=([^\r\n"])"?\r?\n', re.IGNORECASE)  # a first line by which Excel knows it
Rows = list[tuple[int, list[str]]]  # lines that are not blank, each with its number


def read_rows(path: Path) -> Rows:
    """The rows of a file of labels, in UTF-8 or UTF-16; its first line shows what parts the columns: a comma,
    semicolon or tab.

    Raises:
        NstError: it cannot be read, or is no text.
    """
    text = _text(path, "strict", "name the file of labels: data.source.root=<labels.csv>")
    if not text.strip():
        raise empty(path)
    if (told := SEPARATOR.match(text)) is not None:
        return [(number + 1, row) for number, row in _rows(path, text[told.end() :], told[1])]
    return _rows(path, text, max(",;\t", key=text.partition("\n")[0].count))


def _text(path: Path, errors: str, next: str | None = None) -> str:
    """A file's text; `errors` is what becomes of bytes that are no UTF-8, as `bytes.decode` takes it."""
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors)
    except OSError as error:
        raise NstError(f"cannot read {path}", got=error.strerror, next=next) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        got, way = data[error.start : error.start + 8], f"save {path} as UTF-8 (Excel: CSV UTF-8), all of it at once"
        raise at_line(path, line, "is not UTF-8", got, "text in UTF-8", way) from error


def _rows(path: Path, text: str, delimiter: str) -> Rows:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(lines.line_num, line) for line in lines if any(map(str.strip, line))]
    except csv.Error as error:
        raise at_line(path, lines.line_num, "cannot be read", error, "a table of one picture a line") from error


def at_line(path: Path, line: int, what: str, got: object, valid: str, next: str | None = None) -> NstError:
    return NstError(f"{path}: line {line} {what}", got=got, valid=valid, next=next or f"mend line {line} of {path}")


def empty(path: Path) -> NstError:
    return NstError(f"{path} is empty", valid="a line for each picture", next="save the list of pictures there again")


def listed_paths(path: Path) -> tuple[list[Path], list[str]]:
    """The files that a list names, and the names as they stand there.

    They stand in the column `path` (or `file`, `filename`, `image`), without such a heading in the first one; from the
    folder of the list, or else from where nst was started. Without a heading, a line of a .txt
    is a path, commas and all, and one that begins with # is a remark, unless a file is called so.

    Raises:
        NstError: it is no text, has no line, or names columns of which none is known to name the pictures.
    """
    text, parts = _text(path, "surrogateescape"), "\t" if path.suffix.lower() == ".tsv" else ","
    if (told := SEPARATOR.match(text)) is not None:
        text, parts = text[told.end() :], told[1]
    if not text.strip():
        raise empty(path)
    _require_known_heading(path, text)
    if path.suffix.lower() in PLAIN and not _has_heading(text):
        names = [line.strip() for line in re.split("[\r\n]", text) if line.strip()]
        names = [name for name in names if name[0] != "#" or _file(path.parent, name).exists()]
        return [_file(path.parent, name) for name in names], names
    rows = [row for _, row in _rows(path, text, parts)]
    if rows and {cell.strip().lower() for cell in rows[0][0].split(";")} & {*COLUMNS} and ";" in rows[0][0]:
        rows = [row for _, row in _rows(path, text, ";")]
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((heading.index(name) for name in COLUMNS if name in heading), None)
    names = [row[column or 0] for row in rows[column is not None :] if len(row) > (column or 0)]
    if not names:
        raise NstError(f"{path} lists no pictures", valid="a path per line, or a column path")
    return [_file(path.parent, name) for name in names], names


def listed_classes(path: Path) -> list[str]:
    """Names of classes, one a line.

    Raises:
        NstError: it is no text, or a line is empty or names a class again.
    """
    text = _text(path, "strict", "shard.classes=<text file>, a class name a line")
    names: dict[str, None] = {}
    for number, line in enumerate(re.split("\r\n?|\n", text.rstrip()), 1):
        name = line.strip()
        if not name or name in names:
            what = f"names {name!r} again" if name else "is empty"
            raise at_line(path, number, what, None, "a class name a line, each once")
        names[name] = None
    return list(names)


def _has_heading(text: str) -> bool:
    """Whether the first line names columns, so that a comma parts them, too."""
    first = text.lstrip().partition("\n")[0].lower()
    return any(cell.strip(' "\r') in COLUMNS for cell in SEPARATORS.split(first))


def _require_known_heading(path: Path, text: str) -> None:
    """Raises NstError where a first line names columns in words that are not known: it names no picture, others do."""
    lines = ([cell.strip(' "') for cell in SEPARATORS.split(line)] for line in text.strip().splitlines())
    first = next(lines)
    if _has_heading(text) or (len(first) == 1 and path.suffix.lower() in PLAIN) or first[0].startswith("#"):
        return
    if any(NAMES_A_FILE.search(cell) or _file(path.parent, cell).exists() for cell in first if cell):
        return
    if any(extension_by_name(cell) for line in lines for cell in line):
        raise NstError(
            f"{path}: no column is known to name the pictures",
            got=", ".join(first),
            valid=f"a first line with names of columns, one of them {', '.join(COLUMNS[:5])}, ...; or a path a line",
            next=f"call the column that names them path, in line 1 of {path}",
        )


def _file(folder: Path, name: str) -> Path:
    path = unquote(address[1], errors="surrogateescape") if (address := ADDRESS.match(name)) else name
    spelled = dict.fromkeys((name, path, as_bytes(name), name.replace("\\", "/")))  # as Windows parts folders, too
    places = [place for each in spelled for place in (folder / each, Path(each))]
    return next((place for place in places if place.exists()), places[0])


def as_bytes(name: str) -> str:
    r"""`caf\xe9.jpg`, as `nst predict` writes a name that is no UTF-8, as the system knows it."""
    plain = re.sub(
        rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), name.encode("utf-8", "surrogateescape")
    )
    return plain.decode("utf-8", "surrogateescape")
