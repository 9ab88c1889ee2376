"""What run directories hold, read for people: configuration, result, curves, selection, evaluation.

A part that a run does not have is empty or None, and the page says so; only a folder without any run is an error. A
chain of generations is recognised by content: each student's started.json names the sha256 of its teacher's weights,
so runs may have been moved or listed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst.documents import read_config, read_document, read_metrics
from nst.errors import NstError
from nst.evaluation import mistakes
from nst.evaluation.results import inputs_of, looks_of, with_views
from nst.finished import generations_in, of_one_line, taught_by
from nst.settings.learning import LABELS, only_run
from nst.shown import capital, short
from nst.untrusted import require_file_name

if TYPE_CHECKING:
    from nst.report.labeled import Labeled

Document = dict[str, Any]
Curve = list[tuple[int, float]]  # step, value
CONTROL = "control"  # instead of the number of a generation, and the directory beside theirs


@dataclass(frozen=True)
class Generation:
    """One trained network and everything that was made with it.

    Args:
        teacher: the generation before it in this report; None for the first.
        folders: of its predictions, its selection and the images that it labeled, where its own files do not say.
        called: its title, where its directory does not say it.
    """

    directory: Path
    teacher: Generation | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    called: str | None = None

    @property
    def number(self) -> int | None:
        """Of `gen<number>`; None for a directory of another name."""
        match = re.fullmatch(r"gen(\d+)", self.directory.name)
        return int(match[1]) if match else None

    @property
    def title(self) -> str:
        """`teacher`, `student 1`, ...; a directory of another name goes by that."""
        if self.called is not None:
            return self.called
        if self.number is None:
            return short(self.directory.name, 80)
        return f"student {self.number}" if self.number else "teacher"

    @property
    def named(self) -> str:
        """The title inside a sentence."""
        return f"the {self.title}" if self.title in ("teacher", "teachers") else self.title

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
    def robustness(self) -> dict[str, Document]:
        """Results by suite; empty where none was evaluated."""
        path = self.directory / "evaluation" / "result.json"
        suites = (self.evaluation or {}).get("robustness", {})
        # figures are named by it
        return {require_file_name(suite, path): with_views(result, self.looks) for suite, result in suites.items()}

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """metric → its steps and values; empty where no table was kept."""
        path, found = self.directory / "metrics.csv", dict[str, Curve]()
        for step, metric, value in read_metrics(path) if path.exists() else ():
            found.setdefault(metric, []).append((step, value))
        return found

    @property
    def predictions_folder(self) -> Path:
        return self.folders.get("predictions", self.directory / "predictions")

    @property
    def selection_folder(self) -> Path:
        # what runs select of a teacher that they share (`iterate.teacher`) is each run's own
        own = self.directory.parent if self.directory.is_symlink() else self.directory
        return self.folders.get("selection", own / "selection")

    @cached_property
    def selection(self) -> Document | None:
        """What was selected of the labels that this network gave."""
        return read_document(self.selection_folder / "selection.json")

    @cached_property
    def learned_from(self) -> Document | None:
        """The selection that this network was trained on."""
        return self.labeler.selection if self.labeler is not None else None

    @cached_property
    def labeler(self) -> Generation | None:
        """Whose labels it learned from: the generation before it, or the teacher that its options name."""
        given = self.config.get("teacher") or {}
        named = given.get("run")
        run = only_run(named)
        places = {name: given.get(name) or (f"{run}/{name}" if run else None) for name in LABELS}
        known = {name: Path(folder) for name, folder in places.items() if folder}
        if self.teacher is not None or not (self.has_teacher and known):
            return self.teacher
        directory = Path(run) if run else next(iter(known.values())).parent
        if (images := self.data_folder("unlabeled")) is not None:
            known["unlabeled"] = images
        return Generation(directory, folders=known, called="teachers" if named and not run else "teacher")

    @property
    def has_teacher(self) -> bool:
        return bool(self.started.get("inputs", {}).get("teacher"))

    @property
    def labeled_online(self) -> bool:
        """Whether its teacher labeled batch by batch, so that no labels are kept."""
        return self.has_teacher and self.started["inputs"]["teacher"].get("mode") == "online"

    @cached_property
    def mistakes(self) -> dict[str, float] | None:
        """Keys of all test images that it gets wrong, and how sure it is; None where its evaluation kept none."""
        return mistakes.read(self.mistakes_file)

    @property
    def mistakes_file(self) -> Path:
        return self.directory / "evaluation" / mistakes.FILE

    @cached_property
    def evaluated(self) -> Document:
        """The inputs of its evaluation, such as the `test` images; empty where they are not known."""
        return inputs_of(self.directory / "evaluation")

    @property
    def looks(self) -> int:
        """In how many views of each picture it was evaluated."""
        return looks_of(self.evaluated)

    def data_folder(self, part: str) -> Path | None:
        """Folder of the shards `labeled`, `unlabeled` or `test`, as the run was told; None if it was told none."""
        folder = self.folders.get(part) or self.config.get("data", {}).get(part)
        return Path(folder) if folder else None

    @cached_property
    def labeled(self) -> Labeled | None:
        """What it says of the first unlabeled images, with the truth where it is known; None where it labeled none."""
        from nst.report.labeled import read_labeled  # here: pyarrow takes time to load, and most of a page needs none

        folder = self.data_folder("unlabeled")
        truth = folder / "truth.parquet" if folder else None
        return read_labeled(self.predictions_folder, self.selection_folder, truth)


def opening(title: str) -> str:
    """A title at the start of a sentence: with a capital, but the name of a directory stays as it is."""
    return capital(title) if re.fullmatch(r"(the )?(teachers?|student \d+|control)", title) else title


@dataclass(frozen=True)
class Experiment:
    """Generations in order, teacher first; a single training is an experiment of one.

    Args:
        control: a network as the last student's that learned from the labels alone, where there is one.
    """

    name: str
    directory: Path
    generations: tuple[Generation, ...]
    control: Generation | None = None

    @property
    def first(self) -> Generation:
        return self.generations[0]

    @cached_property
    def last(self) -> Generation:
        """The last finished generation, or the last one while none has finished."""
        finished = [generation for generation in self.generations if generation.finished]
        return (finished or list(self.generations))[-1]

    @cached_property
    def labelers(self) -> list[Generation]:
        """All that may have labeled images, in order; first a teacher that is none of the generations."""
        outside = self.first.labeler
        return [*([outside] if outside is not None else []), *self.generations]

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


def _experiment(directory: Path) -> Experiment | None:
    there = [path for path in generations_in(directory) if _is_training(path)]
    folders = of_one_line(there)
    if not folders and _is_training(directory):
        folders = [directory]
    if not folders:
        return None
    generations = _link(folders)
    own = generations[-1].config.get("name")
    # in a sweep all jobs have one name, and their directories say what distinguishes them
    name = own if own and len(folders) > 1 and "=" not in directory.name else directory.resolve().name
    has_control = len(folders) >= len(there) and _is_training(directory / CONTROL)  # it is of the last network's size
    control = Generation(directory / CONTROL, called=CONTROL) if has_control else None
    return Experiment(short(name, 80), directory, generations, control)


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
        given = taught_by(student.started)
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
