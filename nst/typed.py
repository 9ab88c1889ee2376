"""The command line as a person types it, in words that Hydra's grammar takes for the same.

A path with `=`, spaces, brackets, commas, quotes or letters of any script is a path, and a folder called 2024 is no
number: what an option is (`nst.settings`) decides, not what its value looks like. Options within an option, as in
`iterate.generations=[[model.width=0.5],[model.width=1]]`, need no quotes either. A comma is part of a path where a
file of the whole name is there; else it stands between the entries of a list, or the values of a sweep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from nst.checking import kind_of
from nst.kinds import Kind

QUOTED = re.compile(r"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"")
# what Hydra computes values of a sweep from
FUNCTIONS = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|int|float|str|bool|json_str|extend_list)\(.*\)")
_LIST = r"\[[^\[\]]*\]"
for _ in range(4):  # lists in lists, as deep as those of iterate.generations may lie
    _LIST = rf"\[(?>{QUOTED.pattern}|{_LIST}|[^\[\]'\"])*\]"
# text in quotes or a list, also as the value of an option (a.b=[c, d]); else what stands before the next comma
_PIECE = re.compile(rf"\s*(?:\[[^\[\]]*\]|(?:[\w./]+=)?(?:{_LIST}|{QUOTED.pattern}))\s*(?=,|$)|[^,]*")


def verbatim(overrides: Iterable[str], *, sweep: bool = False) -> list[str]:
    """Overrides in which names and paths are quoted, so that Hydra takes them as they are typed.

    What is quoted already, null, and lists where there can be lists, stay what they are.

    Args:
        sweep: commas, and functions such as choice(...), stand for several values.
    """
    return [_verbatim(item, sweep) for item in overrides]


def quoted(value: object) -> str:
    """A name or path in Hydra's quotes."""
    # a backslash counts there only before a quote, and at the end
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", str(value))
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def unquoted(item: str) -> str:
    """An override as a person types it: without the quotes that `verbatim` puts around its names and paths."""
    bare = re.sub(r"'([^'\\\\]*)'", r"\1", item)
    return bare if bare != item and verbatim([bare]) == verbatim([item]) else item


def _verbatim(item: str, sweep: bool) -> str:
    name, equals, value = item.partition("=")
    kind = kind_of(name.lstrip("+"))
    if not equals or kind is None or not kind.verbatim:
        return item
    if not sweep or _is_there(value):
        return f"{name}={_value(kind, value)}"
    if FUNCTIONS.fullmatch(value):
        return item
    return f"{name}={','.join(_value(kind, piece.strip()) for piece in pieces(value))}"


def _value(kind: Kind, value: str) -> str:
    """One value of an option of names or paths, or a list of them."""
    if QUOTED.fullmatch(value) or value.lower() in ("", "null"):
        return value
    if kind.lists and re.fullmatch(r"\[.*\]", value) and not _is_there(value):
        return f"[{','.join(_value(kind, piece.strip()) for piece in pieces(value[1:-1]))}]"
    return quoted(value)


def pieces(text: str) -> list[str]:
    """What stands between the commas; neighbours that are the name of a file together are one piece."""
    parts, at = [], 0
    while at <= len(text):
        match = _PIECE.match(text, at)
        assert match is not None  # the last alternative takes anything
        parts.append(match[0])
        at = match.end() + 1
    found, first = [], 0
    while first < len(parts):
        ends = range(len(parts), first, -1)
        end = next((end for end in ends if _is_there(",".join(parts[first:end]).strip())), first + 1)
        found.append(",".join(parts[first:end]))
        first = end
    return found


def _is_there(path: str) -> bool:
    return bool(path) and os.path.lexists(os.path.expanduser(path))
