"""Jobs of stages: a frozen dataclass of the groups that a stage reads. The configuration ends here.

A stage's `main(cfg)` makes its job of the configuration (`job_of`), and `run(job, directory)` does the work. What a
stage reads at all follows from its job, too (`nst.stage_table`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_type_hints

from nst.settings.data import DataOptions, RemoteOptions
from nst.settings.fields import Group, made_of
from nst.settings.learning import StudentOptions, TeacherOptions
from nst.settings.measuring import EvalOptions, Evaluation, LoggerOptions, RobustnessSettings
from nst.settings.network import Model, Noise, TimmModel
from nst.settings.stages import (
    DoctorOptions,
    EvaluateOptions,
    ExportOptions,
    IterateOptions,
    LabelOptions,
    PlanOptions,
    PredictOptions,
    ReportOptions,
    SelectOptions,
    ShardOptions,
)
from nst.settings.trainer import TorchOptions, XlaOptions


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all jobs have.

    Args:
        config: the whole configuration as plain values, which is kept beside the result; `???` where none was given.
        title: beside the progress bar.
    """

    stage: str
    name: str
    overwrite: bool
    config: Mapping[str, Any]
    title: str


@dataclass(frozen=True, kw_only=True)
class LabelJob(Job):
    """The unlabeled images, labeled by one teacher."""

    max_bad_fraction: float
    label: LabelOptions
    teacher: TeacherOptions
    data: DataOptions
    remote: RemoteOptions
    trainer: TorchOptions | XlaOptions


@dataclass(frozen=True, kw_only=True)
class PredictJob(Job):
    """Pictures without labels, and the network that is asked about them."""

    predict: PredictOptions
    model: Model
    remote: RemoteOptions
    trainer: TorchOptions | XlaOptions
    run_dir: str
    overrides: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SelectJob(Job):
    """Of the teacher's labels those from which a student learns."""

    seed: int
    select: SelectOptions
    teacher: TeacherOptions
    data: DataOptions
    remote: RemoteOptions


@dataclass(frozen=True, kw_only=True)
class ShardJob(Job):
    """Shards from images, or of a selection."""

    seed: int
    max_bad_fraction: float
    shard: ShardOptions
    data: DataOptions
    remote: RemoteOptions
    teacher: TeacherOptions


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """A training: of a teacher, or of a noised student."""

    seed: int
    max_bad_fraction: float
    model: Model | TimmModel
    student: StudentOptions
    noise: Noise
    teacher: TeacherOptions
    data: DataOptions
    remote: RemoteOptions
    trainer: TorchOptions | XlaOptions
    logger: LoggerOptions
    eval: Evaluation
    lanes: int


T = TypeVar("T", bound=Job)


@dataclass(frozen=True, kw_only=True)
class ExportJob(Job):
    """A trained network for other programs, or released weights as one of ours."""

    export: ExportOptions
    model: Model | TimmModel
    data: DataOptions
    run_dir: str


@dataclass(frozen=True, kw_only=True)
class ReportJob(Job):
    """Run directories as a page, or as a table or figure of the paper."""

    report: ReportOptions
    logger: LoggerOptions
    run_dir: str
    overrides: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Job):
    """A network, measured on test images."""

    max_bad_fraction: float
    evaluate: EvaluateOptions
    model: Model
    data: DataOptions
    remote: RemoteOptions
    trainer: TorchOptions | XlaOptions
    logger: LoggerOptions
    eval: Evaluation
    run_dir: str


@dataclass(frozen=True, kw_only=True)
class GenerationJob(TrainJob, LabelJob, EvaluateJob):
    """One generation of Algorithm 1: its training, its evaluation, and how its teacher labels."""


@dataclass(frozen=True, kw_only=True)
class GenerationsJob(Job):
    """What says which generations there are (`nst.stages.generations`)."""

    seed: int
    iterate: IterateOptions
    teacher: TeacherOptions
    run_dir: str
    overrides: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class IterateJob(GenerationsJob):
    """Algorithm 1, over all generations."""

    shard: ShardOptions
    data: DataOptions
    remote: RemoteOptions
    trainer: TorchOptions | XlaOptions
    paper: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class SurveyJob(GenerationsJob, TrainJob):
    """A generation as `doctor` and `plan` look at it: its training, and what lies before and after."""

    label: LabelOptions
    select: SelectOptions
    plan: PlanOptions
    doctor: DoctorOptions


def trainer_of(values: Mapping[str, Any]) -> TorchOptions | XlaOptions:
    """The `trainer` group, which has other options on XLA."""
    return made_of(XlaOptions if values["accelerator"] == "xla" else TorchOptions, values)


def evaluation_of(values: Mapping[str, Any]) -> Evaluation:
    """The `eval` group, to which eval=clean gives the options of clean images alone."""
    robust = "corruptions" in values
    return Evaluation(made_of(EvalOptions, values), made_of(RobustnessSettings, values) if robust else None)


def model_of(values: Mapping[str, Any]) -> Model | TimmModel:
    """The `model` group, which has other options where timm knows the network by its name."""
    return made_of(Model if "width" in values else TimmModel, values)


SPECIAL = {"model": model_of, "trainer": trainer_of, "eval": evaluation_of}


def job_of(cls: type[T], config: Mapping[str, Any], *, title: str) -> T:
    """The job from a whole configuration as plain values, which `nst.checking` has seen."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {"config": config, "title": title}
    for entry in fields(cls):
        if entry.name in values:
            continue
        given, hint = config[entry.name], hints[entry.name]
        if entry.name in SPECIAL:
            values[entry.name] = SPECIAL[entry.name](given)
        else:
            values[entry.name] = made_of(hint, given) if isinstance(hint, type) and issubclass(hint, Group) else given
    return cls(**values)


def changed(job: T, options: Mapping[str, Any]) -> T:
    """The job with other values of options, by their dotted names; the configuration that is kept says so too."""
    config = copy.deepcopy(dict(job.config))
    for name, value in options.items():
        *groups, last = name.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    return job_of(type(job), config, title=job.title)
