"""Where stages find each other's files: everything of a teacher lies in its run directory unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nst.data.index_files import has_index
from nst.data.remote import Remote
from nst.data.shard_set import ShardSet
from nst.data.transfer import is_remote
from nst.errors import NstError, UsageError
from nst.models.located import locate_ours
from nst.settings.data import DataOptions, RemoteOptions
from nst.settings.learning import LABELS, TeacherOptions, only_run


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


def open_shards(data: DataOptions, part: str, remote: RemoteOptions) -> ShardSet:
    """The shard set that `data.<part>` names, on this machine or elsewhere."""
    return ShardSet.open(shards_place(data, part), Remote(**vars(remote)))


def has_validation_set(data: DataOptions) -> bool:
    """Whether there is one. At an address none is looked for: there it has to be named."""
    folder = data.validation
    return folder != f"{data.root}/validation" if is_remote(folder) else has_index(folder)


def teacher_files(teacher: TeacherOptions, stage: str) -> list[Path]:
    """The teacher's network file, or those of several teachers.

    Raises:
        NstError: no teacher is named, it has not finished, or it is of released weights, which name no classes.
    """
    source = teacher.checkpoint or teacher.run
    if source is None:
        raise NstError(f"nst {stage} needs a teacher", next=f"nst {stage} teacher.run=<its run directory>")
    return [locate_ours(each) for each in ([source] if isinstance(source, str) else source)]


def one_network(checkpoint: str | Sequence[str] | None, stage: str) -> str | None:
    """The only network that `model.checkpoint` names; None where it is null.

    Raises:
        UsageError: there are several.
    """
    if checkpoint is None or isinstance(checkpoint, str):
        return checkpoint
    if len(checkpoint) == 1:
        return checkpoint[0]
    raise UsageError(
        f"nst {stage} takes one network",
        got=f"model.checkpoint={list(checkpoint)}",
        valid="several for nst predict alone",
        next=f"model.checkpoint={checkpoint[0]}",
    )


def network_files(checkpoint: str | Sequence[str] | None, stage: str) -> list[Path]:
    """The network files that `model.checkpoint` names: of runs, or files of ours.

    Raises:
        NstError: there is none, a run that has not finished, or released weights, which name no classes.
    """
    if not checkpoint:
        raise NstError(f"nst {stage} needs a network", next=f"nst {stage} model.checkpoint=<run directory or weights>")
    return [locate_ours(source) for source in ([checkpoint] if isinstance(checkpoint, str) else checkpoint)]


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
    run = only_run(teacher.run)
    if run is not None:
        return Path(run) / name
    # all that is missing at once; a labeling has nothing to do with a selection
    names = [name] if stage == "label" else [one for one in LABELS if getattr(teacher, one) is None]
    folders = " ".join(f"teacher.{one}=<folder>" for one in names)
    if teacher.run is not None:
        later = "; nst select and nst train ask for a teacher.selection=<folder> besides" if stage == "label" else ""
        raise NstError(
            f"several teachers have no common folder for their {' and '.join(names)}",
            got=f"teacher.run={list(teacher.run)}",
            valid=f"{folders}{later}",
            next=" ".join(f"teacher.{one}=runs/teachers/{one}" for one in names),
        )
    verb = "is" if names == ["selection"] else "are"
    raise NstError(
        f"where {verb} the teacher's {' and '.join(names)}?",
        next=f"nst {stage} teacher.run=<run directory>, or {folders}",
    )
