"""Sweeps: Hydra's sweeper and launcher decide what runs where; every job is a process of its own.

Jobs must not share a process group, an XLA runtime, a random state or a W&B run, and a crash must not take the
others along. So what Hydra launches, in this process or on another machine, is only a call of `nst <stage>` in a new
process; on this machine it is forked from one that has loaded torch already (nst/forkserver.py). A job's directory is
named by what distinguishes it (`runs/<name>/noise=none,seed=1`): the same command finds finished jobs again and runs
only what is missing. What became of a job is kept in a file, because a launcher may have started it anywhere, and not
every sweeper tells.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nst import forkserver
from nst.atomic import write_json
from nst.checking import check_value, kind_of
from nst.config import compose_config, explain, hydra_started
from nst.documents import read_json
from nst.errors import NstError, Terminated
from nst.progress import console, say
from nst.refused import SWEEP
from nst.sharing import is_rank_zero
from nst.stage_table import STAGES
from nst.sweep_table import STOPPED, SweepJob, result_in, summary_table, ways_on
from nst.typed import quoted, verbatim

GRACE_S = 30  # in which rank 0 notes a failure before another rank's end takes it along
STOP_GRACE_S = 15  # for a job, which a terminal's Ctrl-C reaches too: it says where it stopped
END_GRACE_S = 110  # for a job that SIGTERM ends: a training finishes its step and keeps its state
ON_THIS_MACHINE = ("BasicLauncher", "JoblibLauncher")  # whose processes start many jobs
NAME_BYTES = 255  # of a folder's name, on the file systems that people have
OBJECTIVE = "top1"  # of result.json: what a sweeper that searches is told; of iterate it is the last generation's


@dataclass(frozen=True)
class Launch:
    """What Hydra calls for each job, wherever its launcher runs it: starts `nst <stage>` and waits.

    A launcher that starts several tasks for a job (Slurm) calls it in each: all are ranks of one training, and rank 0
    alone notes what became of it.

    Args:
        base: folder of the jobs' directories.
        swept: names of the options that distinguish jobs.
        records: folder in which a job notes its beginning and end.
        chosen_by: the option of the sweep that chooses `base`.
        forks: jobs start on this machine, one after the other from one process: see `run_job`.
    """

    stage: str
    base: Path
    swept: frozenset[str]
    records: Path
    chosen_by: str = "name"
    forks: bool = False

    def __call__(self, _: DictConfig) -> float | None:
        """The job's objective; None if it failed or has none."""
        settings = HydraConfig.get()
        own, number = [_tidy(item) for item in settings.overrides.task], int(settings.job.num)
        if STAGES[self.stage].within:
            own = [item for item in own if _name(item) != "run_dir"]  # of the sweep
        directory = self.base / _job_name(own, self.swept)
        say(f"job {number + 1}: {directory.name}")
        record = self.records / f"{number:06d}.json"
        options, results = self._place(own, directory)
        arguments = [self.stage, *own, *options]
        chosen_by = f"{_name(options[0])}={self.chosen_by}" if options else ""
        if not is_rank_zero():
            if code := run_job(arguments, forks=self.forks, chosen_by=chosen_by):
                time.sleep(GRACE_S)
                raise SystemExit(code)
            return None
        known = {"directory": directory, "results": results}
        write_json(record, {**known, "exit_code": None})
        try:
            code = run_job(arguments, forks=self.forks, chosen_by=chosen_by)
        except KeyboardInterrupt:
            write_json(record, {**known, "exit_code": STOPPED})
            raise
        write_json(record, {**known, "exit_code": code})
        return result_in(results).get(OBJECTIVE) if code == 0 else None

    def _place(self, own: Sequence[str], directory: Path) -> tuple[list[str], Path]:
        """The options by which a job writes into its directory, and where its result.json will be.

        What label, select, evaluate and export make lies in the run that they read. Jobs that differ in their runs
        alone leave it there; others would write over each other.
        """
        record = STAGES[self.stage]
        if record.within is None:
            return [f"run_dir={quoted(directory)}"], directory
        source, folder = record.within
        given = {name: value for name, _, value in (item.partition("=") for item in own)}
        if self.swept == {source} and (run := Path(given[source].strip("'"))).is_dir():
            return [], run / folder
        return [] if record.folder in given else [f"{record.folder}={quoted(directory)}"], directory


def run_job(arguments: Sequence[str], *, forks: bool, chosen_by: str = "") -> int | None:
    """The exit code of `nst` with these arguments in a process of its own; None: nobody has seen its end.

    Args:
        forks: many jobs start from this process, which pay once for what a stage loads.
        chosen_by: `run_dir=name`, the option of the job's directory, and that of the sweep which chooses it.
    """
    environment = {**os.environ, SWEEP: chosen_by}
    job: subprocess.Popen[bytes] | forkserver.Forked
    if forks and forkserver.possible():
        job = _server(arguments[0]).start(arguments, environment=environment)
    else:
        job = subprocess.Popen([sys.executable, "-m", "nst", *arguments], env=environment)
    try:
        return job.wait()
    except BaseException as error:
        grace = STOP_GRACE_S
        if isinstance(error, Terminated):
            grace = END_GRACE_S
            job.terminate()  # which may have come to this process alone
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(grace)
        job.kill()
        raise


@functools.cache
def _server(stage: str) -> forkserver.ForkServer:
    """One for all jobs that this process starts; it ends with it."""
    return forkserver.ForkServer(list(STAGES) if STAGES[stage].torch else [stage])


def sweep(stage: str, overrides: Sequence[str]) -> int:
    """Runs every combination of the swept options, or what a searching sweeper asks for; returns 1 when a job failed.

    Raises:
        NstError: an option does not exist, or the launcher or sweeper is not installed.
    """
    overrides = verbatim(overrides, sweep=True)
    swept = _swept_names(overrides)
    config = compose_config(
        [*(item for item in overrides if _name(item) not in swept), f"stage={stage}"], with_hydra=True
    )
    from nst.stages.apart import keep_apart

    _require_plugins(config)
    chosen_by = "run_dir" if any(_name(item) == "run_dir" for item in overrides) else "name"
    base = Path(config.run_dir) if chosen_by == "run_dir" else Path("runs") / config.name
    keep_apart(config, stage, {"run_dir": base})  # Hydra would write there before any job is asked
    records = base / ".sweep" / str(time.time_ns())
    forks = config.hydra.launcher._target_.endswith(ON_THIS_MACHINE)
    launch = Launch(stage, base, frozenset(swept | set(config.hydra.sweeper.params or ())), records, chosen_by, forks)
    new = [path for path in (base / "multirun.yaml", base, base.parent) if not path.exists()]
    fault: Exception | None = None
    GlobalHydra.instance().clear()
    try:
        with hydra_started():
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None  # initialize_config_dir has made it
            sweep_dir = f"hydra.sweep.dir={quoted(base)}"
            hydra.multirun("config", launch, [*overrides, sweep_dir], with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        _forget(new)
        raise explain(error, overrides) from error
    except Exception as error:  # a launcher raises its own when a worker or a machine is lost; jobs have run before
        if not records.exists():
            raise
        fault = error
    except KeyboardInterrupt:
        if records.exists():
            console.print(summary_table(_noted(records)))
        raise
    jobs = _noted(records)
    return _close(jobs, fault, searched="direction" in config.hydra.sweeper, chosen_by=chosen_by)


def _require_plugins(config: DictConfig) -> None:
    """Raises NstError when the chosen launcher or sweeper is not installed."""
    for part in ("launcher", "sweeper"):
        module = config.hydra[part]._target_.rpartition(".")[0]
        found = None
        with contextlib.suppress(ModuleNotFoundError):  # of the package around it
            found = importlib.util.find_spec(module)
        if found is None:
            raise NstError(
                f"this {part} is not installed", got=module.split(".")[1],
                valid="the extra sweep of nst", next="NST_EXTRAS=sweep bin/install, or pip install 'nst[sweep]'",
            )  # fmt: skip


def _forget(new: Sequence[Path]) -> None:
    """Takes back what Hydra wrote before it looked at the options: a file and folders that were not there before."""
    for path in new:
        if path.is_file():
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _noted(records: Path) -> list[SweepJob]:
    """The jobs of this sweep in order, as they have noted themselves. The notes, which are of this sweep alone, go."""
    paths = sorted(records.glob("*.json"))
    notes = [read_json(path) for path in paths]
    for path in records.iterdir():
        path.unlink()
    with contextlib.suppress(OSError):  # of another sweep that has its notes there
        records.rmdir()
        records.parent.rmdir()
    return [SweepJob(Path(note["directory"]), note["exit_code"], Path(note["results"])) for note in notes]


def _close(jobs: Sequence[SweepJob], fault: Exception | None, *, searched: bool, chosen_by: str = "name") -> int:
    console.print(summary_table(jobs))
    failed = [job.directory.name for job in jobs if job.exit_code != 0]
    if fault is not None:
        say(f"the launcher stopped: {type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}")
    if failed:
        say(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}")
    if failed or fault is not None:
        for line in ways_on(jobs, chosen_by):
            say(line)
    if searched and (done := [job for job in jobs if job.exit_code == 0 and OBJECTIVE in job.result]):
        best = max(done, key=lambda job: job.result[OBJECTIVE])
        say(f"best: {OBJECTIVE} {best.result[OBJECTIVE]:.2f} with {best.directory.name}")
    return 1 if failed or fault is not None else 0


def _name(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _tidy(override: str) -> str:
    """`x=0.30000000000000004`, a step of a range, as `x=0.3`."""
    name, _, value = override.partition("=")
    return f"{name}={float(value):.12g}" if re.fullmatch(r"\d+\.\d{13,}", value) else override


def _swept_names(overrides: Sequence[str]) -> set[str]:
    """Options that take several values in this sweep, by Hydra's own grammar (choices, ranges, globs).

    Raises:
        UsageError: one of the values is none of its option: told before the first job has run for days.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType

    parser = OverridesParser.create()
    try:
        swept = [item for item in parser.parse_overrides(list(overrides)) if item.is_sweep_override()]
        jobs = [
            f"{item.key_or_group}={value}"
            for item in swept
            if item.is_discrete_sweep() and item.value_type != ValueType.GLOB_CHOICE_SWEEP
            for value in item.sweep_string_iterator()
        ]
        values = [(job, parser.parse_override(_tidy(job)).value()) for job in jobs]
    except HydraException as error:
        raise explain(error, overrides) from error
    for job, value in values:
        if kind_of(_name(job)) is not None and "${" not in job:
            check_value(_name(job), value, [job])
    return {item.key_or_group for item in swept}


def _job_name(job: Sequence[str], swept: set[str] | frozenset[str]) -> str:
    """`noise=none,seed=1`, as a folder may be called; what is too long for that ends in a hash of the whole."""
    name = ",".join(item for item in job if _name(item) in swept).replace("/", "_").replace("'", "") or "job"
    whole = name.encode()
    if len(whole) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:12]
    return f"{whole[: NAME_BYTES - len(digest) - 1].decode(errors='ignore')}~{digest}"
