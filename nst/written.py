"""What nst has written in a folder: the list by which it tells its own files from everybody else's.

    .nst_files    a name per line, as JSON, relative to the folder; `x/` is all below x, `x/@` a symbolic link

A name is noted and synced before its file appears. So the list names at least what is there, whenever a kill comes,
and what it does not name is somebody else's: never deleted and never replaced. A run inside another one
(gen0/predictions) has a list of its own, which the outer list names. Runs from before there were lists (a started.json
without one) are written to as ever; nothing in them is deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nst.errors import NstError
from nst.shown import some

LIST = ".nst_files"
STARTED = "started.json"
EXPERIMENTS = f"gen0/{LIST}"  # what nst iterate has begun has it
FOLDER, LINK = "/", "/@"  # kinds of entries, behind the name; a file has nothing there
FIRST = ("DONE", "result.json")  # of a run's files: the first to be deleted; started.json and the list go last
HELD = (".lock", ".pulse")  # of a run that is at work
TEMPORARY = re.compile(r"\.(?P<name>.+)\.tmp-(?P<pid>\d+)(?:-(?P<machine>\w+))?")
SHOWN = 8


# ---- the list ------------------------------------------------------------------------------------------------


def begin(folder: Path, *names: str, own: bool = False) -> None:
    """Lets a folder have a list, and notes these files, which are about to be written there.

    Args:
        own: of its own, also where a folder above has one: a run's.

    Raises:
        NstError: a file is there that nst has not written; then nothing was written.
    """
    if not _is_listed(folder, own):
        require_free(folder, names, own=own)
        folder.mkdir(parents=True, exist_ok=True)
        if (outer := _home(folder)) is not None and (entry := _entry(outer, folder / LIST)) not in _read(outer):
            _append(outer, [entry])
        _begin_list(folder, outer)
    note(*(folder / name for name in names))


def _begin_list(folder: Path, outer: Path | None) -> None:
    """Makes the list of a folder: empty, or of what the list above has named of an experiment so far."""
    # of an experiment: what a list above says of other folders may be of some that are long gone
    if outer is None or not os.path.exists(folder / EXPERIMENTS):
        (folder / LIST).touch()
        return
    above = f"{Path(os.path.abspath(folder)).relative_to(outer).as_posix()}/"
    inner = [name.removeprefix(above) for name in _names(outer) if name.startswith(above)]
    new = folder / f".{LIST}.tmp-{os.getpid()}"  # whole, or a kill or a full disk would leave it without some names
    new.write_bytes(b"".join(_line(name) for name in inner if name not in ("", LINK[1:], LIST)))
    os.replace(new, folder / LIST)


def require_free(folder: Path, names: Iterable[str], *, own: bool = False) -> None:
    """Raises NstError where a folder nst has not written to yet holds files of these names; `own` as of `begin`."""
    if not _is_listed(folder, own):
        there = [folder / name for name in names if os.path.lexists(folder / name)]
        known = ours(there) if os.path.exists(folder / EXPERIMENTS) else ()
        _refuse([path for path in there if path not in known])


def note(*paths: Path, kind: str = "", made: bool = False) -> bool:
    """Notes what is about to be written, each in the nearest list above it; returns whether there is one for all.

    Args:
        made: it has been written already, by a library that chose its name.

    Raises:
        NstError: a file or link is there that nst has not written.
        OSError: the list cannot be written.
    """
    # looked at before the list is read: another process may note and write one of them meanwhile
    there = set() if made else {path for path in paths if os.path.lexists(path)}
    found: dict[Path, list[Path]] = defaultdict(list)
    homes = [_home(path) for path in paths]
    for path, home in zip(paths, homes, strict=True):
        if home is not None:
            found[home].append(path)
    for home, own in found.items():
        listed = _read(home)
        new = [path for path in own if _entry(home, path, kind) not in listed]
        _refuse([path for path in own if path in there and (path in new or path.is_symlink())])
        _append(home, [_entry(home, path, kind) for path in new])
    return None not in homes


def ours(paths: Sequence[Path], kind: str = "") -> list[Path]:
    """Those of these files, or links (`LINK`), that nst has made, by the lists above them."""
    homes = [(path, home) for path in paths if (home := _home(path)) is not None]
    lists = {home: _read(home) for home in {home for _, home in homes}}
    return [path for path, home in homes if _entry(home, path, kind) in lists[home]]


def listed_below(folder: Path) -> Iterator[Path]:
    """What the nearest list names in a folder and below, whether it is there or not."""
    below = Path(os.path.abspath(folder))
    if (home := _home(below / LIST)) is not None:
        yield from (path for name in _names(home) if (path := home / name).is_relative_to(below))


def unlink(*paths: Path) -> None:
    """Deletes those of these files that are there and that nst has written."""
    for path in ours([path for path in paths if path.is_file() and not path.is_symlink()]):
        path.unlink(missing_ok=True)


def _home(path: Path) -> Path | None:
    """The nearest folder above with a list; None where there is none, or a run from before there were lists."""
    for folder in Path(os.path.abspath(path)).parents:
        if os.path.exists(folder / LIST):
            return folder
        if _is_old(folder):
            return None
    return None


def _is_listed(folder: Path, own: bool) -> bool:
    """Whether a folder needs no list: it has one, or is a run from before there were lists, or lies in such a one."""
    folders = [folder] if own else [folder, *Path(os.path.abspath(folder)).parents]
    return any(os.path.exists(each / LIST) or _is_old(each) for each in folders)


def _is_old(folder: Path) -> bool:
    """Whether it is a run, or an experiment with its generations, from before there were lists."""
    runs = (folder, folder / "gen0")
    return any(os.path.exists(run / STARTED) and not os.path.exists(run / LIST) for run in runs)


def _entry(home: Path, path: Path, kind: str = "") -> bytes:
    return _line(Path(os.path.abspath(path)).relative_to(home).as_posix() + kind)


def _line(name: str) -> bytes:
    # the line breaks before it: a line that was cut by the end of the disk does not spoil the next one
    return f"\n{json.dumps(name)}\n".encode()


def _read(home: Path) -> bytes:
    try:
        return (home / LIST).read_bytes()
    except FileNotFoundError:
        return b""


def _append(home: Path, entries: Sequence[bytes]) -> None:
    if not entries:
        return
    descriptor = os.open(home / LIST, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        data = b"".join(entries)
        while data:  # one write, except at the end of a disk; appended, so several processes do not mix
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(home: Path) -> Iterator[str]:
    """The entries of a list; a line that is none is left out."""
    for line in _read(home).splitlines():
        with contextlib.suppress(ValueError):
            name = json.loads(line)
            if isinstance(name, str):
                yield name


def _refuse(paths: Sequence[Path]) -> None:
    if paths:
        raise NstError(
            f"{told(list(map(str, paths)))} would be replaced, and nst has not written "
            + ("it" if len(paths) == 1 else "them"),
            valid="nst replaces only what is in its own list (.nst_files)",
            next="move it away, or choose another folder for what nst writes",
        )


# ---- what a folder holds ---------------------------------------------------------------------------------------


@dataclass
class FolderContents:
    """What nst has written in a folder, and all else.

    Args:
        ours: names of files and links, relative to the folder; those of runs inside it too.
        others: the same; a folder in which nothing is nst's is one name, with a slash behind it.
        whole: folders all of whose files are nst's.
        edited: which of the others nst wrote, before a person changed them (`nst.by_hand`).
    """

    folder: Path
    ours: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> FolderContents | None:
        """None where the folder has no list."""
        if not (folder / LIST).exists():
            return None
        found = cls(folder)
        found._look("", {LIST, *HELD, *_names(folder)})
        found.ours = [name for name in found.ours if name != ".lock"]  # whoever asks may hold it
        return found

    def delete(self) -> None:
        """Deletes what is nst's, then the folders that are empty for it; what holds the folder itself stays.

        Whenever a kill comes, what is left is still seen as the run it was: its marks go first, at all depths,
        started.json last but the list.
        """
        for name in sorted(self.ours, key=_turn):
            (self.folder / name).unlink(missing_ok=True)
        folders = {parent for name in self.ours for parent in Path(name).parents[:-1]}
        for name in self.whole:
            folders.update(Path(os.path.relpath(root, self.folder)) for root, _, _ in os.walk(self.folder / name))
        for emptied in sorted(folders, key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):  # not empty
                (self.folder / emptied).rmdir()

    def _look(self, prefix: str, listed: set[str]) -> None:
        """Sorts the entries of a folder, by names relative to the first one. No link is followed."""
        for entry in sorted(os.scandir(self.folder / prefix), key=lambda entry: entry.name):
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                self._look_below(name, listed)
            elif entry.is_symlink():
                (self.ours if name + LINK in listed else self.others).append(name)
            elif entry.is_file() and (name in listed or _target(prefix, entry.name) in listed):
                self.ours.append(name)
            else:
                self.others.append(name)

    def _look_below(self, name: str, listed: set[str]) -> None:
        before = len(self.ours), len(self.others)
        if name + FOLDER in listed:
            self.whole.append(name)
            self._look_whole(name, listed)
        else:
            inner: set[str] = set()
            if f"{name}/{LIST}" in listed:  # a run inside this one
                inner = {f"{name}/{each}" for each in (LIST, *HELD, *_names(self.folder / name))}
            self._look(name + "/", listed | inner)
        if len(self.ours) == before[0] and len(self.others) > before[1]:
            self.others[before[1] :] = [name + "/"]

    def _look_whole(self, name: str, listed: set[str]) -> None:
        for root, folders, files in os.walk(self.folder / name):
            for each in sorted([*folders, *files]):
                path = os.path.join(root, each)
                own = os.path.relpath(path, self.folder)
                if os.path.islink(path):
                    (self.ours if own + LINK in listed else self.others).append(own)
                elif each in files:
                    self.ours.append(own)


def _target(prefix: str, name: str) -> str | None:
    """The file that a temporary one would have become."""
    match = TEMPORARY.fullmatch(name)
    return prefix + match["name"] if match else None


def _turn(name: str) -> tuple[int, int]:
    """Marks first, then files, then started.json and list of each run, outer ones after those inside."""
    base, depth = name.rpartition("/")[2], name.count("/")
    if base in FIRST:
        return 0, depth
    return (2, -2 * depth + (base == LIST)) if base in (STARTED, LIST) else (1, depth)


def told(names: Sequence[str]) -> str:
    """`DONE, config.yaml, figures/a.png`: names, and how many more there are."""
    return some(names, SHOWN)


def counted(names: Sequence[str]) -> str:
    """`checkpoints/ (3 files), DONE, config.yaml`: the same by their first folder, that with the most files first."""
    firsts = ((name, name.find("/", 0, -1)) for name in names)
    counts = Counter(name if end < 1 else name[: end + 1] for name, end in firsts)
    shown = sorted(counts, key=lambda name: (-counts[name], name))
    return told([f"{name} ({counts[name]} files)" if counts[name] > 1 else name for name in shown])
