"""`nst label`: the un-noised teacher labels every unlabeled image (Algorithm 1, step 2) → predictions/*.parquet.

One Parquet file per shard, written whole when the shard is through: a killed run starts again at the first shard
without a file. A batch never spans two shards, so a file's bytes do not depend on where an earlier attempt stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from nst.config import build as build_from
from nst.config import plain
from nst.data.batches import EvaluationBatches
from nst.data.datamodule import evaluation_loader
from nst.data.predictions import PredictionMetadata, parquet_name, write_predictions
from nst.data.shard_set import ShardSet
from nst.data.views import Pictures, clean_view
from nst.models.checkpoints import NetworkInfo, load_network, read_info
from nst.progress import Bar, say
from nst.runs import Run, fingerprint, is_rank_zero, read_json, sha256_file, write_json
from nst.stages.places import predictions_folder, teacher_weights
from nst.training.callbacks import SHOWN_NAMES, check_bad_share
from nst.training.hardware import Hardware
from nst.training.labeler import Labeler, ShardByShard


def run(
    output: Path,
    *,
    teacher: Path,
    unlabeled: ShardSet,
    pictures: Pictures,
    hardware: Hardware,
    image_size: int | None = None,
    batch_size: int = 256,
    keep: float = 0.0,
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

    Raises:
        NstError: no such teacher, or too many bad images.
    """
    info = read_info(teacher)
    size = image_size or info.image_size
    digest = sha256_file(teacher)
    inputs = {
        "teacher": digest,
        "unlabeled": unlabeled.digest,
        "image_size": size,
        "pictures": pictures,
        "batch_size": batch_size,
        "keep": keep,
        "precision": str(hardware.precision),
    }
    with Run(output, "label", inputs, config=config, overwrite=overwrite, collective=True) as run_:
        if run_.done:
            return run_.result()
        writer = _ShardFiles(output, unlabeled, info, digest, size, keep, inputs)
        todo = [number for number in range(len(unlabeled.shards)) if not writer.written(number)]
        view = clean_view(size, pictures)
        batches = EvaluationBatches(unlabeled, view, batch_size=batch_size, only=todo)
        _predict(writer, teacher, batches, hardware, unlabeled, label)
        bad = writer.bad_samples()
        check_bad_share(set(bad), unlabeled.samples, max_bad_fraction)
        summary = {
            "teacher": digest,
            "classes": len(info.classes),
            "image_size": size,
            "precision": hardware.precision,
            "images": unlabeled.samples,
            "labeled_images": unlabeled.samples - len(bad),
            "bad_samples": {"count": len(bad), "names": bad[:SHOWN_NAMES]},
        }
        if is_rank_zero():
            write_json(output / "predictions.json", summary)
        return run_.finish(summary)


def _predict(
    writer: _ShardFiles,
    teacher: Path,
    batches: EvaluationBatches,
    hardware: Hardware,
    unlabeled: ShardSet,
    label: str,
) -> None:
    if not len(batches):
        return
    network, _ = load_network(teacher)
    # a rank labels whole shards: its own, every world_size-th
    trainer = hardware.trainer(writer.folder)
    rank, world_size = trainer.global_rank, trainer.world_size
    own = batches.numbers[rank::world_size]
    batches = EvaluationBatches(unlabeled, batches.view, batch_size=batches.batch_size, only=own)
    done = unlabeled.samples - sum(batches.sizes)
    with Bar(label, unlabeled.samples, start=done, quiet=rank > 0) as bar:
        collector = ShardByShard(
            [(number, -(-size // batches.batch_size)) for number, size in zip(own, batches.sizes, strict=True)],
            writer.write,
            lambda images: bar.update(bar.step + images),
        )
        trainer = hardware.trainer(writer.folder, callbacks=[collector])
        loader = evaluation_loader(batches, hardware.loader, pin_memory=hardware.pin_memory)
        trainer.predict(Labeler(hardware.place(network)), loader, return_predictions=False)
        trainer.strategy.barrier("labeled")


class _ShardFiles:
    """The Parquet files of one labeling, and which samples of each shard were bad."""

    def __init__(
        self,
        folder: Path,
        unlabeled: ShardSet,
        info: NetworkInfo,
        digest: str,
        image_size: int,
        keep: float,
        inputs: Mapping[str, Any],
    ) -> None:
        self.folder, self.unlabeled, self.keep = folder, unlabeled, keep
        extra = {"inputs": fingerprint(inputs)}
        self.metadata = PredictionMetadata(digest, info.classes, image_size, "", "", extra)

    def path(self, number: int) -> Path:
        return self.folder / parquet_name(self.unlabeled.shards[number].name)

    def written(self, number: int) -> bool:
        return self.path(number).exists() and self._bad_path(number).exists()

    def write(self, number: int, index: np.ndarray, keys: list[str], probs: np.ndarray, bad: list[str]) -> None:
        shard = self.unlabeled.shards[number]
        metadata = replace(self.metadata, shard_name=shard.name, shard_sha256=shard.sha256)
        write_json(self._bad_path(number), bad)
        write_predictions(self.path(number), index=index, keys=keys, probs=probs, metadata=metadata, keep=self.keep)

    def bad_samples(self) -> list[str]:
        """Names of the images that could not be decoded, over all shards and attempts."""
        return [name for number in range(len(self.unlabeled.shards)) for name in read_json(self._bad_path(number))]

    def _bad_path(self, number: int) -> Path:
        return self.folder / "bad" / f"{Path(self.unlabeled.shards[number].name).stem}.json"


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    skipped = result["bad_samples"]["count"]
    note = f", {skipped} could not be decoded: {', '.join(result['bad_samples']['names'][:3])}" if skipped else ""
    say(f"{predictions_folder(cfg)}: {result['labeled_images']} images labeled by {result['teacher'][:12]}{note}")
    return result


def from_cfg(cfg: DictConfig, *, label: str = "label") -> dict[str, Any]:
    """`run` with the arguments that the configuration asks for."""
    return run(
        predictions_folder(cfg),
        teacher=teacher_weights(cfg),
        unlabeled=ShardSet.open(cfg.data.unlabeled),
        pictures=build_from(Pictures, cfg.data.pictures),
        hardware=build_from(Hardware, cfg.trainer),
        image_size=cfg.teacher.image_size,
        max_bad_fraction=cfg.max_bad_fraction,
        config=plain(cfg),
        overwrite=cfg.overwrite,
        label=label,
        **plain(cfg.label),
    )
