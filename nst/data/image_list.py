"""A list of pictures in a CSV or TSV file, such as the one that `nst predict` writes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from nst.errors import NstError

COLUMNS = ("path", "file", "filename", "image", "image_path", "filepath")


def listed_paths(path: Path) -> tuple[list[Path], list[str]]:
    """The files that a list names, and the names as they stand there.

    They stand in the column `path` (or `file`, `filename`, `image`), without such a heading in the first one; from the
    folder of the list, or else from where nst was started.

    Raises:
        NstError: it is no text, or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        rows = [row for row in csv.reader(text.splitlines(), delimiter=_delimiter(path)) if any(map(str.strip, row))]
    except csv.Error as error:
        raise NstError(
            f"{path} is not a list of pictures", got=error, valid="a path per line, or a column path"
        ) from error
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((heading.index(name) for name in COLUMNS if name in heading), None)
    names = [row[column or 0] for row in rows[column is not None :] if len(row) > (column or 0)]
    if not names:
        raise NstError(f"{path} lists no pictures", valid="a path per line, or a column path")
    return [_file(path.parent, name) for name in names], names


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _file(folder: Path, name: str) -> Path:
    beside = folder / name
    found = [place for place in (beside, Path(name), folder / _as_bytes(name), Path(_as_bytes(name))) if place.exists()]
    return found[0] if found else beside


def _as_bytes(name: str) -> str:
    r"""`caf\xe9.jpg`, as `nst predict` writes a name that is no UTF-8, as the system knows it."""
    plain = re.sub(
        rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), name.encode("utf-8", "surrogateescape")
    )
    return plain.decode("utf-8", "surrogateescape")
