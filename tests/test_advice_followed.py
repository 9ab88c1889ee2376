"""What the commonest errors advise, followed as a person would: the command given runs, and then the first one does."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from nst.stage_table import STAGES
from tests.conftest import TINY
from tests.forked import run

SELECT = ["select.min_confidence=0", "select.allow_empty_classes=true", "select.images_per_class=4"]
STUDENT = [*TINY, "student.steps=4", "trainer.workers=0"]
FOG = ["eval.corruptions=[fog]", "eval.severities=[1]", "eval.perturbations=null", "eval.max_images=10"]
PACK = ["data.source.name=selection", "data.unlabeled=shards/unlabeled"]
RESULTS = Path(__file__).parent.parent / "docs" / "results"


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have it: shards, two teachers, and what the first of them has labeled and selected."""
    place = tmp_path_factory.mktemp("followed")
    shutil.copytree(digits, place / "shards")
    for number in (0, 1):
        works(["train", *STUDENT, "data.root=shards", f"run_dir=teacher{number}", f"seed={number}"], place)
    works(["label", "teacher.run=teacher0", "trainer.workers=0"], place)
    works(["select", "teacher.run=teacher0", *SELECT], place)
    works(["shard", *PACK, "teacher.run=teacher0", "shard.output=packed0"], place)
    (place / "pictures").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "pictures" / f"{number}.png")
    return place


@pytest.fixture
def here(finished: Path, tmp_path: Path) -> Path:
    """The same, to be spoiled."""
    return Path(shutil.copytree(finished, tmp_path / "here", symlinks=True))


def works(command: Sequence[str], folder: Path) -> str:
    done = run(list(command), folder, merged=True, limit_s=120)
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


def advised(command: Sequence[str], folder: Path, fills: Sequence[tuple[str, str]]) -> tuple[list[list[str]], str]:
    """The commands that the message of a failing one gives, <placeholders> filled in, and all that it says."""
    done = run(list(command), folder, merged=True, limit_s=120)
    assert done.returncode in (1, 2), (command, done.stdout)
    text = done.stdout[done.stdout.index("next: ") :]
    for placeholder, value in fills:
        text = text.replace(placeholder, value)
    ends = r"(?=\n|;|$|, | and nst | makes |, or | writes | with | again\b| reads )"
    lines = re.findall(rf"\b(nst (?:{'|'.join(STAGES)})\b.*?){ends}", text)
    assert lines, done.stdout
    return [shlex.split(line)[1:] for line in lines], done.stdout


@dataclass(frozen=True)
class Wrong:
    """A command that fails, and what a person does then.

    Args:
        fills: what stands for the <placeholders> of the advice.
        spoils: files and folders that are missing.
        again: the first command works afterwards; else the advised ones do what it was to do.
        takes: how many of the advised commands are followed.
        steps: advised commands that are given one after the other, each advised by the one before.
    """

    command: list[str]
    fills: tuple[tuple[str, str], ...] = ()
    spoils: tuple[str, ...] = ()
    again: bool = True
    takes: int = 9
    steps: int = 1


CASES = {
    "label without a teacher": Wrong(["label"], (("<run directory>", "teacher1"),), again=False),
    "label, no pictures are known": Wrong(
        ["label", "teacher.checkpoint=alone.safetensors", "teacher.predictions=p"],
        (("<folder>", "shards"),), again=False,
    ),
    "evaluate, no pictures are known": Wrong(
        ["evaluate", "model.checkpoint=alone.safetensors", "evaluate.output=e"],
        (("<folder>", "shards"),), again=False,
    ),
    "select before label": Wrong(["select", "teacher.run=teacher1", *SELECT]),
    "train before select": Wrong(
        ["train", *STUDENT, "data.root=shards", "teacher.run=teacher0", "run_dir=s"], spoils=("teacher0/selection",)
    ),
    "train before label and select": Wrong(
        ["train", *STUDENT, "data.root=shards", "teacher.run=teacher1", "run_dir=s"]
    ),
    "predictions are gone": Wrong(
        ["train", *STUDENT, "data.root=shards", "teacher.run=teacher0", "run_dir=s"], spoils=("teacher0/predictions",)
    ),
    "a part of the predictions is gone": Wrong(
        ["select", "teacher.run=teacher0", *SELECT, "teacher.selection=other"],
        spoils=("teacher0/predictions/unlabeled-000001.parquet",),
    ),
    "predictions of another teacher": Wrong(
        ["train", *STUDENT, "data.root=shards", "teacher.run=teacher1", "teacher.predictions=teacher0/predictions",
         "teacher.selection=teacher0/selection", "run_dir=s"], again=False,
    ),
    "evaluate nothing": Wrong(["evaluate"], (("<run directory or weights>", "teacher0"),), again=False),
    "evaluate without a test set": Wrong(
        ["evaluate", "model.checkpoint=teacher0", "data.test=null"],
        (("<folder of shards>", "shards/test"),), again=False, takes=1,
    ),
    "export nothing": Wrong(["export"], (("<run directory or weights>", "teacher0"),), again=False),
    "predict without a network": Wrong(
        ["predict", "input=pictures"], (("<run directory or weights>", "teacher0"),), again=False
    ),
    "predict without pictures": Wrong(
        ["predict", "model.checkpoint=teacher0"], (("<run>", "teacher0"), ("<folder>", "pictures")), again=False
    ),
    "predict the folder around shards": Wrong(
        ["predict", "model.checkpoint=teacher0", "input=sets"], again=False
    ),
    "tars from elsewhere": Wrong(
        ["train", *STUDENT, "data.root=shards", "data.unlabeled=web", "teacher.run=teacher0", "run_dir=s"], again=False
    ),
    "another training is there": Wrong(
        ["train", *STUDENT, "data.root=shards", "run_dir=teacher0", "student.steps=6"],
        (("<folder>", "other"),), again=True,
    ),
    "another labeling is there": Wrong(
        ["label", "teacher.run=teacher0", "teacher.image_size=16", "trainer.workers=0"], (("<folder>", "other"),)
    ),
    "another selection is there": Wrong(
        ["select", "teacher.run=teacher0", "select.min_confidence=0.1"], (("<folder>", "other"),)
    ),
    "label by released weights": Wrong(
        ["label", "teacher.checkpoint=released.pth", "teacher.predictions=p", "data.root=shards"],
        (("<shards>", "shards"),), again=False,
    ),
    "export released weights": Wrong(
        ["export", "model.checkpoint=released.pth"], (("<shards>", "shards"),), again=False
    ),
    "a baseline that was not measured": Wrong(
        ["evaluate", "model.checkpoint=teacher0", "evaluate.output=e", "eval=robustness_quick",
         "eval.baseline=teacher1", *FOG],
    ),
    "plan of nobody knows how many": Wrong(
        ["plan", "data=folder", "data.root=nowhere", "model=small"], (("<number>", "30"),), again=False, steps=3
    ),
    "pack before select": Wrong(
        ["shard", *PACK, "teacher.run=teacher1", "shard.output=packed"],
    ),
    "pack for an online teacher": Wrong(
        ["shard", *PACK, "teacher.run=teacher1", "shard.output=packed", "teacher=online"], again=False,
    ),
    "reassign packed shards by a teacher that has not labeled them": Wrong(
        ["train", *STUDENT, "data.root=shards", "data.unlabeled=packed0", "teacher.run=teacher1",
         "teacher.reassign=true", "run_dir=s"],
    ),
    "findings of nothing": Wrong(
        ["report", "--findings", "nowhere"], (("<folder of CSV files>", str(RESULTS)),), again=False
    ),
    "findings of nothing, as an option": Wrong(
        ["report", "report.findings=nowhere"], (("<folder of CSV files>", str(RESULTS)),), again=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_advice_is_followed_to_its_end(name: str, here: Path):
    wrong = CASES[name]
    shutil.copy(here / "teacher0" / "checkpoints" / "trained.safetensors", here / "alone.safetensors")
    (here / "sets").mkdir()
    shutil.copytree(here / "shards" / "test", here / "sets" / "test")
    shutil.copytree(here / "shards" / "unlabeled", here / "web", ignore=shutil.ignore_patterns("index.json"))
    if "released.pth" in " ".join(wrong.command):
        torch.manual_seed(0)
        torch.save(timm.create_model("tf_efficientnet_b0", num_classes=10).state_dict(), here / "released.pth")
    for spoiled in wrong.spoils:
        shutil.rmtree(here / spoiled) if (here / spoiled).is_dir() else (here / spoiled).unlink()
    commands, said = advised(wrong.command, here, wrong.fills)
    for command in commands[: wrong.takes]:
        assert not any("<" in word or word == "..." for word in command), (command, said)
        for _ in range(wrong.steps - 1):
            (command,), said = advised(command, here, wrong.fills)
        works(command, here)
    if wrong.again:
        works(wrong.command, here)
