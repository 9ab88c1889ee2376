"""Refuses options that change nothing, instead of recording them as if they had been used.

A stage that works on a finished run reads the options of its job (`nst.stage_table`); how the network was made and
trained is decided. An option may be repeated all the same where it says what is so anyway, and may be one to which one
that is read refers, as `data.root=data_${seed}` does to the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nst.advice import command_is_known, leave_out
from nst.checking import leaves
from nst.config import compose_config, plain
from nst.documents import read_config
from nst.errors import NstError, UsageError
from nst.models.located import locate_ours
from nst.models.network_info import read_info
from nst.shown import as_typed, some
from nst.stage_table import OF_A_TEACHER, STAGES
from nst.stages.as_sharded import differing, differing_for

WHOLE = ("data", "experiment", "scale")  # choices that say which data
NETWORKS = ("model.checkpoint", "teacher.run", "teacher.checkpoint", "iterate.teacher")  # each a stage's own
VALID = {
    "model": "the network's file says what it is",
    "noise": "a network is asked without noise",
    "student": "the network is trained already",
    "data": "shards are read as they are",
    "data.pictures": "the network's file says how it is shown pictures",
    "seed": "nothing is drawn here",
    "predict": "it is an option of nst predict",
    "export": "it is an option of nst export",
    "report": "it is an option of nst report",
}
ABSENT = object()


def typed_names(overrides: Sequence[str]) -> list[str]:
    return [item.partition("=")[0].lstrip("+") for item in overrides]


def says_pictures(config: Mapping[str, Any]) -> bool:
    """Whether the command line says of which kind pictures are."""
    return any(f"{name}.".startswith("data.pictures.") for name in typed_names(config.get("overrides") or ()))


def run_of(source: Path) -> Path | None:
    """The run directory that `source` is, or in which it is a network file; None where there is none."""
    run = source if source.is_dir() else source.parent.parent
    return run if (source.is_dir() or source.parent.name == "checkpoints") and (run / "config.yaml").exists() else None


def require_read(cfg: DictConfig, stage: str) -> None:
    """Holds the options of the command line against those that the stage reads; those of steps that were taken before
    are held against what these have written (`nst.stages.inherited`).

    Raises:
        UsageError: one changes nothing.
    """
    record = STAGES[stage]
    if not record.strict:
        return
    alone = _on_labels_alone(cfg, stage)
    taken = () if alone else record.taken  # without a teacher there are no earlier steps
    names = typed_names(_typed(cfg))
    whole = record.needs_data and any(name in WHOLE for name in names)  # with what such a choice needs
    unread = []
    for item, name in zip(_typed(cfg), names, strict=True):
        if _is_read(cfg, stage, name) or name.partition(".")[0] in taken:
            continue
        if whole and name.startswith("data.") and not differing(plain(cfg.data, whole=False), [name]):
            continue  # it says nothing else than the shards at data.root, where nst shard made them
        if not _says_what_is(cfg, stage, name) and not _moves_what_is_read(cfg, stage, item, whole):
            unread.append(item)
    if unread:
        raise _changes_nothing(stage, unread, alone=alone, named=any(name in record.networks for name in names))


def _on_labels_alone(cfg: DictConfig, stage: str) -> bool:
    """Whether this is a training without a teacher."""
    return stage == "train" and cfg.teacher.run is None and cfg.teacher.checkpoint is None


def require_as_sharded(cfg: DictConfig, stage: str) -> None:
    """Holds the options that say how shards are made against those at `data.root`, which are read as they are.

    Raises:
        UsageError: one says otherwise.
    """
    typed = typed_names(_typed(cfg))
    if wrong := differing_for(stage, plain(cfg.data, whole=False), typed, overwrite=cfg.overwrite):
        for name in wrong:
            leave_out(name)
        raise made_otherwise(wrong, cfg.data.root, stage, f"nst {stage}" if command_is_known() else None)


def made_otherwise(wrong: Mapping[str, tuple[Any, Any]], root: str, stage: str, next: str | None = None) -> UsageError:
    """The refusal of options that are not those with which the shards at `root` were made.

    Args:
        wrong: as `differing` tells them.
        next: the command that helps; None: words for it.
    """
    given = [f"{name}={as_typed(asked)}" for name, (_, asked) in wrong.items()]
    verb = "changes" if len(given) == 1 else "change"
    return UsageError(
        f"{some(given)} {verb} nothing: nst {stage} reads the shards in {root} as they are",
        got="; ".join(f"made with {name}={as_typed(before)}" for name, (before, _) in wrong.items()),
        valid="a data.root where nst shard has made others",
        next=next or f"leave out {some(list(wrong))}",
    )


def _typed(cfg: DictConfig) -> list[str]:
    """The options of the command line as they were typed, references and all."""
    return list(OmegaConf.to_container(cfg.overrides, resolve=False))  # type: ignore[arg-type]


def _is_read(cfg: DictConfig, stage: str, name: str) -> bool:
    """As its record says, but for what other options of the command or the network's file decide."""
    record = STAGES[stage]
    if stage == "export" and name.startswith("data.pictures."):  # only where no file says it
        return all(_known(source, name) is ABSENT for source in networks(cfg, stage))
    if stage == "export" and name.startswith("data."):
        return bool(cfg.export.format == "nst")
    if name.startswith("report.") and stage == "iterate":
        return bool(cfg.iterate.report)
    if name == "run_dir" and record.within and cfg.export.format != "nst":  # it lies in the run, if there is one
        return record.reads(name) and not any(Path(source).is_dir() for source in networks(cfg, stage))
    if name == "trainer.precision" and record.own_precision:
        return bool(cfg.trainer.accelerator == "xla")
    if name.startswith("label.ray.") and stage == "label":
        return bool(cfg.label.engine == "ray")
    if name.partition(".")[0] in OF_A_TEACHER and _on_labels_alone(cfg, stage):
        return False
    return record.reads(name)


def networks(cfg: DictConfig, stage: str) -> list[str]:
    """The run or network, or several, on which the stage works."""
    given = next((value for name in STAGES[stage].networks if (value := OmegaConf.select(cfg, name))), None)
    return [given] if isinstance(given, str) else list(given or ())


def _says_what_is(cfg: DictConfig, stage: str, name: str) -> bool:
    """Whether an option says of all networks what their files and runs say, too."""
    asked, sources = plain(OmegaConf.select(cfg, name)), networks(cfg, stage)
    return bool(sources) and all(_known(source, name) == asked for source in sources)


def _known(source: str, name: str) -> Any:
    """What an option was in the run, or is in the network's file; ABSENT where these do not say."""
    run = run_of(Path(source))
    told = read_config(run / "config.yaml") if run else {}
    told |= {group: {**told.get(group, {}), **own} for group, own in _of_file(source).items()}
    return value_at(told, name, ABSENT)


def value_at(config: Any, name: str, default: Any) -> Any:
    """The option or group of a dotted name, where there is one."""
    for part in name.split("."):
        config = config.get(part, default) if isinstance(config, Mapping) else default
    return config


def _of_file(source: str) -> dict[str, dict[str, Any]]:
    """What a network's file says of it, as options by group."""
    try:
        info = read_info(locate_ours(source))
    except NstError:  # for which the stage has words
        return {}
    model = {**asdict(info.architecture), "test_size": info.image_size, "train_size": info.train_size}
    pictures = {"pictures": info.extra["pictures"]} if "pictures" in info.extra else {}
    return {"model": model, "data": pictures}


def _moves_what_is_read(cfg: DictConfig, stage: str, item: str, whole: bool) -> bool:
    """Whether an option is what would hold without it, or makes another value of one that the stage reads.

    Args:
        whole: the data are the command's, and not those of a run.
    """
    (name,) = typed_names([item])
    try:
        without = compose_config([*(other for other in _typed(cfg) if other != item), f"stage={stage}"])
    except UsageError:
        return True  # it is needed
    if name in OmegaConf.missing_keys(without):
        return True  # it is needed, too: by a choice as model=timm
    if OmegaConf.select(without, name) == OmegaConf.select(cfg, name):
        return True
    values, others = (dict(leaves(plain(each, whole=False))) for each in (cfg, without))
    typed = set(typed_names(_typed(cfg))) - {name}
    return any(
        value != others.get(option)
        for option, value in values.items()
        if option not in (name, "overrides") and _is_read(cfg, stage, option)
        if whole or option in typed or not option.startswith("data.")
    )


def _network_option(stage: str, name: str, value: str) -> str:
    """The option by which a stage takes the run or network that another option names, with it; empty where it takes
    none so."""
    options, path = STAGES[stage].networks, Path(value)
    if not options or not (name in NETWORKS or (name == "run_dir" and run_of(path))):
        return ""
    *others, option = options
    if option != "model.checkpoint" and path.is_file():  # which takes a run, and no file
        run = run_of(path)
        option, path = (option, run) if run else (others[0] if others else "", path)
    return f"{option}={quote(str(path))}" if option else ""


def _changes_nothing(stage: str, items: Sequence[str], *, alone: bool, named: bool) -> UsageError:
    """The refusal, and the command without these options, or with those that help.

    Args:
        alone: it is a training without a teacher, which would read some of them.
        named: the stage knows on which run or network it works.
    """
    helps, valid = [], []
    record = STAGES[stage]
    groups = [group for group, node in record.options.items() if isinstance(node, dict)]
    for item, name in zip(items, typed_names(items), strict=True):
        instead = record.instead.get(name) or record.instead.get(name.partition(".")[0], "")
        instead = instead or (record.folder if name == "run_dir" and record.within else "")
        value = item.partition("=")[2]
        if not named and (network := _network_option(stage, name, value)):
            named, instead = True, network
            helps.append(instead)
        elif instead and " " not in instead:
            instead = f"{instead}={value}"
            helps.append(instead)
        valid.append(
            instead
            or VALID.get(name.rpartition(".")[0])
            or VALID.get(name.partition(".")[0])
            or f"options of {', '.join(groups)}"
        )
        leave_out(name)
    names = typed_names(items)
    verb, it = ("changes", "it") if len(names) == 1 else ("change", "them")
    who = f"nst {stage}" + (" without a teacher" if alone else "")
    return UsageError(
        f"{some(names)} {verb} nothing: {who} does not read {it}",
        got=" ".join(items),
        valid="; ".join(dict.fromkeys(valid)),
        next=" ".join(["nst", stage, *helps]) if command_is_known() else f"leave {it} out",
    )
