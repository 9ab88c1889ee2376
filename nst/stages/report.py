"""`nst report`: run directories → report.html, figures/*.png and *.svg, report.csv.

The report only reads what other stages have left on disk, and needs neither torch nor a GPU; it can be made at any
time, also while a run goes on, and says what is not there yet.
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst.atomic import write_csv, write_text
from nst.config import job_from, require_values
from nst.documents import read_document
from nst.errors import NstError
from nst.finished import generations_in
from nst.leftovers import sweep
from nst.progress import console, say
from nst.report import findings, labels_section, next_steps, paper, paper_figures, sections, summary, terminal
from nst.report.generation_rows import COLUMNS, Row, control_row, is_untested, rows
from nst.report.page import Page, render
from nst.report.pictures import pictures
from nst.report.records import Experiment, open_runs
from nst.report.robustness_section import FIGURES as ROBUSTNESS_FIGURES
from nst.report.robustness_section import robustness
from nst.report.style import save_png, svg_document
from nst.settings.job import ReportJob
from nst.settings.measuring import WandbOptions
from nst.shown import short
from nst.stages.apart import keep_apart
from nst.written import begin, unlink

RESULTS = Path(__file__).parents[2] / "docs" / "results"  # of a checkout
# names of all figures a report can have: those it has no more are removed
FIGURES = ("generations", "runs_compared", "learning_curves", "confidence", "class_balance", "reliability",
           "class_accuracy", "confusion", "label_confusion", *ROBUSTNESS_FIGURES)  # fmt: skip


def run(job: ReportJob) -> dict[str, Any]:
    """Writes the report into the job's directory; returns its paths and the rows of its table.

    Raises:
        NstError: there is no run, or one of its files is damaged.
    """
    directory = Path(job.run_dir)
    experiments = open_runs(directory, [Path(path) for path in job.report.runs] if job.report.runs else None)
    rows_of = [rows(experiment) for experiment in experiments]
    controls = [control_row(*pair) for pair in zip(experiments, rows_of, strict=True)]
    page = _page(job, experiments, rows_of, controls)
    drawings = page.drawings()
    figures_ = {name: [f"figures/{name}{ending}" for ending in (".png", ".svg")] for name in FIGURES}
    drawn = [name for drawing in drawings for name in figures_[drawing.name]]
    begin(directory, "report.html", "report.csv", *drawn)
    sweep(directory)
    for drawing in drawings:
        save_png(drawing.figure, directory / "figures" / f"{drawing.name}.png")
        write_text(directory / "figures" / f"{drawing.name}.svg", drawing.document)
    unlink(*(directory / name for each in figures_.values() for name in each if name not in drawn))
    _, figures = paper.published(experiments[0].paper)
    every = [row for entries, control in zip(rows_of, controls, strict=True) for row in (*entries, control) if row]
    every += [{"experiment": "published", "run": name, **values} for name, values in figures]
    write_csv(directory / "report.csv", COLUMNS, every)
    write_text(directory / "report.html", render(page))
    return {
        "page": directory / "report.html",
        "table": directory / "report.csv",
        "figures": [directory / "figures" / f"{drawing.name}.svg" for drawing in drawings],
        "rows": rows_of,
        "controls": controls,
    }


def _page(
    job: ReportJob,
    experiments: Sequence[Experiment],
    rows_of: Sequence[Sequence[Row]],
    controls: Sequence[Row | None],
) -> Page:
    examples, (place, word) = job.report.examples, _best(rows_of)
    focus, entries, control = experiments[place], rows_of[place], controls[place]
    body = [sections.generations(focus, entries, control), next_steps.section(focus, entries, control)]
    if len(experiments) > 1:
        body.insert(0, sections.comparison(experiments, rows_of, focus))
    body += [sections.learning(focus), labels_section.selection(focus), sections.classes(focus, Path(job.run_dir))]
    body += [robustness(focus, examples), pictures(focus, examples)]
    return Page(
        title=focus.name if len(experiments) == 1 else f"{len(experiments)} runs, {word}: {focus.name}",
        summary=summary.sentence(focus, entries),
        numbers=summary.headline_numbers(entries, control),
        sections=body,
        facts=summary.facts(focus),
        # the run that it ends has not recorded its command yet
        command=summary.command(focus, *((job.stage, job.overrides) if job.stage == "iterate" else (None, None))),
        configs=summary.configs(focus),
    )


def tell(rows_of: Sequence[Sequence[Row]], controls: Sequence[Row | None]) -> None:
    """Shows the table of the page in the terminal, and what may be concluded from it."""
    if len(rows_of) > 1:
        console.print(terminal.compared(rows_of))
        return
    (entries,), (control,) = rows_of, controls
    if not entries:
        say("no training of this run has finished yet")
        return
    first = {**entries[0], "gain": None}
    console.print(terminal.table([first, *entries[1:], *([control] if control else [])]))
    for sentence in summary.verdicts(entries, control):
        say(textwrap.fill(sentence, 80))


def _best(rows_of: Sequence[Sequence[Row]]) -> tuple[int, str]:
    """Number of the experiment whose last network has the best top-1, and what it is called among the others: of equal
    ones, of some that were tested and some that were not, or if none is known, it is one that is shown."""
    scores = [(entries[-1]["top1"] or 0.0) if entries else -1.0 for entries in rows_of]
    most = max(scores)
    mixed = len({is_untested(entries[-1]) for entries in rows_of if entries}) > 1
    return scores.index(most), "best" if scores.count(most) == 1 and not mixed else "shown"


def of_the_paper(where: paper.Exhibit, directory: Path | str, folders: Sequence[Path | str]) -> dict[str, Any]:
    """A table or figure of the paper from the runs below `folders`: markdown, CSV and figures in `directory`.

    Returns:
        The cells by scale, the paths written, and the scales without a figure, as no run measured what it shows.

    Raises:
        NstError: no run below belongs there, or two contradict each other.
    """
    directory, name = Path(directory), where.file_name
    found = paper.collect(where, [Path(folder) for folder in folders])
    stems = [f"figures/{name}" if number == 0 else f"figures/{name}-{number + 1}" for number in range(len(found))]
    drawings = {stem: paper_figures.draw(where, *entry) for stem, entry in zip(stems, found.items(), strict=True)}
    drawn = {stem: figure for stem, figure in drawings.items() if figure is not None}
    begin(directory, f"{name}.md", f"{name}.csv", *(stem + ending for stem in drawn for ending in (".png", ".svg")))
    sweep(directory)
    for stem, figure in drawn.items():
        save_png(figure, directory / f"{stem}.png")
        write_text(directory / f"{stem}.svg", svg_document(figure))
    undrawn = [stem for stem in stems if stem not in drawn]
    unlink(*(directory / (stem + ending) for stem in undrawn for ending in (".png", ".svg")))
    table = directory / f"{name}.md"
    write_text(table, "\n".join(paper.markdown(where, scale, cells) for scale, cells in found.items()))
    write_csv(directory / f"{name}.csv", paper.COLUMNS, paper.numbers(where, found))
    return {
        "cells": found,
        "table": table,
        "numbers": directory / f"{name}.csv",
        "figures": [directory / f"{stem}.png" for stem in drawn],
        "undrawn": [scale for stem, scale in zip(stems, found, strict=True) if stem in undrawn],
    }


def main(cfg: DictConfig) -> None:
    """Reads the configuration and runs the stage."""
    job = job_from(ReportJob, cfg)
    if job.report.wandb_workspace:
        _save_workspace(job)
        return
    if job.report.findings:
        given = job.report.findings
        print(findings.of_folder(RESULTS if given is True else Path(given)), end="")
        return
    keep_apart(cfg, "report")
    asked = [(kind, number) for kind in ("table", "figure") if (number := getattr(job.report, kind)) is not None]
    for kind, number in asked:
        _of_the_paper(job, paper.exhibit(kind, number))
    if not asked:
        make(job)


def make(job: ReportJob) -> None:
    """The report of run directories; at the end of `nst iterate` with its command line."""
    result = run(job)
    if job.stage != "iterate":
        tell(result["rows"], result["controls"])
    say(f"report: {result['page']}")
    outcome = read_document(Path(job.run_dir) / "result.json") or {}
    rows_ = [dict(row) for entries in result["rows"] for row in entries]
    pictures_ = [path.with_suffix(".png") for path in result["figures"]]
    files = [result["page"], result["table"]]
    _publish(job, "generations", rows_, pictures_, files, outcome)


def _of_the_paper(job: ReportJob, where: paper.Exhibit) -> None:
    made = of_the_paper(where, job.run_dir, job.report.runs or ["runs"])
    for scale, cells in made["cells"].items():
        console.print(paper.terminal_table(where, scale, cells))
    for scale in made["undrawn"]:
        say(f"{where.name}, {short(scale)}: no figure, as no run measured what it shows")
    say(f"{where.name}: {', '.join(map(str, (made['table'], made['numbers'], *made['figures'])))}")
    with open(made["numbers"], newline="", encoding="utf-8") as file:
        rows_ = list(csv.DictReader(file))
    _publish(job, where.file_name, rows_, made["figures"], [made["table"], made["numbers"]], {})


def _publish(
    job: ReportJob,
    table: str,
    rows_: Sequence[dict[str, Any]],
    pictures_: Sequence[Path],
    files: Sequence[Path],
    result: dict[str, Any],
) -> None:
    """Sends a report to the W&B run that belongs to this directory, where one is wanted."""
    if job.logger.wandb is None and not job.report.wandb:
        return
    from nst.training.tracking import Tracking  # loads torch, which a report alone does not need

    wandb, config = job.logger.wandb or WandbOptions(group=job.name), require_values(job.config)
    own = Tracking(Path(job.run_dir), table=False, wandb=wandb, config=config, stage=job.stage)
    if job.stage == "iterate":  # its trainings have W&B runs, and the report is part of the last one's
        own = own.within(generations_in(Path(job.run_dir))[-1])
    with own as tracking:
        tracking.publish(table, rows_, pictures_, files, result)


def _save_workspace(job: ReportJob) -> None:
    """Saves the W&B view of the project.

    Raises:
        NstError: nobody is logged in, or W&B refuses.
    """
    import wandb

    from nst.report import workspace

    options = job.logger.wandb or WandbOptions(group=None)
    try:
        project = options.project
        entity = options.entity or wandb.Api().default_entity
        address = workspace.save(str(entity), project)
    except (wandb.errors.Error, wandb.errors.UsageError, ValueError, OSError) as error:
        raise NstError(
            "the W&B view could not be saved",
            got=str(error).partition("\n")[0],
            next="wandb login, then nst report --wandb-workspace logger=wandb logger.wandb.project=<project>",
        ) from error
    say(f"W&B view: {address}")
