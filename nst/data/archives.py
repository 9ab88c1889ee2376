"""Images inside tar and zip archives, read where they lie: nothing is extracted to folders.

A compressed tar is unpacked once, whole, into one unnamed temporary file that stays in memory up to a limit. That
checks its checksum, and from then on every image is one seek away, so a data set can be shuffled exactly however it
was packed. A link in a tar is the file of the same tar that it names, as tar writes the second name of a file.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nst.data.arrangement import label_by_folder
from nst.data.images import HEAD, extension_of
from nst.data.layout import Contents, Ignored, Passed, extension_by_name, is_hidden, split_of, strip_common_folder
from nst.data.tar_links import followed, link_target
from nst.data.tars import LONGEST_END, is_end
from nst.errors import NstError
from nst.untrusted import is_inside

MEMORY_BYTES = 1 << 30  # of unpacked archives; more goes to the disk
_ZIP_UTF8 = 0x800  # of the flags of a zip's file: its name is UTF-8
Read = Callable[[int], bytes]  # at most so many bytes of a file; -1: all of it


@dataclass
class Archive:
    """The files of one archive: name → how it is read; extensions of the pictures; folders; what was passed over."""

    path: Path
    files: dict[str, Read] = field(default_factory=dict)
    extensions: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    passed: Passed = field(default_factory=Passed)

    @property
    def pictures(self) -> list[str]:
        """Their names, in the archive's order."""
        return [name for name in self.files if name in self.extensions]


def scan_archives(paths: Sequence[Path], labeled: bool | None, ignore: Sequence[str] = ()) -> Contents:
    """The images of one or several archives, in the archives' order.

    Args:
        ignore: names or patterns of files and folders that are left out, below the folder that wraps everything.

    Raises:
        NstError: an archive that is cut short or damaged, or what label_by_folder refuses.
    """
    names: list[str] = []
    origins: list[str] = []
    extensions: list[str] = []
    folders: list[str] = []
    readers: list[Read] = []
    notes: list[str] = []
    ignored = Ignored(ignore)
    for path in paths:
        found = open_archive(path, MEMORY_BYTES // len(paths))
        members = found.pictures
        inside, wrap = strip_common_folder(members)
        stem = path.name.split(".")[0]
        if len(paths) > 1 and split_of(f"{stem}/x") and not all(map(split_of, inside)):
            inside = [f"{stem}/{name}" for name in inside]
        for name, member in zip(inside, members, strict=True):
            if ignored.with_outer(name):
                found.passed.add("left out by data.source.ignore", name)
                continue
            names.append(name)
            origins.append(f"{path.name}/{member}")
            extensions.append(found.extensions[member])
            readers.append(found.files[member])
        inner = (folder.removeprefix(wrap) for folder in sorted(found.folders) if folder.startswith(wrap))
        folders += [folder for folder in inner if folder and not ignored.with_outer(folder)]
        notes += [f"everything in {path.name} is read from {wrap}"] if wrap else []
        notes += found.passed.lines()
    classes, entries = label_by_folder(names, labeled, "tar", origins, extensions=extensions, folders=folders)
    return Contents(classes, entries, lambda position: readers[position](-1), (*notes, *ignored.lines()))


def open_archive(path: Path, memory_bytes: int = MEMORY_BYTES) -> Archive:
    """What is in a tar or zip.

    Raises:
        NstError: it is cut short, damaged or encrypted, or a name leads out of it.
    """
    found = Archive(path)
    (_list_zip if _is_zip(path) else _list_tar)(found, memory_bytes)
    for name, read in found.files.items():
        if is_hidden(name):
            continue
        if (extension := extension_by_name(name) or extension_of(read(HEAD))) is not None:
            found.extensions[name] = extension
        else:
            suffix = posixpath.splitext(name)[1].lower() or "no suffix"
            found.passed.add(f"no picture ({suffix})", name)
    return found


def _is_zip(path: Path) -> bool:
    """By its first bytes, since the last file of a tar may be a zip; a zip that unpacks itself begins otherwise."""
    with open(path, "rb") as file:
        if file.read(4) in (b"PK\3\4", b"PK\5\6"):  # the second: of an empty one
            return True
    return zipfile.is_zipfile(path) and not tarfile.is_tarfile(path)


def _inside(found: Archive, name: str) -> str:
    """The name, which must not lead out of the archive."""
    name = name.removeprefix("./")
    if not is_hidden(name.rpartition("/")[2]) and not is_inside(name):
        raise NstError(
            f"{found.path} holds a file whose name leads out of it",
            got=repr(name)[:200],
            valid="relative names, without ..",
            next="pack it again: tar -C <folder> -cf <archive>.tar .",
        )
    return name


# ---- zip --------------------------------------------------------------------------------------------


def _list_zip(found: Archive, _: int) -> None:
    """Adds the files of a zip; every one is checked against its checksum when it is read.

    Raises:
        NstError: it is damaged or encrypted, or a name leads out of it.
    """
    lock = threading.Lock()
    try:
        opened = _Zips(found.path)
        archive = opened()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(found.path, error, "zip") from error
    for member in archive.infolist():
        name = _zip_name(member)
        if member.flag_bits & 1:
            raise NstError(
                f"{found.path} is encrypted",
                got=name,
                next="unpack it with its password: unzip, then data=folder",
            )
        if member.is_dir():
            found.folders.update([] if is_hidden(name) else [name.rstrip("/")])
        else:
            found.files[_inside(found, name)] = _zip_reader(opened, member, lock)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name, which `zip` on Linux and macOS writes in UTF-8 without the mark that says so."""
    if member.flag_bits & _ZIP_UTF8:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()  # as zipfile has read it
    except UnicodeError:
        return member.filename


@dataclass
class _Zips:
    """A zip as each process opens it: those that were forked must not share the place in the file."""

    path: Path
    _open: dict[int, zipfile.ZipFile] = field(default_factory=dict)

    def __call__(self) -> zipfile.ZipFile:
        if os.getpid() not in self._open:
            self._open[os.getpid()] = zipfile.ZipFile(self.path)  # lives as long as the source
        return self._open[os.getpid()]


def _zip_reader(opened: _Zips, member: zipfile.ZipInfo, lock: threading.Lock) -> Read:
    def read(count: int) -> bytes:
        try:
            with lock, opened().open(member) as file:
                return file.read(count if count >= 0 else member.file_size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, lzma.LZMAError) as error:
            raise NstError(
                f"cannot read {member.filename} in {opened.path}", got=error, next="copy or download the zip again"
            ) from error

    return read


# ---- tar --------------------------------------------------------------------------------------------


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


def _list_tar(found: Archive, memory_bytes: int) -> None:
    """Adds the files of a tar in its order, links as the files that they name.

    Raises:
        NstError: it is damaged, or a name leads out of it.
    """
    path, file, lock = found.path, _open_tar(found.path, memory_bytes), threading.Lock()
    files: list[tuple[str, int, int]] = []  # in their order, links among them
    links: dict[int, str] = {}
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # a million TarInfo objects are a gigabyte
                name = member.name.removeprefix("./")
                if member.isdir():
                    found.folders.update([] if is_hidden(name) else [name])
                elif member.isreg():
                    files.append((_inside(found, name), member.offset_data, member.size))
                elif member.islnk() or member.issym():
                    links[len(files)] = link_target(name, member.linkname, symbolic=member.issym())
                    files.append((_inside(found, name), 0, 0))
            end = archive.offset
    except tarfile.TarError as error:
        raise _damaged(path, error) from error
    left, lost = followed(files, links)
    found.files.update((name, _tar_reader(file, lock, offset, length)) for name, offset, length in left)
    for place in lost:
        if not is_hidden(name := files[place][0]):
            found.passed.add("a link to what the archive does not hold", f"{name} -> {links[place]}")
    size = file.seek(0, 2)
    file.seek(end)
    rest = file.read(LONGEST_END + 1)
    # tarfile takes a broken header for the end, and zeros wherever they are
    if rest[: tarfile.BLOCKSIZE].count(b"\0") < tarfile.BLOCKSIZE:
        raise _damaged(path, f"no end mark at byte {end}")
    if not is_end(rest, size):
        raise _damaged(path, f"zeros at byte {end} of {size}, and more behind them than the end of a tar has")


def _tar_reader(file: IO[bytes], lock: threading.Lock, offset: int, size: int) -> Read:
    def read(count: int) -> bytes:
        wanted = size if count < 0 else min(size, count)
        if getattr(file, "_rolled", True):  # on the disk, where forked processes share the place in the file
            return os.pread(file.fileno(), wanted, offset)
        with lock:
            file.seek(offset)
            return file.read(wanted)

    return read


def _damaged(path: Path, reason: object, kind: str = "tar") -> NstError:
    return NstError(f"{path} is not a whole {kind} archive", got=reason, next="copy or download it again")
