"""Every configuration on disk composes, and every experiment equals its golden resolved form."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nst.config import compose_config, group_choices, groups, plain
from nst.models.efficientnet import ARCHITECTURES

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "experiments"
EXPERIMENTS = group_choices("experiment")


def resolved(*overrides: str) -> dict[str, Any]:
    """The composed configuration with all interpolations resolved."""
    return plain(compose_config(overrides))


def test_the_experiments_were_found():
    assert {"digits_demo", "cifar10_4k", "table2_b7"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_equals_its_golden_form(name: str):
    """After a wanted change: python -m tests.test_experiments writes the golden forms anew; look at the diff."""
    golden = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    assert resolved(f"experiment={name}") == golden


def test_no_golden_form_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_says_how_it_is_run(name: str):
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    assert "# command: " in text
    config = resolved(f"experiment={name}")
    assert config["name"] == name
    assert "paper" in config
    assert config["trainer"]["accelerator"] == "cpu", "a recipe never names hardware"


CHOICES = [(group, choice) for group in groups() for choice in group_choices(group) if group != "experiment"]


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda value: str(value))
def test_every_choice_of_every_group_composes(group: str, choice: str):
    needs = ["data.source.root=x"] if (group, choice) in (("data", "folder"), ("data", "tar")) else []
    assert plain(compose_config([f"{group}={choice}", *needs]))


def test_model_files_agree_with_the_table_of_architectures():
    for name, architecture in ARCHITECTURES.items():
        model = plain(compose_config([f"model={name}"]).model)
        assert (model["width"], model["depth"]) == (architecture.width, architecture.depth)
        assert (model["train_size"], model["test_size"]) == (architecture.train_size, architecture.test_size)
        assert model["dropout"] == architecture.dropout


@pytest.mark.parametrize(
    ("student", "epochs", "decay_epochs", "ratio", "magnitude"),
    [("b0", 700, 4.8, 1, None), ("b4", 700, 4.8, 3, 15), ("b5", 350, 2.4, 3, 18), ("b7", 350, 2.4, 3, 27),
     ("l0", 350, 2.4, 3, 27), ("l2", 350, 2.4, 3, 27)],
)  # fmt: skip
def test_student_recipes_follow_the_paper(
    student: str, epochs: int, decay_epochs: float, ratio: int, magnitude: int | None
):
    """METHOD: students larger than B4 train 350 epochs, the others 700; magnitudes and ratios of [C]."""
    config = plain(compose_config([f"student=efficientnet_{student}"]))
    assert config["model"]["name"] == f"efficientnet_{student}"
    assert config["student"]["epochs"] == epochs
    assert config["student"]["schedule"]["decay_epochs"] == decay_epochs
    assert config["student"]["unlabeled_ratio"] == ratio
    randaugment = config["noise"]["randaugment"]
    assert (randaugment["magnitude"] if randaugment["num_ops"] else None) == magnitude
    assert (config["student"]["finetune"]["epochs"] > 0) == student.startswith("l")


def test_an_option_of_the_command_line_wins_over_an_experiment():
    config = plain(compose_config(["experiment=digits_demo", "student.steps=7", "model.width=0.9"]))
    assert config["student"]["steps"] == 7
    assert config["model"]["width"] == 0.9


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for experiment in EXPERIMENTS:
        text = yaml.safe_dump(resolved(f"experiment={experiment}"), sort_keys=True)
        (GOLDEN / f"{experiment}.yaml").write_text(text)
