"""Pictures to be classified as people have them: a folder, a file, a tar or zip, shards, or a list of paths.

They come in parts (`shards`, as tars of a shard set do), each computed and kept by itself, in an order that depends on
nothing but their names. What is passed over is listed with its reason; nothing is dropped without a word.
"""

from __future__ import annotations

import shlex
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from nst.data.archives import open_archive
from nst.data.batches import Images
from nst.data.files import LINKED_TWICE, LINKED_UP, contents_of, known_status, list_pictures
from nst.data.image_list import LISTS, listed_paths
from nst.data.images import IMAGE_EXTENSIONS, BadImage, decode, image_extension
from nst.data.index_files import has_index
from nst.data.layout import is_image
from nst.data.remote import Remote
from nst.data.shard_set import ShardInfo, ShardSet
from nst.data.transfer import PIPE, is_remote
from nst.documents import fingerprint
from nst.errors import NstError
from nst.sharing import is_rank_zero
from nst.shown import without_secrets

PART = 1024  # pictures, at most: what a kill can lose


Reads = Callable[[int], bytes]  # the encoded pictures of a listing by number, in any process
Agreed = Callable[[Any], Any]  # rank 0's value of what each rank gives


class Readable(Protocol):
    """Pictures in parts, each computed and kept by itself; `nst.data.evaluation_batches` reads them as shards."""

    @property
    def shards(self) -> Sequence[ShardInfo]: ...
    @property
    def samples(self) -> int: ...
    def batch_size(self, at_most: int) -> int: ...
    def read(self, shard: int, index: int) -> tuple[str, np.ndarray, int | None]: ...


@dataclass(frozen=True)
class NumberedPictures:
    """Pictures by number: their names as they are told, and what reads them.

    Args:
        files: where each lies, if it is a file of its own; empty inside an archive.
        contents: gives a hash of each picture's content, empty where there is none; files may have to be read for it.
        passed: what was not tried: path, and why.
    """

    listed: Sequence[str]
    reads: Reads
    files: Sequence[Path]
    contents: Callable[[], Sequence[str]]
    passed: Sequence[tuple[str, str]] = ()

    @property
    def samples(self) -> int:
        return len(self.listed)

    @cached_property
    def known(self) -> list[str]:
        """(N,) what each picture is known by wherever it lies: its content, or its name where that cannot be read."""
        contents = self.contents()
        return [content or f"/{name}" for content, name in zip(contents, map(written_name, self.listed), strict=True)]

    @cached_property
    def digest(self) -> str:
        """Of names and content."""
        return fingerprint([list(self.listed), self.known])

    def agree(self, agreed: Agreed) -> None:
        """With the other ranks, of which the first alone reads for the digest.

        Raises:
            NstError: this rank sees other names than the first.
        """
        names = fingerprint(list(self.listed))
        first = agreed([names, self.digest] if is_rank_zero() else None)
        if first[0] != names:
            raise NstError(
                "this rank sees other pictures than rank 0",
                got=f"{self.samples} pictures",
                valid="pictures on a disk that all machines share",
            )
        self.__dict__["digest"] = first[1]  # as cached_property keeps it

    @property
    def sizes(self) -> list[int]:
        """Pictures of each part by which they are told of."""
        return [min(PART, self.samples - start) for start in range(0, self.samples, PART)]

    def names(self, shard: int, index: np.ndarray, keys: Sequence[str]) -> list[str]:
        return [self.listed[shard * PART + place] for place in index.tolist()]

    def data(self, shard: int, index: int) -> bytes:
        """Raises OSError: the file cannot be read."""
        return self.reads(shard * PART + index)

    def file(self, shard: int, index: int) -> Path | None:
        return self.files[shard * PART + index] if self.files else None

    def read(self, shard: int, index: int) -> tuple[str, np.ndarray, int | None]:
        """Its name, pixels and no label; raises BadImage."""
        number = shard * PART + index
        return written_name(self.listed[number]), self.pixels(number), None

    def pixels(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8; raises BadImage."""
        try:
            return decode(self.reads(number))
        except OSError as error:
            raise BadImage(error.strerror or str(error)) from error
        except NstError as error:  # of a damaged archive
            raise BadImage(str(error.got or error.what)) from error


@dataclass(frozen=True)
class ShardPictures:
    """The pictures of a shard set; its parts are the tars."""

    set: ShardSet
    passed: ClassVar[Sequence[tuple[str, str]]] = ()

    @cached_property
    def images(self) -> Images:
        return Images(self.set)

    def agree(self, agreed: Agreed) -> None:
        """Nothing: the digest stands in index.json."""

    def batch_size(self, at_most: int) -> int:
        return at_most

    @property
    def samples(self) -> int:
        return self.set.samples

    @property
    def digest(self) -> str:
        return self.set.digest

    @property
    def shards(self) -> Sequence[ShardInfo]:
        return self.set.shards

    @property
    def sizes(self) -> list[int]:
        return [shard.samples for shard in self.shards]

    def names(self, shard: int, index: np.ndarray, keys: Sequence[str]) -> list[str]:
        return [f"{self.shards[shard].name}/{key}" for key in keys]

    def data(self, shard: int, index: int) -> bytes:
        fields = self.images.reader(shard).read(index)[1]
        return fields[image_extension(fields) or ""]

    def file(self, shard: int, index: int) -> Path | None:
        return None

    def unreadable(self, shard: int, told: str) -> tuple[str, str]:
        """Path and reason, of what `nst.data.evaluation_batches` says of a bad sample."""
        index, _, rest = told.partition(": ")
        key, _, reason = rest.partition(": ")
        return self.names(shard, np.array([int(index)]), [key])[0], reason

    def read(self, shard: int, index: int) -> tuple[str, np.ndarray, int | None]:
        return self.images.read(shard, index)


Inputs: TypeAlias = NumberedPictures | ShardPictures  # in an order that depends on nothing but their names


def open_inputs(place: str, remote: Remote | None = None) -> Inputs:
    """What `place` names: a folder with all below it, a picture, a tar, a zip, shards, or a CSV or text file of paths.

    Raises:
        NstError: there is nothing, or no picture in it.
    """
    if is_remote(place):
        file = place.partition("?")[0]
        if not place.startswith(PIPE) and (is_image(file) or file.lower().endswith((*LISTS, ".zip", ".tar", ".tgz"))):
            raise NstError(
                "pictures are not read from an address", got=without_secrets(place),
                valid="the address of a folder of shards, or files on this machine", next="download it first",
            )  # fmt: skip
        return ShardPictures(ShardSet.open(place, remote))
    path = Path(place)
    if not path.exists():
        raise NstError(
            f"there is nothing at {path}", valid="a folder, picture, tar, zip, list.csv, list.txt, or folder of shards"
        )
    if path.is_dir():
        return ShardPictures(ShardSet.open(path, remote)) if has_index(path) else _folder(path)
    found = _file(path)
    if not found.samples:
        raise NstError(f"{path} holds no pictures", valid=f"files ending in {', '.join(IMAGE_EXTENSIONS)}")
    return found


def _files_of(place: Path, paths: Sequence[Path], names: Sequence[str]) -> NumberedPictures:
    """Files that `place` names one by one; those that are not there fail when they are read."""
    files = [(str(path.absolute()), known_status(path)) for path in paths]
    return NumberedPictures(names, partial(_read_file, paths), paths, partial(contents_of, place, files, tolerant=True))


def _file(path: Path) -> NumberedPictures:
    if path.suffix.lower() in LISTS:
        return _files_of(path, *listed_paths(path))
    if is_image(path.name) or not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        return _files_of(path, [path], [str(path)])  # whatever it is: decoding says so
    status = known_status(path)  # before it is read
    archive = open_archive(path)
    names = sorted(archive.pictures)
    passed = [(f"{path}/{name}", reason) for name, reason in sorted(archive.passed.each())]

    def read(number: int) -> bytes:
        return archive.files[names[number]](-1)

    def contents() -> list[str]:
        """Pictures of an archive are known by its content as a whole, which is read in one go."""
        digest = contents_of(path, [("", status)], tolerant=True)[0]
        return [f"{digest}/{number}" for number in range(len(names))]

    return NumberedPictures([f"{path}/{name}" for name in names], read, (), contents, passed)


def _folder(root: Path) -> NumberedPictures:
    listing = list_pictures(root, tolerant=True)
    passed = sorted((name, reason) for name, reason in listing.passed.each() if reason not in (LINKED_UP, LINKED_TWICE))
    if not listing.files:
        sets = [part for part in ("test", "unlabeled", "labeled") if has_index(root / part)]
        raise NstError(
            f"{root} holds no pictures",
            got=", ".join(name for name, _ in passed[:4]) or "nothing",
            valid=f"files ending in {', '.join(IMAGE_EXTENSIONS)}, in any folders",
            next=f"for its shards: nst predict input={shlex.quote(str(root / sets[0]))}" if sets else None,
        )
    paths, told = [root / name for name in listing.files], [(str(root / name), reason) for name, reason in passed]
    files = [(name, status) for name, (_, status) in listing.files.items()]
    contents = partial(contents_of, root, files, tolerant=True)
    return NumberedPictures([str(path) for path in paths], partial(_read_file, paths), paths, contents, told)


def _read_file(paths: Sequence[Path], number: int) -> bytes:
    return paths[number].read_bytes()


def written_name(name: str) -> str:
    r"""A path as it stands in files for everybody: bytes that are no UTF-8 as `\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
