"""nst, killed by SIGKILL at a chosen point: `python -m tests.killed_program <point> <stage> [options]`.

A point is `step:7`, the start of that step of the training that runs, or `file:*/gen0/DONE`, the moment at which a file
of such a path is there.
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


@contextlib.contextmanager
def when_there(pattern: str, act: Callable[[], None]) -> Iterator[None]:
    """Does something as soon as a file of the pattern has its name."""
    replace = os.replace

    def replaced(source: Any, target: Any, **more: Any) -> None:
        replace(source, target, **more)
        if fnmatch(str(target), pattern):
            act()

    with mock.patch.object(os, "replace", replaced):
        yield


def main(point: str, *command: str) -> None:
    kind, _, value = point.partition(":")
    with in_step(int(value), die) if kind == "step" else when_there(value, die):
        nst(command)


if __name__ == "__main__":
    main(*sys.argv[1:])
