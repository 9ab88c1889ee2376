"""A process that has loaded torch and all stages once, and forks a clean one for every command.

As `python -m nst`, without the ten seconds of imports: `ForkServer().run(["train", "seed=1"], folder)`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `code` is negative after a signal, as subprocess has it."""

    code: int
    said: str  # stdout and stderr together
    seconds: float


class ForkServer:
    """Use as a context manager; one command at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, arguments: list[str], folder: Path, *, limit_s: float = 20) -> Outcome:
        """Runs `nst` with these arguments in a folder; what takes longer than `limit_s` is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, str(folder), limit_s]) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()  # an end of its input ends it


def _serve() -> None:
    import importlib

    from nst.cli import STAGES

    for stage in STAGES:
        importlib.import_module(f"nst.stages.{stage}")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        arguments, folder, limit_s = json.loads(line)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            start = time.monotonic()
            child = os.fork()
            if child == 0:
                _child(arguments, folder, output.fileno())
            code = _end_of(child, limit_s)
            output.seek(0)
            answers.write(json.dumps([code, output.read(), time.monotonic() - start]) + "\n")
            answers.flush()


def _child(arguments: list[str], folder: str, output: int) -> None:
    code: Any = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        from nst.cli import main

        main(arguments)
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _end_of(child: int, limit_s: float) -> int:
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], limit_s)[0]:
            os.killpg(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(handle)


if __name__ == "__main__":
    _serve()
