"""Takes evaluation images out of the unlabeled set: their pixels give them away, or their looks.

No shard is copied. The positions of what is excluded go into index.json, readers pass over them, and the digest of the
set changes with them, so predictions made before are seen to be of other data. A set of 300 million images is pruned
by writing one file.

    index.json      the set without the excluded images
    excluded.json   what was excluded, and because of which evaluation image; the shards that lost all images
    hashes/         a Parquet file per shard (`nst.data.hashes`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from nst import written
from nst.atomic import write_json
from nst.data.hashes import Hashes, hash_shards
from nst.data.index_files import has_index, read_index
from nst.data.lookalikes import Lookalikes
from nst.data.shard_set import EXCLUDE_AGAIN, ShardInfo, ShardSet, emptied_shards, in_index, load_index
from nst.data.transfer import is_remote
from nst.documents import read_json
from nst.errors import NstError
from nst.progress import Progress, silent
from nst.sharing import take_lock
from nst.shown import without_secrets

SAME, ALIKE = "same pixels", "looks alike"


@dataclass(frozen=True)
class Excluded:
    """One image that was excluded; `distance` in bits of the two perceptual hashes."""

    shard: str
    position: int
    key: str
    matched_set: str
    matched_key: str
    reason: str
    distance: int


class KnownImages:
    """The evaluation images, ready to be recognised.

    Args:
        sets: evaluation sets.
        distance: bits in which the perceptual hash may differ; None: only the same pixels are recognised.
    """

    def __init__(self, sets: Sequence[ShardSet], distance: int | None, workers: int | None = None) -> None:
        parts = [
            (without_secrets(str(shards.folder)), part)
            for shards in sets
            for part in hash_shards(shards, workers=workers)
        ]
        self.names = [(name, key) for name, part in parts for key in part.keys]
        if not self.names:
            raise NstError("there is no evaluation image to look for", got=", ".join(str(one.folder) for one in sets))
        pixels = np.concatenate([part.pixels for _, part in parts])
        self._pixels, self._numbers = np.unique(pixels, return_index=True)
        looks = np.concatenate([part.looks for _, part in parts])
        self._looks = Lookalikes(looks, distance) if distance is not None else None

    def matches(self, shard: str, hashes: Hashes) -> Iterator[Excluded]:
        """The images of one shard that are evaluation images."""
        at = np.minimum(np.searchsorted(self._pixels, hashes.pixels), len(self._pixels) - 1)
        same = self._pixels[at] == hashes.pixels
        number, apart = np.where(same, self._numbers[at], -1), np.zeros(len(hashes), np.int64)
        if self._looks is not None:
            near, bits = self._looks.nearest(hashes.looks)
            number, apart = np.where(same, number, near), np.where(same, 0, bits)
        for row in np.flatnonzero(number >= 0).tolist():
            matched_set, matched_key = self.names[number[row]]
            yield Excluded(
                shard=shard,
                position=int(hashes.positions[row]),
                key=hashes.keys[row],
                matched_set=matched_set,
                matched_key=matched_key,
                reason=SAME if same[row] else ALIKE,
                distance=int(apart[row]),
            )


def exclude(
    shards: ShardSet,
    evaluation: Sequence[ShardSet],
    output: Path,
    *,
    distance: int | None = 4,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Takes the images of `evaluation` out of `shards`; returns the report, which is excluded.json too.

    What was excluded before stays excluded. A killed run loses at most the shards it was at.

    Args:
        output: folder of the new index.json: that of the shards, or another one if they cannot be written to.
        distance: see KnownImages.
        workers: processes that hash; None: one a core.

    Raises:
        NstError: no evaluation image, nothing would be left, `output` holds another set, or a shard is unreadable.
    """
    output.mkdir(parents=True, exist_ok=True)
    with take_lock(output, "wait for it, then give the same command again"):
        written.note(output / ".lock", made=True)  # where nst made the shards it may delete them all
        shards = _as_left(shards, output)
        known = KnownImages(evaluation, distance, workers)
        hashed = hash_shards(shards, output / "hashes", workers=workers)
        found: list[Excluded] = []
        left: list[ShardInfo] = []
        for shard, hashes in progress(zip(shards.shards, hashed, strict=True), "excluding", len(shards.shards)):
            before = set(shard.excluded)
            more = [match for match in known.matches(shard.name, hashes) if match.position not in before]
            excluded = tuple(sorted(before.union(match.position for match in more)))
            left.append(replace(shard, excluded=excluded, samples=shard.samples - len(more)))
            found += more
        emptied = [*_emptied_earlier(output, shards), *(shard for shard in left if not shard.samples)]
        left = [shard for shard in left if shard.samples]
        if not left:
            raise _nothing_left(shards, found, distance)
        report = _report(shards, evaluation, distance, found, _earlier(output, shards), emptied)
        write_json(output / "excluded.json", report)
        _write_index(shards, left, found, output)
        return report


def _nothing_left(shards: ShardSet, found: Sequence[Excluded], distance: int | None) -> NstError:
    """A smaller distance is advised where it leaves something."""
    if any(match.distance for match in found):
        next = "a smaller distance: shard.exclude_distance=0"
    elif any(match.reason == ALIKE for match in found):
        next = "to take out the same pixels alone: shard.exclude_distance=null"
    else:
        next = "add other unlabeled pictures; a smaller distance changes nothing"
    reasons = Counter(match.reason for match in found)
    return NstError(
        f"all images of {shards.folder} are evaluation images",
        got=f"shard.exclude_distance={'null' if distance is None else distance}: "
        + (", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "all excluded before"),
        next=next,
    )


def _as_left(shards: ShardSet, output: Path) -> ShardSet:
    """The set as an earlier exclusion left it in `output`, if that is not the folder of the set itself."""
    if shards.folder == output or not has_index(output):
        return shards
    earlier = load_index(output, shards.remote)
    if (earlier.whole_digest or earlier.digest) != (shards.whole_digest or shards.digest):
        raise NstError(f"{output} holds another shard set", next="choose another folder: shard.output=<folder>")
    return earlier.at(shards.place)


def _earlier(output: Path, shards: ShardSet) -> list[dict[str, Any]]:
    """Rows of the report of an earlier exclusion that the index still leaves out."""
    path = output / "excluded.json"
    if not path.exists():
        return []
    excluded = {shard.name: set(shard.excluded) for shard in shards.shards}  # a shard that lost all images is not here
    return [
        row
        for row in read_json(path, next=EXCLUDE_AGAIN.format(path=quote(str(path))))["images"]
        if row["shard"] not in excluded or row["position"] in excluded[row["shard"]]
    ]


def _emptied_earlier(output: Path, shards: ShardSet) -> list[ShardInfo]:
    """Shards without an image left that indexing must not bring back; those that came back as others are not."""
    names = {shard.name for shard in shards.shards}
    return [shard for shard in emptied_shards(output) if shard.name not in names]


def _report(
    shards: ShardSet,
    evaluation: Sequence[ShardSet],
    distance: int | None,
    found: Sequence[Excluded],
    earlier: list[dict[str, Any]],
    emptied: Sequence[ShardInfo],
) -> dict[str, Any]:
    reasons = Counter(match.reason for match in found)
    return {
        "set": without_secrets(str(shards.folder)),
        "evaluation": [
            {"set": without_secrets(str(one.folder)), "images": one.samples, "digest": one.digest} for one in evaluation
        ],
        "distance": distance,
        "before": shards.samples,
        "excluded": len(found),
        "same_pixels": reasons[SAME],
        "look_alike": reasons[ALIKE],
        "excluded_earlier": shards.excluded,
        "images": [*earlier, *(asdict(match) for match in found)],
        "emptied": [{**shard.as_json(), "excluded": list(shard.excluded)} for shard in emptied],
    }


def _write_index(shards: ShardSet, left: Sequence[ShardInfo], found: Sequence[Excluded], output: Path) -> None:
    index = read_index(shards.folder, shards.remote)
    place = shards.place if is_remote(shards.place) else Path(shards.place).resolve()
    elsewhere = {} if place == output.resolve() else {"shards_at": in_index(place)}
    counts = Counter(dict(enumerate(shards.label_counts)))
    counts.subtract(_labels(shards, found))
    changed = {
        "samples": sum(shard.samples for shard in left),
        "label_counts": [counts[label] for label in range(len(shards.label_counts))],
        "shards": [shard.as_json() for shard in left],
        "whole_digest": shards.whole_digest or shards.digest,
    }
    write_json(output / "index.json", {**index, **changed, **elsewhere})


def _labels(shards: ShardSet, found: Sequence[Excluded]) -> Iterator[int]:
    """Labels of what is excluded now, where the set has labels."""
    if not shards.labeled:
        return
    infos = {shard.name: shard for shard in shards.shards}
    for name, matches in groupby(found, key=lambda match: match.shard):
        reader = replace(shards, shards=(replace(infos[name], excluded=()),)).reader(0)
        yield from (int(reader.read(match.position, only=("cls",))[1]["cls"]) for match in matches)
