"""Refuses folders that are both read and written by a stage, before anything is written.

    run_dir=pictures              is refused where data.source.root=pictures, pictures/cats or their parent
    run_dir=runs/a teacher.run=runs/a    would replace the teacher by its student

Folders of images may neither hold a stage's folder nor lie in it; other runs may hold it, as a teacher holds its
predictions. Paths are compared as the file system sees them, links followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nst.config import plain
from nst.data.transfer import is_remote
from nst.errors import UsageError
from nst.settings.learning import only_run

WITHIN = "lies in"
PARTS: tuple[str, ...] = ("labeled", "unlabeled", "test", "validation")
SETS = ("imagenet_", "cifar_", "frost_folder", "real_labels")  # how names of such options in `eval` begin
# by stage, options that name folders of runs which it reads
RUNS = {
    "predict": ("model.checkpoint",),
    "train": ("teacher.run", "teacher.checkpoint", "teacher.predictions", "teacher.selection", "model.checkpoint"),
    "label": ("teacher.run", "teacher.checkpoint"),
    "select": ("teacher.run", "teacher.predictions"),
    "evaluate": ("model.checkpoint", "eval.baseline"),
    "export": ("model.checkpoint",),
    "shard": ("teacher.run", "teacher.predictions", "teacher.selection"),
}


def keep_apart(cfg: DictConfig, stage: str, written: Mapping[str, Any] | None = None) -> None:
    """Compares the folders that a stage writes to with those that it reads.

    Args:
        written: option → folder, where the stage's own options do not say it.

    Raises:
        UsageError: one is the other, or lies in it.
    """
    outputs = list(_given({**(written or _written(cfg, stage)), "remote.cache": cfg.remote.cache}))
    images = list(_given(_images(cfg, stage)))
    runs = list(_given({option: _value(cfg, option) for option in RUNS.get(stage, ())}))
    for option, output in outputs:
        for name, source in [*images, *runs]:
            if (how := _relation(output, source)) and ((name, source) in images or how != WITHIN):
                _refuse(option, output, how, name, source)


def _relation(output: Path, source: Path) -> str | None:
    """How the folder written to is placed to the one that is read; None: apart."""
    output, source = output.resolve(), source.resolve()
    if output == source:
        return "is"
    if output.is_relative_to(source):
        return WITHIN
    return "is around" if source.is_relative_to(output) else None


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
        option = "teacher.predictions" if stage == "label" else "teacher.selection"
        return {option: _value(cfg, option)}
    if stage == "plan":
        return {"plan.output": cfg.plan.output}
    shards = {"data.root" if cfg.shard.output == cfg.data.get("root") else "shard.output": cfg.shard.output}
    if stage == "shard":
        return shards
    if stage == "iterate":
        return {"run_dir": cfg.run_dir, "iterate.teacher": cfg.iterate.teacher, **shards}
    return {"run_dir": cfg.run_dir}


def _images(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """Option → folder or file of images that the stage, or one before it, reads."""
    if stage == "predict":
        return {"input": cfg.predict.input}
    found = {"data.source.root": _value(cfg, "data.source.root")}
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
