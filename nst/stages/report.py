"""`nst report`: run directories → report.html, figures/*.png and *.svg, report.csv.

The one decision worth knowing: the report only reads what other stages have left on disk, and needs neither torch nor
a GPU; it can be made at any time, also while a run goes on, and says what is not there yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst.errors import NstError
from nst.progress import say
from nst.report import sections, summary
from nst.report.page import Page, render
from nst.report.pictures import pictures
from nst.report.records import Experiment, open_runs
from nst.report.rows import Row, published, rows, write_csv
from nst.report.style import save_png
from nst.runs import read_json, write_text

# names of all figures a report can have: those it has no more are removed
FIGURES = ("generations", "runs_compared", "learning_curves", "confidence", "class_balance", "reliability",
           "class_accuracy", "confusion")  # fmt: skip


def run(
    directory: Path | str,
    runs: Sequence[Path | str] | None = None,
    *,
    examples: int = 24,
    stage: str | None = None,
    overrides: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Writes the report into `directory`; returns its paths and the rows of its table.

    Args:
        runs: run directories, teacher first or to be compared; None: what `directory` holds.
        examples: pictures per gallery.
        stage, overrides: the command line that made the run, where config.yaml does not record it.

    Raises:
        NstError: there is no run, or one of its files is damaged.
    """
    if examples < 0:
        raise NstError("report.examples is a number of pictures", got=examples, valid="0 or more")
    directory = Path(directory)
    experiments = open_runs(directory, [Path(path) for path in runs] if runs else None)
    rows_of = [rows(experiment) for experiment in experiments]
    page = _page(experiments, rows_of, examples, stage, overrides)
    drawings = page.drawings()
    for drawing in drawings:
        save_png(drawing.figure, directory / "figures" / f"{drawing.name}.png")
        write_text(directory / "figures" / f"{drawing.name}.svg", drawing.document)
    _remove_leftovers(directory / "figures", {drawing.name for drawing in drawings})
    _, paper = published(experiments[0].paper)
    write_csv(directory / "report.csv", [row for entries in rows_of for row in entries], paper=paper)
    write_text(directory / "report.html", render(page))
    return {
        "page": directory / "report.html",
        "table": directory / "report.csv",
        "figures": [directory / "figures" / f"{drawing.name}.svg" for drawing in drawings],
        "rows": rows_of,
    }


def _page(
    experiments: Sequence[Experiment],
    rows_of: Sequence[Sequence[Row]],
    examples: int,
    stage: str | None,
    overrides: Sequence[str] | None,
) -> Page:
    place = _best(rows_of)
    focus, entries = experiments[place], rows_of[place]
    body = [sections.generations(focus, entries)]
    if len(experiments) > 1:
        body.insert(0, sections.comparison(experiments, rows_of, focus))
    body += [sections.learning(focus), sections.selection(focus), sections.classes(focus), pictures(focus, examples)]
    return Page(
        title=focus.name if len(experiments) == 1 else f"{len(experiments)} runs, best: {focus.name}",
        summary=summary.sentence(focus, entries),
        numbers=summary.headline_numbers(entries),
        sections=body,
        facts=summary.facts(focus),
        command=summary.command(focus, stage, overrides),
        configs=summary.configs(focus),
    )


def _best(rows_of: Sequence[Sequence[Row]]) -> int:
    """Which experiment's last network has the best top-1; the first of equals, and while none is known."""
    scores = [(entries[-1]["top1"] or 0.0) if entries else -1.0 for entries in rows_of]
    return scores.index(max(scores))


def _remove_leftovers(folder: Path, written: set[str]) -> None:
    for name in FIGURES:
        for ending in (".png", ".svg"):
            if name not in written:
                (folder / f"{name}{ending}").unlink(missing_ok=True)


def main(cfg: DictConfig) -> None:
    """Reads the configuration and runs the stage; called by `nst iterate` too, whose command line it then shows."""
    made_here = cfg.stage == "iterate"
    result = run(
        cfg.run_dir,
        list(cfg.report.runs) if cfg.report.runs else None,
        examples=cfg.report.examples,
        stage="iterate" if made_here else None,
        overrides=list(cfg.overrides) if made_here else None,
    )
    say(f"report: {result['page']}")
    if cfg.logger.wandb:
        _publish(cfg, result)


def _publish(cfg: DictConfig, report: dict[str, Any]) -> None:
    """Sends the report to the W&B run that belongs to this directory."""
    from nst.stages.options import tracking_from  # loads torch, which a report alone does not need

    outcome = Path(cfg.run_dir) / "result.json"
    rows_ = [dict(row) for entries in report["rows"] for row in entries]
    with tracking_from(cfg) as tracking:
        tracking.table = False
        pictures_ = [path.with_suffix(".png") for path in report["figures"]]
        tracking.publish(rows_, pictures_, report["page"], read_json(outcome) if outcome.exists() else {})
