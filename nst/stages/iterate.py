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

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from rich import box
from rich.table import Table

from nst.atomic import write_config, write_json
from nst.checking import quoted
from nst.config import compose_config, job_from, made, plain
from nst.documents import read_json
from nst.errors import NstError
from nst.leftovers import sweep
from nst.progress import console, say
from nst.report.robustness import COLUMNS, headline
from nst.report.rows import model_name
from nst.settings.data import DataOptions, RemoteOptions
from nst.settings.job import TrainJob
from nst.sharing import is_rank_zero, wait_for_lock, wait_until_seen
from nst.shown import kept
from nst.stages.apart import keep_apart
from nst.stages.options import evaluation_from, machine_from, test_set
from nst.stages.places import shards_place
from nst.training.tracking import forget_run
from nst.written import LIST, begin, require_free

Result = dict[str, Any]
HEADINGS = ("gen", "model", "params", "labeled", "unlabeled", "top-1 %", "ECE %", "gain")
WRITTEN = ("config.yaml", "result.json")  # beside the generations; the rest is the report's
ROBUSTNESS = {"corruption_error": "corr.\nerr. %", "flip_rate": "flip\n%"}  # of a row → heading


@dataclass(frozen=True)
class Places:
    """Where the generations of a run lie.

    Args:
        shared: directory of generation 0, where it is not the run's own.
    """

    directory: Path
    shared: Path | None = None

    @classmethod
    def of(cls, cfg: DictConfig) -> Places:
        return cls(Path(cfg.run_dir), Path(cfg.iterate.teacher) if cfg.iterate.teacher else None)

    def generation(self, number: int) -> Path:
        return self.shared if self.shared and number == 0 else self.directory / f"gen{number}"

    def name_teacher(self, cfg: DictConfig, number: int) -> None:
        """Makes that generation the teacher of a configuration."""
        cfg.teacher.run = str(self.generation(number))
        if self.shared and number == 0:
            cfg.teacher.selection = str(self.directory / "selection")

    @contextlib.contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """While one run works on a shared generation the others wait: they need it, and it is the same."""
        if not (self.shared and number == 0 and is_rank_zero()):
            yield
            return
        self.shared.parent.mkdir(parents=True, exist_ok=True)
        lock = self.shared.with_name(f".{self.shared.name}.lock")
        with wait_for_lock(lock, lambda: say(f"waiting: another run works on {self.shared}")):
            yield

    def link(self) -> None:
        """Lets a shared generation 0 be found in the run's directory too.

        Raises:
            NstError: the directory has another generation 0.
        """
        if self.shared is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        link = self.directory / "gen0"
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.relpath(self.shared, self.directory), target_is_directory=True)
        if link.resolve() != self.shared.resolve():
            raise NstError(
                f"{link} is another generation 0 than iterate.teacher", got=link.resolve(), valid=self.shared,
                next="another run_dir, or without iterate.teacher",
            )  # fmt: skip


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
        "width": result["architecture"]["width"],
        "depth": result["architecture"]["depth"],
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


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """The generations side by side, 80 columns at most; what is known of robustness has columns too."""
    robust = [name for name in ROBUSTNESS if any(name in row for row in results)]
    shown = Table(
        title="Noisy Student Training",
        title_justify="left",
        caption=_caption(results) if robust else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0 if robust else 1, 0, 0),
    )
    headings = [heading.replace(" %", "\n%") if robust else heading for heading in HEADINGS]
    for heading in (*headings, *(ROBUSTNESS[name] for name in robust)):
        shown.add_column(heading, vertical="bottom", justify="left" if heading == "model" else "right", no_wrap=True)
    for row in results:
        shown.add_row(
            str(row["generation"]),
            model_name(row),
            f"{row['parameters'] / 1e6:.2f}M",
            str(row["labeled"]),
            str(row["unlabeled"] or "-"),
            f"{row['top1']:.2f}",
            f"{row['ece']:.1f}",
            "-" if row["generation"] == 0 else f"{row['gain']:+.2f}",
            *(f"{row[name]:.1f}" if name in row else "-" for name in robust),
        )
    return shown


def _caption(results: Sequence[Mapping[str, Any]]) -> str:
    """What the columns of robustness are."""
    suites = {kind: row[kind] for row in results for kind in ("corruption_suite", "perturbation_suite") if kind in row}
    told = {
        "corruption_suite": "corr. err.: mean corruption error, not normalised",
        "perturbation_suite": "flip: answers that change along a perturbation sequence",
    }
    return "\n".join(f"{told[kind]} ({suite})" for kind, suite in suites.items())


def main(cfg: DictConfig) -> None:
    """Composes every generation's configuration, runs Algorithm 1, writes the table and the report."""
    from nst.stages.doctor import advise  # which knows of all stages

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


def configurations(cfg: DictConfig) -> list[DictConfig]:
    """One whole configuration per generation: the command line's options, then the generation's own.

    Raises:
        NstError: a generation's option does not exist.
    """
    given = [item for item in plain(cfg.overrides) if not item.startswith(("run_dir=", "name="))]
    composed, places = [], Places.of(cfg)
    for number, options in enumerate(generation_options(cfg)):
        whole = [*given, *options, f"run_dir={quoted(places.generation(number))}", f"name={quoted(cfg.name)}"]
        generation = compose_config(whole)
        generation.overrides, generation.stage = whole, "train"
        composed.append(generation)
    return composed


def generation_options(cfg: DictConfig) -> list[list[str]]:
    """Each generation's options. One may be a list of options itself, by which recipes refer to what they share."""
    first = [f"student={cfg.teacher.student}"] if cfg.teacher.student else []
    lists = plain(cfg.iterate.generations)
    if lists is None:
        lists = [first, []]
    if lists and lists[0] is None:
        lists = [first, *lists[1:]]
    return [list(_flat(options)) for options in lists]


def starts_from_a_run(cfg: DictConfig) -> bool:
    """Whether generation 0 is a finished run, `iterate.teacher`, and not trained: its list of options is null."""
    return plain(cfg.iterate.generations or [])[:1] == [None]


def _flat(options: Sequence[Any]) -> Iterator[str]:
    for option in options:
        yield from _flat(option) if isinstance(option, list) else [option]


def require_teacher(cfg: DictConfig) -> None:
    """Raises NstError where generation 0 should be a finished run and is none."""
    teacher = cfg.iterate.teacher
    if not starts_from_a_run(cfg):
        return
    if teacher is None or not (Path(teacher) / "DONE").exists():
        raise NstError(
            "generation 0 is a finished run, so this needs one",
            got=f"iterate.teacher={teacher or 'null'}" + ("" if teacher is None else ", which has not finished"),
            next="iterate.teacher=<run directory>, or a list of options instead of null to train it",
        )


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


def compare_with(cfg: DictConfig, first: DictConfig, teacher: Path) -> None:
    """Makes the robustness of a student comparable with the first teacher's, where both are measured alike.

    The student gets the teacher's pictures, also where it sees larger ones itself, and the teacher for a baseline,
    unless the command line has named another side or baseline.
    """
    if cfg.eval != first.eval or evaluation_from(cfg)[1] is None:
        return
    if cfg.eval.side is None:
        cfg.eval.side = read_json(teacher / "evaluation" / "result.json")["image_size"]
    if cfg.eval.baseline is None:
        cfg.eval.baseline = str(teacher)
