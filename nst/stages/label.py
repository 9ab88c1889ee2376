"""`nst label`: the un-noised teacher labels every unlabeled image (Algorithm 1, step 2) → predictions/*.parquet.

One Parquet file per shard, written whole when the shard is through: a killed run starts again at the first shard
without a file. A batch never spans two shards, so a file's bytes do not depend on where an earlier attempt stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst.checking import check_values
from nst.config import build as build_from
from nst.config import plain
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import PredictionMetadata, finish_predictions
from nst.data.shard_set import ShardSet
from nst.data.views import Pictures, clean_view
from nst.documents import fingerprint
from nst.errors import NstError
from nst.machine import require_batch
from nst.models.checkpoints import read_info
from nst.progress import say
from nst.runs import Run, is_rank_zero, known_sha256
from nst.stages.apart import keep_apart
from nst.stages.options import machine_from, open_shards
from nst.stages.places import predictions_folder, teacher_weights
from nst.training.callbacks import SHOWN_NAMES, check_bad_share
from nst.training.label_engines import LabelEngine, LabelJob, LightningEngine


def run(
    output: Path,
    *,
    teacher: Path,
    unlabeled: ShardSet,
    pictures: Pictures,
    engine: LabelEngine,
    image_size: int | None = None,
    batch_size: int = 256,
    keep: float = 0.0,
    precision: str = "auto",
    max_bad_fraction: float = 0.01,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    label: str = "label",
) -> dict[str, Any]:
    """Writes the teacher's distribution for every image of `unlabeled` into `output`; returns a summary.

    Args:
        teacher: the teacher's network file.
        image_size: px of the clean view; None is the teacher's own test size.
        keep: probabilities are stored where the confidence is at least this.
        precision: "auto" is bf16 where the engine's hardware computes in it, else float32.

    Raises:
        NstError: no such teacher or precision, options out of range, or too many bad images.
    """
    check_values("label", batch_size=batch_size, keep=keep)
    info = read_info(teacher)
    size = image_size or info.image_size
    require_batch("label.batch_size", batch_size, size)
    digest = known_sha256(teacher)
    resolved = engine.precision(precision)
    inputs = {
        "teacher": digest,
        "unlabeled": unlabeled.digest,
        "image_size": size,
        "pictures": pictures,
        "batch_size": batch_size,
        "keep": keep,
        "precision": resolved,
    }
    metadata = PredictionMetadata(digest, info.classes, size, "", "", {"inputs": fingerprint(inputs)})
    files = PredictionFiles(output.absolute(), metadata, keep)
    with Run(
        output, "label", inputs, config=config, overwrite=overwrite, collective=engine.collective,
        files=["predictions.json", *(name for shard in unlabeled.shards for name in files.names(shard))],
    ) as run_:  # fmt: skip
        todo = engine.agreed([number for number, shard in enumerate(unlabeled.shards) if not files.written(shard)])
        if engine.agreed(run_.done) and not todo:
            return run_.result()
        if todo:
            view, batch = clean_view(size, pictures), engine.batch_size(batch_size)
            engine.label(LabelJob(teacher, output, unlabeled, view, batch, resolved, files.write, label), todo)
        bad = [name for shard in unlabeled.shards for name in files.bad_samples(shard)]
        check_bad_share(set(bad), unlabeled.samples, max_bad_fraction)
        summary = {
            "teacher": digest,
            "classes": len(info.classes),
            "image_size": size,
            "precision": resolved,
            "images": unlabeled.samples,
            "labeled_images": unlabeled.samples - len(bad),
            "bad_samples": {"count": len(bad), "names": bad[:SHOWN_NAMES]},
        }
        if is_rank_zero():
            finish_predictions(output, summary)
        return run_.finish(summary)


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    skipped = result["bad_samples"]["count"]
    note = f", {skipped} could not be decoded: {', '.join(result['bad_samples']['names'][:3])}" if skipped else ""
    by = f"{result['teacher'][:12]} in {result['precision']}"
    say(f"{predictions_folder(cfg)}: {result['labeled_images']} images labeled by {by}{note}")
    return result


def from_cfg(cfg: DictConfig, *, label: str = "label") -> dict[str, Any]:
    """`run` with the arguments that the configuration asks for."""
    keep_apart(cfg, "label")
    options = plain(cfg.label)
    engine = _engine(cfg, options.pop("engine"), options.pop("ray"))
    return run(
        predictions_folder(cfg),
        teacher=teacher_weights(cfg),
        unlabeled=open_shards(cfg, "unlabeled"),
        pictures=build_from(Pictures, cfg.data.pictures),
        engine=engine,
        image_size=cfg.teacher.image_size,
        max_bad_fraction=cfg.max_bad_fraction,
        config=plain(cfg),
        overwrite=cfg.overwrite,
        label=label,
        **options,
    )


def _engine(cfg: DictConfig, name: str, ray: Mapping[str, Any]) -> LabelEngine:
    if name == "lightning":
        return LightningEngine(machine_from(cfg))
    if cfg.trainer.accelerator not in ("cpu", "gpu"):
        raise NstError(
            "label.engine=ray runs on CPUs and GPUs",
            got=f"trainer with accelerator={cfg.trainer.accelerator}",
            valid="trainer=cpu or trainer=gpu",
            next="label.engine=lightning",
        )
    from nst.training.label_ray import RayEngine

    return build_from(
        RayEngine,
        ray,
        accelerator=cfg.trainer.accelerator,
        channels_last=cfg.trainer.channels_last,
        workers=cfg.trainer.workers,
        prefetch=cfg.trainer.prefetch,
    )
