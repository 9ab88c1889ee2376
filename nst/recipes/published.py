"""The layout of a table or figure of the paper, and its published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper: its layout and published figures.

    Args:
        metrics: name → heading.
        rows: row → column → metric → published value.
        suites: column → robustness suite that all of its figures come from, top-1 included; of other columns: the
            clean test set, and attacks.
        twin_headings: row or column → its heading in a scaled-down twin, where the paper's words would not be true.
    """

    name: str
    title: str
    metrics: dict[str, str]
    columns: list[str]
    rows: dict[str, dict[str, dict[str, float]]]
    suites: dict[str, str] = field(default_factory=dict)
    twin_headings: dict[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return self.name.replace(" ", "")


def published(
    heads: Mapping[str, str], rows: Mapping[str, Sequence[float | None]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Row → column → metric → value, from rows of figures as the paper prints them.

    Args:
        heads: column → its metrics, separated by blanks.
        rows: row → figures, one of each metric of each column; None: the paper has none.
    """
    cells = [(column, metric) for column, metrics in heads.items() for metric in metrics.split()]
    table: dict[str, dict[str, dict[str, float]]] = {}
    for row, figures in rows.items():
        table[row] = {}
        for (column, metric), figure in zip(cells, figures, strict=True):
            if figure is not None:
                table[row].setdefault(column, {})[metric] = figure
    return table
