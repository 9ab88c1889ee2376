"""Processes that work on the same files: which one writes, locks, and waiting for what another one has written."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

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


def lock_file(file: IO[Any] | int, operation: int, path: Path) -> None:
    """`fcntl.flock` of the open file of this path.

    Raises:
        BlockingIOError: another process has the lock, and `operation` does not wait for it.
        NstError: the disk has no locks.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise NstError(
            f"the disk of {path.parent} cannot lock files, so two processes could write there at once",
            got=error.strerror,
            valid="a local disk, or a network disk that is mounted with locks",
            next="choose a directory on another disk",
        ) from error


@contextlib.contextmanager
def wait_for_lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file, which no two processes do; calls `waiting` where another one has it."""
    with open(path, "a") as lock:
        try:
            lock_file(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            waiting()
            lock_file(lock, fcntl.LOCK_EX, path)
        _held.add(lock)
        yield


def take_lock(directory: Path, next: str | Callable[[], str] = "wait for it") -> IO[str]:
    """Keeps other processes out of `directory` until the file that is returned is closed.

    Raises:
        NstError: another process has the lock, or the disk has no locks.
    """
    path = directory / ".lock"
    # flock is released by the kernel when the process dies, however it dies: no stale lock after kill -9
    with contextlib.ExitStack() as failed:
        lock = failed.enter_context(open(path, "a"))
        try:
            lock_file(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                raise FileNotFoundError  # a start that failed has just taken it away
        except (BlockingIOError, FileNotFoundError) as error:
            way = next if isinstance(next, str) else next()
            raise NstError(f"another process is working in {directory}", next=way) from error
        failed.pop_all()  # held by the caller
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
