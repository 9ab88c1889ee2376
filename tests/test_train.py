"""Training: repeatable, the same for any number of workers, continued bit for bit, and noised where it should be."""

import csv
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file

from nst.atomic import write_json
from nst.config import compose_config
from nst.documents import read_json
from nst.errors import NstError, Preempted
from nst.models.checkpoints import load_network, read_info
from nst.settings.learning import StudentOptions
from nst.settings.network import Model, Noise
from nst.stages import label, select, train
from nst.stages.chosen_network import architecture
from nst.training import fitting, phases
from nst.training.callbacks import KeepLast
from nst.training.classifier import Classifier
from tests.composing import made
from tests.conftest import SIZES, TINY
from tests.sharding import sharded
from tests.trainings import Crash, dying_at, rows, weights

Compose = Callable[..., Any]
FINETUNE = ["student.finetune.epochs=1", "student.finetune.image_size=16", "student.finetune.frozen_blocks=2"]


# ---- runs that many tests look at, and none changes


@pytest.fixture(scope="module")
def made_once(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """`made_once(name, *overrides)` composes the configuration of a run for the whole module."""
    root = tmp_path_factory.mktemp("made_once")
    return lambda name, *more: compose_config([*TINY, f"data.root={digits}", f"run_dir={root / name}", *more])


@pytest.fixture(scope="module")
def teacher(made_once: Compose) -> Path:
    """A trained teacher with predictions and a selection."""
    training = made_once("gen0")
    train.from_cfg(training)
    lenient = ["select.min_confidence=0", "select.allow_empty_classes=true"]
    for step in (label, select):
        step.from_cfg(made_once("gen0", f"teacher.run={training.run_dir}", *lenient))
    return Path(training.run_dir)


@pytest.fixture(scope="module")
def other(made_once: Compose) -> Path:
    """A teacher of another seed, with predictions."""
    training = made_once("other", "seed=5")
    train.from_cfg(training)
    label.from_cfg(made_once("other", f"teacher.run={training.run_dir}"))
    return Path(training.run_dir)


@pytest.fixture(scope="module")
def student(made_once: Compose, teacher: Path) -> Path:
    """A trained student of the teacher."""
    training = made_once("student", f"teacher.run={teacher}")
    train.from_cfg(training)
    return Path(training.run_dir)


@pytest.fixture(scope="module")
def finetuned(made_once: Compose) -> Path:
    """A training with fine-tuning."""
    training = made_once("finetuned", *FINETUNE)
    train.from_cfg(training)
    return Path(training.run_dir)


def test_same_seed_gives_the_same_weights_whatever_the_number_of_workers(
    tiny: Compose, teacher: Path, other: Path, tmp_path: Path
):
    for workers in (1, 3):  # the teacher's loader is of its own process
        run = tmp_path / str(workers)
        train.from_cfg(tiny(f"trainer.workers={workers}", run_dir=run))
        assert weights(run) == weights(teacher)
        assert rows(run) == rows(teacher)
    assert weights(teacher) != weights(other)


def test_student_is_repeatable_too(tiny: Compose, teacher: Path, student: Path, tmp_path: Path):
    train.from_cfg(tiny("trainer.workers=2", f"teacher.run={teacher}"))
    assert weights(tmp_path / "run") == weights(student)


@pytest.mark.parametrize("step", [1, 3, 6, 8, 11])
def test_a_training_that_dies_at_any_step_ends_with_the_same_weights_and_metrics(
    tiny: Compose, teacher: Path, student: Path, tmp_path: Path, step: int
):
    with dying_at(step):
        train.from_cfg(tiny(f"teacher.run={teacher}", run_dir=tmp_path / "killed"))
    assert not (tmp_path / "killed" / "DONE").exists()
    train.from_cfg(tiny(f"teacher.run={teacher}", run_dir=tmp_path / "killed"))
    assert weights(tmp_path / "killed") == weights(student)
    assert rows(tmp_path / "killed") == rows(student)
    assert read_json(tmp_path / "killed" / "result.json") == read_json(student / "result.json")


@pytest.mark.parametrize("step", [1, 5, 7, 12])
def test_a_preempted_training_leaves_a_checkpoint_and_ends_with_the_same_weights_and_metrics(
    tiny: Compose, teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    """SIGTERM within a segment (of 4 steps), at its end, and in the last step; metrics are read every 2 steps.

    It stops after that very step, and what is summed until the next read goes on where it was."""
    original = Classifier.training_step
    seen: list[int] = []

    def told(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.append(self.trainer.global_step)
        if len(seen) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", told)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=rf"at step {step};[\s\S]*same command continues"):
        train.from_cfg(tiny(f"teacher.run={teacher}", run_dir=tmp_path / "told"))
    assert signal.getsignal(signal.SIGTERM) == before
    train.from_cfg(tiny(f"teacher.run={teacher}", run_dir=tmp_path / "told"))
    assert seen == list(range(12))  # no step was taken twice
    assert weights(tmp_path / "told") == weights(student)
    assert rows(tmp_path / "told") == rows(student)


def test_sigterm_in_the_validation_after_a_training_is_no_success_and_the_same_command_ends_it(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Lightning would end the process there with exit code 0."""
    original = Classifier.validation_step

    def told(self: Classifier, batch: Any, batch_idx: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, batch_idx)

    monkeypatch.setattr(fitting, "VALIDATION_BATCH", 30)  # four batches
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Preempted, match="at step 12;"):
        patch.setattr(Classifier, "validation_step", told)
        train.from_cfg(tiny("student.validate_every=null", run_dir=tmp_path / "told"))
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "told" / "DONE").exists()
    result = train.from_cfg(tiny("student.validate_every=null", run_dir=tmp_path / "told"))
    assert "top1" in result


def test_dying_between_checkpoint_and_export_changes_nothing(
    tiny: Compose, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def dies(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(fitting, "_export", dies)
        train.from_cfg(tiny(run_dir=tmp_path / "killed"))
    train.from_cfg(tiny(run_dir=tmp_path / "killed"))
    assert weights(tmp_path / "killed") == weights(teacher)
    assert rows(tmp_path / "killed") == rows(teacher)


def test_resuming_starts_at_the_checkpoint_and_not_at_the_beginning(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []
    original = Classifier.training_step

    def counts(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.append(self.trainer.global_step)
        if len(seen) == 7:
            raise Crash
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", counts)
    with pytest.raises(Crash):
        train.from_cfg(tiny())
    train.from_cfg(tiny())
    assert seen == [*range(7), *range(4, 12)]  # a checkpoint every 4 steps


def test_a_finished_run_is_skipped(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = train.from_cfg(tiny())
    monkeypatch.setattr(fitting, "classifier", lambda *_: pytest.fail("trained again"))
    assert train.from_cfg(tiny()) == first


def test_validation_happens_on_schedule_and_at_the_end(tiny: Compose, tmp_path: Path):
    train.from_cfg(tiny("student.steps=14"))
    steps = [step for step, name, _ in rows(tmp_path / "run") if name == "validation/top1"]
    assert steps == [8, 14]


def test_metrics_are_a_table_that_anyone_can_read(teacher: Path):
    with open(teacher / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    names = {row["metric"] for row in table}
    assert {"train/loss", "train/labeled_loss", "train/gradient_norm", "train/images_per_second"} <= names
    assert {"validation/top1", "validation/top5", "validation/loss", "validation/ece"} <= names
    assert [int(row["step"]) for row in table if row["metric"] == "train/loss"] == [2, 4, 6, 8, 10, 12]


def test_the_network_that_is_kept_is_the_moving_average(teacher: Path):
    state = torch.load(teacher / "checkpoints/trained_last.ckpt", weights_only=False)["state_dict"]
    kept = load_file(teacher / "checkpoints/trained.safetensors")
    assert len(kept) > 50
    for name, value in kept.items():
        assert torch.equal(value, state[f"ema.network.{name}"])
    assert any(not torch.equal(value, state[f"network.{name}"]) for name, value in kept.items())
    info = read_info(teacher / "checkpoints/trained.safetensors")
    assert info.classes == tuple(str(number) for number in range(10))
    assert info.image_size == 12


def test_another_configuration_in_the_same_directory_is_refused_and_overwrite_starts_again(tiny: Compose):
    train.from_cfg(tiny())
    with pytest.raises(NstError, match="holds a train run with other inputs") as caught:
        train.from_cfg(tiny("student.weight_decay=0.01"))
    assert "student.weight_decay: 0.0001 before, 0.01 now" in str(caught.value)
    assert train.from_cfg(tiny("student.weight_decay=0.01", "overwrite=true"))["steps"] == 12


def test_lanes_are_another_order_of_which_the_run_directory_knows(
    tiny: Compose, teacher: Path, student: Path, tmp_path: Path
):
    shutil.copytree(student, tmp_path / "run")
    options = [f"teacher.run={teacher}", "run_dir=" + str(tmp_path / "run")]
    plain = train.from_cfg(tiny(*options))
    assert plain["weights_sha256"] == train.from_cfg(tiny(*options, "lanes=1"))["weights_sha256"], "the same run"
    with pytest.raises(NstError, match="lanes: 1 before, 4 now"):
        train.from_cfg(tiny(*options, "lanes=4"))
    dealt = train.from_cfg(tiny(*options, "lanes=4", "overwrite=true"))
    assert dealt["weights_sha256"] != plain["weights_sha256"]


@pytest.mark.parametrize(
    ("lanes", "said"), [("3", "lanes[\\s\\S]*batch_size=8 on 3 lanes[\\s\\S]*=9"), ("0", "lanes cannot be 0")]
)
def test_lanes_that_do_not_fit_are_refused_before_anything_is_written(
    tiny: Compose, tmp_path: Path, lanes: str, said: str
):
    with pytest.raises(NstError, match=said):
        train.from_cfg(tiny(f"lanes={lanes}"))
    assert not (tmp_path / "run").exists()


def test_two_runs_in_one_directory_at_once_are_refused(tiny: Compose, tmp_path: Path):
    from nst.runs import Run

    with Run(tmp_path / "run", "train", {}), pytest.raises(NstError, match="another process is working"):
        train.from_cfg(tiny())


def test_a_loss_that_is_not_finite_stops_and_names_the_steps(tiny: Compose, tmp_path: Path):
    with pytest.raises(NstError, match="the loss is nan") as caught:
        train.from_cfg(tiny("student.optimizer.rate_per_256=1e12", "student.schedule.warmup_epochs=0"))
    assert "between steps 0 and 2" in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


# ---- the student


def test_student_learns_from_labeled_and_selected_images(student: Path):
    losses = {name: value for _, name, value in rows(student)}
    assert losses["train/unlabeled_loss"] > 0
    total = losses["train/labeled_loss"] + 3 * losses["train/unlabeled_loss"]
    assert losses["train/loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [["teacher=hard"], ["teacher=online"], ["teacher=online", "teacher.targets=hard"], ["teacher.temperature=0.5"]],
    ids=" ".join,
)
def test_targets_of_every_kind_train_and_differ(
    tiny: Compose, teacher: Path, student: Path, tmp_path: Path, options: list[str]
):
    train.from_cfg(tiny(*options, f"teacher.run={teacher}"))
    online_soft = options == ["teacher=online"]
    if online_soft:
        # the same teacher on the same clean view says the same, up to the rounding of stored probabilities
        soft, online = ({(s, n): v for s, n, v in rows(run)} for run in (student, tmp_path / "run"))
        key = (2, "train/unlabeled_loss")
        assert online[key] == pytest.approx(soft[key], rel=1e-3)
    else:
        assert weights(tmp_path / "run") != weights(student)


def test_online_teacher_without_a_selection_sees_all_unlabeled_images(tiny: Compose, teacher: Path, tmp_path: Path):
    lone = tmp_path / "lone"
    shutil.copytree(teacher, lone, ignore=shutil.ignore_patterns("predictions", "selection"))
    result = train.from_cfg(tiny("teacher=online", f"teacher.run={lone}"))
    assert result["top1"] > 0


def test_teacher_is_never_noised_and_never_in_the_checkpoint(tiny: Compose, teacher: Path, tmp_path: Path):
    module = _module(tiny("teacher=online", f"teacher.run={teacher}"), tmp_path)
    module.train()
    assert not any(part.training for part in module.teacher.modules())
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    assert not any(part.training for part in module.ema.network.modules())
    train.from_cfg(tiny("teacher=online", f"teacher.run={teacher}"))
    state = torch.load(tmp_path / "run/checkpoints/trained_last.ckpt", weights_only=False)["state_dict"]
    assert not [name for name in state if name.startswith("teacher.")]


def test_noise_can_be_taken_from_the_unlabeled_images_alone(tiny: Compose, teacher: Path, tmp_path: Path):
    module = _module(tiny("noise=no_model_noise", f"teacher.run={teacher}"), tmp_path)
    module.train()
    images = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8)
    torch.manual_seed(0)
    one = module.noised_forward(images, labeled=4)
    torch.manual_seed(1)
    other = module.noised_forward(images, labeled=4)
    assert torch.equal(one[4:], other[4:])
    assert not torch.equal(one[:4], other[:4])


def _module(cfg: Any, directory: Path) -> Classifier:
    """The module that `nst train` would fit."""
    captured: list[Classifier] = []
    original = fitting.classifier

    class Stop(Exception):
        pass

    def capture(*arguments: Any) -> Classifier:
        captured.append(original(*arguments))
        raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(fitting, "classifier", capture)
        cfg.run_dir = str(directory / "captured")
        train.from_cfg(cfg)
    return captured[0]


def test_training_step_is_the_equation(tiny: Compose, teacher: Path, tmp_path: Path):
    module = _module(tiny("noise=none", "noise.labeled.dropout=false", "noise.labeled.stochastic_depth=false",
                          f"teacher.run={teacher}"), tmp_path)  # fmt: skip
    module.train()
    images = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8)
    labels, targets = torch.tensor([3, 7]), torch.rand(6, 10).softmax(1)
    loss = module.training_step({"images": images, "labels": labels, "targets": targets}, 0)
    log_p = module.noised_forward(images, labeled=2).log_softmax(1)
    smooth = torch.nn.functional.one_hot(labels, 10) * 0.9 + 0.01
    expected = -(smooth * log_p[:2]).sum(1).mean() - 3 * (targets * log_p[2:]).sum(1).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


# ---- FixRes fine-tuning


def test_fine_tuning_keeps_both_networks_and_freezes_the_shallow_one(finetuned: Path):
    result = read_json(finetuned / "result.json")
    before = load_file(finetuned / "checkpoints/trained.safetensors")
    after = load_file(finetuned / "checkpoints/finetuned.safetensors")
    network, info = load_network(finetuned / "checkpoints/finetuned.safetensors")
    frozen = [f"{name}." for name, part in network.named_modules() if part in (network.conv_stem, network.bn1)]
    blocks = [name for name, part in network.named_modules() if part in network.residual_blocks]
    frozen += [f"{name}." for name in blocks[:2]]
    untouched = [name for name in before if name.startswith(tuple(frozen))]
    assert len(untouched) > 10
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert info.image_size == 16
    assert read_info(finetuned / "checkpoints/trained.safetensors").image_size == 12
    assert result["weights"] == "checkpoints/finetuned.safetensors"
    assert result["trained"]["steps"] == 12
    assert result["finetuned"]["steps"] == 6  # one pass of 50 labeled images in batches of 8


def test_fine_tuning_keeps_the_noise_of_the_network_as_it_is_configured(tiny: Compose):
    cfg = tiny(*FINETUNE, "noise.labeled.dropout=false")
    network, student = architecture(made(Model, cfg.model)), made(StudentOptions, cfg.student)
    first, second = phases.phases(network, student, made(Noise, cfg.noise), 50)
    assert (first.image_size, first.test_size, second.image_size, second.test_size) == (12, 12, 16, 16)
    assert second.noise.labeled.augment == "none"
    assert not second.noise.labeled.dropout
    assert second.recipe.unlabeled_ratio == 0


def test_fine_tuning_that_dies_before_its_first_checkpoint_leaves_no_row_twice(
    tiny: Compose, finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = Classifier.training_step

    def dies(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.first_step and self.trainer.global_step == 3:
            raise Crash
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Classifier, "training_step", dies)
        train.from_cfg(tiny(*FINETUNE, run_dir=tmp_path / "killed"))
    train.from_cfg(tiny(*FINETUNE, run_dir=tmp_path / "killed"))
    assert weights(tmp_path / "killed", "finetuned") == weights(finetuned, "finetuned")
    assert rows(tmp_path / "killed") == rows(finetuned)


def test_fine_tuning_that_dies_continues_after_training(
    tiny: Compose, finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saves = []
    original = KeepLast.on_train_epoch_end

    def dies(self: KeepLast, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        original(self, trainer, module)
        saves.append(trainer.global_step)
        if len(saves) == 4:  # the first checkpoint of fine-tuning
            raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(KeepLast, "on_train_epoch_end", dies)
        train.from_cfg(tiny(*FINETUNE, run_dir=tmp_path / "killed"))
    train.from_cfg(tiny(*FINETUNE, run_dir=tmp_path / "killed"))
    assert weights(tmp_path / "killed", "finetuned") == weights(finetuned, "finetuned")
    assert rows(tmp_path / "killed") == rows(finetuned)


# ---- inputs that do not fit


def test_predictions_of_another_teacher_are_refused(tiny: Compose, teacher: Path, other: Path, tmp_path: Path):
    shutil.copytree(other, tmp_path / "other", ignore=shutil.ignore_patterns("predictions"))
    for name in ("predictions", "selection"):
        shutil.copytree(teacher / name, tmp_path / "other" / name)
    with pytest.raises(NstError, match="another teacher"):
        train.from_cfg(tiny(f"teacher.run={tmp_path / 'other'}", run_dir=tmp_path / "student"))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_a_selection_of_another_teacher_is_refused_unless_reassigned(
    tiny: Compose, teacher: Path, other: Path, tmp_path: Path, targets: str
):
    options = [f"teacher.run={other}", f"teacher.selection={teacher / 'selection'}",
               f"teacher.targets={targets}"]  # fmt: skip
    with pytest.raises(NstError, match="another teacher"):
        train.from_cfg(tiny(*options, run_dir=tmp_path / "student"))
    assert not (tmp_path / "student").exists()
    assert train.from_cfg(tiny(*options, "teacher.reassign=true", run_dir=tmp_path / "student"))["steps"] == 12


def test_a_selection_made_of_other_shards_of_the_same_name_is_refused(tiny: Compose, teacher: Path, tmp_path: Path):
    sharded("digits", tmp_path / "data", *SIZES, "seed=1")
    with pytest.raises(NstError, match="was made of other shards"):
        train.from_cfg(tiny(f"teacher.run={teacher}", f"data.unlabeled={tmp_path / 'data/unlabeled'}"))


def test_labeling_again_makes_the_old_selection_and_the_old_student_stale(tiny: Compose, teacher: Path, tmp_path: Path):
    own = tmp_path / "gen0"
    shutil.copytree(teacher, own)
    student = tiny(f"teacher.run={own}", run_dir=tmp_path / "student")
    train.from_cfg(student)
    label.from_cfg(tiny(f"teacher.run={own}", "teacher.image_size=16", "overwrite=true"))
    with pytest.raises(NstError, match="made from other predictions"):
        train.from_cfg(student)


def test_too_many_bad_images_stop_the_training_and_few_are_named_in_the_result(
    tiny: Compose, digits: Path, tmp_path: Path
):
    from nst.data.shards import ShardSet, write_shards
    from nst.data.source import Sample
    from nst.data.tars import TarReader

    shards = ShardSet.open(digits / "labeled")
    samples = []
    for position, (key, fields) in enumerate(TarReader(shards.path(0))):
        image = b"" if position == 7 else fields["png"]
        samples.append(Sample(key, image, "png", int(fields["cls"])))
    write_shards(tmp_path / "bad", "labeled", samples, classes=shards.classes, labeled=True, name="bad")
    options = [f"data.labeled={tmp_path / 'bad'}"]
    with pytest.raises(NstError, match="1 of 50 images cannot be decoded") as caught:
        train.from_cfg(tiny(*options))
    assert "max_bad_fraction" in str(caught.value)
    result = train.from_cfg(tiny(*options, "max_bad_fraction=0.1", run_dir=tmp_path / "tolerant"))
    assert result["bad_samples"]["count"] == 1
    assert samples[7].key in result["bad_samples"]["names"][0]
    assert samples[7].key in train.summary_line(result)


def test_a_teacher_of_other_classes_is_refused(tiny: Compose, teacher: Path, digits: Path, tmp_path: Path):
    shutil.copytree(digits, tmp_path / "renamed")
    for part in ("labeled", "unlabeled", "test"):
        path = tmp_path / "renamed" / part / "index.json"
        index = read_json(path)
        index["classes"][3] = "three"
        write_json(path, index)
    with pytest.raises(NstError, match="the teacher knows other classes") as caught:
        train.from_cfg(tiny(f"teacher.run={teacher}", f"data.root={tmp_path / 'renamed'}"))
    assert "'3' where the data has 'three'" in str(caught.value)


def test_weights_of_another_network_are_refused(tiny: Compose, teacher: Path):
    with pytest.raises(NstError, match=r"another network|tensors"):
        train.from_cfg(tiny("model.width=0.5", f"model.checkpoint={teacher}"))


def test_training_can_start_from_weights(tiny: Compose, teacher: Path, tmp_path: Path):
    train.from_cfg(tiny(f"model.checkpoint={teacher}"))
    assert weights(tmp_path / "run") != weights(teacher)


def test_unlabeled_shards_cannot_be_the_labeled_set(tiny: Compose, digits: Path):
    with pytest.raises(NstError, match="have no labels"):
        train.from_cfg(tiny(f"data.labeled={digits / 'unlabeled'}"))


def test_missing_shards_and_missing_teacher_name_the_next_command(tiny: Compose, tmp_path: Path):
    with pytest.raises(NstError, match="no such shard folder") as caught:
        train.from_cfg(tiny("data.root=/nowhere"))
    assert "nst shard" in str(caught.value)
    with pytest.raises(NstError, match="there is no network at"):
        train.from_cfg(tiny("teacher.run=/nowhere/gen0"))
