"""Two hashes know an image again: one of its pixels, one of its looks.

The hash of the looks is the classical perceptual hash: the image in grey at 32 x 32, its lowest 8 x 8 frequencies, and
for each whether it is above their median. Another size, file format, quality or brightness changes few of its 64 bits;
cropping, mirroring and turning change many, so such copies are not found.

Hashes are kept, a Parquet file per shard, and a file is used again as long as the shard's sha256 is the same. Decoding
is nearly all of the work, so another set of evaluation images, or another distance, costs minutes where the first pass
took hours.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from nst.atomic import atomic_path
from nst.data.images import BadImage, decode, image_extension
from nst.data.shard_set import ShardSet
from nst.data.tars import TarReader
from nst.errors import NstError

HASHED_SIZE = 32  # px of the grey image
FREQUENCIES = 8
SHARDS_AHEAD = 2  # per process: bounds memory, since a set has as many hashes as images
VERSION = "1"  # of the two hashes; kept ones of another are made anew
COLUMNS = ("position", "key", "pixels", "looks")
_BIT_VALUES = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))


@dataclass(frozen=True)
class Hashes:
    """Of N images, those that could be decoded: position in the tar, key, and the two hashes."""

    positions: np.ndarray  # (N,) int64
    keys: list[str]
    pixels: np.ndarray  # (N,) uint64
    looks: np.ndarray  # (N,) uint64

    def __len__(self) -> int:
        return len(self.keys)


def pixel_hash(image: np.ndarray) -> int:
    """64-bit hash of size and pixels (H, W, 3) uint8."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(image).data, seed=image.shape[1])


def look_hash(image: np.ndarray) -> int:
    """64-bit perceptual hash of an image (H, W, 3) uint8; alike images differ in few bits. The first bit is 0."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASHED_SIZE, HASHED_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:FREQUENCIES, :FREQUENCIES].ravel()
    # rounding, since the frequencies of an even picture are noise of the arithmetic
    lowest = np.round(lowest, 2)
    bits = lowest > np.median(lowest[1:])
    bits[0] = False  # the mean brightness tells nothing
    return int(_BIT_VALUES[bits].sum())


def hash_tar(reader: TarReader) -> Hashes:
    """Hashes of all images of a tar that can be decoded."""
    rows: list[tuple[int, str, int, int]] = []
    for position in range(len(reader)):
        extension = image_extension(reader.extensions(position))
        if extension is None:
            continue
        key, content = reader.read(position, only=(extension,))
        try:
            image = decode(content[extension])
        except BadImage:
            continue  # it is counted and named by the stage that would learn from it
        rows.append((position, key, pixel_hash(image), look_hash(image)))
    reader.close()
    positions, keys, pixels, looks = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Hashes(np.array(positions, np.int64), list(keys), np.array(pixels, np.uint64), np.array(looks, np.uint64))


def hash_shards(shards: ShardSet, kept: Path | None = None, *, workers: int | None = None) -> Iterator[Hashes]:
    """Hashes of every shard in order, by position in the tar: what is excluded from the set is hashed too.

    Args:
        kept: folder of the Parquet files; None keeps nothing.
        workers: processes; None: as many as there are cores for this process.

    Raises:
        NstError: a shard cannot be read, or a process died.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), len(shards.shards))
    # one shard a task: the whole index would travel with every one
    single = (replace(shards, shards=(replace(shard, excluded=()),)) for shard in shards.shards)
    if workers == 1:
        yield from (_hash_shard(one, kept) for one in single)
        return
    # not forked: threads of the parent may hold locks that no one would ever release in the child
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        waiting: deque[Future[Hashes]] = deque()
        try:
            for one in single:
                waiting.append(pool.submit(_hash_shard, one, kept))
                if len(waiting) > SHARDS_AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise NstError(
                "a process that hashes images died",
                got=error,
                next="most often memory ran out: shard.workers=1; the same command continues",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _hash_shard(single: ShardSet, kept: Path | None) -> Hashes:
    """Of a set of one shard."""
    shard = single.shards[0]
    path = kept / f"{Path(shard.name).stem}.parquet" if kept is not None else None
    mark = {b"sha256": (shard.sha256 + shard.prefix).encode(), b"version": VERSION.encode()}
    if path is not None and path.exists() and (known := _read(path, mark)) is not None:
        return known
    hashes = hash_tar(single.reader(0))
    if path is not None:
        _write(path, hashes, mark)
    return hashes


def _read(path: Path, mark: dict[bytes, bytes]) -> Hashes | None:
    """What was kept; None where that is damaged or of another shard, and so is made again."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError, ValueError):
        return None
    if not mark.items() <= (table.schema.metadata or {}).items() or not {*COLUMNS} <= {*table.column_names}:
        return None
    positions, pixels, looks = (table[name].to_numpy() for name in ("position", "pixels", "looks"))
    return Hashes(positions, table["key"].to_pylist(), pixels, looks)


def _write(path: Path, hashes: Hashes, mark: dict[bytes, bytes]) -> None:
    columns = {"position": hashes.positions, "key": hashes.keys, "pixels": hashes.pixels, "looks": hashes.looks}
    table = pa.table({**columns, "key": pa.array(hashes.keys, pa.string())}).replace_schema_metadata(mark)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
