"""Commands as `python -m nst` runs them, forked from one process per test process that has loaded torch and all stages.

`run(["train", "seed=1"], folder)` is as subprocess.run of a fresh interpreter, ten seconds of imports earlier. Tests of
the start itself, of what is not loaded, and of torch_xla start interpreters of their own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nst.cli import STAGES
from nst.forkserver import Forked, ForkServer

ROOT = Path(__file__).parent.parent
VARIABLES = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@functools.cache
def server() -> ForkServer:
    """It ends with this process."""
    return ForkServer(list(STAGES), environment={**os.environ, **VARIABLES})


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
