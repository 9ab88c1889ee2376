"""From a job's options to machines, shards, teachers and loggers."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from nst.config import plain
from nst.data.shard_set import ShardSet
from nst.data.transfer import is_remote
from nst.errors import NstError
from nst.robustness.options import RobustnessOptions
from nst.settings.data import DataOptions, RemoteOptions
from nst.settings.job import TrainJob, trainer_of
from nst.settings.learning import TeacherOptions, Teaching
from nst.settings.measuring import EvalOptions, Evaluation
from nst.settings.trainer import TorchOptions, XlaOptions
from nst.stages.places import (
    has_validation_set,
    open_shards,
    predictions_folder,
    selection_folder,
    teacher_files,
)
from nst.training.fitting import Data
from nst.training.hardware import Hardware, Machine
from nst.training.teachers import Teacher


def measured(options: Evaluation) -> tuple[EvalOptions, RobustnessOptions | None]:
    """What is measured on clean images, and what else; None where eval=clean asks for nothing else."""
    robust = options.robustness
    return options.clean, RobustnessOptions(**vars(robust)) if robust is not None else None


def machine_from(cfg: DictConfig) -> Machine:
    """The hardware that the `trainer` group names."""
    return machine(trainer_of(plain(cfg.trainer)))


def machine(options: TorchOptions | XlaOptions) -> Machine:
    """The hardware of these options; torch_xla is loaded only for what runs on it."""
    if isinstance(options, TorchOptions):
        return Hardware(**vars(options))
    from nst.xla.environment import require_torch_xla

    require_torch_xla()
    from nst.xla.trainers import XlaHardware

    return XlaHardware(**vars(options))


def open_data(job: TrainJob, *, unlabeled: bool) -> Data:
    """The shards of a training, which is watched on the validation set, else on the test set, else on nothing."""
    data, remote, own = job.data, job.remote, has_validation_set(job.data)
    watched = "validation" if own else "test" if has_test_set(data) else None
    same = data.test is not None and os.path.realpath(str(data.validation)) == os.path.realpath(data.test)
    return Data(
        labeled=open_shards(data, "labeled", remote),
        validation=open_shards(data, watched, remote) if watched else None,
        unlabeled=open_shards(data, "unlabeled", remote) if unlabeled else None,
        pictures=data.pictures,
        lanes=job.lanes,
        watched_on_test=not own or same,
    )


def has_test_set(data: DataOptions) -> bool:
    """False where none is wanted: data.test=null, or data.test_samples=0 and so no shards of it."""
    folder = data.test
    return folder is not None and (data.test_samples != 0 or is_remote(folder) or Path(folder).exists())


def test_set(data: DataOptions, remote: RemoteOptions, stage: str) -> ShardSet:
    """The shards that an evaluation needs.

    Raises:
        NstError: there is no test set.
    """
    if not has_test_set(data):
        raise NstError(
            f"nst {stage} needs a test set",
            got=f"data.test={data.test or 'null'}, data.test_samples={data.test_samples}",
            valid="a folder of labeled shards, as nst shard makes one with data.test_samples=<number>",
            next=f"nst {stage} data.test=<folder of shards>",
        )
    return open_shards(data, "test", remote)


def teacher(options: TeacherOptions, stage: str, *, typed: bool = False) -> Teacher | None:
    """The teacher of a training; None when no run or checkpoint is given: then labels are all there is.

    Args:
        typed: the command line says of which kind pictures are.
    """
    if options.run is None and options.checkpoint is None:
        return None
    weights, *others = teacher_files(options, stage)
    online = options.mode == "online" and not isinstance(options.run, str)  # several need no folders then
    return Teacher(
        weights=weights,
        others=tuple(others),
        typed=typed,
        predictions=predictions_folder(options, stage) if options.predictions or (options.run and not online) else None,
        selection=selection_folder(options, stage) if options.selection or (options.run and not online) else None,
        **{field.name: getattr(options, field.name) for field in fields(Teaching)},
    )
