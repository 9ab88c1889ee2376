"""A shard set: WebDataset tars, and an index.json that lists them.

    <prefix>-000000.tar   <key>.jpg|png + <key>.cls (labeled; the class number as text)
    index.json            shards with samples, bytes and sha256; classes, source, seed, what was skipped

index.json is the set, and the tars are only where its bytes are. They may lie elsewhere (the folder may be an address,
and an index may name another place as `shards_at`), and images that were excluded (`nst.data.exclusion`) are positions
listed beside the shard's name, which readers pass over.

An index may be a stranger's. So it names files beside it, or an address from which fetching runs nothing; a command, a
folder of this machine and an address with a password hold only if the user has named them too (`Remote.shards_at`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from nst.data.index_files import made_again, read_index
from nst.data.remote import Remote
from nst.data.tars import TarReader
from nst.data.transfer import HARMLESS, PIPE, is_remote, join, runs_nothing
from nst.documents import damaged, fingerprint, read_json
from nst.errors import NstError
from nst.shown import HIDDEN, without_secrets
from nst.untrusted import is_inside, require_file_name

FORMAT = 1
SHOWN_PROBLEMS = 20
EXCLUDE_AGAIN = "rm {path}, then `nst shard --exclude` as before"
Identity = tuple[str, str, str | None]  # file name, sha256, and a digest of what is excluded, None if nothing is


@dataclass(frozen=True)
class ShardInfo:
    """One tar of a set: file name, number of samples, size in bytes, sha256.

    `excluded` are the positions in the tar of samples that do not belong to the set; `samples` leaves them out. Where
    tars of a set use keys alike, `prefix` and a slash stand before each key.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    excluded: tuple[int, ...] = ()
    prefix: str = ""

    @property
    def identity(self) -> Identity:
        """What fixes which image is at which position."""
        return self.name, self.sha256, fingerprint(self.excluded) if self.excluded else None

    def as_json(self) -> dict[str, Any]:
        """Its entry in index.json; without `excluded` and `prefix` where there is none."""
        return {name: value for name, value in asdict(self).items() if name not in ("excluded", "prefix") or value}


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards as its index.json describes it.

    Args:
        folder: path or address of the folder with the index.json.
        shards_at: where the shards lie, if elsewhere, as the index says it.
        whole_digest: digest before anything was excluded.
        remote: how shards that are not on this machine get here.
    """

    folder: Path | str
    name: str
    split: str
    classes: tuple[str, ...]
    labeled: bool
    shards: tuple[ShardInfo, ...]
    label_counts: tuple[int, ...]
    shards_at: str | None = None
    whole_digest: str | None = None
    remote: Remote = field(default_factory=Remote, compare=False)

    @classmethod
    def open(cls, folder: Path | str, remote: Remote | None = None) -> ShardSet:
        """The set in `folder`, after a look at the size of every shard on this machine.

        Raises:
            NstError: no folder, no index, an empty set, or shards that are missing or of another size.
        """
        return require_whole(load_index(folder, remote))

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def excluded(self) -> int:
        return sum(len(shard.excluded) for shard in self.shards)

    @property
    def digest(self) -> str:
        """sha256 over the shards' sha256, what is excluded of them, and the classes: the identity of the data."""
        lines = [
            shard.sha256 + (f" {shard.prefix}/" if shard.prefix else "") + "".join(f" -{one}" for one in shard.excluded)
            for shard in self.shards
        ]
        return hashlib.sha256("\n".join([*lines, "classes", *self.classes]).encode()).hexdigest()

    def difference(self, made_of: Sequence[Identity]) -> str | None:
        """How the shards that something was made of differ from these, in words; None: they do not."""
        now = [shard.identity for shard in self.shards]
        if list(made_of) == now:
            return None
        if [one[:2] for one in made_of] == [one[:2] for one in now]:
            return "the same shards with other images excluded"
        return f"{len(made_of)} shards that differ in name or content"

    @property
    def place(self) -> Path | str:
        """Folder or address of the shards.

        Raises:
            NstError: the index names a command or a place outside its folder that the user has not named.
        """
        entry, folder = self.shards_at, self.folder
        if entry is None:
            return folder
        for place in self.remote.places:
            if entry in (place, in_index(place)):
                return place if is_remote(place) else Path(place).expanduser()
        if is_remote(entry):
            if runs_nothing(entry) and HIDDEN not in entry:
                return entry
        elif is_inside(entry) and not str(folder).startswith(PIPE):
            return join(folder, entry) if is_remote(folder) else Path(folder) / entry
        what = "pipe:<the command>" if str(entry).startswith(PIPE) else "<the place>"
        raise NstError(
            f"the index of {folder} names a place outside its folder for its shards",
            got=f"shards_at: {entry!r}"[:300],
            valid=f"a name inside, or an address ({', '.join(HARMLESS[:4])}, ...) without a password",
            next=f"only if you know and trust that place, name it yourself: remote.shards_at='{what}'",
        )

    def at(self, place: Path | str) -> ShardSet:
        """The same set, of which the caller knows, not from its index, that the shards lie at `place`."""
        named = replace(self.remote, shards_at=[*self.remote.places, str(place)])
        return replace(self, shards_at=str(place), remote=named)

    def path(self, position: int) -> Path:
        """The file of a shard on this machine, fetched if it lies elsewhere.

        Raises:
            NstError: a remote shard stays unreachable.
        """
        shard, place = self.shards[position], self.place
        if is_remote(place):
            return self.remote.shard(join(place, shard.name), shard.name, shard.bytes, shard.sha256)
        return Path(place) / shard.name

    def reader(self, position: int) -> TarReader:
        """The samples of a shard, without the excluded ones.

        Raises:
            NstError: the shard cannot be reached or read.
        """
        while True:
            path = self.path(position)
            try:
                reader = TarReader(path, self.shards[position].excluded, self.shards[position].prefix)
                reader.open()
                return reader
            except NstError:
                # another process may have taken it out of the cache just now
                if path.exists() or not is_remote(self.place):
                    raise


def load_index(folder: Path | str, remote: Remote | None = None) -> ShardSet:
    """The set as its index.json says, without a look at the shards.

    Raises:
        NstError: no folder or index, or one that cannot be read.
    """
    remote = remote or Remote()
    folder = folder if is_remote(folder) else Path(folder)
    path = join(folder, "index.json") if is_remote(folder) else Path(folder) / "index.json"
    try:
        found = _parse_index(read_index(folder, remote), folder, remote)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, repr(error), made_again(folder)) from error
    if found.samples == 0:
        raise NstError(f"{folder} is an empty shard set", next=made_again(folder))
    return found


def _parse_index(index: dict[str, Any], folder: Path | str, remote: Remote) -> ShardSet:
    if index["format"] != FORMAT:
        raise NstError(f"the index of {folder} is of another format", got=index["format"], valid=FORMAT)
    return ShardSet(
        folder,
        index["name"],
        index["split"],
        tuple(index["classes"]),
        index["labeled"],
        tuple(_shard(shard, folder) for shard in index["shards"]),
        tuple(index["label_counts"]),
        index.get("shards_at"),
        index.get("whole_digest"),
        remote,
    )


def _shard(entry: dict[str, Any], folder: Path | str) -> ShardInfo:
    """A shard as an index describes it; its name and sha256 become file names here."""
    shard = ShardInfo(**{**entry, "excluded": tuple(entry.get("excluded", ()))})
    require_file_name(shard.name, f"the index of {folder}")
    if shard.prefix:
        require_file_name(shard.prefix, f"the index of {folder}")
    if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
        raise ValueError(f"sha256 of {shard.name}: {shard.sha256[:80]!r}")
    return shard


def in_index(place: Path | str) -> str:
    """How an index names the place of its shards: in full, but without passwords."""
    return without_secrets(str(place)) if is_remote(place) else str(Path(place).expanduser().resolve())


def must_be_named(place: Path | str) -> bool:
    """Whether stages read shards at this place, which an index elsewhere names, only if the user names it too."""
    return not (is_remote(place) and runs_nothing(place) and in_index(place) == place)


def emptied_shards(folder: Path) -> list[ShardInfo]:
    """Shards of which an exclusion left nothing (`nst.data.exclusion`), so that index.json does not name them."""
    path = folder / "excluded.json"
    found = read_json(path, next=EXCLUDE_AGAIN.format(path=quote(str(path))))["emptied"] if path.exists() else []
    return [_shard(shard, folder) for shard in found]


def require_whole(shards: ShardSet) -> ShardSet:
    """`shards`, after a look at the size of every one on this machine; raises as `ShardSet.open`."""
    if problems := size_problems(shards):
        raise listed_problems(
            f"{shards.folder} is not as its index says",
            problems,
            "copy the shards again; if nst shard made them, delete the file DONE that it left there, and the same "
            "command writes them again",
        )
    return shards


def size_problems(shards: ShardSet) -> list[str]:
    """Shards that are missing or have another size than the index says, in words; remote ones are seen when read."""
    if is_remote(shards.place):
        return []
    problems = []
    linked = shards.shards_at is not None
    for position, shard in enumerate(shards.shards):
        path = shards.path(position)
        if not path.exists():
            problems.append(f"{shard.name}: missing")
        elif (path.is_symlink() or linked) and not _may_lie(real := path.resolve().parent, shards):
            problems.append(f"{shard.name}: a link out of the folder; if you trust it: remote.shards_at='{real}'")
        elif (size := path.stat().st_size) != shard.bytes:
            problems.append(f"{shard.name}: {size} bytes, {shard.bytes} in the index")
    return problems


def _may_lie(folder: Path, shards: ShardSet) -> bool:
    """Whether shards may be links into this folder: the set's own, or one that the user has named."""
    known = [place for place in (shards.folder, *shards.remote.places) if not is_remote(place)]
    return any(folder.is_relative_to(Path(place).expanduser().resolve()) for place in known)


def listed_problems(what: str, problems: Sequence[str], next: str | None = None) -> NstError:
    """The error that lists the first of `problems` and counts the rest."""
    shown = "\n         ".join(problems[:SHOWN_PROBLEMS])
    more = f"\n         and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return NstError(f"{what}: {len(problems)} problem(s)", got=shown + more, next=next)
