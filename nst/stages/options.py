"""From configuration nodes to the typed arguments that several stages share."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from nst.config import build as build_from
from nst.config import plain
from nst.data.shard_set import ShardSet
from nst.data.views import Augmentation, Pictures
from nst.errors import NstError
from nst.models.efficientnet import Architecture
from nst.stages.places import predictions_folder, selection_folder, teacher_weights
from nst.training.phases import Data, Finetune, Noise
from nst.training.recipe import ModelNoise, Recipe, Side
from nst.training.teachers import Teacher
from nst.training.tracking import Tracking, WandbOptions


def architecture_from(cfg: DictConfig) -> Architecture:
    node = plain(cfg.model)
    node.pop("checkpoint")
    return build_from(Architecture, node)


def recipes_from(cfg: DictConfig) -> tuple[Recipe, Finetune]:
    """How the network learns, and how it is fine-tuned after."""
    node = plain(cfg.student)
    finetune = build_from(Finetune, node.pop("finetune"))
    return build_from(Recipe, node), finetune


def noise_from(cfg: DictConfig) -> Noise:
    node = plain(cfg.noise)
    crop = {name: node[name] for name in ("min_area", "crop_sampler", "crop_resize")}
    model = ModelNoise(
        dropout=node["dropout"],
        stochastic_depth=node["stochastic_depth"],
        labeled=build_from(Side, node["labeled"]),
        unlabeled=build_from(Side, node["unlabeled"]),
    )
    return Noise(build_from(Augmentation, node["randaugment"], **crop), model)


def data_from(cfg: DictConfig, *, unlabeled: bool) -> Data:
    node = cfg.data
    return Data(
        labeled=ShardSet.open(node.labeled),
        validation=ShardSet.open(node.test) if has_test_set(cfg) else None,
        unlabeled=ShardSet.open(node.unlabeled) if unlabeled else None,
        pictures=build_from(Pictures, node.pictures),
    )


def has_test_set(cfg: DictConfig) -> bool:
    """False where none is wanted: data.test=null, or data.test_samples=0 and so no shards of it."""
    folder = cfg.data.test
    return folder is not None and (cfg.data.test_samples != 0 or Path(folder).exists())


def test_set(cfg: DictConfig) -> ShardSet:
    """The shards that an evaluation needs.

    Raises:
        NstError: there is no test set.
    """
    if not has_test_set(cfg):
        raise NstError(
            f"nst {cfg.stage} needs a test set",
            got=f"data.test={cfg.data.test or 'null'}, data.test_samples={cfg.data.test_samples}",
            valid="a folder of labeled shards",
            next=f"nst {cfg.stage} data.test=<folder of shards>, or make one: nst shard data.test_samples=<number>",
        )
    return ShardSet.open(cfg.data.test)


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
        reassign=node.reassign,
    )


def tracking_from(cfg: DictConfig) -> Tracking:
    """The loggers of one run: the table on disk, and a W&B run of its own."""
    node = plain(cfg.logger)
    wandb = build_from(WandbOptions, node["wandb"]) if node["wandb"] else None
    return Tracking(Path(cfg.run_dir), table=node["table"], wandb=wandb, config=plain(cfg), stage=str(cfg.stage))
