"""Kinds of option values: what each is in words, and how a value is read and checked.

A kind stands for a type and a range. `nst.settings` gives every option one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Kind:
    """The values of an option.

    Args:
        words: what they are, for people.
        read: gives the value as stages take it; raises ValueError for any other.
        verbatim: a name or path: what is typed on the command line is the value, whatever it looks like.
        lists: a list in brackets is a value too.
    """

    words: str
    read: Callable[[Any], Any]
    verbatim: bool = False
    lists: bool = False


def whole(least: int = 1, most: int = 10**12) -> Kind:
    """Whole numbers from `least` to `most`, also as 1e3 or 2.0; true is none."""

    def read(value: Any) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    return Kind(f"a whole number, {least:,} to {most:,}", read)


def number(least: float, most: float, *, above: bool = False, below: bool = False) -> Kind:
    """Finite numbers from `least` to `most`; without these themselves where `above` or `below` says so."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):  # NaN would pass comparisons the other way
            raise ValueError
        if not least <= value <= most or (above and value == least) or (below and value == most):
            raise ValueError
        return value

    upto = "to below" if below else "to"
    return Kind(f"a number, {'above ' if above else ''}{least:,.15g} {upto} {most:,.15g}", read)


def flag() -> Kind:
    """Yes or no."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

    def read(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.lower() not in words:
            raise ValueError
        return words[value.lower()]

    return Kind("true or false (yes, no, on and off will do)", read)


def choice(*names: str) -> Kind:
    """One of some names."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Kind(" | ".join(names), read)


def text(most: int = 1000, pattern: str = r"[\s\S]*", words: str = "text") -> Kind:
    """Text of up to `most` characters that is not blank, has no control characters, and can be written in UTF-8."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or len(value) > most:
            raise ValueError
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Kind(words, read, verbatim=True)


def path() -> Kind:
    """A file, folder or address; `~` is the home folder, which a shell leaves as it is behind `=`."""
    typed = text(4095, words="a path")
    return replace(typed, read=lambda value: os.path.expanduser(typed.read(value)))


def network() -> Kind:
    """A trained network where it lies, as `nst.models.located.locate` finds it."""
    return replace(path(), words="a network (its run, its file, or a name of timm's)")


def listed(kind: Kind, *, least: int = 0) -> Kind:
    """A list of `least` or more of a kind; one of them stands for a list of one."""

    def read(value: Any) -> list[Any]:
        entries = value if isinstance(value, list) else [value]
        if len(entries) < least:
            raise ValueError
        return [kind.read(entry) for entry in entries]

    return Kind(f"a list [..., ...], each {kind.words}", read, kind.verbatim, lists=True)


def either(*kinds: Kind) -> Kind:
    """The first of several kinds that a value is of."""

    def read(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.read(value)
            except ValueError:
                continue
        raise ValueError

    words = ", or ".join(kind.words for kind in kinds)
    return Kind(words, read, any(kind.verbatim for kind in kinds), any(kind.lists for kind in kinds))


def null(kind: Kind) -> Kind:
    """A kind, or null."""
    return replace(kind, words=f"{kind.words}, or null", read=lambda value: None if value is None else kind.read(value))


def mapping() -> Kind:
    """Options of any names, which their reader checks."""

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError
        return value

    return Kind("a group of options", read)
