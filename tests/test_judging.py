"""`nst iterate` with a control and a validation set: what is compared, on which pictures, and what is kept as best."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nst.cli import dispatch
from nst.config import compose_config, job_from
from nst.data.shard_set import ShardSet
from nst.errors import NstError, UsageError
from nst.evaluation import mistakes
from nst.evaluation.comparing import Scores
from nst.models.checkpoints import load_network
from nst.settings.job import GenerationJob
from nst.stages.control import control_options
from nst.stages.generations import Places
from nst.stages.judging import VALIDATION, Judging, link_best
from nst.training.classifier import Classifier
from nst.training.phases import Length, Schedule, schedule_for
from nst.written import begin
from tests.conftest import TINY, read_by
from tests.tiny_networks import trained_tiny

SIZES = [["model.width=0.25"], ["model.width=0.3", "student.unlabeled_ratio=3", "student.steps=6"]]


def options(run: Path, digits: Path, *more: str) -> list[str]:
    return [*TINY, f"data.root={digits}", f"run_dir={run}", f"iterate.generations={SIZES}", "select.min_confidence=0",
            "select.allow_empty_classes=true", "iterate.report=false", "eval.batch_size=50", *more]  # fmt: skip


def document(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def validated(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a control, compared on the 50 labeled images: which pictures they are makes no difference here."""
    run = tmp_path_factory.mktemp("judging") / "run"
    dispatch(["iterate", *options(run, digits, "iterate.control=true", f"data.validation={digits / 'labeled'}")])
    return run


def test_networks_are_compared_on_the_validation_images_and_tested_at_the_end(validated: Path, digits: Path):
    names = ("gen0", "gen1", "control")
    for name in names:
        watched = document(validated / name / "started.json")["inputs"]["validation"]
        assert watched == ShardSet.open(digits / "labeled").digest, "also by the training"
        assert document(validated / name / "validation" / "result.json")["samples"] == 50
        assert document(validated / name / "evaluation" / "result.json")["samples"] == 100
    begun = {(name, part): (validated / name / part / "started.json").stat().st_mtime_ns
             for name in names for part in ("validation", "evaluation")}  # fmt: skip
    assert max(begun[name, "validation"] for name in names) < min(begun[name, "evaluation"] for name in names)


def test_the_control_sees_as_many_images_on_the_same_course_and_stands_in_the_result(validated: Path):
    student, control = (document(validated / name / "started.json")["inputs"] for name in ("gen1", "control"))
    assert control["architecture"] == student["architecture"]
    assert control["seed"] == student["seed"]
    assert control["noise"] == student["noise"]
    assert "teacher" in student
    assert "teacher" not in control
    assert student["recipe"]["steps"] == control["recipe"]["steps"] == 6
    assert student["recipe"]["labeled_batch_size"] * (1 + 3) == control["recipe"]["labeled_batch_size"] == 8 * 4
    result = document(validated / "result.json")
    assert result["control"]["generation"] == "control"
    assert result["control"]["steps"] == 6
    assert result["control"]["unlabeled"] == 0
    base = result["generations"][0]["top1"]
    assert [row["gain"] for row in (*result["generations"], result["control"])] == pytest.approx(
        [row["top1"] - base for row in (*result["generations"], result["control"])]
    )
    assert len(result["generations"]) == 2


@pytest.mark.parametrize("options", [["student.epochs=10"], ["student.steps=90"],
                                     ["student.epochs=10", "student.schedule.final_rate_per_256=0.001"]])  # fmt: skip
def test_the_control_has_the_students_rate_at_every_step(options: list[str]):
    options = [*options, "student.unlabeled_ratio=3"]
    changed = control_options([job_from(GenerationJob, compose_config(options))], 20480, Path("gen0"))
    names = [f"{name}={'null' if value is None else value}" for name, value in changed.items()]
    courses = []
    for cfg in (compose_config(options), compose_config([*options, *names])):
        student = job_from(GenerationJob, cfg).student
        length = Length.of(student, 20480)
        schedule = schedule_for(student, length)
        courses.append([schedule.learning_rate(step) for step in range(length.steps)])
    assert courses[1] == pytest.approx(courses[0])


CLIPPED = ["student.optimizer.name=adamw", "student.gradient_clip=1"]


@pytest.mark.parametrize("options", [[], ["student.optimizer.name=sgd"], CLIPPED, [*CLIPPED, "student.loss_scale=2"],
                                     ["student.loss_average=joint"]])  # fmt: skip
def test_a_control_of_the_same_images_and_labels_has_the_students_gradient(options: list[str]):
    """A student whose pseudo-labels are the true ones is its own control."""
    sides = [
        f"noise.{side}.{kind}=false" for side in ("labeled", "unlabeled") for kind in ("dropout", "stochastic_depth")
    ]
    options = [*options, *sides, "student.unlabeled_ratio=3"]
    changed = control_options([job_from(GenerationJob, compose_config(options))], 20480, Path("gen0"))
    names = [f"{name}={'null' if value is None else value}" for name, value in changed.items()]
    network, labels = trained_tiny().train(), torch.arange(16) % 10
    batch = {"images": torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)}
    gradients = []
    for cfg, given in (
        (compose_config(options), {"labels": labels[:4], "targets": labels[4:]}),
        (compose_config([*options, *names]), {"labels": labels}),
    ):
        job = job_from(GenerationJob, cfg)
        module = Classifier(network, job.student, job.noise, Schedule(0.1, 1.0))
        network.zero_grad()
        module.scalars({**batch, **given})[0].backward()
        gradients.append(torch.cat([parameter.grad.flatten().clone() for parameter in network.parameters()]))
    assert gradients[0].norm() > 0.1
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


def test_a_control_never_starts_from_what_pseudo_labels_have_taught():
    common = [
        "student.labeled_batch_size=8",
        "student.unlabeled_ratio=3",
        "student.steps=10",
        "model.pretrained=weights",
    ]
    line = [["student.unlabeled_ratio=0"], [], ["student.start=teacher", "student.steps=20"],
            ["student.start=teacher", "student.labeled_batch_size=4"]]  # fmt: skip
    jobs = [job_from(GenerationJob, compose_config([*common, *options])) for options in line]
    asked = [control_options(jobs[:count], 50, Path("runs/gen0")) for count in (2, 3, 4)]
    assert all("model.train_size" not in each for each in asked)
    assert [each["model.pretrained"] for each in asked] == ["weights"] * 3
    assert "student.steps" not in asked[0], "as the student's"
    assert asked[1]["student.steps"] == 10 + 20
    assert asked[2]["student.steps"] * 4 == (10 + 20) * 8 + 10 * 4, "as many images as the students of its line"
    first = [jobs[0], job_from(GenerationJob, compose_config([*common, "student.start=teacher"])), *jobs[2:]]
    begun = control_options(first, 50, Path("runs/gen0"))
    assert begun["model.pretrained"] == "runs/gen0", "which has seen labels alone"
    assert begun["model.train_size"] == jobs[-1].model.train_size, "the student's, not those of gen0"
    assert control_options(first, 50)["model.pretrained"] == "weights", "where gen0 is not there, or no start for it"
    assert begun["student.steps"] == asked[2]["student.steps"]


def test_a_run_goes_on_whose_control_will_start_at_a_teacher_that_is_not_there_yet(digits: Path, tmp_path: Path):
    """A network of timm's takes its sizes from the weights that it starts at."""
    common = ["experiment=photos", "model.name=test_efficientnet.r160_in1k", "model.pretrained=false",
              "model.train_size=32",
              "model.test_size=32", "student.steps=2", "student.labeled_batch_size=2", "select.min_confidence=0",
              "data.validation=null", f"data.root={digits}", f"run_dir={tmp_path / 'run'}", "iterate.report=false",
              "iterate.generations=[[],[student.start=teacher]]", "trainer.workers=0"]  # fmt: skip
    assert dispatch(["iterate", *common]) == 0
    (tmp_path / "run" / "gen0" / "DONE").unlink()
    assert dispatch(["iterate", *common]) == 0
    control = document(tmp_path / "run" / "control" / "started.json")["inputs"]
    assert control["architecture"]["train_size"] == 32


def test_no_control_starts_at_a_given_teacher_that_is_a_student(validated: Path, digits: Path, tmp_path: Path):
    line = [
        f"iterate.teacher={validated / 'gen1'}",
        "iterate.control=true",
        "iterate.generations=[null,[model.width=0.3,student.start=teacher,student.unlabeled_ratio=3,student.steps=6]]",
        "student.steps=1",  # shorter than its warm-up: of a generation 0 that is not trained
    ]
    assert dispatch(["iterate", *options(tmp_path / "run", digits, *line)]) == 0
    control = document(tmp_path / "run" / "control" / "started.json")["inputs"]
    assert "teacher" not in control
    assert control.get("pretrained") is None


def test_a_run_goes_on_from_the_best_network_of_a_finished_one(
    validated: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = [f"iterate.teacher={validated}", f"data.validation={digits / 'labeled'}"]
    with pytest.raises(NstError, match="generation 0 would be trained in it") as caught:
        dispatch(["iterate", *options(tmp_path / "run", digits, *given)])
    assert "model.pretrained=<that run>" in caught.value.next
    begin(tmp_path / "run")
    Places(tmp_path / "run", tmp_path / "other").link()  # as it is left by a start that failed
    assert dispatch(["iterate", *options(tmp_path / "run", digits, *given, "iterate.generations=[null,[]]")]) == 0
    assert (tmp_path / "run" / "gen0").resolve() == (validated / "best").resolve()
    assert "gen0 train" not in capsys.readouterr().out
    teacher = document(tmp_path / "run" / "gen1" / "started.json")["inputs"]["teacher"]
    best = document((validated / "best").resolve() / "result.json")
    assert best["weights_sha256"] in json.dumps(teacher)


def test_what_a_noised_teacher_cannot_do_is_told_before_it_is_trained(digits: Path, tmp_path: Path):
    wrong = options(tmp_path / "run", digits, "teacher.noised=true", "label.precision=bf16-true")
    with pytest.raises(UsageError, match="a noised teacher labels offline"):
        dispatch(["iterate", *wrong])
    assert not (tmp_path / "run" / "gen0").exists()


def test_comparisons_are_in_pairs_and_follow_from_the_files(validated: Path):
    (first, second) = document(validated / "comparisons.json")["comparisons"]
    assert (first["network"], first["against"], first["pictures"], first["images"]) == (
        "gen1",
        "gen0",
        "validation",
        50,
    )
    assert (second["network"], second["against"]) == ("gen1", "the control")
    assert first["paired"]
    assert second["paired"]
    tops = [document(validated / name / "validation" / "result.json")["top1"] for name in ("gen1", "gen0", "control")]
    assert first["points"] == pytest.approx(tops[0] - tops[1])
    assert second["points"] == pytest.approx(tops[0] - tops[2])
    for entry in (first, second):
        assert entry["low"] < entry["high"]
    found = mistakes.read(validated / "gen1" / "validation" / mistakes.FILE)
    assert found is not None
    assert len(found) == round(50 * (1 - tops[0] / 100))


def test_best_is_the_best_by_validation_and_is_taken_as_a_run(
    validated: Path, digits: Path, capsys: pytest.CaptureFixture[str]
):
    tops = [document(validated / f"gen{number}" / "validation" / "result.json")["top1"] for number in (0, 1)]
    number = tops.index(max(tops))
    assert os.readlink(validated / "best") == f"gen{number}"
    said = document(validated / "result.json")["best"]
    assert (said["generation"], said["validation_images"], said["validation_top1"]) == (number, 50, max(tops))
    dispatch(["evaluate", *read_by("evaluate", TINY), f"data.root={digits}", "eval.batch_size=50",
              f"model.checkpoint={validated / 'best'}", f"evaluate.output={validated.parent / 'again'}"])  # fmt: skip
    again, tested = (document(folder / "result.json")
                     for folder in (validated.parent / "again", validated / f"gen{number}" / "evaluation"))  # fmt: skip
    assert again["top1"] == tested["top1"]
    load_network(validated / "best" / "checkpoints" / "trained.safetensors")


def test_a_run_that_is_called_again_says_and_writes_the_same(
    validated: Path, digits: Path, capsys: pytest.CaptureFixture[str]
):
    before = [(validated / name).read_text() for name in ("result.json", "comparisons.json")]
    (validated / "result.json").unlink()
    (validated / "best").unlink()
    dispatch(["iterate", *options(validated, digits, "iterate.control=true", f"data.validation={digits / 'labeled'}")])
    assert [(validated / name).read_text() for name in ("result.json", "comparisons.json")] == before
    assert (validated / "best").is_symlink()
    out = " ".join(capsys.readouterr().out.split())
    assert "ctrl" in out
    assert "ctrl: the last student's network, trained on the labels alone" in out
    assert "on 50 validation images" in out
    assert f"stages take it as {validated / 'best'}" in out.replace("\n", " ")


def test_without_validation_images_nothing_is_chosen(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    dispatch(["iterate", *options(tmp_path / "run", digits)])
    out = " ".join(capsys.readouterr().out.split())
    assert "hardly better than chance" in out, "of 12 steps"
    assert "on 100 test images" in out
    assert "Which generation is best was not chosen" in out
    result = document(tmp_path / "run" / "result.json")
    assert not {"best", "control"} & result.keys()
    assert not (tmp_path / "run" / "best").exists()
    assert not (tmp_path / "run" / "control").exists()
    assert not (tmp_path / "run" / "gen0" / "validation").exists()
    assert [entry["pictures"] for entry in document(tmp_path / "run" / "comparisons.json")["comparisons"]] == ["test"]


def test_best_replaces_no_file_of_a_user(tmp_path: Path):
    link_best(tmp_path, 1)
    link_best(tmp_path, 2)
    assert os.readlink(tmp_path / "best") == "gen2"
    (tmp_path / "best").unlink()
    (tmp_path / "best").mkdir()
    with pytest.raises(NstError, match="is not a link that nst made"):
        link_best(tmp_path, 1)
    assert (tmp_path / "best").is_dir()


@pytest.mark.parametrize(
    ("tops", "words"),
    [((60.0, 61.0, 60.0), "gen1, 61.00 % of 100 validation images (cannot be told from gen0, gen2);"),
     ((20.0, 61.0, 60.0), "gen1, 61.00 % of 100 validation images (cannot be told from gen2);"),
     ((20.0, 30.0, 90.0), "gen2, 90.00 % of 100 validation images;"),
     ((60.0,), "gen0, 60.00 % of 100 validation images;")],
)  # fmt: skip
def test_the_best_is_told_with_those_that_it_cannot_be_told_from(
    tops: tuple[float, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    networks = [Scores(f"gen{number}", VALIDATION, 100, top1, 10.0, "a", 10.0) for number, top1 in enumerate(tops)]
    Judging(VALIDATION, networks).keep(tmp_path)
    assert f"best: {words} stages take it as" in " ".join(capsys.readouterr().out.split())
