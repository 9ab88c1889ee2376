"""`nst train`: labeled (and selected pseudo-labeled) shards → a teacher or a noised student.

Two phases at most: training at the training size, then FixRes fine-tuning (METHOD) on labeled images without
augmentation at the larger size. Both networks are kept: checkpoints/trained.safetensors and finetuned.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst.config import job_from, require_values
from nst.data.datamodule import require_divisible
from nst.documents import fingerprint, read_json
from nst.errors import NstError, UsageError
from nst.finished import final_weights, require_undamaged
from nst.models import pretrained
from nst.models.network_info import read_info
from nst.models.pretrained import Start
from nst.models.released import weights_digest
from nst.plan.budget import Numerics, PhaseCost
from nst.plan.layer_costs import measure
from nst.plan.limits import require_room
from nst.progress import say
from nst.runs import Run
from nst.settings.job import SurveyJob, TrainJob
from nst.settings.learning import Teaching
from nst.sharing import is_rank_zero, wait_until_seen
from nst.stages import resolving
from nst.stages.apart import keep_apart
from nst.stages.chosen_network import architecture as architecture_of
from nst.stages.doctor import advise
from nst.stages.noise_reach import require_noise_by_image, tell_of_noise
from nst.stages.places import one_network
from nst.stages.unread import says_pictures
from nst.stages.watching import monitor_of, require_monitoring
from nst.training.callbacks import bad_sample_summary
from nst.training.compiling import require_compilable
from nst.training.ensemble import differing, turns_for
from nst.training.fitting import Data, Setup, fit
from nst.training.hardware import Machine
from nst.training.noised_teacher import require_noisable
from nst.training.optim import require_options
from nst.training.phases import Phase, phases
from nst.training.teachers import Teacher, pseudo_labels
from nst.training.tracking import Tracking


def run(job: TrainJob, directory: Path) -> dict[str, Any]:
    """Trains one network and returns its result; a finished run is returned as it is, a killed one continued.

    Raises:
        NstError: inputs that do not fit together, a loss that is not finite, too many bad samples.
    """
    config = require_values(job.config)
    teacher = resolving.teacher(job.teacher, job.stage, typed=says_pictures(config))
    if teacher is None:
        job = replace(job, student=replace(job.student, unlabeled_ratio=0))
    data, machine = resolving.open_data(job, unlabeled=teacher is not None), resolving.machine(job.trainer)
    monitor = monitor_of(job, data, machine)
    start = _start(job, teacher)
    logger = job.logger
    with Tracking(directory, logger.table, logger.wandb, config, job.stage) as tracking:
        inputs = _inputs(job, data, teacher, start)
        steps = _checked_phases(job, data, machine)
        setup = Setup(
            directory=directory,
            job=job,
            architecture=architecture_of(job.model),
            data=data,
            teacher=teacher,
            machine=machine,
            tracking=tracking,
            monitor=monitor,
        )
        with Run(
            directory, "train", inputs, config=config, overwrite=job.overwrite, collective=True, files=["metrics.csv"]
        ) as run_:
            if not machine.agreed(run_.done):
                result = _fit_all(replace(setup, directory=run_.directory), steps, start)
                tracking.summarize(result)
                return run_.finish(result)
            if is_rank_zero():
                final_weights(run_.directory)
            return run_.result()


def _fit_all(setup: Setup, steps: Sequence[Phase], start: Start | None) -> dict[str, Any]:
    """All phases one after the other, as far as they are not over; the run's result."""
    bad: set[str] = set()
    tell_of_noise(setup, steps[0])
    architecture, labeled = setup.architecture, setup.data.labeled
    result: dict[str, Any] = {
        "model": architecture.name or "network",
        "architecture": asdict(architecture),
        "parameters": measure(architecture, len(labeled.classes), steps[0].image_size).parameters,
        "classes": len(labeled.classes),
        "labeled_samples": labeled.samples,
        "steps": steps[0].length.steps,
    }
    for phase in steps:
        if not setup.machine.agreed(setup.summary_path(phase).exists()):
            fit(setup, phase, start)
        kept = wait_until_seen(setup.weights_path(phase))
        start = Start(kept, whole=True)
        summary = read_json(wait_until_seen(setup.summary_path(phase)))
        if is_rank_zero():
            require_undamaged(kept, summary["weights_sha256"])
        bad.update(summary.pop("bad_samples"))
        del summary["metrics_bytes"]
        result.update(summary)
        result["weights"] = str(kept.relative_to(setup.directory))
    result["bad_samples"] = bad_sample_summary(bad)
    return result


def _inputs(job: TrainJob, data: Data, teacher: Teacher | None, start: Start | None) -> dict[str, Any]:
    """All that the result depends on; files by their content. Checks on the way that it fits together.

    Raises:
        NstError: classes of teacher, data and selection differ, or there are fewer images than asked for.
    """
    recipe = asdict(job.student)
    finetune = recipe.pop("finetune")
    del recipe["start"]  # told by the weights
    inputs = {
        "architecture": asdict(architecture_of(job.model)),
        "recipe": recipe,
        "noise": asdict(job.noise),
        "finetune": finetune if finetune["epochs"] else None,
        "pictures": asdict(data.pictures),
        "labeled": data.labeled.digest,
        "validation": data.validation.digest if data.validation else None,
        "start": weights_digest(str(start.source)) if start and start.whole else None,
        "seed": job.seed,
        "max_bad_fraction": job.max_bad_fraction,
        "accumulate": job.trainer.accumulate,
        "lanes": data.lanes,
    }
    if start and not start.whole:
        inputs["pretrained"] = pretrained.digest(start.source, architecture_of(job.model))
    _check_labeled(data)
    if teacher is not None:
        inputs["teacher"] = _teacher_inputs(job, data, teacher)
    return inputs


def _start(job: TrainJob, teacher: Teacher | None) -> Start | None:
    """Where the weights begin; None: fresh.

    Raises:
        UsageError: two places at once.
    """
    model, wanted = job.model, job.student.start
    if model.checkpoint is not None:
        other = "model.pretrained" if model.pretrained else "student.start=teacher" if wanted == "teacher" else None
        if other and (teacher is not None or model.pretrained):
            raise UsageError(
                f"model.checkpoint and {other} both say where the weights begin",
                next=f"leave out model.checkpoint: it goes on from a whole network; or leave out {other}",
            )
        return Start(str(one_network(model.checkpoint, job.stage)), whole=True)
    if teacher is not None and wanted != "pretrained":
        return Start(teacher.weights) if wanted == "teacher" else None
    return Start(model.pretrained) if model.pretrained else None


def _teacher_inputs(job: TrainJob, data: Data, teacher: Teacher) -> dict[str, Any]:
    if not job.student.unlabeled_ratio:
        raise NstError(
            "a teacher, but no unlabeled image in any batch",
            got="student.unlabeled_ratio=0",
            next="leave out teacher.run, or set student.unlabeled_ratio=1 or more",
        )
    assert data.unlabeled is not None  # `open_data` has them wherever there is a teacher
    require_noisable(teacher, "auto", job.trainer.accelerator)
    _check_classes(teacher, data)
    labels = pseudo_labels(teacher, data.unlabeled)
    # how often a teacher looked at pictures whose labels are stored tells the digest of the predictions
    noised = bool(labels and labels.predictions and labels.predictions.noised)
    looks = {} if teacher.mode == "online" else {"views": "one", "noised": noised}
    shown = differing(teacher.shown(data.pictures), data.pictures) if teacher.mode == "online" else None
    return {
        **{entry.name: getattr(teacher, entry.name) for entry in fields(Teaching)},
        **looks,
        **({"pictures": [asdict(each) for each in shown]} if shown else {}),
        "weights": teacher.digest,
        "unlabeled": data.unlabeled.digest,
        "selection": fingerprint(labels.summary) if labels else None,
        "predictions": labels.predictions.digest if labels and labels.predictions else None,
    }


def _check_labeled(data: Data) -> None:
    if not data.labeled.labeled:
        raise NstError(
            f"the shards in {data.labeled.folder} have no labels",
            valid="<key>.cls beside every image",
            next="set data.labeled to a labeled shard set",
        )
    if data.validation is not None and data.validation.classes != data.labeled.classes:
        raise NstError(
            "the labeled and the validation set have different classes",
            got=f"{len(data.validation.classes)} in {data.validation.folder}",
            valid=f"the {len(data.labeled.classes)} of {data.labeled.folder}, in the same order",
        )


def _check_classes(teacher: Teacher, data: Data) -> None:
    classes = read_info(teacher.weights).classes
    if classes != data.labeled.classes:
        differ = next((pair for pair in zip(classes, data.labeled.classes, strict=False) if pair[0] != pair[1]), None)
        raise NstError(
            "the teacher knows other classes than the labeled set",
            got=f"{len(classes)} classes" + (f", '{differ[0]}' where the data has '{differ[1]}'" if differ else ""),
            valid=f"the {len(data.labeled.classes)} classes of {data.labeled.folder}, in the same order",
            next="train the teacher on this data, or point data.labeled at the teacher's data",
        )


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration, says what is unwise in it, and runs the stage."""
    keep_apart(cfg, "train")  # before advice, which may be long
    advise(job_from(SurveyJob, cfg))
    result = from_cfg(cfg)
    say(f"{cfg.run_dir}: {summary_line(result)}")
    return result


def from_cfg(cfg: DictConfig) -> dict[str, Any]:
    """The training that the configuration asks for."""
    keep_apart(cfg, "train")
    return run(job_from(TrainJob, cfg, title="train"), Path(cfg.run_dir))


def check(job: TrainJob) -> None:
    """Tells now what this training would refuse at its start, its teacher apart.

    Raises:
        NstError: options or labeled data that do not fit together.
    """
    data, machine = resolving.open_data(job, unlabeled=False), resolving.machine(job.trainer)
    turns_for(job.teacher.views, job.data.pictures, option="teacher.views")
    require_noisable(job.teacher, "auto", job.trainer.accelerator)
    require_monitoring(job)
    _check_labeled(data)
    _checked_phases(job, data, machine)


def _checked_phases(job: TrainJob, data: Data, machine: Machine) -> list[Phase]:
    """The phases of a training; a mistake is told before anything is written.

    Raises:
        UsageError: no schedule or optimiser, a batch that does not divide, or a step that no device here can hold.
    """
    architecture, classes = architecture_of(job.model), len(data.labeled.classes)
    steps = phases(architecture, job.student, job.noise, data.labeled.samples)
    require_compilable(machine, job.model.remat)
    for phase in steps:
        _ = phase.schedule  # raises where there is none
        optimizer = phase.recipe.optimizer
        require_options(optimizer.name, optimizer.more, tensor_rate=machine.device_numbers)
        batch, accumulate = phase.recipe.labeled_batch_size, machine.accumulate
        require_divisible(batch, machine.devices_in_all, accumulate=accumulate, lanes=data.lanes)
    for phase in steps:
        cost = measure(architecture, classes, phase.image_size)
        planned = PhaseCost(
            0,
            phase.name,
            architecture.name,
            cost,
            phase.recipe,
            1,
            remat=job.model.remat,
            accumulate=machine.accumulate,
        )
        require_noise_by_image(phase, cost, architecture)
        require_room(planned, Numerics.of(machine.precision), machine.memory, devices=machine.memories)
    return steps


def summary_line(result: Mapping[str, Any]) -> str:
    """One line about a training: its model, data and validation accuracy."""
    accuracy = f", top-1 {result['top1']:.2f} %" if "top1" in result else ""
    size = f"{result['parameters'] / 1e6:.2f}M parameters"
    skipped = result["bad_samples"]
    note = f"; {skipped['count']} images could not be decoded: {skipped['names'][0]} ..." if skipped["count"] else ""
    steps = f"{result['labeled_samples']} labeled images, {result['steps']} steps"
    return f"{result['model']} ({size}), {steps}{accuracy}{note}"
