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
from nst.stage_table import STAGES

ROOT = Path(__file__).parent.parent
PYTHON = ("python", "-m")  # before a module and its arguments, as ("python", "-c") before code: instead of a stage
VARIABLES = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@functools.cache
def server() -> ForkServer:
    """It ends with this process."""
    environment = {**surroundings(), **VARIABLES}
    return ForkServer(list(STAGES), environment=environment, program=["-m", "tests.forked"])


def surroundings() -> dict[str, str]:
    """The environment, without the W&B service of this process: it outlives a command that is killed, and its run."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


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
            environment={**surroundings(), **VARIABLES, **variables},
            files=[nothing.fileno(), *(item if isinstance(item, int) else item.fileno() for item in files)],
            new_session=True,
        )


class Launched:
    """A command that runs, and what it says; as far as it goes, in the words of subprocess.Popen."""

    def __init__(self, arguments: Sequence[str], folder: Path, *, merged: bool = False, **variables: str) -> None:
        # closed with this object, which is who reads them
        self._said = [tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") for _ in range(2)]  # noqa: SIM115
        output, errors = self._said
        self.job = start(arguments, folder, [output, output if merged else errors], **variables)
        self.pid = self.job.pid

    @property
    def returncode(self) -> int | None:
        return self.job.returncode

    def poll(self) -> int | None:
        return self.job.poll()

    def kill(self) -> None:
        """Ends it with all that it has started; nothing where it has ended."""
        if self.job.poll() is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; its output and errors.

        Raises:
            subprocess.TimeoutExpired: it goes on after `timeout` seconds.
        """
        self.job.wait(timeout)
        assert self.returncode is not None, "the fork server is gone"
        for file in self._said:
            file.seek(0)
        output, errors = (file.read() for file in self._said)
        return output, errors


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
    launched = Launched(arguments, folder or Path.cwd(), merged=merged, **variables)
    try:
        said = launched.communicate(limit_s)
    except subprocess.TimeoutExpired:
        launched.kill()
        said = launched.communicate()
    return subprocess.CompletedProcess(list(arguments), launched.returncode, *said)


# ---- in the server -----------------------------------------------------------------------------------------


def python(option: str, program: str, *arguments: str) -> None:
    """As `python -m <module>` and `python -c <code>` run them."""
    sys.argv = [program if option == "-m" else option, *arguments]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(program, {"__name__": "__main__"})


def serve() -> None:
    """A server of commands that runs Python's too."""
    command = cli.main
    cli.main = lambda words: python(*words[1:]) if words[0] == "python" else command(words)  # type: ignore
    forkserver.main()


if __name__ == "__main__":
    serve()
