"""Refuses folders that are both read and written by a stage, before anything is written.

    run_dir=pictures              is refused where data.source.root=pictures, pictures/cats or their parent
    run_dir=runs/a teacher.run=runs/a    would replace the teacher by its student

Folders of images may neither hold a stage's folder nor lie in it; other runs may hold it, as a teacher holds its
predictions. Paths are compared as the file system sees them, links followed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nst.config import plain
from nst.data.transfer import is_remote
from nst.errors import NstError, UsageError
from nst.finished import generation_of
from nst.settings.learning import only_run
from nst.stage_table import STAGES

SAME, WITHIN, AROUND = "is", "lies in", "is around"
PARTS: tuple[str, ...] = ("labeled", "unlabeled", "test", "validation")
SETS = ("imagenet_", "cifar_", "frost_folder", "real_labels")  # how names of such options in `eval` begin
NETWORKS = ("model.checkpoint", "model.pretrained")  # which may also be names of timm's, or of packages
OF_OTHERS = ("plan.output", "predict.sort_into")  # a file, and a folder that is looked at elsewhere
INSIDE = ("iterate.teacher", "data.root", "shard.output")  # which may lie in the directory of `nst iterate`


def keep_apart(cfg: DictConfig, stage: str, written: Mapping[str, Any] | None = None, *, deleted: bool = False) -> None:
    """Compares the folders that a stage writes to with those that it reads.

    Args:
        written: option → folder, where the stage's own options do not say it.
        deleted: what nst has written in those is deleted first, shards and networks too.

    Raises:
        UsageError: one is the other, or lies in it, or it is a file.
    """
    outputs = list(_given({**(written or _written(cfg, stage)), "remote.cache": cfg.remote.cache}))
    images = list(_given(_images(cfg, stage)))
    runs = list(_runs(cfg, STAGES[stage].runs))
    if stage == "iterate":  # whose result would replace that of the shards
        runs += _given(_shards(cfg))
    if deleted:
        images += _given({f"data.{part}": _value(cfg, f"data.{part}") for part in PARTS} | _shards(cfg))
        runs += _runs(cfg, STAGES["train"].runs)
    for option, output in outputs:
        if option not in OF_OTHERS:
            _require_folder(option, output)
        for name, source in [*images, *runs]:
            how = _relation(output, source)
            if name == option or how is None:
                continue
            if (name, source) in images or how == SAME or (how == AROUND and (deleted or name not in INSIDE)):
                _refuse(option, output, how, name, source)


def _require_folder(option: str, output: Path) -> None:
    """Raises UsageError where there can be no such folder, since it or one above it is a file."""
    there = next(place for place in (output.absolute(), *output.absolute().parents) if os.path.lexists(place))
    if there.exists() and not there.is_dir():
        raise UsageError(
            f"{option} cannot be {output}: {there} is a file",
            got=f"{option}={output}",
            valid="a folder, or none yet",
            next=f"choose another folder: {option}=<folder>",
        )


def _runs(cfg: DictConfig, options: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Option → what is there of the runs that it names; of a directory of `nst iterate` also the generation that it
    stands for."""
    for option, place in _given({option: _value(cfg, option) for option in options}):
        if option in NETWORKS and not place.exists():
            continue
        yield option, place
        with contextlib.suppress(NstError):  # it is damaged, or a user's: whoever reads it says so
            if (generation := generation_of(place)) != place:
                yield option, generation


def _relation(output: Path, source: Path) -> str | None:
    """How the folder written to is placed to the one that is read; None: apart."""
    output, source = output.resolve(), source.resolve()
    if output == source:
        return SAME
    if output.is_relative_to(source):
        return WITHIN
    return AROUND if source.is_relative_to(output) else None


def _refuse(option: str, output: Path, how: str, name: str, source: Path) -> None:
    raise UsageError(
        f"{option} {how} {name}: nst would write into what it reads",
        got=f"{option}={output}, {name}={source}",
        valid="folders apart, neither inside the other",
        next=f"choose another folder: {option}=<folder>",
    )


def _written(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """Option → folder or file that the stage writes."""
    if stage in ("label", "select"):
        return {(option := STAGES[stage].folder): _value(cfg, option)}
    if stage == "plan":
        return {"plan.output": cfg.plan.output}
    if stage == "shard":
        return _shards(cfg)
    if stage == "iterate":
        return {"run_dir": cfg.run_dir, "iterate.teacher": cfg.iterate.teacher, **_shards(cfg)}
    return {"run_dir": cfg.run_dir}


def _shards(cfg: DictConfig) -> dict[str, Any]:
    """The option that says where shards are made → the folder."""
    return {"data.root" if cfg.shard.output == cfg.data.get("root") else "shard.output": cfg.shard.output}


def _images(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """Option → folder or file of images that the stage, or one before it, reads."""
    if stage == "predict":
        return {"input": cfg.predict.input}
    found = {option: _value(cfg, option) for option in ("data.source.root", "data.source.pictures")}
    found |= {f"eval.{name}": value for name, value in plain(cfg.eval).items() if name.startswith(SETS)}
    parts = PARTS
    if stage in ("shard", "iterate"):  # which make these, or pack what was selected of them
        parts = ("unlabeled",) if _value(cfg, "data.source.name") == "selection" else ()
    return found | {f"data.{part}": _value(cfg, f"data.{part}") for part in parts}


def _value(cfg: DictConfig, option: str) -> Any:
    """Of an option that may not be there, or not be given yet; the teacher's folders lie in its run."""
    value = OmegaConf.select(cfg, option, throw_on_missing=False)
    if value is None and option in ("teacher.predictions", "teacher.selection") and (run := only_run(cfg.teacher.run)):
        return Path(run) / option.removeprefix("teacher.")
    return value


def _given(options: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Those that name a place on this machine."""
    for option, value in options.items():
        for place in value if isinstance(value, list) else [value]:
            if isinstance(place, str | Path) and not is_remote(place):
                yield option, Path(place).expanduser()
