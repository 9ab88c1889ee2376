"""`nst train`: labeled (and selected pseudo-labeled) shards → a teacher or a noised student.

Two phases at most: training at the training size, then FixRes fine-tuning (METHOD) on labeled images without
augmentation at the larger size. Both networks are kept: checkpoints/trained.safetensors and finetuned.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from nst.config import plain
from nst.data.datamodule import require_divisible
from nst.documents import fingerprint, read_json
from nst.errors import NstError
from nst.models.checkpoints import read_info
from nst.models.efficientnet import Architecture, build
from nst.models.released import weights_digest
from nst.plan.budget import Numerics, Training
from nst.plan.limits import require_room
from nst.plan.network import measure
from nst.progress import say
from nst.runs import Run, final_weights, is_rank_zero, known_sha256, require_undamaged, wait_until_seen
from nst.stages.apart import keep_apart
from nst.stages.monitor import monitor_from, require_monitoring
from nst.stages.options import (
    architecture_from,
    data_from,
    machine_from,
    noise_from,
    recipes_from,
    teacher_from,
    tracking_from,
)
from nst.training.callbacks import bad_sample_summary
from nst.training.compiling import require_compilable
from nst.training.hardware import Machine
from nst.training.monitor import Monitor
from nst.training.phases import (
    Data,
    Finetune,
    Noise,
    Phase,
    Setup,
    fit,
    learning_rates,
    phases,
)
from nst.training.recipe import Recipe
from nst.training.teachers import Teacher, pseudo_labels
from nst.training.tracking import Tracking


def run(
    directory: Path,
    *,
    architecture: Architecture,
    recipe: Recipe,
    noise: Noise,
    data: Data,
    teacher: Teacher | None,
    finetune: Finetune,
    hardware: Machine,
    tracking: Tracking,
    start: Path | str | None = None,
    remat: bool = False,
    monitor: Monitor | None = None,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    label: str = "train",
) -> dict[str, Any]:
    """Trains one network and returns its result; a finished run is returned as it is, a killed one continued.

    Args:
        start: weights to start from.
        remat: compute each block's activations again in the backward pass instead of keeping them.
        monitor: what is measured on the way; it changes nothing of the training, so it is no input of it.

    Raises:
        NstError: inputs that do not fit together, a loss that is not finite, too many bad samples.
    """
    inputs = _inputs(
        architecture,
        recipe,
        noise,
        data,
        teacher,
        finetune,
        start,
        seed=seed,
        max_bad_fraction=max_bad_fraction,
        # BatchNorm sees micro-batches; a run without them is known by the same inputs as ever
        **({"accumulate": hardware.accumulate} if hardware.accumulate > 1 else {}),
    )
    steps = phases(architecture, recipe, noise, finetune, data.labeled.samples)
    require_compilable(hardware, remat)
    for phase in steps:
        # a mistake is told before anything is written
        learning_rates(phase.recipe, data.labeled.samples)
        batch, accumulate = phase.recipe.labeled_batch_size, hardware.accumulate
        require_divisible(batch, hardware.devices_in_all, accumulate=accumulate, lanes=data.lanes)
    _require_room(steps, architecture, len(data.labeled.classes), remat, hardware)
    with Run(
        directory, "train", inputs, config=config, overwrite=overwrite, collective=True, files=["metrics.csv"]
    ) as run_:
        if hardware.agreed(run_.done):
            if is_rank_zero():
                final_weights(run_.directory)
            return run_.result()
        setup = Setup(
            run_.directory,
            architecture,
            data,
            teacher,
            hardware,
            tracking,
            seed,
            max_bad_fraction,
            label,
            remat,
            monitor,
        )
        result: dict[str, Any] = {
            "model": architecture.name or "network",
            **_facts(architecture, data, recipe),
        }
        weights, bad = start, set[str]()
        for phase in steps:
            if not hardware.agreed(setup.summary_path(phase).exists()):
                fit(setup, phase, weights)
            kept = weights = wait_until_seen(setup.weights_path(phase))
            summary = read_json(wait_until_seen(setup.summary_path(phase)))
            if is_rank_zero():
                require_undamaged(kept, summary["weights_sha256"])
            bad.update(summary.pop("bad_samples"))
            del summary["metrics_bytes"]
            result.update(summary)
            result["weights"] = str(kept.relative_to(run_.directory))
        result["bad_samples"] = bad_sample_summary(bad)
        tracking.summarize(result)
        return run_.finish(result)


def _facts(architecture: Architecture, data: Data, recipe: Recipe) -> dict[str, Any]:
    with torch.device("meta"):
        network = build(architecture, len(data.labeled.classes))
    return {
        "architecture": asdict(architecture),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "classes": len(data.labeled.classes),
        "labeled_samples": data.labeled.samples,
        "steps": recipe.total_steps(data.labeled.samples),
    }


def _inputs(
    architecture: Architecture,
    recipe: Recipe,
    noise: Noise,
    data: Data,
    teacher: Teacher | None,
    finetune: Finetune,
    start: Path | str | None,
    **more: Any,
) -> dict[str, Any]:
    """All that the result depends on; files by their content. Checks on the way that it fits together.

    Raises:
        NstError: classes of teacher, data and selection differ, or there are fewer images than asked for.
    """
    inputs = {
        "architecture": asdict(architecture),
        "recipe": asdict(recipe),
        "noise": asdict(noise),
        "finetune": asdict(finetune) if finetune.epochs else None,
        "pictures": asdict(data.pictures),
        "labeled": data.labeled.digest,
        "validation": data.validation.digest if data.validation else None,
        "start": weights_digest(start) if start else None,
        **more,
    }
    if data.lanes > 1:
        inputs["lanes"] = data.lanes  # one lane is the order of runs that know of none
    _check_labeled(data)
    if teacher is not None:
        if not recipe.unlabeled_ratio:
            raise NstError(
                "a teacher, but no unlabeled image in any batch",
                got="student.unlabeled_ratio=0",
                next="leave out teacher.run, or set student.unlabeled_ratio=1 or more",
            )
        if data.unlabeled is None:
            raise NstError("a teacher without unlabeled images", next="set data.unlabeled, or leave out teacher.run")
        _check_classes(teacher, data)
        labels = pseudo_labels(teacher, data.unlabeled)
        inputs["teacher"] = {
            **{name: value for name, value in asdict(teacher).items() if not isinstance(value, Path)},
            "weights": known_sha256(teacher.weights),
            "unlabeled": data.unlabeled.digest,
            "selection": fingerprint(labels.summary) if labels else None,
            "predictions": labels.predictions.digest if labels and labels.predictions else None,
        }
    return inputs


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
    from nst.stages.doctor import advise  # which knows of all stages

    advise(cfg)
    result = from_cfg(cfg)
    say(f"{cfg.run_dir}: {summary_line(result)}")
    return result


def from_cfg(cfg: DictConfig, *, label: str = "train") -> dict[str, Any]:
    """`run` with the arguments that the configuration asks for."""
    keep_apart(cfg, "train")
    directory = Path(cfg.run_dir)
    recipe, finetune = recipes_from(cfg)
    teacher = teacher_from(cfg)
    if teacher is None:
        recipe = replace(recipe, unlabeled_ratio=0)
    data, hardware = data_from(cfg, unlabeled=teacher is not None), machine_from(cfg)
    monitor = monitor_from(cfg, data, hardware, label=label)
    with tracking_from(cfg) as tracking:
        return run(
            directory,
            architecture=architecture_from(cfg),
            recipe=recipe,
            noise=noise_from(cfg),
            data=data,
            teacher=teacher,
            finetune=finetune,
            hardware=hardware,
            tracking=tracking,
            start=cfg.model.checkpoint,
            remat=cfg.model.remat,
            monitor=monitor,
            seed=cfg.seed,
            max_bad_fraction=cfg.max_bad_fraction,
            config=plain(cfg),
            overwrite=cfg.overwrite,
            label=label,
        )


def check(cfg: DictConfig) -> None:
    """Tells now what a training of this configuration would refuse at its start, its teacher apart.

    Raises:
        NstError: options or labeled data that do not fit together.
    """
    (recipe, finetune), architecture, data = recipes_from(cfg), architecture_from(cfg), data_from(cfg, unlabeled=False)
    hardware = machine_from(cfg)
    require_compilable(hardware, cfg.model.remat)
    require_monitoring(cfg)
    _check_labeled(data)
    _facts(architecture, data, recipe)  # builds the network, without memory
    steps = phases(architecture, recipe, noise_from(cfg), finetune, data.labeled.samples)
    for phase in steps:
        learning_rates(phase.recipe, data.labeled.samples)
        batch, accumulate = phase.recipe.labeled_batch_size, hardware.accumulate
        require_divisible(batch, hardware.devices_in_all, accumulate=accumulate, lanes=data.lanes)
    _require_room(steps, architecture, len(data.labeled.classes), cfg.model.remat, hardware)


def _require_room(
    steps: Sequence[Phase], architecture: Architecture, classes: int, remat: bool, hardware: Machine
) -> None:
    """Raises UsageError for a step that no device here can hold."""
    for phase in steps:
        cost = measure(architecture, classes, phase.image_size)
        planned = Training(
            0, phase.name, architecture.name, cost, phase.recipe, 1, remat=remat, accumulate=hardware.accumulate
        )
        require_room(planned, Numerics.of(hardware.precision), hardware.memory, devices=hardware.memories)


def summary_line(result: Mapping[str, Any]) -> str:
    """One line about a training: its model, data and validation accuracy."""
    accuracy = f", top-1 {result['top1']:.2f} %" if "top1" in result else ""
    size = f"{result['parameters'] / 1e6:.2f}M parameters"
    skipped = result["bad_samples"]
    note = f"; {skipped['count']} images could not be decoded: {skipped['names'][0]} ..." if skipped["count"] else ""
    steps = f"{result['labeled_samples']} labeled images, {result['steps']} steps"
    return f"{result['model']} ({size}), {steps}{accuracy}{note}"
