"""The tables that `nst iterate` and `nst report` show in the terminal, of 80 columns at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from nst.progress import plain_table
from nst.report.generation_rows import is_untested, model_name
from nst.report.records import CONTROL
from nst.shown import short, some

HEADINGS = ("gen", "model", "params", "labeled", "unlabeled", "top-1 %", "ECE %", "gain")
LONG = 18  # letters of a network's name that leave room for wide columns
ROBUSTNESS = {"corruption_error": "corr.\nerr. %", "flip_rate": "flip\n%"}  # of a row → heading


def table(results: Sequence[Mapping[str, Any]], title: str = "Noisy Student Training") -> Table:
    """The generations side by side; what is known of robustness has columns too.

    Args:
        results: rows with what `nst iterate` knows, or those of a report, which have a `label`.
    """
    robust = [name for name in ROBUSTNESS if any(name in row for row in results)]
    narrow = bool(robust) or any(len(model_name(row)) > LONG for row in results)
    shown = plain_table(title, _caption(results), gap=0 if narrow else 1)
    first = HEADINGS[0] if all(row["generation"] is not None for row in results) else "run"
    headings = [_narrow(heading) if narrow else heading for heading in (first, *HEADINGS[1:])]
    for heading in (*headings, *(ROBUSTNESS[name] for name in robust)):
        # names alone may be long, and are folded where the numbers leave no room
        name = heading in ("run", "model")
        shown.add_column(
            heading, vertical="bottom", justify="left" if name else "right", no_wrap=not name, overflow="fold"
        )
    for row in results:
        shown.add_row(
            _name(row),
            model_name(row),
            f"{row['parameters'] / 1e6:.2f}M" if row["parameters"] else "-",
            _known(row["labeled"], "d"),
            _known(row["unlabeled"] or None, "d"),
            _known(row["top1"], ".2f"),
            _known(row["ece"], ".1f"),
            "-" if row["generation"] == 0 else _known(row["gain"], "+.2f"),
            *(f"{row[name]:.1f}" if name in row else "-" for name in robust),
        )
    return shown


def compared(rows_of: Sequence[Sequence[Mapping[str, Any]]]) -> Table:
    """The last networks of several runs, under the names of these."""
    last = [
        {**entries[-1], "generation": None, "label": entries[-1]["experiment"],
         "gain": entries[-1]["gain"] if len(entries) > 1 else None}
        for entries in rows_of if entries
    ]  # fmt: skip
    return table(last, "Last networks of the runs")


def _narrow(heading: str) -> str:
    return {"unlabeled": "un-\nlabeled"}.get(heading, heading.replace(" %", "\n%"))


def _known(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _name(row: Mapping[str, Any]) -> str:
    if row["generation"] is None:
        return short(row["label"], 60)
    return "ctrl" if row["generation"] == CONTROL else str(row["generation"])


def _caption(results: Sequence[Mapping[str, Any]]) -> str | None:
    """What the control and the columns of robustness are."""
    suites = {kind: row[kind] for row in results for kind in ("corruption_suite", "perturbation_suite") if kind in row}
    told = {
        "corruption_suite": "corr. err.: mean corruption error, not normalised",
        "perturbation_suite": "flip: answers that change along a perturbation sequence",
    }
    lines = [f"{told[kind]} ({suite})" for kind, suite in suites.items()]
    if any(row["generation"] == CONTROL for row in results):
        lines.append("ctrl: the last student's network, trained on the labels alone")
    if untested := [_name(row) for row in results if is_untested(row)]:
        lines.append(f"not evaluated, top-1 of what the training held out: {some(untested)}")
    return "\n".join(lines) or None
