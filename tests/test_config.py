"""Configuration to typed arguments: what is refused, and that every option a message or comment names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from nst.config import compose_config, group_choices, groups, job_from, option_names, plain
from nst.data.shard_set import ShardSet
from nst.data.views import clean_view, training_view
from nst.errors import NstError, UsageError
from nst.models.architectures import ARCHITECTURES, block_counts
from nst.settings.data import DataOptions, Pictures, RemoteOptions
from nst.settings.job import IterateJob, TrainJob, evaluation_of
from nst.settings.learning import ELSEWHERE, Recipe
from nst.settings.network import Noise, RandAugmentOptions
from nst.stages import resolving
from nst.stages.generations import configurations
from nst.stages.resolving import measured
from nst.training.phases import Length
from tests.composing import made

ROOT = Path(__file__).parent.parent


def test_plain_leaves_alone_what_is_no_configuration():
    assert plain(None) is None
    assert plain(3) == 3
    assert plain({"a": [1]}) == {"a": [1]}
    assert plain(OmegaConf.create({"a": 1, "b": "${a}"})) == {"a": 1, "b": 1}


# ---- kinds and ranges


def recipe(*overrides: str) -> Recipe:
    return made(Recipe, compose_config(overrides).student)


@pytest.mark.parametrize("student", group_choices("student"))
def test_every_recipe_on_disk_is_in_range(student: str):
    assert Length.of(recipe(f"student={student}"), 50_000).steps >= 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("student.labeled_batch_size=abc", r"student\.labeled_batch_size cannot be 'abc'[\s\S]*a whole number, 1 to"),
        ("student.labeled_batch_size=2.5", r"cannot be 2\.5\n  got:   student\.labeled_batch_size=2\.5\n"),
        ("student.labeled_batch_size=true", r"cannot be true"),
        ("student.labeled_batch_size=null", r"cannot be null"),
        ("student.steps=many", r"a whole number, 1 to [\d,]+, or null"),
        ("student.epochs=abc", r"valid: a number, above 0"),
        ("student.loss_average=3", r"valid: sum \| joint"),
        ("student.loss_average=mean", r"student\.loss_average cannot be 'mean'"),
        ("student.labeled_batch_size=0", r"student\.labeled_batch_size cannot be 0"),
        ("student.steps=0", r"student\.steps cannot be 0"),
        ("student.epochs=0", r"student\.epochs cannot be 0"),
        ("student.log_every=0", r"student\.log_every cannot be 0"),
        ("student.checkpoint_every=0", r"student\.checkpoint_every cannot be 0"),
        ("student.validate_every=0", r"student\.validate_every cannot be 0"),
        ("student.unlabeled_ratio=-1", r"student\.unlabeled_ratio cannot be -1"),
        ("student.label_smoothing=1", r"student\.label_smoothing cannot be 1\n[\s\S]*0 to below 1"),
        ("student.ema_decay=1", r"student\.ema_decay cannot be 1\n"),
        ("student.batchnorm_momentum=0", r"student\.batchnorm_momentum cannot be 0"),
        ("student.gradient_clip=0", r"student\.gradient_clip cannot be 0[\s\S]*above 0 to 1,000,000,000, or null"),
        ("student.optimizer.rate_per_256=abc", r"student\.optimizer\.rate_per_256 cannot be 'abc'"),
        ("student.optimizer.rate_per_256=0", r"student\.optimizer\.rate_per_256 cannot be 0"),
        ("student.schedule.warmup_epochs=abc", r"student\.schedule\.warmup_epochs cannot be 'abc'"),
    ],
)
def test_values_of_the_wrong_kind_or_range_are_told_with_their_option(override: str, words: str):
    with pytest.raises(UsageError, match=words):
        recipe(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("select.min_confidence=0,8", r"cannot be '0,8'\n  valid: .*; with a point: select\.min_confidence=0\.8"),
        (
            "student.steps=10,20",
            r"student\.steps cannot be '10,20'[\s\S]*--multirun student\.steps=10,20 runs once with",
        ),
    ],
)
def test_a_comma_in_a_number_is_told_from_a_sweep(override: str, words: str):
    with pytest.raises(UsageError, match=words):
        compose_config([override])


def test_a_whole_number_serves_where_a_number_is_asked_for_and_lists_where_sequences_are():
    assert made(RandAugmentOptions, {"magnitude": 9}).magnitude == 9
    assert recipe("student.epochs=2", "student.gradient_clip=1").epochs == 2
    with pytest.raises(NstError, match=r"unknown option 'data\.pictures\.smal', did you mean 'data\.pictures\.small'"):
        compose_config(["data.pictures.smal=true"])


def test_an_option_that_the_chosen_network_does_not_have_is_told_with_the_choice_and_with_where_it_stands():
    with pytest.raises(UsageError, match=r"model=timm has no option 'model\.width'\n  got:   model\.width=0\.5\n"):
        compose_config(["model=timm", "model.name=resnet18", "model.width=0.5"])
    with pytest.raises(UsageError, match=r"model=timm has no option 'model\.depth'"):
        compose_config(["experiment=photos", "model.depth=1"])
    demo = ["model=timm", "model.name=test_resnet", "experiment=digits_demo"]
    job = job_from(IterateJob, composed([*demo, "stage=iterate"]))
    with pytest.raises(UsageError, match=r"model=timm has no option 'model\.width'") as caught:
        configurations(job)
    assert caught.value.got == "model.width=0.35, of the iterate.generations of experiment=digits_demo"
    cure = caught.value.next.partition(": ")[2]
    assert len(configurations(job_from(IterateJob, composed([*demo, "stage=iterate", cure])))) == 2
    wrong = "iterate.generations=[[],[model.width=2]]"
    with pytest.raises(UsageError, match=r"has no option 'model\.width'\n  got:   model\.width=2, of iterate"):
        configurations(job_from(IterateJob, composed(["model=timm", "model.name=test_resnet", wrong, "stage=iterate"])))


def composed(overrides: list[str]) -> DictConfig:
    """The configuration as a stage gets it, which knows what was typed."""
    cfg = compose_config(overrides)
    cfg.overrides = overrides
    return cfg


# ---- validations and checkpoints


@pytest.mark.parametrize(
    ("validate_every", "checkpoint_every", "segment", "per_validation"),
    [
        (8, 4, 4, 2),
        (100, 50, 50, 2),
        (100, 60, 50, 2),  # two equal segments, not 60 + 40
        (97, 10, 10, 10),  # a prime: every 100 steps, not a checkpoint at every single one
        (7, 3, 3, 3),
        (5, 1000, 5, 1),
        (None, 50, 50, None),
        (None, 5000, 1000, None),
        (1000, 50, 50, None),  # as long as the training: the end is validated anyway
        (4000, 300, 300, None),
    ],
)
def test_validation_is_as_close_to_schedule_as_checkpoints_allow(
    validate_every: int | None, checkpoint_every: int, segment: int, per_validation: int | None
):
    plan = Recipe(steps=1000, validate_every=validate_every, checkpoint_every=checkpoint_every)
    length = Length.of(plan, 50_000)
    assert (length.segment, length.segments_per_validation) == (segment, per_validation)


def test_validations_are_never_early_and_late_by_less_than_a_step_per_segment():
    for every in range(1, 60):
        for most in range(1, 20):
            length = Length.of(Recipe(steps=1000, validate_every=every, checkpoint_every=most), 50_000)
            segment, count = length.segment, length.segments_per_validation
            assert segment <= most
            assert count is not None
            assert every <= segment * count < every + count


# ---- recipes on disk


@pytest.mark.parametrize(("name", "stages"), [("l0", 4), ("l1", 4), ("l2", 4)])
def test_fixres_freezes_the_shallow_half_of_the_large_networks(name: str, stages: int):
    finetune = plain(compose_config([f"student=efficientnet_{name}"]).student.finetune)
    counts = block_counts(ARCHITECTURES[f"efficientnet_{name}"])
    assert finetune["frozen_blocks"] == sum(counts[:stages])
    assert 0.4 < finetune["frozen_blocks"] / sum(counts) < 0.6


@pytest.mark.parametrize("teacher", group_choices("teacher"))
def test_no_teacher_file_pins_a_picture_size_that_all_generations_would_inherit(teacher: str):
    assert compose_config([f"teacher={teacher}"]).teacher.image_size is None


def test_released_codes_crops_and_resizing_are_options():
    cfg = compose_config(["data=imagenet", "noise.crop_sampler=official", "noise.crop_resize=official",
                          "data.pictures.resize=official"])  # fmt: skip
    pictures = made(Pictures, cfg.data.pictures)
    view = training_view("randaugment", 64, pictures, made(Noise, cfg.noise))
    assert (view.sampler, view.resize) == ("official", "official")
    assert clean_view(64, pictures).resize == "official"
    default = made(Noise, compose_config([]).noise)
    assert (default.crop_sampler, default.crop_resize) == ("torchvision", "fast")
    with pytest.raises(NstError, match=r"noise\.crop_sampler cannot be 'mine'[\s\S]*valid: torchvision \| official"):
        Noise(dropout=0, crop_sampler="mine")
    small = Pictures(small=True, resize="official")
    assert clean_view(32, small).resize == "antialias", "small pictures are resized alike for learning and evaluation"


# ---- a test set or none


def opened(cfg: Any) -> ShardSet:
    return resolving.test_set(made(DataOptions, cfg.data), made(RemoteOptions, cfg.remote), cfg.stage)


def test_training_does_without_a_test_set_and_evaluation_says_what_it_needs(digits: Path):
    cfg = compose_config(["stage=evaluate", f"data.root={digits}"])
    assert opened(cfg).samples == 100
    for none in ("data.test=null", f"data.root={digits / 'nowhere'}"):
        cfg = compose_config(["stage=evaluate", f"data.root={digits}", none, "data.test_samples=0"])
        cfg.data.labeled = str(digits / "labeled")
        assert resolving.open_data(job_from(TrainJob, cfg), unlabeled=False).validation is None
        with pytest.raises(NstError, match=r"nst evaluate needs a test set[\s\S]*next:  nst evaluate data\.test="):
            opened(cfg)


# ---- what messages name


HINT = re.compile(
    r"(?<![\w.])((?:shard|data|student|teacher|noise|select|trainer|label|eval|evaluate|report|iterate|train|model"
    r"|logger)\.[a-z0-9_.]+)="
)


def texts() -> Iterator[tuple[str, str]]:
    """Every string literal of nst/ and every comment of conf/, with the file it is in."""
    for path in (ROOT / "nst").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value
    for path in (ROOT / "conf").rglob("*.yaml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield path.name, line.partition("#")[2]


def known_options() -> set[str]:
    """Options of the default configuration, and those that only some choices of a group have."""
    more = {"eval.attacks.pgd_40"}  # the example of an attack that a user adds
    choices = (("data", "folder"), ("data", "cifar10"), ("data", "imagenet"), ("data", "csv"), ("logger", "wandb"),
               ("eval", "robustness"), ("trainer", "xla_cpu"), ("student", "finetune"))  # fmt: skip
    for group, choice in choices:
        node: Any = OmegaConf.to_container(compose_config([f"{group}={choice}"]), resolve=False)
        for name, value in node[group].items():
            more.add(f"{group}.{name}")
            more |= {f"{group}.{name}.{inner}" for inner in value} if isinstance(value, dict) else set()
    return {*option_names(), *more}


def test_every_option_that_a_message_or_comment_names_exists():
    known = known_options()
    found = [(file, name) for file, text in texts() for name in HINT.findall(text)]
    assert len(found) > 25
    assert not [(file, name) for file, name in found if name not in known]


def test_every_stage_that_a_message_names_exists():
    from nst.stage_table import STAGES

    assert len(groups()) > 8
    named = [
        (file, stage)
        for file, text in texts()
        for stage in re.findall(r"(?:next:|^|`|, |: |with )nst ([a-z]+)(?= [a-z]+\.|`|$|,| overwrite)", text)
    ]
    assert len(named) > 15
    assert not [(file, stage) for file, stage in named if stage not in STAGES and stage not in ("again", "alone")]


def test_an_entry_that_a_mapping_lacks_is_told_with_how_to_add_it():
    with pytest.raises(NstError, match=r"eval\.attacks has no entry 'pgd_3'(.|\n)*\+eval\.attacks\.pgd_3=.* adds"):
        compose_config(["eval=robustness", "eval.attacks={pgd_3: {epsilons: [1], steps: 3}}"])
    cfg = compose_config(["eval=robustness", "+eval.attacks.pgd_3={epsilons: [1], steps: 3}", "eval.attacks.pgd=null"])
    _, robustness = measured(evaluation_of(plain(cfg.eval)))
    assert list(robustness.attack_methods()) == ["fgsm", "pgd_3"]


@pytest.mark.parametrize(
    ("overrides", "having", "next"),
    [
        (["eval.imagenet_c=x"], "eval=robustness, eval=robustness_quick have it", "eval=robustness"),
        (["eval.attacks=null"], "eval=robustness, eval=robustness_quick have it", "eval=robustness_quick"),
        (["eval.attacks.fgsm=null"], "eval=robustness has it", "eval=robustness"),
        (["eval=robustness_quick", "eval.attacks.fgsm=null"], "eval=robustness has it", "eval=robustness"),
        (["logger.wandb.project=x"], "logger=wandb has it", "logger=wandb"),
        (["trainer.device=cpu"], "trainer=tpu, trainer=tpu_pod, trainer=xla_cpu have it", "trainer=xla_cpu"),
    ],
)
def test_an_option_of_other_choices_is_told_with_those_that_have_it(overrides: list[str], having: str, next: str):
    with pytest.raises(UsageError, match=r"has no option '.*'") as caught:
        compose_config(overrides)
    assert caught.value.valid == having
    assert "choose one that has it" in str(caught.value.next)
    compose_config([*overrides, next])


@pytest.mark.parametrize(
    ("choice", "override"),
    [(choice, override) for choice in ("robustness_quick", "robustness")
     for override in ("eval.attacks=fgsm", "eval.attacks.fgsm.random_start=true", "eval.attacks.pgd_40.steps=3")]
    + [("robustness_quick", "eval.attacks.fgsm=null")],
)  # fmt: skip
def test_how_an_attack_is_added_is_said_and_works(choice: str, override: str):
    with pytest.raises(UsageError) as caught:
        compose_config([f"eval={choice}", override])
    adds = re.search(r"('?)(\+eval\.attacks\S+?=(?:\{.*\}|\S+))\1 adds", str(caught.value))
    assert adds, caught.value
    cfg = compose_config([f"eval={choice}", adds[2].replace("<name>", "mine")])
    _, robustness = measured(evaluation_of(plain(cfg.eval)))
    assert robustness.attack_methods()


@pytest.mark.parametrize(
    ("override", "hint"),
    [("lerning_rate=3", ""), ("student.optimizer.lr=3", ""), ("steps=3", ", did you mean 'student.steps'?"),
     ("optimizer.name=sgd", ", did you mean 'student.optimizer.name'?"), ("zzz=1", "")],
)  # fmt: skip
def test_only_a_near_option_is_suggested_and_its_last_part_counts_most(override: str, hint: str):
    with pytest.raises(UsageError) as caught:
        compose_config([override])
    assert caught.value.what == f"unknown option '{override.partition('=')[0]}'{hint}"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_torch_calls_otherwise_is_no_entry_to_add(name: str):
    with pytest.raises(UsageError) as caught:
        compose_config([f"student.optimizer.{name}=0.1"])
    assert caught.value.next == f"it is an option of its own here: {ELSEWHERE[name]}"
    compose_config([ELSEWHERE[name].replace("...", "0.1")])


def test_the_nearest_option_is_sought_in_the_groups_that_were_chosen():
    with pytest.raises(NstError, match=r"unknown option 'eval\.max_image', did you mean 'eval\.max_images'"):
        compose_config(["eval=robustness", "eval.max_image=3"])
