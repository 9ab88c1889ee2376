"""nst, ended at a chosen point: `python -m tests.killed_program <point> <stage> [options]`.

A point is `step:7`, the start of that step of the training that runs, or `file:*/gen0/DONE`, the moment at which a file
of such a path is there: SIGKILL comes. At `ctrl-c:*/gen0/DONE` it is SIGINT, once, for all processes of the command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Any
from unittest import mock

from nst.cli import main as nst
from tests.xla_program import in_step


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    os.killpg(0, signal.SIGINT)


@contextlib.contextmanager
def when_there(pattern: str, act: Callable[[], None]) -> Iterator[None]:
    """Does something as soon as the first file of the pattern has its name."""
    replace = os.replace
    first = True

    def replaced(source: Any, target: Any, **more: Any) -> None:
        nonlocal first
        replace(source, target, **more)
        if first and fnmatch(str(target), pattern):
            first = False
            act()

    with mock.patch.object(os, "replace", replaced):
        yield


def main(point: str, *command: str) -> None:
    kind, _, value = point.partition(":")
    act = interrupt if kind == "ctrl-c" else die
    with in_step(int(value), act) if kind == "step" else when_there(value, act):
        nst(command)


if __name__ == "__main__":
    main(*sys.argv[1:])
