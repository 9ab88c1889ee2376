"""Every option once: a frozen dataclass per group with the kind, default and help of each (`nst.settings.fields`).

`nst.config` registers the defaults with Hydra, as the base on which the files of conf/ say what differs; `nst.checking`
holds every configuration against the kinds before a stage loads or writes anything.
"""

from __future__ import annotations

from typing import Any

from nst.settings.data import DataOptions, RemoteOptions
from nst.settings.fields import Group, kinds_of, nullable_in
from nst.settings.learning import StudentOptions, TeacherOptions
from nst.settings.measuring import EvalOptions, LoggerOptions, RobustnessSettings
from nst.settings.network import Model, Noise, TimmModel
from nst.settings.stages import (
    CommonOptions,
    DoctorOptions,
    EvaluateOptions,
    ExportOptions,
    IterateOptions,
    LabelOptions,
    PlanOptions,
    PredictOptions,
    ReportOptions,
    ScaleOptions,
    SelectOptions,
    ShardOptions,
)
from nst.settings.trainer import TorchOptions, XlaOptions

# options that every configuration has
SECTIONS: dict[str, type[Group]] = {
    "shard": ShardOptions,
    "remote": RemoteOptions,
    "label": LabelOptions,
    "iterate": IterateOptions,
    "evaluate": EvaluateOptions,
    "predict": PredictOptions,
    "report": ReportOptions,
    "doctor": DoctorOptions,
    "export": ExportOptions,
    "plan": PlanOptions,
}
# the groups of conf/: under `_<name>` lies the base that their files name, where a group has several
GROUPS: dict[str, dict[str, type[Group]]] = {
    "model": {"defaults": Model, "timm": TimmModel},
    "data": {"defaults": DataOptions},
    "noise": {"defaults": Noise},
    "teacher": {"defaults": TeacherOptions},
    "student": {"defaults": StudentOptions},
    "select": {"defaults": SelectOptions},
    "trainer": {"torch": TorchOptions, "xla": XlaOptions},
    "eval": {"defaults": EvalOptions, "robustness": RobustnessSettings},
    "logger": {"defaults": LoggerOptions},
    "scale": {"defaults": ScaleOptions},
}


def _table() -> dict[str, Any]:
    """name → kind, or the same of a group."""
    table = {**kinds_of(CommonOptions), **{name: kinds_of(section) for name, section in SECTIONS.items()}}
    for name, bases in GROUPS.items():
        table[name] = {}
        for base in bases.values():
            table[name] |= kinds_of(base)
    return table


TREE = _table()
# of groups with several bases, of which one may have an option of the same name and another kind
BASES = {name: [kinds_of(base) for base in bases.values()] for name, bases in GROUPS.items() if len(bases) > 1}
NULLABLE = {  # groups that may be null; `*` stands for any name
    "scale",
    *(name for group, bases in GROUPS.items() for base in bases.values() for name in nullable_in(base, group)),
}
