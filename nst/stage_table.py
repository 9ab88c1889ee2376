"""The stages of nst, a record of each: what others know of a stage before its module in nst/stages/ is loaded."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from nst.settings import GROUPS
from nst.settings.fields import Group, kinds_of
from nst.settings.job import EvaluateJob, ExportJob, Job, LabelJob, PredictJob, ReportJob, SelectJob, ShardJob
from nst.settings.measuring import EvalOptions, Evaluation, RobustnessSettings
from nst.settings.stages import RayOptions

# of these groups no job reads these options, which are of trainings
NEVER: Mapping[str, Sequence[str]] = {"trainer": ("accumulate", "compile", "gradient_dtype"), "eval": ("every",)}
OF_A_TEACHER = ("teacher", "label", "select")  # groups of which a training on labels alone reads nothing
OF_TIMM = ("mean", "std", "crop", "interpolation", "crop_share", "arguments")  # facts that a network's name brings
BY_ITSELF = "{}.precision, which chooses by itself"


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage.

    Args:
        does: what it makes of what, in a line.
        usage: the options without which it does nothing, as `--help` shows them; and an example.
        job: whose options it reads; None: those of whole recipes, for a run that it begins or looks ahead to.
        strict: it refuses options that it does not read.
        only: of these groups of its job it reads these options alone.
        unread: groups of whole recipes of which it reads nothing.
        needs_data: false: what its pictures are says `input=` alone, and even a choice of data would mislead.
        own_precision: it has an option for it, and reads trainer.precision on XLA alone.
        instead: what helps in the place of an option, or of a group, that it does not read: another option, or words.
        short: its options that are typed without its name.
        networks: options that name the run or network on which it works; the first that is given counts.
        takes_data: where the command names no data, it takes those of that run.
        as_sharded: it reads shards as they are (iterate may make others, and the doctor lists what it finds).
        shows_pictures: as the network was trained, and not as the command says by default.
        taken: steps that were taken before it: their options, and the folder whose config.yaml tells what these were.
        runs: options that name folders of runs which it reads.
        folder: the option that names its directory.
        within: where that is not given: the option that names the run in which it writes, and the folder there.
        typed: what an input of its run is called on the command line, or words for it; the longest name that begins it
            counts. `*` is the run's directory, as an attack's name.
        torch: it loads torch.
        at_a_desk: it computes nothing on the trainer's machine, and runs where that is not.
        together: on all hosts and ranks.
    """

    does: str
    usage: tuple[str, str] | None = None
    job: type[Job] | None = None
    strict: bool = True
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unread: Sequence[str] = ()
    needs_data: bool = True
    own_precision: bool = False
    instead: Mapping[str, str] = field(default_factory=dict)
    short: Sequence[str] = ()
    networks: Sequence[str] = ()
    takes_data: bool = False
    as_sharded: bool = False
    shows_pictures: bool = False
    taken: Mapping[str, str] = field(default_factory=dict)
    runs: Sequence[str] = ()
    folder: str = "run_dir"
    within: tuple[str, str] | None = None
    typed: Mapping[str, str] = field(default_factory=dict)
    torch: bool = True
    at_a_desk: bool = False
    together: bool = False

    def reads(self, name: str) -> bool:
        """Whether it reads an option, by its dotted name; a group's name alone is its choice, a recipe for many."""
        if self.job is None or name.startswith("hydra"):
            return name.partition(".")[0] not in self.unread
        node: Any = self.options
        if name in (*GROUPS, "experiment"):
            return name in node or name in ("experiment", "scale") or self.needs_data
        for part in name.split("."):
            if not isinstance(node, dict):
                return node is not None  # an entry of an option
            node = node.get(part, node.get("*"))
        return node is not None

    @functools.cached_property
    def options(self) -> Mapping[str, Any]:
        """The options of its job: name → kind, or the same of a group; nothing where it has none."""
        if self.job is None:
            return {}
        hints = get_type_hints(self.job)
        return {
            entry.name: _read(hints[entry.name], self.only.get(entry.name), NEVER.get(entry.name, ()))
            for entry in fields(self.job)
        }


def _read(hint: Any, only: Sequence[str] | None, never: Sequence[str]) -> Any:
    """What is read of a group, which may have several bases; the hint itself where it is an option."""
    hints = (EvalOptions, RobustnessSettings) if hint is Evaluation else get_args(hint) or (hint,)
    bases = [each for each in hints if isinstance(each, type) and issubclass(each, Group)]
    if not bases:
        return hint
    kinds = {name: kind for base in bases for name, kind in kinds_of(base).items()}
    return {name: kind for name, kind in kinds.items() if (only is None or name in only) and name not in never}


STAGES: Mapping[str, StageRecord] = {
    "shard": StageRecord(
        does="images -> shards/*.tar + index.json, split into labeled, unlabeled and test",
        job=ShardJob,
        strict=False,
        runs=("teacher.run", "teacher.predictions", "teacher.selection"),
        folder="shard.output",
        typed={
            "source": "data.source", "labeled_per_class": "data.labeled_per_class",
            "test_samples": "data.test_samples", "unlabeled_samples": "data.unlabeled_samples",
            "validation_samples": "data.validation_samples", "stored_size": "data.stored_size",
            "samples_per_shard": "shard.samples_per_shard",
            "check_images": "shard.check_images", "teacher": "teacher.run",
            "selection": "teacher.selection", "predictions": "teacher.predictions", "targets": "teacher.targets",
            "unlabeled": "data.unlabeled", "name": "data.source.name", "max_bytes": "bytes of a shard",
            "shards_at_once": "open shards",
        },
        torch=False,
    ),
    "train": StageRecord(
        does="labeled (and selected pseudo-labeled) shards -> a teacher or a noised student",
        unread=("predict", "report", "export"),
        instead=dict.fromkeys(OF_A_TEACHER, "teacher.run=<run directory>, by whose labels a student learns"),
        networks=("teacher.run",),
        takes_data=True,
        as_sharded=True,
        taken={
            "select": "selection",
            **dict.fromkeys(("label", "teacher.views", "teacher.noised", "teacher.image_size"), "predictions"),
        },
        runs=("teacher.run", "teacher.checkpoint", "teacher.predictions", "teacher.selection", "model.checkpoint",
              "model.pretrained"),
        typed={
            "recipe": "student", "finetune": "student.finetune", "architecture": "model", "pictures": "data.pictures",
            "labeled": "data.labeled", "validation": "data.test", "start": "model.checkpoint",
            "pretrained": "model.pretrained", "accumulate": "trainer.accumulate", "teacher.weights": "teacher.run",
            "teacher.unlabeled": "data.unlabeled", "teacher.pictures": "data.pictures",
            "recipe.optimizer.more": "student.optimizer",
            **{f"architecture.{name}": "timm's word on the network" for name in OF_TIMM},
        },
        together=True,
    ),
    "label": StageRecord(
        does="teacher + unlabeled shards -> predictions/*.parquet",
        usage=("teacher.run=<run>", "teacher.run=runs/first"),
        job=LabelJob,
        only={
            "teacher": ("run", "checkpoint", "predictions", "image_size", "views", "noised"),
            "data": ("root", "unlabeled", "validation", "pictures"),
        },
        own_precision=True,
        instead={
            "model.test_size": "teacher.image_size",
            "trainer.precision": BY_ITSELF.format("label"),
            **{f"label.ray.{part.name}": "label.engine=ray, whose option it is" for part in fields(RayOptions)},
        },
        networks=("teacher.checkpoint", "teacher.run"),
        takes_data=True,
        shows_pictures=True,
        runs=("teacher.run", "teacher.checkpoint"),
        folder="teacher.predictions",
        within=("teacher.run", "predictions"),
        typed={
            "teacher": "teacher.run", "unlabeled": "data.unlabeled", "image_size": "teacher.image_size",
            "pictures": "data.pictures", "batch_size": "label.batch_size", "keep": "label.keep",
            "precision": "label.precision", "turns": "teacher.views", "noise_of_labels": "teacher.noised",
        },
        together=True,
    ),
    "select": StageRecord(
        does="predictions -> selection/*.parquet: confident, balanced over the classes",
        job=SelectJob,
        only={
            "teacher": ("run", "predictions", "selection"),
            "data": ("root", "labeled", "unlabeled", "validation"),
        },
        networks=("teacher.run",),
        takes_data=True,
        taken={"label": "predictions"},
        runs=("teacher.run", "teacher.predictions"),
        folder="teacher.selection",
        within=("teacher.run", "selection"),
        typed={
            "seed": "seed", "teacher": "teacher.run", "predictions": "teacher.predictions", "truth": "data.unlabeled",
            "validation": "data.validation", "shares": "data.labeled", "": "select",
        },
        torch=False,
    ),
    "iterate": StageRecord(
        does="Algorithm 1: train, label, select, train, ... for a list of generations, then report",
        unread=("predict", "export"),
        runs=("iterate.teacher",),
        together=True,
    ),
    "evaluate": StageRecord(
        does="weights + test shards -> result.json: top-1, top-5, ECE, confusion",
        usage=("model.checkpoint=<run>", "model.checkpoint=runs/first"),
        job=EvaluateJob,
        only={"model": ("checkpoint",), "data": ("root", "test", "test_samples", "pictures")},
        instead={"model.test_size": "eval.image_size"},
        networks=("model.checkpoint",),
        takes_data=True,
        shows_pictures=True,
        runs=("model.checkpoint", "eval.baseline"),
        folder="evaluate.output",
        within=("model.checkpoint", "evaluation"),
        typed={
            "weights": "model.checkpoint", "test": "data.test", "pictures": "data.pictures",
            "precision": "trainer.precision", "computed_in": "trainer.precision", "": "eval",
            "method": "eval.attacks.*", "epsilons": "eval.attacks.*.epsilons", "frost": "eval.frost_folder",
            "images": "images of the set", "digest": "files of the set", "held": "content of the copy",
            "shown_at": "size of a picture", "shown_as": "crop of a picture", "framed": "crop of a picture",
            "table": "table of severities",
        },
        together=True,
    ),
    "predict": StageRecord(
        does="a trained network + pictures of your own -> predictions.csv, Parquet, a contact sheet",
        usage=("model.checkpoint=<run> input=<pictures>", "model.checkpoint=runs/first input=holiday"),
        job=PredictJob,
        only={"model": ("checkpoint",)},
        needs_data=False,
        own_precision=True,
        instead={
            "trainer.precision": BY_ITSELF.format("predict"),
            "max_bad_fraction": "any number of unreadable pictures, all in unreadable.csv with the reason",
        },
        short=("input",),
        networks=("model.checkpoint",),
        runs=("model.checkpoint",),
        folder="predict.output",
        typed={
            "network": "model.checkpoint", "views": "model.checkpoint", "place": "input", "pictures": "input",
            "parts": "input", "turns": "predict.views", "precision": "predict.precision",
        },
        together=True,
    ),
    "report": StageRecord(
        does="run directories -> table, figures, report.html",
        job=ReportJob,
        networks=("run_dir",),
        torch=False,
        at_a_desk=True,
    ),
    "doctor": StageRecord(
        does="what is wrong or unwise with the options of a train or iterate, before hours are spent",
        torch=False,
        at_a_desk=True,
    ),
    "export": StageRecord(
        does="a trained network -> weights for timm, ONNX, and a model card",
        usage=("model.checkpoint=<run>", "model.checkpoint=runs/first export.format=onnx"),
        job=ExportJob,
        only={"model": ("checkpoint",), "data": ("root", "labeled", "pictures")},
        networks=("model.checkpoint",),
        runs=("model.checkpoint",),
        folder="export.output",
        within=("model.checkpoint", "export"),
        typed={"weights": "model.checkpoint", "classes": "data.labeled"},
        at_a_desk=True,
    ),
    "plan": StageRecord(
        does="what an iterate would need, before it: work, memory, traffic, storage, hours",
        as_sharded=True,
        at_a_desk=True,
    ),
}  # fmt: skip
