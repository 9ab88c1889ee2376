"""The text of `--help`: options with their defaults, groups with their choices, within the columns of a terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping

from nst.errors import UsageError, nearest
from nst.groups import group_choices, groups, has_file, summary_line
from nst.settings import GROUPS
from nst.settings.option_lines import group_options, stage_options
from nst.stage_table import STAGES

SHARED_SECTIONS = ("remote",)  # options of several stages
NAME_COLUMNS = 26  # a longer name has its text below it
MOST_COLUMNS = 100


def stage_help(stage: str) -> str:
    """What `nst <stage> --help` prints: the stage's options with a line each, then the groups and their choices."""
    parts = [
        filled(f"nst {stage}: {STAGES[stage].does}"),
        "",
        "options:",
        table(stage_options((stage, *SHARED_SECTIONS))),
        "",
        "configuration groups (group=choice):",
    ]
    for group in groups():
        parts += [f"  {group}=", table(_choices(group, whole=False), indent=4)]
        if folded := sum(not _shown(group, choice) for choice in group_choices(group)):
            parts.append(filled(f"... and {folded} rows of the paper's tables: nst {stage} --help {group}", 4))
    parts += ["", filled(f"The options inside a group: nst {stage} --help <group>; --cfg shows the values of all.")]
    return "\n".join(parts)


def group_help(stage: str, group: str) -> str:
    """What `nst <stage> --help <group>` prints: all choices of a group, and the options inside it with their defaults.

    Raises:
        UsageError: there is no such group.
    """
    if group not in groups():
        raise UsageError(f"there is no group '{group}'{nearest(group, groups())}", valid=", ".join(groups()))
    parts = [f"{group}=", table(_choices(group, whole=True), indent=4)]
    if group in GROUPS:
        title = f"options of the group {group} (a choice may say otherwise: nst {stage} --cfg)"
        parts = [filled(title), table(group_options(group)), "", *parts]
    return "\n".join(parts)


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
        text = re.sub(r" ?\[[CO]\]", "", text)  # marks of what paper and code differ in, for readers of the source
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
