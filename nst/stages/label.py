"""`nst label`: the un-noised teacher labels every unlabeled image (Algorithm 1, step 2) → predictions/*.parquet.

One Parquet file per shard, written whole when the shard is through: a killed run starts again at the first shard
without a file. A batch never spans two shards, so a file's bytes do not depend on where an earlier attempt stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from nst.config import job_from, require_values
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import PredictionMetadata, finish_predictions
from nst.documents import fingerprint
from nst.errors import NstError
from nst.machine import require_batch
from nst.progress import say
from nst.run_inputs import identity
from nst.runs import Run
from nst.settings.job import LabelJob
from nst.settings.trainer import TorchOptions
from nst.sharing import is_rank_zero
from nst.stages.apart import keep_apart
from nst.stages.places import has_validation_set, open_shards, predictions_folder, teacher_files
from nst.stages.resolving import machine
from nst.stages.unread import says_pictures
from nst.training.callbacks import SHOWN_NAMES, check_bad_share
from nst.training.ensemble import differing, shown_to, teachers
from nst.training.label_engines import LightningEngine, ShardsToLabel
from nst.training.noised_teacher import noised, require_noisable

if TYPE_CHECKING:
    from nst.training.label_ray import RayEngine


def run(job: LabelJob, output: Path) -> dict[str, Any]:
    """Writes the teacher's distribution for every unlabeled image into `output`; returns a summary.

    Validation images, where there are some, are labeled too, into validation/ in it: what the teacher says of them
    tells how right its labels are (nst/data/forecast.py).

    Raises:
        NstError: no such teacher or precision, or too many bad images.
    """
    engine = _engine(job)
    result = _label(job, engine, "unlabeled", output)
    if engine.agreed(has_validation_set(job.data)):  # afterwards: overwrite=true deletes all that is in output
        _label(job, engine, "validation", output / "validation")
    return result


def _label(job: LabelJob, engine: LightningEngine | RayEngine, part: str, output: Path) -> dict[str, Any]:
    options, pictures = job.label, job.data.pictures
    networks, config = teacher_files(job.teacher, job.stage), require_values(job.config)
    shown = shown_to(networks, pictures, typed=says_pictures(config))
    teacher = teachers(networks, job.teacher, shown)
    if job.teacher.noised:
        require_noisable(job.teacher, options.precision, job.trainer.accelerator)
        teacher = noised(teacher, shown)
    unlabeled = open_shards(job.data, part, job.remote)
    size, digest = teacher.image_size, teacher.digest
    require_batch("label.batch_size", options.batch_size, size)
    resolved = engine.precision("32-true" if job.teacher.noised else options.precision)
    inputs = {
        "teacher": digest,
        "unlabeled": unlabeled.digest,
        "image_size": size,
        "pictures": differing(shown, pictures) or pictures,
        "turns": len(teacher.turns),
        "noise_of_labels": [member.noise for member in teacher.members] if job.teacher.noised else "none",
        "batch_size": options.batch_size,
        "keep": options.keep,
        "precision": resolved,
    }
    metadata = PredictionMetadata(digest, teacher.classes, size, "", "", {"inputs": fingerprint(identity(inputs))})
    files = PredictionFiles(output.absolute(), metadata, options.keep)
    with Run(
        output, "label", inputs, config=config, overwrite=job.overwrite, collective=engine.collective,
        files=["predictions.json", *(name for shard in unlabeled.shards for name in files.names(shard))],
    ) as run_:  # fmt: skip
        todo = engine.agreed([number for number, shard in enumerate(unlabeled.shards) if not files.written(shard)])
        if engine.agreed(run_.done) and not todo:
            return run_.result()
        if todo:
            batch = engine.batch_size(options.batch_size)
            work = ShardsToLabel(teacher, output, unlabeled, batch, resolved, files.write, job.title)
            if done := len(unlabeled.shards) - len(todo):
                say(f"{job.title}: continuing, {done} of {len(unlabeled.shards)} shards are labeled")
            engine.label(work, todo)
        bad = [name for shard in unlabeled.shards for name in files.bad_samples(shard)]
        check_bad_share(set(bad), unlabeled.samples, job.max_bad_fraction)
        summary = {
            "teacher": digest,
            "classes": len(teacher.classes),
            "image_size": size,
            "precision": resolved,
            "images": unlabeled.samples,
            "labeled_images": unlabeled.samples - len(bad),
            "bad_samples": {"count": len(bad), "names": bad[:SHOWN_NAMES]},
            **({"noised": True} if job.teacher.noised else {}),
        }
        if is_rank_zero():
            finish_predictions(output, summary)
        return run_.finish(summary)


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    skipped = result["bad_samples"]["count"]
    note = f", {skipped} could not be decoded: {', '.join(result['bad_samples']['names'][:3])}" if skipped else ""
    by = f"{', '.join(one[:12] for one in result['teacher'].split('+'))} in {result['precision']}"
    say(f"{predictions_folder(cfg.teacher, cfg.stage)}: {result['labeled_images']} images labeled by {by}{note}")
    return result


def from_cfg(cfg: DictConfig) -> dict[str, Any]:
    """The labeling that the configuration asks for."""
    keep_apart(cfg, "label")
    job = job_from(LabelJob, cfg, title="label")
    return run(job, predictions_folder(job.teacher, job.stage))


def _engine(job: LabelJob) -> LightningEngine | RayEngine:
    trainer = job.trainer
    if job.label.engine == "lightning":
        return LightningEngine(machine(trainer))
    if not isinstance(trainer, TorchOptions):
        raise NstError(
            "label.engine=ray runs on CPUs and GPUs",
            got=f"trainer with accelerator={trainer.accelerator}",
            valid="trainer=cpu or trainer=gpu",
            next="label.engine=lightning",
        )
    from nst.training.label_ray import RayEngine

    return RayEngine(
        **vars(job.label.ray),
        accelerator=trainer.accelerator,
        channels_last=trainer.channels_last,
        workers=trainer.workers,
        prefetch=trainer.prefetch,
    )
