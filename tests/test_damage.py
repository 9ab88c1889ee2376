"""What a disk, a copy or a hand has changed since it was written: whoever reads it says so, and how to go on.

One finished iterate is damaged in one file after another. The outcome of every stage that reads the file is a sentence
that names it, never a traceback; and what the sentence advises ends with the bytes of the run that was never damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, read_by

from nst.atomic import _KNOWN, known_sha256, write_json
from nst.cli import _outcome
from nst.data.pseudo_labels import PseudoLabels
from nst.documents import SEAL, json_text, read_config, read_json, yaml_text
from nst.errors import NstError
from nst.finished import final_weights
from nst.models.released import HUB_FORMS, hub_document
from nst.runs import Run
from nst.training.callbacks import require_whole
from nst.training.loggers import MetricsTable
from nst.training.tracking import run_id

# ---- damage ----------------------------------------------------------------------------------------------


def flipped(path: Path, place: float = 0.5, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": flipped,
    "junk": lambda path: path.write_bytes(random.Random(3).randbytes(500)),
    "list": lambda path: path.write_text("[1, 2]"),
    "number": lambda path: path.write_text("NaN"),
    "without keys": lambda path: path.write_text("{}"),
    "wrong types": lambda path: path.write_text('{"stage": 1, "inputs": [], "architecture": "b0", "data": 3}'),
    "folder": folder,
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("read", [read_json, read_config])
def test_every_kind_of_damage_is_a_sentence(tmp_path: Path, kind: str, read: Callable[[Path], Any]):
    path = tmp_path / "file"
    path.write_text(json_text({"a": [1, 2.5, None]}) if read is read_json else yaml_text("a: [1, 2]\nb: c\n"))
    assert "a" in read(path)
    DAMAGE[kind](path)
    with pytest.raises(NstError, match=rf"{path} is damaged\n  got:(.|\n)*next:  (copy it again|mv {path})"):
        read(path)  # in no list of nst's, so nobody is told to delete it


@pytest.mark.parametrize("text", [json_text({"a": [1, 2.5, None], "b": {"c": "d"}}), "yaml"])
def test_whatever_bit_of_a_small_file_flips_it_is_seen_or_means_the_same(tmp_path: Path, text: str):
    path = tmp_path / "file"
    read, text = (read_config, yaml_text("a: [1, 2]\nb: c\n")) if text == "yaml" else (read_json, text)
    path.write_text(text)
    whole, seen = read(path), 0
    for place in range(len(text)):
        for bit in range(8):
            content = bytearray(text.encode())
            content[place] ^= 1 << bit
            path.write_bytes(content)
            try:
                assert read(path) == whole, (place, bit)
            except NstError:
                seen += 1
    assert seen > 7 * len(text)


def test_a_file_of_other_hands_needs_no_seal_but_one_that_it_has_must_fit(tmp_path: Path):
    path = tmp_path / "index.json"
    path.write_text('{"a": 1}')
    assert read_json(path, sealed=False) == {"a": 1}
    path.write_text(json_text({"a": 1}).replace("1", "2", 1))
    with pytest.raises(NstError, match="its sha256 is another"):
        read_json(path, sealed=False)


# ---- one finished run, damaged ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """An iterate of a teacher and a student, which is made whole again before every test."""

    directory: Path
    pristine: Path

    @property
    def run(self) -> Path:
        return self.directory / "runs"

    @property
    def data(self) -> list[str]:
        lenient = ["select.min_confidence=0.05", "select.allow_empty_classes=true", "select.images_per_class=20"]
        return [*TINY, *lenient, f"data.root={self.directory / 'data'}"]

    @property
    def command(self) -> list[str]:
        return ["iterate", *self.data, "iterate.generations=[[],[]]", f"run_dir={self.run}", "iterate.report=false"]

    def of(self, stage: str) -> list[str]:
        """A command that reads what the teacher left."""
        data, teacher = self.data, self.run / "gen0"
        own = {
            "iterate": self.command[len(data) + 1 :],
            "evaluate": [f"model.checkpoint={teacher}"],
            "evaluate the file": [f"model.checkpoint={teacher / 'checkpoints/trained.safetensors'}",
                                  f"run_dir={self.directory / 'evaluated'}"],
            "export": [f"model.checkpoint={teacher}"],
            "report": [f"run_dir={self.run}", "report.examples=2"],
            "label": [f"teacher.run={teacher}"],
            "select": [f"teacher.run={teacher}", f"teacher.selection={self.directory / 'selected'}"],
            "doctor": [f"teacher.run={teacher}", "doctor.compare_images=10"],
            "train": [f"teacher.run={teacher}", f"run_dir={self.directory / 'student'}"],
            "start": [f"model.checkpoint={teacher}", f"run_dir={self.directory / 'start'}"],
            "online": [f"teacher.run={teacher}", "teacher=online", f"run_dir={self.directory / 'online'}"],
        }  # fmt: skip
        verb = {"evaluate the file": "evaluate", "start": "train", "online": "train"}.get(stage, stage)
        read = read_by(verb, data)
        if stage == "start":  # without a teacher no labels are selected
            read = [option for option in read if not option.startswith("select.")]
        return [verb, *read, *own[stage]]

    def path(self, name: str) -> Path:
        return next(iter(sorted(self.directory.glob(name))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("damage")
    finished = Finished(root / "work", root / "pristine")
    assert _outcome(finished.command) == (0, "")
    shutil.copytree(finished.directory, finished.pristine, symlinks=True)
    return finished


@pytest.fixture
def whole(made: Finished) -> Finished:
    shutil.rmtree(made.directory)
    shutil.copytree(made.pristine, made.directory, symlinks=True)
    _KNOWN.clear()
    return made


def told(finished: Finished, stage: str, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the stage says of the damaged file; fails where it says nothing of it, and by a traceback."""
    code, words = _outcome(finished.of(stage))
    if stage == "doctor":
        words += capsys.readouterr().out.replace("\n  ", " ")
    assert code in (1, 2, 3), f"{stage} went on with {path}"
    assert str(path) in words or str(path) in words.replace(" ", "").replace("\n", ""), words
    return words


# file, and the stages that read it; `unmarked` is read where a run has not finished
READERS = {
    "data/DONE": ["iterate"],
    "data/started.json": ["iterate"],
    "data/result.json": ["iterate"],
    "data/unlabeled/index.json": ["iterate", "label", "train", "report", "doctor", "select"],
    "data/labeled/index.json": ["train", "doctor"],
    "data/test/index.json": ["evaluate"],
    "runs/gen0/DONE": ["iterate"],
    "runs/gen0/started.json": ["iterate", "report", "export"],
    "runs/gen0/result.json": ["iterate", "label", "evaluate", "export", "train", "report", "doctor"],
    "runs/gen0/config.yaml": ["report", "export"],
    "runs/gen0/checkpoints/trained.json": ["evaluate the file"],
    "runs/gen0/predictions/started.json": ["iterate", "label"],
    "runs/gen0/predictions/result.json": ["label"],
    "runs/gen0/predictions/predictions.json": ["select", "train"],
    "runs/gen0/selection/selection.json": ["train", "report"],
    "runs/gen0/selection/result.json": ["iterate"],
    "runs/gen0/evaluation/started.json": ["evaluate"],
    "runs/gen0/evaluation/result.json": ["iterate", "report"],
    "runs/gen1/result.json": ["report"],
    "runs/gen1/config.yaml": ["report"],
    "runs/result.json": ["report"],
    "runs/config.yaml": ["report"],
}
COLUMNS = ("index", "key", "label", "copies", "probs")
CASES = [(name, stage) for name, stages in READERS.items() for stage in stages]


@pytest.mark.parametrize(("number", "name", "stage"), [(number, *case) for number, case in enumerate(CASES)])
def test_a_damaged_small_file_is_named_by_every_stage_that_reads_it(
    whole: Finished, number: int, name: str, stage: str, capsys: pytest.CaptureFixture[str]
):
    path = whole.path(name)
    DAMAGE[list(DAMAGE)[number % len(DAMAGE)]](path)
    told(whole, stage, path, capsys)


def contents(finished: Finished) -> dict[str, str]:
    """Hash of every file that is promised to be the same; of started.json that of its inputs."""
    files = {path for path in finished.directory.rglob("*") if path.is_file()}
    # provenance and the length of a table of times depend on machine and moment
    part = {"started.json": "fingerprint", "trained.json": "weights_sha256"}
    return {
        str(path.relative_to(finished.directory)): read_json(path)[part[path.name]]
        if path.name in part
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in (".lock", ".pulse", "metrics.csv") and path.suffix != ".ckpt"
    }


def advised(words: str) -> str:
    """The command of the line that begins with `next:`, up to what comes after it."""
    line = next(line for line in words.splitlines() if line.startswith("  next:")).removeprefix("  next:").strip()
    return line.removeprefix("copy it again from where it is whole; or ").partition(", then")[0]


MENDED_BY_ITERATE = [
    ["data/unlabeled/index.json", "data/DONE", "runs/gen0/result.json", "runs/gen0/predictions/*.parquet",
     "runs/gen0/selection/*.parquet", "runs/gen0/evaluation/started.json"],
    ["data/started.json", "data/result.json", "runs/gen0/DONE", "runs/gen0/checkpoints/trained.safetensors",
     "runs/gen0/predictions/predictions.json", "runs/gen0/selection/selection.json",
     "runs/gen0/evaluation/result.json"],
    ["runs/gen0/started.json", "runs/gen0/predictions/result.json", "runs/gen0/selection/result.json",
     "runs/gen0/evaluation/DONE"],
]  # fmt: skip


@pytest.mark.parametrize("names", MENDED_BY_ITERATE)
def test_the_advice_of_each_sentence_ends_with_the_bytes_of_the_undamaged_run(whole: Finished, names: list[str]):
    before, damaged = contents(whole), {str(whole.path(name)) for name in names}
    for path in damaged:
        flipped(Path(path))
    shutil.rmtree(whole.run / "gen1")  # a new student reads what the teacher's labeling and selection left
    for _ in names:
        code, words = _outcome(whole.command)
        if not code:
            break
        assert damaged & set(words.split()), words
        subprocess.run(advised(words), shell=True, check=True)
    assert _outcome(whole.command) == (0, "")
    assert contents(whole) == before


def test_a_report_does_without_what_its_advice_removes(whole: Finished, capsys: pytest.CaptureFixture[str]):
    for name in ("runs/gen0/config.yaml", "runs/result.json"):
        flipped(whole.path(name))
        subprocess.run(advised(told(whole, "report", whole.path(name), capsys)), shell=True, check=True)
    assert _outcome(whole.of("report")) == (0, "")


def test_a_damaged_started_json_gives_way_to_overwrite(whole: Finished):
    DAMAGE["junk"](whole.run / "gen0" / "started.json")
    options = ["train", *TINY, f"data.root={whole.directory / 'data'}", "seed=4", "student.steps=4",
               f"run_dir={whole.run / 'gen0'}", "overwrite=true"]  # fmt: skip
    assert _outcome(options) == (0, "")
    assert read_json(whole.run / "gen0" / "result.json")["steps"] == 4


def test_a_finished_run_without_started_json_takes_no_other_options(whole: Finished):
    (whole.run / "gen0" / "started.json").unlink()
    code, words = _outcome([*whole.command, "student.steps=6"])
    assert code == 1
    assert "finished run with other inputs, whose started.json is missing" in words


# ---- files of a run that goes on -------------------------------------------------------------------------


STATE, NOTE = "checkpoints/trained_last.ckpt", "checkpoints/trained.json"


@pytest.mark.parametrize(("name", "kind"), [(NOTE, "list"), (STATE, "cut"), (STATE, "flipped")])
def test_a_training_that_goes_on_names_what_is_damaged_and_ends_the_same_after_its_advice(
    whole: Finished, name: str, kind: str, capsys: pytest.CaptureFixture[str]
):
    before, path = contents(whole), whole.run / "gen0" / name
    (whole.run / "gen0" / "DONE").unlink()
    if name.endswith("ckpt"):
        (whole.run / "gen0" / "checkpoints" / "trained.json").unlink()
    DAMAGE[kind](path)
    words = told(whole, "iterate", path, capsys)
    subprocess.run(advised(words), shell=True, check=True)
    assert _outcome(whole.command) == (0, "")
    assert contents(whole) == before


def test_labeling_that_goes_on_labels_a_shard_again_whose_note_is_damaged(
    whole: Finished, capsys: pytest.CaptureFixture[str]
):
    before, path = contents(whole), whole.path("runs/gen0/predictions/bad/*.json")
    (whole.run / "gen0" / "predictions" / "DONE").unlink()
    DAMAGE["number"](path)
    subprocess.run(advised(told(whole, "label", path, capsys)), shell=True, check=True)
    assert _outcome(whole.of("iterate")) == (0, "")
    assert contents(whole) == before


def test_every_bit_of_a_training_s_state_is_covered(tmp_path: Path):
    path = tmp_path / "x_last.ckpt"
    state = {"weights": torch.arange(64.0), "steps": 3, "name": "x" * 50}
    torch.save(state, path)
    require_whole(path)
    content, chance = path.read_bytes(), random.Random(0)
    for _ in range(400):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            require_whole(path)
        except NstError as error:
            assert str(path) in str(error)  # noqa: PT017
            continue
        found = torch.load(path, weights_only=True)
        assert torch.equal(found.pop("weights"), state["weights"])
        assert found == {"steps": 3, "name": "x" * 50}


def test_a_metrics_table_that_lost_rows_is_told_and_can_be_left_behind(tmp_path: Path):
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"a": 1.0}, 3)
    with pytest.raises(NstError, match=r"metrics\.csv is damaged(.|\n)*rm .*metrics\.csv"):
        table.cut_to(1000)
    table.path.unlink()
    table.cut_to(1000)


# ---- weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0, "cut", "empty"])
def test_damaged_weights_are_not_a_run_s(whole: Finished, place: float | str):
    path = whole.run / "gen0" / "checkpoints" / "trained.safetensors"
    assert final_weights(whole.run / "gen0") == final_weights(path) == path
    flipped(path, place, bit=3) if isinstance(place, float) else DAMAGE[place](path)
    for source in (whole.run / "gen0", path):
        with pytest.raises(NstError, match=f"{path} is damaged: it is not what its training has written"):
            final_weights(source)


def test_a_folder_that_is_no_run_is_told_so_with_the_runs_that_are_there(whole: Finished, tmp_path: Path):
    for name in ("pictures", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(b"")
    cases = {
        tmp_path / "pictures": r"is no run\n  got:   a folder with 1\.jpg",
        tmp_path / "empty": r"is no run\n  got:   an empty folder",
        whole.run.parent: rf"is no run[\s\S]*take a run that is there: [\s\S]*{whole.run}",  # as that of a sweep
        whole.run / "gen1" / "checkpoints": rf"is no run[\s\S]*take a run that is there: {whole.run}/gen1$",
    }
    for folder, says in cases.items():
        with pytest.raises(NstError, match=says) as caught:
            final_weights(folder)
        assert "start it again" not in str(caught.value)
    (whole.run / "result.json").unlink()
    (whole.run / "config.yaml").unlink()  # both are written at the end
    with pytest.raises(
        NstError, match=rf"nst iterate in .* has not finished[\s\S]*it continues; or .*{whole.run}/gen0"
    ):
        final_weights(whole.run)
    (whole.run / "gen1" / "DONE").unlink()
    with pytest.raises(NstError, match=r"the training in .*gen1 has not finished"):
        final_weights(whole.run / "gen1")


def test_a_directory_of_iterate_stands_for_its_best_generation_else_for_its_last(whole: Finished):
    assert final_weights(whole.run) == whole.run / "gen1" / "checkpoints" / "trained.safetensors"
    (whole.run / "best").symlink_to("gen0")
    assert final_weights(whole.run) == whole.run / "best" / "checkpoints" / "trained.safetensors"
    (whole.run / "result.json").unlink()
    with pytest.raises(NstError, match="has not finished"):
        final_weights(whole.run)


@pytest.mark.parametrize(
    "stage", ["iterate", "evaluate", "evaluate the file", "export", "train", "start", "online", "doctor"]
)
def test_damaged_weights_stop_every_stage_that_uses_them(
    whole: Finished, stage: str, capsys: pytest.CaptureFixture[str]
):
    path = whole.run / "gen0" / "checkpoints" / "trained.safetensors"
    flipped(path)
    told(whole, stage, path, capsys)
    assert not any((whole.directory / name / "DONE").exists() for name in ("student", "start", "online"))


def test_weights_are_hashed_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, read = tmp_path / "x.safetensors", []
    path.write_bytes(b"a" * 100)
    real = known_sha256.__globals__["sha256_file"]
    monkeypatch.setattr("nst.atomic.sha256_file", lambda path: (read.append(path), real(path))[1])
    first = known_sha256(path)
    assert known_sha256(path) == first
    assert len(read) == 1
    path.write_bytes(b"b" * 100)
    os.utime(path, ns=(1, 1))
    assert known_sha256(path) == hashlib.sha256(b"b" * 100).hexdigest()
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_bytes(b"c" * 100)
    os.utime(path, ns=(1, 1))  # as a copy that keeps its date
    assert known_sha256(path) == hashlib.sha256(b"c" * 100).hexdigest()


# ---- predictions and selections --------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [*range(24), "cut", "empty"])
@pytest.mark.parametrize("kind", ["predictions", "selection"])
def test_damaged_labels_are_named_or_say_the_same(whole: Finished, kind: str, damage: int | str):
    def read() -> list[Any]:
        labels = PseudoLabels(whole.run / "gen0" / "selection", whole.run / "gen0" / "predictions")
        return [getattr(labels.images(name), column).tolist() for name in labels.shards for column in COLUMNS]

    path, before = whole.path(f"runs/gen0/{kind}/*.parquet"), read()
    chance = random.Random(str(damage))
    flipped(path, chance.random(), chance.randrange(8)) if isinstance(damage, int) else DAMAGE[damage](path)
    try:
        assert read() == before
    except NstError as error:
        assert str(path) in str(error)  # noqa: PT017


# ---- small files of others -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind not in ("flipped", "without keys", "wrong types")])
def test_a_hub_folder_with_a_damaged_config_is_named(tmp_path: Path, kind: str):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architecture": "x", "pretrained_cfg": {"mean": [0.1, 0.1, 0.1]}}))
    hub_document(path)
    DAMAGE[kind](path)
    with pytest.raises(NstError, match=f"{path} is damaged"):
        hub_document(path)


@pytest.mark.parametrize("name", HUB_FORMS)
@pytest.mark.parametrize("value", [7e400, "a", [], [1, 2], ["a"] * 3, {}, True, [float("nan")] * 3])
def test_a_hub_config_of_another_form_is_named(tmp_path: Path, name: str, value: Any):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architecture": "x", "pretrained_cfg": {name: value}}))
    with pytest.raises(NstError, match=f"{path} is damaged\n  got:   {name} "):
        hub_document(path)


def test_a_damaged_wandb_id_begins_no_other_run(tmp_path: Path):
    drawn = run_id(tmp_path)
    assert run_id(tmp_path) == drawn
    path = tmp_path / "wandb_id"
    for bit in range(4):
        flipped(path, 0.3, bit)
        with pytest.raises(NstError, match=f"{path} is damaged"):
            run_id(tmp_path)
        flipped(path, 0.3, bit)
    assert run_id(tmp_path) == drawn


def test_a_waiting_rank_takes_a_damaged_start_for_none(tmp_path: Path):
    run = Run(tmp_path, "select", {"a": 1})
    with run:
        assert run._opened()
        DAMAGE["junk"](run.started_path)
        assert not run._opened()


def test_files_for_other_programs_have_no_seal(tmp_path: Path):
    write_json(tmp_path / "a.json", {"a": 1}, sealed=False)
    assert SEAL not in (tmp_path / "a.json").read_text()
