"""`nst iterate`: Algorithm 1 for a list of generations, each stage skipped when done and continued when killed.

    runs/<name>/gen0/                    the teacher: checkpoints, metrics.csv, result.json
    runs/<name>/gen0/predictions/        what it says about the unlabeled images
    runs/<name>/gen0/selection/          which of them its student learns from
    runs/<name>/gen1/ ...                the student, next generation's teacher

Runs that differ in their students only can share generation 0 (`iterate.teacher`): it is trained once, what it says
is kept with it, and which of that is selected (runs/<name>/selection/) is each run's own.

A generation is a list of options, exactly what one would give to `nst train`; the stages below are the ones a person
can call by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from nst.atomic import write_config, write_json
from nst.config import job_from, require_values
from nst.documents import read_json
from nst.errors import NstError
from nst.leftovers import sweep
from nst.progress import console, say
from nst.report.robustness import COLUMNS, headline
from nst.report.terminal import table
from nst.settings.job import GenerationJob, IterateJob, ReportJob, ShardJob, SurveyJob, changed, job_of
from nst.sharing import is_rank_zero, wait_until_seen
from nst.shown import kept
from nst.stages.apart import keep_apart
from nst.stages.doctor import advise
from nst.stages.generations import Places, comparable, configurations, require_teacher, starts_from_a_run
from nst.stages.options import machine, test_set
from nst.stages.places import predictions_folder, shards_place
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
    evaluate: Callable[[int], Result],
) -> list[Result]:
    """Algorithm 1. Each step gets the generation it concerns: the one before labels and is selected from."""
    results = []
    for number in range(generations):
        selection = None
        if number > 0:
            label(number - 1)
            selection = select(number - 1)
        result = train(number)
        results.append({**_row(number, result, selection), **_scores(evaluate(number))})
    for row in results:
        row["gain"] = row["top1"] - results[0]["top1"]
    return results


def _row(number: int, result: Result, selection: Result | None) -> Result:
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
    if selection and "accuracy" in selection:
        row["pseudo_label_accuracy"] = 100 * selection["accuracy"]["after"]["accuracy"]
    return row


def _scores(evaluation: Result) -> Result:
    scores = {name: evaluation[name] for name in ("top1", "top5", "ece", "loss")}
    return scores | headline(evaluation.get("robustness", {}))


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
    for cfg in composed:
        for stage, written in _written(cfg):
            keep_apart(cfg, stage, written)
    generations = [
        changed(job_from(GenerationJob, cfg), places.teacher_of(number)) for number, cfg in enumerate(composed)
    ]
    require_teacher(job)
    if is_rank_zero():
        require_free(directory, WRITTEN)
    make_shards(job)
    check(job, generations)
    advise(job_of(SurveyJob, job.config, title=job.title))
    if is_rank_zero():
        begin(directory, *WRITTEN)
        sweep(directory)
        places.link()
        if job.overwrite:
            forget_run(directory)  # the report's; a generation that is made anew loses its own with its directory

    given = starts_from_a_run(job)
    results = algorithm_1(
        len(generations),
        train=lambda number: _finished(places) if given and number == 0 else _train(generations, number, places),
        label=lambda number: _label(generations[number + 1], number, places),
        select=lambda number: _select(generations[number + 1], number),
        evaluate=lambda number: _evaluate(generations, number, places),
    )
    result = _result(job, results)
    if is_rank_zero():
        write_config(directory / "config.yaml", yaml.safe_dump(kept(require_values(job.config)), sort_keys=False))
        write_json(directory / "result.json", result)
        console.print(table(results))
        if job.iterate.report:
            from nst.stages import report

            report.make(job_of(ReportJob, job.config, title=job.title))
    return result


def _result(job: IterateJob, results: Sequence[Result]) -> Result:
    wanted = ("top1", "top5", "ece", "gain", *COLUMNS)
    return {
        "stage": "iterate",
        "name": job.name,
        "seed": job.seed,
        **{name: results[-1][name] for name in wanted if name in results[-1]},
        "generations": results,
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
    from nst.stages import train

    test_set(job.data, job.remote, job.stage)
    for generation in generations:
        train.check(generation)


def make_shards(job: IterateJob) -> None:
    """Makes the shard sets from data.source, unless there are some that `nst shard` has not made there."""
    output = job.shard.output
    ours = (Path(output) / LIST).exists()  # whole: skipped; killed: continued
    folders = [Path(shards_place(job.data, part)) for part in ("labeled", "unlabeled")]
    there = all((folder / "index.json").exists() for folder in folders)
    agreed = machine(job.trainer).agreed
    if agreed(not ours and there):
        return
    from nst.stages import shard

    shard.tell(shard.make(job_of(ShardJob, job.config, title=job.title)), output)
    if agreed(not (folders[1] / "index.json").exists()):
        raise NstError(
            f"there are no unlabeled images in {output}",
            got="all images became labeled ones",
            next="add a folder unlabeled/ beside the class folders, or set data.labeled_per_class=10",
        )
    for folder in folders:
        wait_until_seen(folder / "index.json")


def _finished(places: Places) -> Result:
    return read_json(places.generation(0) / "result.json")


def _train(generations: Sequence[GenerationJob], number: int, places: Places) -> Result:
    from nst.stages import train

    with places.turn(number):
        result = train.run(replace(generations[number], title=f"gen{number} train"), places.generation(number))
    say(f"gen{number}: {train.summary_line(result)}")
    return result


def _label(student: GenerationJob, number: int, places: Places) -> Result:
    from nst.stages import label

    with places.turn(number):
        job = replace(student, title=f"gen{number} label")
        return label.run(job, predictions_folder(job.teacher, job.stage))


def _select(student: GenerationJob, number: int) -> Result:
    from nst.stages import select

    result = select.from_cfg(OmegaConf.create(dict(student.config)))
    say(f"gen{number} select: {select.summary_line(result)}")
    return result


def _evaluate(generations: Sequence[GenerationJob], number: int, places: Places) -> Result:
    from nst.stages import evaluate

    job = generations[number]
    alike = comparable(job, generations[0], places.generation(0)) if number else {}
    named = {"model.checkpoint": str(places.generation(number)), **alike}
    job = changed(job, named, title=f"gen{number} evaluate")
    with places.turn(number):
        return evaluate.run(job, evaluate.output_of(job))
