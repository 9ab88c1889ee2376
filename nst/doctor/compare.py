"""Are there test images among the unlabeled ones? A look at the content of their files, as far as is asked for.

Only equal files are found, because that costs a read and no decoding. What looks alike is found by `nst shard
--exclude`; where that has compared the whole set, nothing is read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from nst.data.images import IMAGE_EXTENSIONS
from nst.data.shard_set import EXCLUDE_AGAIN, ShardSet
from nst.data.transfer import is_remote
from nst.doctor.facts import Comparison
from nst.documents import read_json

MOST_SHARDS = 64  # opened of a set: each has its headers walked


def compare(unlabeled: ShardSet, test: ShardSet, most: int) -> Comparison | None:
    """At most `most` unlabeled images, evenly from all shards, with as many test images.

    None where nothing was compared: it was not asked for, or the shards lie elsewhere.

    Raises:
        NstError: a shard cannot be read.
    """
    if was_excluded(unlabeled, test):
        return Comparison(unlabeled.samples, test.samples)
    if most < 1 or is_remote(unlabeled.place) or is_remote(test.place):
        return None
    theirs = list(_files(test, most))
    known = {digest: key for key, digest in theirs}
    ours = list(_files(unlabeled, most))
    same = tuple((key, known[digest]) for key, digest in ours if digest in known)
    return Comparison(len(ours), len(theirs), same)


def was_excluded(unlabeled: ShardSet, test: ShardSet) -> bool:
    """Whether `nst shard --exclude` has compared this very test set with the whole set."""
    if is_remote(unlabeled.folder):
        return False
    report = Path(unlabeled.folder) / "excluded.json"
    again = EXCLUDE_AGAIN.format(path=quote(str(report)))
    return report.exists() and any(one["digest"] == test.digest for one in read_json(report, next=again)["evaluation"])


def _files(shards: ShardSet, most: int) -> Iterator[tuple[str, bytes]]:
    """(key, hash of the image file) of up to `most` images, spread over shards and within each."""
    opened = _spread(len(shards.shards), min(MOST_SHARDS, most))
    for position in opened:
        reader = shards.reader(position)
        for number in _spread(len(reader), most // len(opened)):
            key, files = reader.read(number, only=IMAGE_EXTENSIONS)
            for data in list(files.values())[:1]:
                yield key, hashlib.sha256(data).digest()
        reader.close()


def _spread(length: int, wanted: int) -> list[int]:
    """Up to `wanted` positions of `length`, evenly."""
    return [number * length // min(wanted, length) for number in range(min(wanted, length))]
