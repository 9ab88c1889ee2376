"""Values of options: what is taken as it is typed, what is brought to the form of stages, what no machine can hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nst import launcher, machine
from nst.config import compose_config
from nst.errors import UsageError
from nst.robustness.options import RobustnessOptions
from nst.settings import TREE
from nst.settings.learning import OptimizerOptions, Recipe, ScheduleOptions
from nst.settings.network import Side
from nst.typed import unquoted, verbatim
from tests.forked import run

AWKWARD = ["a=b", "a b", "a,b", "[x]", "{y}", "it's", 'a"q"', "~", "~/x", "(1)", "2024", "1e5", "007", "true", "null.d",
           "漢字/ü", "a:b", "x\\", "\\'", "a\\'b\\\\", "%", "&;|", "-v", "#1", "noise=none,seed=1"]  # fmt: skip


@pytest.mark.parametrize("path", AWKWARD)
def test_a_path_is_taken_as_it_is_typed(path: str):
    listed = "./[x]" if path == "[x]" else path  # brackets make a list where there can be one
    plain = [f"{option}={path}" for option in ("run_dir", "data.labeled")]
    cfg = compose_config([*plain, f"teacher.run={listed}", f"report.runs={listed}", f"shard.exclude={listed}"])
    meant = os.path.expanduser(path)
    assert (cfg.run_dir, cfg.data.labeled, cfg.teacher.run) == (meant, meant, os.path.expanduser(listed))
    assert cfg.report.runs == [os.path.expanduser(listed)]
    assert cfg.shard.exclude == (True if path == "true" else os.path.expanduser(listed))


def test_the_home_folder_is_meant_by_its_sign():
    """Nobody wants a folder of the name `~`."""
    cfg = compose_config(["run_dir=~/runs/a", "data=folder", "data.source.root=['~/a', './~']", "data.root=~/shards"])
    home = str(Path.home())
    assert cfg.run_dir == f"{home}/runs/a"
    assert cfg.data.source.root == [f"{home}/a", "./~"]
    assert (cfg.data.unlabeled, cfg.shard.output) == (f"{home}/shards/unlabeled", f"{home}/shards")


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30))
def test_any_text_but_a_reference_or_a_blank_can_be_a_path(text: str):
    if not text.strip() or "$" in text or text.lower() == "null" or text == "???" or text[0] == text[-1] in "'\"":
        return
    assert compose_config([f"run_dir={text}"]).run_dir == os.path.expanduser(text)


def test_what_hydra_reads_itself_stays():
    kept = ["run_dir=null", "run_dir='a b'", "seed=1", "noise=full", "run_dir="]
    assert verbatim(kept) == kept
    assert verbatim(["run_dir=runs/${name}"]) == ["run_dir='runs/${name}'"]
    assert verbatim(["report.runs=[a, 'b', null]"]) == ["report.runs=['a','b',null]"]
    assert verbatim(["teacher.run=a,b", "teacher.run=glob(x*)", "run_dir=a=b"], sweep=True) == [
        "teacher.run='a','b'", "teacher.run=glob(x*)", "run_dir='a=b'"]  # fmt: skip
    assert compose_config(["report.runs=[a, 'b c']"]).report.runs == ["a", "b c"]


@pytest.mark.parametrize(
    "typed",
    ["name=sw7", "run_dir=a b", "run_dir=a=b", "iterate.generations=[[model.width=0.2],[],null]", "teacher.run=[a,b]",
     "teacher.run=['a,b',c]", "run_dir='null'", "seed=3", "run_dir='a\\'b'"],
)  # fmt: skip
def test_quotes_that_nobody_needs_to_type_are_not_shown(typed: str):
    assert unquoted(typed) == typed
    (given,) = verbatim([typed])  # as the job of a sweep gets it
    assert verbatim([unquoted(given)]) == [given]
    assert ("'" in unquoted(given)) == ("'" in typed)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("[[model.width=0.25],[model.width=0.3]]", [["model.width=0.25"], ["model.width=0.3"]]),
        ("[null, [model=timm, model.name='x, y']]", [None, ["model=timm", "model.name='x, y'"]]),
        ("[['a=[x, y]', data.source.ignore=[a, b]], []]", [["a=[x, y]", "data.source.ignore=[a, b]"], []]),
        ("[[[a=1], 'b=2']]", [[["a=1"], "b=2"]]),
        ("[['a=1'],[\"b='c'\"]]", [["a=1"], ["b='c'"]]),
        ("null", None),
    ],
)
def test_options_of_generations_need_no_quotes(typed: str, read: Any):
    assert compose_config([f"iterate.generations={typed}"]).iterate.generations == read


def test_generations_of_a_sweep_need_no_quotes():
    assert verbatim(["iterate.generations=[[a=1,b=2]],[[a=1],['b=2,3']]"], sweep=True) == [
        "iterate.generations=[['a=1','b=2']],[['a=1'],['b=2,3']]"
    ]


@pytest.mark.parametrize("option", ["report.runs", "data.source.root"])
def test_a_list_of_paths_is_taken_as_typed(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/me")
    (tmp_path / "a,b").mkdir()
    cases = {
        "[runs/abl/noise=none,runs/abl/noise=full]": ["runs/abl/noise=none", "runs/abl/noise=full"],
        "[it's here, x [1], '日本, 2', ~/x, 2024]": ["it's here", "x [1]", "日本, 2", "/home/of/me/x", "2024"],
        "[a,b,c]": ["a,b", "c"],
        "[a,c]": ["a", "c"],
    }
    for typed, paths in cases.items():
        read = compose_config(["data=folder", f"{option}={typed}"])
        assert OmegaConf.select(read, option) == paths, typed
    (tmp_path / "[a,c]").mkdir()
    read = compose_config(["data=folder", f"{option}=[a,c]"])
    assert OmegaConf.select(read, option) in ("[a,c]", ["[a,c]"]), "a folder of that name is there"


def test_paths_of_a_sweep_are_taken_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise=none,seed=1").mkdir()
    for typed, values in {
        "noise=none,seed=1,noise=full,seed=1": ["noise=none,seed=1", "noise=full", "seed=1"],
        "noise=none,seed=1": ["noise=none,seed=1"],
        "it's,[x] y,null": ["it's", "[x] y", "null"],
        "a(1),b": ["a(1)", "b"],
    }.items():
        overrides = verbatim([f"teacher.run={typed}"], sweep=True)
        assert launcher._swept_names(overrides) == ({"teacher.run"} if len(values) > 1 else set()), typed
        (override,) = OverridesParser.create().parse_overrides(overrides)
        jobs = override.sweep_string_iterator() if len(values) > 1 else [override.get_value_string()]
        assert [compose_config([f"teacher.run={job}"]).teacher.run for job in jobs] == [
            None if value == "null" else value for value in values
        ]


@pytest.mark.parametrize(
    ("typed", "value"),
    [("yes", True), ("on", True), ("True", True), ("no", False), ("OFF", False), ("false", False)],
)
def test_yes_and_no_are_flags_in_any_option_that_is_one(typed: str, value: bool):
    cfg = compose_config([f"overwrite={typed}", f"model.remat={typed}", f"trainer.deterministic={typed}"])
    assert (cfg.overwrite, cfg.model.remat, cfg.trainer.deterministic) == (value, value, value)


@pytest.mark.parametrize("typed", ["maybe", "1", "0", "null", "[]", "''", "nope", "y"])
def test_all_else_is_refused_as_a_flag(typed: str):
    with pytest.raises(UsageError, match=r"overwrite cannot be[\s\S]*got:   overwrite=[\s\S]*valid: true or false"):
        compose_config([f"overwrite={typed}"])


def test_the_option_that_was_typed_is_named_before_those_that_follow_from_it():
    with pytest.raises(UsageError, match=r"^student\.labeled_batch_size cannot be 0\n  got:   student\.labeled_"):
        compose_config(["student.labeled_batch_size=0"])  # finetune.labeled_batch_size is the same


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+new=1", "there is no option of that name"),
        ("~seed", "options cannot be taken out"),
        ("seed", "is not an option"),
        ("=3", "is not an option"),
        ("student=null", "there is no student named 'null'"),
        ("run_dir=${nowhere}", "run_dir refers to an option that is not there"),
        ("seed=${nowhere}", "seed refers to an option that is not there"),
        ("data.labeled=null", "data.labeled cannot be null"),
        ("seed=${oc.env:HOME}", "seed cannot be"),
        ("name=../outside", "name cannot be"),
        ("name=/outside", "name cannot be"),
    ],
)
def test_what_is_no_option_is_told(override: str, words: str):
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        compose_config([override, "stage=train"])


def test_a_reference_is_escaped_as_the_message_says():
    assert compose_config([r"run_dir=\${nowhere}"]).run_dir == "${nowhere}"


def test_dataclasses_made_by_hand_are_held_against_the_same_table():
    for kind, wrong in (
        (Recipe, {"labeled_batch_size": 0}),
        (Recipe, {"ema_decay": float("nan")}),
        (ScheduleOptions, {"kind": "never"}),
        (OptimizerOptions, {"more": {"nesterov": "never"}}),
    ):
        with pytest.raises(UsageError, match=r"^student\."):
            kind(**wrong)
    with pytest.raises(UsageError, match="augment cannot be 'some'"):
        Side(augment="some")
    with pytest.raises(UsageError, match=r"eval\.severities cannot be \[\]"):
        RobustnessOptions(severities=())


@pytest.mark.parametrize(
    "name", ["student.steps", "seed", "student.labeled_batch_size", "eval.every", "trainer.devices"]
)
@pytest.mark.parametrize("typed", ["2.0", "2e0", "+2.0"])
def test_a_whole_number_may_have_a_point_or_an_exponent(name: str, typed: str):
    read = OmegaConf.select(compose_config(["eval=robustness", f"{name}={typed}"]), name)
    assert (type(read), read) == (int, 2)
    assert repr(compose_config(["eval=robustness", f"eval.severities=[1,{typed}]"]).eval.severities) == "[1, 2]"


def test_a_whole_number_with_a_fraction_is_none():
    for value in ("2.5", "1e-3", "1e13", "true"):
        with pytest.raises(UsageError, match=r"student\.steps cannot be"):
            compose_config([f"student.steps={value}"])
    recipe = Recipe(steps=1e3, weight_decay=1.0)  # type: ignore[arg-type]  # by hand
    assert (type(recipe.steps), recipe.steps, type(recipe.weight_decay)) == (int, 1000, float)


def test_the_table_says_nothing_twice():
    """A group is a mapping, an option a kind; none is both, and every one of conf/ is there (test_wrong_values)."""
    assert all(isinstance(key, str) and "." not in key for key in TREE)


# ---- what no machine can hold


HUGE = [
    ("train", ["student.labeled_batch_size=1000000", "model.train_size=512"], "a training step needs about"),
    ("train", ["model.width=32", "model.depth=8"], "a training step needs about"),
    ("train", ["model.train_size=8192"], "a training step needs about"),
    ("iterate", ["student.unlabeled_ratio=1000", "student.labeled_batch_size=100000"], "a training step needs about"),
    ("train", ["trainer.workers=1024"], "1,024 loader processes need about"),
    ("train", ["model.depth=1e9"], "model.depth cannot be"),
    ("train", ["noise.randaugment.num_ops=1000000000"], "noise.randaugment.num_ops cannot be"),
]


def test_what_no_machine_can_hold_is_told_from_the_plan_and_not_by_a_hang(digits: Path, tmp_path: Path):
    for stage, options, words in HUGE:
        command = [stage, *TINY, f"data.root={digits}", "run_dir=run", *options]
        done = run(command, tmp_path, merged=True, limit_s=20)
        assert done.returncode == 2, (options, done)
        assert words in done.stdout, (options, done.stdout)
        assert "Traceback" not in done.stdout
        assert not list(tmp_path.iterdir()), options


def test_a_batch_that_no_machine_can_hold_is_refused_with_one_that_it_can(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "host_memory", lambda: 2.0**30)
    machine.require_batch("label.batch_size", 256, 224)
    with pytest.raises(UsageError, match=r"100,000 pictures of 224 px[\s\S]*next:  label\.batch_size=256"):
        machine.require_batch("label.batch_size", 100_000, 224)
    with pytest.raises(UsageError, match=r"next:  eval\.batch_size=5$"):
        machine.require_batch("eval.batch_size", 256, 2048)
