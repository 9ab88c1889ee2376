"""Words for a directory that holds a run with other inputs: what differs, as it is typed, and the ways on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nst import by_hand, written
from nst.advice import again, command_is_known
from nst.errors import NstError, OtherInputs
from nst.run_inputs import ADDED
from nst.shown import as_typed, count_of
from nst.stage_table import STAGES

SHOWN = 4
AS_IT_IS = (
    "null as the first of the lists in iterate.generations takes that network for generation 0 as it is:"
    " 'iterate.generations=[null,[]]' for one student without options of its own;\n         or "
)
# in the environment of a sweep's jobs: `run_dir=name`, the option of its directory, and that of the sweep behind it
SWEEP = "NST_SWEEP"
HASH = re.compile(r"[0-9a-f]{32,}")


def option_of(stage: str, config: Mapping[str, Any], directory: Path) -> str:
    """The option by which whoever gave the command chooses the directory of a stage."""
    if stage == "shard" and config and config["shard"]["output"] == config["data"].get("root"):
        return "name" if _both_called_by_name(config) else "data.root"
    own, part = STAGES[stage].folder, config.get("stage", stage) != stage
    chosen = any(chooses(item, own, directory) for item in config.get("overrides", ()))
    if stage == "shard" or (part and own != "run_dir" and chosen):
        return own
    shared = config.get("iterate", {}).get("teacher")
    if shared and (part or stage == "train") and directory.is_relative_to(shared):  # generation 0 of several runs
        return "iterate.teacher"
    return "run_dir" if part else own  # a part of `nst iterate`: of all generations


def _both_called_by_name(config: Mapping[str, Any]) -> bool:
    """Whether another `name` moves the shards of `nst iterate` and its directory: other shards alone would be refused
    there."""
    from nst.config import compose_config  # here: it brings Hydra

    if config.get("stage") != "iterate":
        return False
    other = compose_config([*config.get("overrides", ()), "name=another"])
    return other.data.root != config["data"]["root"] and other.run_dir != config["run_dir"]


def chooses(item: str, option: str, folder: Path) -> bool:
    """Whether an item of the command line is `option=folder`, however the path is written."""
    name, _, value = item.lstrip("+").partition("=")
    return name == option and Path(value.strip("'\"")).resolve() == folder.resolve()


def other_inputs(
    directory: Path, stage: str, started: Mapping[str, Any], inputs: Mapping[str, Any], option: str
) -> OtherInputs:
    """The directory holds a run with other inputs, and nobody has said that it may go."""
    if started["stage"] == stage:
        found = list(differences(started["inputs"], inputs))
        names = {name: typed(stage, name).replace("*", directory.name) for name, _ in found}
        changed = sorted(f"{names[name]}: {change}" for name, change in found)
    else:
        changed = [f"nst {started['stage']} before, nst {stage} now"]
    takes_it = stage == "train" and option == "iterate.teacher" and (directory / "DONE").exists()
    return OtherInputs(
        f"{directory} holds {article(started['stage'])} run with other inputs",
        got="; ".join(changed[:SHOWN]) + ("; ..." if len(changed) > SHOWN else ""),
        valid="the same options and files as before, to continue or reuse it",
        next=(AS_IT_IS if takes_it else "") + ways_on(by_hand.contents(directory), option),
    )


def not_only_ours(directory: Path, found: written.FolderContents | None, option: str) -> NstError:
    """Overwriting was asked for where there is more than nst is known to have written."""
    return NstError(
        f"overwrite=true deletes nothing in {directory}, which holds more than nst is known to have written",
        got=written.told(found.others) if found else "a run from before nst listed its files",
        next=ways_on(found, option),
    )


def ways_on(found: written.FolderContents | None, option: str) -> str:
    """Another folder, or overwriting: what that deletes, and what it keeps; and the commands for it."""
    given, _, chosen_by = os.environ.get(SWEEP, "").partition("=")
    of_all = chosen_by if option == given else ""
    another = f"choose another {of_all or option}=..." + (" for the sweep, or" if of_all else ", or")
    if found is None:
        return (
            f"{another} move the folder away: overwrite=true deletes only what nst has listed, and this run has no list"
        )
    deletes = f"deletes the {count_of(len(found.ours), 'file')} that nst wrote there ({written.counted(found.ours)})"
    if found.others:
        lines = [f"{another} move {_with_why(found)}: then overwrite=true {deletes}"]
        lines += by_hand.away(*(found.folder / name for name in found.edited[:SHOWN]))
        return "\n         ".join(lines)
    keeps = "; there is nothing else. Later steps that build on it are made anew too; what has the same inputs stays"
    lines = [f"{another} overwrite=true, which {deletes}, and starts again{keeps}"]
    if command_is_known() and not of_all:
        lines += [again(f"{option}={'<name>' if option == 'name' else '<folder>'}"), again("overwrite=true")]
    return "\n         ".join(lines)


def _with_why(found: written.FolderContents) -> str:
    """`notes.txt away, which nst has not written, and predictions.csv, which is not as nst wrote it`"""
    strange = [name for name in found.others if name not in found.edited]
    parts = [f"{written.told(strange)} away, which nst has not written"] if strange else []
    if found.edited:
        are = "is not as nst wrote it" if len(found.edited) == 1 else "are not as nst wrote them"
        parts.append(f"{written.told(found.edited)}{'' if strange else ' away'}, which {are}")
    return ", and ".join(parts)


def typed(stage: str, name: str) -> str:
    """The option behind an input of a stage, as it is typed: `student.steps` for a training's `recipe.steps`; words
    where there is none."""
    names = STAGES[stage].typed
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if option := names.get(".".join(parts[:length])):
            return option if " " in option else ".".join([option, *parts[length:]])
    return f"{names['']}.{name}" if "" in names else name


def article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names of the leaves in which two nested inputs differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            inner = f"{name}.{key}" if name else key
            left_out = ADDED.get(tuple(inner.split(".")))  # where it is as it was before there was such an input
            yield from differences(old.get(key, left_out), new.get(key, left_out), inner)
    elif old != new and all(isinstance(value, str) and HASH.fullmatch(value) for value in (old, new)):
        yield name.removesuffix(".digest"), f"other content now (hash {old[:8]} before, {new[:8]} now)"
    elif old != new:
        before, now = (_views(value) if name == "turns" else _short(value) for value in (old, new))
        yield name, f"{before} before, {now} now"


def _views(turns: int) -> str:
    """How often a picture is looked at, as an option says it."""
    return "one" if turns == 1 else "all"


def _short(value: Any) -> str:
    text = as_typed(value)
    return text if len(text) <= 24 else text[:21] + "..."
