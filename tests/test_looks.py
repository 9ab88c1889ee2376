"""How networks are looked at with: at sizes that they take, and in one view of a picture or in all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from conftest import TINY

from nst.atomic import write_json
from nst.config import compose_config, job_from
from nst.documents import read_json, read_metrics
from nst.errors import NstError, UsageError
from nst.evaluation.copies import copy_facts
from nst.evaluation.suite import Subject
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.networks import build
from nst.models.timm_architecture import timm_architecture
from nst.robustness.options import RobustnessOptions
from nst.settings.data import Pictures
from nst.settings.job import EvaluateJob
from nst.stages import evaluate, iterate, train
from tests.reported import reported
from tests.test_report import make_run, page_of, words
from tests.test_robustness_report import corruption_block, give

if TYPE_CHECKING:
    from nst.robustness.image_sets import ImageSet

DIGITS = tuple(map(str, range(10)))
VIT = [*(item for item in TINY if not item.startswith("model.")), "model=timm", "model.name=test_vit",
       "model.train_size=32", "model.test_size=32", "iterate.generations=[[],[]]"]  # fmt: skip
# enough that a network has learned of ten digits for its answers to a picture and its mirror image to differ
LEARNT = ["student.steps=120", "student.checkpoint_every=120", "student.validate_every=120", "student.ema_decay=0.9"]
SUITES = ["eval=robustness", "eval.corruptions=[fog]", "eval.severities=[1]", "eval.perturbations=null",
          "eval.attacks=null"]  # fmt: skip
Compose = Callable[..., Any]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer that takes images of 32 px alone."""
    path, architecture = (
        tmp_path_factory.mktemp("vit") / "vit.safetensors",
        timm_architecture("test_vit", train_size=32),
    )
    save_network(path, build(architecture, 10).state_dict(), NetworkInfo(architecture, DIGITS, 32, 32))
    return path


def evaluated(tiny: Compose, network: Path, folder: Path, *options: str) -> dict[str, Any]:
    cfg = tiny(f"model.checkpoint={network}", "stage=evaluate", f"evaluate.output={folder}", *options)
    return evaluate.run(job_from(EvaluateJob, cfg), folder)


@pytest.mark.parametrize("size", [50, 64])
def test_an_evaluation_refuses_a_size_that_the_network_cannot_take(vit: Path, tiny: Compose, tmp_path: Path, size: int):
    with pytest.raises(UsageError, match=rf"is built for images of 32 px[\s\S]*{size} px"):
        evaluated(tiny, vit, tmp_path / "there", f"eval.image_size={size}")
    assert not (tmp_path / "there").exists()
    assert evaluated(tiny, vit, tmp_path / "own")["image_size"] == 32


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([*VIT, "eval.image_size=64"], "built for images of 32 px"),
        ([*VIT, "teacher.image_size=64"], "built for images of 32 px"),
        ([*TINY, "eval.views=all", "data.pictures.flip=false"], r"eval\.views=all"),
        ([*TINY, "iterate.generations=[[],['eval.views=all']]", "data.pictures.flip=false"], r"eval\.views=all"),
    ],
)
def test_iterate_tells_before_the_teacher_trains_how_it_cannot_look(
    digits: Path, tmp_path: Path, options: list[str], says: str
):
    given = [*options, f"data.root={digits}", f"run_dir={tmp_path / 'run'}"]
    cfg = compose_config(given)
    cfg.overrides = given
    with pytest.raises(UsageError, match=says):
        iterate.main(cfg)
    assert not (tmp_path / "run").exists()


def test_a_training_tells_before_its_first_step_at_which_size_it_cannot_be_watched(digits: Path, tmp_path: Path):
    watched = ["eval=robustness", "eval.every=4", "eval.corruptions=[fog]", "eval.image_size=64"]
    with pytest.raises(UsageError, match="built for images of 32 px"):
        train.from_cfg(compose_config([*VIT, *watched, f"data.root={digits}", f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_stored_pictures_of_another_size_than_the_network_takes_are_refused_with_the_option_that_resizes():
    stored, options = SimpleNamespace(picture_size=lambda: (32, 32)), RobustnessOptions()
    subject = Subject(DIGITS, 56, Pictures(), 8, options, only_size=56)
    with pytest.raises(UsageError, match=r"built for images of 56 px[\s\S]*32 px[\s\S]*eval\.resize_to=56"):
        copy_facts("cifar_c", subject, cast("ImageSet", stored), {}, {"": (1, "")})


def suite_numbers(found: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name.startswith("robustness/")}


@pytest.fixture(scope="module")
def watched(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that is watched with all views of a picture."""
    run = tmp_path_factory.mktemp("watched") / "run"
    options = [*LEARNT, *SUITES, "eval.every=120", "eval.views=all", "data.pictures.flip=true"]
    train.from_cfg(compose_config([*TINY, *options, f"data.root={digits}", f"run_dir={run}"]))
    return run


def test_a_watched_training_ends_where_its_evaluation_stands_with_all_views_too(
    watched: Path, tiny: Compose, tmp_path: Path
):
    last = {name: value for step, name, value in read_metrics(watched / "metrics.csv") if step == 120}
    found = {}
    for views in ("one", "all"):
        options = (*SUITES, f"eval.views={views}", "data.pictures.flip=true")
        found[views] = evaluated(tiny, watched, tmp_path / views, *options)
    assert suite_numbers(last) == suite_numbers(found["all"]) != suite_numbers(found["one"])
    conditions = {views: found[views]["robustness"]["c_onthefly"]["conditions"] for views in found}
    assert (conditions["one"]["views"], conditions["all"]["views"]) == (1, 2)
    options = (*SUITES, "data.pictures.flip=true", f"eval.baseline={tmp_path / 'all'}")
    with pytest.raises(NstError, match=r"measured under other conditions[\s\S]*views: 2 there, 1 here"):
        evaluated(tiny, watched, tmp_path / "divided", *options)
    divided = evaluated(tiny, watched, tmp_path / "alike", *options, "eval.views=all")
    assert divided["robustness"]["c_onthefly"]["conditions"]["views"] == 2

    # older results leave the views to the evaluation around them, and go on with it
    path = tmp_path / "all" / "result.json"
    older = read_json(path)
    del older["robustness"]["c_onthefly"]["conditions"]["views"]
    write_json(path, older)
    with pytest.raises(NstError, match="views: 2 there, 1 here"):
        evaluated(tiny, watched, tmp_path / "again", *options)
    suite = tmp_path / "all" / "robustness" / "c_onthefly"
    assert "views" not in read_json(suite / "started.json")["inputs"], "an older suite is the same run"
    again = evaluated(tiny, watched, tmp_path / "all", *SUITES, "eval.views=all", "data.pictures.flip=true")
    assert again["robustness"] == found["all"]["robustness"]


@pytest.mark.usefixtures("undrawn")
def test_networks_of_other_views_have_no_gain_and_no_interval_and_the_report_says_so(tmp_path: Path):
    directory = make_run(tmp_path, accuracies=(0.6, 0.9))
    block = corruption_block(30.0)
    for number in (0, 1):
        give(directory / f"gen{number}", {"c_onthefly": block})
    text = [words(page_of(directory))] if reported(directory) else []
    started = directory / "gen1" / "evaluation" / "started.json"
    inputs = {**read_json(started)["inputs"], "views": "all", "pictures": {"flip": True}}
    write_json(started, {**read_json(started), "inputs": inputs})
    first, last = reported(directory)["rows"][0]
    text.append(words(page_of(directory)))
    assert (first["gain"], last["gain"], last["gain_low"], last["gain_high"]) == (0.0, None, None, None)
    note = "Pictures were not looked at alike: teacher in 1 view, student 1 in 2 views."
    apart = "student 1 was measured on c_onthefly under other conditions: views."
    assert [(note in said, apart in said, "points of top-1: from" in said) for said in text] == [
        (False, False, True), (True, True, False)
    ]  # fmt: skip


def test_iterate_compares_no_networks_of_other_views(digits: Path, tmp_path: Path):
    options = [*TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", "data.pictures.flip=true",
               "student.steps=4", "iterate.report=false", "select.allow_empty_classes=true", "select.min_confidence=0",
               "iterate.generations=[[],['eval.views=all']]"]  # fmt: skip
    cfg = compose_config(options)
    cfg.overrides = options
    iterate.main(cfg)
    result = read_json(tmp_path / "run" / "result.json")
    assert [row["gain"] for row in result["generations"]] == [0.0, None]
    assert read_json(tmp_path / "run" / "comparisons.json")["comparisons"] == []
