"""Compares the networks of `nst iterate` on the way, and links the one to keep as `best`.

    runs/<name>/comparisons.json    every student against its teacher, and the last one against its control
    runs/<name>/best                a link to the generation that is best on the validation images

Networks are compared on the validation images where there are some, else on the test images. On those nothing is
chosen: a choice would use them up.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nst.atomic import write_json
from nst.doctor.told import wrapped
from nst.errors import NstError
from nst.evaluation import mistakes
from nst.evaluation.comparing import Scores, about, against, best, difference, scores_of
from nst.evaluation.results import inputs_of, looks_of
from nst.leftovers import temporary
from nst.progress import say
from nst.written import LINK, note

COMPARISONS, BEST, VALIDATION = "comparisons.json", "best", "validation"
GENERATION = re.compile(r"gen\d+")


@dataclass
class Judging:
    """The networks of a run in order, told about as they come.

    Args:
        pictures: `validation` or `test`.
    """

    pictures: str
    networks: list[Scores] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)

    def network(self, which: int | str, result: dict[str, Any], folder: Path) -> None:
        """Says how a generation stands to its teacher and to chance, or how the last student stands to the control."""
        if not isinstance(which, int):
            self.compare(self.networks[-1], read_scores(f"the {which}", self.pictures, result, folder))
            return
        scores = read_scores(f"gen{which}", self.pictures, result, folder)
        if self.networks:
            self.compare(scores, self.networks[-1])
        if (told := about(scores)) is not None:
            _tell(told)
        self.networks.append(scores)

    def compare(self, new: Scores, old: Scores) -> None:
        if new.looks != old.looks:
            _tell(
                f"{new.name} and {old.name} are not compared: one was asked about {new.looks} and the other about"
                f" {old.looks} views of a picture (eval.views)."
            )
            return
        found = difference(new, old)
        entry = {"network": new.name, "against": old.name, "pictures": new.pictures, "images": new.images}
        self.comparisons.append({**entry, **asdict(found), "verdict": found.verdict})
        _tell(against(new, old, found))

    def keep(self, directory: Path) -> dict[str, Any]:
        """Writes the comparisons, and links the best generation where it may be chosen; what result.json says of it."""
        write_json(directory / COMPARISONS, {"comparisons": self.comparisons})
        if self.pictures != VALIDATION:
            _tell(
                "Which generation is best was not chosen: these are the test images, and choosing by them would make"
                " them say too much. data.validation=<folder of labeled shards> names others to choose by."
            )
            return {}
        number = best(self.networks)
        chosen = self.networks[number]
        link_best(directory, number)
        _tell(
            f"best: {chosen.name}, {chosen.top1:.2f} % of {chosen.images} validation images"
            f"{self.no_better(number)}; stages take it as {directory / BEST}"
        )
        return {"best": {"generation": number, "validation_images": chosen.images, "validation_top1": chosen.top1}}

    def no_better(self, number: int) -> str:
        """Which of the others a generation is not surely better than, in brackets; nothing where there are none."""
        chosen, others = self.networks[number], [*self.networks[:number], *self.networks[number + 1 :]]
        others = [each for each in others if each.looks == chosen.looks]
        alike = [each.name for each in others if difference(chosen, each).verdict == "undecided"]
        return f" (cannot be told from {', '.join(alike)})" if alike else ""


def read_scores(name: str, pictures: str, result: dict[str, Any], folder: Path) -> Scores:
    """The scores of a network from what its evaluation has left in a folder."""
    wrong = mistakes.read(folder / mistakes.FILE)
    scores = scores_of(name, pictures, result, None if wrong is None else frozenset(wrong))
    return replace(scores, looks=looks_of(inputs_of(folder)))


def link_best(directory: Path, number: int) -> None:
    """Lets `best` lead to a generation.

    Raises:
        NstError: there is such a file or folder that is no link to a generation.
    """
    link, target = directory / BEST, f"gen{number}"
    if os.path.lexists(link) and not (link.is_symlink() and GENERATION.fullmatch(os.readlink(link))):
        raise NstError(f"{link} is not a link that nst made", next="rename it; then the same command again")
    new = temporary(link)
    os.symlink(target, new, target_is_directory=True)
    os.replace(new, link)
    note(link, kind=LINK, made=True)


def _tell(text: str) -> None:
    say("\n".join(wrapped(text, "", "  ")))
