"""From configuration nodes to the typed arguments that several stages share."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from nst.config import build as build_from
from nst.config import plain
from nst.data.shard_set import ShardSet
from nst.data.views import Augmentation, Pictures
from nst.models.efficientnet import Architecture
from nst.stages.places import predictions_folder, selection_folder, teacher_weights
from nst.tracking import Tracking, WandbOptions
from nst.training.phases import Data, Noise, Teacher
from nst.training.recipe import ModelNoise, Side


def architecture_from(cfg: DictConfig) -> Architecture:
    node = plain(cfg.model)
    node.pop("checkpoint")
    return build_from(Architecture, node)


def noise_from(cfg: DictConfig) -> Noise:
    node = plain(cfg.noise)
    model = ModelNoise(
        dropout=node["dropout"],
        stochastic_depth=node["stochastic_depth"],
        labeled=build_from(Side, node["labeled"]),
        unlabeled=build_from(Side, node["unlabeled"]),
    )
    return Noise(build_from(Augmentation, node["randaugment"], min_area=node["min_area"]), model)


def data_from(cfg: DictConfig, *, unlabeled: bool) -> Data:
    node = cfg.data
    return Data(
        labeled=ShardSet.open(node.labeled),
        validation=ShardSet.open(node.test) if node.test else None,
        unlabeled=ShardSet.open(node.unlabeled) if unlabeled else None,
        pictures=build_from(Pictures, node.pictures),
    )


def teacher_from(cfg: DictConfig) -> Teacher | None:
    """The teacher of this training; None when no run or checkpoint is given: then labels are all there is."""
    node = cfg.teacher
    if node.run is None and node.checkpoint is None:
        return None
    return Teacher(
        weights=teacher_weights(cfg),
        mode=node.mode,
        targets=node.targets,
        temperature=node.temperature,
        predictions=predictions_folder(cfg),
        selection=selection_folder(cfg),
        image_size=node.image_size,
    )


def tracking_from(cfg: DictConfig) -> Tracking:
    """The loggers of one run: the table on disk, and a W&B run of its own."""
    node = plain(cfg.logger)
    wandb = build_from(WandbOptions, node["wandb"]) if node["wandb"] else None
    return Tracking(Path(cfg.run_dir), table=node["table"], wandb=wandb, config=plain(cfg), stage=str(cfg.stage))
