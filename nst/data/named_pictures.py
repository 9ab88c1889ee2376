"""The pictures at a place by their names there: of a folder, an archive, or shards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst.data.archives import open_archive
from nst.data.files import contents_of, list_pictures, read_file, status_of
from nst.data.images import image_extension
from nst.data.index_files import has_index
from nst.data.shard_set import ShardSet
from nst.errors import NstError


@dataclass(frozen=True)
class NamedPictures:
    """Pictures by name.

    Args:
        extensions: of each, by its name, in the order of the place.
        read: the bytes of one.
        contents: what tells whether these have changed, JSON-able.
    """

    extensions: Mapping[str, str]
    read: Callable[[str], bytes]
    contents: Callable[[Sequence[str]], Any]


def pictures_at(place: Path) -> NamedPictures:
    """Those of a folder and all below it, a tar or zip, or shards, whose names are those of the tars and keys.

    Raises:
        NstError: there is no such place, or it cannot be read.
    """
    if place.is_file():
        archive = open_archive(place)
        extensions = {name: archive.extensions[name] for name in archive.pictures}
        return NamedPictures(
            extensions, lambda name: archive.files[name](-1), lambda _: contents_of(place, [("", status_of(place))])
        )
    if not place.is_dir():
        raise NstError(
            f"no such folder or archive: {place}", next="name that of the pictures: data.source.pictures=<folder>"
        )
    if has_index(place):
        return _of_shards(ShardSet.open(place))
    files = list_pictures(place).files
    return NamedPictures(
        {name: extension for name, (extension, _) in files.items()},
        lambda name: read_file(place / name),
        lambda names: contents_of(place, [(name, files[name][1]) for name in names]),
    )


def _of_shards(shards: ShardSet) -> NamedPictures:
    from nst.data.batches import Images  # here: it brings torch

    images, lock = Images(shards), threading.Lock()  # which several threads may read
    places: dict[str, tuple[int, int, str]] = {}
    extensions: dict[str, str] = {}
    for number, shard in enumerate(shards.shards):
        reader = images.reader(number)
        for index, key in enumerate(reader.keys):
            if (field := image_extension(reader.extensions(index))) is not None:
                kind = field.rpartition(".")[2]  # of input.jpg
                name = f"{shard.name}/{key}.{kind}"
                places[name], extensions[name] = (number, index, field), kind

    def read(name: str) -> bytes:
        number, index, field = places[name]
        with lock:
            reader = images.reader(number)
        return reader.read(index, only=[field])[1][field]

    return NamedPictures(extensions, read, lambda _: shards.digest)
