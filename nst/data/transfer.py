"""One attempt to bring a file here from `http(s)://`, `s3://`, `gs://`, what else fsspec knows, or `pipe:<command>`.

    s3://, gs://                   by Arrow's clients (`nst.data.buckets`)
    http(s)://, file://, ...       by fsspec, which asks for a package of its own for some protocols
    pipe:ssh host cat /data/{}     {} stands for the file's name; without it `/<name>` is put behind the command

Every way to fail, of every protocol, becomes one of two exceptions: another attempt may help, or it will not. Only a
full local disk stays what it is.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, TypeGuard

from nst.data import buckets
from nst.data.buckets import BUCKETS, NOT_FOUND
from nst.errors import NO_ROOM, NstError

PIPE = "pipe:"
HARMLESS = tuple(f"{name}://" for name in ("http", "https", "s3", "gs", "gcs", "hf", "az", "abfs", "ftp", "sftp"))
CHUNK_BYTES = 1 << 20
STALL_S = 60.0


class TransferFailed(Exception):
    """One attempt to fetch a file failed; another one may not."""


class NotThere(TransferFailed):
    """Another attempt would fail in the same way."""


def is_remote(place: object) -> TypeGuard[str]:
    """Whether a folder is named by an address instead of a path."""
    return isinstance(place, str) and (place.startswith(PIPE) or "://" in place)


def runs_nothing(address: str) -> bool:
    """Whether a file may name this address: fetching from it starts no command and reads nothing of this machine.

    fsspec's chains (`simplecache::file:///x`) may do anything, whatever they begin with.
    """
    return address.startswith(HARMLESS) and "::" not in address


def join(place: Path | str, name: str) -> str:
    """Address of a file in a remote folder. The name comes from an index, so no shell must read it."""
    place = str(place)
    if not place.startswith(PIPE):
        return f"{place.rstrip('/')}/{name}"
    quoted = shlex.quote(name)
    return place.replace("{}", quoted) if "{}" in place else f"{place.rstrip('/')}/{quoted}"


def list_tars(place: str) -> list[str]:
    """Names of the tars in a remote folder, sorted.

    Raises:
        NstError: the folder cannot be listed.
    """
    if place.startswith(PIPE):
        raise NstError(
            "a command does not list a folder", got=place, valid="http(s)://, s3://, gs:// or a local folder"
        )
    try:
        if place.startswith(BUCKETS):
            with tempfile.NamedTemporaryFile() as file:
                _transfer_pipe(_bucket_command("list", place), Path(file.name), STALL_S)
                return sorted(name for name in Path(file.name).read_text().splitlines() if name.endswith(".tar"))
        files, path = _file_system(place, STALL_S)
        return sorted(str(found).rsplit("/", 1)[-1] for found in files.glob(f"{path.rstrip('/')}/*.tar"))
    except Exception as error:  # every protocol's library has exceptions of its own
        raise NstError(f"cannot list {place}", got=_in_words(error), next=by_hand(place)) from error


def transfer(url: str, target: Path, stall_s: float) -> None:
    """One attempt to copy what lies at `url` to the file `target`.

    Raises:
        TransferFailed: it did not work; NotThere, if it never will.
        OSError: the local disk is full.
    """
    try:
        if url.startswith(PIPE):
            _transfer_pipe(url.removeprefix(PIPE), target, stall_s)
        elif url.startswith(BUCKETS):
            _transfer_pipe(_bucket_command("cat", url), target, stall_s)
        else:
            files, path = _file_system(url, stall_s)
            files.get_file(path, str(target))
    except (FileNotFoundError, PermissionError, ImportError) as error:
        raise NotThere(_in_words(error)) from error
    except TransferFailed:
        raise
    except Exception as error:  # every protocol's library has exceptions of its own
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise TransferFailed(_in_words(error)) from error


def _transfer_pipe(command: str, target: Path, stall_s: float) -> None:
    """Runs `command` in a shell; its output is the file, and it must end with 0."""
    with (
        tempfile.TemporaryFile() as errors,
        open(target, "wb") as file,
        subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process,
    ):
        assert process.stdout is not None
        try:
            while _comes(process.stdout, stall_s) and (data := os.read(process.stdout.fileno(), CHUNK_BYTES)):
                file.write(data)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the shell and what it has started
            raise
        code = process.wait()
        errors.seek(0)
        said = errors.read()[-300:].decode(errors="replace").strip()
    if code == NOT_FOUND:
        raise NotThere(f"not found{': ' + said if said else ''}")
    if code:
        raise TransferFailed(f"the command ended with {code}{': ' + said if said else ''}")


def _bucket_command(action: str, address: str) -> str:
    return shlex.join([sys.executable, buckets.__file__, action, address])


def _comes(stream: IO[bytes], stall_s: float) -> bool:
    """True when there is something to read, the end included."""
    if not select.select([stream], [], [], stall_s)[0]:
        raise TransferFailed(f"nothing came for {stall_s:g} s")
    return True


def _file_system(url: str, stall_s: float) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # aiohttp would end any transfer after five minutes; what counts is that something still comes
        timeout = ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    return url_to_fs(url, **options)


def _in_words(error: Exception) -> str:
    if isinstance(error, ImportError):
        return str(error)  # fsspec says which package to install
    if isinstance(error, FileNotFoundError):
        return "not found"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def by_hand(url: str) -> str:
    if url.startswith(PIPE):
        return f"run it by hand: {url.removeprefix(PIPE)} | wc -c"
    if url.startswith("http"):
        return f"see whether it is reachable: curl -I {url}"
    return "see whether it is there and your credentials may read it"
