"""A selection packed into shards of its own: image, label and the teacher's distribution, ready to be streamed.

    packed-000000.tar   <key>~<copy>.jpg|png, as it was, + .cls (the pseudo-label) + .npy (distribution, float16)
    index.json          a shard set like any other; its source tells teacher, selection and targets

Paper section 3.1 duplicates images of rare classes, up to thousands of times. Copies of an image lie in different
shards, as far as there are enough: in one they would often meet in a batch.

Sources are read once, in an order drawn by the seed, and each window of them is dealt out to as many open shards as a
process may hold, so memory is that of one image. Where an entry goes follows from how many came before it: a killed
run goes on at the first window that is not whole and ends with the same bytes. Images with more copies than a window
has shards are set aside first and dealt out over all.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nst.atomic import atomic_path, write_json
from nst.data.images import image_extension
from nst.data.pseudo_labels import PseudoLabels
from nst.data.shard_set import ShardInfo, ShardSet
from nst.data.shard_writer import ShardTar, write_index
from nst.data.stream import generator
from nst.data.tars import TarReader
from nst.documents import read_json
from nst.errors import NstError

OPEN_SHARDS = 64  # written at the same time
COPY = "~"  # between an image's key and the number of its copy


@dataclass(frozen=True)
class Packing:
    """Where every entry of a selection goes: a pure function of selection, seed and sizes.

    Args:
        copies: called with a shard's number, copies of its selected images.
        entries: of all shards together, at least one.
        samples_per_shard: entries of a packed shard, a few more or less.
    """

    copies: Callable[[int], np.ndarray]
    shards: int
    entries: int
    seed: int
    samples_per_shard: int
    open_shards: int = OPEN_SHARDS

    @cached_property
    def order(self) -> np.ndarray:
        """The source shards as they are read."""
        return generator(self.seed, "pack").permutation(self.shards)

    @cached_property
    def windows(self) -> list[np.ndarray]:
        """The packed shards that are written at the same time, by window."""
        count = -(-self.entries // self.samples_per_shard)
        return np.array_split(np.arange(count), -(-count // self.open_shards))

    @property
    def packed(self) -> int:
        return int(self.windows[-1][-1]) + 1

    @property
    def most(self) -> int:
        """Copies that a window of shards can take apart."""
        return min(len(window) for window in self.windows)

    @cached_property
    def _before(self) -> np.ndarray:
        """Common entries before each source shard in the order, and in all (S + 1,)."""
        counts = [int(copies[copies <= self.most].sum()) for copies in map(self.copies, self.order)]
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def _quotas(self) -> np.ndarray:
        """Common entries up to the end of each window (W,)."""
        shards = np.cumsum([len(window) for window in self.windows])
        return shards * self._before[-1] // shards[-1]

    def sources(self, window: int) -> list[int]:
        """Places in the order of the source shards that a window reads."""
        start, end = self._quotas[window - 1] if window else 0, self._quotas[window]
        first = np.searchsorted(self._before, start, side="right") - 1
        last = np.searchsorted(self._before, end, side="left")
        return list(range(int(first), int(last)))

    def common(self, place: int, copies: np.ndarray, window: int) -> Iterator[tuple[int, np.ndarray]]:
        """Image (row) and packed shard of each of its copies, of a source shard in a window."""
        counted = np.where(copies <= self.most, copies.astype(np.int64), 0)
        before = self._before[place] + np.cumsum(counted) - counted
        # an image begins in one window and stays in it
        belongs = (np.searchsorted(self._quotas, before, side="right") == window) & (counted > 0)
        shards = self.windows[window]
        for row in np.flatnonzero(belongs).tolist():
            yield row, shards[(before[row] + np.arange(counted[row])) % len(shards)]

    def often(self, place: int, copies: np.ndarray) -> np.ndarray:
        """Images (rows) of a source shard with too many copies for a window."""
        return np.flatnonzero(copies > self.most)


@dataclass(frozen=True)
class PackedImage:
    """An image to be packed: its files by extension, ready to be written for every copy."""

    key: str
    files: Mapping[str, bytes]

    def write(self, tars: Mapping[int, ShardTar], shards: np.ndarray) -> None:
        """Its copies 0, 1, ... into these shards, as far as they are open."""
        for copy, shard in enumerate(shards.tolist()):
            if shard in tars:
                tars[shard].add(f"{self.key}{COPY}{copy}", self.files)


class Packer:
    """Writes the packed shards of one selection into a folder."""

    def __init__(self, source: ShardSet, labels: PseudoLabels, folder: Path, packing: Packing) -> None:
        self.source, self.labels, self.folder, self.packing = source, labels, folder, packing

    def run(self, about: Mapping[str, Any], progress: Callable[[int], None]) -> ShardSet:
        """All windows that are not there yet, then the index, which makes the folder a shard set."""
        shards: list[ShardInfo] = []
        for window in range(len(self.packing.windows)):
            mark = self.folder / "parts" / f"window-{window:06d}.json"
            if not mark.exists():
                write_json(mark, {"shards": [shard.as_json() for shard in self._window(window)]})
            shards += [ShardInfo(**shard) for shard in read_json(mark)["shards"]]
            progress(sum(shard.samples for shard in shards))
        packed = write_index(
            self.folder,
            [shard for shard in shards if shard.samples],
            self.labels.classes,
            None,
            name=f"{self.source.name}-selection",
            source=about,
            seed=self.packing.seed,
        )
        self._aside.unlink(missing_ok=True)
        return packed

    @property
    def _aside(self) -> Path:
        return self.folder / "parts" / "often.tar"

    def _window(self, window: int) -> list[ShardInfo]:
        with contextlib.ExitStack() as open_files:
            tars, names = {}, {}
            for shard in self.packing.windows[window].tolist():
                names[shard] = f"packed-{shard:06d}.tar"
                temporary = open_files.enter_context(atomic_path(self.folder / names[shard]))
                tars[shard] = ShardTar(open_files.enter_context(open(temporary, "wb")))
            for entry, shards in self._often(self.packing.windows[window]):
                entry.write(tars, shards)
            for place in self.packing.sources(window):
                self._deal(place, window, tars)
            return [tar.close(names[shard]) for shard, tar in tars.items()]

    def _deal(self, place: int, window: int, tars: Mapping[int, ShardTar]) -> None:
        number = int(self.packing.order[place])
        chosen = list(self.packing.common(place, self.labels.copies(self.source.shards[number].name), window))
        if chosen:
            rows, shards = zip(*chosen, strict=True)
            for entry, into in zip(self._entries(number, rows), shards, strict=True):
                entry.write(tars, into)

    def _often(self, window: np.ndarray) -> Iterator[tuple[PackedImage, np.ndarray]]:
        """The images with very many copies, some of them in this window, and the packed shards of all."""
        if not self._aside.exists():
            self._set_aside()
        reader, count, begin = TarReader(self._aside), self.packing.packed, 0
        for position in range(len(reader)):
            copies = int(reader.read(position, only=("copies",))[1]["copies"])
            shards = (begin + np.arange(copies)) % count
            begin += copies
            if np.isin(shards, window).any():
                key, files = reader.read(position)
                del files["copies"]
                yield PackedImage(key, files), shards
        reader.close()

    def _set_aside(self) -> None:
        with atomic_path(self._aside) as temporary, open(temporary, "wb") as file:
            tar = ShardTar(file)
            for place, number in enumerate(self.packing.order.tolist()):
                copies = self.labels.copies(self.source.shards[number].name)
                rows = self.packing.often(place, copies)
                for row, entry in zip(rows, self._entries(number, rows.tolist()), strict=True):
                    tar.add(entry.key, {**entry.files, "copies": str(copies[row]).encode()})
            tar.close(self._aside.name)

    def _entries(self, number: int, rows: Any) -> Iterator[PackedImage]:
        """Some of the selected images of a source shard.

        Raises:
            NstError: the shard holds another image where one was selected.
        """
        if not len(rows):
            return
        images = self.labels.images(self.source.shards[number].name)
        reader = self.source.reader(number)
        for row in rows:
            index = int(images.index[row])
            key, files = reader.read(index) if index < len(reader) else ("nothing", {})
            extension = image_extension(files)
            if key != images.key[row] or extension is None:
                raise NstError(
                    f"a selected image of {self.source.path(number)} is not what was labeled",
                    got=f"{key} at {index}",
                    valid=f"{images.key[row]} at {index}",
                    next="restore the shard, or label and select again",
                )
            kept = {extension: files[extension], "cls": str(int(images.label[row])).encode()}
            if images.probs is not None:
                kept["npy"] = array_bytes(images.probs[row])
            yield PackedImage(key, kept)
        reader.close()


def array_bytes(array: np.ndarray) -> bytes:
    """The content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
