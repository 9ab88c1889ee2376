"""Options as `--help` lists them: name and default as they are typed, and the text of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, Field
from typing import Any

from nst.kinds import Kind
from nst.settings import GROUPS, SECTIONS
from nst.settings.fields import About, Group, options_of
from nst.settings.stages import CommonOptions
from nst.shown import as_typed


def stage_options(sections: Iterable[str]) -> dict[str, str]:
    """The options common to all stages, and those of some sections."""
    rows = _described(CommonOptions)
    for name in sections:
        if name in SECTIONS:
            rows |= _described(SECTIONS[name], name)
    return rows


def group_options(group: str) -> dict[str, str]:
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
