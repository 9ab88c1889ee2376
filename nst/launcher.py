"""Sweeps: Hydra's sweeper and launcher decide what runs where; every job is a process of its own.

Jobs must not share a process group, an XLA runtime, a random state or a W&B run, and a crash must not take the
others along. So what Hydra launches is only a call of `nst <stage>` in a new process. A job's directory is named by
what distinguishes it (`runs/<name>/noise=none,seed=1`): the same command finds finished jobs again and runs only
what is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table

from nst.config import compose_config, conf_dir, explain
from nst.errors import NstError
from nst.progress import console, say

SUMMARY_KEYS = ("top1", "top5", "ece", "gain")


@dataclass(frozen=True)
class Job:
    """One finished process of a sweep."""

    directory: Path
    exit_code: int


def sweep(stage: str, overrides: Sequence[str]) -> int:
    """Runs every combination of the swept options; returns 1 when a job failed, else 0.

    Raises:
        NstError: an option does not exist.
    """
    swept = _swept_names(overrides)
    config = compose_config([*(item for item in overrides if _name(item) not in swept), f"stage={stage}"])
    given = any(_name(item) == "run_dir" for item in overrides)
    base = Path(config.run_dir) if given else Path("runs") / config.name
    jobs: list[Job] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def launch(_: DictConfig) -> None:
        own = list(HydraConfig.get().overrides.task)
        directory = base / _job_name(own, swept)
        say(f"job {len(jobs) + 1}: {directory.name}")
        command = [sys.executable, "-m", "nst", stage, *own, f"run_dir='{directory}'"]
        jobs.append(Job(directory, subprocess.run(command, check=False).returncode))

    try:
        with (
            mock.patch.object(sys, "argv", ["nst", "--multirun", *overrides, f"hydra.sweep.dir='{base}'"]),
            mock.patch.dict(os.environ, HYDRA_FULL_ERROR="1"),  # mistakes come to us, who explain them
        ):
            launch()
    except (HydraException, OmegaConfBaseException) as error:
        _forget(base)
        raise explain(error, overrides) from error
    return _close(jobs)


def _forget(base: Path) -> None:
    """Takes back what Hydra wrote before it looked at the options."""
    (base / "multirun.yaml").unlink(missing_ok=True)
    for folder in (base, base.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _close(jobs: Sequence[Job]) -> int:
    console.print(summary_table(jobs))
    failed = [job.directory.name for job in jobs if job.exit_code]
    if failed:
        say(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}\nthe same command runs only what is missing"
        )
    return 1 if failed else 0


def _name(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _swept_names(overrides: Sequence[str]) -> set[str]:
    """Options that take several values in this sweep, by Hydra's own grammar (choices, ranges, globs)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise explain(error, overrides) from error
    return {item.key_or_group for item in parsed if item.is_sweep_override()}


def _job_name(job: Sequence[str], swept: set[str]) -> str:
    name = ",".join(item for item in job if _name(item) in swept)
    return name.replace("/", "_").replace("'", "") or "job"


def summary_table(jobs: Sequence[Job]) -> Table:
    """One row per job: what distinguishes it, and what came out."""
    table = Table(title="sweep")
    rows = [_result(job.directory) for job in jobs]
    keys = [key for key in SUMMARY_KEYS if any(key in row for row in rows)]
    for heading in ("job", *keys, "state"):
        table.add_column(heading, justify="left" if heading in ("job", "state") else "right")
    for job, row in zip(jobs, rows, strict=True):
        values = [f"{row[key]:.4g}" if isinstance(row.get(key), (int, float)) else "" for key in keys]
        table.add_row(job.directory.name, *values, "done" if job.exit_code == 0 else f"failed ({job.exit_code})")
    return table


def _result(directory: Path) -> dict[str, Any]:
    path = directory / "result.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise NstError(f"{path} is not readable", got=error, next="delete it and run the sweep again") from error
