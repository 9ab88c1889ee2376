"""What run directories hold, read for people: configuration, result, curves, selection, evaluation.

A part that a run does not have is empty or None, and the page says so; only a folder without any run is an error. A
chain of generations is recognised by content: each student's started.json names the sha256 of its teacher's weights,
so runs may have been moved or listed by hand.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from nst.documents import damaged, read_config, read_json, read_text
from nst.errors import NstError
from nst.shown import short

Curve = list[tuple[int, float]]  # step, value
Document = dict[str, Any]


@dataclass(frozen=True)
class Generation:
    """One trained network and everything that was made with it.

    Args:
        teacher: the generation before it in this report; None for the first.
    """

    directory: Path
    teacher: Generation | None = None

    @property
    def number(self) -> int | None:
        """Of `gen<number>`; None for a directory of another name."""
        match = re.fullmatch(r"gen(\d+)", self.directory.name)
        return int(match[1]) if match else None

    @property
    def label(self) -> str:
        """`teacher`, `student 1`, ...; a directory of another name goes by that."""
        if self.number is None:
            return short(self.directory.name, 80)
        return f"student {self.number}" if self.number else "teacher"

    @property
    def named(self) -> str:
        """The label inside a sentence."""
        return "the teacher" if self.number == 0 else self.label

    @cached_property
    def config(self) -> Document:
        path = self.directory / "config.yaml"
        return read_config(path) if path.exists() else {}

    @cached_property
    def started(self) -> Document:
        return read_document(self.directory / "started.json") or {}

    @cached_property
    def result(self) -> Document:
        """What the training came to; empty while it goes on."""
        return (read_document(self.directory / "result.json") or {}) if self.finished else {}

    @property
    def finished(self) -> bool:
        return (self.directory / "DONE").exists()

    @cached_property
    def evaluation(self) -> Document | None:
        return read_document(self.directory / "evaluation" / "result.json")

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """metric → its steps and values; empty where no table was kept."""
        path = self.directory / "metrics.csv"
        return read_curves(path) if path.exists() else {}

    @property
    def predictions_folder(self) -> Path:
        return self.directory / "predictions"

    @property
    def selection_folder(self) -> Path:
        # what runs select of a teacher that they share (`iterate.teacher`) is each run's own
        return (self.directory.parent if self.directory.is_symlink() else self.directory) / "selection"

    @cached_property
    def selection(self) -> Document | None:
        """What was selected of the labels that this network gave."""
        return read_document(self.selection_folder / "selection.json")

    @cached_property
    def learned_from(self) -> Document | None:
        """The selection that this network was trained on."""
        if self.teacher is not None:
            return self.teacher.selection
        folder = self.config.get("teacher", {}).get("selection")
        return read_document(Path(folder) / "selection.json") if folder else None

    @property
    def has_teacher(self) -> bool:
        return bool(self.started.get("inputs", {}).get("teacher"))

    def data_folder(self, part: str) -> Path | None:
        """Folder of the shards `labeled`, `unlabeled` or `test`, as the run was told; None if it was told none."""
        folder = self.config.get("data", {}).get(part)
        return Path(folder) if folder else None


@dataclass(frozen=True)
class Experiment:
    """Generations in order, teacher first; a single training is an experiment of one."""

    name: str
    directory: Path
    generations: tuple[Generation, ...]

    @property
    def first(self) -> Generation:
        return self.generations[0]

    @cached_property
    def last(self) -> Generation:
        """The last finished generation, or the last one while none has finished."""
        finished = [generation for generation in self.generations if generation.finished]
        return (finished or list(self.generations))[-1]

    @cached_property
    def result(self) -> Document:
        return read_document(self.directory / "result.json") or {}

    @property
    def paper(self) -> Document | None:
        """The published figures that belong beside this experiment's."""
        return self.result.get("paper") or self.last.config.get("paper")


def open_runs(directory: Path, runs: Sequence[Path] | None = None) -> list[Experiment]:
    """The experiments to show: those of `runs`, or what `directory` holds (generations, one training, or a sweep).

    Raises:
        NstError: a folder is missing or holds no training.
    """
    if runs:
        found = [_required(Path(run)) for run in runs]
        chain = _chain(found)
        return [chain] if chain else found
    experiment = _experiment(directory)
    if experiment:
        return [experiment]
    folders = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    swept = [experiment for experiment in map(_experiment, folders) if experiment]
    return swept or [_required(directory)]


def read_curves(path: Path) -> dict[str, Curve]:
    """Columns step, metric, value of a metrics.csv; a half-written last line is left out.

    Raises:
        NstError: it is not such a table.
    """
    text = read_text(path)
    curves: dict[str, Curve] = {}
    try:
        for step, metric, value in csv.reader(text[: text.rfind("\n") + 1].splitlines()[1:]):
            curves.setdefault(metric, []).append((int(step), float(value)))
    except ValueError as error:
        raise damaged(path, f"{error}; valid are columns step, metric, value") from error
    return curves


def _experiment(directory: Path) -> Experiment | None:
    folders = [path for path in directory.glob("gen*") if re.fullmatch(r"gen\d+", path.name) and _is_training(path)]
    folders.sort(key=lambda path: int(path.name[3:]))
    if not folders and _is_training(directory):
        folders = [directory]
    if not folders:
        return None
    generations = _link(folders)
    own = generations[-1].config.get("name")
    # in a sweep all jobs have one name, and their directories say what distinguishes them
    name = own if own and len(folders) > 1 and "=" not in directory.name else directory.resolve().name
    return Experiment(short(name, 80), directory, generations)


def _link(folders: Sequence[Path]) -> tuple[Generation, ...]:
    generations: list[Generation] = []
    for folder in folders:
        generations.append(Generation(folder, generations[-1] if generations else None))
    return tuple(generations)


def _chain(experiments: Sequence[Experiment]) -> Experiment | None:
    """The one experiment that single runs form when each learned from the one before."""
    runs = [experiment.first for experiment in experiments]
    if len(runs) < 2 or any(len(experiment.generations) > 1 for experiment in experiments):
        return None
    for teacher, student in pairwise(runs):
        given = (student.started.get("inputs", {}).get("teacher") or {}).get("weights")
        if given is None or given != teacher.result.get("weights_sha256"):
            return None
    last = runs[-1].directory
    name = runs[-1].config.get("name") or last.resolve().name
    return Experiment(short(name, 80), last, _link([run.directory for run in runs]))


def _is_training(directory: Path) -> bool:
    started = read_document(directory / "started.json")
    return started is not None and started.get("stage") == "train"


def _required(directory: Path) -> Experiment:
    experiment = _experiment(directory)
    if experiment is None:
        names = sorted(path.name for path in directory.iterdir())[:8] if directory.is_dir() else []
        raise NstError(
            f"there is no run to report in {directory}",
            got=f"a folder with {', '.join(names)}" if names else "an empty or missing folder",
            valid="a directory of nst train or nst iterate, or of a sweep of them",
            next="nst iterate makes one; nst report run_dir=runs/<name> reports it",
        )
    return experiment


def read_document(path: Path) -> Document | None:
    """A JSON file of a run; None where there is none.

    Raises:
        NstError: it is damaged.
    """
    return read_json(path) if path.exists() else None
