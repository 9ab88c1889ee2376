"""Options stand once: kinds, defaults and help of all groups, what Hydra composes of them, and the jobs of stages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nst import cli
from nst.checking import _node
from nst.config import compose_config, job_from, plain, require_values
from nst.errors import UsageError
from nst.groups import group_choices, groups, summary_line
from nst.kinds import Kind
from nst.settings import GROUPS, SECTIONS, TREE
from nst.settings.fields import Group, defaults_of, kinds_of, made_of, options_of
from nst.settings.job import EvaluateJob, IterateJob, LabelJob, ShardJob, SurveyJob, TrainJob
from nst.settings.learning import Recipe, StudentOptions
from nst.settings.network import Noise
from nst.settings.stages import CommonOptions
from nst.settings.trainer import TorchOptions, XlaOptions
from nst.stage_table import STAGES
from nst.stages import shard

ROOT = Path(__file__).parent.parent
BASES = [base for bases in GROUPS.values() for base in bases.values()]
CLASSES: list[type[Group]] = [CommonOptions, *SECTIONS.values(), *BASES]
# whose names say all
NEEDS_NO_HELP = {
    *("stage", "plan.labeled_images", "trainer.accelerator", "student.optimizer.name", "student.schedule.kind"),
    *("student.weight_decay", "student.label_smoothing", "logger.wandb.project", "logger.wandb.tags"),
    *("scale.label", "scale.small", "scale.middle", "scale.large", "scale.student", "scale.no_noise"),
    *("scale.max_clips",),
}


def described(cls: type[Group]) -> Iterator[tuple[str, str]]:
    for entry, about in options_of(cls):
        if not isinstance(about.kind, Kind):
            yield from described(about.kind)
        else:
            yield f"{cls.section}.{entry.name}".lstrip("."), about.help


def test_every_option_has_a_line_of_help_unless_its_name_says_all():
    found = {name: text for cls in CLASSES for name, text in described(cls)}
    assert len(found) > 180
    assert {name for name, text in found.items() if not text} == NEEDS_NO_HELP
    assert all("\n" not in text and len(text) <= 120 for text in found.values())


def test_help_reads_well_without_the_marks_of_the_source():
    found = {name: text for cls in CLASSES for name, text in described(cls)}
    found |= {f"{group}={choice}": summary_line(group, choice) for group in groups() for choice in group_choices(group)}
    broken = re.compile(r"\[[A-Z]\]|(?<!\w)'s\b|(?:^| )[:;,.](?: |$)|  |[ :;,]$|METHOD")
    assert not {name: text for name, text in found.items() if broken.search(text)}


def test_what_hydra_begins_with_is_what_the_classes_say():
    cfg = plain(compose_config(["stage=train"]))
    for name, section in SECTIONS.items():
        made, given = made_of(section, cfg[name]), defaults_of(section)
        assert {key: cfg[name][key] for key in given if "${" not in str(given[key])} == {
            key: value for key, value in given.items() if "${" not in str(value)
        }
        assert asdict(made).keys() == cfg[name].keys()
    assert Recipe() == made_of(Recipe, cfg["student"]), "the paper's recipe is the default"
    assert Noise(dropout=0.2) == made_of(Noise, cfg["noise"])


@pytest.mark.parametrize("options", [[], ["student=small", "trainer=gpu_ddp"], ["eval=robustness", "logger=wandb"],
                                     ["trainer=tpu_pod", "data=cifar10"], ["+student.optimizer.eps=0.1"]])  # fmt: skip
def test_a_job_has_every_value_of_its_groups(options: list[str]):
    cfg = compose_config([*options, "stage=train"])
    job, tree = job_from(TrainJob, cfg, title="gen1 train"), plain(cfg)
    for name in ("model", "noise", "teacher", "remote", "trainer", "logger"):
        made = asdict(getattr(job, name))
        assert {key: _listed(made[key]) for key in tree[name]} == tree[name], name
    student = asdict(job.student)
    student["optimizer"].update(student["optimizer"].pop("more"))
    assert {key: student[key] for key in tree["student"]} | {"schedule": tree["student"]["schedule"]} == tree["student"]
    assert (job.seed, job.lanes, job.title, job.stage) == (0, 1, "gen1 train", "train")
    assert isinstance(job.trainer, XlaOptions if tree["trainer"]["accelerator"] == "xla" else TorchOptions)
    assert (job.eval.robustness is None) == ("corruptions" not in tree["eval"])


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_a_missing_value_is_asked_for_by_the_stage_that_needs_it():
    cfg = compose_config(["model=timm", "stage=label"])
    job = job_from(LabelJob, cfg)
    with pytest.raises(UsageError, match=r"option 'model\.name' needs a value\n  next:  model\.name="):
        require_values(job.config)
    with pytest.raises(UsageError, match=r"option 'student\.finetune\.image_size' needs a value"):
        made_of(StudentOptions, {"finetune": {"image_size": "???", "labeled_batch_size": 1}})


@pytest.mark.parametrize("data", ["folder", "tar", "csv"])
def test_where_the_images_come_from_is_asked_by_shard_alone(data: str, tmp_path: Path):
    cfg = compose_config([f"data={data}", "stage=shard", f"data.root={tmp_path}"])
    for kind in (TrainJob, LabelJob, EvaluateJob, SurveyJob, IterateJob):
        require_values(job_from(kind, cfg).config)
    with pytest.raises(UsageError, match=r"option 'data\.source\.root' needs a value\n  next:  data\.source\.root="):
        shard.run(job_from(ShardJob, cfg))


@pytest.mark.parametrize("stage", STAGES)
def test_options_that_the_record_of_a_stage_names_are_there(stage: str):
    record = STAGES[stage]
    named = {record.folder, *record.networks, *record.runs, *record.taken, *record.instead}
    named |= {told for told in record.typed.values() if " " not in told}  # others are words
    named |= {f"{stage}.{name}" for name in record.short} | {*(record.within or ())[:1]}
    assert not [name for name in named - set(record.short) if _node(name) is None]


def test_the_table_is_that_of_the_classes():
    assert kinds_of(Noise) == TREE["noise"]
    assert TREE["trainer"].keys() == kinds_of(TorchOptions).keys() | kinds_of(XlaOptions).keys()
    assert isinstance(TREE["student"]["optimizer"]["*"], Kind), "the optimiser's own options"
    assert isinstance(TREE["eval"]["attacks"]["*"]["steps"], Kind)


def test_help_for_a_group_lists_its_options_with_what_they_can_be(capsys: pytest.CaptureFixture[str]):
    assert cli.dispatch(["train", "--help", "student"]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # lines are as wide as the terminal
    assert "student.schedule.kind=exponential (exponential | cosine | constant)" in shown
    assert "student.finetune.image_size=${model.test_size} px; null: the network's test size (" in shown
    assert "steps; null validates at the end (a whole number, 1 to 1,000,000,000,000, or null)" in shown
    for group in GROUPS:
        assert cli.dispatch(["train", "--help", group]) == 0
    assert "eval.attacks.<name>.epsilons=" in capsys.readouterr().out
    with pytest.raises(UsageError, match="there is no group 'studnt', did you mean 'student'"):
        cli.dispatch(["train", "--help", "studnt"])


@pytest.mark.parametrize(
    ("name", "first"),
    [*((name, f"{name}.") for name in SECTIONS), ("eval.attacks", "eval.attacks=null"), ("seed", "seed=0"),
     ("student.optimizer", "student.optimizer.name="), ("data.source", "data.source.name="),
     ("student.steps", "student.steps=null")],
)  # fmt: skip
def test_help_for_a_section_or_a_part_lists_its_options_alone(name: str, first: str, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.dispatch(["iterate", "--help", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"options of {name}")
    options = [line.strip() for line in said.splitlines()[1:] if re.match(r"  [\w+]", line)]
    assert options[0].startswith(first)
    assert all(option.lstrip("+").startswith(name) for option in options)


def test_options_are_light_to_import():
    heavy = {"torch", "omegaconf", "hydra", "numpy"}
    code = f"import sys, nst.settings, nst.checking; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
