"""The generations of a run: where they lie, and what each is asked to do. Also for stages that only look at them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nst.config import compose_config, plain
from nst.documents import read_json
from nst.errors import NstError
from nst.progress import say
from nst.sharing import is_rank_zero, wait_for_lock
from nst.stages.options import evaluation_from
from nst.typed import quoted


@dataclass(frozen=True)
class Places:
    """Where the generations of a run lie.

    Args:
        shared: directory of generation 0, where it is not the run's own.
    """

    directory: Path
    shared: Path | None = None

    @classmethod
    def of(cls, cfg: DictConfig) -> Places:
        return cls(Path(cfg.run_dir), Path(cfg.iterate.teacher) if cfg.iterate.teacher else None)

    def generation(self, number: int) -> Path:
        return self.shared if self.shared and number == 0 else self.directory / f"gen{number}"

    def name_teacher(self, cfg: DictConfig, number: int) -> None:
        """Makes that generation the teacher of a configuration."""
        cfg.teacher.run = str(self.generation(number))
        if self.shared and number == 0:
            cfg.teacher.selection = str(self.directory / "selection")

    @contextlib.contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """While one run works on a shared generation the others wait: they need it, and it is the same."""
        if not (self.shared and number == 0 and is_rank_zero()):
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
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.relpath(self.shared, self.directory), target_is_directory=True)
        if link.resolve() != self.shared.resolve():
            raise NstError(
                f"{link} is another generation 0 than iterate.teacher", got=link.resolve(), valid=self.shared,
                next="another run_dir, or without iterate.teacher",
            )  # fmt: skip


def configurations(cfg: DictConfig) -> list[DictConfig]:
    """One whole configuration per generation: the command line's options, then the generation's own.

    Raises:
        NstError: a generation's option does not exist.
    """
    given = [item for item in plain(cfg.overrides) if not item.startswith(("run_dir=", "name="))]
    composed, places = [], Places.of(cfg)
    for number, options in enumerate(generation_options(cfg)):
        whole = [*given, *options, f"run_dir={quoted(places.generation(number))}", f"name={quoted(cfg.name)}"]
        generation = compose_config(whole)
        generation.overrides, generation.stage = whole, "train"
        composed.append(generation)
    return composed


def generation_options(cfg: DictConfig) -> list[list[str]]:
    """Each generation's options. One may be a list of options itself, by which recipes refer to what they share."""
    first = [f"student={cfg.teacher.student}"] if cfg.teacher.student else []
    lists = plain(cfg.iterate.generations)
    if lists is None:
        lists = [first, []]
    if lists and lists[0] is None:
        lists = [first, *lists[1:]]
    return [list(_flat(options)) for options in lists]


def _flat(options: Sequence[Any]) -> Iterator[str]:
    for option in options:
        yield from _flat(option) if isinstance(option, list) else [option]


def starts_from_a_run(cfg: DictConfig) -> bool:
    """Whether generation 0 is a finished run, `iterate.teacher`, and not trained: its list of options is null."""
    return plain(cfg.iterate.generations or [])[:1] == [None]


def require_teacher(cfg: DictConfig) -> None:
    """Raises NstError where generation 0 should be a finished run and is none."""
    teacher = cfg.iterate.teacher
    if not starts_from_a_run(cfg):
        return
    if teacher is None or not (Path(teacher) / "DONE").exists():
        raise NstError(
            "generation 0 is a finished run, so this needs one",
            got=f"iterate.teacher={teacher or 'null'}" + ("" if teacher is None else ", which has not finished"),
            next="iterate.teacher=<run directory>, or a list of options instead of null to train it",
        )


def compare_with(cfg: DictConfig, first: DictConfig, teacher: Path) -> None:
    """Makes the robustness of a student comparable with the first teacher's, where both are measured alike.

    The student gets the teacher's pictures, also where it sees larger ones itself, and the teacher for a baseline,
    unless the command line has named another side or baseline.
    """
    if cfg.eval != first.eval or evaluation_from(cfg)[1] is None:
        return
    if cfg.eval.side is None:
        cfg.eval.side = read_json(teacher / "evaluation" / "result.json")["image_size"]
    if cfg.eval.baseline is None:
        cfg.eval.baseline = str(teacher)
