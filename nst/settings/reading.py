"""Which options a stage reads that works on a finished run: those of its job. Others would change nothing there.

`train` and `iterate` begin runs, with whole recipes, and `plan` and `doctor` are given the same options as they. What
is said of a teacher on the command line of a `train` without one is refused there (`nst.stages.unread`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from nst.settings import GROUPS
from nst.settings.fields import Group, kinds_of
from nst.settings.job import EvaluateJob, ExportJob, Job, LabelJob, PredictJob, ReportJob, SelectJob, ShardJob
from nst.settings.measuring import EvalOptions, Evaluation, RobustnessSettings

JOBS: Mapping[str, type[Job]] = {
    "label": LabelJob,
    "select": SelectJob,
    "evaluate": EvaluateJob,
    "predict": PredictJob,
    "report": ReportJob,
    "export": ExportJob,
}
ONLY: Mapping[str, Mapping[str, Sequence[str]]] = {  # of these groups a stage reads these options alone
    "label": {
        "teacher": ("run", "checkpoint", "predictions", "image_size", "views", "noised"),
        "data": ("root", "unlabeled", "validation", "pictures"),
    },
    "select": {
        "teacher": ("run", "predictions", "selection"),
        "data": ("root", "labeled", "unlabeled", "validation"),
    },
    "evaluate": {"model": ("checkpoint",), "data": ("root", "test", "test_samples", "pictures")},
    "predict": {"model": ("checkpoint",)},
    "export": {"model": ("checkpoint",), "data": ("root", "labeled", "pictures")},
}
# but not these, which are of trainings
NEVER: Mapping[str, Sequence[str]] = {"trainer": ("accumulate", "compile", "gradient_dtype"), "eval": ("every",)}
OWN_PRECISION = ("label", "predict")  # have an option for it; only on XLA they read trainer.precision
BESIDES: Mapping[str, type[Job]] = {"shard": ShardJob}  # refuses no option either, but is advised without others
RECIPES: Mapping[str, Sequence[str]] = {  # stages that take whole recipes, and groups of which they read nothing
    "train": ("predict", "report", "export"),
    "iterate": ("predict", "export"),
}
WITHOUT_DATA = ("predict",)  # what its pictures are says input= alone: even a choice of data would mislead


def reads(stage: str, name: str) -> bool:
    """Whether a stage reads an option, by its dotted name; a group's name alone is its choice, a recipe for many."""
    if stage not in {**JOBS, **BESIDES} or name.startswith("hydra"):
        return name.partition(".")[0] not in RECIPES.get(stage, ())
    node: Any = options_read(stage)
    if name in (*GROUPS, "experiment"):
        return name in node or name in ("experiment", "scale") or stage not in WITHOUT_DATA
    for part in name.split("."):
        if not isinstance(node, dict):
            return node is not None  # an entry of an option
        node = node.get(part, node.get("*"))
    return node is not None


@functools.cache
def options_read(stage: str) -> Mapping[str, Any]:
    """The options of a stage's job: name → kind, or the same of a group."""
    job, only = {**JOBS, **BESIDES}[stage], ONLY.get(stage, {})
    hints = get_type_hints(job)
    return {
        entry.name: _read(hints[entry.name], only.get(entry.name), NEVER.get(entry.name, ())) for entry in fields(job)
    }


def _read(hint: Any, only: Sequence[str] | None, never: Sequence[str]) -> Any:
    """What is read of a group, which may have several bases; the hint itself where it is an option."""
    hints = (EvalOptions, RobustnessSettings) if hint is Evaluation else get_args(hint) or (hint,)
    bases = [each for each in hints if isinstance(each, type) and issubclass(each, Group)]
    if not bases:
        return hint
    kinds = {name: kind for base in bases for name, kind in kinds_of(base).items()}
    return {name: kind for name, kind in kinds.items() if (only is None or name in only) and name not in never}
