"""The generations of a run: where they lie, and what each is asked to do. Also for stages that only look at them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst.config import compose_config, texts
from nst.documents import read_json
from nst.errors import NstError, UsageError
from nst.finished import final_weights, generation_of
from nst.models.architectures import framing_at
from nst.models.network_info import read_info
from nst.progress import say
from nst.settings.job import EvaluateJob, GenerationsJob
from nst.sharing import is_rank_zero, wait_for_lock
from nst.typed import quoted
from nst.written import LINK, note, ours

CONTROL = "control"  # instead of the number of a generation
# options, and groups of them, of which no generation reads its own: its place, and what is of other stages
OF_THE_RUN = (
    *("name", "run_dir", "stage", "overrides", "paper", "iterate"),
    *("shard", "report", "predict", "export", "doctor", "plan"),
    # shards are made once
    *("data.source", "data.labeled_per_class", "data.test_samples", "data.unlabeled_samples"),
    *("data.validation_samples", "data.stored_size"),
)


@dataclass(frozen=True)
class Places:
    """Where the generations of a run lie.

    Args:
        shared: directory of generation 0, where it is not the run's own.
    """

    directory: Path
    shared: Path | None = None

    @classmethod
    def of(cls, job: GenerationsJob) -> Places:
        return cls(Path(job.run_dir), generation_of(Path(job.iterate.teacher)) if job.iterate.teacher else None)

    def generation(self, which: int | str) -> Path:
        """The directory of a generation by its number, or of the control."""
        if not isinstance(which, int):
            return self.directory / which
        return self.shared if self.shared and which == 0 else self.directory / f"gen{which}"

    def teacher_of(self, number: int) -> dict[str, Any]:
        """The options that name a generation's teacher: the generation before; the first has none."""
        if number == 0:
            return {"teacher.run": None}
        named = {"teacher.run": str(self.generation(number - 1))}
        if self.shared and number == 1:
            named["teacher.selection"] = str(self.directory / "selection")
        return named

    @contextlib.contextmanager
    def turn(self, which: int | str) -> Iterator[None]:
        """While one run works on a shared generation the others wait: they need it, and it is the same."""
        if not (self.shared and which == 0 and is_rank_zero()):
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
        if ours([link], LINK) and not (self.directory / "gen1").exists():
            link.unlink(missing_ok=True)  # of a start that failed: no student learned from that teacher
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.relpath(self.shared, self.directory), target_is_directory=True)
            note(link, kind=LINK, made=True)
        if link.resolve() != self.shared.resolve():
            raise NstError(
                f"{link} is another generation 0 than iterate.teacher", got=link.resolve(), valid=self.shared,
                next="another run_dir, or without iterate.teacher",
            )  # fmt: skip


def configurations(job: GenerationsJob) -> list[DictConfig]:
    """One whole configuration per generation: the command line's options, then the generation's own.

    Raises:
        NstError: a generation's option does not exist, or is of the run as a whole.
    """
    given = [item for item in job.overrides if not item.startswith(("run_dir=", "name="))]
    composed, places = [], Places.of(job)
    for number, options in enumerate(generation_options(job)):
        for item in options:
            _require_of_a_generation(item)
        whole = [*given, *options, f"run_dir={quoted(places.generation(number))}", f"name={quoted(job.name)}"]
        generation = compose_config(whole)
        generation.overrides, generation.stage = whole, "train"
        composed.append(generation)
    return composed


def generation_options(job: GenerationsJob) -> list[list[str]]:
    """Each generation's options. One may be a list of options itself, by which recipes refer to what they share."""
    first = [f"student={job.teacher.student}"] if job.teacher.student else []
    lists = [first, []] if job.iterate.generations is None else list(job.iterate.generations)
    if lists[0] is None:
        lists = [first, *lists[1:]]
    return [texts(options) for options in lists]


def _require_of_a_generation(item: str) -> None:
    """Raises UsageError where an option in a generation's list would change nothing, or is none."""
    name, equals, _ = item.partition("=")
    name = name.lstrip("+~")
    if not equals:
        raise UsageError(
            f"'{item}' is not an option of a generation",
            got="iterate.generations",
            valid="[[option=value, ...], ...], where a comma begins the next option",
            next="for several values give several lists, and -m:"
            " 'iterate.generations=[[],[model.width=0.3]],[[],[model.width=0.4]]'",
        )
    if name == "teacher.run":
        raise UsageError(
            "the teacher of a generation is the one before it", got=f"{item} in iterate.generations",
            next="iterate.teacher=<run directory>, for a first one that is trained already",
        )  # fmt: skip
    if any(f"{name}.".startswith(f"{whole}.") for whole in OF_THE_RUN):
        raise UsageError(
            f"{name} is of the run as a whole, and would change nothing in one generation",
            got=f"{item} in iterate.generations",
            next=f"{item} beside iterate.generations, or leave it out",
        )


def starts_from_a_run(job: GenerationsJob) -> bool:
    """Whether generation 0 is a finished run, `iterate.teacher`, and not trained: its list of options is null."""
    return list(job.iterate.generations or ())[:1] == [None]


def require_teacher(job: GenerationsJob) -> None:
    """Raises NstError where generation 0 should be a finished run and is none, or where it would be trained in the
    directory of a finished `nst iterate`."""
    given = Path(job.iterate.teacher) if job.iterate.teacher else None
    teacher = Places.of(job).shared
    if teacher != given and not starts_from_a_run(job):
        raise NstError(
            f"{given} is a finished run of nst iterate, and generation 0 would be trained in it",
            got=f"iterate.teacher={given}",
            next="give a start instead, from which generation 0 learns: model.pretrained=<that run>; or take its best"
            f" network for generation 0 as it is: {quoted('iterate.generations=[null,[]]')}, with [] for each student",
        )
    if starts_from_a_run(job) and (teacher is None or not (teacher / "DONE").exists()):
        raise NstError(
            "generation 0 is a finished run, so this needs one",
            got=f"iterate.teacher={teacher or 'null'}" + ("" if teacher is None else ", which has not finished"),
            next="iterate.teacher=<run directory>, or a list of options instead of null to train it",
        )


def comparable(job: EvaluateJob, first: EvaluateJob, teacher: Path, student: Path) -> dict[str, Any]:
    """The options that make the robustness of a student comparable with the first teacher's, where both are measured
    alike.

    The student gets the teacher's pictures, also where it sees larger ones itself, and the teacher for a baseline,
    unless the command line has named another side or baseline, or the two networks crop pictures in different ways.
    """
    named: dict[str, Any] = {}
    robustness = job.eval.robustness
    if robustness is None or job.eval != first.eval:
        return named
    side = robustness.side
    if side is None:
        side = named["eval.side"] = read_json(teacher / "evaluation" / "result.json")["image_size"]
    if robustness.baseline is None:
        shown, before = (framing_at(read_info(final_weights(run)).architecture, side) for run in (student, teacher))
        if shown == before:
            named["eval.baseline"] = str(teacher)
    return named
