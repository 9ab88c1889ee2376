"""nst deletes and replaces only what it has written: ways to lose pictures, each on a folder of real ones, whose files
are the same before and after; and what killed processes leave, which is swept wherever nst writes.

`overwrite=true` is given everywhere: it must never cost a file that is not nst's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from helpers import encode, ended_process, noise

from nst.atomic import atomic_path, write_text
from nst.cli import dispatch
from nst.config import compose_config, job_from
from nst.data.remote import Remote
from nst.documents import read_json
from nst.errors import NstError
from nst.finished import of_one_line
from nst.leftovers import temporary
from nst.runs import Run
from nst.settings.job import ExportJob
from nst.stages import export
from nst.training.tracking import forget_run, run_id
from nst.written import LINK, LIST, FolderContents, begin, note
from tests.conftest import TINY, read_by
from tests.reported import reported

CLASSES = ("cat", "dog", "emu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """30 JPEG files in folders of classes, and files of names that nst uses too."""
    root = tmp_path / "own" / "pictures"
    for number in range(30):
        path = root / CLASSES[number % 3] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(16, 16, number), "JPEG"))
    return root


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "teacher"
    assert dispatch(["train", *TINY, "student.steps=4", f"data.root={digits}", f"run_dir={run}"]) == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished training of this test's own."""
    shutil.copytree(trained, tmp_path / "runs" / "teacher")
    return tmp_path / "runs" / "teacher"


def contents(folder: Path) -> dict[str, str]:
    """Name → sha256 of every file below a folder, or where a link leads; without a run's sign of life."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_symlink() or (path.is_file() and path.name != ".pulse")
    }


@contextlib.contextmanager
def kept(*folders: Path, new: bool = False) -> Iterator[None]:
    """Every file in these folders is the same before and after; and there are no more, unless there may be new ones."""
    before = [contents(folder) for folder in folders]
    assert all(before)
    yield
    for was, folder in zip(before, folders, strict=True):
        now = contents(folder)
        if new:  # which are listed
            was.pop(LIST, None)
        assert {name: now.get(name) for name in was} == was
        assert new or len(now) == len(was), now.keys() - was.keys()


def refusal(*command: str) -> str:
    with pytest.raises(NstError) as caught:
        dispatch(list(command))
    return str(caught.value)


# ---- folders that are read are never written to

# {pictures}, {link} to them, {data}: a shard set, {run}: a teacher, {tmp}
READ_AND_WRITTEN = {
    "data.root is the pictures": "shard data=folder data.source.root={pictures} data.root={pictures}",
    "shard.output in them": "shard data=folder data.source.root={pictures} shard.output={pictures}/cat",
    "shard.output around them": "shard data=folder data.source.root={pictures} shard.output={pictures}/..",
    "shard.output in the pictures of a CSV file": "shard data=csv data.source.root={tmp}/x.csv"
    " data.source.pictures={pictures} shard.output={pictures}/new",
    "data.root is the pictures of a CSV file": "shard data=csv data.source.root={tmp}/x.csv"
    " data.source.pictures={pictures} data.root={pictures}",
    "shard.output by a link": "shard data=folder data.source.root={pictures} shard.output={link}",
    "the source by a link": "shard data=folder data.source.root={link} data.root={pictures}/new",
    "run_dir": "train data=folder data.source.root={pictures} data.root={tmp}/none run_dir={pictures}",
    "run_dir around shards": "train {tiny} data.root={data} run_dir={data}",
    "run_dir in shards": "train {tiny} data.root={data} run_dir={data}/labeled",
    "run_dir of the teacher": "train {tiny} data.root={data} run_dir={run} teacher.run={run}",
    "run_dir of the start": "train {tiny} data.root={data} run_dir={run} model.checkpoint={run}",
    "run_dir around the start": "train {tiny} data.root={data} run_dir={run}"
    " model.checkpoint={run}/checkpoints/trained.safetensors",
    "run_dir of the weights": "train {tiny} data.root={data} run_dir={run} model.pretrained={run}",
    "run_dir around the weights": "train {tiny} data.root={data} run_dir={run}"
    " model.pretrained={run}/checkpoints/trained.safetensors",
    "iterate": "iterate data=folder data.source.root={pictures} data.root={tmp}/new run_dir={pictures}/..",
    "iterate's shards": "iterate data=folder data.source.root={pictures} data.root={pictures}/new run_dir={tmp}/new",
    "a later generation": "iterate {tiny} data.root={data} run_dir={tmp}/new"
    " iterate.generations=[[],['data.labeled={tmp}/new/gen1/x']]",
    "teacher.predictions": "label data=folder data.source.root={pictures} teacher.run={run}"
    " teacher.predictions={pictures}",
    "predictions over the teacher": "label {tiny} data.root={data} teacher.run={run} teacher.predictions={run}",
    "teacher.selection": "select data=folder data.source.root={pictures} teacher.run={run}"
    " teacher.selection={pictures}",
    "selection over predictions": "select {tiny} data.root={data} teacher.run={run}"
    " teacher.selection={run}/predictions",
    "evaluate.output": "evaluate {tiny} data.root={data} model.checkpoint={run} eval=robustness"
    " eval.imagenet_a={pictures} evaluate.output={pictures}",
    "evaluation over the run": "evaluate {tiny} data.root={data} model.checkpoint={run} evaluate.output={run}",
    "evaluation over the test set": "evaluate {tiny} data.root={data} model.checkpoint={run}"
    " evaluate.output={data}/test",
    "export.output": "export data=folder data.source.root={pictures} model.checkpoint={run} export.output={pictures}",
    "export over the run": "export {tiny} model.checkpoint={run} export.output={run}",
    "report": "report data=folder data.source.root={pictures} run_dir={pictures}",
    "plan.output": "plan {tiny} data.source.name=folder +data.source.root={pictures} plan.output={pictures}/cat/00.jpg",
    "remote.cache": "train {tiny} data.root={tmp}/none +data.source.root={pictures} remote.cache={pictures}",
}


@pytest.mark.parametrize("way", READ_AND_WRITTEN)
def test_what_is_read_is_never_written_to(way: str, pictures: Path, digits: Path, run: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(pictures, target_is_directory=True)
    places = {"pictures": pictures, "link": link, "data": digits, "run": run, "tmp": tmp_path}
    command = [
        part.format(**places)
        for word in READ_AND_WRITTEN[way].split()
        for part in (read_by(READ_AND_WRITTEN[way].split()[0], TINY) if word == "{tiny}" else [word])
    ]
    with kept(pictures, run, digits):
        told = refusal(*command, "overwrite=true")
    assert "nst would write into what it reads" in told
    option = re.search(r"next:  choose another folder: (\S+)=<folder>", told)
    assert option
    assert any(option[1] + "=" in part for part in command), told
    assert not (tmp_path / "new").exists()


def test_the_advice_of_that_refusal_works(pictures: Path, tmp_path: Path):
    command = ["shard", "data=folder", f"data.source.root={pictures}", "data.test_samples=3"]
    assert "data.root=<folder>" in refusal(*command, f"data.root={pictures}")
    with kept(pictures):
        assert dispatch([*command, f"data.root={tmp_path / 'elsewhere'}"]) == 0


# ---- what is not nst's is never deleted


def started(directory: Path, stage: str = "train", **inputs: int) -> Path:
    """A finished run with a file in a folder."""
    with Run(directory, stage, inputs) as made:
        write_text(directory / "checkpoints" / "weights", "1")
        made.finish({"top1": 1})
    return directory


STRANGE: dict[str, Callable[[Path, Path], None]] = {
    "cat.jpg": lambda run, pictures: shutil.copy(pictures / "cat" / "00.jpg", run / "cat.jpg") and None,
    "holiday/ (30 files)": lambda run, pictures: shutil.copytree(pictures, run / "holiday") and None,
    "checkpoints/": lambda run, pictures: shutil.copy(pictures / "cat" / "00.jpg", run / "checkpoints") and None,
    "link": lambda run, pictures: (run / "link").symlink_to(pictures, target_is_directory=True),
    "broken": lambda run, pictures: (run / "broken").symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_overwriting_refuses_a_run_that_holds_anything_else_before_it_deletes(
    name: str, pictures: Path, tmp_path: Path
):
    directory = started(tmp_path / "run", seed=0)
    STRANGE[name](directory, pictures)
    for overwrite in (False, True):
        with kept(directory, pictures), pytest.raises(NstError) as caught:
            Run(directory, "train", {"seed": 1}, overwrite=overwrite).__enter__()
        first = name.partition(" ")[0]
        assert f"move {first}" in str(caught.value)
        assert "checkpoints/" in str(caught.value), "what would go"
    # the advice, followed
    others = FolderContents.of(directory)
    assert others
    away = tmp_path / "away"
    away.mkdir()
    for entry in others.others:
        shutil.move(directory / entry.rstrip("/"), away)
    with kept(pictures, tmp_path / "away"), Run(directory, "train", {"seed": 1}, overwrite=True):
        assert not (directory / "checkpoints").exists()
        assert not (directory / "DONE").exists()


def test_overwriting_deletes_what_nst_wrote_and_runs_inside_it(tmp_path: Path):
    directory = started(tmp_path / "run", seed=0)
    started(directory / "predictions", seed=0)
    started(directory / "evaluation" / "robustness" / "c", seed=0)
    (directory / "empty").mkdir()
    with pytest.raises(NstError, match=r"overwrite=true, which deletes the \d+ files .*evaluation/ .*there is nothing"):
        Run(directory, "train", {"seed": 1}).__enter__()
    started(shards := tmp_path / "shards", seed=0)
    started(shards / "x", seed=0)  # a training in a folder with many names before its own
    for name in "abcdefgh":
        write_text(shards / name, "1")
    with pytest.raises(NstError, match=r"deletes the \d+ files that nst wrote there \(x/ \(\d+ files\), "):
        Run(shards, "shard", {"seed": 1}).__enter__()
    with Run(directory, "train", {"seed": 1}, overwrite=True):
        left = {path.name for path in directory.iterdir()}
    assert left <= {".lock", ".pulse", LIST, "started.json", "empty"}


def test_a_run_that_was_killed_at_work_can_be_overwritten(tmp_path: Path):
    directory = started(tmp_path / "run", seed=0)
    (directory / "DONE").unlink()
    (directory / ".pulse").write_text("17 4")  # which a kill leaves there
    with Run(directory, "train", {"seed": 1}, overwrite=True):
        assert contents(directory).keys() == {".lock", LIST, "started.json"}


def test_a_run_that_the_list_around_it_does_not_name_is_a_users(tmp_path: Path):
    """Shards that somebody moved into a run directory have a list too."""
    shards, directory = started(tmp_path / "shards", seed=0), started(tmp_path / "run", seed=0)
    shutil.move(shards, directory / "shards")
    with kept(directory), pytest.raises(NstError, match="move shards/"):
        Run(directory, "train", {"seed": 1}, overwrite=True).__enter__()


def test_a_run_directory_behind_a_link_is_overwritten_there(pictures: Path, tmp_path: Path):
    real = started(tmp_path / "disk" / "run", seed=0)
    (tmp_path / "run").symlink_to(real, target_is_directory=True)
    with kept(pictures), Run(tmp_path / "run", "train", {"seed": 1}, overwrite=True):
        assert not (real / "checkpoints").exists()
    assert (tmp_path / "run").is_symlink()
    shutil.copy(pictures / "cat" / "00.jpg", real)
    with kept(real), pytest.raises(NstError, match=r"move 00\.jpg"):
        Run(tmp_path / "run", "train", {"seed": 2}, overwrite=True).__enter__()


def test_checkpoints_moved_to_another_disk_are_left_alone(tmp_path: Path):
    directory = started(tmp_path / "run", seed=0)
    shutil.move(directory / "checkpoints", tmp_path / "disk")
    (directory / "checkpoints").symlink_to(tmp_path / "disk")
    with kept(directory, tmp_path / "disk"), pytest.raises(NstError, match="move checkpoints"):
        Run(directory, "train", {"seed": 1}, overwrite=True).__enter__()


def test_a_run_from_before_there_were_lists_goes_on_but_nothing_of_it_is_deleted(tmp_path: Path):
    directory = started(tmp_path / "run", seed=0)
    (directory / LIST).unlink()
    with Run(directory, "train", {"seed": 0}) as again:
        assert again.done
        write_text(directory / "checkpoints" / "weights", "2")
    assert not (directory / LIST).exists()
    for overwrite in (False, True):
        with kept(directory), pytest.raises(NstError, match="this run has no list"):
            Run(directory, "train", {"seed": 1}, overwrite=overwrite).__enter__()


def test_a_run_of_an_older_format_is_refused_without_advice_to_delete_it(tmp_path: Path):
    directory = started(tmp_path / "run", seed=0)
    (directory / LIST).unlink()
    document = read_json(directory / "started.json")
    (directory / "started.json").write_text(json.dumps(document))  # without a seal
    with kept(directory), pytest.raises(NstError, match=r"what an older nst has written, that one reads") as caught:
        Run(directory, "train", {"seed": 0}).__enter__()
    assert "choose another run_dir=..." in str(caught.value)
    assert not re.search("overwrite|it goes on|rm ", str(caught.value))


def test_real_runs_are_listed_whole(run: Path, digits: Path):
    """Training, evaluation, export and report of one run: overwriting it would leave nothing."""
    for command in ("evaluate", "export", "export export.format=onnx", "report"):
        place = f"run_dir={run}" if command == "report" else f"model.checkpoint={run}"
        assert dispatch([*command.split(), *read_by(command.split()[0], [*TINY, f"data.root={digits}"]), place]) == 0
    found = FolderContents.of(run)
    assert found
    assert found.others == []
    assert {"metrics.csv", "report.html", "evaluation/result.json", "export/timm/README.md"} <= set(found.ours)
    assert FolderContents.of(digits).others == []  # type: ignore[union-attr]


def test_a_run_is_refused_and_overwritten_by_its_own_options(digits: Path, tmp_path: Path, pictures: Path):
    """As a user: each advice of the refusal, followed."""
    root = tmp_path / "shards"
    command = ["shard", *TINY, f"data.root={root}"]
    assert dispatch(command) == 0
    told = refusal(*command, "seed=1")
    assert "choose another data.root=..., or overwrite=true, which deletes the" in told
    assert dispatch([*command, "seed=1", f"data.root={tmp_path / 'other'}"]) == 0
    shutil.copytree(pictures, root / "unlabeled" / "more")
    with kept(root, pictures):
        assert "move unlabeled/" in refusal(*command, "seed=1", "overwrite=true")
    shutil.move(root / "unlabeled" / "more", tmp_path / "more")
    with kept(tmp_path / "more", pictures):
        assert dispatch([*command, "seed=1", "overwrite=true"]) == 0
    assert contents(root / "labeled") == contents(tmp_path / "other" / "labeled")


@pytest.mark.parametrize("mistake", ["a set inside a class", "too many bad pictures"])
def test_shards_are_there_until_what_replaces_them_is_known_to_be_whole(mistake: str, pictures: Path, tmp_path: Path):
    root = tmp_path / "shards"
    command = ["shard", "data=folder", f"data.root={root}", "data.labeled_per_class=3", "data.test_samples=3"]
    assert dispatch([*command, f"data.source.root={pictures}"]) == 0
    others = tmp_path / "others"
    shutil.copytree(pictures, others)
    if mistake == "too many bad pictures":
        (others / "cat" / "00.jpg").write_bytes(b"no picture")
    else:
        shutil.copytree(pictures, others / "cat" / "Test")
    with kept(root):
        refusal(*command, f"data.source.root={others}", "max_bad_fraction=0.01", "overwrite=true")


def test_pictures_that_were_taken_out_and_are_in_new_shards_again_are_told(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = tmp_path / "source"
    shutil.copytree(pictures, source / "train")
    (source / "test" / "cat").mkdir(parents=True)
    shutil.move(source / "train" / "cat" / "00.jpg", source / "test" / "cat")
    shutil.copytree(pictures / "cat", source / "unlabeled")
    command = ["shard", "data=folder", f"data.root={tmp_path / 'shards'}", f"data.source.root={source}"]
    assert dispatch([*command, "--exclude"]) == 0
    told = "what --exclude took out of the shards before is in these again"
    assert told not in capsys.readouterr().out
    (source / "train" / "cat" / "more.jpg").write_bytes(encode(noise(16, 16, 99), "JPEG"))
    assert dispatch([*command, "overwrite=true"]) == 0
    assert told in capsys.readouterr().out
    assert dispatch([*command, "--exclude"]) == 0
    capsys.readouterr()
    assert dispatch(command) == 0
    assert told not in capsys.readouterr().out


def test_generations_are_made_anew_all_or_none(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    command = ["iterate", *TINY, f"data.root={digits}", f"run_dir={run}", "iterate.generations=[[],[]]",
               "select.min_confidence=0", "select.allow_empty_classes=true", "iterate.report=false"]  # fmt: skip
    assert dispatch([*command, "student.steps=4"]) == 0
    shutil.copytree(run, tmp_path / "before")
    (run / "gen1" / "notes.txt").write_text("mine")
    with kept(run):
        told = refusal(*command, "student.steps=5", "overwrite=true")
    assert f"overwrite=true deletes nothing in {run}/gen1" in told
    assert "notes.txt" in told
    with kept(run):
        assert f"{run}/gen1" in refusal(*command, "student.steps=4", "select.images_per_class=5", "overwrite=true")
    (run / "gen1" / "notes.txt").unlink()
    assert dispatch([*command, "student.steps=5", "overwrite=true"]) == 0
    # as a kill between two generations leaves it
    shutil.rmtree(run / "gen1")
    shutil.copytree(tmp_path / "before" / "gen1", run / "gen1")
    capsys.readouterr()
    assert dispatch(["report", f"run_dir={run}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "gen1 learned from another network than" in said
    assert "student 1" not in (run / "report.html").read_text().lower()
    (run / "gen0" / "result.json").unlink()  # as while it is trained
    assert of_one_line([run / "gen0", run / "gen1"]) == [run / "gen0"]
    shutil.move(run / "gen1", run / "gen2")
    assert of_one_line([run / "gen0", run / "gen2"]) == [run / "gen0", run / "gen2"], "nobody knows who taught it"


def test_the_pulse_beats_while_what_replaces_a_run_is_looked_at(tmp_path: Path):
    """Other ranks wait for it."""
    with Run(tmp_path / "run", "train", {"seed": 0}) as first:
        first.finish({})
    beats: list[bool] = []

    def look() -> None:
        deadline = time.monotonic() + 10
        while not (tmp_path / "run" / ".pulse").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        beats.append((tmp_path / "run" / ".pulse").exists())

    with Run(tmp_path / "run", "train", {"seed": 1}, overwrite=True, first=look) as second:
        assert not second.done
    assert beats == [True]


def test_the_option_of_a_refusal_is_that_of_the_stage(run: Path, digits: Path):
    stages = {
        "teacher.predictions": ["label", f"teacher.run={run}", "teacher.image_size"],
        "evaluate.output": ["evaluate", f"model.checkpoint={run}", "eval.image_size"],
    }
    for option, (stage, teacher, changed) in stages.items():
        common = read_by(stage, [*TINY, f"data.root={digits}"])
        assert dispatch([stage, teacher, *common, f"{changed}=16"]) == 0
        assert f"choose another {option}=..., or overwrite=true" in refusal(stage, teacher, *common, f"{changed}=8")
        elsewhere = f"{option}={run.parent / stage}"
        assert dispatch([stage, teacher, *common, f"{changed}=8", elsewhere]) == 0


def test_shards_refused_by_iterate_are_given_another_place_by_their_own_option(digits: Path, tmp_path: Path):
    common = [*TINY, f"run_dir={tmp_path / 'run'}", "seed=1", f"data.root={digits}"]
    assert "choose another data.root=..., or" in refusal("iterate", *common)
    assert "choose another shard.output=..., or" in refusal("iterate", *common, f"data.root={tmp_path / 'new'}",
                                                             f"shard.output={digits}")  # fmt: skip


def test_what_a_message_says_may_be_deleted_is_made_again(run: Path, tmp_path: Path):
    """The only deletions that messages advise: of single files, each followed here."""
    root = tmp_path / "shards"
    shard = ["shard", *TINY, f"data.root={root}"]
    label = ["label", *read_by("label", TINY), f"data.root={root}", f"teacher.run={run}"]
    select = ["select", *read_by("select", TINY), f"data.root={root}", f"teacher.run={run}", "select.min_confidence=0",
              "select.allow_empty_classes=true"]  # fmt: skip
    for command in (shard, label, select):
        assert dispatch(command) == 0
    before = contents(tmp_path)

    tar = root / "labeled" / "labeled-000000.tar"
    tar.write_bytes(b"half")
    assert "delete the file DONE" in refusal(*shard)
    (root / "DONE").unlink()
    assert dispatch(shard) == 0
    predictions = run / "predictions" / "unlabeled-000001.parquet"
    predictions.write_bytes(b"half")
    assert f"{predictions} is not a predictions file" in refusal(*select)
    predictions.unlink()
    assert dispatch(label) == 0
    for path in (run / "selection" / "selection.json", run / "selection" / "result.json"):
        path.unlink()
        assert dispatch(select) == 0
    assert contents(tmp_path) == before


def test_wandbs_folders_are_nsts_but_not_what_lies_beside_them(run: Path, digits: Path, pictures: Path):
    pytest.importorskip("wandb")
    output = run / "evaluation at 12 px"  # one of its own, and no part of the training's W&B run
    options = ["logger=wandb", "logger.wandb.mode=offline", f"model.checkpoint={run}", f"data.root={digits}"]
    options += [f"evaluate.output={output}"]
    assert dispatch(["evaluate", *read_by("evaluate", TINY), *options]) == 0
    found = FolderContents.of(output)
    assert found
    assert found.others == []
    assert any(name.startswith("wandb/offline-run-") for name in found.ours)
    shutil.copy(pictures / "cat" / "00.jpg", output / "wandb")
    # W&B's own process may still be writing its log
    names = contents(run).keys()
    told = refusal("evaluate", *read_by("evaluate", TINY), *options, "eval.image_size=8", "overwrite=true")
    assert "move wandb/00.jpg away" in told
    assert contents(run).keys() >= names


# ---- what is not nst's is never replaced


def test_a_run_does_not_begin_over_a_users_files(pictures: Path):
    shutil.copy(pictures / "cat" / "00.jpg", pictures / "config.yaml")
    with kept(pictures), pytest.raises(NstError, match=r"config\.yaml would be replaced, and nst has not written it"):
        Run(pictures, "train", {}, config={}, overwrite=True).__enter__()


def test_metrics_are_not_added_to_a_users_table(digits: Path, tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("day,weight\n")
    with kept(tmp_path):
        told = refusal("train", *TINY, f"data.root={digits}", f"run_dir={tmp_path}")
    assert "metrics.csv would be replaced" in told


@pytest.mark.parametrize("form", ["timm", "onnx", "nst"])
def test_an_export_replaces_neither_a_users_readme_nor_weights(form: str, run: Path, digits: Path, pictures: Path):
    for name in ("README.md", "model.safetensors", "model.onnx", "config.yaml", "result.json"):
        shutil.copy(pictures / "cat" / "00.jpg", pictures / name)
    command = [
        "export",
        *read_by("export", TINY),
        f"data.root={digits}",
        f"export.format={form}",
        f"model.checkpoint={run}",
    ]
    with kept(pictures):
        assert "would be replaced" in refusal(*command, f"export.output={pictures}", "overwrite=true")
    with kept(pictures):
        assert dispatch([*command, f"export.output={pictures.parent / 'export'}"]) == 0
        assert dispatch([*command, f"export.output={pictures.parent / 'export'}"]) == 0, "its own are"


def test_a_report_neither_replaces_nor_removes_a_users_figures(run: Path):
    (run / "figures").mkdir()
    for name in ("learning_curves.png", "confidence.png", "selection_by_hand.png"):  # drawn; not drawn; no name of ours
        (run / "figures" / name).write_bytes(encode(noise(16, 16), "PNG"))
    with kept(run):
        assert "figures/" in refusal("report", f"run_dir={run}")
    (run / "figures" / "learning_curves.png").unlink()
    with kept(run, new=True):
        assert dispatch(["report", f"run_dir={run}"]) == 0


def test_a_report_removes_a_figure_of_its_own_that_is_not_drawn_any_more(run: Path):
    assert dispatch(["report", f"run_dir={run}"]) == 0
    write_text(run / "figures" / "confidence.svg", "of an earlier report")
    assert dispatch(["report", f"run_dir={run}"]) == 0
    assert not (run / "figures" / "confidence.svg").exists()
    assert (run / "figures" / "learning_curves.svg").exists()


def test_a_plan_replaces_only_a_plan(pictures: Path, tmp_path: Path):
    command = ["plan", *TINY]
    for name in ("cat/00.jpg", "notes.json"):
        (pictures / "notes.json").write_text("[]")
        with kept(pictures):
            assert "is no plan of nst's" in refusal(*command, f"plan.output={pictures / name}")
    assert dispatch([*command, f"plan.output={tmp_path / 'plan.json'}"]) == 0
    assert dispatch([*command, f"plan.output={tmp_path / 'plan.json'}"]) == 0


def test_an_index_of_others_beside_tars_is_not_replaced(digits: Path, tmp_path: Path):
    shutil.copy(digits / "test" / "test-000000.tar", tmp_path)
    (tmp_path / "index.json").write_text('{"mine": [1, 2]}')
    with kept(tmp_path):
        assert "index.json" in refusal("shard", f"shard.index={tmp_path}")
    (tmp_path / "index.json").unlink()
    assert dispatch(["shard", f"shard.index={tmp_path}"]) == 0
    assert dispatch(["shard", f"shard.index={tmp_path}"]) == 0


def test_a_cache_deletes_only_what_it_has_fetched(digits: Path, tmp_path: Path):
    """Tars of the user's in the folder given for the cache, of its own form of names too."""
    cache = tmp_path / "own"
    cache.mkdir()
    for name in ("holiday.tar", "holiday-0123456789abcdef.tar", ".holiday.tar.tmp-1", ".holiday.tmp-abcdefgh"):
        (cache / name).write_bytes(bytes(1000))
        os.utime(cache / name, (0, 0))
    remote = Remote(cache=str(cache), cache_gb=1e-9)
    with kept(cache, new=True):
        for name in ("unlabeled-000000.tar", "unlabeled-000001.tar"):
            source = digits / "unlabeled" / name
            sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
            remote.shard(f"file://{source}", name, source.stat().st_size, sha256)
    fetched = [path.name for path in cache.glob("unlabeled-*")]
    assert len(fetched) == 1, "its own are"


def test_a_wandb_id_that_nst_has_not_drawn_stays(tmp_path: Path):
    (tmp_path / "wandb_id").write_text("mine")
    forget_run(tmp_path)
    with pytest.raises(NstError, match=r"no id of a W&B run of ours: 'mine'[\s\S]*next:  move "):
        run_id(tmp_path)
    assert (tmp_path / "wandb_id").read_text() == "mine"
    begin(tmp_path / "run")
    drawn = run_id(tmp_path / "run")
    forget_run(tmp_path / "run")
    assert run_id(tmp_path / "run") != drawn


def test_a_sweep_that_is_refused_takes_no_file_or_folder_of_the_user_along(tmp_path: Path):
    base = tmp_path / "empty" / "sweep"
    base.mkdir(parents=True)
    with pytest.raises(NstError, match="unknown option"):
        dispatch(["train", "-m", "student.epohcs=1,2", f"run_dir={base}"])
    assert base.is_dir()
    assert not list(base.iterdir())


# ---- kills


def killed_at(number: int, call: str, work: Callable[[], object]) -> bool:
    """Runs `work` in a process that is killed, with SIGKILL, before the `number`th call of os.<call>; False: it ended
    before that."""
    child = os.fork()
    if child == 0:
        original, count = getattr(os, call), [0]

        def counted(*args: object, **options: object) -> object:
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(os, call, counted)
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def exported(run: Path, output: Path) -> Callable[[], Sequence[Path]]:
    job = job_from(ExportJob, compose_config(["stage=export", f"model.checkpoint={run}"]))
    return lambda: export.run(job, output)


def test_an_export_killed_at_any_moment_ends_as_one_that_was_not(run: Path, tmp_path: Path):
    exported(run, tmp_path / "whole")()
    number = 1
    while killed_at(number, "replace", exported(run, tmp_path / f"killed {number}")):
        output = tmp_path / f"killed {number}"
        assert [path for path in output.iterdir() if ".tmp-" in path.name], "so there is something to sweep"
        exported(run, output)()
        assert contents(output) == contents(tmp_path / "whole")
        number += 1
    assert number == 3, "weights and card"


def test_the_model_card_of_a_copied_run_is_the_same(run: Path, tmp_path: Path):
    copy = tmp_path / "copy" / "runs" / "teacher"
    shutil.copytree(run, copy, copy_function=shutil.copyfile)  # with times of its own
    os.utime(copy / "DONE", (0, 0))
    exported(run, tmp_path / "a")()
    exported(copy, tmp_path / "b")()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_report_killed_at_any_moment_leaves_nothing(run: Path):
    number = 1
    while killed_at(number, "replace", lambda: reported(run)):
        assert list(run.rglob("*.tmp-*"))
        number += 1
    assert number > 4
    assert not list(run.rglob("*.tmp-*"))
    assert (run / "report.html").exists()


def test_overwriting_killed_at_any_moment_is_still_seen_as_the_old_run(tmp_path: Path):
    whole = started(tmp_path / "whole", seed=0)
    started(whole / "predictions", seed=0)

    def overwritten(directory: Path) -> Callable[[], object]:
        return lambda: Run(directory, "train", {"seed": 1}, overwrite=True).__enter__()

    number = 1
    while True:
        directory = tmp_path / f"killed {number}"
        shutil.copytree(whole, directory)
        if not killed_at(number, "unlink", overwritten(directory)):
            break
        before, now = contents(whole), contents(directory)
        gone = before.keys() - now.keys()
        if gone:
            assert "DONE" in gone
        if gone - {"DONE", "result.json", "predictions/DONE", "predictions/result.json"}:
            assert {"DONE", "predictions/DONE"} <= gone
        if now.get("started.json") not in (None, before["started.json"]):
            assert now.keys() <= {".lock", LIST, "started.json"}, "the new run has begun"
        elif "started.json" in gone:
            assert gone >= {name for name in before if name not in (LIST, ".lock", ".pulse")}
        elif now.keys() - {".lock", LIST, "started.json", "config.yaml", ".pulse"}:  # else nothing of it is left
            with pytest.raises(NstError, match="run with other inputs"):
                Run(directory, "train", {"seed": 1}).__enter__()
        with Run(directory, "train", {"seed": 1}, overwrite=True):
            assert contents(directory).keys() <= {".lock", LIST, "started.json"}
        number += 1
    assert number > 8


def test_a_run_in_a_folder_that_has_a_list_is_moved_with_its_own(tmp_path: Path):
    """As after `nst report run_dir=runs`, which writes into the folder around the runs."""
    begin(tmp_path / "runs", "report.html")
    folder, names = tmp_path / "runs" / "mine", ["config.yaml", "result.json"]
    begin(folder, *names, own=True)
    for name in names:
        write_text(folder / name, "1")
    moved = folder.rename(tmp_path / "elsewhere")
    begin(moved, *names, own=True)
    assert FolderContents.of(moved).others == []


def test_what_a_list_above_names_stays_nsts_when_a_folder_gets_its_own(tmp_path: Path):
    """Runs that were begun when they had none."""
    begin(tmp_path / "runs", "report.html")
    folder = tmp_path / "runs" / "mine"
    for name in ("config.yaml", "comparisons.json"):
        write_text(folder / name, "1")
    begin(folder / "gen0", "result.json", own=True)
    os.symlink("gen0", folder / "best")
    note(folder / "best", kind=LINK, made=True)
    write_text(folder / "config.yaml", "1")
    (folder / "notes.txt").write_text("a person's")
    begin(folder, "config.yaml", "result.json", own=True)
    write_text(folder / "comparisons.json", "2")
    note(folder / "best", kind=LINK, made=True)
    assert FolderContents.of(folder).others == ["notes.txt"]
    outer = FolderContents.of(tmp_path / "runs")
    assert sorted(outer.ours) == sorted(set(outer.ours))
    assert outer.others == ["mine/notes.txt"]


def test_what_a_list_above_names_of_something_long_gone_is_a_persons(tmp_path: Path):
    begin(tmp_path / "runs", "report.html")
    folder = tmp_path / "runs" / "mine"
    write_text(folder / "config.yaml", "an export's")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "config.yaml").write_text("a person's")
    with pytest.raises(NstError, match=r"config\.yaml would be replaced"):
        begin(folder, "config.yaml", own=True)


def test_a_list_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begin(tmp_path / "runs", "report.html")
    folder = tmp_path / "runs" / "mine"
    write_text(folder / "config.yaml", "1")
    begin(folder / "gen0", "result.json", own=True)
    with monkeypatch.context() as full:
        full.setattr(os, "replace", no_space)
        with pytest.raises(OSError, match="no space"):
            begin(folder, "config.yaml", own=True)
    begin(folder, "config.yaml", own=True)
    assert b"config.yaml" in (folder / LIST).read_bytes()


def no_space(*_: object) -> None:
    raise OSError(28, "no space left")


def test_a_name_is_listed_before_its_file_appears(tmp_path: Path):
    """Killed at every rename, the list names what is there: overwriting is not refused for a kill."""

    def work() -> None:
        with Run(tmp_path / "run", "train", {"seed": 0}) as made:
            for name in ("a", "b/c"):
                write_text(tmp_path / "run" / name, "1")
            made.finish({})

    number = 1
    while killed_at(number, "replace", work):
        found = FolderContents.of(tmp_path / "run")
        assert found
        assert found.others == []
        shutil.rmtree(tmp_path / "run")
        number += 1
    assert number > 4


# ---- what is left over


def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path):
    target = tmp_path / "figure.svg"
    own = temporary(target)
    dead, elsewhere, old = (
        own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{ended_process()}-")),
        own.with_name(re.sub(r"\w+$", "0" * 8, own.name)),  # of another machine: may live
        own.with_name(re.sub(r"\w+$", "1" * 8, own.name)),
    )
    parent = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
    for path in (dead, elsewhere, old, parent):
        path.write_text("half")
    os.utime(old, (0, 0))
    write_text(target, "whole")
    assert set(tmp_path.iterdir()) == {target, elsewhere, parent}


def test_a_run_sweeps_all_its_folders(tmp_path: Path):
    with Run(tmp_path, "evaluate", {"seed": 0}):
        for name in ("parts/a.json", "figures/b.png", "c/d/e.txt"):
            write_text(tmp_path / name, "1")
    left = [temporary(tmp_path / name) for name in ("parts/a.json", "figures/b.png", "c/d/e.txt")]
    mine = tmp_path / "figures" / ".mine.tmp-1-2"
    for path in (*left, mine):
        path.write_text("half")
    with Run(tmp_path, "evaluate", {"seed": 0}):
        assert not [path for path in left if path.exists()]
    assert mine.exists()


# ---- the list


def test_a_damaged_list_costs_no_file(tmp_path: Path):
    """Lines that were lost or cut name nothing; then nst takes its own files for a user's, and says so."""
    directory = started(tmp_path / "run", seed=0)
    whole = (directory / LIST).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * 40, b'[1]\n"../own"\n"/etc/passwd"\n5\n', whole[::-1]):
        (directory / LIST).write_bytes(damaged)
        with kept(directory), pytest.raises(NstError, match="has not written"):
            Run(directory, "train", {"seed": 1}, overwrite=True).__enter__()


def test_a_name_with_any_characters_is_one_name(tmp_path: Path):
    begin(tmp_path)
    for name in ('a"b', "a\nb", "ä", "a\\b", " a ", "x.parquet"):
        with atomic_path(tmp_path / name) as half:
            half.write_text("1")
        with atomic_path(tmp_path / name) as half:
            half.write_text("2")
    found = FolderContents.of(tmp_path)
    assert found
    assert found.others == []
    lines = [json.loads(line) for line in (tmp_path / LIST).read_text().split("\n") if line]
    assert len(lines) == 6, "each once"
    (tmp_path / "a").write_text("mine")
    with pytest.raises(NstError, match="has not written"):
        note(tmp_path / "a")
