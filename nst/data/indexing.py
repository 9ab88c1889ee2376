"""Makes a shard set of tars from other tools (img2dataset, for one): they stay where they are, index.json is added.

It refuses what would fail later, in training: tars that were cut short, keys used twice, samples without an image. Two
downloads that count their keys alike are one set all the same: each key then begins with the name of its tar.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import numpy as np

from nst.atomic import sha256_file
from nst.data.images import READERS, image_extension, pictures_among
from nst.data.index_files import has_index
from nst.data.layout import is_hidden
from nst.data.remote import Remote
from nst.data.shard_set import ShardInfo, ShardSet, emptied_shards, listed_problems, load_index
from nst.data.shard_writer import write_index
from nst.data.tar_contents import duplicates, hashes_of, labels_of, shared_keys
from nst.data.tars import TarReader
from nst.data.transfer import is_remote, join, list_tars
from nst.errors import NstError
from nst.progress import Progress, silent
from nst.shown import count_of
from nst.written import note

log = logging.getLogger(__name__)

AGAIN = "copy or download again those that are not whole"
COMPARED = 20  # pictures of one key that are compared before keys are told apart by their tars
Problem = tuple[str, str]  # what is wrong, and what can be done


@dataclass(frozen=True)
class _Look:
    """What one tar holds."""

    shard: ShardInfo
    keys: np.ndarray
    labels: Counter[int | None]
    problems: list[Problem]


def index_tars(
    folder: Path | str,
    classes: Sequence[str] | None = None,
    *,
    output: Path | str | None = None,
    remote: Remote | None = None,
    progress: Progress = silent,
) -> ShardSet:
    """Writes index.json for the WebDataset tars that lie in `folder`, such as img2dataset's.

    Labels come from `.cls`, which all samples must have or none; class names not given are numbers. Captions and other
    files are left alone. What an earlier index excluded of a shard stays excluded while the shard is the same.

    Args:
        folder: path or address; from an address every tar is fetched once.
        output: where index.json goes; None: to the tars.

    Raises:
        NstError: no tars, one cut short, samples without an image, labels for some only, keys used twice.
    """
    output = Path(output if output is not None else folder)
    names = list_tars(folder) if is_remote(folder) else _local_tars(Path(folder))
    if not names:
        raise _no_tars(folder)
    opened = _Opener(folder, remote or Remote())
    before = _excluded_before(output)
    with ThreadPoolExecutor(READERS) as pool:
        looks = pool.map(lambda name: _look(name, *opened(name), before), names)
        found = list(progress(looks, "indexing", len(names)))
    labels = sum((look.labels for look in found), Counter[int | None]())
    shards = [look.shard for look in found]
    problems = [problem for look in found for problem in look.problems]
    shared = shared_keys(names, [look.keys for look in found], lambda place: opened.keys(names[place], before))
    if _of_other_pictures(shared, opened):
        log.warning("%d keys stand for other pictures in other tars: here each is <tar>/<key>", len(shared))
        shards = [replace(shard, prefix=Path(shard.name).stem) for shard in shards]
    else:
        problems += [(one, "remove one of the tars, or pack the pictures again under names of their own")
                     for one in duplicates(shared)]  # fmt: skip
    if problems := [*problems, *_label_problems(labels)]:
        remedies = dict.fromkeys(remedy for _, remedy in problems)
        raise listed_problems(f"{folder} cannot be indexed", [what for what, _ in problems], "; ".join(remedies))
    return _write_found(output, folder, shards, labels, classes, remote, before)


@dataclass(frozen=True)
class _Opener:
    """Path on this machine and sha256 of a tar that no index describes yet."""

    folder: Path | str
    remote: Remote

    def __call__(self, name: str) -> tuple[Path, str]:
        if is_remote(self.folder):
            return self.remote.unknown_shard(join(self.folder, name), name)
        path = Path(self.folder) / name
        return path, sha256_file(path)

    def picture(self, name: str, key: str) -> bytes | None:
        """The encoded image of a sample."""
        reader = TarReader(self(name)[0])
        content = reader.read(reader.keys.index(key))[1]
        reader.close()
        extension = image_extension(content)
        return content[extension] if extension is not None else None

    def keys(self, name: str, before: Mapping[str, ShardInfo]) -> list[str]:
        path, sha256 = self(name)
        return TarReader(path, _excluded_of(sha256, before)).keys


def _excluded_before(folder: Path) -> dict[str, ShardInfo]:
    """Shards of which an index written earlier leaves images out, or all, by their sha256."""
    if not has_index(folder):
        return {}
    # in this order: what the index names, it knows best
    known = {shard.sha256: shard for shard in [*emptied_shards(folder), *load_index(folder).shards]}
    return {sha256: shard for sha256, shard in known.items() if shard.excluded}


def _excluded_of(sha256: str, before: Mapping[str, ShardInfo]) -> tuple[int, ...]:
    return before[sha256].excluded if sha256 in before else ()


def _look(name: str, path: Path, sha256: str, before: Mapping[str, ShardInfo]) -> _Look:
    excluded = _excluded_of(sha256, before)
    size = path.stat().st_size
    try:
        reader = TarReader(path, excluded)
    except NstError as error:
        problem = f"{name}: {error}".replace("\n", ";"), error.next or AGAIN
        return _Look(ShardInfo(name, 0, size, sha256), np.empty(0, np.uint64), Counter(), [problem])
    told: list[str] = []
    labels = Counter(labels_of(reader, name, told))
    problems = [*_content_problems(reader, name, path), *((one, "mend these .cls files") for one in told)]
    return _Look(ShardInfo(name, len(reader), size, sha256, excluded), hashes_of(reader), labels, problems)


def _label_problems(labels: Counter[int | None]) -> list[Problem]:
    unlabeled = labels[None]
    if not unlabeled or unlabeled == labels.total():
        return []
    remedy = "give all of them a .cls or none; those with labels and those without may be two sets"
    return [(f"{unlabeled} of {labels.total()} samples have no .cls", remedy)]


def _write_found(
    output: Path,
    folder: Path | str,
    shards: Sequence[ShardInfo],
    labels: Counter[int | None],
    classes: Sequence[str] | None,
    remote: Remote | None,
    before: Mapping[str, ShardInfo],
) -> ShardSet:
    counts = {label: number for label, number in labels.items() if label is not None}
    names = list(classes) if classes is not None else [str(i) for i in range(max(counts, default=-1) + 1)]
    if counts and (max(counts) >= len(names) or min(counts) < 0):
        valid = f"0 to {len(names) - 1}"
        more = "a name for every label in shard.classes" if classes is not None else None
        raise NstError("labels are out of range", got=f"{min(counts)} to {max(counts)}", valid=valid, next=more)
    if classes is not None and not counts:
        raise NstError(
            f"{folder} has no labels that could be named", got="no .cls", next="the same without shard.classes"
        )
    same, there = {shard.sha256 for shard in shards}, {shard.name for shard in shards}
    # an emptied shard that is gone is no loss: only one that came back as another is told
    changed = [
        shard for sha256, shard in before.items() if sha256 not in same and (shard.samples or shard.name in there)
    ]
    if changed:
        log.warning(
            "%d shards from which images were excluded are gone or have changed: exclude them again", len(changed)
        )
    elsewhere = folder if is_remote(folder) else Path(folder).resolve()
    return write_index(
        output,
        [shard for shard in shards if shard.samples],
        names,
        counts or None,
        name=str(elsewhere).rstrip("/").rsplit("/", 1)[-1],
        source={"name": "tars"},
        shards_at=None if elsewhere == output.resolve() else elsewhere,
        remote=remote,
    )


def _content_problems(reader: TarReader, name: str, path: Path) -> list[Problem]:
    problems: list[Problem] = []
    if reader.truncated:
        problems.append((f"{name}: cut short after {len(reader)} whole samples", AGAIN))
    if reader.links:
        told = f"{name}: {count_of(reader.links, 'link')}, not followed, to what the tar does not hold"
        problems.append((told, "pack such a tar again with tar --dereference"))
    without = [i for i in range(len(reader)) if image_extension(reader.extensions(i)) is None]
    if without:
        first = without[0]
        among = pictures_among(reader.extensions(first))
        told = f"{name}: {count_of(len(without), 'sample')} without an image, first {reader.keys[first]}"
        if among:
            told += f", with {count_of(len(among), 'picture')}: {', '.join(among[:4])}" + (
                ", ..." if len(among) > 4 else ""
            )
            remedy = (
                "a sample's name ends at its first dot; to take every picture by its whole name: "
                f"nst shard shard.index=null data=tar data.source.root={quote(str(path))} data.root=<new folder>"
            )
        else:
            told += f", with {', '.join(reader.extensions(first)[:4])}"
            remedy = "leave out such samples, or the tars that hold no pictures"
        problems.append((told, remedy))
    return problems


def _local_tars(folder: Path) -> list[str]:
    """Names of the tars in a folder; those in folders below get a link beside the index, so that names stay flat.

    Raises:
        NstError: a folder below is a shard set of its own, or a link's name is taken.
    """
    inner = sorted(path for path in folder.rglob("*.tar")
                   if path.parent != folder and not is_hidden(path.relative_to(folder).as_posix()))  # fmt: skip
    if sets := sorted({path.parent for path in inner if has_index(path.parent)}):
        raise NstError(
            f"{folder} holds shard sets of their own",
            got=", ".join(map(str, sets[:4])),
            valid="a folder of tars without an index.json below it",
            next=f"nst shard shard.index={quote(str(sets[0]))}",
        )
    for path in inner:
        relative = path.relative_to(folder).as_posix()
        link = folder / relative.replace("/", "-")
        if link.is_symlink() and os.readlink(link) == relative:
            continue
        if link.exists() or link.is_symlink():
            raise NstError(
                f"{link} is in the way of a link to {relative}", next=f"mv {quote(str(link))} <another name>"
            )
        note(link)
        link.symlink_to(relative)
    return sorted(path.name for path in folder.glob("*.tar"))


def _no_tars(folder: Path | str) -> NstError:
    packed = [] if is_remote(folder) else sorted(path.name for path in Path(folder).glob("*.tar.*"))
    return NstError(
        f"no tars in {folder}",
        got=", ".join(packed[:3]) or None,
        valid="<name>.tar, uncompressed",
        next=f"unpack them: gunzip {quote(str(Path(folder) / packed[0]))}" if packed[:1] and packed[0].endswith("gz")
        else "pictures in folders: nst shard shard.index=null data=folder data.source.root=<folder>",
    )  # fmt: skip


def _of_other_pictures(shared: Mapping[str, Sequence[str]], opened: _Opener) -> bool:
    """Whether keys that several tars use stand for another picture in each, as of two downloads that count alike."""
    if not shared or any(len(set(names)) < len(names) for names in shared.values()):
        return False
    chosen = list(shared.items())[:: max(1, len(shared) // COMPARED)]
    for key, names in chosen:
        images = [opened.picture(name, key) for name in names]
        if len(set(images)) < len(images):
            return False
    return True
