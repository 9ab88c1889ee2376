"""Lets a file name another one beside it or below, and nothing else.

Indexes, predictions, results and archives come from strangers. A name is judged by its text before anything is opened,
so that no file system and no link can make it mean another place.
"""

from __future__ import annotations

from pathlib import Path

from nst.errors import NstError

LONGEST_NAME = 255  # bytes, of Linux's file systems


def is_inside(name: object) -> bool:
    r"""Whether `name` is a relative path that stays below its folder, also where `\` parts folders: no `..`, no NUL."""
    if not isinstance(name, str) or "\0" in name:
        return False
    parts = name.replace("\\", "/").split("/")
    return parts[0] != "" and parts != ["."] and ".." not in parts


def is_file_name(name: object) -> bool:
    """Whether `name` is that of a file in a folder, without any way to another one."""
    if not isinstance(name, str) or not is_inside(name) or "/" in name or "\\" in name:
        return False
    return len(name.encode(errors="replace")) <= LONGEST_NAME


def require_file_name(name: object, where: object) -> str:
    """`name`; NstError, which names the file that said it (`where`), if it is none of a file beside it."""
    if is_file_name(name):
        return str(name)
    raise NstError(
        f"{where} names a file that does not lie beside it",
        got=repr(name)[:200],
        valid="a file name, without / and ..",
        next="have it from whom you trust, or make it again",
    )


def below(folder: Path, name: object, where: object) -> Path:
    """`folder / name`; NstError, which names the file that said it (`where`), if that lies elsewhere."""
    if is_inside(name):
        return folder / str(name)
    raise NstError(
        f"{where} names a file outside {folder}",
        got=repr(name)[:200],
        valid=f"a path below {folder}",
        next="have it from whom you trust, or make it again",
    )
