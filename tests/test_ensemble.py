"""Several teachers: they label, and teach within the step, with the mean of their probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import nst
from nst.atomic import known_sha256
from nst.config import job_from
from nst.data.inputs import open_inputs
from nst.data.predictions import Predictions
from nst.data.views import Turn, clean_view
from nst.documents import read_json
from nst.errors import NstError
from nst.models.checkpoints import NetworkInfo, load_network, save_network
from nst.models.efficientnet import Architecture, build, normalize
from nst.settings.data import Pictures
from nst.settings.job import EvaluateJob, LabelJob, TrainJob
from nst.stages import evaluate, label, resolving, select, train
from nst.training.ensemble import Ensemble, MeanNetwork, Question, ensemble_asked, turns_for
from nst.training.teachers import Teacher

SMALL = Architecture(0.25, 0.25, train_size=12, test_size=12, small_images=True, name="small")
DIGITS = tuple(map(str, range(10)))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks of the digits, of other sizes and with another order of classes."""
    folder, found = tmp_path_factory.mktemp("teachers"), []
    for seed, (size, classes) in enumerate(((12, DIGITS), (16, DIGITS[::-1]))):
        torch.manual_seed(seed)
        network = build(SMALL, 10)
        network(torch.randn(8, 3, 12, 12))
        network.classifier.weight.data.mul_(30)
        path = folder / f"{seed}.safetensors"
        save_network(path, network.eval().state_dict(), NetworkInfo(SMALL, classes, size, 12))
        found.append(path)
    return found


def test_a_network_of_networks_has_the_logarithm_of_the_mean_as_logits(teachers):
    ensemble = Ensemble.of(teachers)
    network = ensemble.network()
    images = torch.randn(5, 3, 16, 28)
    first, second = (load_network(path)[0] for path in teachers)
    with torch.no_grad():
        one, other = first(images[:, :, :12, :12]).softmax(1), second(images[:, :, :, 12:]).softmax(1).flip(1)
        torch.testing.assert_close(network(images).softmax(1), (one + other) / 2, atol=1e-5, rtol=1e-4)
    certain = MeanNetwork([Sure()], [Question()])(images)
    assert torch.isfinite(certain).all(), "a probability of 0 is no infinite loss"
    torch.testing.assert_close(certain.softmax(1)[0], torch.tensor([1.0, 0.0]))


class Sure(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1000.0, -1000.0]]).expand(len(images), 2)


def labeled(tiny: Callable[..., Any], run: str, folder: Path) -> dict[str, Any]:
    cfg = tiny(f"teacher.run={run}", f"teacher.predictions={folder}", "label.precision=32-true", "stage=label")
    return label.run(job_from(LabelJob, cfg), folder)


def test_several_teachers_label_with_their_mean_and_are_named_by_hash(teachers, tiny, tmp_path):
    alone = [labeled(tiny, str(path), tmp_path / path.stem) for path in teachers]
    both = labeled(tiny, f"[{teachers[0]},{teachers[1]}]", tmp_path / "both")
    assert both["teacher"] == f"{known_sha256(teachers[0])}+{known_sha256(teachers[1])}"
    assert [one["teacher"] for one in alone] == [known_sha256(path) for path in teachers]
    for name in Predictions.open(tmp_path / "both").shards:
        one, other, mean = (Predictions.open(tmp_path / place).read(name)["probs"] for place in ("0", "1", "both"))
        np.testing.assert_allclose(mean, (one.astype(float) + other[:, ::-1].astype(float)) / 2, atol=2e-3)
    file = next((tmp_path / "both").glob("*.parquet"))
    footer = json.loads(pq.read_metadata(file).metadata[b"nst"])
    assert footer["teacher"] == both["teacher"]
    assert tuple(footer["classes"]) == DIGITS


def test_a_teacher_that_looks_at_all_views_labels_with_their_mean(teachers, tiny, tmp_path):
    pictures = Pictures(small=True, turn=True)
    options = ("teacher.views=all", "data.pictures.flip=true", "data.pictures.turn=true")
    folder = tmp_path / "views"
    cfg = tiny(f"teacher.run={teachers[0]}", f"teacher.predictions={folder}", "label.precision=32-true", "stage=label",
               *options)  # fmt: skip
    label.run(job_from(LabelJob, cfg), folder)
    network, view = load_network(teachers[0])[0], clean_view(12, pictures)
    predictions, inputs = Predictions.open(folder), open_inputs(cfg.data.unlabeled)
    shard = inputs.shards[0]
    name = shard.name
    seen = np.stack([view(inputs.read(0, index)[1]) for index in range(shard.samples)])
    ways = [np.rot90(seen[:, :, ::-1] if mirrored else seen, quarters, (1, 2))
            for quarters in range(4) for mirrored in (False, True)]  # fmt: skip
    with torch.no_grad():
        each = [network(normalize(torch.from_numpy(way.copy()).permute(0, 3, 1, 2))).softmax(1) for way in ways]
    np.testing.assert_allclose(predictions.read(name)["probs"], torch.stack(each).mean(0).numpy(), atol=1e-4)
    assert (each[0] - torch.stack(each).mean(0)).abs().max() > 5e-4, "the views do not agree"
    again = tiny(f"teacher.run={teachers[0]}", f"teacher.predictions={folder}", "stage=label", *options[1:])
    with pytest.raises(NstError, match=r"teacher\.views: all before, one now"):
        label.run(job_from(LabelJob, again), folder)


def test_an_online_teacher_and_a_loaded_network_look_at_all_views_too(teachers, tiny, tmp_path):
    pictures = Pictures(small=True, turn=True)
    images = torch.randn(6, 3, 12, 12)
    network = load_network(teachers[0])[0]
    with torch.no_grad():
        ways = [(images.flip(3) if mirrored else images).rot90(quarters, (2, 3))
                for quarters in range(4) for mirrored in (False, True)]  # fmt: skip
        expected = torch.stack([network(way).softmax(1) for way in ways]).mean(0)
        asked = Teacher(weights=teachers[0], mode="online", views="all").asked(pictures).network()
        torch.testing.assert_close(asked(images).softmax(1), expected, atol=1e-5, rtol=1e-4)
        both = Teacher(weights=teachers[0], others=(teachers[1],), mode="online", views="all").asked(pictures)
        assert both.network()(torch.randn(2, 3, 16, 28)).shape == (2, 10)
    cfg = tiny("teacher=online", "teacher.views=all", f"teacher.run={teachers[0]}", "stage=train", "student.steps=4",
               "data.pictures.turn=true", run_dir=tmp_path / "student")  # fmt: skip
    assert train.from_cfg(cfg)["steps"] == 4
    assert resolving.teacher(job_from(TrainJob, cfg).teacher, "train").views == "all"
    started = read_json(tmp_path / "student" / "started.json")
    assert started["inputs"]["teacher"]["views"] == "all", "the option of the command is the one that acts"
    with pytest.raises(NstError, match="one, all"):
        nst.load(teachers[0], views="eight")
    common = turns_for("all", Pictures(turn=True), Pictures(), option="predict.views")
    assert common == (Turn(), Turn(mirrored=True)), "what holds for every network"
    with pytest.raises(NstError, match="one view only"):
        Teacher(weights=teachers[0], mode="online", views="all").asked(Pictures(flip=False))


def test_an_evaluation_of_all_views_sees_what_predict_does(teachers, tiny, tmp_path):
    results = {}
    for views in ("one", "all"):
        cfg = tiny(f"model.checkpoint={teachers[0]}", f"eval.views={views}", "data.pictures.flip=true",
                   "stage=evaluate", f"evaluate.output={tmp_path / views}")  # fmt: skip
        results[views] = evaluate.run(job_from(EvaluateJob, cfg), tmp_path / views)
    network, inputs = nst.load(teachers[0], views="all"), open_inputs(cfg.data.test)
    asked = [inputs.read(shard, index)[1:] for shard, part in enumerate(inputs.shards) for index in range(part.samples)]
    answers = network.predict([pixels for pixels, _ in asked])
    right = [DIGITS.index(answer.class_name) == label for answer, (_, label) in zip(answers, asked, strict=True)]
    assert results["all"]["top1"] == pytest.approx(100 * np.mean(right))
    assert results["all"]["loss"] != pytest.approx(results["one"]["loss"], abs=1e-4)


def test_several_teachers_need_folders_for_what_they_say_and_all_are_named_at_once(teachers, tiny, tmp_path):
    cfg = tiny(f"teacher.run=[{teachers[0]},{teachers[1]}]", "stage=label")
    with pytest.raises(NstError, match="several teachers have no common folder for their predictions"):
        label.from_cfg(cfg)
    run, given = cfg.teacher.run, f"teacher.predictions={tmp_path}"
    with pytest.raises(
        NstError, match=r"for their predictions and selection\n(.*\n)*.*teacher\.selection=runs/teachers/"
    ):
        select.from_cfg(tiny(f"teacher.run=[{','.join(run)}]", "stage=select"))
    with pytest.raises(NstError, match="for their selection\n") as caught:
        train.from_cfg(tiny(f"teacher.run=[{','.join(run)}]", given, "stage=train", run_dir=tmp_path / "student"))
    assert caught.value.next == "teacher.selection=runs/teachers/selection"


def test_a_student_learns_from_the_selection_of_several_teachers(teachers, tiny, tmp_path):
    run, folders = f"[{teachers[0]},{teachers[1]}]", {name: tmp_path / name for name in ("predictions", "selection")}
    labeled(tiny, run, folders["predictions"])
    options = [f"teacher.run={run}", *(f"teacher.{name}={path}" for name, path in folders.items())]
    select.from_cfg(tiny(*options, "select.min_confidence=0", "select.allow_empty_classes=true", "stage=select"))
    student = tiny(*options, "stage=train", "student.steps=4", run_dir=tmp_path / "student")
    assert train.from_cfg(student)["steps"] == 4
    inputs = read_json(tmp_path / "student" / "started.json")["inputs"]["teacher"]
    assert inputs["weights"] == "+".join(map(known_sha256, teachers))
    with pytest.raises(NstError, match=r"(by|of) another teacher"):
        other = [f"teacher.run={teachers[0]}", *options[1:]]
        train.from_cfg(tiny(*other, "stage=train", "student.steps=4", run_dir=tmp_path / "mixed"))


def test_several_teachers_teach_within_the_step(teachers, tiny, tmp_path):
    run = f"[{teachers[0]},{teachers[1]}]"
    cfg = tiny("teacher=online", f"teacher.run={run}", "stage=train", "student.steps=4", run_dir=tmp_path / "student")
    assert train.from_cfg(cfg)["steps"] == 4
    asked = Teacher(weights=teachers[0], others=(teachers[1],), mode="online").asked(Pictures(small=True))
    assert asked.view(np.zeros((8, 8, 3), np.uint8)).shape == (16, 28, 3)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks that were trained on pictures of other kinds: whole small ones, and photographs that are cropped."""
    folder, found = tmp_path_factory.mktemp("unlike"), []
    for seed, small in enumerate((True, False)):
        torch.manual_seed(seed)
        network = build(SMALL, 10)
        network(torch.randn(8, 3, 12, 12))
        network.classifier.weight.data.mul_(30)
        path, extra = folder / f"{seed}.safetensors", {"pictures": asdict(Pictures(small=small))}
        save_network(path, network.eval().state_dict(), NetworkInfo(SMALL, DIGITS, 12, 12, extra=extra))
        found.append(path)
    return found


def test_several_teachers_are_each_shown_pictures_as_they_were_trained_and_label_what_predict_says(
    unlike, tiny, tmp_path
):
    run = f"[{unlike[0]},{unlike[1]}]"
    labeled(tiny, run, tmp_path / "both")
    asked, predictions = ensemble_asked(unlike, "one"), Predictions.open(tmp_path / "both")
    inputs = open_inputs(tiny().data.unlabeled)
    shard = inputs.shards[0]
    seen = np.stack([asked.view(inputs.read(0, index)[1]) for index in range(shard.samples)])
    with torch.no_grad():
        said = asked.network()(normalize(torch.from_numpy(seen).permute(0, 3, 1, 2))).softmax(1).numpy()
    np.testing.assert_allclose(predictions.read(shard.name)["probs"], said, atol=1e-4)
    shown = read_json(tmp_path / "both" / "started.json")["inputs"]["pictures"]
    assert [each["small"] for each in shown] == [True, False]

    # who types the kind of pictures has it shown to all
    cfg = tiny(f"teacher.run={run}", f"teacher.predictions={tmp_path / 'typed'}", "label.precision=32-true",
               "stage=label")  # fmt: skip
    cfg.overrides = ["data.pictures.small=true"]
    label.run(job_from(LabelJob, cfg), tmp_path / "typed")
    typed = Predictions.open(tmp_path / "typed").read(shard.name)["probs"]
    assert np.abs(typed - said).max() > 1e-3
    assert read_json(tmp_path / "typed" / "started.json")["inputs"]["pictures"]["small"] is True


def test_a_student_with_unlike_teachers_within_its_step_says_so_and_older_ones_go_on(unlike, teachers, tiny, tmp_path):
    given = {"unlike": unlike, "alike": teachers}
    for name, networks in given.items():
        cfg = tiny("teacher=online", f"teacher.run=[{networks[0]},{networks[1]}]", "stage=train", "student.steps=4",
                   run_dir=tmp_path / name)  # fmt: skip
        train.from_cfg(cfg)
    found = {name: read_json(tmp_path / name / "started.json")["inputs"]["teacher"] for name in given}
    assert [each["small"] for each in found["unlike"]["pictures"]] == [True, False]
    assert "pictures" not in found["alike"]
    teacher = Teacher(weights=unlike[0], others=(unlike[1],), mode="online")
    assert teacher.asked(Pictures(small=True)).view == ensemble_asked(unlike, "one").view
