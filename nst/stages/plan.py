"""`nst plan`: what `nst iterate` with the same options would need, before anyone spends money.

Parameters, work, memory of a core, traffic, reading, storage, and hours by what cores compute and loaders deliver, with
the paper's cost beside them; no shard, weight or accelerator has to be there. With `plan.compile=true` the TPU compiler
is asked about the real train step of the last generation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst.atomic import write_json
from nst.config import job_from
from nst.data.views import ONCE, turns
from nst.documents import read_json
from nst.errors import NstError, UsageError
from nst.plan import budget
from nst.plan.budget import Numerics, PhaseCost
from nst.plan.chips import Cluster, cluster
from nst.plan.dataset_size import DatasetSize, find_images
from nst.plan.paper_costs import DAYS, POD, TIME_RATIOS, implied_utilization, l2_flops, time_ratios
from nst.plan.rates import TPU, Rates, read_measurements, step_views_seconds
from nst.plan.tables import tables
from nst.plan.work import PlannedGeneration, Work, teacher_cost, trainings_of, works_of
from nst.progress import console, say
from nst.settings.job import SurveyJob, changed
from nst.settings.trainer import TorchOptions, XlaOptions
from nst.stages.apart import keep_apart
from nst.stages.chosen_network import architecture as architecture_of
from nst.stages.control import control_options
from nst.stages.generations import CONTROL, configurations, starts_from_a_run
from nst.training.phases import phases

HOUR, DAY = 3600, 86400


def run(job: SurveyJob) -> dict[str, Any]:
    """The plan as a mapping of plain values: bytes, FLOP, seconds and hours; `nst.plan.tables` shows it.

    Raises:
        NstError: a batch does not divide by the cores, or as `compiled`.
    """
    options, trainer = job.plan, job.trainer
    images = find_images(job.data, options, job.select.images_per_class)
    hardware = cluster(options.hardware or default_hardware(trainer))
    numerics = Numerics.of(trainer.precision, trainer.exchanged)
    rates = Rates(options.utilization, read_measurements(options.measured))
    given, jobs = starts_from_a_run(job), [job_from(SurveyJob, each) for each in configurations(job)]
    generations = [
        _generation(number, each, images, trained=number > 0 or not given) for number, each in enumerate(jobs)
    ]
    planned = [generation for generation in generations if generation.trained]
    trainings = [entry for generation in planned for entry in trainings_of(generation, generations, images)]
    works = works_of(generations, trainings, images)
    rows = [_row(work, hardware, numerics, rates) for work in works]
    main = next(entry for entry in reversed(trainings) if entry.stage == "train")
    share = next(row for row in reversed(rows) if row["stage"] == "train")["utilization"]
    if job.iterate.control and len(jobs) > 1:
        control, more = _control(jobs, images)
        rows += [{**_row(work, hardware, numerics, rates), "generation": CONTROL} for work in control]
        trainings += more
    step = budget.step(main, hardware, numerics, share, step_views_seconds(main, images) / hardware.processors)
    for training in trainings:
        budget.images_per_core(training, hardware)
    step_bytes = images.bytes_read(main.recipe.labeled_batch_size, main.unlabeled)
    compiling = _compiling(trainings if hardware.chip.tpu else [], main)
    hours = sum(row["hours"] for row in rows) + compiling["hours"]
    return {
        "name": job.name,
        "cluster": _cluster(hardware),
        "utilization": share,
        "images": asdict(images),
        "network": _network(main),
        "step": asdict(step),
        "bytes_per_second_and_host": step_bytes / step.seconds / hardware.hosts,
        "memory": _memory(main, hardware, numerics),
        "compiled": compiled(generations, images, hardware, trainer) if options.compile else None,
        "stages": rows,
        "compiling": compiling,
        "total": {"flops": sum(row["flops"] for row in rows), "hours": hours},
        "storage": _storage(images),
        "paper": _paper(rates) if _of_the_paper(generations) else None,
    }


def _control(jobs: Sequence[SurveyJob], images: DatasetSize) -> tuple[list[Work], list[PhaseCost]]:
    """What the control of the last student would do: a training behind the last generation, without a teacher."""
    options = control_options(jobs, images.labeled)
    alone = _generation(len(jobs), changed(jobs[-1], options), images)
    trainings = trainings_of(replace(alone, online=False), [], images)
    return works_of([alone], trainings, images), trainings


def _row(work: Work, hardware: Cluster, numerics: Numerics, rates: Rates) -> dict[str, Any]:
    """A stage with its hours, and what they are bound by: `chip` or `loader`."""
    generation, name = work.generation, work.generation.name
    kind = "label" if work.stage == "label" else "train"
    share = rates.share(name, work.cost, hardware.chip, numerics, work=kind, remat=generation.remat and kind == "train")
    computing = budget.seconds(work.flops, hardware, share.value)
    preparing = work.views / hardware.processors
    return {
        "generation": generation.number,
        "stage": work.stage,
        "model": name,
        "image_size": work.cost.image_size,
        "steps": work.steps,
        "images": work.images,
        "flops": work.flops,
        "utilization": share.value,
        "source": share.source,
        "bound": "chip" if computing >= preparing else "loader",
        "hours": max(computing, preparing) / HOUR,
    }


def _compiling(trainings: Sequence[PhaseCost], main: PhaseCost) -> dict[str, Any]:
    """Compiling each phase once, and at every further start of the main one; none where nothing is compiled."""
    return {
        "hours": sum(map(budget.compile_seconds, trainings)) / HOUR,
        "seconds_a_start": budget.compile_seconds(main) if trainings else 0,
        "measured": main.model in budget.COMPILE_S,
    }


def _cluster(hardware: Cluster) -> dict[str, Any]:
    names = ("name", "chips", "cores", "hosts", "peak", "processors", "loader_workers")
    return {**{name: getattr(hardware, name) for name in names}, "memory_per_core": hardware.chip.memory}


def _network(training: PhaseCost) -> dict[str, Any]:
    names = ("generation", "model", "remat")
    counted = {name: getattr(training.cost, name) for name in ("image_size", "parameters", "macs")}
    return {**{name: getattr(training, name) for name in names}, **counted}


def _memory(training: PhaseCost, hardware: Cluster, numerics: Numerics) -> dict[str, Any]:
    """Of both choices, and the fewest micro-batches with which each fits."""
    found: dict[str, Any] = {"chosen": "remat" if training.remat else "kept"}
    for name, remat in (("kept", False), ("remat", True)):
        memory = budget.memory(training, hardware, numerics, remat=remat)
        parts = budget.accumulate_that_fits(training, hardware, numerics, remat=remat)
        found[name] = {**asdict(memory), "total": memory.total, "accumulate": parts}
    return {**found, "accumulate": training.accumulate, "cure": budget.cure(training, hardware, numerics)}


def _storage(images: DatasetSize) -> dict[str, Any]:
    counts = {"labeled shards": images.labeled, "selection": images.selected, "packed selection": images.copies}
    sizes = images.storage()
    return {name: {"images": counts.get(name, images.unlabeled), "bytes": size} for name, size in sizes.items()}


def _of_the_paper(generations: Sequence[PlannedGeneration]) -> bool:
    compared = {model for model, base, _ in TIME_RATIOS} | {base for _, base, _ in TIME_RATIOS}
    return any(generation.name in compared for generation in generations)


def _paper(rates: Rates) -> dict[str, Any]:
    share = rates.stated or TPU
    return {
        "days": DAYS,
        "our_days": budget.seconds(l2_flops(), cluster(POD), share) / DAY,
        "our_utilization": share,
        "utilization": implied_utilization(),
        "time_ratios": time_ratios(),
    }


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration, prints the plan, and writes it where plan.output says."""
    keep_apart(cfg, "plan")
    job = job_from(SurveyJob, cfg)
    output = Path(job.plan.output) if job.plan.output is not None else None
    if output is not None:
        _require_plan(output)
    plan = run(job)
    for table in tables(plan):
        console.print(table)
    if job.plan.hardware is None:
        say(f"hardware by trainer.accelerator={job.trainer.accelerator}; plan.hardware=v3:32x32 plans for another")
    if output is not None:
        write_json(output, plan, sealed=False)
        say(f"plan: {output}")
    return plan


def _require_plan(path: Path) -> None:
    """Raises NstError where another file than an earlier plan would be replaced."""
    if not os.path.lexists(path):
        return
    try:
        earlier = (
            not path.is_symlink()
            and path.is_file()
            and {"cluster", "stages", "storage"} <= set(read_json(path, sealed=False))
        )
    except NstError:
        earlier = False
    if not earlier:
        raise NstError(
            f"plan.output={path} is there, and is no plan of nst's", next="choose another name: plan.output=<file>"
        )


def _generation(number: int, job: SurveyJob, images: DatasetSize, *, trained: bool = True) -> PlannedGeneration:
    student = job.student if number else replace(job.student, unlabeled_ratio=0)
    architecture = architecture_of(job.model)
    return PlannedGeneration(
        number=number,
        architecture=architecture,
        phases=phases(architecture, student, job.noise, images.labeled),
        remat=job.model.remat,
        online=number > 0 and job.teacher.mode == "online",
        teacher_size=job.teacher.image_size,
        teacher_turns=turns(job.data.pictures) if job.teacher.views == "all" else ONCE,
        targets=job.teacher.targets,
        trained=trained,
        accumulate=job.trainer.accumulate,
    )


def default_hardware(trainer: TorchOptions | XlaOptions) -> str:
    """What stands for a trainer whose machine is not named: one host of it, or the paper's pod."""
    if isinstance(trainer, TorchOptions) and trainer.accelerator == "gpu":
        devices = trainer.devices if isinstance(trainer.devices, int) and trainer.devices > 0 else 8
        return f"h100:{devices * trainer.num_nodes}"
    if isinstance(trainer, XlaOptions) and trainer.device == "tpu":
        return POD if trainer.many_hosts else "v3:2x2"
    return f"cpu:{os.cpu_count() or 1}"


def compiled(
    generations: Sequence[PlannedGeneration], images: DatasetSize, hardware: Cluster, trainer: TorchOptions | XlaOptions
) -> dict[str, Any]:
    """What the TPU compiler says of the last generation's train step.

    Raises:
        NstError: the hardware is no TPU, or as `nst.xla.aot.compile_step`.
    """
    if not hardware.chip.tpu:
        raise UsageError(
            "plan.compile asks the TPU compiler",
            got=f"plan.hardware={hardware.name}",
            valid="a TPU slice, such as v3:32x32 or v5e:16x16",
        )
    from nst.xla.aot import compile_step
    from nst.xla.program import TrainStep

    last = generations[-1]
    size = teacher_cost(last, generations, images).image_size if last.online else 0
    teacher = (generations[-2].architecture, size) if last.online else None
    step = TrainStep(
        architecture=last.architecture,
        phase=last.phases[0],
        classes=images.classes,
        cores=hardware.cores,
        accumulate=last.accumulate,
        remat=last.remat,
        precision=trainer.precision,
        gradient_dtype=trainer.exchanged,
        targets=last.targets,
        teacher=teacher,
        teacher_turns=last.teacher_turns,
    )
    found = compile_step(step, hardware.name)
    return {**asdict(found), "peak": found.peak}
