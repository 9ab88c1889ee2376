"""A process that has loaded torch and Lightning once, and forks a clean one for every command; Linux only.

A forked process is as a fresh `python -m nst`, seconds earlier: it gets the environment, folder and output of whoever
asks, signal handlers, arguments and a random state of its own, and ends as any process does. The server itself has one
thread of Python's, and neither CUDA nor torch_xla nor W&B has started in it: they cannot be forked.

    with ForkServer(["train"]) as server:
        code = server.start(["train", "seed=1"]).wait()
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from nst import cli


def possible() -> bool:
    """Whether this system has what the server needs."""
    return hasattr(os, "pidfd_open") and hasattr(socket, "send_fds")


class Forked:
    """A command that a server has started; as far as it goes, in the words of subprocess.Popen."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._said = line.makefile("rb")
        self.pid = int(self._next_line() or 0)  # 0: the server has ended
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, negative after a signal; None: the server is gone, and nobody has seen the end.

        Raises:
            subprocess.TimeoutExpired: it goes on after `timeout` seconds.
        """
        if self.returncode is None:
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._line, selectors.EVENT_READ)
                if not waiting.select(timeout):
                    raise subprocess.TimeoutExpired("nst", timeout or 0.0)
            said = self._next_line()
            self.returncode = int(said) if said else None
            if said:
                self._said.close()
                self._line.close()
        return self.returncode

    def _next_line(self) -> bytes:
        """What the server says next; nothing where it is gone, also if it has left a request unread."""
        with contextlib.suppress(ConnectionResetError):
            return self._said.readline()
        return b""

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts commands; several may run at the same time. It ends with its last command after `close`.

    Args:
        stages: whose modules are loaded before the first fork.
        program: what Python runs as the server.
    """

    def __init__(
        self,
        stages: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "nst.forkserver"),
    ) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, *program, str(theirs.fileno()), *stages]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)

    def start(
        self,
        arguments: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        files: Sequence[int] = (0, 1, 2),
        new_session: bool = False,
    ) -> Forked:
        """`nst` with these arguments, in this process's folder and environment or in others.

        Args:
            files: descriptors of its input, output and errors.
            new_session: away from the terminal, as the leader of a process group of its own.
        """
        ours, theirs = socket.socketpair()
        request = {
            "arguments": list(arguments),
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "new_session": new_session,
        }
        with theirs, contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._control, [b"+"], [theirs.fileno(), *files])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            ours.sendall(json.dumps(request).encode() + b"\n")
        return Forked(ours)

    def close(self) -> None:
        self._control.close()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        self._process.wait()


# ---- in the server -----------------------------------------------------------------------------------------


def load(stages: Sequence[str]) -> None:
    """What commands would load, as far as it starts nothing."""
    from nst.config import compose_config

    cli.before_torch()
    for stage in stages:
        cli.module_of(stage)
    compose_config([])  # fills the caches of Hydra's parser
    gc.collect()
    gc.freeze()  # a collection in a child would copy these pages
    alive = [thread.name for thread in threading.enumerate()]
    assert alive == ["MainThread"], f"threads cannot be forked: {alive}"
    torch = sys.modules.get("torch")
    assert torch is None or not torch.cuda.is_initialized(), "CUDA cannot be forked"
    assert "torch_xla" not in sys.modules, "torch_xla cannot be forked"


def serve(control: socket.socket) -> list[str] | None:
    """Starts what is asked for; returns its arguments in a forked process, None in the server when all is done."""
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    while waiting.get_map():
        for key, _ in waiting.select():
            if key.data is not None:
                waiting.unregister(key.fileobj)
                _tell_end(key.fd, *key.data)
                continue
            sign, descriptors, _, _ = socket.recv_fds(control, 1, 4)
            if not sign:
                waiting.unregister(control)  # nobody is there to ask for more
                continue
            line = socket.socket(fileno=descriptors[0])
            request = json.loads(line.makefile("rb").readline() or "null")
            child = os.fork() if request else None
            if child == 0:
                line.close()
                _leave(waiting)
                return _become(request, descriptors[1:])
            for number in descriptors[1:]:
                os.close(number)
            if child:
                line.sendall(f"{child}\n".encode())
                waiting.register(os.pidfd_open(child), selectors.EVENT_READ, (child, line))
    return None


def _tell_end(handle: int, child: int, line: socket.socket) -> None:
    os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with line, contextlib.suppress(BrokenPipeError):
        line.sendall(f"{code}\n".encode())


def _leave(waiting: selectors.BaseSelector) -> None:
    """Closes what is the server's in a forked process: whoever listens would wait for it."""
    for key in list(waiting.get_map().values()):
        if key.data is None:
            key.fileobj.close()  # type: ignore[union-attr]
        else:
            os.close(key.fd)
            key.data[1].close()
    waiting.close()


def _become(request: Mapping[str, Any], files: Sequence[int]) -> list[str]:
    """Makes a forked process a fresh one of this command."""
    if request["new_session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(files):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    cli.before_torch()
    sys.path[0] = request["folder"]  # as of `python -m`
    sys.argv = ["nst", *request["arguments"]]
    # whoever starts the same command again, as Lightning does for other ranks, asks __main__ for its name
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("nst.__main__")
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator does so by itself
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
        threads = os.environ.get("OMP_NUM_THREADS", "")  # which OpenMP has read in the server, from its environment
        if threads.isdecimal():
            torch.set_num_threads(int(threads))
    return list(request["arguments"])


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the commands
    load(sys.argv[2:])
    arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    # without taking the interpreter apart: that costs seconds for all that is loaded
    os._exit(0 if arguments is None else _run(arguments))


def exit_code(arguments: Sequence[str]) -> int:
    """Runs a command in this process, and gives the code with which a process of its own would end."""
    try:
        cli.main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _run(arguments: Sequence[str]) -> int:
    """Runs a command and all that is due at a process's end: other threads, what is registered, buffers."""
    code = exit_code(arguments)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
