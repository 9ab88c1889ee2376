"""What the commonest errors advise, followed as a person would: the command given runs, and then the first one does."""

from __future__ import annotations

import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nst.atomic import write_json
from nst.documents import read_json
from nst.stage_table import STAGES
from tests.conftest import TINY
from tests.forked import run
from tests.test_advice import ADVICE, HOLE

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
    for folder in ("pictures", "sorted/ant", "sorted/bee"):
        (place / folder).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / folder / f"{number}.png")
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
    assert done.returncode in (1, 2, 3), (command, done.stdout)
    said = done.stdout[done.stdout.index("next: ") :]
    filled = said
    for placeholder, value in fills:
        filled = filled.replace(placeholder, value)
    ends = r"(?=\n|;|$|, | and nst | makes |, or | writes | with | again\b| reads | reports | shows )"
    lines = re.findall(rf"\b(nst (?:{'|'.join(STAGES)})\b.*?){ends}", filled)
    assert lines, done.stdout
    return [shlex.split(line)[1:] for line in lines], done.stdout


def is_said(advice: str, said: str) -> bool:
    """Whether a message says what stands in the source: with values in its holes, and options behind its stages."""
    parts = re.split(rf"({HOLE}|(?<![`=])\bnst \w+)", advice)
    anything = r"[^\n]*?"
    pattern = "".join(anything if part == HOLE else re.escape(part) + (anything if part.startswith("nst ") else "")
                      for part in parts)  # fmt: skip
    return re.search(pattern, said) is not None


# ---- what is wrong in a folder


def _folder_without_shards(here: Path) -> None:
    (here / "empty" / "labeled").mkdir(parents=True)


def _unreadable_pictures(here: Path) -> None:
    _emptied(here / "shards" / "labeled", (".png", ".jpg"))


def _packed_labels(here: Path) -> None:
    _emptied(here / "packed0", (".cls",))


def _emptied(folder: Path, endings: tuple[str, ...]) -> None:
    for path in folder.glob("*.tar"):
        data = bytearray(path.read_bytes())
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(endings):
                    data[member.offset_data : member.offset_data + member.size] = bytes(member.size)
        path.write_bytes(data)


def _network_of_nan(here: Path) -> None:
    weights = here / "alone.safetensors"
    with safe_open(weights, "pt") as file:
        about = file.metadata()
    save_file({name: value * float("nan") for name, value in load_file(weights).items()}, weights, about)


def _older_selection(here: Path) -> None:
    path = here / "teacher0" / "selection" / "selection.json"
    write_json(path, {**read_json(path), "format": 0})


@dataclass(frozen=True)
class Wrong:
    """A command that fails, and what a person does then.

    Args:
        says: what its error advises, as it stands in the source; nothing where it is put together there.
        fills: what stands for the <placeholders> of the advice.
        before: commands that come first.
        spoils: files and folders that are missing, or what is done to the folder.
        again: the first command works afterwards, or this one in its place; else the advised ones do what it was to do.
        steps: advised commands that are given one after the other, each advised by the one before.
        finds: the advised command says more of what is wrong.
    """

    command: list[str]
    says: str = ""
    fills: tuple[tuple[str, str], ...] = ()
    before: tuple[list[str], ...] = ()
    spoils: tuple[str, ...] | Callable[[Path], None] = ()
    again: bool | list[str] = True
    steps: int = 1
    finds: bool = False


TAUGHT = ["train", *STUDENT, "data.root=shards", "run_dir=s"]
RELABEL = f"nst label data.unlabeled={HOLE} teacher.predictions=<folder>, then this with teacher.reassign=true and that"
CASES = {
    "label without a teacher": Wrong(
        ["label", "teacher.predictions=p"], f"nst {HOLE} teacher.run=<its run directory>",
        (("<its run directory>", "teacher1"),), again=False,
    ),
    "label, no pictures are known": Wrong(
        ["label", "teacher.checkpoint=alone.safetensors", "teacher.predictions=p"],
        f"nst {HOLE} data.root=<folder>", (("<folder>", "shards"),), again=False,
    ),
    "label, no folder is known": Wrong(
        ["label", "teacher.checkpoint=alone.safetensors", "data.root=shards"],
        f"nst {HOLE} teacher.run=<run directory>, or {HOLE}", (("<run directory>", "teacher1"),),
        again=False,
    ),
    "label by a network of NaN": Wrong(
        ["label", "teacher.checkpoint=alone.safetensors", "teacher.predictions=p", "data.root=shards"],
        "check the teacher: nst evaluate model.checkpoint=<the teacher>", (("<the teacher>", "alone.safetensors"),),
        spoils=_network_of_nan, again=False,
    ),
    "evaluate, no pictures are known": Wrong(
        ["evaluate", "model.checkpoint=alone.safetensors", "evaluate.output=e"],
        f"nst {HOLE} data.root=<folder>", (("<folder>", "shards"),), again=False,
    ),
    "train before shard": Wrong(
        ["train", *STUDENT, "data.root=my shards", "run_dir=s"], "make one: nst shard; or name one that is there"
    ),
    "train where there is a folder without shards": Wrong(
        ["train", *STUDENT, "data.root=empty", "run_dir=s"], "make shards: nst shard", spoils=_folder_without_shards
    ),
    "train on pictures that cannot be read": Wrong(
        TAUGHT, f"nst shard --verify shard.output={HOLE}", spoils=_unreadable_pictures, again=False, finds=True
    ),
    "select before label": Wrong(["select", "teacher.run=teacher1", *SELECT], "nst label"),
    "train before select": Wrong([*TAUGHT, "teacher.run=teacher0"], "nst select", spoils=("teacher0/selection",)),
    "train before label and select": Wrong(
        [*TAUGHT, "teacher.run=teacher1"], "nst label, then nst select, then this again"
    ),
    "predictions are gone": Wrong(
        [*TAUGHT, "teacher.run=teacher0"], "nst label; a killed one continues where it stopped",
        spoils=("teacher0/predictions",),
    ),
    "a part of the predictions is gone": Wrong(
        ["select", "teacher.run=teacher0", *SELECT, "teacher.selection=other"],
        spoils=("teacher0/predictions/unlabeled-000001.parquet",),
    ),
    "predictions of another teacher": Wrong(
        [*TAUGHT, "teacher.run=teacher1", "teacher.predictions=teacher0/predictions",
         "teacher.selection=teacher0/selection"],
        "nst label, then nst select; then this without teacher.predictions and teacher.selection; or"
        " teacher.reassign=true, which keeps the selection",
        again=[*TAUGHT, "teacher.run=teacher1"],
    ),
    "reassign by labels of another teacher": Wrong(
        [*TAUGHT, "teacher.run=teacher1", "teacher.predictions=teacher0/predictions",
         "teacher.selection=teacher0/selection", "teacher.reassign=true"],
        "nst label; then this without teacher.predictions",
        again=[*TAUGHT, "teacher.run=teacher1", "teacher.selection=teacher0/selection", "teacher.reassign=true"],
    ),
    "labels of other shards": Wrong(
        ["select", "teacher.run=teacher0", *SELECT, "teacher.selection=other", "data.unlabeled=packed0"],
        "point data.unlabeled at the shards that were labeled, or label again: nst label overwrite=true",
    ),
    "labels without the probabilities": Wrong(
        [*TAUGHT, *SELECT, "teacher.run=teacher1"],
        "nst label label.keep=0 overwrite=true, then nst select overwrite=true; or train on hard targets:"
        " teacher.targets=hard",
        before=(["label", "teacher.run=teacher1", "label.keep=0.9", "trainer.workers=0"],
                ["select", "teacher.run=teacher1", *SELECT]),
    ),
    "labeled again since it was selected": Wrong(
        [*TAUGHT, *SELECT, "teacher.run=teacher0"], "select again: nst select overwrite=true",
        before=(["label", "teacher.run=teacher0", "teacher.image_size=16", "overwrite=true", "trainer.workers=0"],),
    ),
    "a selection of an older nst": Wrong(
        [*TAUGHT, *SELECT, "teacher.run=teacher0"],
        "nst select teacher.selection=<folder>, then this with that teacher.selection=<folder>", (("<folder>", "c"),),
        spoils=_older_selection, again=[*TAUGHT, *SELECT, "teacher.run=teacher0", "teacher.selection=c"],
    ),
    "an option of a step that was taken": Wrong(
        [*TAUGHT, *SELECT[1:], "teacher.run=teacher0", "select.min_confidence=0.05"],
        f"nst {HOLE}{HOLE} {HOLE}={HOLE} overwrite=true, then this again",
    ),
    "a teacher of weights alone": Wrong(
        [*TAUGHT, "teacher.checkpoint=alone.safetensors", "select.allow_empty_classes=true"],
        "nst label teacher.predictions=<labels>, nst select teacher.predictions=<labels>"
        " teacher.selection=<selection>, then this with both; or teacher=online",
        (("<labels>", "l"), ("<selection>", "c select.min_confidence=0")),
        again=[*TAUGHT, "teacher.checkpoint=alone.safetensors", "teacher.predictions=l", "teacher.selection=c"],
    ),
    "evaluate nothing": Wrong(
        ["evaluate"], "nst evaluate model.checkpoint=<run directory or weights>",
        (("<run directory or weights>", "teacher0"),), again=False,
    ),
    "evaluate without a test set": Wrong(
        ["evaluate", "model.checkpoint=teacher0", "data.test=null"],
        f"nst {HOLE} data.test=<folder of shards>", (("<folder of shards>", "shards/test"),), again=False,
    ),
    "export nothing": Wrong(
        ["export"], "nst export model.checkpoint=<run directory or weights>",
        (("<run directory or weights>", "teacher0"),), again=False,
    ),
    "predict without a network": Wrong(
        ["predict", "input=pictures"], f"nst {HOLE} model.checkpoint=<run directory or weights>",
        (("<run directory or weights>", "teacher0"),), again=False,
    ),
    "predict without pictures": Wrong(
        ["predict", "model.checkpoint=teacher0"], "nst predict model.checkpoint=<run> input=<folder>",
        (("<run>", "teacher0"), ("<folder>", "pictures")), again=False,
    ),
    "predict the folder around shards": Wrong(
        ["predict", "model.checkpoint=teacher0", "input=sets"], f"for its shards: nst predict input={HOLE}", again=False
    ),
    "a flag without its value": Wrong(
        ["predict", "model.checkpoint=teacher0", "input=pictures", "--top"], f"nst {HOLE} {HOLE}=<value>",
        (("<value>", "2"),), again=False,
    ),
    "a flag with a value too many": Wrong(
        ["predict", "--help=all"], f"nst {HOLE} {HOLE}", again=False
    ),
    "tars from elsewhere": Wrong(
        ["train", *STUDENT, "data.root=shards", "data.unlabeled=web", "teacher.run=teacher0", "run_dir=s"],
        f"for tars from elsewhere: nst shard shard.index={HOLE}", again=False,
    ),
    "an index of pictures": Wrong(
        ["shard", "shard.index=sorted", "data.labeled_per_class=1"],
        "pictures in folders: nst shard shard.index=null data=folder data.source.root=<folder>",
        (("<folder>", "sorted"),), again=False,
    ),
    "an index of shard sets": Wrong(
        ["shard", "shard.index=sets"], f"nst shard shard.index={HOLE}", again=False
    ),
    "another training is there": Wrong(
        ["train", *STUDENT, "data.root=shards", "run_dir=teacher0", "student.steps=6"], fills=(("<folder>", "other"),)
    ),
    "another labeling is there": Wrong(
        ["label", "teacher.run=teacher0", "teacher.image_size=16", "trainer.workers=0"], fills=(("<folder>", "other"),)
    ),
    "another selection is there": Wrong(
        ["select", "teacher.run=teacher0", "select.min_confidence=0.1"], fills=(("<folder>", "other"),)
    ),
    "label by released weights": Wrong(
        ["label", "teacher.checkpoint=released.pth", "teacher.predictions=p", "data.root=shards"],
        f"nst export model.checkpoint={HOLE} export.format=nst export.output=runs/released data.root=<shards>,"
        " then runs/released instead of it",
        (("<shards>", "shards"),),
        again=False,
    ),
    "export released weights": Wrong(
        ["export", "model.checkpoint=released.pth"],
        f"nst export model.checkpoint={HOLE} export.format=nst export.output=runs/released data.root=<shards>"
        " makes it one of ours with the classes of these shards; export runs/released then",
        (("<shards>", "shards"),), again=["export", "model.checkpoint=runs/released"],
    ),
    "a baseline that was not measured": Wrong(
        ["evaluate", "model.checkpoint=teacher0", "evaluate.output=e", "eval=robustness_quick",
         "eval.baseline=teacher1", *FOG],
        f"nst evaluate eval=robustness model.checkpoint={HOLE}",
    ),
    "plan of nobody knows how many": Wrong(
        ["plan", "data=folder", "data.root=nowhere", "model=small"], f"nst plan plan.{HOLE}=<number>",
        (("<number>", "30"),), again=False, steps=3,
    ),
    "a step that no memory holds": Wrong(
        ["train", *STUDENT, "data.root=shards", "run_dir=s", "student.labeled_batch_size=1000000"],
        "nst plan shows what takes how much", again=False,
    ),
    "pack before select": Wrong(
        ["shard", *PACK, "teacher.run=teacher1", "shard.output=packed"], "nst label, then nst select, then this again"
    ),
    "pack for an online teacher": Wrong(
        ["shard", *PACK, "teacher.run=teacher1", "shard.output=packed", "teacher=online"],
        "nst label and nst select, with teacher.mode=offline", again=False,
    ),
    "pack an empty selection": Wrong(
        ["shard", *PACK, "teacher.run=teacher0", "teacher.selection=none", "shard.output=packed"],
        "nst select select.min_confidence=<lower> overwrite=true, then this again",
        (("<lower>", "0 select.allow_empty_classes=true"),),
        before=(["select", "teacher.run=teacher0", "teacher.selection=none", "select.min_confidence=0.99",
                 "select.allow_empty_classes=true"],),
    ),
    "packed shards that are damaged": Wrong(
        [*TAUGHT, "data.unlabeled=packed0", "teacher.run=teacher0"],
        f"nst shard --verify shard.output={HOLE} shows what is damaged; then pack again, into another"
        " shard.output=<folder>",
        (("shard.output=<folder>", "folder"),), spoils=_packed_labels, again=False, finds=True,
    ),
    "reassign packed shards by a teacher that has not labeled them": Wrong(
        [*TAUGHT, "data.unlabeled=packed0", "teacher.run=teacher1", "teacher.reassign=true"],
        "nst label; a killed one continues where it stopped",
    ),
    "reassign packed shards by a teacher that has labeled others": Wrong(
        [*TAUGHT, "data.unlabeled=packed0", "teacher.run=teacher0", "teacher.reassign=true"],
        f"{RELABEL} teacher.predictions=<folder>", (("<folder>", "l"),),
        again=[*TAUGHT, "data.unlabeled=packed0", "teacher.run=teacher0", "teacher.reassign=true",
               "teacher.predictions=l"],
    ),
    "packed shards of another teacher": Wrong(
        [*TAUGHT, "data.unlabeled=packed0", "teacher.run=teacher1"],
        f"{RELABEL} teacher.predictions=<folder>", (("<folder>", "l"),),
        again=[*TAUGHT, "data.unlabeled=packed0", "teacher.run=teacher1", "teacher.reassign=true",
               "teacher.predictions=l"],
    ),
    "report of nothing": Wrong(
        ["report", "run_dir=nowhere"], "nst iterate makes one; nst report run_dir=runs/<name> reports it",
        (("nst iterate", "it"), ("runs/<name>", "teacher0")), again=False,
    ),
    "findings of nothing": Wrong(
        ["report", "--findings", "nowhere"], "nst report --findings <folder of CSV files>",
        (("<folder of CSV files>", str(RESULTS)),), again=False,
    ),
    "findings of nothing, as an option": Wrong(
        ["report", "report.findings=nowhere"], "nst report --findings <folder of CSV files>",
        (("<folder of CSV files>", str(RESULTS)),), again=False,
    ),
}  # fmt: skip
INSTALLS, HOSTS = "it installs packages", "it needs TPUs, and hosts of their own"
NOT_FOLLOWED = {
    "NST_EXTRAS=sweep bin/install, or pip install 'nst[sweep]'": INSTALLS,
    "NST_EXTRAS=aot bin/install": INSTALLS,
    "NST_EXTRAS=tpu bin/install": INSTALLS,
    "NST_EXTRAS=xla bin/install, on Linux; or trainer=cpu, trainer=gpu": INSTALLS,
    "NST_EXTRAS=xla bin/install brings the pair that requirements-xla.lock names": INSTALLS,
    "install the extra: NST_EXTRAS=ray bin/install, on all machines of the cluster": INSTALLS,
    "bin/tpu create makes one; trainer=xla_cpu runs the same program on virtual devices": HOSTS,
    "start with bin/tpu run, or set NODE_RANK=<number of this host>; trainer=tpu for a single host": HOSTS,
    "see the log of each: bin/tpu status <name>, bin/tpu logs <name> --worker <number>": HOSTS,
    "bin/tpu run <name> -- <stage> trainer=tpu_pod ..., on every host": HOSTS,
    "leave out eval.every, and evaluate afterwards: nst evaluate eval=robustness model.checkpoint=<run>":
        "torch_xla takes longer to start than such a test may",
    "bin/bench gpu --json <file> writes one": "it needs a GPU",
    "wandb login, then nst report --wandb-workspace logger=wandb logger.wandb.project=<project>": "it needs W&B",
    f"run its recipes, e.g. nst iterate -m 'experiment=glob(small_{HOLE}_*)' seed=0,1,2": "it takes hours",
    f"nst iterate\n         which leaves {HOLE} out; or give each generation its own: {HOLE}":
        "tests/test_iterate.py does",
    f"nst label; or, of labels that are there: nst select teacher.run={HOLE}": "tests/test_inherited.py does",
    "check the data: nst shard --verify shard.output=<folder of the test set>": "empty sets are refused before",
    "nst label teacher.predictions=<folder>, then this with that teacher.predictions=<folder>":
        "no older nst is here to write such predictions",
    "label again with a teacher of these classes: nst label overwrite=true": "labels of other classes are not selected",
    "label again with the wanted teacher: nst label overwrite=true": "of the validation images alone",
    "select again from these predictions: nst select overwrite=true": "digests are compared before images are",
    "nst label overwrite=true and nst select overwrite=true, then this again": "it takes a teacher of other data",
}  # fmt: skip


def test_all_advice_that_names_a_command_is_followed_or_it_is_said_why_not():
    command = re.compile(rf"(?<![`=\w/])(?:nst (?:{'|'.join(STAGES)}|{HOLE})(?!\w)|bin/\w+)")
    found = {text for _, text in ADVICE if command.search(text)}
    followed = {wrong.says for wrong in CASES.values() if wrong.says}
    assert found == followed | set(NOT_FOLLOWED)
    assert not followed & set(NOT_FOLLOWED)


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
    for command in wrong.before:
        works(command, here)
    if callable(wrong.spoils):
        wrong.spoils(here)
    else:
        for spoiled in wrong.spoils:
            shutil.rmtree(here / spoiled) if (here / spoiled).is_dir() else (here / spoiled).unlink()
    commands, said = advised(wrong.command, here, wrong.fills)
    assert is_said(wrong.says, said), said
    for command in commands:
        assert not any("<" in word or word == "..." for word in command), (command, said)
        if wrong.finds:
            assert run(command, here, merged=True, limit_s=120).returncode == 1
            continue
        for _ in range(wrong.steps - 1):
            (command,), said = advised(command, here, wrong.fills)
        works(command, here)
    if wrong.again:
        works(wrong.command if wrong.again is True else wrong.again, here)


# ---- options that are advised, given in the place of those that the command had

SORTED = ["shard", "data=folder", "data.source.root=sorted", "data.root=d"]
FOLDER = (("<folder>", "elsewhere"),)
# command, the options that its error names, and what stands for the <placeholders>
OPTIONS: list[tuple[list[str], list[str], tuple[tuple[str, str], ...]]] = [
    ([*TAUGHT, "trainer.accumulate=3"], ["student.labeled_batch_size"], ()),
    ([*TAUGHT, "trainer.accumulate=2", "trainer.precision=16-mixed"], ["trainer.precision"], ()),
    (["train", *STUDENT, "data.root=shards", "run_dir=shards/labeled"], ["run_dir"], FOLDER),
    (["label", "teacher.run=teacher1", "teacher.views=all"], ["teacher.views"], ()),
    (["label", "teacher.run=teacher1", "data.unlabeled=null"], ["data.unlabeled"], (("<folder>", "shards/unlabeled"),)),
    (["label", "teacher.run=[teacher0,teacher1]"], ["teacher.predictions"], ()),
    (["doctor", *STUDENT, "data.root=shards", "teacher.run=[teacher0,teacher1]"],
     ["teacher.predictions", "teacher.selection"], ()),
    (["label", "teacher.checkpoint=alone.safetensors", "data.root=shards", "teacher.predictions=p",
      "teacher.noised=true"], ["teacher.noised"], ()),
    (["select", "teacher.run=teacher0", *SELECT[1:], "teacher.selection=c", "select.method=official",
      "select.min_confidence=0.123"], ["select.method"], ()),
    (["select", "teacher.run=teacher0", *SELECT, "teacher.selection=c", "select.prior=labeled", "data.labeled=nowhere"],
     ["select.prior"], ()),
    (["evaluate", "model.checkpoint=[teacher0,teacher1]", "evaluate.output=e"], ["model.checkpoint"], ()),
    (["evaluate", "model.checkpoint=teacher0", "eval=robustness_quick", *FOG, "evaluate.output=e", "data.test=nowhere"],
     ["data.test"], (("<folder of shards>", "shards/test"),)),
    (["plan", "data.root=shards", "model=small", "student.steps=4", "plan.output=alone.safetensors"], ["plan.output"],
     (("<file>", "plan.json"),)),
    (["shard", *PACK, "shard.output=p"], ["teacher.run"], (("<run directory of the teacher>", "teacher0"),)),
    (["shard", "--verify", "shard.output=nowhere"], ["shard.output"], (("<folder of one that is there>", "shards"),)),
    (["shard", "data=folder", "data.root=d", "data.labeled_per_class=1"], ["data.source.root"],
     (("<folder or file>", "sorted"), ("...", "sorted"))),
    (["shard", "data=tar", "data.root=d", "data.source.root=sorted", "data.labeled_per_class=1"],
     ["data", "data.source.root"], ()),
    ([*SORTED, "data.labeled_per_class=9"], ["data.labeled_per_class"], ()),
    ([*SORTED, "data.labeled_per_class=1", "data.validation_samples=9"], ["data.validation_samples"], ()),
    ([*SORTED, "data.labeled_per_class=1", "data.test_samples=99"], ["data.test_samples"], ()),
    (["shard", "data=folder", "data.source.root=pictures", "data.root=d", "data.labeled_per_class=3"],
     ["data.labeled_per_class"], ()),
]  # fmt: skip


@pytest.mark.parametrize(("command", "names", "fills"), OPTIONS, ids=lambda it: it[0] if isinstance(it, list) else "")
def test_an_option_that_is_advised_helps(
    command: list[str], names: list[str], fills: tuple[tuple[str, str], ...], here: Path
):
    shutil.copy(here / "teacher0" / "checkpoints" / "trained.safetensors", here / "alone.safetensors")
    done = run(command, here, merged=True, limit_s=120)
    assert done.returncode in (1, 2, 3), done.stdout
    said = done.stdout[done.stdout.index("next: ") :]
    for placeholder, value in fills:
        said = said.replace(placeholder, value)
    options = [re.search(rf"(?<![\w.]){re.escape(name)}=[^\s,;]+", said) for name in names]
    assert all(options), done.stdout
    others = [item for item in command if item.partition("=")[0] not in names]
    works([*others, *(option[0] for option in options if option)], here)
