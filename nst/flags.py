"""Flags of the command line: an option of the stage, as `--top 5` is `predict.top=5`.

A flag whose option is a switch may stand alone. Any other needs a value, and what is behind it is the value, whatever
it looks like: `--output name=x` names a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from nst.checking import kind_of, names_of_all
from nst.errors import UsageError, nearest_option
from nst.kinds import Kind
from nst.settings import SECTIONS, TREE
from nst.stage_table import STAGES

GENERAL = ("--help", "--cfg", "--multirun", "-m", "-h")  # of every stage; none has a value


def flags_as_options(stage: str, items: Sequence[str]) -> list[str]:
    """The options that a command line gives: `--verify` reads as `shard.verify=true`, `--output x` or `--output=x` as
    `predict.output=x`. Some options need no flag: `nst predict input=<folder>`.

    Raises:
        UsageError: no such flag, or one that needs a value and has none.
    """
    return [_as_option(stage, words) for words in in_words(stage, items) if words[0] not in GENERAL]


def own_flags(stage: str) -> list[str]:
    """The flags of a stage that no other has."""
    own = TREE[stage] if stage in SECTIONS else {}
    return [f"--{name.replace('_', '-')}" for name, kind in own.items() if isinstance(kind, Kind)]


def needs_value(stage: str, item: str) -> bool:
    """Whether an argument is a flag of the stage whose value is the next one."""
    if not item.startswith("--") or "=" in item or item in GENERAL:
        return False
    kind = _kind(stage, item)
    return kind is not None and not _may_stand_alone(kind)


def in_words(stage: str, items: Sequence[str]) -> Iterator[list[str]]:
    """The arguments behind a stage, those of an option together: `[option=value]`, `[--flag]`, `[--flag, value]`."""
    waiting = list(items)
    while waiting:
        words = [waiting.pop(0)]
        if waiting and words[0].startswith("-") and "=" not in words[0] and words[0] not in GENERAL:
            kind = _kind(stage, words[0])
            if kind is not None and _is_value(waiting[0], kind):
                words.append(waiting.pop(0))
        yield words


def option_of(stage: str, item: str) -> str:
    """The name of the option that an argument gives: `predict.top` of `--top=5`, `predict.input` of `input=x`."""
    return _named(stage, item).lstrip("+")


def _named(stage: str, item: str) -> str:
    """The same as it is typed for Hydra, which adds what is behind a `+`."""
    name = item.partition("=")[0]
    if name.startswith("-"):
        return f"{stage}.{name.lstrip('-').replace('-', '_')}"
    return f"{stage}.{name}" if name in STAGES[stage].short else name


def _as_option(stage: str, words: Sequence[str]) -> str:
    item, name, (_, equals, value) = words[0], _named(stage, words[0]), words[0].partition("=")
    if not item.startswith("-"):
        return f"{name}{equals}{value}"
    kind = _kind(stage, item)
    if kind is None:
        raise _unknown(stage, item)
    if equals or len(words) > 1:
        return f"{name}={value if equals else words[1]}"
    if not _may_stand_alone(kind):
        raise UsageError(f"{item} needs a value", got="none", valid=kind.words, next=f"nst {stage} {item}=<value>")
    return f"{name}=true"


def _kind(stage: str, flag: str) -> Kind | None:
    """The kind of a flag's option; None where the stage has no such option."""
    return kind_of(_named(stage, flag)) if stage in SECTIONS else None


def _unknown(stage: str, flag: str) -> UsageError:
    name = flag.partition("=")[0]
    if name in GENERAL:
        return UsageError(f"{name} takes no value", got=flag, next=f"nst {stage} {name}")
    valid = [*(each for each in GENERAL if each.startswith("--")), *own_flags(stage)]
    own = name.lstrip("-").replace("-", "_")
    hint = nearest_option(own, [each.lstrip("-").replace("-", "_") for each in valid])
    if hint:
        hint = re.sub(r"'(\w+)'", lambda match: f"'--{match[1].replace('_', '-')}'", hint)
    else:
        hint = re.sub(r"'(\S+)'", r"\1=...", nearest_option(own, _names_for(stage)))
    return UsageError(f"unknown flag {name}{hint}", got=flag, valid=", ".join(valid))


def _names_for(stage: str) -> list[str]:
    """All options but those of another stage alone."""
    others = {name for name in STAGES if name in SECTIONS and name != stage}
    return [name for name in names_of_all() if name.partition(".")[0] not in others]


def _may_stand_alone(kind: Kind) -> bool:
    try:
        return kind.read(True) is True
    except ValueError:
        return False


def _is_value(item: str, kind: Kind) -> bool:
    """Whether an argument is the value of the flag before it."""
    if item.startswith("--") or item in GENERAL:
        return False
    return not _may_stand_alone(kind) or not (item.startswith("-") or _names_an_option(item))


def _names_an_option(item: str) -> bool:
    """Whether an argument is `option=value` or Hydra's `~option`, and no path with a `=` in it or of a home folder."""
    name, equals, _ = item.partition("=")
    if not equals:
        return item.startswith("~") and "/" not in item
    return ("/" not in name or name.startswith("hydra/")) and not os.path.lexists(item)
