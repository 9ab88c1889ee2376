"""`nst doctor`: what is wrong or unwise with the options of an `nst train` or `nst iterate`, before hours are spent.

With teacher.run or teacher.checkpoint the options are one student's, as `nst train` takes them, else those of
`nst iterate`, for every generation. Shards and a teacher need not be there; those that are, are looked at too. Training
does the same by itself and tells what is worse than a note.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from nst.config import job_from
from nst.data.index_files import has_index
from nst.data.packed import packed_from
from nst.data.remote import Remote
from nst.data.shard_set import ShardSet, load_index
from nst.data.views import training_view
from nst.doctor.compare import compare
from nst.doctor.facts import MemoryFacts, Situation, TeacherFacts, TrainingFacts, network_facts
from nst.doctor.rules import RULES, Finding, examine
from nst.doctor.told import Examination, closing, described, wrapped
from nst.errors import NstError, require_choice
from nst.models.architectures import AnyArchitecture
from nst.models.network_info import read_info
from nst.plan.chips import GIB, cluster
from nst.plan.dataset_size import DatasetSize, find_images
from nst.progress import say
from nst.settings.job import SurveyJob
from nst.settings.learning import Recipe
from nst.sharing import is_rank_zero
from nst.shown import count_of
from nst.stages import surveyed
from nst.stages.apart import PARTS
from nst.stages.as_sharded import differing_for, stored_size
from nst.stages.chosen_network import architecture as architecture_of
from nst.stages.generations import Places, configurations, generation_options, require_teacher, starts_from_a_run
from nst.stages.places import selection_folder, teacher_files
from nst.stages.unread import made_otherwise, typed_names
from nst.training.phases import phases

TOLD_BEFORE_TRAINING, COMPARED_BEFORE_TRAINING = 3, 2000  # findings; images, a second


def run(job: SurveyJob, *, most_compared: int | None = None) -> Examination:
    """Looks at options, and at the data and the teacher they name as far as they are there.

    Args:
        most_compared: unlabeled images compared with test images; None: doctor.compare_images.

    Raises:
        NstError: an option does not exist, or a file is damaged.
    """
    for name in job.doctor.accept:
        require_choice("doctor.accept", name, RULES)
    taught = job.teacher.run is not None or job.teacher.checkpoint is not None
    single = taught or job.stage == "train"
    each = [job] if single else [job_from(SurveyJob, one) for one in configurations(job)]
    sets = {name: found for name in PARTS if (found := _shards(job, name))}
    images = _images(job)
    trainings: list[TrainingFacts] = []
    mistakes = _made_otherwise(job, "train" if single else "iterate")
    given = not single and starts_from_a_run(job)
    own = [[]] if single else [typed_names(options) for options in generation_options(job)]
    teacher, classes = None, None
    if taught:
        teacher, classes = _teacher(job, mistakes)
        if teacher is not None and "unlabeled" in sets and most_compared is None:  # a training looks by itself
            _labels(job, sets["unlabeled"], mistakes)
    elif given:
        teacher, classes = _given_teacher(job, each, mistakes)
    for number, one in enumerate(each):
        if given and number == 0:
            continue  # it is not trained
        generation = "" if single else f"gen{number}"
        try:
            trainings.append(replace(_training(one, generation, teacher, sets, images), own=tuple(own[number])))
            teacher = None if single else _as_teacher(one, trainings[-1], each[number + 1 :])
        except NstError as error:
            mistakes.append(_mistake(error, generation))
    folder = Path(job.run_dir).absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    most = job.doctor.compare_images if most_compared is None else most_compared
    situation = Situation(
        trainings=tuple(trainings),
        validation_samples=job.data.validation_samples,
        selecting=None if single else surveyed.selecting(each[-1], images),
        sets=sets,
        teacher_classes=classes,
        comparison=compare(sets["unlabeled"], sets["test"], most) if {"unlabeled", "test"} <= sets.keys() else None,
        needed_bytes=surveyed.needed(each, single, images),
        free_bytes=shutil.disk_usage(there).free,
        noised_teacher=job.teacher.noised,
        replaced={} if single else surveyed.replaced(job),
        **surveyed.wandb(job.logger.wandb),
    )
    return Examination([*mistakes, *examine(situation, job.doctor.accept)], situation)


def _made_otherwise(job: SurveyJob, stage: str) -> list[Finding]:
    """Options of the command line with which the shards that are there were not made."""
    wrong = differing_for(stage, job.config["data"], typed_names(job.overrides), overwrite=job.overwrite)
    return [_mistake(made_otherwise(wrong, job.data.root, stage), "")] if wrong else []


def _shards(job: SurveyJob, name: str) -> ShardSet | None:
    """The set `data.<name>` in a folder of this machine; None where there is none yet."""
    folder = getattr(job.data, name)
    return load_index(folder, Remote(**vars(job.remote))) if has_index(folder) else None


def _images(job: SurveyJob) -> DatasetSize | None:
    try:
        return find_images(job.data, job.plan, job.select.images_per_class)
    except NstError:  # nowhere to be found yet; rules that need the numbers say nothing
        return None


def _training(
    job: SurveyJob, generation: str, teacher: TeacherFacts | None, sets: dict[str, ShardSet], images: DatasetSize | None
) -> TrainingFacts:
    """Raises NstError for what a training would refuse at its start."""
    student, noise, pictures = job.student, job.noise, job.data.pictures
    if teacher is None:
        student = replace(student, unlabeled_ratio=0)
    architecture = architecture_of(job.model)
    for side in (noise.labeled, noise.unlabeled):
        training_view(side.augment, architecture.train_size, pictures, noise)
    labeled = sets["labeled"].samples if "labeled" in sets else images.labeled if images else None
    if labeled is not None:
        for phase in phases(architecture, student, noise, labeled):
            _ = phase.schedule  # raises where there is none
    if job.model.pretrained or student.frozen_blocks or student.start == "teacher":
        from nst.models.pretrained import require_start  # here: it brings torch

        require_start(architecture, job.model.pretrained, student, teacher.architecture if teacher else None)
    parameters, undecayed, norms = network_facts(architecture, student.weight_decay)
    memory = _memory(job, architecture, student, images) if images else None
    finetune = replace(student.finetune, image_size=student.finetune.image_size or architecture.test_size)
    return TrainingFacts(
        generation, architecture, student, finetune, noise, pictures, labeled, parameters, undecayed, teacher, memory,
        norms, stored_size=_stored_size(job),
    )  # fmt: skip


def _stored_size(job: SurveyJob) -> int | None:
    """Of the shards that `nst shard` has made or will make; None of others."""
    root = Path(job.data.root)
    if Path(job.data.labeled) != root / "labeled":
        return None
    return stored_size(job.data, root, typed_names(job.overrides))


def _memory(job: SurveyJob, architecture: AnyArchitecture, recipe: Recipe, images: DatasetSize) -> MemoryFacts | None:
    """What a step takes of plan.hardware, without an online teacher; None without one, and on a CPU, whose memory is
    not told."""
    hardware = cluster(job.plan.hardware) if job.plan.hardware is not None else None
    if hardware is None or hardware.chip.memory is None:
        return None
    from nst.plan import budget  # here: they bring torch, which the rest of a look needs not
    from nst.plan.layer_costs import measure

    training = budget.PhaseCost(
        generation=0,
        stage="train",
        model=architecture.name,
        cost=measure(architecture, images.classes, architecture.train_size),
        recipe=recipe,
        steps=1,
        remat=job.model.remat,
        accumulate=job.trainer.accumulate,
    )
    numerics = budget.Numerics.of(job.trainer.precision, job.trainer.exchanged)
    needed = budget.memory(training, hardware, numerics, remat=training.remat).total
    cure = budget.cure(training, hardware, numerics)
    return MemoryFacts(hardware.name, needed / GIB, hardware.chip.memory / GIB, cure)


def _as_teacher(job: SurveyJob, training: TrainingFacts, students: Sequence[SurveyJob]) -> TeacherFacts | None:
    """A generation as the next one sees it."""
    if not students:
        return None
    architecture, finetune = training.architecture, training.finetune
    size = (finetune.image_size if finetune.epochs else None) or architecture.test_size
    name, asked = architecture.name or "network", students[0].teacher.image_size
    return TeacherFacts(name, training.parameters, size, asked, architecture)


def _teacher(job: SurveyJob, mistakes: list[Finding]) -> tuple[TeacherFacts | None, tuple[str, ...] | None]:
    """The teacher that the options name, and its classes; what is wrong with it goes to `mistakes`."""
    try:
        info = read_info(teacher_files(job.teacher, job.stage)[0])
    except NstError as error:
        mistakes.append(_mistake(error, "teacher"))
        return None, None
    parameters, *_ = network_facts(info.architecture, 0.0)
    name = info.architecture.name or "network"
    facts = TeacherFacts(name, parameters, info.image_size, job.teacher.image_size, info.architecture)
    return facts, tuple(info.classes)


def _labels(job: SurveyJob, unlabeled: ShardSet, mistakes: list[Finding]) -> None:
    """What the student would be taught, where it is there: what a training would refuse of it goes to `mistakes`."""
    try:
        if job.teacher.mode == "offline" and (job.teacher.run or job.teacher.selection):
            summary = selection_folder(job.teacher, job.stage) / "selection.json"
            if packed_from(unlabeled) is None and not summary.exists():
                return  # still to be made, as it may be
        from nst.stages import resolving  # here: they bring torch
        from nst.training.teachers import pseudo_labels

        if (taught_by := resolving.teacher(job.teacher, job.stage)) is not None:
            pseudo_labels(taught_by, unlabeled)
    except NstError as error:
        mistakes.append(_mistake(error, "teacher"))


def _given_teacher(
    job: SurveyJob, each: Sequence[SurveyJob], mistakes: list[Finding]
) -> tuple[TeacherFacts | None, tuple[str, ...] | None]:
    """Generation 0 where it is a finished run, and its classes."""
    try:
        require_teacher(job)
    except NstError as error:
        mistakes.append(_mistake(error, "teacher"))
        return None, None
    student = each[-1]  # any of them: which network and pictures generation 0 has is the same to all
    named = replace(student.teacher, run=str(Places.of(job).generation(0)))
    return _teacher(replace(student, teacher=named), mistakes)


def _mistake(error: NstError, generation: str) -> Finding:
    """What a stage would stop with, as a finding."""
    parts = {"got": error.got, "valid": error.valid}
    message = "; ".join([error.what, *(f"{name}: {part}" for name, part in parts.items() if part is not None)])
    where = (generation,) if generation else ()
    return Finding("options", "error", " ".join(f"{message}.".split()), error.next or "", where)


# ---- telling ---------------------------------------------------------------------------------------------


def main(cfg: DictConfig) -> None:
    """Examines the configuration and prints what was found.

    Raises:
        NstError: there are errors among it.
    """
    examination = run(job_from(SurveyJob, cfg))
    for finding in examination.findings:
        say(described(finding))
    say(closing(examination))
    if errors := examination.count("error"):
        raise NstError(f"this would not work: {count_of(errors, 'error')}", next="mend them, see above")


def advise(job: SurveyJob) -> None:
    """The warnings, in a few lines, before a training begins; nothing of one that is done."""
    if not is_rank_zero() or (Path(job.run_dir) / "DONE").exists():
        return
    try:
        found = run(job, most_compared=min(job.doctor.compare_images, COMPARED_BEFORE_TRAINING)).findings
    except (NstError, OSError):
        return  # the training is about to stop with the same words
    found = [finding for finding in found if finding.severity == "warning"]  # by errors the training itself stops
    for finding in found[:TOLD_BEFORE_TRAINING]:
        where = f" ({', '.join(finding.where)})" if finding.where else ""
        say("\n".join(wrapped(f"doctor: {finding.rule}{where}: {finding.message}", "", "  ")))
    if found:
        say(f"doctor: {count_of(len(found), 'warning')}; nst doctor with the same options says what helps")
