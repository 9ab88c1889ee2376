"""Networks of timm's on one and on two XLA devices, with and without BatchNorm: the plain CPU trainer's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from nst.cli import dispatch
from tests.conftest import read_by
from tests.xla_runs import QUIET, Program, Ran, metrics

NAMES = ["test_resnet", "test_vit"]
TIMM = ["model=timm", "model.train_size=32", "model.test_size=32"]
SHORT = ["student.steps=6", "student.checkpoint_every=3", "student.gradient_clip=1"]
FINETUNE = ["student.finetune.epochs=1", "student.finetune.frozen_blocks=1"]

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]


class Timms(Program):
    """Trainings of networks that have no width and depth."""

    def __init__(self, folder: Path, digits: Path, teacher: Path) -> None:
        super().__init__(folder, digits, teacher)
        self.common = [option for option in self.common if not option.startswith("model.")]


def of(name: str) -> list[str]:
    return [*TIMM, f"model.name={name}", *SHORT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def teacher(folder: Path, digits: Path) -> Path:
    """A network without BatchNorm, its predictions and its selection, by the CPU."""
    program = Timms(folder / "teachers", digits, folder)
    run = program.folder / "teacher"
    common = [*program.common[:-1], *of("test_vit"), *QUIET, f"run_dir={run}"]
    dispatch(["train", *common])
    common.append(f"teacher.run={run}")
    dispatch(["label", *read_by("label", common), "label.precision=32-true"])
    dispatch(["select", *read_by("select", common), "select.min_confidence=0", "select.allow_empty_classes=true"])
    return run


def students(folder: Path, digits: Path, teacher: Path) -> Timms:
    """Students of both kinds: rematerialised, by an online teacher, and fine-tuned behind frozen blocks."""
    program = Timms(folder, digits, teacher)
    for name in NAMES:
        program.add(name, *of(name), *QUIET, "model.remat=true", "teacher=online", *FINETUNE)
    return program


@pytest.fixture(scope="module")
def cpu(folder: Path, digits: Path, teacher: Path) -> Path:
    program = students(folder / "cpu", digits, teacher)
    for entry in program.runs:
        dispatch([entry["stage"], *entry["options"]])
    return program.folder


@pytest.fixture(scope="module")
def two(folder: Path, digits: Path, teacher: Path) -> Ran:
    program = students(folder / "two", digits, teacher)
    program.add("noisy", *of("test_resnet"))
    program.add("killed", *of("test_resnet"), run_dir="resumed", die_at=4)
    program.add("resumed", *of("test_resnet"))
    predictions = f"teacher.predictions={program.folder / 'predictions'}"
    program.add("label", *of("test_vit"), predictions, stage="label")
    for name in NAMES:
        evaluated = [f"model.checkpoint={program.folder / name}", f"evaluate.output={program.folder / name / 'e'}"]
        program.add(f"evaluate {name}", *evaluated, stage="evaluate")
    return program.folder, program.start(2)


def assert_equal(one: Path, other: Path) -> None:
    """What was logged, and both averaged networks."""
    ours, theirs = metrics(one), metrics(other)
    for name in ("train/labeled_loss", "train/unlabeled_loss", "validation/loss"):
        assert len(ours[name]) > 1
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=2e-5, err_msg=name)
    for phase in ("trained", "finetuned"):
        a, b = (load_file(run / "checkpoints" / f"{phase}.safetensors") for run in (one, other))
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_equal_the_plain_cpu_trainer(cpu: Path, two: Ran, name: str):
    assert_equal(cpu / name, two[0] / name)


def test_one_device_equals_the_plain_cpu_trainer(cpu: Path, folder: Path, digits: Path, teacher: Path):
    program = students(folder / "one", digits, teacher)
    program.start(1)
    for name in NAMES:
        assert_equal(cpu / name, program.folder / name)


@pytest.mark.parametrize("name", [*NAMES, "noisy"])
def test_a_training_compiles_one_graph_and_none_falls_back(two: Ran, name: str):
    counted = json.loads((two[0] / name / "result.json").read_text())["trained"]["machine"]["guard"]["train"]
    assert (counted["compiles"], counted["executions"], counted["fallbacks"]) == (1, 6, {})


def test_a_killed_training_resumes_bit_for_bit(two: Ran):
    folder, results = two
    assert results["killed"]["stopped"] == "Died"
    ours, theirs = (load_file(folder / run / "checkpoints/trained.safetensors") for run in ("resumed", "noisy"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_labels_are_the_cpus(two: Ran, teacher: Path):
    for path in sorted((teacher / "predictions").glob("*.parquet")):
        ours, theirs = (pq.read_table(place / path.name) for place in (two[0] / "predictions", path.parent))
        assert ours["key"].to_pylist() == theirs["key"].to_pylist()
        np.testing.assert_allclose(ours["confidence"].to_numpy(), theirs["confidence"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_says_what_the_training_saw(two: Ran, name: str):
    run = two[0] / name
    result, trained = (json.loads((place / "result.json").read_text()) for place in (run / "e", run))
    assert result["samples"] == 100
    assert result["top1"] == trained["top1"]
