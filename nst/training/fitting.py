"""One training phase: from shards, recipe and noise to averaged weights, through Lightning.

The mark that a phase is over is its summary, checkpoints/<phase>.json.
"""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from nst.atomic import write_json
from nst.data.batches import LabeledSamples, UnlabeledSamples
from nst.data.datamodule import JointDataModule
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.shard_set import ShardSet
from nst.data.transforms import Augment, CenterView
from nst.data.views import clean_view, training_view
from nst.documents import read_json
from nst.errors import NstError
from nst.models import pretrained
from nst.models.architectures import AnyArchitecture, framing_at
from nst.models.batch_norm import BatchNorm, micro_momentum
from nst.models.checkpoints import copy_weights, save_network
from nst.models.network_info import NetworkInfo
from nst.models.networks import Network, build
from nst.models.pretrained import Start
from nst.models.released import open_network
from nst.progress import say
from nst.settings.data import Pictures
from nst.settings.job import TrainJob
from nst.settings.network import Side
from nst.sharing import is_rank_zero
from nst.training.callbacks import BadSampleLimit, KeepLast, TrainingBar, require_whole
from nst.training.classifier import Classifier
from nst.training.hardware import Machine
from nst.training.loggers import TIMING_METRICS, MetricsTable
from nst.training.periodic import Monitor, Monitoring
from nst.training.phases import Phase
from nst.training.teachers import Teacher, pseudo_labels
from nst.training.tracking import Tracking

VALIDATION_BATCH = 250


@dataclass(frozen=True)
class Data:
    """The shard sets of one training, what kind of pictures they hold, and the lanes of their order (`Stream`).

    Args:
        watched_on_test: there is no validation set, and the test set stands in for it.
    """

    labeled: ShardSet
    validation: ShardSet | None
    unlabeled: ShardSet | None
    pictures: Pictures
    lanes: int = 1
    watched_on_test: bool = False


@dataclass(frozen=True)
class Setup:
    """What the phases of a run share: the job, and what its options stand for.

    Args:
        monitor: what is measured on the way; it changes nothing of the training.
    """

    directory: Path
    job: TrainJob
    architecture: AnyArchitecture
    data: Data
    teacher: Teacher | None
    machine: Machine
    tracking: Tracking
    monitor: Monitor | None

    def weights_path(self, phase: Phase) -> Path:
        return self.directory / "checkpoints" / f"{phase.name}.safetensors"

    def summary_path(self, phase: Phase) -> Path:
        return self.directory / "checkpoints" / f"{phase.name}.json"

    @property
    def metrics_path(self) -> Path:
        return self.directory / "metrics.csv"

    def state_path(self, phase: Phase) -> Path:
        return self.directory / "checkpoints" / f"{phase.name}_last.ckpt"


def fit(setup: Setup, phase: Phase, start: Start | None) -> None:
    """One phase: trains from `start` (or the phase's last checkpoint), then writes the averaged network."""
    module, length = classifier(setup, phase, start), phase.length
    data, title = datamodule(setup, phase), setup.job.title + ("" if phase.name == "trained" else " finetune")
    samples = setup.data.labeled.samples + (
        setup.data.unlabeled.samples if data.unlabeled and setup.data.unlabeled else 0
    )
    state = setup.state_path(phase)
    monitoring = monitoring_of(setup, phase)
    trainer = setup.machine.trainer(
        setup.directory,
        callbacks=[
            BadSampleLimit(samples, setup.job.max_bad_fraction),
            KeepLast(state, setup.metrics_path, title, setup.tracking.catch_up),
            TrainingBar(title, length.steps),
            *monitoring,
        ],
        loggers=setup.tracking.loggers(),
        max_epochs=length.segments,
        check_val_every_n_epoch=length.segments_per_validation or length.segments + 1,
        reload_dataloaders_every_n_epochs=1,
    )
    kept = setup.machine.agreed(state.exists())
    if not kept and trainer.is_global_zero:
        # rows of an attempt of this phase that reached no checkpoint
        MetricsTable(setup.metrics_path).cut_to(_bytes_before(setup, phase))
        setup.tracking.catch_up()
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
    if setup.data.validation is not None and module.validated_step != length.steps:
        trainer.validate(module, data, verbose=False)
    for callback in monitoring:
        callback.at_end(trainer, module)
    _export(setup, phase, module, trainer, length.steps)


def monitoring_of(setup: Setup, phase: Phase) -> list[Monitoring]:
    """What measures the network within a phase: one callback, or none."""
    if setup.monitor is None:
        return []
    length, size = phase.length, phase.test_size
    return [Monitoring(setup.monitor, setup.directory, size, segment_steps=length.segment, total_steps=length.steps)]


def _bytes_before(setup: Setup, phase: Phase) -> int:
    """Length of metrics.csv when the phase before had ended."""
    if not phase.first_step:
        return 0
    return read_json(setup.directory / "checkpoints" / "trained.json")["metrics_bytes"]


def new_network(architecture: AnyArchitecture, classes: int, phase: Phase, machine: Machine, *, remat: bool) -> Network:
    """The network as a phase trains it, with fresh weights; not yet placed."""
    noise = phase.noise
    network = build(architecture, classes, dropout=noise.dropout, stochastic_depth=noise.stochastic_depth)
    network.set_grad_checkpointing(remat)
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.momentum = micro_momentum(phase.recipe.batchnorm_momentum, machine.accumulate)
    return network


def classifier(setup: Setup, phase: Phase, start: Start | None) -> Classifier:
    """The module of a phase, with fresh weights (by seed) or those of `start`."""
    torch.manual_seed(setup.job.seed)
    classes, teacher, machine = setup.data.labeled.classes, setup.teacher, setup.machine
    network = new_network(setup.architecture, len(classes), phase, machine, remat=setup.job.model.remat)
    if start is not None and start.whole:
        copy_weights(network, open_network(str(start.source), classes)[0].state_dict(), str(start.source))
    elif start is not None:
        found = pretrained.read(start.source, setup.architecture)
        _tell(setup, pretrained.take(network, found, classes))
    online = teacher is not None and teacher.mode == "online" and phase.recipe.unlabeled_ratio > 0
    return Classifier(
        machine.place(network),
        phase.recipe,
        phase.noise,
        phase.schedule,
        machine,
        labels=teacher,
        teacher=machine.place(teacher.asked(setup.data.pictures).network()) if online and teacher else None,
        seed=setup.job.seed,
        first_step=phase.first_step,
    )


def _tell(setup: Setup, line: str) -> None:
    if is_rank_zero():
        say(f"{setup.job.title}: {line}")


def datamodule(setup: Setup, phase: Phase) -> JointDataModule:
    data, recipe, noise, machine = setup.data, phase.recipe, phase.noise, setup.machine
    framing = framing_at(setup.architecture, phase.image_size)

    def view(side: Side) -> Augment | CenterView:
        return training_view(side.augment, phase.image_size, data.pictures, noise, framing)

    validation = None
    if data.validation is not None:
        clean = clean_view(phase.test_size, data.pictures, framing_at(setup.architecture, phase.test_size))
        size = machine.whole(validation_batch_size(data.validation))
        validation = EvaluationBatches(data.validation, clean, batch_size=size)
    return JointDataModule(
        LabeledSamples(data.labeled, view(noise.labeled), setup.job.seed, data.lanes),
        unlabeled_samples(setup, view(noise.unlabeled)) if recipe.unlabeled_ratio else None,
        validation,
        labeled_batch_size=recipe.labeled_batch_size,
        unlabeled_ratio=recipe.unlabeled_ratio,
        total_steps=phase.length.steps,
        segment_steps=phase.length.segment,
        loader=machine.loader,
        pin_memory=machine.pin_memory,
        groups=machine.local_groups,
        accumulate=machine.accumulate,
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
        clean = teacher.asked(setup.data.pictures).view
    return UnlabeledSamples(shards, view, setup.job.seed, pseudo_labels(teacher, shards), clean, setup.data.lanes)


def _export(setup: Setup, phase: Phase, module: Classifier, trainer: pl.Trainer, steps: int) -> None:
    """Writes the averaged network, then the phase's summary: the mark that the phase is over."""
    if trainer.is_global_zero:
        info = NetworkInfo(
            architecture=setup.architecture,
            classes=setup.data.labeled.classes,
            image_size=phase.test_size,
            train_size=phase.image_size,
            extra={"pictures": asdict(setup.data.pictures)},  # how it is shown them, wherever the file goes
        )
        digest = save_network(setup.weights_path(phase), module.ema.network.state_dict(), info)
        last = {name: value for name, value in module.latest.items() if not name.endswith(TIMING_METRICS)}
        if setup.data.watched_on_test:  # fitted to test pictures, which would then say too much of its confidences
            last.pop("validation/temperature", None)
        summary: dict[str, Any] = {
            phase.name: {"steps": steps, **last},
            "bad_samples": sorted(module.bad_samples),
            "weights_sha256": digest,
            "metrics_bytes": setup.metrics_path.stat().st_size if setup.metrics_path.exists() else 0,
        }
        if facts := setup.machine.facts(trainer):
            summary[phase.name]["machine"] = facts
        for name in ("top1", "top5", "ece"):
            if f"validation/{name}" in last:
                summary[name] = last[f"validation/{name}"]
        write_json(setup.summary_path(phase), summary)
    trainer.strategy.barrier("exported")
