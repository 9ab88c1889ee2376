"""What a survey tells of a run as a whole, as facts for the doctor's rules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from nst.doctor.facts import Selecting
from nst.plan.dataset_size import PREDICTION, DatasetSize
from nst.settings.job import SurveyJob
from nst.settings.measuring import WandbOptions
from nst.stages.generations import generation_options


def selecting(job: SurveyJob, images: DatasetSize | None) -> Selecting:
    return Selecting(
        keep=job.label.keep,
        min_confidence=job.select.min_confidence,
        images_per_class=job.select.images_per_class,
        offline=job.teacher.mode == "offline",
        soft=job.teacher.targets == "soft" and not job.teacher.reassign,
        classes=images.classes if images else None,
        unlabeled=images.unlabeled if images else None,
    )


def needed(each: Sequence[SurveyJob], single: bool, images: DatasetSize | None) -> float | None:
    """Bytes of the predictions and selections that are still to be written."""
    if images is None or single:
        return None if images is None else 0.0
    sizes = images.storage()
    every, selection = sizes["predictions"], sizes["selection"]
    rows = images.unlabeled * PREDICTION  # how many of them keep probabilities too is known after labeling only
    return sum(
        (every if student.label.keep == 0 else rows) + selection
        for teacher, student in pairwise(each)
        if student.teacher.mode == "offline" and not (Path(teacher.run_dir) / "predictions" / "DONE").exists()
    )


def wandb(options: WandbOptions | None) -> dict[str, Any]:
    if options is None:
        return {}
    return {
        "wandb_mode": options.mode,
        "wandb_resolved": options.resolved_mode,
        "wandb_environment": os.environ.get("WANDB_MODE", ""),
    }


def replaced(job: SurveyJob) -> dict[str, tuple[str, dict[str, str]]]:
    """Options of the command line that generations have in other words."""
    given = {name: value for name, _, value in (item.partition("=") for item in job.overrides)}
    found: dict[str, tuple[str, dict[str, str]]] = {}
    named = generation_options(job) if job.iterate.generations is not None else []
    for number, options in enumerate(named):
        for name, _, value in (item.partition("=") for item in options):
            if name in given and given[name] != value:
                found.setdefault(name, (given[name], {}))[1][f"gen{number}"] = value
    return found
