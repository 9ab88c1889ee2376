"""The command line: what it lists, what it runs, and how it says that something is wrong."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nst import cli
from nst.config import compose_config, group_choices, groups, summary_line
from nst.errors import NstError, Preempted, nearest
from nst.stages import options as stage_options
from nst.stages import select, train
from nst.xla import environment
from tests.conftest import TINY
from tests.forked import run

ROOT = Path(__file__).parent.parent


def main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_help_names_every_stage_in_a_line(capsys: pytest.CaptureFixture[str]):
    code, out, _ = main(capsys, "--help")
    assert code == 0
    for stage, line in cli.STAGES.items():
        assert f"  {stage}" in out
        assert line in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("stage", list(cli.STAGES))
def test_stage_help_lists_options_groups_and_choices_with_a_line_each(stage: str, capsys: pytest.CaptureFixture[str]):
    code, out, _ = main(capsys, stage, "--help")
    assert code == 0
    assert "seed=0" in out
    assert "run_dir=" in out
    for group in groups():
        assert f"  {group}=" in out
        for choice in group_choices(group):
            line = next(text for text in out.splitlines() if text.split()[:1] == [choice])
            assert len(line.split()) > 2, f"{group}/{choice} has no description"


def test_every_configuration_file_and_row_says_what_it_is():
    conf = ROOT / "conf"
    found = [(str(path.parent.relative_to(conf)), path.stem) for path in conf.rglob("*.yaml")]
    found += [(group, choice) for group in groups() for choice in group_choices(group)]
    for group, choice in found:
        assert len(summary_line(group, choice)) > 10, (group, choice)
    assert len(found) > 200


def test_the_value_of_a_flag_may_have_a_sign_of_equality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert cli.flags_as_options("shard", ["--exclude", "runs/noise=none"]) == ["shard.exclude=runs/noise=none"]
    assert cli.flags_as_options("shard", ["--exclude", "seed=1"]) == ["shard.exclude=true", "seed=1"]
    (tmp_path / "noise=none").mkdir()
    assert cli.flags_as_options("shard", ["--exclude", "noise=none"]) == ["shard.exclude=noise=none"]


def test_help_is_quick_because_it_imports_no_torch():
    code = "import sys; from nst import cli; cli.stage_help('train'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


NO_SUCH = ("unknown ", "there is no noise", "there is no experiment", "'student", "student.", "data.", "option ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["unknown stage 'trian', did you mean 'train'?", "valid: shard, train"]),
        (["train", "student.epohcs=3"], ["unknown option 'student.epohcs', did you mean 'student.epochs'?"]),
        (["train", "noise=fulll"], ["there is no noise named 'fulll', did you mean 'full'?", "no_augment"]),
        (["train", "experiment=digits"], ["there is no experiment named 'digits'", "digits_demo"]),
        (["train", "student.steps=["], ["student.steps cannot be '['", "a whole number"]),
        (["train", "data.root=/nowhere"], ["no such shard folder: /nowhere/labeled", "next:  make one: nst shard"]),
        (["label", "data=folder", "teacher.run=/nowhere"], ["there is no run or weights file at /nowhere"]),
        (["select"], ["where are the teacher's predictions?", "nst select teacher.run="]),
        (["label", "teacher.predictions=x"], ["nst label needs a teacher", "teacher.run="]),
        (["evaluate"], ["nothing to evaluate", "model.checkpoint="]),
        (["shard", "data=folder"], ["option 'data.source.root' needs a value"]),
        (["shard", "--verify", "shard.output=/nowhere"], ["there is no shard set in /nowhere"]),
        (["report", "run_dir=/nowhere"], ["/nowhere"]),
        (["train", "--verfy"], ["unknown option 'train.verfy'"]),
        (["train", "student.labeled_batch_size=abc"], ["student.labeled_batch_size cannot be 'abc'", "a whole number"]),
        (["train", "student.steps=0"], ["student.steps cannot be 0", "1 to"]),
        (["shard", "data.test_samples=abc"], ["data.test_samples cannot be 'abc'", "or null"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_mistakes_are_told_in_words_without_a_traceback(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, errors = main(capsys, *arguments)
    assert code == (2 if words[0].startswith(NO_SUCH) else 1)  # what restarts failed jobs tells them apart
    assert errors.startswith("nst: ")
    assert "Traceback" not in errors
    for text in words:
        assert text in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "something was half written"


@pytest.mark.parametrize("kind", [PermissionError, IsADirectoryError, NotADirectoryError, FileNotFoundError])
def test_a_path_that_cannot_be_used_is_told_in_a_sentence(kind: type[OSError], capsys, monkeypatch):
    number = {PermissionError: errno.EACCES, IsADirectoryError: errno.EISDIR, NotADirectoryError: errno.ENOTDIR,
              FileNotFoundError: errno.ENOENT}[kind]  # fmt: skip

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), "/some/path")

    monkeypatch.setattr(cli, "run_stage", refuse)
    code, _, errors = main(capsys, "train")
    assert code == 1
    assert errors.startswith(f"nst: {os.strerror(number)}: /some/path")


def test_a_fault_that_concerns_no_path_is_not_hidden(monkeypatch):
    def fault(*_: object, **__: object) -> int:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(cli, "run_stage", fault)
    with pytest.raises(ConnectionResetError):
        cli.main(["train"])


def test_no_stage_shows_the_usage_and_fails(capsys: pytest.CaptureFixture[str]):
    code, out, _ = main(capsys)
    assert code == 2
    assert "usage: nst <stage>" in out


def test_cfg_prints_the_composed_configuration(capsys: pytest.CaptureFixture[str]):
    code, out, _ = main(capsys, "train", "experiment=digits_demo", "--cfg")
    assert code == 0
    assert "name: digits_demo" in out


def test_nearest_suggests_only_what_is_near():
    assert nearest("epohcs", ["epochs", "steps"]) == ", did you mean 'epochs'?"
    assert nearest("zzz", ["epochs", "steps"]) == ""


def test_missing_value_is_named():
    with pytest.raises(NstError, match=r"option 'data.source.root' needs a value"):
        from nst.config import plain

        plain(compose_config(["data=folder"]).data)


def test_full_disk_is_told_in_words(digits: Path, tmp_path: Path):
    """A real limit on file sizes stands in for a full disk: the checkpoint does not fit."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "from nst.cli import main; main(sys.argv[1:])"
    )
    arguments = ["train", *TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}"]
    done = run(["python", "-c", code, *arguments], tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("nst: "), done.stderr
    assert "Traceback" not in done.stderr
    assert "make room" in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize(("stage", "module", "meets"), [("train", train, True), ("select", select, False)])
def test_hosts_of_a_pod_meet_before_a_stage_in_which_they_compute(
    stage: str, module: Any, meets: bool, monkeypatch: pytest.MonkeyPatch
):
    done: list[str] = []
    machine = SimpleNamespace(agreed=lambda _: done.append("meets"))
    monkeypatch.setattr(environment, "announce_host", lambda *_: done.append("numbered"))
    monkeypatch.setattr(stage_options, "machine_from", lambda _: machine)
    monkeypatch.setattr(module, "main", lambda _: done.append("runs"))
    assert cli.run_stage(stage, ["trainer=tpu_pod"]) == 0
    assert done == ["numbered", *["meets"] * meets, "runs"]


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (0, None),
        (Preempted("told to stop"), None),
        (NstError("no such thing", next="x"), "no such thing"),
        (OSError(errno.ENOSPC, "No space left on device", "/run"), "No space left on device while writing /run"),
        (KeyboardInterrupt(), "stopped; the same command continues"),
        (ValueError("a bug\nin lines"), "ValueError: a bug"),
        (RuntimeError("of torch"), "RuntimeError: of torch"),
        (SystemExit(1), "SystemExit: 1"),
        (3, "exit code 3"),
    ],
    ids=repr,
)
def test_other_hosts_are_told_how_this_one_ends(outcome: Any, told: str | None, monkeypatch: pytest.MonkeyPatch):
    def dispatch(_: list[str]) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    heard: list[str | None] = []
    monkeypatch.setattr(cli, "dispatch", dispatch)
    monkeypatch.setitem(sys.modules, "nst.xla.lifeline", SimpleNamespace(release=heard.append))  # type: ignore[arg-type]
    with pytest.raises((SystemExit, ValueError, RuntimeError)):
        cli.main(["train"])
    assert heard == [told]
