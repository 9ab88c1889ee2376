"""A forked command is as one of a fresh interpreter: its own environment, output, signals, random state and end."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nst.forkserver import Forked, ForkServer

# a server whose commands are lines of Python: what they see is what a stage would see
PROGRAM = """
from nst import cli, forkserver
cli.main = lambda arguments: exec(arguments[0], {"arguments": arguments})
forkserver.main()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(["train"], program=["-c", PROGRAM]) as started:
        yield started


def start(server: ForkServer, code: str, folder: Path, *more: str, **options: Any) -> Forked:
    with open(folder / "out", "a") as out, open(folder / "err", "a") as err:
        return server.start([code, *more], folder=folder, files=[0, out.fileno(), err.fileno()], **options)


def said(folder: Path) -> Any:
    return json.loads((folder / "out").read_text())


def test_a_command_has_the_environment_folder_arguments_and_name_of_its_own(server: ForkServer, tmp_path: Path):
    code = """
import json, os, sys
print(json.dumps([dict(os.environ), os.getcwd(), sys.argv[2:], sys.path[0], sys.modules["__main__"].__spec__.name]))
"""
    variables = {"ONLY": "this", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    assert start(server, code, tmp_path, "x=1", environment=variables).wait() == 0
    environment, folder, arguments, first_path, name = said(tmp_path)
    assert variables.items() <= environment.items()
    assert environment.keys() - variables.keys() <= {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "LC_CTYPE"}
    assert (folder, arguments, first_path) == (str(tmp_path), ["x=1"], str(tmp_path))
    assert name == "nst.__main__", "a second rank would start something else"


def test_torch_is_loaded_and_nothing_has_started_that_cannot_be_forked(server: ForkServer, tmp_path: Path):
    code = """
import json, sys, threading
torch = sys.modules["torch"]
print(json.dumps([torch.cuda.is_initialized(), "torch_xla" in sys.modules, "wandb" in sys.modules,
                  threading.active_count(), torch.get_num_threads()]))
"""
    variables = {**os.environ, "OMP_NUM_THREADS": "3"}
    assert start(server, code, tmp_path, environment=variables).wait() == 0
    assert said(tmp_path) == [False, False, False, 1, 3]


def test_commands_share_no_random_state(server: ForkServer, tmp_path: Path):
    code = """
import random, numpy, torch
print(random.random(), numpy.random.rand(), torch.rand(()).item(), file=open(arguments[1], "w"))
"""
    for name in "ab":
        assert start(server, code, tmp_path, name).wait() == 0
    drawn = [(tmp_path / name).read_text().split() for name in "ab"]
    assert len({*drawn[0], *drawn[1]}) == 6


@pytest.mark.parametrize(
    ("code", "ended"),
    [("pass", 0), ("raise SystemExit(75)", 75), ("raise SystemExit('words')", 1), ("1 / 0", 1),
     ("import os; os.kill(os.getpid(), 9)", -9), ("import os; os.kill(os.getpid(), 15)", -15),
     ("import signal\ntry: signal.raise_signal(2)\nexcept KeyboardInterrupt: raise SystemExit(130)", 130)],
)  # fmt: skip
def test_the_exit_code_is_that_of_subprocess(server: ForkServer, code: str, ended: int, tmp_path: Path):
    job = start(server, code, tmp_path)
    assert job.wait() == job.poll() == job.returncode == ended
    assert ("ZeroDivisionError" in (tmp_path / "err").read_text()) == ("/" in code)


def test_a_command_ends_as_any_process_does(server: ForkServer, tmp_path: Path):
    """Threads are waited for, what is registered is run, and buffers are written."""
    code = """
import atexit, threading, time
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread", end=" "))).start()
"""
    assert start(server, code, tmp_path).wait() == 0
    assert (tmp_path / "out").read_text() == "thread registered\n"


def test_commands_run_at_the_same_time_and_one_that_is_killed_takes_no_other_along(server: ForkServer, tmp_path: Path):
    slow = start(server, "import time; time.sleep(60)", tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        slow.wait(0.05)
    assert slow.poll() is None
    assert start(server, "pass", tmp_path).wait(10) == 0
    slow.kill()
    assert slow.wait(10) == -signal.SIGKILL
    assert start(server, "pass", tmp_path).wait(10) == 0


def test_a_new_session_is_a_group_of_its_own(server: ForkServer, tmp_path: Path):
    code = "import os; print(f'[{os.getpgid(0)}, {os.getpid()}]')"
    assert start(server, code, tmp_path, new_session=True).wait() == 0
    group, number = said(tmp_path)
    assert group == number
    assert group != os.getpgid(0)


def test_a_server_without_its_asker_ends_after_its_last_command(tmp_path: Path):
    server = ForkServer([], program=["-c", PROGRAM])
    code = "import time, pathlib; time.sleep(1); pathlib.Path('done').touch()"
    job = start(server, code, tmp_path)
    server.close()
    assert job.wait(30) == 0
    assert (tmp_path / "done").exists()
    assert server._process.wait(30) == 0


def test_the_end_of_a_command_that_nobody_has_seen_is_not_taken_for_success(tmp_path: Path):
    server = ForkServer([], program=["-c", PROGRAM])
    job = start(server, "import time; time.sleep(60)", tmp_path)
    server._process.kill()
    server._process.wait()
    assert job.wait(10) is None
    job.kill()
    assert start(server, "pass", tmp_path).wait(10) is None
    server.close()


def test_a_request_that_a_server_leaves_unread_as_it_ends_is_no_fault_of_ours():
    ours, theirs = socket.socketpair()
    ours.sendall(b"a request\n")
    theirs.close()  # with something unread: what comes next is a reset, and no end
    job = Forked(ours)
    assert (job.pid, job.wait(10)) == (0, None)
