"""What `nst iterate` does with each of its networks: stages that a person can call by hand, with a generation's job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nst.documents import read_json
from nst.progress import say
from nst.settings.job import GenerationJob, SelectJob, changed, job_of
from nst.settings.measuring import Evaluation
from nst.sharing import is_rank_zero
from nst.stages.control import control_options, learned_from_labels_alone
from nst.stages.generations import Places, comparable
from nst.stages.judging import VALIDATION, Judging
from nst.stages.places import open_shards, predictions_folder, selection_folder

Result = dict[str, Any]


@dataclass
class Networks:
    """The networks of a run: its generations by number, and the control by its name.

    Args:
        given: generation 0 is a finished run, and not trained.
        tested: results on the test images so far.
    """

    generations: Sequence[GenerationJob]
    places: Places
    judging: Judging
    given: bool = False
    tested: dict[int | str, Result] = field(default_factory=dict)

    def job(self, which: int | str, step: str = "train") -> GenerationJob:
        """What is asked of a network, with a title for its progress bar."""
        if isinstance(which, int):
            return replace(self.generations[which], title=f"gen{which} {step}")
        return replace(self._control, title=f"{which} {step}")

    @cached_property
    def _control(self) -> GenerationJob:
        """What is asked of the control, once generation 0 is there."""
        last, first = self.generations[-1], self.places.generation(0)
        labeled = open_shards(last.data, "labeled", last.remote).samples
        start = first if learned_from_labels_alone(first) else None
        return changed(last, control_options(self.generations, labeled, start))

    def train(self, which: int | str) -> Result:
        from nst.stages import train

        directory = self.places.generation(which)
        if which == 0 and self.given:
            return read_json(directory / "result.json")
        with self.places.turn(which):
            result = train.run(self.job(which), directory)
        say(f"{directory.name}: {train.summary_line(result)}")
        return result

    def label(self, number: int) -> Result:
        from nst.stages import label

        with self.places.turn(number):
            job = replace(self.generations[number + 1], title=f"gen{number} label")
            return label.run(job, predictions_folder(job.teacher, job.stage))

    def select(self, number: int) -> Result:
        from nst.stages import select

        student = self.generations[number + 1]
        job = job_of(SelectJob, student.config, title=f"gen{number} select")
        result = select.run(job, selection_folder(job.teacher, job.stage))
        select.tell(result)
        say(f"gen{number} select: {select.summary_line(result)}")
        return result

    def look(self, which: int | str) -> None:
        """Says how a network stands, as soon as it is trained: on the validation images, else on the test images."""
        if self.judging.pictures == VALIDATION:
            job, folder = self._validation(which)
        else:
            job, folder = self._test(which)
        result = self._evaluated(which, job, folder)
        if self.judging.pictures != VALIDATION:
            self.tested[which] = result
        if is_rank_zero():
            self.judging.network(which, result, folder)

    def evaluate(self, which: int | str) -> Result:
        """The scores of a network on the test images."""
        if which not in self.tested:
            self.tested[which] = self._evaluated(which, *self._test(which))
        return self.tested[which]

    def _evaluated(self, which: int | str, job: GenerationJob, folder: Path) -> Result:
        from nst.stages import evaluate

        with self.places.turn(which):
            return evaluate.run(job, folder)

    def _test(self, which: int | str) -> tuple[GenerationJob, Path]:
        from nst.stages import evaluate

        directory, job = self.places.generation(which), self.job(which, "evaluate")
        alike = comparable(job, self.generations[0], self.places.generation(0), directory) if which else {}
        job = changed(job, {"model.checkpoint": str(directory), **alike})
        return job, evaluate.output_of(job)

    def _validation(self, which: int | str) -> tuple[GenerationJob, Path]:
        """Clean images alone, and in no W&B run: they serve to compare, and the test images are what is told."""
        directory, job = self.places.generation(which), self.job(which, "validate")
        folder = directory / VALIDATION
        named = {"model.checkpoint": str(directory), "data.test": job.data.validation, "evaluate.output": str(folder)}
        job = changed(job, named)
        return replace(job, eval=Evaluation(job.eval.clean), logger=replace(job.logger, wandb=None)), folder
