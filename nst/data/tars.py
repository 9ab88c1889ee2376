"""Random access to the samples of a WebDataset tar, without unpacking it.

The headers are walked once by our own code, faster than tarfile does it, and a sample is then one or two `pread`
calls. Grouping follows WebDataset: the key is the path up to the first dot of the file name, neighbours with one key
form a sample. A tar that was cut short gives its whole samples and says so.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from nst.data.images import IMAGE_EXTENSIONS
from nst.data.tar_links import followed, link_target
from nst.errors import NstError
from nst.untrusted import is_inside

BLOCK = 512
NUL = b"\0"
RECORD = 20 * BLOCK  # what a tar is padded to, unless its writer was asked for other records
LARGEST_RECORD = 1 << 20
END_MARK = 2 * BLOCK
LONGEST_END = LARGEST_RECORD + END_MARK
FILE_TYPES, LINK_TYPES = (b"0", b"\0", b"7"), (b"1", b"2")  # regular, in old tars, contiguous; hard, symbolic
Member = tuple[str, int, int]  # extension, byte offset, size in bytes


@dataclass(frozen=True, slots=True)
class _Walk:
    keys: list[str]
    members: list[list[Member]]
    truncated: bool
    links: int


class TarReader:
    """Samples of one tar by position; `read(i)` gives (key, {extension: bytes}).

    Safe to pickle and to use after a fork: a copy opens the file again on first use, and reads carry their own offset.
    `truncated` is True when the file lacks its end, or has zeros or more samples behind what looks like it; the sample
    that was cut is then not listed. A link is the file of the tar that it names; `links` counts those that name none,
    which are passed over.

    Args:
        without: positions of samples that are passed over, as if the tar did not hold them.
        prefix: stands before every key, with a slash.

    Raises:
        NstError: no such file, not a tar, damaged in the middle, or a name leads out of it.
    """

    def __init__(self, path: Path | str, without: Collection[int] = (), prefix: str = "") -> None:
        self.path = Path(path)
        self._descriptor: int | None = None
        walk, hidden, begin = _walk(self.path), set(without), f"{prefix}/" if prefix else ""
        shown = [position for position in range(len(walk.keys)) if position not in hidden]
        self.keys = [begin + walk.keys[position] for position in shown]
        self._members = [walk.members[position] for position in shown]
        self.truncated, self.links = walk.truncated, walk.links

    def __len__(self) -> int:
        return len(self.keys)

    def extensions(self, position: int) -> tuple[str, ...]:
        """Extensions of one sample, in the order of the file."""
        return tuple(extension for extension, _, _ in self._members[position])

    def read(self, position: int, only: Collection[str] | None = None) -> tuple[str, dict[str, bytes]]:
        """Key and content of sample `position`, of its files with the extensions in `only` or of all.

        Raises:
            NstError: the file has become shorter since it was indexed.
        """
        descriptor = self.open()
        content = {}
        for extension, offset, size in self._members[position]:
            if only is not None and extension not in only:
                continue
            data = os.pread(descriptor, size, offset)
            if len(data) != size:
                raise NstError(
                    f"{self.path} has become shorter",
                    got=f"{len(data)} of {size} bytes at {offset}",
                    next="copy the shard again",
                )
            content[extension] = data
        return self.keys[position], content

    def __iter__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        return map(self.read, range(len(self)))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def open(self) -> int:
        """File descriptor for reading; an open tar stays readable when its file is deleted."""
        if self._descriptor is None:
            self._descriptor = _open(self.path)
        return self._descriptor

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NstError(f"cannot open shard {path}", got=error.strerror) from error


def _walk(path: Path) -> _Walk:
    descriptor = _open(path)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return _Walk([], [], truncated=True, links=0)
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as data:
            files, truncated, links = _list_members(path, data, size)
    finally:
        os.close(descriptor)
    return _group(path, files, truncated, links)


def _list_members(path: Path, data: mmap.mmap, size: int) -> tuple[list[tuple[str, int, int]], bool, int]:
    """(name, offset, size) of the files, a cut one last with size -1; whether the end is missing; links to nothing."""
    files: list[tuple[str, int, int]] = []
    links: dict[int, str] = {}  # place among the files → what is named
    position = 0
    long_name: str | None = None
    long_link: str | None = None
    while position + BLOCK <= size:
        header = data[position : position + BLOCK]
        if header.count(NUL) == BLOCK:
            left, lost = followed(files, links)
            return left, not is_end(data[position : position + LONGEST_END + 1], size), len(lost)
        _check_header(path, header, position)
        length = _length(path, header, position)
        start = position + BLOCK
        whole = start + length <= size
        kind = header[156:157]
        if kind in (b"L", b"K", b"x") and whole:
            extended = _extended_names(kind, data[start : start + length])
            long_name, long_link = extended.get("path", long_name), extended.get("linkpath", long_link)
        elif kind in FILE_TYPES or (kind in (b"L", b"x") and not whole):
            files.append((long_name or _name(header), start, length if whole else -1))
            long_name = long_link = None
        elif kind in LINK_TYPES:
            name, target = long_name or _name(header), long_link or _text(header[157:257])
            links[len(files)] = link_target(name, target, symbolic=kind == b"2")
            files.append((name, start, 0))
            long_name = long_link = None
        position = start + -(-length // BLOCK) * BLOCK
    left, lost = followed(files, links)
    return left, True, len(lost)


def is_end(rest: bytes, size: int) -> bool:
    """Whether zeros end a tar of `size` bytes, or only stand where a copy that broke off has none of its bytes.

    Args:
        rest: from the first block of zeros on, up to LONGEST_END + 1 bytes.
    """
    # whole records make a whole file, so the size tells which ones; those of a power of two are in use beside RECORD
    record = max(RECORD, min(size & -size, LARGEST_RECORD))
    return len(rest) <= record + END_MARK and rest.count(NUL) == len(rest)


def _length(path: Path, header: bytes, position: int) -> int:
    try:
        return _number(header[124:136])
    except ValueError:
        got = "a size that is no number"
        raise NstError(f"{path} is damaged at byte {position}", got=got, next="copy it again") from None


def _check_header(path: Path, header: bytes, position: int) -> None:
    expected = sum(header) - sum(header[148:156]) + 8 * 0x20  # the checksum field counts as eight spaces
    try:
        found = _number(header[148:156])
    except ValueError:
        found = -1
    if found == expected:
        return
    if position == 0:
        packed = header[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7")
        raise NstError(
            f"{path} is not a tar",
            got="a compressed file" if packed else f"bytes {header[:8]!r}",
            valid="an uncompressed tar, as WebDataset writes it",
            next="unpack it: gunzip" if packed else None,
        )
    got = "a header whose checksum is wrong"
    raise NstError(f"{path} is damaged at byte {position}", got=got, next="copy it again")


def _number(field: bytes) -> int:
    """Octal text, or base 256 when the first bit is set (sizes from 8 GiB)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(NUL, 1)[0].strip() or b"0", 8)


def _name(header: bytes) -> str:
    if header[257:263] == b"ustar\0" and header[345] != 0:  # POSIX; GNU tars keep other things there
        return f"{_text(header[345:500])}/{_text(header[:100])}"
    return _text(header[:100])


def _text(field: bytes) -> str:
    return field.split(NUL, 1)[0].decode("utf-8", "surrogateescape")


def _extended_names(kind: bytes, data: bytes) -> dict[str, str]:
    """`path` and `linkpath` of the next member, from a GNU `L` or `K` block or the records of a pax header."""
    if kind != b"x":
        return {"path" if kind == b"L" else "linkpath": _text(data)}
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or int(length) == 0:
            break
        name, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if name in (b"path", b"linkpath"):
            found[name.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return found


def _group(path: Path, files: list[tuple[str, int, int]], truncated: bool, links: int) -> _Walk:
    keys: list[str] = []
    members: list[list[Member]] = []
    seen: set[str] = set()
    for name, offset, length in files:
        folder, _, file = name.removeprefix("./").rpartition("/")
        stem, dot, extension = file.partition(".")
        if not dot or not stem or name.startswith("__"):  # WebDataset's own rules: no key, or metadata
            continue
        key = f"{folder}/{stem}" if folder else stem
        if not is_inside(name):
            raise NstError(
                f"{path} holds a file whose name leads out of it",
                got=repr(name)[:200],
                valid="relative names, without ..",
                next="have it from whom you trust, or pack it again: tar -C <folder> -cf <name>.tar .",
            )
        extension = extension.lower()
        if not keys or keys[-1] != key or extension in seen:  # a repeated extension starts another sample: verify tells
            keys.append(key)
            members.append([])
            seen = set()
        seen.add(extension)
        members[-1].append((extension, offset, length))
    if truncated and members and _is_cut(members):
        keys.pop()
        members.pop()
    return _Walk(keys, members, truncated, links)


def _is_cut(members: list[list[Member]]) -> bool:
    """Whether the last sample lost a member's bytes, members that the first sample has, or its image."""
    last = {extension for extension, _, _ in members[-1]}
    first = {extension for extension, _, _ in members[0]}
    return any(length < 0 for _, _, length in members[-1]) or last < first or last.isdisjoint(IMAGE_EXTENSIONS)
