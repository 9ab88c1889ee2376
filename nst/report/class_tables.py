"""Tables by class: precision and recall of networks, and what is most often taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nst.report.page import Table, number
from nst.shown import short

LARGEST_CONFUSION = 100  # classes; larger matrices are shown as their largest entries only
CONFUSIONS_LISTED = 8
CLASSES_LISTED = 60
PRECISION_NOTE = (
    "Precision: how many of the images that are taken for a class belong to it. Recall: how many of its own images are "
    "found."
)


def fewer(rows: Sequence[list[str]], order: Sequence[float], which: str) -> tuple[list[list[str]], str]:
    """The rows, or CLASSES_LISTED of them that come first by `order`, and a sentence that says so."""
    if len(rows) <= CLASSES_LISTED:
        return list(rows), ""
    kept = sorted(np.argsort(order, kind="stable")[:CLASSES_LISTED].tolist())
    return [rows[place] for place in kept], f" Of {len(rows):,} classes the {CLASSES_LISTED} {which}."


def precision_and_recall(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in percent, (C,), of a confusion matrix (C, C) of counts; NaN where nothing is to be found."""
    right = 100.0 * matrix.diagonal()
    taken, own = matrix.sum(axis=0), matrix.sum(axis=1)
    return right / np.where(taken, taken, np.nan), right / np.where(own, own, np.nan)


def by_class(names: Sequence[str], matrices: Mapping[str, np.ndarray]) -> Table:
    """A row per class: its test images, precision and recall of each network."""
    images = next(iter(matrices.values())).sum(axis=1)
    scores = {title: precision_and_recall(matrix) for title, matrix in matrices.items()}
    rows = [
        [short(name), number(int(images[place])), *(number(None if np.isnan(values[place]) else values[place], ".1f")
                                                    for pair in scores.values() for values in pair)]
        for place, name in enumerate(names)
    ]  # fmt: skip
    last = np.nan_to_num(list(scores.values())[-1][1], nan=100.0)
    rows, left_out = fewer(rows, last.tolist(), "of the lowest recall")
    columns = ["class", "images", *(f"{what}\u00a0%, {title}" for title in scores for what in ("precision", "recall"))]
    return Table(columns, rows, texts=1, note=PRECISION_NOTE + left_out)


def frequent_confusions(
    names: Sequence[str], matrices: Mapping[str, np.ndarray], note: str, columns: tuple[str, str]
) -> Table:
    """The most frequent confusions, those of all matrices (C, C) taken together."""
    total = sum(matrices.values(), np.zeros((len(names), len(names)), int))
    np.fill_diagonal(total, 0)
    order = np.argsort(-total, axis=None, kind="stable")[:CONFUSIONS_LISTED]
    pairs = [divmod(int(place), len(names)) for place in order if total.flat[place] > 0]
    rows = [[short(names[row]), short(names[column]), *(number(int(m[row, column])) for m in matrices.values())]
            for row, column in pairs]  # fmt: skip
    return Table([*columns, *(f"images, {title}" for title in matrices)], rows, note=note)
