"""The text of `--help`: options with their defaults, groups with their choices, within the columns of a terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field
from typing import Any

from nst.checking import names_of_all
from nst.errors import UsageError, nearest_option
from nst.groups import group_choices, groups, has_file, summary_line
from nst.kinds import Kind
from nst.settings import GROUPS, SECTIONS
from nst.settings.fields import About, Group, options_of
from nst.settings.stages import CommonOptions
from nst.shown import as_typed
from nst.stage_table import STAGES

SHARED_SECTIONS = ("remote",)  # options of several stages
NAME_COLUMNS = 26  # a longer name has its text below it
MOST_COLUMNS = 100


def stage_help(stage: str) -> str:
    """What `nst <stage> --help` prints: what must be given, the stage's options with a line each, the groups and
    their choices."""
    parts = [
        filled(f"nst {stage}: {STAGES[stage].does}"),
        "",
        *_usage(stage),
        "options:",
        table(_stage_options((stage, *SHARED_SECTIONS))),
        "",
        "configuration groups (group=choice):",
    ]
    for group in groups():
        parts += [f"  {group}=", table(_choices(group, whole=False), indent=4)]
        if folded := sum(not _shown(group, choice) for choice in group_choices(group)):
            parts.append(filled(f"... and {folded} rows of the paper's tables: nst {stage} --help {group}", 4))
    parts += ["", filled(f"The options inside a group: nst {stage} --help <group>; --cfg shows the values of all.")]
    return "\n".join(parts)


def _usage(stage: str) -> list[str]:
    """The options that must be given, and an example; nothing where none must."""
    if (usage := STAGES[stage].usage) is None:
        return []
    needed, example = usage
    return [f"usage:   nst {stage} {needed} [option=value ...]", f"example: nst {stage} {example}", ""]


def group_help(stage: str, group: str) -> str:
    """What `nst <stage> --help <group>` prints: all choices of a group, and the options inside it with their defaults;
    of a part of a group, of the options of a stage or of one option these alone.

    Raises:
        UsageError: there is no such group or option.
    """
    if group not in groups():
        return _section_help(stage, group)
    parts = [f"{group}=", table(_choices(group, whole=True), indent=4)]
    if group in GROUPS:
        title = f"options of the group {group} (a choice may say otherwise: nst {stage} --cfg)"
        parts = [filled(title), table(_group_options(group)), "", *parts]
    return "\n".join(parts)


def _section_help(stage: str, name: str) -> str:
    top = name.partition(".")[0]
    rows = _described(CommonOptions, whole=True)
    if top in SECTIONS:
        rows = _described(SECTIONS[top], top, whole=True)
    elif top in GROUPS:
        rows = _group_options(top)
    asked = re.compile(rf"\+?{re.escape(name)}[.=]")
    if not (rows := {option: text for option, text in rows.items() if asked.match(option)}):
        known = [*groups(), *SECTIONS]
        near = nearest_option(name, [*known, *names_of_all()])
        raise UsageError(f"there is no group '{name}'{near}", valid=", ".join(sorted(known)))
    said = f"; a choice of {top}= may say otherwise: nst {stage} --cfg" if top in GROUPS else ""
    return "\n".join([filled(f"options of {name}{said}"), table(rows)])


def _choices(group: str, *, whole: bool) -> dict[str, str]:
    names = [choice for choice in group_choices(group) if whole or _shown(group, choice)]
    return {choice: summary_line(group, choice) for choice in names}


def _shown(group: str, choice: str) -> bool:
    """Whether a choice stands in a stage's help; the rows of the paper's tables are too many."""
    return group != "experiment" or has_file(group, choice)


def table(rows: Mapping[str, str], indent: int = 2) -> str:
    """Names, and beside them their texts."""
    column = min(max((len(name) for name in rows), default=0), NAME_COLUMNS)
    lines = []
    for name, text in rows.items():
        beside = len(name) <= column
        start = " " * indent + (f"{name:<{column}}  " if beside else name)
        if not beside:
            lines += [start.rstrip()]
        below = " " * (indent + column + 2)
        filled_ = textwrap.fill(
            text, _columns(), initial_indent=start if beside else below, subsequent_indent=below,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        lines.append(filled_ if text else start.rstrip())
    return "\n".join(lines)


def filled(text: str, indent: int = 0) -> str:
    """A paragraph."""
    margin = " " * indent
    return textwrap.fill(
        text, _columns(), initial_indent=margin, subsequent_indent=margin + "  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _columns() -> int:
    return min(shutil.get_terminal_size().columns, MOST_COLUMNS)


# ---- options, and the text of each ---------------------------------------------------------------------------------


def _stage_options(sections: Iterable[str]) -> dict[str, str]:
    """The options common to all stages, and those of some sections."""
    rows = _described(CommonOptions)
    for name in sections:
        if name in SECTIONS:
            rows |= _described(SECTIONS[name], name)
    return rows


def _group_options(group: str) -> dict[str, str]:
    """The options inside a configuration group, with what each can be."""
    rows: dict[str, str] = {}
    for base in GROUPS[group].values():
        rows |= _described(base, group, whole=True)
    return rows


def _described(section: type[Group], name: str = "", *, whole: bool = False) -> dict[str, str]:
    """`option=default` → its text.

    Args:
        whole: tell what each can be, and go into inner groups too.
    """
    rows: dict[str, str] = {}
    for entry, about in options_of(section):
        own = f"{name}.{entry.name}" if name else entry.name
        if isinstance(about.kind, Kind):
            text = f"{about.help} ({about.kind.words})".strip() if whole else about.help
            if text:
                rows[f"+{name}.<name>=" if about.rest else f"{own}={_default(entry, about)}"] = text
        elif whole:
            if about.entries or about.nullable:
                rows[f"{own}=null"] = about.help
            rows |= _described(about.kind, f"{own}.<name>" if about.entries else own, whole=True)
    return rows


def _default(entry: Field[Any], about: About) -> str:
    """As it is typed; nothing where there is none."""
    if about.follows is not None:
        return about.follows
    if entry.default is MISSING:
        return ""
    value = list(entry.default) if isinstance(entry.default, tuple) else entry.default
    return as_typed(value)
