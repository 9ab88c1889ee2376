"""Finds the pictures in a folder, each once, and knows each by its content.

Links are followed. A folder that a link leads back to, or that is read already under its own name, is passed over, so
that no picture comes twice. A file is a picture by its suffix, or by its first bytes where its suffix is none that says
so (`.jfif`, or none). The identity of files is their content; what was hashed once is known again by size, times and
inode.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from nst.atomic import atomic_path
from nst.data.images import HEAD, BadImage, extension_of, is_heif
from nst.data.layout import NOTHING, Ignored, Passed, extension_by_name, is_hidden
from nst.errors import NstError
from nst.progress import track

KEPT_BYTES = 64 << 20  # hashes of fewer bytes are made anew each time, which is as quick
SETTLED_NS = 2_000_000_000  # a file changed less than this before it was hashed may change again unseen
NO_PICTURES = (".txt", ".json", ".csv", ".xml", ".md", ".html", ".parquet")  # not even looked into
LINKED_UP, LINKED_TWICE = "a link to a folder above it", "a link to a folder that is read already"
Status = tuple[int, int, int, int]  # size in bytes, times of change in ns of content and inode, inode
GONE: Status = (0, 0, 0, 0)  # of a link that leads nowhere


@dataclass
class Listing:
    """The pictures below a folder.

    Args:
        tolerant: what cannot be read is passed over, too.
        files: relative name with `/` → extension of its kind, and status; sorted by name.
        folders: relative names of all folders, sorted.
        passed: what was passed over, and why.
    """

    root: Path
    tolerant: bool = False
    files: dict[str, tuple[str, Status]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    passed: Passed = field(default_factory=Passed)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except NstError as error:
            if not self.tolerant:
                raise
            self.passed.add(str(error.got), name)


def list_pictures(
    root: Path, parts: Sequence[str] = ("",), ignored: Ignored = NOTHING, *, tolerant: bool = False
) -> Listing:
    """All pictures below `root`, or below some folders in it.

    Args:
        tolerant: see `Listing`.

    Raises:
        NstError: a folder or file that cannot be read. A link that leads nowhere is a picture that has GONE.
    """
    found = Listing(root, tolerant)
    read: set[tuple[int, int]] = set()
    links: list[str] = []  # read after the folders themselves, so that a folder's own name is the one that counts
    waiting = [part for part in parts if part == "" or (root / part).is_dir()]
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        with found.reading(folder):
            identity = _identity(root / folder)
            if folder and _leads_up(root / folder):
                found.passed.add(LINKED_UP, folder)
            elif identity in read:
                found.passed.add(LINKED_TWICE, folder)
            else:
                read.add(identity)
                _list_folder(found, folder, ignored, waiting, links)
    found.files = dict(sorted(found.files.items()))
    found.folders.sort()
    return found


def _leads_up(path: Path) -> bool:
    """Whether a folder's name is a link to one that holds it: to be read without an end."""
    if not path.is_symlink():
        return False
    target, beside = path.resolve(), path.parent.resolve()
    return target == beside or target in beside.parents


def _identity(path: Path) -> tuple[int, int]:
    with _readable(path):
        status = path.stat()
    return status.st_dev, status.st_ino


def _list_folder(found: Listing, folder: str, ignored: Ignored, waiting: list[str], links: list[str]) -> None:
    """Adds the files of one folder to `found`, and its folders to those that are still to be read."""
    try:
        entries = sorted(os.scandir(found.root / folder), key=lambda entry: entry.name)
    except OSError as error:
        raise NstError(f"cannot read {found.root / folder}", got=error.strerror) from error
    if folder:
        found.folders.append(folder)
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if is_hidden(entry.name):
            continue
        if ignored(name):
            found.passed.add("left out by data.source.ignore", name)
        elif _is_folder(entry):
            (links if entry.is_symlink() else waiting).append(name)
        else:
            with found.reading(name):
                _add_file(found, name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which is told as a file that cannot be read
        return False


def _add_file(found: Listing, name: str) -> None:
    path = found.root / name
    extension = extension_by_name(name)
    if extension is None and not name.lower().endswith(NO_PICTURES):
        head = _head(path)
        extension = extension_of(head)
        if extension is None and is_heif(head):
            found.passed.add("HEIC or AVIF, which is not read: convert them to JPEG", name)
            return
    if extension is None:
        found.passed.add(f"no picture ({Path(name).suffix.lower() or 'no suffix'})", name)
        return
    gone = not found.tolerant and _leads_nowhere(path)
    found.files[name] = (extension, GONE if gone else status_of(path))


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _head(path: Path) -> bytes:
    with _readable(path):
        if not path.is_file():  # a pipe or device would wait for a writer
            return b""
        with open(path, "rb") as file:
            return file.read(HEAD)


def status_of(path: Path) -> Status:
    """By which a file is known again.

    Raises:
        NstError: there is no such file.
    """
    with _readable(path):
        status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def known_status(path: Path) -> Status:
    """The same; GONE where there is no such file."""
    try:
        return status_of(path)
    except NstError:
        return GONE


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises NstError where what is done within cannot reach the file."""
    try:
        yield
    except OSError as error:
        next = "check the path; a dangling link can be removed"
        raise NstError(f"cannot read {path}", got=error.strerror, next=next) from error


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        BadImage: it is a link that leads nowhere.
        NstError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        if _leads_nowhere(path):
            raise BadImage("a link that leads nowhere", "mend or remove these links") from error
        raise NstError(f"cannot read {path}", got=error.strerror) from error


# ---- content ---------------------------------------------------------------------------------------


def contents_of(root: Path, files: Sequence[tuple[str, Status]], *, tolerant: bool = False) -> list[str]:
    """A hash of the content of every file, from names relative to `root` and status.

    What a kept file knows under the same status is not read again. What has GONE has an empty hash.

    Args:
        tolerant: a file that cannot be read has an empty hash.

    Raises:
        NstError: a file that cannot be read.
    """
    total = sum(status[0] for _, status in files)
    kept = _kept_at(root) if total >= KEPT_BYTES else None
    known = _read_kept(kept) if kept is not None else {}
    missing = [name for name, status in files if status != GONE and known.get(name, (None, ""))[0] != status]
    now = time.time_ns()
    hash_one = _hash_or_nothing if tolerant else _hash_file
    fresh: dict[str, str] = {}
    if missing:
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)) * 2)) as pool:
            hashed = pool.map(lambda name: hash_one(root / name), missing)
            shown = track(hashed, "reading pictures", len(missing)) if kept is not None else hashed
            fresh = dict(zip(missing, shown, strict=True))
    known |= dict.fromkeys((name for name, status in files if status == GONE), (GONE, ""))
    digests = [fresh[name] if name in fresh else known[name][1] for name, _ in files]
    if kept is not None and fresh:
        rows = [(name, status, digest) for (name, status), digest in zip(files, digests, strict=True)
                if digest and max(status[1:3]) < now - SETTLED_NS]  # fmt: skip
        with contextlib.suppress(OSError, NstError):  # without it the next run reads the files again
            _write_kept(kept, rows)
    return digests


def _hash_or_nothing(path: Path) -> str:
    try:
        return _hash_file(path)
    except NstError:
        return ""


def _hash_file(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with _readable(path), open(path, "rb") as file:
        while block := file.read(16 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _kept_at(root: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "nst" / "contents" / f"{xxhash.xxh3_128_hexdigest(os.fsencode(root.resolve()))}.parquet"


def _read_kept(path: Path) -> dict[str, tuple[Status, str]]:
    """Status and hash by name; nothing where there is no such file, or it is damaged."""
    try:
        columns = pq.read_table(path, page_checksum_verification=True).to_pydict()
        status = zip(columns["size"], columns["modified"], columns["changed"], columns["inode"], strict=True)
        names = [os.fsdecode(name) for name in columns["name"]]
        return dict(zip(names, zip(status, columns["digest"], strict=True), strict=True))
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return {}


def _write_kept(path: Path, rows: Sequence[tuple[str, Status, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({
        "name": pa.array([os.fsencode(name) for name, _, _ in rows], pa.binary()),
        **{column: pa.array([status[place] for _, status, _ in rows], pa.uint64())
           for place, column in enumerate(("size", "modified", "changed", "inode"))},
        "digest": pa.array([digest for _, _, digest in rows], pa.string()),
    })  # fmt: skip
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
