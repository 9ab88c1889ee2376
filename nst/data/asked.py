"""Which pictures of a listing a network has been asked about: known by their content, part by part.

    parts/pictures/000003.json   what the pictures of a part are known by, written before it is asked
    parts/000003.parquet         the answers, and parts/bad/000003.json: what could not be decoded

So of a folder to which pictures came only these are asked, also of one in which some were moved or renamed. A part that
a kill has left is asked whole, as it was planned.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nst.atomic import write_json
from nst.data.inputs import PART, Agreed, Inputs, NumberedPictures, Readable, written_name
from nst.data.prediction_files import PredictionFiles
from nst.data.shard_set import ShardInfo
from nst.documents import read_json
from nst.sharing import is_rank_zero

PLANS = "pictures"
Part = tuple[str, Sequence[int]]  # its name, and the numbers of its pictures in the listing


@dataclass(frozen=True)
class AskedPictures:
    """Those pictures of a listing that are to be asked about; `nst.data.evaluation_batches` reads them as shards.

    Args:
        digest: of all pictures of the listing.
    """

    pictures: NumberedPictures
    parts: Sequence[Part]
    digest: str

    @property
    def samples(self) -> int:
        return sum(len(numbers) for _, numbers in self.parts)

    @cached_property
    def shards(self) -> list[ShardInfo]:
        return [_shard(name, len(numbers), self.digest) for name, numbers in self.parts]

    def batch_size(self, at_most: int) -> int:
        """Of the largest part's batches, all alike: its last one is hardly padded."""
        largest = max((len(numbers) for _, numbers in self.parts), default=1)
        return -(-largest // -(-largest // at_most))

    def read(self, shard: int, index: int) -> tuple[str, np.ndarray, int | None]:
        """Its name, pixels (H, W, 3) uint8 and no label; raises BadImage."""
        number = self.parts[shard][1][index]
        return written_name(self.pictures.listed[number]), self.pictures.pixels(number), None


def _shard(name: str, samples: int, digest: str) -> ShardInfo:
    return ShardInfo(f"{name}.tar", samples, 0, digest)


# ---- what is to be asked -------------------------------------------------------------------------------------


def to_ask(files: PredictionFiles, inputs: Inputs, agreed: Agreed) -> tuple[Readable, list[int]]:
    """What holds the pictures that are to be asked about, and the numbers of its parts, on all ranks."""
    if isinstance(inputs, NumberedPictures):
        parts = agreed(plan(files, inputs) if is_rank_zero() else None)
        return AskedPictures(inputs, parts, inputs.digest), [*range(len(parts))]
    return inputs, agreed([number for number, shard in enumerate(inputs.shards) if not files.written(shard)])


def plan(files: PredictionFiles, pictures: NumberedPictures) -> list[Part]:
    """The parts that are to be asked, of pictures without an answer, each once however often it is there. What they
    hold is written down first."""
    plans = _plans(files)
    missing: dict[str, int] = {}
    answered = {known for name, own in plans.items() if _written(files, name) for known in own}
    for number, known in enumerate(pictures.known):
        if known not in answered:
            missing.setdefault(known, number)
    todo: list[Part] = []
    for name, own in plans.items():  # as before the kill: then the files are the same, too
        if not _written(files, name) and all(known in missing for known in own):
            todo.append((name, [missing.pop(known) for known in own]))
    taken = {name for name, _ in todo} | {name for name in plans if _written(files, name)}
    free = (name for number in itertools.count() if (name := f"{number:06d}") not in taken)
    new = [*zip(free, _equal([*missing.values()]))]  # noqa: B905  # there is always another name
    for name, numbers in new:
        write_json(_plan(files, name), {"pictures": [pictures.known[number] for number in numbers]})
    return sorted(todo + new)


def _equal(numbers: Sequence[int]) -> list[Sequence[int]]:
    """Parts of at most PART, all alike."""
    size = -(-len(numbers) // max(-(-len(numbers) // PART), 1))
    return [numbers[start : start + size] for start in range(0, len(numbers), size or 1)]


def _plans(files: PredictionFiles) -> dict[str, list[str]]:
    found = sorted((files.folder / PLANS).glob("*.json"))
    return {path.stem: read_json(path)["pictures"] for path in found}


def _plan(files: PredictionFiles, name: str) -> Path:
    return files.folder / PLANS / f"{name}.json"


def _written(files: PredictionFiles, name: str) -> bool:
    return files.written(_shard(name, 0, ""))


# ---- what was answered ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerPlaces:
    """Where the answers to a listing's pictures are.

    Args:
        parts: by number.
        part, place: (N,) of each picture of the listing; part -1: it was never asked about.
    """

    parts: Sequence[ShardInfo]
    part: np.ndarray
    place: np.ndarray


def answered(files: PredictionFiles, pictures: NumberedPictures) -> AnswerPlaces:
    """Of all pictures of the listing."""
    parts: list[ShardInfo] = []
    where: dict[str, tuple[int, int]] = {}
    for name, own in _plans(files).items():
        if _written(files, name):
            where.update((known, (len(parts), place)) for place, known in enumerate(own))
            parts.append(_shard(name, len(own), ""))
    found = np.array([where.get(known, (-1, -1)) for known in pictures.known], np.int64).reshape(-1, 2)
    return AnswerPlaces(parts, found[:, 0], found[:, 1])
