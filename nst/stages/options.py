"""From configuration nodes to the typed arguments that several stages share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from omegaconf import DictConfig

from nst.checking import check_fields
from nst.config import build as build_from
from nst.config import plain
from nst.data.remote import Remote
from nst.data.shard_set import ShardSet
from nst.data.transfer import is_remote
from nst.data.views import Augmentation, Pictures
from nst.errors import NstError
from nst.models.efficientnet import Architecture
from nst.robustness.options import RobustnessOptions
from nst.stages.places import predictions_folder, selection_folder, shards_place, teacher_weights
from nst.training.hardware import Hardware, Machine
from nst.training.phases import Data, Finetune, Noise
from nst.training.recipe import ModelNoise, Recipe, Side
from nst.training.teachers import Teacher
from nst.training.tracking import Tracking, WandbOptions


@dataclass(frozen=True)
class EvalOptions:
    """The `eval` group, as far as it concerns clean images.

    Args:
        image_size: px of the clean view; None is the network's own test size.
        confusion: keep the confusion matrix in the result (up to 1,000 classes).
    """

    batch_size: int = 256
    image_size: int | None = None
    confusion: bool = True

    def __post_init__(self) -> None:
        check_fields("eval", self)


def evaluation_from(cfg: DictConfig) -> tuple[EvalOptions, RobustnessOptions | None]:
    """What is measured on clean images, and what else; None where eval=clean asks for nothing else."""
    node = plain(cfg.eval)
    clean = {entry.name: node.pop(entry.name) for entry in fields(EvalOptions) if entry.name in node}
    return build_from(EvalOptions, clean), build_from(RobustnessOptions, node) if node else None


def machine_from(cfg: DictConfig) -> Machine:
    """The hardware that the `trainer` group names; torch_xla is loaded only for what runs on it."""
    if cfg.trainer.accelerator != "xla":
        return build_from(Hardware, cfg.trainer)
    from nst.xla.environment import require_torch_xla

    require_torch_xla()
    from nst.xla.hardware import XlaHardware

    return build_from(XlaHardware, cfg.trainer)


def architecture_from(cfg: DictConfig) -> Architecture:
    node = plain(cfg.model)
    for name in ("checkpoint", "remat"):  # where the weights come from and how they are trained, not what they are
        node.pop(name)
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


def open_shards(cfg: DictConfig, part: str) -> ShardSet:
    """The shard set that `data.<part>` names, on this machine or elsewhere."""
    return ShardSet.open(shards_place(cfg, part), build_from(Remote, cfg.remote))


def data_from(cfg: DictConfig, *, unlabeled: bool) -> Data:
    node = cfg.data
    return Data(
        labeled=open_shards(cfg, "labeled"),
        validation=open_shards(cfg, "test") if has_test_set(cfg) else None,
        unlabeled=open_shards(cfg, "unlabeled") if unlabeled else None,
        pictures=build_from(Pictures, node.pictures),
        lanes=cfg.lanes,
    )


def has_test_set(cfg: DictConfig) -> bool:
    """False where none is wanted: data.test=null, or data.test_samples=0 and so no shards of it."""
    folder = cfg.data.test
    return folder is not None and (cfg.data.test_samples != 0 or is_remote(folder) or Path(folder).exists())


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
    return open_shards(cfg, "test")


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
        predictions=predictions_folder(cfg) if node.run or node.predictions else None,
        selection=selection_folder(cfg) if node.run or node.selection else None,
        image_size=node.image_size,
        reassign=node.reassign,
    )


def tracking_from(cfg: DictConfig) -> Tracking:
    """The loggers of one run: the table on disk, and a W&B run of its own."""
    node = plain(cfg.logger)
    wandb = build_from(WandbOptions, node["wandb"]) if node["wandb"] else None
    return Tracking(Path(cfg.run_dir), table=node["table"], wandb=wandb, config=plain(cfg), stage=str(cfg.stage))
