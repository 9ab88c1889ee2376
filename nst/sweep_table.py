"""The table that closes a sweep: a row per job, with its own options and its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from nst.documents import read_document
from nst.errors import OtherInputs, UsageError

STOPPED = 130  # as a shell reports a process that Ctrl-C has ended
SUMMARY_KEYS = ("top1", "top5", "ece", "gain")


@dataclass(frozen=True)
class SweepJob:
    """One process of a sweep; `exit_code` None: nobody has seen its end.

    Args:
        results: folder of its result.json; None: its directory.
    """

    directory: Path
    exit_code: int | None
    results: Path | None = None

    @property
    def state(self) -> str:
        if self.exit_code is None:
            return "lost"
        if self.exit_code == STOPPED:
            return "stopped"
        return f"failed ({self.exit_code})" if self.exit_code else "done"

    @property
    def result(self) -> dict[str, Any]:
        return result_in(self.results or self.directory)


def summary_table(jobs: Sequence[SweepJob]) -> Table:
    """One row per job: what distinguishes it, and what came out."""
    table = Table(title="sweep")
    rows = [job.result if job.exit_code == 0 else {} for job in jobs]  # what lies there is of another attempt
    keys = [key for key in SUMMARY_KEYS if any(key in row for row in rows)]
    table.add_column("job", overflow="fold")  # an end that is cut off is often what distinguishes jobs
    for heading in (*keys, "state"):
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    for job, row in zip(jobs, rows, strict=True):
        values = [f"{row[key]:.4g}" if isinstance(row.get(key), (int, float)) else "-" for key in keys]
        table.add_row(job.directory.name.replace("experiment=", ""), *values, job.state)
    return table


def ways_on(jobs: Sequence[SweepJob], chosen_by: str) -> Iterator[str]:
    """What helps where jobs have failed.

    Args:
        chosen_by: the option that chooses the jobs' directories.
    """
    ended = {job.directory.name: job.exit_code for job in jobs}
    taken = [name for name, code in ended.items() if code == OtherInputs.exit_code]
    wrong = [name for name, code in ended.items() if code == UsageError.exit_code]
    if taken:
        yield (
            f"directories of runs with other options: {', '.join(taken)}; another {chosen_by}=..., or option that the"
            " message above names, keeps these runs, and overwrite=true makes them anew"
        )
    if len(wrong) == len(jobs) > 0:
        yield "the same options fail again: the message above says what helps"
    elif wrong:
        yield f"options that will fail again: {', '.join(wrong)}; the command without them runs only what is missing"
    elif not taken:
        yield "the same command runs only what is missing, and what failed once more"


def result_in(directory: Path) -> dict[str, Any]:
    return read_document(directory / "result.json") or {}
