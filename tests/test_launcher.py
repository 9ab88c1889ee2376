"""Sweeps: one process, run directory and W&B run per job; a failed job does not stop the others."""

import importlib.util
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from nst import launcher
from nst.atomic import write_json
from nst.config import compose_config, plain
from nst.errors import NstError, UsageError
from nst.groups import conf_dir, group_choices, groups, summary_line
from nst.typed import verbatim
from tests import forked
from tests.conftest import TINY

ROWS_OF_TABLE_6 = [
    name.removeprefix("small_table6_") for name in group_choices("experiment") if name.startswith("small_table6_")
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "100")
    level = logging.root.level
    yield tmp_path
    logging.root.setLevel(level)  # Hydra raises it, and silences every logger of the process
    for logger in logging.root.manager.loggerDict.values():
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


def test_the_directory_of_a_job_is_a_run_for_evaluate_and_label(here: Path, digits: Path):
    """Whose name has signs of equality and a comma."""
    options = [*TINY, f"data.root={digits}", "student.steps=4", "name=s", "seed=choice(1)", "noise=none,full"]
    assert launcher.sweep("train", options) == 0
    place = "runs/s/seed=1,noise=none"
    for stage, name in (("evaluate", "model.checkpoint"), ("label", "teacher.run")):
        done = forked.run([stage, f"{name}={place}", f"data.root={digits}"], here)
        assert done.returncode == 0, done.stderr
    assert (here / place / "evaluation" / "result.json").exists()
    assert len(list((here / place / "predictions").rglob("*.parquet"))) == 3


def test_a_failed_job_is_listed_and_the_others_finish(here: Path, digits: Path, capfd: pytest.CaptureFixture[str]):
    options = [*TINY, f"data.root={digits}", "name=sweep", "student.schedule.warmup_epochs=99,0.5"]
    assert launcher.sweep("train", options) == 1
    out, errors = capfd.readouterr()
    assert "1 of 2 jobs failed: student.schedule.warmup_epochs=99" in out
    assert "a cosine schedule must end after its warm-up" in errors
    assert "will fail again: student.schedule.warmup_epochs=99; the command without them" in out
    assert (here / "runs/sweep/student.schedule.warmup_epochs=0.5/DONE").exists()


def test_jobs_whose_options_have_changed_have_no_results_and_a_way_on(
    here: Path, digits: Path, capfd: pytest.CaptureFixture[str]
):
    options = [*TINY, f"data.root={digits}", "name=sweep", "seed=0,1"]
    for seed in (0, 1):
        given = [f"seed={seed}", "student.steps=4", f"run_dir=runs/sweep/seed={seed}"]
        assert forked.run(["train", *options[:-1], *given], here).returncode == 0
    capfd.readouterr()
    assert launcher.sweep("train", [*options, "student.steps=6"]) == 1
    out, errors = capfd.readouterr()
    assert "choose another name=... for the sweep, or overwrite=true" in errors
    assert "run_dir" not in errors.replace("runs/sweep", ""), "which the sweep chooses"
    assert "another name=..., or option" in " ".join(out.split())
    assert "the same command" not in out
    assert len(re.findall(r"seed=\d │ failed \(3\)", out)) == 2, "without the results of the runs that are there"


@pytest.mark.parametrize(
    ("codes", "says"),
    [([0, 3], "directories of runs with other options: b; another run_dir=..., or option"),
     ([2, 2], "the same options fail again"),
     ([2], "the same options fail again"),
     ([0, 2], "options that will fail again: b; the command without them runs only what is missing"),
     ([1, None], "the same command runs only what is missing, and what failed once more")],
)  # fmt: skip
def test_what_a_sweep_advises_helps(codes: list[int | None], says: str):
    jobs = [launcher.SweepJob(Path("runs") / name, code) for name, code in zip("ab", codes, strict=False)]
    (line,) = launcher.ways_on(jobs, "run_dir")
    assert line.startswith(says)


def test_results_of_an_attempt_before_are_not_a_failed_jobs(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "result.json", {"top1": 12.5})
    out = io.StringIO()
    Console(file=out, width=80).print(
        launcher.summary_table([launcher.SweepJob(tmp_path / "a", 0), launcher.SweepJob(tmp_path / "b", 3)])
    )
    rows = {line.split()[1]: line.split()[3] for line in out.getvalue().splitlines() if "│" in line}
    assert rows == {"a": "12.5", "b": "-"}


def test_jobs_are_named_by_what_distinguishes_them():
    swept = launcher._swept_names(["noise=full,none", "seed=range(0,3)", "model.width=0.5", "experiment=glob(table*)"])
    assert swept == {"noise", "seed", "experiment"}
    assert launcher._job_name(["noise=none", "seed=2", "model.width=0.5"], swept) == "noise=none,seed=2"


def test_a_job_of_any_length_has_a_name_that_a_folder_can_have(tmp_path: Path):
    options = [f"iterate.generations=[['model.name=日{'x' * 300}{end}']]" for end in "abc"]
    names = {launcher._job_name([option], {"iterate.generations"}) for option in options}
    assert len(names) == 3
    for name in names:
        (tmp_path / name).mkdir()
    assert launcher._job_name(["seed=" + "1" * 250], {"seed"}) == "seed=" + "1" * 250  # as it was before


def test_jobs_that_read_one_run_keep_their_results_apart(here: Path, monkeypatch: pytest.MonkeyPatch):
    for run in ("a=1", "b"):
        (here / run).mkdir()

    def run_job(arguments: list[str], **_: object) -> int:
        config = compose_config(arguments[1:])
        commands.append((config.evaluate.output, config.run_dir))
        output = Path(config.evaluate.output or f"{config.model.checkpoint}/evaluation")
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "result.json", {"top1": 10.0 * len(commands)})
        return 0

    commands: list[tuple[str | None, str]] = []
    monkeypatch.setattr(launcher, "run_job", run_job)
    closed: list[launcher.SweepJob] = []
    monkeypatch.setattr(launcher, "_close", lambda jobs, *_, **__: closed.extend(jobs) or 0)
    assert launcher.sweep("evaluate", ["model.checkpoint=a=1", "eval.batch_size=8,16", "name=e"]) == 0
    assert launcher.sweep("evaluate", ["model.checkpoint=a=1,b", "name=e"]) == 0
    assert [output for output, _ in commands] == ["runs/e/eval.batch_size=8", "runs/e/eval.batch_size=16", None, None]
    assert [job.result["top1"] for job in closed] == [10.0, 20.0, 30.0, 40.0]
    assert (here / "a=1" / "evaluation" / "result.json").exists()


def test_the_closing_table_tells_jobs_apart_in_80_columns(tmp_path: Path):
    names = [f"experiment=small_table6_{row},seed={seed}" for seed in (0, 1) for row in ROWS_OF_TABLE_6]
    for name in names:
        (tmp_path / name).mkdir()
        scores = {"top1": 91.25, "top5": 99.5, "ece": 10.25, "gain": -10.5}
        write_json(tmp_path / name / "result.json", scores)
    jobs = [launcher.SweepJob(tmp_path / name, exit_code=int(name == names[0])) for name in names]
    out = io.StringIO()
    Console(file=out, width=80).print(launcher.summary_table(jobs))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    shown: list[str] = []
    for line in lines:
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if not cells or cells[0] == "job":
            continue
        if cells[1]:
            shown.append(cells[0])
        else:
            shown[-1] += cells[0]
    assert shown == [name.removeprefix("experiment=") for name in names]
    assert "failed (1)" in out.getvalue()


def test_unknown_options_of_a_sweep_are_explained_before_anything_runs(here: Path):
    with pytest.raises(NstError, match=r"unknown option 'student.epohcs', did you mean 'student.epochs'"):
        launcher.sweep("train", ["student.epohcs=1,2"])
    with pytest.raises(NstError, match="there is no noise named 'nonne'"):
        launcher.sweep("train", ["noise=full,nonne"])
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("swept", "wrong"),
    [("seed=1,-1", "seed=-1"), ("seed=1,x", "seed=x"), ("model.width=range(0,2)", "model.width=0"),
     ("teacher.mode=offline,'on line'", "teacher.mode='on line'"), ("overwrite=false,maybe", "overwrite=maybe")],
)  # fmt: skip
def test_a_value_of_a_sweep_that_is_none_is_told_before_anything_runs(swept: str, wrong: str, here: Path):
    with pytest.raises(UsageError) as caught:
        launcher.sweep("train", [*TINY, swept])
    assert f"got:   {wrong}\n" in str(caught.value)
    assert not list(here.iterdir())


def test_values_of_a_sweep_are_read_as_jobs_read_them(here: Path):
    right = ["seed=range(0,3)", "model.width=range(0.1,0.4,0.1)", "data.root='a=b',c d", "teacher.run=null,'x'",
             "eval.severities=[1],[2,3]", "name=x${seed},y", "experiment=glob(table*)", "data.labeled=a,${data.root}",
             "iterate.generations=[[],['model.width=0.5']],null", "overwrite=yes,no"]  # fmt: skip
    assert launcher._swept_names(right) == {item.partition("=")[0] for item in right}


def test_a_sweep_into_a_folder_of_any_name(here: Path, monkeypatch: pytest.MonkeyPatch):
    def run_job(arguments: list[str], **_: object) -> int:
        commands.append(arguments)
        return 0

    commands: list[list[str]] = []
    monkeypatch.setattr(launcher, "run_job", run_job)
    assert launcher.sweep("train", [*TINY, "seed=1,2", "run_dir=o'n a=b [x]"]) == 0
    assert [command[0] for command in commands] == ["train", "train"]
    given = [verbatim(command[1:]) for command in commands]
    assert [compose_config(each).run_dir for each in given] == [f"o'n a=b [x]/seed={seed}" for seed in (1, 2)]


# ---- other launchers and a sweeper that searches: the extra `sweep`


def needs(plugin: str) -> pytest.MarkDecorator:
    installed = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not installed, reason=f"{plugin} is of the extra sweep")


def marks(base: Path) -> dict[str, int]:
    """Which jobs have finished, and when."""
    return {path.parent.name: path.stat().st_mtime_ns for path in base.glob("*/DONE")}


@needs("hydra_joblib_launcher")
def test_jobs_at_the_same_time_and_again_only_what_is_missing(
    here: Path, digits: Path, capfd: pytest.CaptureFixture[str]
):
    options = [*TINY, f"data.root={digits}", "name=sweep", "student.steps=4", "hydra/launcher=parallel"]
    swept = "student.schedule.warmup_epochs=99,0.1"
    assert launcher.sweep("train", [*options, swept]) == 1
    out, _ = capfd.readouterr()
    assert "1 of 2 jobs failed: student.schedule.warmup_epochs=99" in out
    base = here / "runs" / "sweep"
    before = marks(base)
    assert before.keys() == {"student.schedule.warmup_epochs=0.1"}
    assert not (base / ".sweep").exists(), "what jobs noted for the table is gone"
    assert launcher.sweep("train", [*options, swept.replace("99", "0.2")]) == 0
    after = marks(base)
    assert after.keys() == before.keys() | {"student.schedule.warmup_epochs=0.2"}
    assert after["student.schedule.warmup_epochs=0.1"] == before["student.schedule.warmup_epochs=0.1"]


@needs("hydra_submitit_launcher")
def test_jobs_by_submitit_without_a_cluster(here: Path, digits: Path, capfd: pytest.CaptureFixture[str]):
    options = [*TINY, f"data.root={digits}", "name=sweep", "student.steps=4", "hydra/launcher=slurm_local"]
    assert launcher.sweep("train", [*options, "student.schedule.warmup_epochs=99,0.1"]) == 1
    base = here / "runs" / "sweep"
    assert marks(base).keys() == {"student.schedule.warmup_epochs=0.1"}
    assert "1 of 2 jobs failed: student.schedule.warmup_epochs=99" in capfd.readouterr().out
    printed = "".join(path.read_text() for path in (base / ".submitit").rglob("*.err"))
    assert "a cosine schedule must end after its warm-up" in printed


@needs("hydra_optuna_sweeper")
def test_optuna_is_told_top1_and_finds_its_finished_trials_again(
    here: Path, digits: Path, capfd: pytest.CaptureFixture[str]
):
    options = [*TINY, f"data.root={digits}", "name=search", "student.steps=4", "hydra/sweeper=search",
               "hydra.sweeper.n_trials=2"]  # fmt: skip
    assert launcher.sweep("train", options) == 0
    base = here / "runs" / "search"
    before = marks(base)
    assert len(before) == 2
    searched = plain(compose_config(["hydra/sweeper=search"], with_hydra=True).hydra.sweeper.params)
    assert all({part.partition("=")[0] for part in job.split(",")} == set(searched) for job in before)
    found = yaml.safe_load((base / "optimization_results.yaml").read_text())
    scores = {job: json.loads((base / job / "result.json").read_text())["top1"] for job in before}
    assert found["best_value"] == max(scores.values())
    best = ",".join(launcher._tidy(f"{name}={value}") for name, value in found["best_params"].items())
    assert scores[best] == max(scores.values())
    assert f"best: top1 {scores[best]:.2f} with {best}" in capfd.readouterr().out

    assert launcher.sweep("train", options) == 0
    assert marks(base) == before


def test_steps_of_a_range_are_named_without_the_rounding_of_floats():
    steps = [f"noise.dropout={value}" for value in (0.1 + 0.2, 7 * 0.1, 0.5, 3, 0.0)]
    assert steps[:2] == ["noise.dropout=0.30000000000000004", "noise.dropout=0.7000000000000001"]
    assert [launcher._tidy(step) for step in steps] == [f"noise.dropout={value}" for value in (0.3, 0.7, 0.5, 3, 0.0)]
    assert launcher._tidy("noise=full") == "noise=full"
    assert launcher._tidy("data.root='a=0.30000000000000004'") == "data.root='a=0.30000000000000004'"


def test_the_search_is_over_noise_and_selection_and_every_option_exists():
    searched = plain(compose_config(["hydra/sweeper=search"], with_hydra=True).hydra.sweeper.params)
    assert searched.keys() == {
        "noise.randaugment.magnitude", "noise.dropout", "noise.stochastic_depth", "select.min_confidence",
        "student.unlabeled_ratio",
    }  # fmt: skip
    for name, tried in searched.items():
        first = tried.removeprefix("range(").split(",")[0]
        assert compose_config([f"{name}={first}"])


def test_every_launcher_and_sweeper_has_a_line_of_explanation_and_composes():
    files = sorted((conf_dir() / "hydra").glob("*/*.yaml"))
    assert len(files) >= 4
    for path in files:
        assert "(extra: sweep)" in summary_line(f"hydra/{path.parent.name}", path.stem)
        node = compose_config([f"hydra/{path.parent.name}={path.stem}"], with_hydra=True).hydra[path.parent.name]
        assert node._target_ == yaml.safe_load(path.read_text())["_target_"]
    assert "hydra" not in groups()


def test_a_slurm_job_has_as_many_tasks_as_gpus():
    options = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=4"]
    assert compose_config(options, with_hydra=True).hydra.launcher.tasks_per_node == 4
    cpus = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.tasks_per_node=1"]
    node = plain(compose_config([*cpus, "hydra.sweep.dir=runs/x"], with_hydra=True).hydra.launcher)
    assert (node["gpus_per_node"], node["tasks_per_node"]) == (None, 1)
    assert node["setup"] == ["export SLURM_KILL_BAD_EXIT=1"]


def test_another_task_than_the_first_notes_nothing_and_fails_after_it(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launcher.HydraConfig, "get", lambda: plain_settings(number=0))
    monkeypatch.setattr(launcher, "run_job", lambda *_, **__: 1)
    slept: list[float] = []
    monkeypatch.setattr(launcher.time, "sleep", slept.append)
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(SystemExit):
        launcher.Launch("train", here, frozenset({"seed"}), here / "records")(None)
    assert slept == [launcher.GRACE_S]
    assert not (here / "records").exists()


def test_a_launcher_that_is_not_installed_names_the_extra(here: Path, monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if "joblib_launcher" in name else real(name, *more)
    )
    with pytest.raises(NstError, match=r"launcher is not installed\n(.|\n)*NST_EXTRAS=sweep"):
        launcher.sweep("train", ["seed=0,1", "hydra/launcher=parallel"])
    assert not (here / "runs").exists()


def test_a_job_that_never_came_back_counts_as_failed(here: Path, capfd: pytest.CaptureFixture[str]):
    for name in ("seed=0", "seed=1"):
        (here / name).mkdir()
    write_json(here / "seed=0" / "result.json", {"top1": 90.0})
    jobs = [launcher.SweepJob(here / "seed=0", 0), launcher.SweepJob(here / "seed=1", None)]
    assert launcher._close(jobs, RuntimeError("node7 is gone\ntrace"), searched=False) == 1
    out, _ = capfd.readouterr()
    assert "lost" in out
    assert "the launcher stopped: RuntimeError: node7 is gone\n" in out
    assert "1 of 2 jobs failed: seed=1" in out
    assert launcher._close(jobs[:1], None, searched=False) == 0
    assert launcher._close(jobs[:1], RuntimeError("x"), searched=False) == 1


class Stopped(SimpleNamespace):
    """A fork server and its job, in which a person's Ctrl-C arrives."""

    def start(self, arguments: list[str], **_: object) -> "Stopped":
        return self

    def wait(self, timeout: float | None = None) -> None:
        self.calls.append(timeout)
        if timeout is None:
            raise KeyboardInterrupt
        raise launcher.subprocess.TimeoutExpired("nst", timeout)

    def kill(self) -> None:
        self.calls.append("kill")


def test_a_sweep_that_is_stopped_leaves_no_job_behind(monkeypatch: pytest.MonkeyPatch):
    job = Stopped(calls=[])
    monkeypatch.setattr(launcher, "_server", lambda _: job)
    with pytest.raises(KeyboardInterrupt):
        launcher.run_job(["train"], forks=True)
    assert job.calls == [None, launcher.STOP_GRACE_S, "kill"]


@pytest.mark.parametrize(("choice", "forks"), [("basic", True), ("parallel", True), ("slurm", False)])
def test_jobs_of_this_machine_are_forked_and_others_start_where_they_run(
    choice: str, forks: bool, here: Path, monkeypatch: pytest.MonkeyPatch
):
    class Launched(Exception):
        pass

    def launch(*fields: object) -> None:
        assert fields[-1] == forks
        raise Launched

    monkeypatch.setattr(launcher, "_require_plugins", lambda _: None)
    monkeypatch.setattr(launcher, "Launch", launch)
    with pytest.raises(Launched):
        launcher.sweep("train", ["seed=0,1", f"hydra/launcher={choice}"])


def test_what_a_failed_job_left_is_no_objective(here: Path, monkeypatch: pytest.MonkeyPatch):
    """A search must not learn from the result of an attempt before."""
    directory = here / "runs" / "job"
    directory.mkdir(parents=True)
    write_json(directory / "result.json", {"top1": 90.0, "generations": [{"top1": 80.0}]})
    monkeypatch.setattr(launcher, "_job_name", lambda *_: "job")
    settings = plain_settings(number=3)
    monkeypatch.setattr(launcher.HydraConfig, "get", lambda: settings)
    launch = launcher.Launch("iterate", here / "runs", frozenset(), here / "records")
    for code, told in ((0, 90.0), (1, None), (None, None)):
        monkeypatch.setattr(launcher, "run_job", lambda *_, code=code, **__: code)
        assert launch(None) == told
        assert launcher._noted(here / "records") == [launcher.SweepJob(directory, code, directory)]


def plain_settings(number: int) -> SimpleNamespace:
    """As much of Hydra's configuration as a job reads."""
    return SimpleNamespace(overrides=SimpleNamespace(task=["seed=1"]), job=SimpleNamespace(num=number))
