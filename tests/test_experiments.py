"""Every configuration on disk composes, and every experiment equals its golden resolved form.

A golden form holds what the experiment resolves to where that differs from the default configuration: dotted names.
"""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nst.config import compose_config, group_choices, groups, plain
from nst.models.efficientnet import ARCHITECTURES
from nst.report.paper import places
from nst.stages import iterate

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "experiments"
EXPERIMENTS = group_choices("experiment")


@functools.cache
def resolved(*overrides: str) -> dict[str, Any]:
    """The composed configuration with all interpolations resolved."""
    return plain(compose_config(overrides))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name → value of all leaves; lists and empty mappings are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix[:-1]: node}
    return {name: value for key, part in node.items() for name, value in flat(part, f"{prefix}{key}.").items()}


def difference(experiment: str) -> dict[str, Any]:
    """What an experiment changes of the defaults; a name that it does away with is None."""
    ours, default = flat(resolved(f"experiment={experiment}")), flat(resolved())
    changed = {name: value for name, value in ours.items() if name not in default or default[name] != value}
    gone = {name for name in default.keys() - ours.keys() if not any(key.startswith(f"{name}.") for key in ours)}
    return changed | dict.fromkeys(gone)


def recipes(prefix: str) -> list[str]:
    return [name for name in EXPERIMENTS if name.startswith(prefix)]


def test_the_experiments_were_found():
    assert {"digits_demo", "cifar10_4k"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(
    ("prefix", "rows", "twins"),
    [("table2_", 3, 3), ("table3_", 2, 0), ("table4_", 4, 2), ("table5_", 4, 2), ("table6_", 8, 8), ("table7_", 4, 0),
     ("table8_", 6, 6), ("table9_", 8, 3), ("figure1_", 8, 3), ("figure3_", 2, 2), ("figure4_", 20, 8)],
)  # fmt: skip
def test_every_row_of_the_paper_has_a_recipe(prefix: str, rows: int, twins: int):
    """Also: every recipe names a row and columns of the paper, each place of the paper's own rows once."""
    assert (len(recipes(prefix)), len(recipes(f"small_{prefix}"))) == (rows, twins)
    where = places()[f"{prefix[:-2]} {prefix[-2]}"]
    cells: list[tuple[str, str]] = []
    for name in recipes(prefix):
        paper = resolved(f"experiment={name}")["paper"]
        assert where.name in paper["places"]
        cells += [(paper["row"], column) for column in paper["columns"] if column is not None]
        for twin in recipes(f"small_{prefix}"):
            assert where.name in resolved(f"experiment={twin}")["paper"]["places"]
    ours = {(row, column) for row, columns in where.rows.items() for column in columns} & set(cells)
    if where.name == "figure 4":
        assert {column for _, column in cells} == set(where.columns)
    else:
        assert ours == set(cells)
        of_others = {row for row in where.rows if row not in {row for row, _ in cells}}
        assert not of_others & {"EfficientNet-L2", "Noisy Student (L2)", "Noisy Student (B5)"}


def test_full_size_rows_are_told_from_twins():
    for name in [*recipes("table"), *recipes("figure")]:
        assert resolved(f"experiment={name}")["scale"] is None, name
    assert group_choices("scale") == ["cifar10", "digits"]
    for name in recipes("small_"):
        assert resolved(f"experiment={name}")["data"]["name"] == "digits", name
    for name in ("small_table2_noisy_student", "small_table4_noisy_student", "small_table6_no_aug_1m"):
        for scale in group_choices("scale"):
            config = resolved(f"experiment={name}", f"scale={scale}")
            assert config["scale"]["label"], name
            assert config["data"]["name"] == scale


def test_a_recipe_of_a_student_composes_all_its_generations():
    chain, self_taught = ["table2_noisy_student_l2"], ["figure1_b0", "table9_b0_from_l2", *recipes("table6_")]
    for name in (*chain, *self_taught, *recipes("small_")):
        cfg = compose_config([f"experiment={name}"])
        if cfg.iterate.generations is None:
            continue  # an evaluation
        cfg.overrides = [f"experiment={name}"]
        generations = iterate.configurations(cfg)
        assert len(generations) == len(cfg.paper.columns)


def test_noise_is_removed_on_the_unlabeled_images_of_the_student_only():
    """Table 6."""
    for name in ("table6_no_noise_130m", "small_table6_no_noise_1m"):
        cfg = compose_config([f"experiment={name}"])
        cfg.overrides = [f"experiment={name}"]
        teacher, student = (plain(generation.noise) for generation in iterate.configurations(cfg))
        assert teacher["unlabeled"] == teacher["labeled"] == student["labeled"]
        assert student["unlabeled"] == {"augment": "none", "dropout": False, "stochastic_depth": False}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_equals_its_golden_form(name: str):
    """After a wanted change: python -m tests.test_experiments writes the golden forms anew; look at the diff."""
    golden = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    assert difference(name) == golden


def test_no_golden_form_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_says_how_it_is_run(name: str):
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    assert "# command: " in text
    if name.startswith(("table", "figure", "small_")):
        assert re.search(r"# cost: \w", text)
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
        text = yaml.safe_dump(difference(experiment), sort_keys=True)
        (GOLDEN / f"{experiment}.yaml").write_text(text)
