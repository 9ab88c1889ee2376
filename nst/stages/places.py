"""Where stages find each other's files: everything of a teacher lies in its run directory unless said otherwise."""

from __future__ import annotations

from pathlib import Path

from nst.errors import NstError
from nst.settings.data import DataOptions
from nst.settings.learning import TeacherOptions


def shards_place(data: DataOptions, part: str) -> str:
    """Path or address of the shards that `data.<part>` names.

    Raises:
        NstError: it is null.
    """
    place = getattr(data, part)
    if place is None:
        raise NstError(
            f"data.{part} names no shards", got="null", valid="their folder or address", next=f"data.{part}=<folder>"
        )
    return str(place)


def teacher_weights(teacher: TeacherOptions, stage: str) -> Path:
    """The teacher's network file.

    Raises:
        NstError: no teacher is named, it has not finished, or it is of released weights, which name no classes.
    """
    source = teacher.checkpoint or teacher.run
    if source is None:
        raise NstError(f"nst {stage} needs a teacher", next=f"nst {stage} teacher.run=<its run directory>")
    from nst.models.checkpoints import is_ours  # here: it brings torch, which a selection does without
    from nst.models.released import locate

    place = locate(source)
    if isinstance(place, Path) and is_ours(place):
        return place
    raise NstError(
        "released weights do not say which classes they know",
        got=source,
        valid="a run directory, or weights written by nst",
        next=f"nst export model.checkpoint={source} export.format=nst export.output=runs/released data=<labeled data>,"
        " then teacher.run=runs/released",
    )


def predictions_folder(teacher: TeacherOptions, stage: str) -> Path:
    """Where `nst label` writes and `nst select` and the student read."""
    return _teacher_folder(teacher, stage, "predictions")


def selection_folder(teacher: TeacherOptions, stage: str) -> Path:
    """Where `nst select` writes and the student reads."""
    return _teacher_folder(teacher, stage, "selection")


def _teacher_folder(teacher: TeacherOptions, stage: str, name: str) -> Path:
    given = getattr(teacher, name)
    if given is not None:
        return Path(given)
    if teacher.run is None:
        raise NstError(
            f"where are the teacher's {name}?", next=f"nst {stage} teacher.run=<run directory>, or teacher.{name}="
        )
    return Path(teacher.run) / name
