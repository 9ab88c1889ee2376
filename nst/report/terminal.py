"""The table of generations that `nst iterate` ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from nst.report.rows import model_name

HEADINGS = ("gen", "model", "params", "labeled", "unlabeled", "top-1 %", "ECE %", "gain")


ROBUSTNESS = {"corruption_error": "corr.\nerr. %", "flip_rate": "flip\n%"}  # of a row → heading


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """The generations side by side, 80 columns at most; what is known of robustness has columns too."""
    robust = [name for name in ROBUSTNESS if any(name in row for row in results)]
    shown = Table(
        title="Noisy Student Training",
        title_justify="left",
        caption=_caption(results) if robust else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0 if robust else 1, 0, 0),
    )
    headings = [heading.replace(" %", "\n%") if robust else heading for heading in HEADINGS]
    for heading in (*headings, *(ROBUSTNESS[name] for name in robust)):
        shown.add_column(heading, vertical="bottom", justify="left" if heading == "model" else "right", no_wrap=True)
    for row in results:
        shown.add_row(
            str(row["generation"]),
            model_name(row),
            f"{row['parameters'] / 1e6:.2f}M",
            str(row["labeled"]),
            str(row["unlabeled"] or "-"),
            f"{row['top1']:.2f}",
            f"{row['ece']:.1f}",
            "-" if row["generation"] == 0 else f"{row['gain']:+.2f}",
            *(f"{row[name]:.1f}" if name in row else "-" for name in robust),
        )
    return shown


def _caption(results: Sequence[Mapping[str, Any]]) -> str:
    """What the columns of robustness are."""
    suites = {kind: row[kind] for row in results for kind in ("corruption_suite", "perturbation_suite") if kind in row}
    told = {
        "corruption_suite": "corr. err.: mean corruption error, not normalised",
        "perturbation_suite": "flip: answers that change along a perturbation sequence",
    }
    return "\n".join(f"{told[kind]} ({suite})" for kind, suite in suites.items())
