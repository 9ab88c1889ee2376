"""Images inside tar archives, read where they lie: nothing is extracted to folders.

A compressed archive is unpacked once, whole, into one unnamed temporary file that stays in memory up to a limit. That
checks its checksum, and from then on every image is one seek away, so a data set can be shuffled exactly however it
was packed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from nst.data.layout import Contents, is_image, label_by_folder, split_of, strip_common_folder
from nst.data.tars import LONGEST_END, is_end
from nst.errors import NstError
from nst.untrusted import is_inside

MEMORY_BYTES = 1 << 30  # of unpacked archives; more goes to the disk


def scan_tars(paths: Sequence[Path], labeled: bool | None) -> Contents:
    """The images of one or several archives, in the archives' order.

    Raises:
        NstError: an archive that is cut short or damaged, or what label_by_folder refuses.
    """
    names: list[str] = []
    origins: list[str] = []
    places: list[tuple[IO[bytes], int, int]] = []
    for path in paths:
        file = _open_tar(path, MEMORY_BYTES // len(paths))
        members = _members(path, file)
        inside = strip_common_folder([name for name, _, _ in members])
        stem = path.name.split(".")[0]
        if len(paths) > 1 and split_of(f"{stem}/x") and not all(map(split_of, inside)):
            inside = [f"{stem}/{name}" for name in inside]
        names += inside
        origins += [f"{path.name}/{name}" for name, _, _ in members]
        places += [(file, offset, size) for _, offset, size in members]
    classes, entries = label_by_folder(names, labeled, "tar", origins)
    lock = threading.Lock()

    def read(position: int) -> bytes:
        file, offset, size = places[position]
        with lock:
            file.seek(offset)
            return file.read(size)

    return Contents(classes, entries, read)


def _open_tar(path: Path, memory_bytes: int) -> IO[bytes]:
    """A seekable uncompressed tar; what was compressed is unpacked whole, which also checks its checksum."""
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    file = open(path, "rb")  # noqa: SIM115  lives as long as the source
    opener = openers.get(file.read(2))
    if opener is None:
        return file
    file.close()
    spool = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115
    try:
        with opener(path) as packed:
            shutil.copyfileobj(packed, spool, 1 << 20)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    except OSError as error:  # bz2 has no exception of its own
        raise NstError(
            f"cannot unpack {path}",
            got=error,
            next=f"a damaged file, or no room: df -h {tempfile.gettempdir()}",
        ) from error
    return spool


def _members(path: Path, file: IO[bytes]) -> list[tuple[str, int, int]]:
    """Name, byte offset and size of every image, in the archive's order; a link counts as an empty file.

    Raises:
        NstError: it is damaged, or a name leads out of it.
    """
    found = []
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # a million TarInfo objects are a gigabyte
                name = member.name.removeprefix("./")
                if is_image(name.rpartition("/")[2]) and not is_inside(name):
                    raise _leads_out(path, name)
                if is_image(name) and not member.isdir():
                    found.append((name, member.offset_data, member.size if member.isreg() else 0))
            end = archive.offset
    except tarfile.TarError as error:
        raise _damaged(path, error) from error
    size = file.seek(0, 2)
    file.seek(end)
    rest = file.read(LONGEST_END + 1)
    # tarfile takes a broken header for the end, and zeros wherever they are
    if rest[: tarfile.BLOCKSIZE].count(b"\0") < tarfile.BLOCKSIZE:
        raise _damaged(path, f"no end mark at byte {end}")
    if not is_end(rest, size):
        raise _damaged(path, f"zeros at byte {end} of {size}, and more behind them than the end of a tar has")
    return found


def _leads_out(path: Path, name: str) -> NstError:
    return NstError(
        f"{path} holds a file whose name leads out of it",
        got=repr(name)[:200],
        valid="relative names, without ..",
        next="pack it again: tar -C <folder> -cf <archive>.tar .",
    )


def _damaged(path: Path, reason: object) -> NstError:
    return NstError(f"{path} is not a whole tar archive", got=reason, next="copy or download it again")
