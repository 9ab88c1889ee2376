"""Ctrl-C, which says where it stopped; and when ranks ask each other whether one was told to stop: every few seconds,
all at the same step."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nst.data.images import encode_png
from nst.training import callbacks
from nst.training.callbacks import LOOK_S, StopSignal
from tests.conftest import TINY, read_by
from tests.forked import PYTHON, ROOT, run, start


def stopped(
    command: list[str], folder: Path, when: Callable[[], bool], *, terminated: bool = False
) -> tuple[int | None, str]:
    """Exit code and output of a command whose process group gets SIGINT, as by a terminal's Ctrl-C; or which gets
    SIGTERM alone."""
    with open(folder / "output.txt", "w+", encoding="utf-8") as output:
        job = start(command, folder, [output, output])
        since = time.monotonic()
        while not when() and job.poll() is None and time.monotonic() - since < 120:
            time.sleep(0.05)
        if terminated:
            os.kill(job.pid, signal.SIGTERM)
        else:
            os.killpg(job.pid, signal.SIGINT)
        code = job.wait(60)
    return code, (folder / "output.txt").read_text(encoding="utf-8")


def test_ctrl_c_says_where_a_training_stopped_and_the_same_command_continues(digits: Path, tmp_path: Path):
    command = ["train", *TINY, f"data.root={digits}", "run_dir=run", "student.steps=100000"]
    state = tmp_path / "run" / "checkpoints" / "trained_last.ckpt"
    code, said = stopped(command, tmp_path, state.exists)
    assert code == 130, said
    assert re.search(r"train: stopped at step \d+; the state of step \d*[48260] is kept\n", said), said
    assert "nst: stopped; the same command continues\n" in said
    assert "Traceback" not in said
    kept = int(re.findall(r"state of step (\d+)", said)[0])
    before = state.stat().st_mtime_ns
    code, said = stopped(command, tmp_path, lambda: state.stat().st_mtime_ns != before)
    assert code == 130, said
    assert f"train: continuing from step {kept}\n" in said


def test_ctrl_c_says_where_a_loop_stopped_and_the_same_command_continues(digits: Path, tmp_path: Path):
    """In the student's training, behind all of the teacher's."""
    given = ["student.steps=100000", "student.labeled_batch_size=8"]
    generations = f"iterate.generations=[[student.steps=4],[{','.join(given)}]]"
    command = ["iterate", *TINY, f"data.root={digits}", "run_dir=run", generations]
    state = tmp_path / "run" / "gen1" / "checkpoints" / "trained_last.ckpt"
    code, said = stopped(command, tmp_path, state.exists)
    assert code == 130, said
    assert re.search(r"gen1.*: stopped at step \d+; the state of step \d+ is kept\n", said), said
    assert said.endswith("nst: stopped; the same command continues\n"), said
    assert "Traceback" not in said
    kept, before = int(re.findall(r"state of step (\d+)", said)[0]), state.stat().st_mtime_ns
    teacher = (tmp_path / "run" / "gen0" / "DONE").stat().st_mtime_ns
    code, said = stopped(command, tmp_path, lambda: state.stat().st_mtime_ns != before)
    assert code == 130, said
    assert f": continuing from step {kept}\n" in said, said
    assert (tmp_path / "run" / "gen0" / "DONE").stat().st_mtime_ns == teacher


def at(files: str, command: list[str], folder: Path) -> tuple[int, str]:
    """Likewise, as soon as the first file of such a path is there."""
    done = run([*PYTHON, "tests.killed_program", f"ctrl-c:{files}", *command], folder, merged=True)
    return done.returncode, done.stdout


def test_ctrl_c_in_predict_keeps_the_parts_that_are_done(digits: Path, tmp_path: Path):
    assert run(["train", *TINY, f"data.root={digits}", "student.steps=4", "run_dir=run"], tmp_path).returncode == 0
    (tmp_path / "photos").mkdir()
    for number in range(1200):  # all different: equal pictures are asked about once
        picture = np.full((8, 8), number % 256, np.uint8)
        picture[0, 0] = number // 256
        (tmp_path / "photos" / f"{number:04d}.png").write_bytes(encode_png(picture))
    command = ["predict", "model.checkpoint=run", "input=photos", "trainer.workers=0", "predict.sheet=0"]
    parts = tmp_path / "run" / "predict" / "photos" / "parts"
    code, said = at("*/parts/*.parquet", command, tmp_path)
    assert (code, said.endswith("nst: stopped; the same command continues\n")) == (130, True), said
    assert "Traceback" not in said
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert len(done) == 1
    assert run(command, tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len((parts.parent / "predictions.csv").read_text().splitlines()) == 1201


def test_ctrl_c_ends_a_sweep_and_its_job(digits: Path, tmp_path: Path):
    command = ["train", "-m", *TINY, f"data.root={digits}", "name=s", "student.steps=100000", "seed=1,2"]
    state = tmp_path / "runs" / "s" / "seed=1" / "checkpoints" / "trained_last.ckpt"
    code, said = stopped(command, tmp_path, state.exists)
    assert code == 130, said
    assert re.search(r"train: stopped at step \d+; the state of step \d+ is kept\n", said), said
    assert re.search(r"seed=1 .*stopped", said), "the table that closes a sweep"
    assert not (tmp_path / "runs" / "s" / ".sweep").exists()
    assert "Traceback" not in said


def test_sigterm_ends_a_sweep_and_its_job_as_ctrl_c_does(digits: Path, tmp_path: Path):
    command = ["train", "-m", *TINY, f"data.root={digits}", "name=s", "student.steps=100000", "seed=1,2"]
    state = tmp_path / "runs" / "s" / "seed=1" / "checkpoints" / "trained_last.ckpt"
    code, said = stopped(command, tmp_path, state.exists, terminated=True)
    assert code == 143, said
    assert re.search(r"told to stop \(SIGTERM\) at step \d+; the state is kept", said), said
    assert re.search(r"seed=1 .*stopped", said), "the table that closes a sweep"
    assert "nst: stopped (SIGTERM); the same command continues\n" in said
    assert not (tmp_path / "runs" / "s" / "seed=2").exists()
    assert "Traceback" not in said


def test_sigterm_between_two_steps_of_a_loop_is_answered_with_a_sentence():
    """Also to a process that was forked from it, which ends without one."""
    kill = "os.kill(os.getpid(), signal.SIGTERM)"
    stage = f"lambda *_, **__: [os.fork() or {kill}, os.wait(), {kill}, time.sleep(9)]"
    program = f"import os, signal, time; from nst import cli; cli.run_stage = {stage}; cli.main(['iterate'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    said = done.stderr.replace("nst iterate: loading\n", "")
    assert (done.returncode, said) == (143, "nst: stopped (SIGTERM); the same command continues\n")


def test_ctrl_c_in_an_evaluation_is_no_failure(digits: Path, tmp_path: Path):
    options = [*TINY, f"data.root={digits}", "student.steps=4"]
    assert run(["train", *options, "run_dir=run"], tmp_path).returncode == 0
    many = ["eval=robustness", "eval.max_images=100", "eval.attacks=null", "eval.perturbations=null"]
    command = ["evaluate", *read_by("evaluate", options), *many, "model.checkpoint=run"]
    code, said = at("*/c_onthefly/parts/*.json", command, tmp_path)
    assert (code, said.endswith("nst: stopped; the same command continues\n")) == (130, True), said


def test_ctrl_c_behind_the_end_says_nothing():
    """While Python ends, which takes a moment where much is loaded."""
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)"
    program = f"{late}; from nst.cli import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


class Ranks:
    """Ranks in lockstep with a clock of our own: what the collectives do for `StopSignal`, and no more."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step, self.count, self.looks = 0.0, 0, count, list[float]()
        monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: self.now))
        self.planned = 0
        self.told = [StopSignal() for _ in range(count)]
        self.trainers = [self._trainer(rank) for rank in range(count)]
        for one in self.told:
            one.listen()

    def _trainer(self, rank: int) -> Any:
        def broadcast(steps: int) -> int:
            self.planned = steps if rank == 0 else self.planned
            return self.planned

        def any_told(told: bool, *, all: bool) -> bool:
            if rank == 0:
                self.looks.append(self.now)
            return any(one._told for one in self.told)

        strategy = SimpleNamespace(broadcast=broadcast, reduce_boolean_decision=any_told)
        return SimpleNamespace(global_rank=rank, world_size=self.count, strategy=strategy)

    def take(self, seconds: float) -> list[bool]:
        """A step of so many seconds; whether each rank stops after it."""
        self.now, self.step = self.now + seconds, self.step + 1
        return [one.heard(trainer, self.step) for one, trainer in zip(self.told, self.trainers, strict=True)]


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Of SIGTERM, which no test leaves behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("step_s", [0.01, 0.3, 1.77, 3.5, 20.0])
def test_ranks_stop_at_the_same_step_within_seconds(step_s: float, monkeypatch: pytest.MonkeyPatch):
    """After a first step that compiles for 20 minutes; told at any time, on the last rank."""
    for told_at in (3, 60, 777):
        ranks = Ranks(4, monkeypatch)
        assert ranks.take(1200.0) == [False] * 4
        for _ in range(told_at):
            assert ranks.take(step_s) == [False] * 4
        ranks.told[-1]._hear()
        told = ranks.now
        while not any(stopped := ranks.take(step_s)):
            assert ranks.now - told < LOOK_S
        assert stopped == [True] * 4
        assert ranks.now - told <= LOOK_S + step_s


def test_looks_are_rare_where_steps_are_short(monkeypatch: pytest.MonkeyPatch):
    ranks = Ranks(2, monkeypatch)
    for _ in range(20_000):
        ranks.take(0.01)
    assert len(ranks.looks) < 200 / LOOK_S + 15


def test_looks_come_closer_when_steps_become_slower(monkeypatch: pytest.MonkeyPatch):
    """Steps that seemed short, because devices worked behind the host's back, cost one long wait at most."""
    ranks = Ranks(2, monkeypatch)
    for _ in range(8):
        ranks.take(0.01)
    for _ in range(60):
        ranks.take(2.0)
    gaps = [later - earlier for earlier, later in zip(ranks.looks, ranks.looks[1:], strict=False)]
    assert max(gaps) < 2 * 16
    assert max(gaps[-5:]) <= LOOK_S


def test_a_process_alone_looks_after_every_step(monkeypatch: pytest.MonkeyPatch):
    ranks = Ranks(1, monkeypatch)
    for _ in range(50):
        ranks.take(0.01)
    assert len(ranks.looks) == 50
