"""Refuses a folder that several generations of `nst iterate` would write to, before the first of them is trained.

teacher.predictions=labels     of three generations two are teachers, and each labels into its own folder
evaluate.output=scores         every network has its own scores
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from nst.advice import leave_out
from nst.errors import UsageError
from nst.refused import chooses
from nst.settings.job import GenerationJob, IterateJob
from nst.stages.generations import CONTROL, Places
from nst.stages.places import predictions_folder, selection_folder

OWN = "iterate.generations=[[{option}=<one folder>],[{option}=<another>],...]"


def require_own_folders(job: IterateJob, generations: Sequence[GenerationJob], places: Places) -> None:
    """Raises UsageError where two networks would write the same thing to one folder: the second would meet the first's
    and be refused there, after days."""
    found: dict[tuple[str, Path], list[str]] = defaultdict(list)
    for option, network, folder in _written(job, generations, places):
        found[option, folder.resolve()].append(network)
    for (option, folder), networks in found.items():
        if len(networks) > 1:
            raise UsageError(
                f"{option} is one folder for {' and '.join(networks)}, and each writes its own there",
                got=f"{option}={folder}",
                valid="a folder for each: without the option it lies in the directory of the network",
                next=_way_on(option, any(chooses(item, option, folder) for item in job.overrides)),
            )


def _way_on(option: str, typed: bool) -> str:
    another = OWN.format(option=option)
    if not typed:
        return f"leave {option} out of the generations, or give each its own: {another}"
    leave_out(option)
    return f"nst iterate\n         which leaves {option} out; or give each generation its own: {another}"


def _written(job: IterateJob, generations: Sequence[GenerationJob], places: Places) -> Iterator[tuple[str, str, Path]]:
    """Option, network, and the folder outside of its student's directory that is written for it."""
    for number, student in enumerate(generations[1:]):
        teacher = places.generation(number).name
        yield "teacher.predictions", teacher, predictions_folder(student.teacher, student.stage or "train")
        yield "teacher.selection", teacher, selection_folder(student.teacher, student.stage or "train")
    evaluated = [(places.generation(number).name, each) for number, each in enumerate(generations)]
    if job.iterate.control and len(generations) > 1:
        evaluated.append((CONTROL, generations[-1]))
    for name, each in evaluated:
        if each.evaluate.output is not None:
            yield "evaluate.output", name, Path(each.evaluate.output)
