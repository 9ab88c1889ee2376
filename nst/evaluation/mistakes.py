"""All mistakes of a network on the test images, surest first, as a table for people: evaluation/mistakes.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from nst.atomic import write_csv
from nst.documents import damaged, read_text

FILE = "mistakes.csv"
COLUMNS = ("key", "class", "predicted", "confidence")


def write(path: Path, mistakes: Iterable[tuple[float, str, int, int]], classes: Sequence[str]) -> None:
    """Writes entries of confidence, key, label and predicted class."""
    rows = ((key, classes[label], classes[predicted], f"{sure:.6f}") for sure, key, label, predicted in mistakes)
    write_csv(path, COLUMNS, (dict(zip(COLUMNS, row, strict=True)) for row in rows))


def read(path: Path) -> dict[str, float] | None:
    """Key → confidence, of what `write` has written; None where there is no such file.

    Raises:
        NstError: it is not such a table.
    """
    if not path.exists():
        return None
    rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    try:
        if not rows or tuple(rows[0]) != COLUMNS:
            raise ValueError(f"columns {', '.join(rows[0]) if rows else '(none)'}")
        return {key: float(sure) for key, _, _, sure in rows[1:]}
    except ValueError as error:
        raise damaged(path, f"{error}; valid are columns {', '.join(COLUMNS)}") from error
