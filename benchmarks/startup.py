"""How soon commands begin: help, doctor, select, train, a sweep.

    bin/bench startup                                this version alone
    git worktree add ../before <commit>              another version, in the same environment
    bin/bench startup --before ../before --rounds 3

A command's time is that of all its processes on the clock; of the training, until its first step is in metrics.csv. The
files of both versions are compiled in a first round that is not counted. The aims are for an idle machine of two cores.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness

ROOT = Path(__file__).parent.parent
TINY = [
    *("experiment=digits_demo", "eval=clean", "model.width=0.25", "model.depth=0.25", "model.train_size=12"),
    *("model.test_size=12", "student.labeled_batch_size=8", "student.steps=4", "student.schedule.warmup_epochs=0.1"),
    *("student.checkpoint_every=4", "student.validate_every=4", "student.log_every=1", "trainer.workers=0"),
    *("data.test_samples=100", "data.unlabeled_samples=240", "shard.samples_per_shard=80", "data.root=data"),
]
SELECT = [*TINY, "teacher.run=teacher", "select.min_confidence=0", "select.allow_empty_classes=true"]
BARE = {"help", "doctor"}  # measures that need no data
POLL_S = 0.005


@dataclass(frozen=True)
class Version:
    """A checkout of nst that runs with this Python, in a folder that holds shards and a teacher."""

    root: Path
    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        compiled = {"PYTHONPYCACHEPREFIX": str(self.folder.parent / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", **compiled}
        command = [sys.executable, "-m", "nst", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL)

    def run(self, *arguments: str) -> None:
        code = self.start(*arguments).wait()
        assert code == 0, f"nst {' '.join(arguments)} ended with {code}"

    def prepare(self) -> None:
        """Makes shards and a teacher with its predictions."""
        self.run("shard", *TINY)
        self.run("train", *TINY, "run_dir=teacher")
        self.run("label", *TINY, "teacher.run=teacher")

    def without(self, name: str) -> None:
        """Takes away what a round before has left."""
        shutil.rmtree(self.folder / name, ignore_errors=True)


def plain(version: Version, *arguments: str) -> float:
    began = time.perf_counter()
    version.run(*arguments)
    return time.perf_counter() - began


def select(version: Version) -> float:
    version.without("selected")
    return plain(version, "select", *SELECT, "run_dir=selected")


def first_step(version: Version) -> float:
    version.without("first")
    metrics = version.folder / "first" / "metrics.csv"
    began = time.perf_counter()
    process = version.start("train", *TINY, "run_dir=first")
    try:
        while not (metrics.exists() and len(metrics.read_bytes().splitlines()) > 1):
            assert process.poll() is None, "the training has ended without a step"
            time.sleep(POLL_S)
        return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def sweep(version: Version, jobs: int) -> float:
    version.without("swept")
    seeds = ",".join(map(str, range(jobs)))
    return plain(version, "train", "-m", *TINY, f"seed={seeds}", "run_dir=swept")


def measures(jobs: int) -> dict[str, tuple[Callable[[Version], float], float | None]]:
    """What is timed: name → the command, and the seconds that it may take at most."""
    return {
        "help": (partial(_words, "--help"), 0.15),
        "doctor": (partial(_words, "doctor", *TINY), 1.5),
        "select": (select, 1.5),
        "first training step": (first_step, 4.0),
        f"sweep of {jobs} trainings": (partial(sweep, jobs=jobs), None),
    }


def _words(*arguments: Any) -> float:
    *words, version = arguments
    return plain(version, *words)


def main(argv: Sequence[str]) -> None:
    parser = harness.parser("startup", __doc__, rounds=3)
    parser.add_argument("--before", type=Path, help="checkout of the version to compare with")
    parser.add_argument("--jobs", type=int, default=4, help="of the sweep (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="measures, by the beginning of their names")
    options = parser.parse_args(argv)
    harness.warn_if_busy()
    chosen = {
        name: row
        for name, row in measures(options.jobs).items()
        if not options.only or name.startswith(tuple(options.only))
    }
    with tempfile.TemporaryDirectory() as folder:
        versions = {"ours": Version(ROOT, Path(folder, "ours"))}
        if options.before:
            versions["before"] = Version(options.before.resolve(), Path(folder, "before"))
        for version in versions.values():
            version.folder.mkdir()
            if not BARE.issuperset(chosen):
                version.prepare()
        seconds = {name: _rounds(row[0], versions, options.rounds) for name, row in chosen.items()}
    print(table(seconds, {name: limit for name, (_, limit) in chosen.items()}))
    harness.finish("startup", "s", seconds, options)


def _rounds(measure: Callable[[Version], float], versions: dict[str, Version], rounds: int) -> dict[str, list[float]]:
    """Seconds of each version by round; they take turns, after a first one that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in versions}
    for number in range(rounds + 1):
        for name in sorted(versions, reverse=bool(number % 2)):
            spent = measure(versions[name])
            if number:
                found[name].append(spent)
    return found


def table(seconds: dict[str, dict[str, list[float]]], limits: dict[str, float | None]) -> str:
    lines = [f"startup: seconds, median of the rounds\n{'':<24}{'ours':>8}{'before':>8}{'before / ours':>22}{'aim':>9}"]
    for name, versions in seconds.items():
        ours, before = versions["ours"], versions.get("before")
        text = f"{name:<24}{statistics.median(ours):>8.2f}"
        if before:
            ratios = [old / new for old, new in zip(before, ours, strict=True)]
            spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} .. {max(ratios):.2f}]"
            text += f"{statistics.median(before):>8.2f}{spread:>22}"
        limit = limits[name]
        lines.append(text + (f"{'<= ' + format(limit, 'g'):>{71 - len(text)}}" if limit is not None else ""))
    return "\n".join(lines)
