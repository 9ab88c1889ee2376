"""Evidence: runs what is missing of a table, keeps raw numbers.

They go to docs/results/<name>.csv, a line for each network.

    bin/bench series                                          all series, with what is there and what is missing
    bin/bench series eurosat_10 --list                        one of them, row by row
    bin/bench series eurosat_10 --root eurosat.tar            runs what is missing, seeds 0 to 4
    bin/bench series eurosat_10 --root eurosat.tar --seeds 1  of one seed

A row is an ordinary `nst` command. It stands in the file with what it came to, so a series goes on where it was
stopped, also in the middle of a run, and on another machine: by the same command. A row that is there is never run
again; one that was made with other options than it would be today is refused. Seeds 0 to 4 are the results; recipes are
chosen on seeds from 100 on. `nst report --findings` makes a table of the files. Options behind the name, such as
trainer=gpu, go to all runs. A run's seconds are on each of its lines, and include those of a teacher that it was the
first to need.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import findings_figure, harness
from benchmarks.series_job import RUNS, Job, place
from benchmarks.series_lines import compared_with, finished, networks, text_of, with_pairs
from benchmarks.series_table import SERIES, Row, Series
from nst.atomic import write_json, write_text
from nst.documents import read_json
from nst.errors import NstError, UsageError, require_choice
from nst.report import evidence, style
from nst.report.evidence import Line
from nst.report.findings import Evidence
from nst.sharing import wait_for_lock

ROOT = Path(__file__).parent.parent

# ---- running ------------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], results: Path) -> list[str]:
    """Runs what is missing, a line for each; returns what failed, in words."""
    failed = []
    for job in jobs:  # before the first starts: one that is refused hours later would be a pity
        require_same_options(job, _known(job, results))
    for job in jobs:
        if (job.row.name, job.seed) in _known(job, results):
            continue
        if missing := _not_yet(job, results):
            failed.append(f"{job.directory} {missing}")
            continue
        if code := _started(job):
            failed.append(f"{job.directory}: exit code {code}")
            continue
        append(job, results)
    return failed


def _known(job: Job, results: Path) -> dict[tuple[str, int], Line]:
    with _turn(job.series):
        return done(results / f"{job.series}.csv")


def _turn(series: str) -> Any:
    """Two that work on a series write one after the other."""
    RUNS.mkdir(parents=True, exist_ok=True)
    return wait_for_lock(RUNS / f".{series}.lock", lambda: None)


def done(path: Path) -> dict[tuple[str, int], Line]:
    """(row, seed) → a line of it."""
    lines = evidence.consistent(evidence.read(path)) if path.exists() else []
    return {(line.row, line.seed): line for line in lines}


def require_same_options(job: Job, known: Mapping[tuple[str, int], Line]) -> None:
    """Raises NstError where lines of the row were made with other options than it has now."""
    made = next((line for (row, _), line in known.items() if row == job.row.name and line.options != job.options), None)
    if made is not None:
        raise NstError(
            f"{job.series}/{job.row.name} has changed since it was run: its options are others now",
            got=f"{made.place}, of commit {made.facts['commit'] or 'unknown'}: {made.facts['command']}",
            next=f"take the row out of {job.series}.csv to run it anew, or give it another name in"
            " benchmarks/series_table.py",
        )


def _not_yet(job: Job, results: Path) -> str:
    """Why a row cannot be run yet: another one's network is not here. Empty where nothing is missing."""
    for before in job.row.after:
        series, row = before.split("/")
        there = place(series, row, job.seed)
        if finished(there):
            continue
        if (row, job.seed) in done(results / f"{series}.csv"):
            return f"needs the networks of {there}, which was run elsewhere: copy that folder to here"
        return f"waits for bin/bench series {series} --rows {row} --seeds {job.seed}"
    return ""


def _started(job: Job) -> int:
    """Runs a row to its end; returns the exit code. The seconds are kept beside the run, of all that it took."""
    print(f"series {job.series}: {job.row.name}, seed {job.seed}\n  {job.told}", flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", *job.command(str(job.root) if job.root else None)]
    wall, cpu = time.perf_counter(), harness.cpu_seconds()
    try:
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as process, _hearing_sigterm(process):
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.wait()  # the terminal's Ctrl-C reaches it too: it says where it stopped
                raise
    finally:
        before = _spent(job)
        now = {"wall": time.perf_counter() - wall, "cpu": harness.cpu_seconds() - cpu}
        job.directory.parent.mkdir(parents=True, exist_ok=True)
        write_json(_seconds_file(job), {name: before.get(name, 0.0) + value for name, value in now.items()})


@contextlib.contextmanager
def _hearing_sigterm(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A SIGTERM ends the run, which keeps where it is, and then the series as a Ctrl-C does."""

    def end(*_: object) -> None:
        process.terminate()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _seconds_file(job: Job) -> Path:
    return job.directory.with_name(f"{job.directory.name}.seconds.json")


def _spent(job: Job) -> dict[str, float]:
    return read_json(_seconds_file(job)) if _seconds_file(job).exists() else {}


def append(job: Job, results: Path) -> None:
    """Adds the lines of a finished run to the file of its series."""
    own = _networks(job.series, job.row, job.seed)
    keys = dict.fromkeys((other.series, other.row) for _, other in compared_with(job.series, job.row.name))
    others = {
        key: _networks(key[0], row_of(*key), job.seed) for key in keys if finished(place(*key, job.seed))
    }  # fmt: skip
    spent = _spent(job)
    facts = {"command": job.told} | {f"{name}_seconds": f"{seconds:.0f}" for name, seconds in spent.items()}
    lines = [replace(line, options=job.options, facts={**line.facts, **facts}) for line in with_pairs(own, others)]
    path = results / f"{job.series}.csv"
    with _turn(job.series):
        if (job.row.name, job.seed) in done(path):  # another process was quicker
            return
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        write_text(path, before + text_of(lines, heads=not before))
    for line in lines:
        print(f"  {line.network}: " + ", ".join(f"{name} {value:.2f}" for name, value in line.scores.items()))


def _networks(series: str, row: Row, seed: int) -> Any:
    return networks(place(series, row.name, seed), series, row.name, seed, evaluated=row.stage == "evaluate")


def row_of(series: str, name: str) -> Row:
    return next(row for row in SERIES[series].rows if row.name == name)


# ---- the command line ---------------------------------------------------------------------------------------


def listing(names: Sequence[str], results: Path, seeds: Sequence[int], rows: bool) -> Iterator[str]:
    """What is there of series, by row where asked for."""
    for name in names:
        series, known = SERIES[name], done(results / f"{name}.csv")
        wanted = [(row.name, seed) for row in series.rows for seed in seeds]
        yield f"{name:<16} {sum(key in known for key in wanted):>3} of {len(wanted):>3}  {series.says}"
        for row in series.rows if rows else ():
            states = {seed: _state(name, row.name, seed, known) for seed in seeds}
            told = [
                f"{state} {', '.join(str(seed) for seed in seeds if states[seed] == state)}"
                for state in ("done", "begun", "missing") if state in states.values()
            ]  # fmt: skip
            yield f"  {row.name:<24} {'; '.join(told)}"


def _state(series: str, row: str, seed: int, known: Mapping[tuple[str, int], Line]) -> str:
    return "done" if (row, seed) in known else "begun" if place(series, row, seed).exists() else "missing"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="bin/bench series", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="of the series; none: lists all")
    parser.add_argument("given", nargs="*", metavar="option=value", help="of nst, for all runs: trainer=gpu")
    parser.add_argument("--seeds", type=_seeds, help="0,1 (default: 0 to 4)")
    parser.add_argument("--rows", default="*", help="names of rows, * and ? as in the shell")
    parser.add_argument("--root", type=Path, help="file or folder of the pictures; none: as the recipe says")
    parser.add_argument("--list", action="store_true", help="says what is there, and runs nothing")
    parser.add_argument("--figure", type=Path, help="draws the findings of the CSV files here (.png), and runs nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder of the CSV files")
    options = parser.parse_intermixed_args(argv)
    if options.figure is not None:
        style.save_png(findings_figure.draw(Evidence.of(evidence.read_folder(options.results))), options.figure)
        return
    if options.name is not None:
        require_choice("series", options.name, SERIES)
    names = [options.name] if options.name else list(SERIES)
    if options.list or options.name is None:
        seeds = options.seeds or list(Series.SEEDS)
        print("\n".join(listing(names, options.results, seeds, rows=options.name is not None)))
        return
    if options.root is not None and not options.root.exists():
        raise UsageError("there are no pictures", got=options.root, next="--root <file or folder>")
    try:
        failed = run(_jobs(SERIES[options.name], options), options.results)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    if failed:
        raise NstError(
            "not all of the series could be run",
            got="; ".join(failed),
            next="what is waited for, then the same command",
        )


def _jobs(series: Series, options: argparse.Namespace) -> list[Job]:
    rows = [row for row in series.rows if fnmatch.fnmatchcase(row.name, options.rows)]
    if not rows:
        raise UsageError(
            "no row has this name", got=f"--rows {options.rows}", valid=", ".join(row.name for row in series.rows)
        )
    root = options.root.resolve() if options.root else None
    seeds = options.seeds or Series.SEEDS
    return [Job(series.name, row, seed, tuple(options.given), root) for seed in seeds for row in rows]


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError("whole numbers, such as 0,1") from error
