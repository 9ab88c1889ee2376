"""What errors advise can be done: every option and stage that a `next` names is there, and commands work as given."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from nst.advice import note_command, note_run, whole
from nst.checking import kind_of, takes_more
from nst.config import group_choices, groups
from nst.flags import flags_as_options
from nst.settings import SECTIONS, TREE
from nst.stage_table import STAGES
from tests.conftest import TINY
from tests.forked import run

PACKAGE = Path(__file__).parent.parent / "nst"
HOLE = "\u00a7"  # where a value is filled in
PROSE = {"again", "is", "has", "that", "wrote", "writes", "of", "to", "does"}  # that follow the name of the program
OTHERS = {name for record in STAGES.values() for name in record.short}  # options that are typed without their stage


def advice() -> Iterator[tuple[str, str]]:
    """File and text of every `next=` in the package, with holes for what is filled in."""
    for path, tree in TREES.items():
        names = defined(path) | imported(tree)
        for node in ast.walk(tree):
            for keyword in node.keywords if isinstance(node, ast.Call) else []:
                if keyword.arg == "next":
                    yield from ((str(path.relative_to(PACKAGE)), text) for text in texts(keyword.value, names))


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
Names = Mapping[str, Sequence[ast.expr]]  # a constant of a module and its value, a function and what it returns


@functools.cache
def defined(path: Path) -> dict[str, Sequence[ast.expr]]:
    found: dict[str, Sequence[ast.expr]] = {}
    for node in TREES[path].body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            found |= {each.id: [node.value] for each in node.targets if isinstance(each, ast.Name)}
    return found


def imported(tree: ast.Module) -> dict[str, Sequence[ast.expr]]:
    found: dict[str, Sequence[ast.expr]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nst."):
            path = PACKAGE.parent / f"{node.module.replace('.', '/')}.py"
            found |= {name: value for name, value in (defined(path) if path in TREES else {}).items()
                      if name in {each.name for each in node.names}}  # fmt: skip
    return found


def texts(node: ast.AST, names: Names) -> Iterator[str]:
    """The texts in an expression, and what the names in it say; what an inner f-string says stands in the outer one."""
    if isinstance(node, ast.Name):
        for value in names.get(node.id, ()):
            yield from texts(value, {})
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts(part.value, names)
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child, names)


ADVICE = [(file, text) for file, text in advice() if not file.startswith("cloud/")]  # bin/tpu has options of its own


def options_in(text: str) -> list[tuple[str, str]]:
    """`option=value` in a text; of addresses and environment variables nothing."""
    return re.findall(r"(?<![\w./{§?&-])([a-z_]+(?:\.[a-z_0-9]+)*)=([^\s,;:)]*)", text)


def test_all_errors_that_advise_something_are_looked_at():
    assert len(ADVICE) > 170
    assert sum(bool(options_in(text)) for _, text in ADVICE) > 60
    assert sum("nst " in text for _, text in ADVICE) > 40


def test_every_stage_that_is_advised_is_there():
    for file, text in ADVICE:
        for stage in re.findall(r"(?<![\w/.=])nst (?!<|-)([a-z]\w*)", text):
            assert stage in STAGES or stage in PROSE, (file, text)


def test_every_option_that_is_advised_is_there_and_can_have_the_value():
    for file, text in ADVICE:
        for name, value in options_in(text):
            if name in OTHERS or name.startswith("hydra."):
                continue
            known = name in TREE or name in groups() or kind_of(name) or takes_more(name.rpartition(".")[0])
            assert known, (file, name, text)
            if value and HOLE not in value and "<" not in value and "." not in value[-1:]:
                if name in groups():
                    assert value in group_choices(name), (file, text)
                elif (kind := kind_of(name)) is not None and re.fullmatch(r"[\w]+", value):
                    plain = {"null": None, "true": True, "false": False}.get(value, value)
                    kind.read(int(value) if value.isdigit() and not kind.verbatim else plain)


def test_every_flag_that_is_advised_is_an_option_of_its_stage():
    for file, text in ADVICE:
        for stage, flag in re.findall(r"nst (\w+)[^,;]*? (--[a-z][\w-]*)", text):
            if stage in SECTIONS and flag not in ("--help", "--cfg"):
                (option,) = flags_as_options(stage, [f"{flag}=x"])
                assert kind_of(option.partition("=")[0]) is not None, (file, text)


@pytest.mark.parametrize(
    ("command", "text", "seen"),
    [
        (["train", "data=folder", "data.root=a b", "run_dir=x"], "make one: nst shard",
         "make one: nst shard data=folder 'data.root=a b'"),
        (["label", "teacher.run=x", "overwrite=false"], "label again: nst label overwrite=true",
         "label again: nst label teacher.run=x overwrite=true"),
        (["shard", "--verify", "data=x"], "nst label and nst select again",
         "nst label data=x and nst select data=x again"),
        (["predict", "model.checkpoint=x", "input=a b", "--top", "2", "--sort-into=c"],
         "nst evaluate; nst predict --top 5",
         "nst evaluate model.checkpoint=x; nst predict model.checkpoint=x 'input=a b' --sort-into=c --top 5"),
        (["predict", "--output", "name=x", "model.checkpoint=y"], "nst evaluate; nst predict --top 5",
         "nst evaluate model.checkpoint=y; nst predict --output name=x model.checkpoint=y --top 5"),
        (["predict", "--output", "a", "input=b", "predict.top=4"], "nst predict predict.output=c input=d --top 5",
         "nst predict predict.output=c input=d --top 5"),
        (["select", "teacher.run=x", "select.max_copies=3"], "nst label; nst select overwrite=true",
         "nst label teacher.run=x; nst select teacher.run=x select.max_copies=3 overwrite=true"),
        (["train", "seed=1"], "`nst train` said it; nst <stage> --help; nst again",
         "`nst train` said it; nst <stage> --help; nst again"),
        (["export", "model.checkpoint=x", "data.root=d"], "nst export export.format=nst export.output=r data.root=<y>",
         "nst export model.checkpoint=x export.format=nst export.output=r data.root=<y>"),
        (["train", "experiment=photos", "name=mine"], "make one: nst shard",
         "make one: nst shard experiment=photos name=mine"),
        ([], "nst shard", "nst shard"),
    ],
)  # fmt: skip
def test_commands_are_shown_with_the_options_that_were_given(
    command: list[str], text: str, seen: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("nst.advice._command", [])
    note_command(command)
    assert whole(text) == seen


def test_shards_of_a_run_are_made_again_by_the_options_of_the_run(monkeypatch: pytest.MonkeyPatch):
    for name in ("_command", "_of_run"):
        monkeypatch.setattr(f"nst.advice.{name}", [])
    note_command(["evaluate", "model.checkpoint=runs/x/gen0", "seed=1"])
    note_run(["experiment=photos", "name=x", "seed=2", "data.source.root=a b", "student.steps=3", "run_dir=runs/x/gen0",
              "data.root=datasets/x"])  # fmt: skip
    made = "nst shard experiment=photos name=x 'data.source.root=a b' data.root=datasets/x seed=1"
    assert whole("make one: nst shard; or") == f"make one: {made}; or"
    assert whole("nst train") == "nst train model.checkpoint=runs/x/gen0 seed=1"
    note_command(["evaluate"])
    assert whole("nst shard") == "nst shard"


# ---- followed, as a person would


def advised(command: list[str], folder: Path, code: int = 1) -> list[list[str]]:
    """Runs a command that fails, and returns the commands that its message advises."""
    done = run(command, folder, merged=True, limit_s=60)
    assert done.returncode == code, done.stdout
    lines = re.findall(rf"\bnst (?:{'|'.join(STAGES)})\b[^\n;]*", done.stdout[done.stdout.index("next: ") :])
    found = [shlex.split(line)[1:] for line in lines]
    assert found, done.stdout
    return found


def works(command: list[str], folder: Path) -> str:
    done = run(command, folder, merged=True, limit_s=60)
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


@pytest.fixture
def options(digits: Path) -> list[str]:
    return [*TINY, f"data.root={digits}", "student.steps=4"]


def test_another_training_in_a_directory_goes_elsewhere_or_over_it_as_advised(tmp_path: Path, options: list[str]):
    works(["train", *options, "run_dir=run"], tmp_path)
    elsewhere, over = advised(["train", *options, "run_dir=run", "student.steps=6"], tmp_path, code=3)
    works([item.replace("<folder>", "other") for item in elsewhere], tmp_path)
    works(over, tmp_path)
    assert {(tmp_path / name / "DONE").read_text() for name in ("run", "other")} == {
        (tmp_path / "run" / "DONE").read_text()
    }


@pytest.mark.parametrize(
    ("wrong", "right", "code"),
    [("model.checkpoint=nothing", "model.checkpoint=null", 1),
     ("student.optimizer.name=adm", "student.optimizer.name=sgd", 2),
     ("student.schedule.warmup_epochs=99", "student.schedule.warmup_epochs=0.5", 2)],
)  # fmt: skip
def test_a_mistyped_start_leaves_nothing(wrong: str, right: str, code: int, tmp_path: Path, options: list[str]):
    done = run(["train", *options, "run_dir=run", wrong], tmp_path, merged=True, limit_s=60)
    assert done.returncode == code, done.stdout
    assert "student.optimizer" in done.stdout or "recipe" not in done.stdout
    assert list(tmp_path.iterdir()) == []
    works(["train", *options, "run_dir=run", right], tmp_path)


def test_more_images_that_cannot_be_read_are_allowed_by_the_command_that_is_advised(tmp_path: Path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (16, 16), (20 * number, 9, 9)).save(tmp_path / "pictures" / name / f"{number}.png")
        (tmp_path / "pictures" / name / "broken.png").write_bytes(b"no picture")
    command = ["shard", "data=folder", "data.source.root=pictures", "data.root=shards", "data.labeled_per_class=2",
               "data.test_samples=2"]  # fmt: skip
    (allowed,) = advised(command, tmp_path)
    assert allowed[-1] == "max_bad_fraction=0.15"
    works(allowed, tmp_path)


def test_a_job_of_a_sweep_is_advised_by_a_command_as_a_person_types_it():
    note_command(["iterate", "name='sw7'", "iterate.generations=[['a=1'],['b=2']]", "run_dir='runs/my sweep/seed=1'"])
    typed = "name=sw7 'iterate.generations=[[a=1],[b=2]]' 'run_dir=runs/my sweep/seed=1'"
    assert whole("nst iterate seed=1") == f"nst iterate {typed} seed=1"
