"""Temporary files: how they are named, and which of them are left over by processes that were killed.

The name says which process of which machine writes, so that of one file that several may write at the same time only
the halves go whose writers are dead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import time
from collections import defaultdict
from pathlib import Path

from nst.written import TEMPORARY, listed_below

ABANDONED_S = 86_400  # a temporary file of another machine this old was left by a process that was killed


def temporary(path: Path) -> Path:
    """Where this process writes what is to become `path`; the name tells whether its writer lives."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{_machine()}")


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Removes the temporary files of listed names in a folder and below, as far as their writers are dead.

    Args:
        alone: nobody else may write there, so all are left over.
    """
    names: dict[Path, set[str]] = defaultdict(set)
    for path in listed_below(folder):
        names[path.parent].add(path.name)
    for place, own in names.items():
        if place.is_dir():
            _sweep(place, own, alone)


def sweep_beside(path: Path) -> None:
    """Removes the temporary files that dead processes left of this one."""
    _sweep(path.parent, {path.name}, alone=False)


def _sweep(place: Path, names: set[str], alone: bool) -> None:
    for entry in list(os.scandir(place)):
        match = TEMPORARY.fullmatch(entry.name)
        if match and match["name"] in names and (alone or _is_dead(Path(entry), match)):
            Path(entry).unlink(missing_ok=True)


def _is_dead(path: Path, match: re.Match[str]) -> bool:
    if match["machine"] == _machine():
        try:
            os.kill(int(match["pid"]), 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        return False
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime < time.time() - ABANDONED_S
    return False


@functools.cache
def _machine() -> str:
    """Names what process numbers are unique in: a machine since it was started, or a container of it."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]
