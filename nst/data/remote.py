"""The cache of shards that lie elsewhere.

A shard is fetched whole into a folder on the local disk, compared with the size and sha256 in the index, and renamed;
from then on it is a file like any other. So all readers stay as they are, random access costs no requests, and a
transfer that broke off is never seen by a stage. fsspec's file cache compares no content, keeps no two processes from
fetching one file, and never makes room.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nst.atomic import sha256_file
from nst.data.transfer import STALL_S, NotThere, TransferFailed, by_hand, transfer
from nst.errors import NstError
from nst.settings.data import RemoteOptions
from nst.sharing import lock_file
from nst.shown import shown
from nst.written import begin, note, ours

log = logging.getLogger(__name__)

MAX_WAIT_S = 60.0
LOCKS = 64  # files that keep two processes from fetching one shard; two shards that share one wait for each other
TEMPORARY = ".nst-fetch-"  # begins the names of files on their way
CACHE_SHARE = 0.7  # of the disk; runs, logs and the shard that is being fetched have the rest
LEFTOVER_S = 86_400  # a temporary file this old was left by a process that was killed
_given = threading.local()  # what `unknown_shard` gave each thread last


@dataclass(frozen=True)
class Remote(RemoteOptions):
    """How files from elsewhere get here, and where they stay.

    Args:
        stall_s: a transfer that brings nothing for so long has failed.
    """

    stall_s: float = STALL_S

    @property
    def folder(self) -> Path:
        if self.cache is not None:
            return Path(self.cache).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nst" / "shards"

    @property
    def places(self) -> list[str]:
        """What `shards_at` names, one by one."""
        given = self.shards_at
        return [given] if isinstance(given, str) else list(given or ())

    def read(self, url: str) -> bytes:
        """The content of a small file, fetched anew each time.

        Raises:
            NstError: it cannot be reached.
        """
        with self._temporary("read") as temporary:
            self._persist(url, lambda: transfer(url, temporary, self.stall_s))
            return temporary.read_bytes()

    def shard(self, url: str, name: str, size: int, sha256: str) -> Path:
        """The local copy of a shard, fetched by the first process that needs it while the others wait.

        Raises:
            NstError: it stays unreachable or other than its index says, or there is no room for it.
        """
        path = self._place(name, sha256)
        if not _is_whole(path, size):
            with self._turn(path.name):
                if not _is_whole(path, size):  # another process may have fetched it meanwhile
                    with self._temporary(path.stem) as temporary:
                        self._persist(url, lambda: _transfer_checked(url, temporary, size, sha256, self.stall_s))
                        _settle(temporary, path)
                    self._make_room(path)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # used last now
        return path

    def unknown_shard(self, url: str, name: str) -> tuple[Path, str]:
        """The local copy of a shard that no index describes yet, and its sha256.

        It stays in the cache, however small that is, until this thread asks for the next one.

        Raises:
            NstError: it cannot be reached, or there is no room for it.
        """
        with self._temporary(Path(name).stem) as temporary:
            self._persist(url, lambda: transfer(url, temporary, self.stall_s))
            digest = sha256_file(temporary)
            path = self._place(name, digest)
            _given.file = _InUse(temporary)  # before it has the name by which another thread could delete it
            _settle(temporary, path)
        self._make_room(path)
        return path, digest

    def _place(self, name: str, sha256: str) -> Path:
        """Named by content: a shard that changes, or one of another set, is another file."""
        return self.folder / f"{Path(name).stem}-{sha256[:16]}.tar"

    def _persist(self, url: str, attempt: Callable[[], None]) -> None:
        """`attempt` until it succeeds, with growing pauses."""
        wait, last = self.wait_s, ""
        for number in range(1, self.attempts + 1):
            try:
                return attempt()
            except NotThere as error:
                raise NstError(f"cannot fetch {url}", got=error, next=by_hand(url)) from error
            except TransferFailed as error:
                last = str(error)
                log.warning("attempt %d of %d to fetch %s failed: %s", number, self.attempts, shown(url), shown(last))
            except OSError as error:  # of the local disk; those of the transfer are TransferFailed
                raise self._no_room(error) from error
            if number < self.attempts:
                time.sleep(min(wait, MAX_WAIT_S))
                wait *= 2
        raise NstError(
            f"cannot fetch {url}",
            got=f"{self.attempts} attempts failed, the last: {last}",
            next=f"{by_hand(url)}; then the same command continues",
        )

    def _no_room(self, error: OSError) -> NstError:
        smaller = "GB" if self.cache_gb is None else f"less than {self.cache_gb:g}"
        return NstError(
            f"cannot write to the cache of remote shards, {self.folder}",
            got=error.strerror or error,
            next=f"make room (df -h {self.folder}), or remote.cache=<folder>, or remote.cache_gb=<{smaller}>; "
            "the same command continues",
        )

    @contextlib.contextmanager
    def _temporary(self, stem: str) -> Iterator[Path]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            begin(self.folder)
            handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{stem}-", dir=self.folder)
        except OSError as error:
            raise self._no_room(error) from error
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Holds the lock of one file; the kernel takes it back from a process that dies."""
        number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % LOCKS
        with self._lock_file(f".lock-{number:02d}") as lock:
            lock_file(lock, fcntl.LOCK_EX, Path(lock.name))
            yield

    def _lock_file(self, name: str) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return open(self.folder / name, "a")
        except OSError as error:
            raise self._no_room(error) from error

    def _make_room(self, keep: Path) -> None:
        """Deletes the shards used longest ago, but none in use, and what killed processes left; open files stay
        readable. What nst has not brought into a folder that was given for the cache is not its to delete."""
        with self._lock_file(".lock") as lock:
            lock_file(lock, fcntl.LOCK_EX, Path(lock.name))
            files = list(self.folder.glob("*.tar"))
            # nst's own folder held shards before it had a list
            found = sorted((file.stat().st_mtime, file) for file in (files if self.cache is None else ours(files)))
            total = sum(file.stat().st_size for _, file in found)
            free = shutil.disk_usage(self.folder).free
            most = CACHE_SHARE * (total + free) if self.cache_gb is None else self.cache_gb * 1e9
            for _, file in found:
                if total <= most:
                    break
                if file != keep and not _is_in_use(file):
                    total -= file.stat().st_size
                    file.unlink()
            for file in self.folder.glob(f"{TEMPORARY}*"):
                with contextlib.suppress(FileNotFoundError):
                    if file.stat().st_mtime < time.time() - LEFTOVER_S:
                        file.unlink()


class _InUse:
    """A file that no thread or process deletes from the cache while this object lives."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        lock_file(self._descriptor, fcntl.LOCK_SH, path)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _is_in_use(path: Path) -> bool:
    with open(path, "rb+") as file:
        try:
            lock_file(file, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            return True
    return False


def _settle(temporary: Path, path: Path) -> None:
    note(path)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())  # else a power cut could leave the name and the size without the bytes
    os.replace(temporary, path)


def _is_whole(path: Path, size: int) -> bool:
    # its sha256 was compared before it got this name
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _transfer_checked(url: str, target: Path, size: int, sha256: str, stall_s: float) -> None:
    transfer(url, target, stall_s)
    found = target.stat().st_size
    if found != size:
        raise TransferFailed(f"{found} of {size} bytes arrived")
    if sha256_file(target) != sha256:
        raise TransferFailed("its sha256 differs from the index")
