"""Sweeps: one process, run directory and W&B run per job; a failed job does not stop the others."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from nst import launcher
from nst.errors import NstError
from tests.conftest import TINY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "100")
    yield tmp_path
    for logger in logging.root.manager.loggerDict.values():  # Hydra silences every logger of the process
        if isinstance(logger, logging.Logger):
            logger.disabled = False


def test_noise_ablation_runs_each_job_in_a_process_and_directory_of_its_own(
    here: Path, digits: Path, capfd: pytest.CaptureFixture[str]
):
    options = [*TINY, f"data.root={digits}", "name=sweep", "logger=wandb", "logger.wandb.mode=offline",
               "noise=full,no_model_noise,none"]  # fmt: skip
    assert launcher.sweep("train", options) == 0
    jobs = sorted(path.name for path in (here / "runs/sweep").iterdir() if path.is_dir())
    assert jobs == ["noise=full", "noise=no_model_noise", "noise=none"]
    for job in jobs:
        assert json.loads((here / "runs/sweep" / job / "result.json").read_text())["steps"] == 12
    runs = {path.name.rpartition("-")[2] for path in here.rglob("offline-run-*")}
    assert len(runs) == 3
    out, _ = capfd.readouterr()
    table = out[out.rindex("sweep") :]
    assert "top1" in table
    for job in jobs:
        assert job in table

    # the same command again finds all of it done
    marks = {job: (here / "runs/sweep" / job / "DONE").stat().st_mtime_ns for job in jobs}
    assert launcher.sweep("train", options) == 0
    assert marks == {job: (here / "runs/sweep" / job / "DONE").stat().st_mtime_ns for job in jobs}


def test_a_failed_job_is_listed_and_the_others_finish(here: Path, digits: Path, capfd: pytest.CaptureFixture[str]):
    options = [*TINY, f"data.root={digits}", "name=sweep", "student.schedule.warmup_epochs=99,0.5"]
    assert launcher.sweep("train", options) == 1
    out, errors = capfd.readouterr()
    assert "1 of 2 jobs failed: student.schedule.warmup_epochs=99" in out
    assert "a cosine schedule must end after its warm-up" in errors
    assert (here / "runs/sweep/student.schedule.warmup_epochs=0.5/DONE").exists()


def test_jobs_are_named_by_what_distinguishes_them():
    swept = launcher._swept_names(["noise=full,none", "seed=range(0,3)", "model.width=0.5", "experiment=glob(table*)"])
    assert swept == {"noise", "seed", "experiment"}
    assert launcher._job_name(["noise=none", "seed=2", "model.width=0.5"], swept) == "noise=none,seed=2"


def test_unknown_options_of_a_sweep_are_explained_before_anything_runs(here: Path):
    with pytest.raises(NstError, match=r"unknown option 'student.epohcs', did you mean 'student.epochs'"):
        launcher.sweep("train", ["student.epohcs=1,2"])
    with pytest.raises(NstError, match="there is no noise named 'nonne'"):
        launcher.sweep("train", ["noise=full,nonne"])
    assert not list(here.iterdir())
