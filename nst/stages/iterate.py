"""`nst iterate`: Algorithm 1 for a list of generations, each stage skipped when done and continued when killed.

    runs/<name>/gen0/                    the teacher: checkpoints, metrics.csv, result.json
    runs/<name>/gen0/predictions/        what it says about the unlabeled images
    runs/<name>/gen0/selection/          which of them its student learns from
    runs/<name>/gen1/ ...                the student, next generation's teacher

The one decision worth knowing: a generation is a list of options, exactly what one would give to `nst train`; the
stages below are the ones a person can call by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table

from nst.config import compose_config, plain
from nst.errors import NstError
from nst.progress import console, say
from nst.report.rows import model_name
from nst.runs import is_rank_zero, write_json, write_text
from nst.stages.options import test_set

Result = dict[str, Any]


def run(
    directory: Path,
    generations: int,
    *,
    train: Callable[[int, Path | None], Result],
    label: Callable[[int], Result],
    select: Callable[[int], Result],
    evaluate: Callable[[int], Result],
) -> list[Result]:
    """Algorithm 1. Each step gets the generation it concerns; `train` also the directory of its teacher."""
    teacher: Path | None = None
    results = []
    for number in range(generations):
        selection = None
        if teacher is not None:
            label(number - 1)
            selection = select(number - 1)
        result = train(number, teacher)
        results.append({**_row(number, result, selection), **_scores(evaluate(number))})
        teacher = directory / f"gen{number}"
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
    return {name: evaluation[name] for name in ("top1", "top5", "ece", "loss")}


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """The generations side by side, 80 columns at most."""
    shown = Table(
        title="Noisy Student Training", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in ("gen", "model", "params", "labeled", "unlabeled", "top-1 %", "ECE %", "gain"):
        shown.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
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
        )
    return shown


def main(cfg: DictConfig) -> None:
    """Composes every generation's configuration, runs Algorithm 1, writes the table and the report."""
    directory = Path(cfg.run_dir)
    generations = configurations(cfg)
    make_shards(cfg)
    check(cfg, generations)

    results = run(
        directory,
        len(generations),
        train=lambda number, teacher: _train(generations[number], number, teacher, directory),
        label=lambda number: _label(generations[number + 1], number, directory),
        select=lambda number: _select(generations[number + 1], number, directory),
        evaluate=lambda number: _evaluate(generations[number], number, directory),
    )
    if not is_rank_zero():
        return
    write_text(directory / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    last = {name: results[-1][name] for name in ("top1", "top5", "ece", "gain")}
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

    test_set(cfg)
    for generation in generations:
        train.check(generation)


def configurations(cfg: DictConfig) -> list[DictConfig]:
    """One whole configuration per generation: the command line's options, then the generation's own.

    Raises:
        NstError: a generation's option does not exist.
    """
    lists = plain(cfg.iterate.generations)
    if lists is None:
        lists = [[f"student={cfg.teacher.student}"] if cfg.teacher.student else [], []]
    if not lists or not all(isinstance(options, list) for options in lists):
        raise NstError(
            "iterate.generations is not a list of lists of options",
            got=lists,
            valid="[['model.width=0.35'], ['model.width=0.5']]",
        )
    given = [item for item in plain(cfg.overrides) if not item.startswith(("run_dir=", "name="))]
    composed = []
    for number, options in enumerate(lists):
        whole = [*given, *options, f"run_dir='{cfg.run_dir}/gen{number}'", f"name='{cfg.name}'"]
        generation = compose_config(whole)
        generation.overrides, generation.stage = whole, "train"
        composed.append(generation)
    return composed


def make_shards(cfg: DictConfig) -> None:
    """Makes the shard sets from data.source, unless there are some that `nst shard` has not made there."""
    ours = (Path(cfg.shard.output) / "started.json").exists()  # whole: skipped; killed: continued
    if not ours and all((Path(folder) / "index.json").exists() for folder in (cfg.data.labeled, cfg.data.unlabeled)):
        return
    from nst.stages import shard

    say(f"{cfg.shard.output}: {shard.summary_line(shard.from_cfg(cfg))}")
    if not (Path(cfg.data.unlabeled) / "index.json").exists():
        raise NstError(
            f"there are no unlabeled images in {cfg.shard.output}",
            got="all images became labeled ones",
            next="add a folder unlabeled/ beside the class folders, or set data.labeled_per_class=10",
        )


def _train(cfg: DictConfig, number: int, teacher: Path | None, directory: Path) -> Result:
    from nst.stages import train

    cfg.teacher.run = str(teacher) if teacher else None
    result = train.from_cfg(cfg, label=f"gen{number} train")
    say(f"gen{number}: {train.summary_line(result)}")
    return result


def _label(cfg: DictConfig, number: int, directory: Path) -> Result:
    from nst.stages import label

    cfg.teacher.run = str(directory / f"gen{number}")
    return label.from_cfg(cfg, label=f"gen{number} label")


def _select(cfg: DictConfig, number: int, directory: Path) -> Result:
    from nst.stages import select

    cfg.teacher.run = str(directory / f"gen{number}")
    result = select.from_cfg(cfg)
    say(f"gen{number} select: {select.summary_line(result)}")
    return result


def _evaluate(cfg: DictConfig, number: int, directory: Path) -> Result:
    from nst.stages import evaluate

    cfg.model.checkpoint = str(directory / f"gen{number}")
    return evaluate.from_cfg(cfg, label=f"gen{number} evaluate")
