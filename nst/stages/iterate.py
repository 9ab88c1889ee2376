"""`nst iterate`: Algorithm 1 for a list of generations, each stage skipped when done and continued when killed.

    runs/<name>/gen0/                    the teacher: checkpoints, metrics.csv, result.json
    runs/<name>/gen0/predictions/        what it says about the unlabeled images
    runs/<name>/gen0/selection/          which of them its student learns from
    runs/<name>/gen1/ ...                the student, next generation's teacher
    runs/<name>/control/                 the last student's network without a teacher, with iterate.control
    runs/<name>/best                     the best of them, where there are validation images (`nst.stages.judging`)

Runs that differ in their students only can share generation 0 (`iterate.teacher`): it is trained once, what it says
is kept with it, and which of that is selected (runs/<name>/selection/) is each run's own.

A generation is a list of options, exactly what one would give to `nst train`; the stages below are the ones a person
can call by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst import occupied
from nst.atomic import write_config, write_json
from nst.config import job_from, require_values
from nst.data.index_files import has_index
from nst.data.transfer import is_remote
from nst.errors import UsageError
from nst.evaluation.results import ROW_COLUMNS, row_numbers
from nst.finished import final_weights
from nst.leftovers import sweep
from nst.models.architectures import require_size
from nst.models.network_info import read_info
from nst.models.pretrained import require_start
from nst.progress import console, say
from nst.report.terminal import table
from nst.settings.job import GenerationJob, IterateJob, ReportJob, SelectJob, ShardJob, SurveyJob, changed, job_of
from nst.sharing import is_rank_zero, take_lock, wait_until_seen
from nst.stages.apart import keep_apart
from nst.stages.as_sharded import differing_for
from nst.stages.chosen_network import architecture
from nst.stages.control import control_options
from nst.stages.doctor import advise
from nst.stages.generations import CONTROL, Places, configurations, require_teacher, starts_from_a_run
from nst.stages.iterate_steps import Networks
from nst.stages.judging import VALIDATION, Judging
from nst.stages.own_folders import require_own_folders
from nst.stages.places import has_validation_set, open_shards, predictions_folder, selection_folder, shards_place
from nst.stages.resolving import machine, test_set
from nst.stages.unread import typed_names
from nst.training.noised_teacher import require_noisable
from nst.training.tracking import forget_run
from nst.written import LIST, begin, require_free

Result = dict[str, Any]
WRITTEN = ("config.yaml", "result.json")  # beside the generations; the rest is the report's


def algorithm_1(
    generations: int,
    *,
    train: Callable[[int], Result],
    label: Callable[[int], Result],
    select: Callable[[int], Result],
    look: Callable[[int], None],
) -> list[Result]:
    """Algorithm 1. Each step gets the generation it concerns: the one before labels and is selected from.

    Args:
        look: at a network as soon as it is trained.
    """
    results = []
    for number in range(generations):
        selection = None
        if number > 0:
            label(number - 1)
            selection = select(number - 1)
        results.append(_row(number, train(number), selection))
        look(number)
    return results


def _row(number: int | str, result: Result, selection: Result | None) -> Result:
    totals = selection["totals"] if selection else {"selected": 0, "copies": 0}
    row = {
        "generation": number,
        "model": result["model"],
        "width": result["architecture"].get("width"),
        "depth": result["architecture"].get("depth"),
        "parameters": result["parameters"],
        "labeled": result["labeled_samples"],
        "unlabeled": totals["selected"],
        "unlabeled_with_copies": totals["copies"],
        "steps": result["steps"],
    }
    if selection and "accuracy" in selection and totals["selected"]:
        row["pseudo_label_accuracy"] = 100 * selection["accuracy"]["after"]["accuracy"]
    return row


def main(cfg: DictConfig) -> None:
    """Reads the configuration and runs the stage."""
    keep_apart(cfg, "iterate")
    run(job_from(IterateJob, cfg), Path(cfg.run_dir))


def run(job: IterateJob, directory: Path) -> Result:
    """Composes every generation's options, runs Algorithm 1, writes the table and the report; returns the result.

    Raises:
        NstError: what any of its stages would refuse, as far as it can be known before the first begins.
    """
    places = Places.of(job)
    composed = configurations(job)
    for number, cfg in enumerate(composed):
        for stage, written in _written(cfg):
            keep_apart(cfg, stage, written)
        for later in [*range(number + 1, len(composed)), CONTROL]:  # which are deleted when they are made anew
            keep_apart(cfg, "train", {"run_dir": places.generation(later)})
    generations = [
        changed(job_from(GenerationJob, cfg), places.teacher_of(number)) for number, cfg in enumerate(composed)
    ]
    require_teacher(job)
    require_own_folders(job, generations, places)
    taken = False
    if is_rank_zero():
        require_free(directory, WRITTEN, own=True)
        taken = occupied.by_a_run(directory, overwrite=job.overwrite)
        for cfg in composed if taken else ():  # it is deleted first, and nothing that a generation reads may lie in it
            keep_apart(cfg, "iterate", {"run_dir": directory}, deleted=True)
    with occupied.followed(_followers(job, generations, places)):
        return _run(job, directory, generations, places, taken)


def _run(job: IterateJob, directory: Path, generations: Sequence[GenerationJob], places: Places, taken: bool) -> Result:
    from nst.stages import evaluate

    make_shards(job)
    check(job, generations)
    advise(job_of(SurveyJob, job.config, title=job.title))
    if is_rank_zero():
        if taken:
            with take_lock(directory, "wait for it, or give this run a directory of its own: run_dir=..."):
                occupied.make_way(directory, "run_dir")
        begin(directory, *WRITTEN, own=True)  # a run may be moved
        sweep(directory)
        places.link()
        if job.overwrite:
            forget_run(directory)  # the report's; a generation that is made anew loses its own with its directory

    networks = Networks(generations, places, judging_of(job), given=starts_from_a_run(job))
    rows = algorithm_1(
        len(generations), train=networks.train, label=networks.label, select=networks.select, look=networks.look
    )
    if job.iterate.control and len(generations) > 1:
        rows.append(_row(CONTROL, networks.train(CONTROL), None))
        networks.look(CONTROL)
    for row in rows:
        scores = networks.evaluate(row["generation"])
        row |= {name: scores[name] for name in ("top1", "top5", "ece", "loss")}
        row |= row_numbers(scores.get("robustness", {}))
        asked = generations[-1 if row["generation"] == CONTROL else row["generation"]]
        alike = evaluate.looks(asked) == evaluate.looks(generations[0])
        row["gain"] = row["top1"] - rows[0]["top1"] if alike else None
    result = _result(job, rows)
    if is_rank_zero():
        result |= networks.judging.keep(directory)
        write_config(directory / "config.yaml", require_values(job.config))
        write_json(directory / "result.json", result)
        console.print(table(rows))
        if job.iterate.report:
            from nst.stages import report

            report.make(job_of(ReportJob, job.config, title=job.title))
    return result


def _followers(job: IterateJob, generations: Sequence[GenerationJob], places: Places) -> dict[Path, list[Path]]:
    """What is made anew after each folder that overwrite=true makes anew."""
    own = [places.generation(number) for number in range(len(generations))]
    found = {Path(job.shard.output): [*own[1 if places.shared else 0 :], places.generation(CONTROL)]}
    for number, student in enumerate(generations[1:]):
        labels = [folder(student.teacher, student.stage) for folder in (predictions_folder, selection_folder)]
        found |= dict.fromkeys([own[number], *labels], own[number + 1 :])
    return found


def judging_of(job: IterateJob) -> Judging:
    """Networks are compared on the validation images where there are some."""
    validated = machine(job.trainer).agreed(has_validation_set(job.data))
    return Judging(VALIDATION if validated else "test")


def _result(job: IterateJob, rows: Sequence[Result]) -> Result:
    """result.json: the last student's scores, and all of every network."""
    generations = [row for row in rows if row["generation"] != CONTROL]
    wanted = ("top1", "top5", "ece", "gain", *ROW_COLUMNS)
    return {
        "stage": "iterate",
        "name": job.name,
        "seed": job.seed,
        **{name: generations[-1][name] for name in wanted if name in generations[-1]},
        "generations": generations,
        **{row["generation"]: row for row in rows if row["generation"] == CONTROL},
        "paper": job.paper or None,
    }


def _written(cfg: DictConfig) -> Iterator[tuple[str, Result]]:
    """The stages of a generation, and what each writes outside of its run directory where the options say so."""
    yield "train", {"run_dir": cfg.run_dir}
    yield "label", {"teacher.predictions": cfg.teacher.predictions}
    yield "select", {"teacher.selection": cfg.teacher.selection}
    yield "evaluate", {"evaluate.output": cfg.evaluate.output}


def check(job: IterateJob, generations: Sequence[GenerationJob]) -> None:
    """What a later generation would refuse is told now, not after the teacher has trained for days."""
    from nst.stages import evaluate, select, train

    classes = test_set(job.data, job.remote, job.stage).classes
    networks = [architecture(generation.model) for generation in generations]
    given = starts_from_a_run(job)
    if given:
        networks[0] = read_info(final_weights(Places.of(job).generation(0))).architecture
    listed: list[object] = []  # sets may be large: those of a generation that measures the same are not listed again
    first = 1 if given else 0  # that is trained
    for generation in generations[first:]:
        train.check(generation)
    for generation, network in zip(generations, networks, strict=True):
        require_noisable(generation.teacher, generation.label.precision, generation.trainer.accelerator)
        evaluate.check(generation, network)
        if generation.eval not in listed:
            evaluate.check_suites(generation, network, classes)
            listed.append(generation.eval)
    for number in range(first, len(networks)):
        generation, teacher = generations[number], networks[number - 1] if number else None
        require_start(networks[number], generation.model.pretrained, generation.student, teacher)
    for student, teacher in zip(generations[1:], networks, strict=False):
        if student.teacher.image_size is not None:
            require_size(teacher, student.teacher.image_size)
    for student in generations[1:]:
        select.check(job_of(SelectJob, student.config, title=job.title))
    if job.iterate.control:
        labeled = open_shards(job.data, "labeled", job.remote).samples
        train.check(changed(generations[-1], control_options(generations, labeled)))


def _require_alike(job: IterateJob, output: Path) -> None:
    """Raises UsageError where the command line asks for other sets than the shards have been made with."""
    data = {**job.config["data"], "root": output}
    if wrong := differing_for("iterate", data, typed_names(job.overrides), overwrite=job.overwrite):
        raise UsageError(
            f"{output} holds shards that were made otherwise",
            got="; ".join(f"{name}: {before} before, {now} now" for name, (before, now) in wrong.items()),
            next="data.source.root=<the pictures> with another data.root, or without " + ", ".join(wrong),
        )


def make_shards(job: IterateJob) -> None:
    """Makes the shard sets from data.source, unless there are some that `nst shard` has not made there, or that it has
    made and nobody says of what."""
    output = job.shard.output
    source = job.config["data"]["source"]
    if "root" in source and source["root"] is None and (Path(output) / "DONE").exists():
        _require_alike(job, Path(output))
        say(f"{output}: the shards as they are; without data.source.root nobody looks at the pictures they are made of")
        return
    ours = (Path(output) / LIST).exists()  # whole: skipped; killed: continued
    places = {part: shards_place(job.data, part) for part in ("labeled", "unlabeled")}
    folders = {part: Path(place) for part, place in places.items() if not is_remote(place)}
    there = all(map(has_index, folders.values()))
    if machine(job.trainer).agreed(not ours and there):
        return
    from nst.stages import shard

    needed = [part for part, folder in folders.items() if folder == Path(output) / part]
    shard.tell(shard.run(job_of(ShardJob, job.config, title=job.title), needed), output)
    for part in needed:
        wait_until_seen(folders[part] / "index.json")
