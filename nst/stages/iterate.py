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

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from nst.atomic import write_config, write_json
from nst.config import job_from, made, plain
from nst.documents import read_json
from nst.errors import NstError
from nst.leftovers import sweep
from nst.progress import console, say
from nst.report.robustness import COLUMNS, headline
from nst.report.terminal import table
from nst.settings.data import DataOptions, RemoteOptions
from nst.settings.job import TrainJob
from nst.sharing import is_rank_zero, wait_until_seen
from nst.shown import kept
from nst.stages.apart import keep_apart
from nst.stages.doctor import advise
from nst.stages.generations import Places, compare_with, configurations, require_teacher, starts_from_a_run
from nst.stages.options import machine_from, test_set
from nst.stages.places import shards_place
from nst.training.tracking import forget_run
from nst.written import LIST, begin, require_free

Result = dict[str, Any]
WRITTEN = ("config.yaml", "result.json")  # beside the generations; the rest is the report's


def run(
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
    """Composes every generation's configuration, runs Algorithm 1, writes the table and the report."""
    places = Places.of(cfg)
    directory = places.directory
    generations = configurations(cfg)
    keep_apart(cfg, "iterate")
    for generation in generations:
        keep_apart(generation, "train")
    require_teacher(cfg)
    if is_rank_zero():
        require_free(directory, WRITTEN)
    make_shards(cfg)
    check(cfg, generations)
    advise(cfg)
    if is_rank_zero():
        begin(directory, *WRITTEN)
        sweep(directory)
        places.link()
        if cfg.overwrite:
            forget_run(directory)  # the report's; a generation that is made anew loses its own with its directory

    results = run(
        len(generations),
        train=lambda number: _train(generations[number], number, places),
        label=lambda number: _label(generations[number + 1], number, places),
        select=lambda number: _select(generations[number + 1], number, places),
        evaluate=lambda number: _evaluate(generations, number, places),
    )
    if not is_rank_zero():
        return
    write_config(directory / "config.yaml", yaml.safe_dump(kept(plain(cfg)), sort_keys=False))
    wanted = ("top1", "top5", "ece", "gain", *COLUMNS)
    last = {name: results[-1][name] for name in wanted if name in results[-1]}
    write_json(
        directory / "result.json",
        {
            "stage": "iterate",
            "name": cfg.name,
            "seed": cfg.seed,
            **last,
            "generations": results,
            "paper": plain(cfg.paper) if cfg.paper else None,
        },
    )
    console.print(table(results))
    if cfg.iterate.report:
        from nst.stages import report

        report.main(cfg)


def check(cfg: DictConfig, generations: Sequence[DictConfig]) -> None:
    """What a later generation would refuse is told now, not after the teacher has trained for days."""
    from nst.stages import train

    test_set(made(DataOptions, cfg.data), made(RemoteOptions, cfg.remote), cfg.stage)
    for generation in generations:
        train.check(job_from(TrainJob, generation))


def make_shards(cfg: DictConfig) -> None:
    """Makes the shard sets from data.source, unless there are some that `nst shard` has not made there."""
    ours = (Path(cfg.shard.output) / LIST).exists()  # whole: skipped; killed: continued
    folders = [Path(shards_place(cfg.data, part)) for part in ("labeled", "unlabeled")]
    there = all((folder / "index.json").exists() for folder in folders)
    machine = machine_from(cfg)
    if machine.agreed(not ours and there):
        return
    from nst.stages import shard

    say(f"{cfg.shard.output}: {shard.summary_line(shard.from_cfg(cfg))}")
    if machine.agreed(not (Path(cfg.data.unlabeled) / "index.json").exists()):
        raise NstError(
            f"there are no unlabeled images in {cfg.shard.output}",
            got="all images became labeled ones",
            next="add a folder unlabeled/ beside the class folders, or set data.labeled_per_class=10",
        )
    for folder in folders:
        wait_until_seen(folder / "index.json")


def _train(cfg: DictConfig, number: int, places: Places) -> Result:
    from nst.stages import train

    if number == 0 and starts_from_a_run(cfg):
        return read_json(places.generation(0) / "result.json")
    cfg.teacher.run = None
    if number:
        places.name_teacher(cfg, number - 1)
    with places.turn(number):
        result = train.from_cfg(cfg, title=f"gen{number} train")
    say(f"gen{number}: {train.summary_line(result)}")
    return result


def _label(cfg: DictConfig, number: int, places: Places) -> Result:
    from nst.stages import label

    places.name_teacher(cfg, number)
    with places.turn(number):
        return label.from_cfg(cfg, title=f"gen{number} label")


def _select(cfg: DictConfig, number: int, places: Places) -> Result:
    from nst.stages import select

    places.name_teacher(cfg, number)
    result = select.from_cfg(cfg)
    say(f"gen{number} select: {select.summary_line(result)}")
    return result


def _evaluate(generations: Sequence[DictConfig], number: int, places: Places) -> Result:
    from nst.stages import evaluate

    cfg = generations[number]
    if number:
        compare_with(cfg, generations[0], places.generation(0))
    cfg.model.checkpoint = str(places.generation(number))
    with places.turn(number):
        return evaluate.from_cfg(cfg, label=f"gen{number} evaluate")
