"""How networks are looked at with: at sizes that they take, and in one view of a picture or in all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from conftest import TINY

from nst.config import compose_config, job_from
from nst.errors import UsageError
from nst.evaluation.copies import copy_facts
from nst.evaluation.suite import Subject
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.networks import build
from nst.models.timm_architecture import timm_architecture
from nst.robustness.options import RobustnessOptions
from nst.settings.data import Pictures
from nst.settings.job import EvaluateJob
from nst.stages import evaluate, iterate, train

if TYPE_CHECKING:
    from nst.robustness.image_sets import ImageSet

DIGITS = tuple(map(str, range(10)))
VIT = [*(item for item in TINY if not item.startswith("model.")), "model=timm", "model.name=test_vit",
       "model.train_size=32", "model.test_size=32", "iterate.generations=[[],[]]"]  # fmt: skip
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
