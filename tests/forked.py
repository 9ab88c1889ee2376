"""Commands as `python -m nst` runs them, forked from one process per test process that has loaded torch and all stages.

`run(["train", "seed=1"], folder)` is as subprocess.run of a fresh interpreter, seconds of imports earlier, and
`run([*PYTHON, "tests.xla_small", "1"])` as `python -m tests.xla_small 1`. torch has computed nothing before the fork,
and torch_xla is loaded behind it. Tests of the start itself and of what is not loaded start interpreters of their own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nst import cli, forkserver
from nst.forkserver import Forked, ForkServer

ROOT = Path(__file__).parent.parent
PYTHON = ("python", "-m")  # before the name of a module and its arguments, instead of a stage and its options
VARIABLES = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@functools.cache
def server() -> ForkServer:
    """It ends with this process."""
    environment = {**os.environ, **VARIABLES}
    return ForkServer(list(cli.STAGES), environment=environment, program=["-m", "tests.forked"])


def start(arguments: Sequence[str], folder: Path, files: Sequence[IO[str] | int], **variables: str) -> Forked:
    """Starts `nst` in a folder, as the leader of a process group.

    Args:
        files: for its output and errors.
        variables: of its environment, besides those that all have.
    """
    with open(os.devnull) as nothing:
        return server().start(
            list(map(str, arguments)),
            folder=folder,
            environment={**os.environ, **VARIABLES, **variables},
            files=[nothing.fileno(), *(item if isinstance(item, int) else item.fileno() for item in files)],
            new_session=True,
        )


def run(
    arguments: Sequence[str],
    folder: Path | None = None,
    *,
    merged: bool = False,
    limit_s: float = 500,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs `nst`; what takes longer than `limit_s` is killed with all that it has started.

    Args:
        merged: errors come with the output, in their order.
    """
    with contextlib.ExitStack() as open_files:
        output, errors = (
            open_files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")) for _ in range(2)
        )
        job = start(arguments, folder or Path.cwd(), [output, output if merged else errors], **variables)
        try:
            job.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
        assert job.returncode is not None, "the fork server is gone"
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(list(arguments), job.returncode, output.read(), errors.read())


# ---- in the server -----------------------------------------------------------------------------------------


def serve() -> None:
    """A server of commands that runs modules too."""
    command = cli.main

    def run_any(arguments: Sequence[str]) -> None:
        if tuple(arguments[: len(PYTHON)]) != PYTHON:
            return command(arguments)
        module, *rest = arguments[len(PYTHON) :]
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    cli.main = run_any  # type: ignore[assignment]
    forkserver.main()


if __name__ == "__main__":
    serve()
