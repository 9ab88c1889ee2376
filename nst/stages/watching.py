"""Robustness within a training (`eval.every`): what `nst train` passes to `nst.training.periodic`.

    <run>/robustness/<step>/<suite>/   as nst evaluate leaves it in evaluation/robustness/<suite>/

Suites, images, seeds and views are those of `nst evaluate` with the same options, so the curve over the steps ends
where the evaluation of the finished network stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from nst.data.views import Turn
from nst.errors import NstError
from nst.evaluation.results import summary
from nst.evaluation.suite import Subject
from nst.settings.job import TrainJob
from nst.stages import robustness as suites
from nst.stages.chosen_network import architecture
from nst.stages.resolving import measured
from nst.training.ensemble import looking_at, turns_for
from nst.training.fitting import Data
from nst.training.hardware import Machine
from nst.training.periodic import Monitor


def monitor_of(job: TrainJob, data: Data, hardware: Machine) -> Monitor | None:
    """What `eval.every` asks for; None where it asks for nothing.

    Raises:
        NstError: as `require_monitoring` and `nst.stages.robustness.plan`.
    """
    options, robustness = measured(job.eval)
    if robustness is None or robustness.every is None:
        return None
    require_monitoring(job)
    subject = suites.subject_of(job, architecture(job.model), data.validation, data.labeled.classes)
    turned = turns_for(options.views, data.pictures, option="eval.views")
    suites.plan(subject)  # a mistake is told before the training, and not at step `every`
    return Monitor(robustness.every, partial(measure_suites, job, subject, turned, hardware))


def require_monitoring(job: TrainJob) -> None:
    """Raises NstError where `eval.every` asks for what this trainer cannot do."""
    robustness = job.eval.robustness
    if robustness is None or robustness.every is None or job.trainer.accelerator != "xla":
        return
    # each suite has shapes of its own: compilations in the midst of a training, which may compile once
    raise NstError(
        "eval.every does not work on XLA trainers",
        got=f"eval.every={robustness.every} with accelerator=xla",
        valid="trainer=cpu, gpu or gpu_ddp",
        next="leave out eval.every, and evaluate afterwards: nst evaluate eval=robustness model.checkpoint=<run>",
    )


def measure_suites(
    job: TrainJob,
    subject: Subject,
    turns: tuple[Turn, ...],
    hardware: Machine,
    network: nn.Module,
    image_size: int,
    folder: Path,
) -> Mapping[str, float]:
    """Flat numbers, such as `robustness/c_onthefly/mean_error`, at the evaluation's size or the network's present one.

    Args:
        turns: of a picture, over which its answer is the mean.
    """
    subject = replace(subject, image_size=job.eval.clean.image_size or image_size)
    seen = f" in {len(turns)} views" if len(turns) > 1 else ""
    measured = suites.run(
        folder,
        suites.plan(subject),
        looking_at(network, turns),
        weights=state_digest(network) + seen,
        hardware=hardware,
        max_bad_fraction=job.max_bad_fraction,
        overwrite=True,  # a resumed training may come to this step with weights that differ in their last bits
        title=f"{job.title} step {int(folder.name)}",
    )
    return summary(suites.scores(measured, subject, None))


def state_digest(network: nn.Module) -> str:
    """sha256 of a network's parameters and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
