"""The composing of the tests is Hydra's: the same configuration, or the same words."""

from __future__ import annotations

import pytest
from hydra import compose
from omegaconf import OmegaConf

from nst.config import group_choices, hydra_started
from nst.typed import verbatim
from tests.composing import composed

EXPERIMENTS = group_choices("experiment")
CASES = [
    [],
    *([f"experiment={name}"] for name in EXPERIMENTS[:: len(EXPERIMENTS) // 8]),
    ["scale=digits", "trainer=xla_cpu", "data=folder", "seed=3", "student.steps=null", "eval=robustness"],
    ["student=efficientnet_l2", "model.width=0.5", "noise=none", "logger=wandb", "logger.wandb.tags=[a, 'b c']"],
    [
        "eval=robustness",
        "iterate.generations=[[],['model.width=0.25']]",
        "data.root=${name}/x",
        "eval.attacks.pgd=null",
    ],
    ["logger=wandb", "+logger.wandb.more=1", "+seed.x=1"],
    ["hydra/launcher=basic", "seed=2"],
    ["seed=1", "seed=2", "experiment=digits_demo"],
]
WRONG = ["seed=[1", "student.epohcs=2", "noise=nonne", "model=a,b", "~seed.x", "+experiment=x", "data.root=${"]


def as_told(make: object, overrides: list[str]) -> object:
    with hydra_started():
        try:
            found = make("config", overrides=verbatim(overrides))  # type: ignore[operator]
        except Exception as error:
            return type(error), str(error), str(error.__cause__)
    flags = [found._get_flag(name) for name in ("struct", "readonly")]
    return OmegaConf.to_container(found, resolve=False), flags, list(found)


@pytest.mark.parametrize("overrides", [*CASES, *([item] for item in WRONG)], ids=str)
def test_the_tests_compose_as_hydra_does(overrides: list[str]):
    expected = as_told(compose, overrides)
    assert [as_told(composed, overrides) for _ in range(2)] == [expected] * 2
    assert isinstance(expected[0], type) == (overrides[0] in WRONG if overrides else False)  # type: ignore[index]


def test_what_is_composed_is_nobody_elses():
    with hydra_started():
        first = composed("config", ["seed=5"])
        first.seed = 6
        assert composed("config", ["seed=5"]).seed == 5
