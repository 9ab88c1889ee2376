"""The command line: what it lists, what it runs, and how it says that something is wrong."""

import errno
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from select import select as ready
from types import SimpleNamespace
from typing import Any

import pytest

from nst import cli
from nst.config import compose_config
from nst.errors import NstError, Preempted, nearest, nearest_few
from nst.flags import flags_as_options
from nst.groups import group_choices, groups, summary_line
from nst.kinds import Kind
from nst.settings import SECTIONS, TREE
from nst.stage_table import STAGES
from nst.stages import resolving as stage_options
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
    for stage, record in STAGES.items():
        assert f"  {stage}" in out
        assert record.does in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("stage", list(STAGES))
def test_stage_help_lists_options_groups_and_choices_with_a_line_each(stage: str, capsys: pytest.CaptureFixture[str]):
    code, out, _ = main(capsys, stage, "--help")
    assert code == 0
    assert "seed=0" in out
    assert "run_dir=" in out
    paper, _ = main(capsys, stage, "--help", "experiment")[1:]
    for group in groups():
        assert f"  {group}=" in out
        for choice in group_choices(group):
            seen = paper if group == "experiment" else out
            lines = seen.splitlines()
            place = next(number for number, text in enumerate(lines) if text.split()[:1] == [choice])
            assert len(" ".join(lines[place : place + 2]).split()) > 2, f"{group}/{choice} has no description"
    assert "rows of the paper's tables: nst" in out
    assert "table6" not in out
    for text in (out, paper):
        assert max(map(len, text.splitlines())) <= 80
        assert not re.search(r"\[[CO]\]", text)


@pytest.mark.parametrize(
    ("stage", "needed"),
    [("predict", "model.checkpoint="), ("label", "teacher.run="), ("evaluate", "model.checkpoint="),
     ("export", "model.checkpoint=")],
)  # fmt: skip
def test_help_begins_with_what_must_be_given(stage: str, needed: str, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = main(capsys, stage, "--help")[1].partition("options:")[0].splitlines()
    usage, example = next(line for line in lines if line.startswith("usage:")), lines[-2]
    assert example.startswith(f"example: nst {stage} ")
    assert needed in usage
    assert needed in example
    assert max(map(len, lines)) <= 80


def test_every_configuration_file_and_row_says_what_it_is():
    conf = ROOT / "conf"
    found = [(str(path.parent.relative_to(conf)), path.stem) for path in conf.rglob("*.yaml")]
    found += [(group, choice) for group in groups() for choice in group_choices(group)]
    for group, choice in found:
        assert len(summary_line(group, choice)) > 10, (group, choice)
    assert len(found) > 200


def test_a_folder_without_an_option_is_answered_with_the_one_that_was_meant(tmp_path: Path, monkeypatch, capsys):
    """`nst predict runs/a pictures`, as other programs take it."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/a", "my pictures"):
        Path(folder).mkdir(parents=True)
    Path("runs/a/config.yaml").touch()
    told = {
        ("predict", "runs/a", "my pictures"): "nst predict model.checkpoint=runs/a 'input=my pictures'",
        ("predict", "my pictures", "runs/a"): "nst predict 'input=my pictures' model.checkpoint=runs/a",
        ("predict", "--top", "5", "my pictures"): "nst predict --top 5 'input=my pictures'",
        ("predict", "model.checkpoint=x", "runs/a"): "nst predict model.checkpoint=x input=runs/a",
        ("report", "runs/a"): "nst report run_dir=runs/a",
        ("label", "runs/a"): "nst label teacher.run=runs/a",
        ("evaluate", "runs/a", "seed=1"): "nst evaluate seed=1 model.checkpoint=runs/a",
    }
    for arguments, command in told.items():
        code, _, errors = main(capsys, *arguments)
        assert code == 2
        assert "is not an option" in errors
        assert errors.strip().endswith(f"next:  {command}"), errors
    for arguments in (["report", "runs/nowhere"], ["shard", "runs/a"], ["report", "runs/a", "runs/a"]):
        assert "next:" not in main(capsys, *arguments)[2]
    assert "next:" not in main(capsys, "shard", "data=digits", "=5")[2], "the same would fail again"


def test_networks_with_a_comma_between_them_are_answered_with_a_list(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b c"):
        Path(name).mkdir()
    for given, list_ in (
        (["predict", "model.checkpoint=a,b c", "input=a"], "nst predict input=a model.checkpoint='[a,b c]'"),
        (["label", "teacher.run=a,b c"], "nst label teacher.run='[a,b c]'"),
    ):
        assert main(capsys, *given)[2].strip().endswith(f"next:  several are a list: {list_}")
    for given in (["predict", "model.checkpoint=a,nothing", "input=a"], ["evaluate", "model.checkpoint=a,b c"]):
        assert "a list" not in main(capsys, *given)[2]


@pytest.mark.parametrize("value", ["name=x", "so=rt [1]", "~here", "-1", "a b", "seed=1", "top"])
@pytest.mark.parametrize("flag", ["output", "sort-into"])
def test_what_is_behind_a_flag_that_needs_a_value_is_its_value(flag: str, value: str):
    options = flags_as_options("predict", [f"--{flag}", value, "--top", "5", "input=x"])
    name = f"predict.{flag.replace('-', '_')}"
    assert options == [f"{name}={value}", "predict.top=5", "predict.input=x"]
    assert compose_config(options).predict[flag.replace("-", "_")] == os.path.expanduser(value)


def flags_with_a_value() -> list[tuple[str, str]]:
    """Of every stage, the flags that cannot stand alone."""
    return [
        (stage, f"--{name.replace('_', '-')}") for stage in STAGES if stage in SECTIONS
        for name, kind in TREE[stage].items() if isinstance(kind, Kind) and not kind.words.startswith("true or false")
    ]  # fmt: skip


@pytest.mark.parametrize(("stage", "flag"), flags_with_a_value())
@pytest.mark.parametrize("behind", [[], ["--cfg"], ["-m"]])
def test_a_flag_without_the_value_that_it_needs_is_refused(stage: str, flag: str, behind: list[str], capsys):
    code, _, said = main(capsys, stage, flag, *behind)
    assert code == 2
    assert f"{flag} needs a value" in said
    assert f"next:  nst {stage} " in said
    assert f"{flag}=<value>" in said


def test_an_empty_value_is_no_value(capsys: pytest.CaptureFixture[str]):
    for flag in ("--output=", "--top="):
        code, _, said = main(capsys, "predict", "input=x", "model.checkpoint=y", flag)
        assert code == 2
        assert "cannot be ''" in said


def test_the_value_of_a_flag_may_have_a_sign_of_equality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert flags_as_options("shard", ["--exclude", "runs/noise=none"]) == ["shard.exclude=runs/noise=none"]
    assert flags_as_options("shard", ["--exclude", "seed=1"]) == ["shard.exclude=true", "seed=1"]
    (tmp_path / "noise=none").mkdir()
    assert flags_as_options("shard", ["--exclude", "noise=none"]) == ["shard.exclude=noise=none"]


@pytest.mark.parametrize(
    ("line", "words"),
    [("nst tr", {"train"}), ("bin/nst shard --ver", {"--verify"}), ("nst train student.ste", {"student.steps="}),
     ("nst train noi", {"noise=", *(f"noise.{name}=" for name in ("dropout", "stochastic_depth"))}),
     ("nst label label.engine=", {"label.engine=lightning", "label.engine=ray"}),
     ("nst train overwrite=t", {"overwrite=true"}), ("nst train a=b noise=no_m", {"noise=no_model_noise"}),
     ("nst evaluate model.checkpoint=runs/", set()), ("nst evaluate model.", {"model.checkpoint="}),
     ("nst label student.", set()), ("nst predict --views ", {"all", "one"}),
     ("nst predict --top 5 --views a", {"all"}), ("nst predict --views=a", {"--views=all"}),
     ("nst predict --sort-into ", set()), ("nst shard --verify overw", {"overwrite="})],
)  # fmt: skip
def test_completion_knows_stages_options_and_values(line: str, words: set[str], capsys: pytest.CaptureFixture[str]):
    code, out, _ = main(capsys, "--complete", line)
    assert code == 0
    found = set(out.split())
    assert found == words if not line.endswith("noi") else found >= words


def test_completion_is_quick_because_it_loads_no_hydra():
    code = """
import sys
from nst import cli
try: cli.main(['--complete', 'nst train student.'])
except SystemExit: pass
print(*(name for name in ('torch', 'hydra', 'omegaconf', 'numpy') if name in sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "student.steps=" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_bash_completes_by_the_script(tmp_path: Path):
    program = tmp_path / "nst"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nst "$@"\n')
    program.chmod(0o755)
    (tmp_path / "runs").mkdir()
    script = f"""
cd {tmp_path}; PATH={tmp_path}:$PATH; eval "$(nst --completion bash)"
try() {{ COMP_LINE="$1"; COMP_POINT=${{#1}}; COMP_WORDS=($1); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_nst 2> /dev/null; echo "${{COMPREPLY[@]}}"; }}
try "nst trai"; try "nst train noise=no_m"; try "nst train model.checkpoint=ru"
try "nst predict --sort-into ru"; try "nst predict --views o" """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines() == ["train", "no_model_noise", "runs", "runs", "one"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_completes_at_its_own_prompt(tmp_path: Path):
    program = tmp_path / "nst"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nst "$@"\n')
    program.chmod(0o755)
    (tmp_path / "some runs").mkdir()
    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        place = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, **place, "TERM": "dumb"})
    try:
        _typed_until(terminal, 'eval "$(nst --completion zsh)"; echo rea""dy\n', "ready\r")
        for begun, whole in (
            ("nst trai", "nst train"),
            ("nst train noise=no_m", "nst train noise=no_model_noise"),
            ("nst train student.optimizer.na", "nst train student.optimizer.name="),
            ("nst predict --min", "nst predict --min-confidence"),
            ("nst label teacher.run=so", "nst label teacher.run=some\\ runs/"),
        ):
            _typed_until(terminal, f"{begun}\t", whole)
            os.write(terminal, b"\x15")  # the line is emptied
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def _typed_until(terminal: int, keys: str, shown: str) -> None:
    """Types into a terminal and waits for what it must show."""
    os.write(terminal, keys.encode())
    said, end = "", time.monotonic() + 60
    while shown not in said:
        assert time.monotonic() < end, said
        if ready([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 65536).decode(errors="replace")


@pytest.mark.parametrize("rank", ["0", "3"])
def test_one_rank_says_what_is_wrong_with_the_options_of_all(rank: str, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", rank)
    code, _, errors = main(capsys, "train", "student.steps=x")
    assert code == 2
    assert ("student.steps cannot be" in errors) == (rank == "0")


def test_the_first_line_comes_before_anything_is_loaded():
    """Nothing but Python's own modules and a few of ours, so that it is there at once, however busy the machine."""
    code = """
import sys, types
before, errors = set(sys.modules), sys.stderr
from nst import cli
def loaded():
    return sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
def write(text):
    errors.write(f"{loaded()} {text}" if text.strip() else text)
sys.stderr = types.SimpleNamespace(write=write, flush=errors.flush)
cli.run_stage = lambda *_, **__: print(loaded()) or 0
cli.main(["iterate", "seed=1"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "['nst'] nst iterate: loading\n"
    assert done.stdout == "['nst']\n", "and until the options are composed"
    assert (ROOT / "bin" / "nst").read_text().splitlines()[-1].endswith('/python" -m nst "$@"'), "as a shell starts it"


def test_a_fault_is_broken_between_words_and_a_command_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    command = "  next:  nst train " + " ".join(f"student.option_{number}=1" for number in range(5))
    fault = cli._wrapped(f"{'some words ' * 8}/a/{'long' * 20}/path\n{command}")
    lines = fault.splitlines()
    assert lines[-1] == command
    assert f"/a/{'long' * 20}/path" in "".join(lines).replace("     ", "")
    assert all(len(line) <= 40 or " " not in line.strip() for line in lines[:-1])


def test_files_where_the_user_is_are_no_modules(tmp_path: Path):
    """Beside the folder of a clone, which is called nst, and pictures with a script of somebody's."""
    installed, here = tmp_path / "installed", tmp_path / "here"
    for path, text in (
        (installed / "bin" / "nst", (ROOT / "bin" / "nst").read_text()),
        (installed / "bin" / "install", "#!/bin/sh\n"),
        (installed / ".venv" / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
        (here / "nst" / "README.md", "a clone"),
        (here / "random.py", "raise SystemExit('a stranger was asked')"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for arguments in (["--help"], ["doctor", "experiment=digits_demo"]):
        done = subprocess.run(
            [installed / "bin" / "nst", *arguments], cwd=here, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    # as torchrun and the command of pip start it, whose path has the user's folder
    (here / "random.py").unlink()
    done = subprocess.run([sys.executable, "-m", "nst", "--version"], cwd=here, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_quick_because_it_imports_no_torch():
    code = "import sys; from nst.help import stage_help; stage_help('train'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


NO_SUCH = ("unknown ", "there is no noise", "there is no experiment", "'student", "student.", "data.", "option ",
           "'steps'", "'zzz'", "run_dir cannot")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["unknown stage 'trian', did you mean 'train'?", "valid: shard, train"]),
        (["train", "student.epohcs=3"], ["unknown option 'student.epohcs', did you mean 'student.epochs'?"]),
        (["train", "noise=fulll"], ["there is no noise named 'fulll', did you mean 'full'?", "no_augment"]),
        (["train", "experiment=digits"], ["there is no experiment named 'digits'", "digits_demo"]),
        (["train", "student.steps=["], ["student.steps cannot be '['", "a whole number"]),
        (["train", "data.root=/nowhere"], ["no such shard folder: /nowhere/labeled", "next:  make one: nst shard"]),
        (["label", "data=folder", "teacher.run=/nowhere"], ["there is no network at /nowhere: no run, no file"]),
        (
            ["select"],
            [
                "where are the teacher's predictions and selection?",
                "or teacher.predictions=<folder> teacher.selection=",
            ],
        ),
        (["label", "teacher.predictions=x"], ["nst label needs a teacher", "teacher.run="]),
        (["evaluate"], ["nothing to evaluate", "model.checkpoint="]),
        (["shard", "data=folder"], ["option 'data.source.root' needs a value"]),
        (["shard", "--verify", "shard.output=/nowhere"], ["there is no shard set in /nowhere"]),
        (["report", "run_dir=/nowhere"], ["/nowhere"]),
        (["train", "run_dir=/etc/passwd"], ["run_dir cannot be /etc/passwd: /etc/passwd is a file", "a folder"]),
        (["report", "run_dir=/etc/passwd/x"], ["run_dir cannot be /etc/passwd/x: /etc/passwd is a file"]),
        (["train", "--verfy"], ["unknown flag --verfy", "valid: --help, --cfg"]),
        (["train", "--steps=3"], ["unknown flag --steps, did you mean student.steps=...?"]),
        (["train", "--verify"], ["unknown flag --verify\n"]),
        (["train", "student"], ["'student' is not an option\n", "valid: option=value\n", "--help student lists"]),
        (["train", "steps"], ["'steps' is not an option, did you mean 'student.steps'?\n  valid: option=value\n"]),
        (["shard", "zzz"], ["'zzz' is not an option\n", "flags such as --output"]),
        (["train", "--hepl"], ["unknown flag --hepl, did you mean '--help'?"]),
        (["shard", "--verfy"], ["unknown flag --verfy, did you mean '--verify'?", "--exclude"]),
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


def test_of_several_near_names_those_that_begin_so_come_first():
    names = ["tiny_vit", "vit_tin", "vit_tiny_patch16", "vit_tiny_r", "vit_tiny_s", "zzz"]
    assert nearest_few("vit_tiny", names) == ", did you mean 'vit_tiny_patch16', 'vit_tiny_r' or 'vit_tiny_s'?"
    assert nearest_few("vit_tiny_patch61", names[2:3]) == ", did you mean 'vit_tiny_patch16'?"
    assert nearest_few("tiny_vti", names[:2]) == ", did you mean 'tiny_vit'?"
    assert nearest_few("qqq", names) == ""


def test_missing_value_is_named():
    with pytest.raises(NstError, match=r"option 'model.name' needs a value"):
        from nst.config import plain

        plain(compose_config(["model=timm"]).model)


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
    assert "next:  raise the limit on the size of a file (ulimit -f" in done.stderr
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


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "--cfg"]])
def test_nothing_is_said_to_a_reader_that_is_gone(arguments: list[str]):
    """As behind `nst train --help | head -1`."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([sys.executable, "-m", "nst", *arguments], cwd=ROOT, stdout=writes, stderr=subprocess.PIPE,
                          text=True, check=False)  # fmt: skip
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")
