"""Where stages find each other's files: everything of a teacher lies in its run directory unless said otherwise."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from nst.errors import NstError


def shards_place(cfg: DictConfig, part: str) -> str:
    """Path or address of the shards that `data.<part>` names.

    Raises:
        NstError: it is null.
    """
    if cfg.data[part] is None:
        raise NstError(
            f"data.{part} names no shards", got="null", valid="their folder or address", next=f"data.{part}=<folder>"
        )
    return cfg.data[part]


def teacher_weights(cfg: DictConfig) -> Path:
    """The teacher's network file.

    Raises:
        NstError: no teacher is named, it has not finished, or it is of released weights, which name no classes.
    """
    if cfg.teacher.checkpoint is None and cfg.teacher.run is None:
        raise NstError(f"nst {cfg.stage} needs a teacher", next=f"nst {cfg.stage} teacher.run=<its run directory>")
    from nst.models.checkpoints import is_ours  # here: it brings torch, which a selection does without
    from nst.models.released import locate

    source = cfg.teacher.checkpoint or cfg.teacher.run
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


def predictions_folder(cfg: DictConfig) -> Path:
    """Where `nst label` writes and `nst select` and the student read."""
    return _teacher_folder(cfg, "predictions")


def selection_folder(cfg: DictConfig) -> Path:
    """Where `nst select` writes and the student reads."""
    return _teacher_folder(cfg, "selection")


def _teacher_folder(cfg: DictConfig, name: str) -> Path:
    if cfg.teacher[name] is not None:
        return Path(cfg.teacher[name])
    if cfg.teacher.run is None:
        raise NstError(
            f"where are the teacher's {name}?", next=f"nst {cfg.stage} teacher.run=<run directory>, or teacher.{name}="
        )
    return Path(cfg.teacher.run) / name
