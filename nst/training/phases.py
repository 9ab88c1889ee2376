"""One training phase: from shards, recipe and noise to averaged weights, through Lightning.

A run has two phases at most: training at the training size, then FixRes fine-tuning (METHOD) on labeled images
without augmentation at the larger size. The mark that a phase is over is its summary, checkpoints/<phase>.json.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from nst.data.batches import EvaluationBatches, LabeledSamples, UnlabeledSamples
from nst.data.datamodule import JointDataModule
from nst.data.shard_set import ShardSet
from nst.data.transforms import Augment, CenterView
from nst.data.views import Augmentation, Pictures, clean_view, training_view
from nst.documents import read_json
from nst.errors import NstError, require_count
from nst.models.batch_norm import BatchNorm, micro_momentum
from nst.models.checkpoints import NetworkInfo, copy_weights, load_network, read_info, save_network
from nst.models.efficientnet import Architecture, build
from nst.models.released import open_network
from nst.runs import write_json
from nst.training.callbacks import BadSampleLimit, KeepLast, TrainingBar, require_whole
from nst.training.classifier import Classifier
from nst.training.hardware import Machine
from nst.training.loggers import TIMING_METRICS, MetricsTable
from nst.training.monitor import Monitor, Monitoring
from nst.training.optim import Schedule, schedule_for
from nst.training.recipe import ModelNoise, Recipe, Side
from nst.training.teachers import Teacher, pseudo_labels
from nst.training.tracking import Tracking

VALIDATION_BATCH = 250


@dataclass(frozen=True)
class Data:
    """The shard sets of one training, what kind of pictures they hold, and the lanes of their order (`Stream`)."""

    labeled: ShardSet
    validation: ShardSet | None
    unlabeled: ShardSet | None
    pictures: Pictures
    lanes: int = 1

    def __post_init__(self) -> None:
        require_count("lanes", self.lanes)


@dataclass(frozen=True)
class Noise:
    """All noise of a training: of the pictures, and of the network."""

    augmentation: Augmentation
    model: ModelNoise


@dataclass(frozen=True)
class Finetune:
    """FixRes fine-tuning: labeled images without augmentation at `image_size`, shallow layers frozen."""

    epochs: float = 0
    image_size: int = 600
    frozen_blocks: int = 0
    rate_per_256: float = 0.0005
    labeled_batch_size: int = 2048

    def recipe(self, base: Recipe) -> Recipe:
        """The base recipe, short, at a constant rate, without unlabeled images."""
        return replace(
            base,
            labeled_batch_size=self.labeled_batch_size,
            unlabeled_ratio=0,
            epochs=self.epochs,
            steps=None,
            optimizer={**base.optimizer, "rate_per_256": self.rate_per_256},
            schedule={"kind": "constant", "warmup_epochs": 0},
            frozen_blocks=self.frozen_blocks,
            validate_every=None,
        )


@dataclass(frozen=True)
class Phase:
    """One fit: its recipe, noise, picture size, and the name under which its network is kept."""

    name: str  # trained | finetuned
    recipe: Recipe
    noise: Noise
    image_size: int
    test_size: int
    first_step: int = 0


def phases(
    architecture: Architecture, recipe: Recipe, noise: Noise, finetune: Finetune, labeled_samples: int
) -> list[Phase]:
    """Training, and FixRes fine-tuning where it is asked for."""
    # a network that will be fine-tuned is judged at its training size before, at the larger one after
    size = architecture.train_size if finetune.epochs else architecture.test_size
    first = Phase("trained", recipe, noise, architecture.train_size, size)
    if not finetune.epochs:
        return [first]
    clean = replace(noise.model.labeled, augment="none")
    quiet = Noise(noise.augmentation, replace(noise.model, labeled=clean))
    steps = recipe.total_steps(labeled_samples)
    larger = finetune.image_size
    return [first, Phase("finetuned", finetune.recipe(recipe), quiet, larger, larger, first_step=steps)]


@dataclass(frozen=True)
class Setup:
    """What both phases of a run share."""

    directory: Path
    architecture: Architecture
    data: Data
    teacher: Teacher | None
    hardware: Machine
    tracking: Tracking
    seed: int
    max_bad_fraction: float
    label: str
    remat: bool = False
    monitor: Monitor | None = None

    def weights_path(self, phase: Phase) -> Path:
        return self.directory / "checkpoints" / f"{phase.name}.safetensors"

    def summary_path(self, phase: Phase) -> Path:
        return self.directory / "checkpoints" / f"{phase.name}.json"

    @property
    def metrics_path(self) -> Path:
        return self.directory / "metrics.csv"

    def state_path(self, phase: Phase) -> Path:
        return self.directory / "checkpoints" / f"{phase.name}_last.ckpt"


def fit(setup: Setup, phase: Phase, start: Path | str | None) -> None:
    """One phase: trains from `start` (or the phase's last checkpoint), then writes the averaged network."""
    module = classifier(setup, phase, start)
    data = datamodule(setup, phase)
    samples = setup.data.labeled.samples + (
        setup.data.unlabeled.samples if data.unlabeled and setup.data.unlabeled else 0
    )
    segment = phase.recipe.segment_steps(setup.data.labeled.samples)
    segments = -(-data.total_steps // segment)
    state = setup.state_path(phase)
    monitoring = monitoring_of(setup, phase, data.total_steps)
    trainer = setup.hardware.trainer(
        setup.directory,
        callbacks=[
            BadSampleLimit(samples, setup.max_bad_fraction),
            KeepLast(state, setup.metrics_path),
            TrainingBar(setup.label if phase.name == "trained" else f"{setup.label} finetune", data.total_steps),
            *monitoring,
        ],
        loggers=setup.tracking.loggers(),
        max_epochs=segments,
        check_val_every_n_epoch=phase.recipe.segments_per_validation(setup.data.labeled.samples) or segments + 1,
        reload_dataloaders_every_n_epochs=1,
    )
    kept = setup.hardware.agreed(state.exists())
    if not kept and trainer.is_global_zero:
        # rows of an attempt of this phase that reached no checkpoint
        MetricsTable(setup.metrics_path).cut_to(_bytes_before(setup, phase))
    if kept:
        require_whole(state)
    try:
        trainer.fit(module, data, ckpt_path=str(state) if kept else None, weights_only=True)
    except pickle.UnpicklingError as error:
        raise NstError(
            f"{state} is not a state that a training has kept",
            got=str(error).strip().partition("\n")[0],
            next="delete it: the same command then begins this phase again",
        ) from error
    if setup.data.validation is not None and module.validated_step != data.total_steps:
        trainer.validate(module, data, verbose=False)
    for callback in monitoring:
        callback.at_end(trainer, module)
    _export(setup, phase, module, trainer, data.total_steps)


def monitoring_of(setup: Setup, phase: Phase, total_steps: int) -> list[Monitoring]:
    """What measures the network within a phase: one callback, or none."""
    if setup.monitor is None:
        return []
    segment = phase.recipe.segment_steps(setup.data.labeled.samples)
    size = phase.test_size
    return [Monitoring(setup.monitor, setup.directory, size, segment_steps=segment, total_steps=total_steps)]


def _bytes_before(setup: Setup, phase: Phase) -> int:
    """Length of metrics.csv when the phase before had ended."""
    if not phase.first_step:
        return 0
    return read_json(setup.directory / "checkpoints" / "trained.json")["metrics_bytes"]


def classifier(setup: Setup, phase: Phase, start: Path | str | None) -> Classifier:
    """The module of a phase, with fresh weights (by seed) or those of `start`."""
    torch.manual_seed(setup.seed)
    model_noise = phase.noise.model
    network = build(
        setup.architecture,
        len(setup.data.labeled.classes),
        dropout=model_noise.dropout,
        stochastic_depth=model_noise.stochastic_depth,
    )
    if start is not None:
        copy_weights(network, open_network(start, setup.data.labeled.classes)[0].state_dict(), str(start))
    network.set_grad_checkpointing(setup.remat)
    recipe = phase.recipe
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.momentum = micro_momentum(recipe.batchnorm_momentum, setup.hardware.accumulate)
    teacher = setup.teacher
    online = teacher is not None and teacher.mode == "online" and recipe.unlabeled_ratio > 0
    return Classifier(
        setup.hardware.place(network),
        recipe,
        model_noise,
        learning_rates(recipe, setup.data.labeled.samples),
        targets=teacher.targets if teacher else "soft",
        temperature=teacher.temperature if teacher else 1.0,
        teacher=setup.hardware.place(load_network(teacher.weights)[0]) if online and teacher else None,
        seed=setup.seed,
        first_step=phase.first_step,
        compile=setup.hardware.compile,
        groups=setup.hardware.groups,
        device_numbers=setup.hardware.device_numbers,
        accumulate=setup.hardware.accumulate,
        keep_apart=setup.hardware.keep_apart,
    )


def learning_rates(recipe: Recipe, labeled_samples: int) -> Schedule:
    """The recipe's schedule for a labeled set of that size.

    Raises:
        NstError: warm-up, length and kind make no schedule.
    """
    total, per_epoch = recipe.total_steps(labeled_samples), recipe.steps_per_epoch(labeled_samples)
    return schedule_for(
        recipe.schedule,
        recipe.optimizer["rate_per_256"],
        recipe.labeled_batch_size,
        steps_per_epoch=per_epoch,
        total_steps=total,
        epochs=total / per_epoch,
    )


def datamodule(setup: Setup, phase: Phase) -> JointDataModule:
    data, recipe, noise = setup.data, phase.recipe, phase.noise

    def view(side: Side) -> Augment | CenterView:
        return training_view(side.augment, phase.image_size, data.pictures, noise.augmentation)

    validation = None
    if data.validation is not None:
        clean = clean_view(phase.test_size, data.pictures)
        size = setup.hardware.whole(validation_batch_size(data.validation))
        validation = EvaluationBatches(data.validation, clean, batch_size=size)
    return JointDataModule(
        LabeledSamples(data.labeled, view(noise.model.labeled), setup.seed, data.lanes),
        unlabeled_samples(setup, view(noise.model.unlabeled)) if recipe.unlabeled_ratio else None,
        validation,
        labeled_batch_size=recipe.labeled_batch_size,
        unlabeled_ratio=recipe.unlabeled_ratio,
        total_steps=recipe.total_steps(data.labeled.samples),
        segment_steps=recipe.segment_steps(data.labeled.samples),
        loader=setup.hardware.loader,
        pin_memory=setup.hardware.pin_memory,
        groups=setup.hardware.local_groups,
        accumulate=setup.hardware.accumulate,
    )


def validation_batch_size(shards: ShardSet) -> int:
    """Images of a validation batch: none spans two shards, so beyond the largest there would only be padding."""
    return min(VALIDATION_BATCH, max(shard.samples for shard in shards.shards))


def unlabeled_samples(setup: Setup, view: Augment | CenterView) -> UnlabeledSamples | None:
    """The unlabeled side of the batch; None for a teacher, which has none."""
    teacher, shards = setup.teacher, setup.data.unlabeled
    if teacher is None or shards is None:
        return None
    clean = None
    if teacher.mode == "online":
        info = read_info(teacher.weights)
        clean = clean_view(teacher.image_size or info.image_size, setup.data.pictures)
    return UnlabeledSamples(shards, view, setup.seed, pseudo_labels(teacher, shards), clean, setup.data.lanes)


def _export(setup: Setup, phase: Phase, module: Classifier, trainer: pl.Trainer, steps: int) -> None:
    """Writes the averaged network, then the phase's summary: the mark that the phase is over."""
    if trainer.is_global_zero:
        info = NetworkInfo(
            architecture=setup.architecture,
            classes=setup.data.labeled.classes,
            image_size=phase.test_size,
            train_size=phase.image_size,
        )
        digest = save_network(setup.weights_path(phase), module.ema.network.state_dict(), info)
        last = {name: value for name, value in module.latest.items() if not name.endswith(TIMING_METRICS)}
        summary: dict[str, Any] = {
            phase.name: {"steps": steps, **last},
            "bad_samples": sorted(module.bad_samples),
            "weights_sha256": digest,
            "metrics_bytes": setup.metrics_path.stat().st_size if setup.metrics_path.exists() else 0,
        }
        if facts := setup.hardware.facts(trainer):
            summary[phase.name]["machine"] = facts
        for name in ("top1", "top5", "ece"):
            if f"validation/{name}" in last:
                summary[name] = last[f"validation/{name}"]
        write_json(setup.summary_path(phase), summary)
    trainer.strategy.barrier("exported")
