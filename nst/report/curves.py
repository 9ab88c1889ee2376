"""The curves of a training, from its metrics.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from nst.documents import damaged, read_text

Curve = list[tuple[int, float]]  # step, value


def read_curves(path: Path) -> dict[str, Curve]:
    """Columns step, metric, value of a metrics.csv; a half-written last line is left out.

    Raises:
        NstError: it is not such a table.
    """
    text = read_text(path)
    curves: dict[str, Curve] = {}
    try:
        for step, metric, value in csv.reader(text[: text.rfind("\n") + 1].splitlines()[1:]):
            curves.setdefault(metric, []).append((int(step), float(value)))
    except ValueError as error:
        raise damaged(path, f"{error}; valid are columns step, metric, value") from error
    return curves
