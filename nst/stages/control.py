"""The control of a run (`iterate.control`): the last student's network, trained on the labels alone.

It sees as many images at the same rates, by a loss as large. Where the last student started from its teacher, so has
that one's training made it: the control then starts where the first of that line did, and sees as many images as all of
them. It never starts from what has learned from pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nst.documents import read_json
from nst.settings.job import TrainJob
from nst.stages.chosen_network import architecture
from nst.training.phases import Length


def control_options(generations: Sequence[TrainJob], labeled: int, teacher: Path | None = None) -> dict[str, Any]:
    """The options that make a control of the last generation. The batch has grown and the rate is by the batch, so the
    rates for 256 images are smaller.

    Args:
        labeled: images with labels.
        teacher: the directory of generation 0, where it has learned from labels alone; None: it is not trained yet, or
            no start for a control.
    """
    line = _line(generations)
    first, last = line[0], line[-1]
    student, schedule, more = last.student, last.student.schedule, 1 + last.student.unlabeled_ratio
    final = schedule.final_rate_per_256
    options = {
        "teacher.run": None,
        "teacher.checkpoint": None,
        "student.unlabeled_ratio": 0,
        "student.labeled_batch_size": student.labeled_batch_size * more,
        "student.optimizer.rate_per_256": student.optimizer.rate_per_256 / more,
        "student.epochs": student.epochs * more,
        "student.schedule.warmup_epochs": schedule.warmup_epochs * more,
        "student.schedule.decay_epochs": schedule.decay_epochs * more,
        "student.schedule.final_rate_per_256": None if final is None else final / more,
    }
    # a sum of 1 + ratio means: only AdamW's steps are as large whatever the size of all gradients
    if student.loss_average == "sum" and (student.optimizer.name != "adamw" or student.gradient_clip is not None):
        options["student.loss_scale"] = student.loss_scale * more
    if not last.model.checkpoint:
        options |= _start(first, last, teacher)
    if len(line) > 1:
        images = sum(_images(each, labeled) for each in line)
        options["student.steps"] = round(images / (student.labeled_batch_size * more))
    return options


def _line(generations: Sequence[TrainJob]) -> Sequence[TrainJob]:
    """The students up to the last, each of which started from the one before."""
    first = len(generations) - 1
    while first > 1 and generations[first].student.start == "teacher":
        first -= 1
    return generations[first:]


def _start(first: TrainJob, last: TrainJob, teacher: Path | None) -> dict[str, Any]:
    """Where the line began; a network from elsewhere would bring sizes of its own, so they are the last student's."""
    if first.student.start != "teacher":
        return {"model.pretrained": first.model.pretrained if first.student.start == "pretrained" else False}
    if teacher is None:
        return {"model.pretrained": last.model.pretrained}
    known = architecture(last.model)
    return {"model.pretrained": str(teacher), "model.train_size": known.train_size, "model.test_size": known.test_size}


def learned_from_labels_alone(directory: Path) -> bool:
    """Whether the training in a run directory had no teacher."""
    return "teacher" not in read_json(directory / "started.json")["inputs"]


def _images(job: TrainJob, labeled: int) -> int:
    student = job.student
    return Length.of(student, labeled).steps * student.labeled_batch_size * (1 + student.unlabeled_ratio)
