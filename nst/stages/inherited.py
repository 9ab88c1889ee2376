"""Takes from a named run what the command leaves out: data, kind of pictures, and how labels are selected.

    nst label teacher.run=runs/mine          labels the unlabeled pictures that runs/mine was trained with
    nst select teacher.run=runs/mine         as many of a class as runs/mine selects
    nst evaluate model.checkpoint=runs/mine  reads its test pictures, and shows them as it was trained

What the command line says goes before. An option that would change nothing, because it is of a step that has been taken
already, is refused instead of being recorded as if it had been used.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from nst.advice import note_run
from nst.checking import leaves
from nst.config import plain
from nst.data.index_files import has_index
from nst.data.shard_set import ShardSet
from nst.data.transfer import is_remote
from nst.documents import read_config, read_json
from nst.errors import NstError, UsageError
from nst.finished import generation_of
from nst.models.located import locate, locate_ours
from nst.models.network_info import read_info
from nst.run_inputs import ADDED
from nst.settings.learning import only_run
from nst.shown import as_typed
from nst.stage_table import STAGES
from nst.stages.apart import PARTS
from nst.stages.unread import WHOLE, networks, require_as_sharded, require_read, run_of, typed_names, value_at
from nst.typed import unquoted

PLACES = ("data.root", "data.source.root", *(f"data.{part}" for part in PARTS))


def silent(_: str) -> None:
    pass


def with_what_the_run_knows(cfg: DictConfig, stage: str, *, tell: Callable[[str], None]) -> DictConfig:
    """The configuration with the data of the run that it names, where the command line names none.

    Args:
        tell: is given a line for whatever was taken from the run.

    Raises:
        UsageError: no data is named at all, or an option that changes nothing.
    """
    require_read(cfg, stage)
    if stage in ("doctor", "plan"):
        _require_options(cfg, stage)
    cfg = _with_data(cfg, stage, tell)
    if STAGES[stage].as_sharded:
        require_as_sharded(cfg, stage)
    return cfg


def _require_options(cfg: DictConfig, stage: str) -> None:
    """Raises UsageError where a run is named and no data: the default ones would be looked at in their place."""
    typed = typed_names(cfg.overrides)
    named = [OmegaConf.select(cfg, name) for name in ("run_dir", "model.checkpoint") if name in typed]
    runs = [run for place in named if isinstance(place, str) and (run := run_of(Path(place))) is not None]
    if not runs or any(name in WHOLE or name.startswith("data.") for name in typed):
        return
    given = [item for item in read_config(runs[0] / "config.yaml").get("overrides") or () if not _is_place(item)]
    if given:
        raise UsageError(
            f"nst {stage} looks at options, and {runs[0]} was made by more than are given here",
            next=shlex.join(["nst", stage, *(unquoted(str(item)) for item in given)]),
        )


def _is_place(item: str) -> bool:
    """Whether a typed option says where a run lies, or deletes what lies there."""
    return item.partition("=")[0] in ("run_dir", "overwrite")


def _with_data(cfg: DictConfig, stage: str, tell: Callable[[str], None]) -> DictConfig:
    _refuse_taken(cfg, stage)
    record, sources = STAGES[stage], networks(cfg, stage)
    if not record.takes_data or not sources:
        return cfg
    source = sources[0]
    run, typed = run_of(Path(source)), typed_names(cfg.overrides)
    about_data = [name for name in typed if name.startswith("data.")]
    told, whole = "", any(name in WHOLE for name in typed) and not _names_no_pictures(cfg, about_data)
    if run is not None and not whole:
        told = _take_data(cfg, run, about_data)
        if stage == "select" and (how := _take_selection(cfg, run, [n for n in typed if n.startswith("select.")])):
            tell(how)
    elif record.shows_pictures and not whole and not about_data:
        raise _no_pictures(stage, source)
    elif record.shows_pictures and not any(name.startswith("data.pictures") for name in about_data):
        told = _take_pictures(cfg, source)
    if told:
        tell(told)
    return cfg


def _names_no_pictures(cfg: DictConfig, typed: Sequence[str]) -> bool:
    """Whether a choice is of pictures of one's own and does not say which: no shards are there, nor pictures named."""
    root = cfg.data.root
    if is_remote(root) or Path(root).exists() or any(name in PLACES for name in typed):
        return False
    source = plain(cfg.data.source, whole=False)
    return "root" in source and source["root"] in (None, MISSING)


def _no_pictures(stage: str, source: str) -> UsageError:
    locate(source)  # which says so, if there is nothing
    return UsageError(
        f"{source} does not say which pictures it learned from",
        valid="the folder with labeled/, unlabeled/ and test/ that nst shard has made",
        next=f"nst {stage} data.root=<folder>",
    )


def _take_data(cfg: DictConfig, run: Path, typed: Sequence[str]) -> str:
    """Puts the run's data in the place of the default ones; what was typed stays. Returns a line that says so."""
    made = read_config(run / "config.yaml")
    known = made.get("data")
    if not isinstance(known, Mapping):
        return f"{run} says nothing of its data"
    own, here = plain(cfg.data, whole=False), {**plain(cfg.data, whole=False), **known}
    for name in typed:
        _put(here, name.split(".")[1:], own)
    if "data.root" in typed:
        for part in PARTS:  # which lie in it unless something else was said
            if f"data.{part}" not in typed and here[part] == f"{known['root']}/{part}":
                here[part] = f"{here['root']}/{part}"
    if not {"data.root", "data.labeled"} & set(typed):
        _require_its_labels(run, here)
    OmegaConf.update(cfg, "data", OmegaConf.create(here), merge=False, force_add=True)
    if "data.root" not in typed:
        others = [unquoted(item) for item in made.get("overrides") or () if not item.startswith("data.root=")]
        note_run([*others, f"data.root={known['root']}"])
    small = ", small pictures" if here["pictures"].get("small") else ""
    return f"data as in {run}: {here['name']} in {here['root']}{small}"


def _take_selection(cfg: DictConfig, run: Path, typed: Sequence[str]) -> str:
    """Selects as the run does in what was not typed; a line that says so, where that is not by default."""
    known = read_config(run / "config.yaml").get("select")
    own = plain(cfg.select, whole=False)
    if not isinstance(known, Mapping):
        return ""
    here = {**own, **{name: value for name, value in known.items() if name in own}}
    for name in typed:
        _put(here, name.split(".")[1:], own)
    OmegaConf.update(cfg, "select", OmegaConf.create(here), merge=False, force_add=True)
    told = ", ".join(f"{name}={as_typed(value)}" for name, value in here.items() if value != own[name])
    return f"selection as in {run}: {told}" if told else ""


def _require_its_labels(run: Path, data: Mapping[str, Any]) -> None:
    """Raises NstError where other labeled pictures lie in the run's place now: of another split, test pictures may be
    those that it has learned from."""
    started, folder = generation_of(run) / "started.json", str(data["labeled"])
    learned = read_json(started)["inputs"].get("labeled") if started.exists() else None
    if learned is None or not has_index(folder):
        return
    if (now := ShardSet.open(folder).digest) != learned:
        raise NstError(
            f"{data['root']} holds other labeled pictures than {run} has learned from",
            got=f"sha256 {learned[:20]}... then, {now[:20]}... now",
            next=f"data.root=<where those are now, or made again by the options in {run / 'config.yaml'}>;"
            f" data.root={data['root']} takes these ones",
        )


def _put(target: dict[str, Any], path: Sequence[str], source: Mapping[str, Any]) -> None:
    """The value at `path` of `source`, there in `target`."""
    first, *rest = path
    if not rest:
        target[first] = source[first]
        return
    target[first] = dict(target.get(first) or {})
    _put(target[first], rest, source[first])


def _take_pictures(cfg: DictConfig, source: str) -> str:
    """Shows pictures as the network was trained; a line that says so, where that is another way than the data's."""
    from nst.training.ensemble import pictures_of  # here: it brings torch

    try:
        weights = locate_ours(source)
    except NstError:
        return ""  # released weights say nothing of it; for the rest the stage has words
    pictures = asdict(pictures_of(weights, read_info(weights)))
    if plain(cfg.data.pictures) == {name: pictures[name] for name in cfg.data.pictures}:
        return ""
    OmegaConf.update(cfg, "data.pictures", OmegaConf.create(pictures), merge=False, force_add=True)
    told = ", ".join(f"{name}={as_typed(value)}" for name, value in pictures.items())
    return f"pictures are shown as {source} was trained: {told}"


def _refuse_taken(cfg: DictConfig, stage: str) -> None:
    """Raises UsageError where an option of an earlier step is another one than the step was taken with."""
    if cfg.teacher.mode == "online" and stage == "train":
        return
    for group, folder in STAGES[stage].taken.items():
        run = only_run(cfg.teacher.run)
        given = OmegaConf.select(cfg, f"teacher.{folder}") or (f"{run}/{folder}" if run else None)
        config = Path(given or ".") / "config.yaml"
        names = [name for name in typed_names(cfg.overrides) if name == group or name.startswith(f"{group}.")]
        if not given or not names or not config.exists():
            continue
        known = (read_config(config), plain(cfg, whole=False))
        before, now = (dict(leaves(value_at(each, group, {}), group)) for each in known)
        for option, value in now.items():
            is_typed = any(f"{option}.".startswith(f"{name}.") or name.startswith(f"{option}.") for name in names)
            was = before.get(option, ADDED.get(tuple(option.split(".")), value))  # older than the option
            if is_typed and was != value:
                raise _taken(cfg, stage, option, (was, value), given)


def _taken(cfg: DictConfig, stage: str, option: str, values: tuple[Any, Any], folder: str) -> UsageError:
    step, (before, now) = option.partition(".")[0].replace("teacher", "label"), map(as_typed, values)
    by = f" teacher.run={run}" if (run := only_run(cfg.teacher.run)) else ""
    return UsageError(
        f"{option}={now} changes nothing here: {folder} was made with {before}",
        got=f"nst {stage} reads what nst {step} has written",
        valid=f"{option}={before}, or without it",
        next=f"nst {step}{by} {option}={now} overwrite=true, then this again",
    )
