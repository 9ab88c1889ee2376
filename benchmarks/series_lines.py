"""What a finished run of a series came to, as lines of its CSV file, from the run's own files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst.documents import read_json
from nst.evaluation import mistakes
from nst.evaluation.results import row_numbers
from nst.report.claims import CLAIMS, LAST, Contender
from nst.report.evidence import COLUMNS, CONTROL, FACTS, METRICS, Line, Pair
from nst.report.findings import name_for
from nst.report.generation_rows import row as row_of
from nst.report.paper import measured
from nst.report.records import Generation, open_runs, read_document

EVALUATED = "network"  # the one of a run that only evaluates
VERSIONS = ("torch", "timm", "lightning")


@dataclass(frozen=True)
class Measured:
    """A network of a run: its line, and the test images that it gets wrong."""

    line: Line
    wrong: frozenset[str] | None
    tested_on: Any

    def against(self, other: Measured) -> Pair | None:
        """Wins and losses; None where not all answers to the same images are known."""
        if self.wrong is None or other.wrong is None or self.tested_on is None or self.tested_on != other.tested_on:
            return None
        return len(other.wrong - self.wrong), len(self.wrong - other.wrong)


def networks(directory: Path, series: str, row: str, seed: int, *, evaluated: bool) -> dict[str, Measured]:
    """The networks of a finished run: the control, then the generations.

    Raises:
        NstError: a file of the run is missing or damaged.
    """
    if evaluated:
        own = Generation(directory)
        result, started = read_json(directory / "result.json"), own.started
        wrong = mistakes.read(directory / mistakes.FILE)
        found = {EVALUATED: (result, {}, wrong, started, started.get("inputs", {}).get("test"))}
    else:
        experiment = open_runs(directory)[0]
        runs = [*([experiment.control] if experiment.control else []), *experiment.generations]
        found = {
            CONTROL if run is experiment.control else f"gen{run.number}": (
                read_json(run.directory / "evaluation" / "result.json"), _facts(run), run.mistakes, run.started,
                run.evaluated.get("test"),
            ) for run in runs
        }  # fmt: skip
    return {
        name: Measured(
            Line(series, row, seed, name, scores(result), int(result["samples"]), {}, "", facts | _code(started)),
            None if wrong is None else frozenset(wrong),
            tested_on,
        )
        for name, (result, facts, wrong, started, tested_on) in found.items()
    }


def scores(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an evaluation's result.json, in percent."""
    known = measured(result) | row_numbers(result.get("robustness", {}))
    return {name: float(known[name]) for name in METRICS if known.get(name) is not None}


def _facts(run: Generation) -> dict[str, str]:
    known = row_of(run)
    right = known["pseudo_label_accuracy"]
    return {
        "model": str(known["model"]),
        "labels": str(known["labeled"]),
        "selected": str(known["unlabeled"]),
        "selected_right": "" if right is None else f"{right:.6g}",
        "steps": str(known["steps"]),
    }


def _code(started: Mapping[str, Any]) -> dict[str, str]:
    packages = started.get("packages", {})
    versions = " ".join(f"{name} {packages[name]}" for name in VERSIONS if name in packages)
    return {"versions": versions, "commit": started.get("git") or ""}


def with_pairs(own: Mapping[str, Measured], others: Mapping[tuple[str, str], Mapping[str, Measured]]) -> Iterator[Line]:
    """The lines of a run, with wins and losses against the networks of the run before each, and against those of
    other runs that a claim compares them with.

    Args:
        others: (series, row) → the networks of finished runs of the same seed.
    """
    before: list[Measured] = []
    for name, mine in own.items():
        rivals = [*before, *_rivals(name, mine.line, own, others)]
        pairs = {name_for(mine.line, rival.line): mine.against(rival) for rival in rivals}
        known = {rival: pair for rival, pair in pairs.items() if pair is not None}
        yield Line(*mine.line.key, mine.line.scores, mine.line.images, known, "", mine.line.facts)
        before.append(mine)


def compared_with(series: str, row: str) -> Iterator[tuple[Contender, Contender]]:
    """Networks of a row, and those of other rows that a claim compares them with."""
    for expectation in (expectation for claim in CLAIMS for expectation in claim.expectations):
        for mine, other in ((expectation.more, expectation.less), (expectation.less, expectation.more)):
            if (mine.series, mine.row) == (series, row) != (other.series, other.row):
                yield mine, other


def _rivals(
    name: str, line: Line, own: Mapping[str, Measured], others: Mapping[tuple[str, str], Mapping[str, Measured]]
) -> Iterator[Measured]:
    for mine, other in compared_with(line.series, line.row):
        rivals = others.get((other.series, other.row), {})
        if rivals and _called(mine, own) == name:
            yield rivals[_called(other, rivals)]


def _called(which: Contender, among: Mapping[str, Measured]) -> str:
    """Its own name, also of the last generation, which comes last."""
    return [*among][-1] if which.network == LAST else which.network


def finished(directory: Path) -> bool:
    """Whether a run has come to its result."""
    return read_document(directory / "result.json") is not None


def text_of(lines: Iterable[Line], *, heads: bool) -> str:
    """Lines as they stand in a file."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    if heads:
        table.writerow(COLUMNS)
    for line in lines:
        scores = [f"{line.scores[name]:.6g}" if name in line.scores else "" for name in METRICS]
        pairs = " ".join(f"{name}:{wins}:{losses}" for name, (wins, losses) in line.pairs.items())
        facts = [line.facts.get(name, "") for name in FACTS]
        table.writerow([*line.key, *scores, line.images, pairs, line.options, *facts])
    return text.getvalue()
