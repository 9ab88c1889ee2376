"""Processes that work on the same files: which one writes, locks, and waiting for what another one has written."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from nst.errors import NstError

SEEN_S = 120  # within which a network disk shows what another machine has written
_launcher = os.getppid()  # asked for at the start: who begins to wait may begin too late to see it go


def _note_launcher() -> None:
    global _launcher
    _launcher = os.getppid()


os.register_at_fork(after_in_child=_note_launcher)


def launcher_has_ended() -> bool:
    """Whether the process that has started this one is gone."""
    return os.getppid() != _launcher


def is_rank_zero() -> bool:
    """True in the one process of a distributed job that writes; also before any job has started."""
    if "RANK" in os.environ:  # torchrun numbers its machines by itself: its rank 0 may be on another one than Slurm's
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


# a forked process has its parent's locks too: a loader that outlives its trainer by seconds would keep the next one out
_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _held])


@contextlib.contextmanager
def wait_for_lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file, which no two processes do; calls `waiting` where another one has it."""
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        _held.add(lock)
        yield


def take_lock(directory: Path, next: str = "wait for it") -> IO[str]:
    """Keeps other processes out of `directory` until the file that is returned is closed.

    Raises:
        NstError: another process has the lock.
    """
    # flock is released by the kernel when the process dies, however it dies: no stale lock after kill -9
    lock = open(directory / ".lock", "a")  # noqa: SIM115 (held by the caller)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock.fileno()), os.stat(directory / ".lock")):
            raise FileNotFoundError  # a start that failed has just taken it away
    except OSError as error:
        lock.close()
        raise NstError(f"another process is working in {directory}", next=next) from error
    _held.add(lock)
    return lock


def wait_until_seen(path: Path) -> Path:
    """The path of a file that another rank has written, once it is seen here: a network disk may show it a minute late.

    Raises:
        NstError: it does not appear within SEEN_S.
    """
    since = time.monotonic()
    while True:
        try:
            open(path, "rb").close()  # unlike a look at the name, opening asks the server
            return path
        except FileNotFoundError as error:
            if time.monotonic() - since > SEEN_S:
                raise NstError(
                    f"{path} was written by another rank and is not seen here",
                    got=f"nothing within {SEEN_S} s",
                    valid="run directories on a disk that all machines share",
                    next="run_dir=<folder on the shared disk>",
                ) from error
            time.sleep(0.2)
