"""Every choice of every group composes, and every recipe and network equals its row of the golden table.

A golden row holds what a configuration resolves to where that differs from its base, the nearest row above it or the
defaults: dotted names. `<name>` stands for the row's own.
"""

import fnmatch
import functools
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from nst import config as nst_config
from nst import groups as nst_groups
from nst.config import compose_config, hydra_started, job_from, plain
from nst.groups import conf_dir, group_choices, groups, summary_line
from nst.models.efficientnet import ARCHITECTURES
from nst.recipes import CHOICES, EXHIBITS
from nst.recipes import ROWS as PAPER_ROWS
from nst.settings.job import GenerationsJob
from nst.stages import generations

GOLDEN = Path(__file__).parent / "golden" / "configurations.yaml"
EXPERIMENTS = group_choices("experiment")
DEFAULTS = "defaults"  # the base of a row that is no other's variant
# what the table holds, by the override that chooses it
ROWS = [
    f"{group}={choice}" for group in ("model", "teacher", "student", "experiment") for choice in group_choices(group)
]


NEEDED = {"model=timm": ["model.name=resnet50"]}  # what a row does not say itself


@functools.cache
def resolved(*overrides: str) -> dict[str, Any]:
    """The composed configuration with all interpolations resolved; `???` where a person has to say something."""
    return plain(compose_config(overrides), whole=False)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name → value of all leaves; lists and empty mappings are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix[:-1]: node}
    return {name: value for key, part in node.items() for name, value in flat(part, f"{prefix}{key}.").items()}


@functools.cache
def leaves(row: str) -> dict[str, Any]:
    """All options of a row, or of the defaults, with `<name>` for its own."""
    own = row.partition("=")[2]  # nothing, of the defaults
    chosen = [] if row == DEFAULTS else [row, *NEEDED.get(row, [])]
    return {name: nameless(value, own) for name, value in flat(resolved(*chosen)).items()}


def nameless(value: Any, own: str) -> Any:
    if isinstance(value, list):
        return [nameless(item, own) for item in value]
    return value.replace(own, "<name>") if own and isinstance(value, str) else value


def difference(row: str, base: str) -> dict[str, Any]:
    """What a row changes of its base; a name that it does away with is None."""
    ours, others = leaves(row), leaves(base)
    changed = {name: value for name, value in ours.items() if name not in others or others[name] != value}
    gone = {name for name in others.keys() - ours.keys() if not any(key.startswith(f"{name}.") for key in ours)}
    gone = {name for name in gone if not any(name.startswith(f"{key}.") for key in changed)}  # their group has gone
    return changed | dict.fromkeys(gone)


@functools.cache
def golden() -> dict[str, dict[str, Any]]:
    """Row → its base, and what differs."""
    return yaml.safe_load(GOLDEN.read_text())


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
    where = EXHIBITS[f"{prefix[:-2]} {prefix[-2]}"]
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


def test_rows_that_share_a_teacher_ask_the_same_of_it():
    """Whoever comes second would be refused otherwise."""
    asked: dict[str, tuple[object, str]] = {}
    for name, row in PAPER_ROWS.items():
        teacher, first = row.options.get("iterate.teacher"), [*row.options.get("iterate.generations", [])][:1]
        if teacher is None or first == [None] or name.startswith("small_"):
            continue
        given = [f"experiment={name}", "stage=iterate"]
        cfg = compose_config(given)
        cfg.overrides = given
        learned = generations.configurations(job_from(GenerationsJob, cfg))[0]
        wanted = {group: plain(learned[group]) for group in ("model", "student", "noise", "data")}
        known, other = asked.setdefault(teacher, (wanted, name))
        assert wanted == known, f"{name} and {other}"
    assert {name.split("/")[1].split("-")[0] for name in asked} >= {"table8_teacher", "table6_teacher_130m"}


def test_what_the_later_version_asks_has_a_recipe_and_no_figures():
    assert len(recipes("later_")) == 16
    assert all(resolved(f"experiment={name}")["paper"] is None for name in recipes("later_"))


def test_full_size_rows_are_told_from_twins():
    for name in [*recipes("table"), *recipes("figure")]:
        assert resolved(f"experiment={name}")["scale"] is None, name
    assert group_choices("scale") == ["cifar10", "digits", "eurosat"]
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
        composed = generations.configurations(job_from(GenerationsJob, cfg))
        assert len(composed) == len(cfg.paper.columns)


def test_noise_is_removed_on_the_unlabeled_images_of_the_student_only():
    """Table 6."""
    for name in ("table6_no_noise_130m", "small_table6_no_noise_1m"):
        cfg = compose_config([f"experiment={name}"])
        cfg.overrides = [f"experiment={name}"]
        teacher, student = (
            plain(generation.noise) for generation in generations.configurations(job_from(GenerationsJob, cfg))
        )
        assert teacher["unlabeled"] == teacher["labeled"] == student["labeled"]
        assert student["unlabeled"] == {"augment": "none", "dropout": False, "stochastic_depth": False}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_equals_its_golden_form(row: str):
    """After a wanted change: python -m tests.test_experiments writes the table anew; look at the diff."""
    base = golden()[row]["base"]
    assert base == DEFAULTS or ROWS.index(base) < ROWS.index(row), "bases end at the defaults"
    assert difference(row, base) == golden()[row]["differs"]


def test_no_golden_row_is_left_over_and_the_table_is_short():
    assert list(golden()) == ROWS
    assert len(GOLDEN.read_text().splitlines()) <= 600


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_says_how_it_is_run(name: str):
    if name in PAPER_ROWS:
        command, cost = PAPER_ROWS[name].command, PAPER_ROWS[name].cost
        assert re.search(r"\w", cost)
        assert command.startswith("nst ")
        (pattern,) = re.findall(r"experiment=(?:glob\()?([\w*]+)", command.partition(", then")[0])
        assert fnmatch.fnmatch(name, pattern)
    else:
        assert "# command: " in (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    config = resolved(f"experiment={name}")
    assert config["name"] == name
    assert "paper" in config
    assert config["trainer"]["accelerator"] == "cpu", "a recipe never names hardware"


# ---- nothing without effect ------------------------------------------------------------------------------


def parts(name: str) -> tuple[list[str], dict[str, Any]]:
    """Of an experiment, row or file: the choices that it makes, as overrides, and its options by dotted names."""
    if name in PAPER_ROWS:
        node = PAPER_ROWS[name].node()
    else:
        node = yaml.safe_load((conf_dir() / "experiment" / f"{name}.yaml").read_text())
    chosen = []
    for entry in node.pop("defaults"):
        if isinstance(entry, dict):
            ((key, choice),) = entry.items()
            chosen.append(f"{key.removeprefix('override /')}={choice}")
        elif entry != "_self_":
            chosen.append(f"experiment={entry}")
    return chosen, {name: value for name, value in flat(node).items() if name != "name"}


SCALES = (None, *group_choices("scale"))


def at(scale: str | None, *chosen: str) -> list[str]:
    """Choices of an experiment where the command line has another scale, or none."""
    return (
        list(chosen)
        if scale is None
        else [*(item for item in chosen if not item.startswith("scale=")), f"scale={scale}"]
    )


def effect(*chosen: str) -> dict[str, Any]:
    """The options that choices lead to, but for the teacher's recipe: it has an effect where generation 0 uses it."""
    return {name: value for name, value in flat(resolved(*chosen)).items() if name != "teacher.student"}


def first_generation(name: str, *, taught: bool) -> dict[str, Any]:
    """Generation 0 of an experiment, with or without the recipe that its choice of a teacher names for it."""
    cfg = compose_config([f"experiment={name}"])
    assert cfg.iterate.generations, "an evaluation has no teacher"
    cfg.teacher.student = cfg.teacher.student if taught else None
    return resolved(f"experiment={name}", *generations.generation_options(job_from(GenerationsJob, cfg))[0])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_choice_of_an_experiment_is_without_effect(name: str):
    chosen, _ = parts(name)
    assert chosen
    for one in chosen:
        others = [item for item in chosen if item != one]
        if all(effect(*at(scale, *chosen)) == effect(*at(scale, *others)) for scale in SCALES):
            assert one.startswith("teacher="), one
            assert first_generation(name, taught=True) != first_generation(name, taught=False), one


def is_a_column(name: str, option: str) -> bool:
    """Whether the rows of its table differ in an option; the default may be among the values, as in figure 4."""
    mine = PAPER_ROWS.get(name)
    rows = [row for row in PAPER_ROWS.values() if mine and (row.places, row.choices) == (mine.places, mine.choices)]
    return len({str(row.options[option]) for row in rows if option in row.options}) > 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_option_of_an_experiment_repeats_what_is_so_without_it(name: str):
    chosen, options = parts(name)
    assert options
    repeated = {option for option in options if not is_a_column(name, option)}
    for scale in SCALES:
        if repeated:
            ours, others = (flat(resolved(*at(scale, *by))) for by in ([f"experiment={name}"], chosen))
            repeated = {option for option in repeated if ours[option] == others.get(option, "there is none")}
    assert not repeated


# ---- files and rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", sorted(CHOICES))
def test_hydra_knows_the_choices_that_we_list(group: str):
    """A sweep over `experiment=glob(table6_*)` asks it."""
    with hydra_started():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        known = hydra.config_loader.get_group_options(group, ObjectType.CONFIG)
    assert [name for name in known if not name.startswith("_")] == group_choices(group), "others are bases of files"
    assert set(CHOICES[group]) < set(known), "some are files"


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ that is in force."""
    shutil.copytree(conf_dir(), tmp_path / "conf")
    for module in (nst_config, nst_groups):
        monkeypatch.setattr(module, "conf_dir", lambda: tmp_path / "conf")
    return tmp_path / "conf"


def test_a_file_goes_before_a_row_of_its_name(own_conf: Path):
    (own_conf / "experiment" / "table7_b7.yaml").write_text("# @package _global_\n# mine\nseed: 7\n")
    (own_conf / "model" / "efficientnet_b3.yaml").write_text("# wide\ndefaults: [small]\nname: mine\nwidth: 3\n")
    cfg = compose_config(["experiment=table7_b7", "model=efficientnet_b3"])
    assert (cfg.seed, cfg.paper, cfg.model.name, cfg.model.width) == (7, None, "mine", 3)
    assert summary_line("experiment", "table7_b7") == "mine"
    assert group_choices("experiment") == EXPERIMENTS


def test_a_file_can_be_on_top_of_a_row(own_conf: Path):
    text = "# @package _global_\n# mine\ndefaults: [table6_no_aug_130m, _self_]\nname: mine\nlanes: 7\n"
    (own_conf / "experiment" / "mine.yaml").write_text(text)
    ours, row = flat(plain(compose_config(["experiment=mine"]))), flat(resolved("experiment=table6_no_aug_130m"))
    assert {name for name in row if ours[name] != row[name]} == {"name", "run_dir", "lanes"}
    assert "mine" in group_choices("experiment")


OTHERS = [(group, choice) for group in groups() if group not in CHOICES for choice in group_choices(group)]


@pytest.mark.parametrize(("group", "choice"), OTHERS, ids=lambda value: str(value))
def test_every_choice_of_every_group_composes(group: str, choice: str):
    """Those of the other groups are rows of the golden table."""
    needs = ["data.source.root=x"] if group == "data" and choice in ("csv", "folder", "tar") else []
    assert plain(compose_config([f"{group}={choice}", *needs]))


def test_model_choices_agree_with_the_table_of_architectures():
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


def write_golden() -> None:
    """The whole table; a row's base is the row above it, or the defaults, from which it differs in the fewest names."""
    lines = ["# row: its base, and what differs from it; see tests/test_experiments.py\n"]
    for number, row in enumerate(ROWS):
        base = min([DEFAULTS, *ROWS[:number]], key=lambda other: len(difference(row, other)))
        entry = yaml.safe_dump({"base": base, "differs": difference(row, base)}, default_flow_style=True, width=122)
        lines += [f"{row}:\n", textwrap.indent(entry, "  ")]
    GOLDEN.write_text("".join(lines))


if __name__ == "__main__":
    write_golden()
