"""Files that are whole or not there: written beside their name, synced and renamed; and their sha256."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nst import leftovers, written
from nst.documents import json_text, yaml_text
from nst.errors import NstError, room_for
from nst.shown import kept


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed to `path`, on error removed.

    Raises:
        NstError: the disk is full, the folder cannot be written, or holds such a file that is not nst's.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = leftovers.temporary(path)
    try:
        if not written.note(path):
            leftovers.sweep_beside(path)
        mode = _new_mode(temporary)
        yield temporary
        if temporary.stat().st_mode != mode:  # some libraries write files that nobody else may read
            temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary), str(path)) or Path(error.filename).name == written.LIST:
            raise NstError(
                f"cannot write {path}",
                got=error.strerror or error,
                next=room_for(error, shlex.quote(str(path.parent))),
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _new_mode(path: Path) -> int:
    """The mode of a new file here, by umask and folder."""
    path.touch()
    mode = path.stat().st_mode
    path.unlink()
    return mode


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder that holds the name is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Mapping[str, Any], *, sealed: bool = True) -> None:
    """`sealed=False`: for other programs, without our seal."""
    write_text(path, json_text(value, sealed=sealed))


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table of the named columns; what else a row has is left out, and what it has not is empty."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_config(path: Path | str, config: Mapping[str, Any]) -> None:
    """A config.yaml; secrets are left out of it."""
    write_text(path, yaml_text(yaml.safe_dump(kept(dict(config)), sort_keys=False)))


def sha256_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path | str) -> str:
    """As `sha256_file`, but a file of the same size, times and inode is not read again by this process."""
    path = Path(path).resolve()
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    if key not in _KNOWN:
        _KNOWN[key] = sha256_file(path)
    return _KNOWN[key]


_KNOWN: dict[tuple[Path, int, int, int, int], str] = {}
