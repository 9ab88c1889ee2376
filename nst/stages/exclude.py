"""`nst shard --index` and `--exclude`: sets of tars that are there, without what looks like an evaluation picture."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nst.data.exclusion import exclude
from nst.data.image_list import listed_classes
from nst.data.index_files import has_index
from nst.data.remote import Remote
from nst.data.shard_set import in_index, must_be_named
from nst.data.shards import ShardSet, index_tars
from nst.data.transfer import is_remote
from nst.errors import NstError
from nst.progress import track
from nst.settings.job import ShardJob
from nst.settings.stages import ShardOptions
from nst.stages.places import shards_place

SHOWN_EXCLUDED = 10


def index_beside(folder: str, classes: str | None, output: Path, remote: Remote) -> ShardSet:
    """An index beside the tars; for tars at an address in output/unlabeled, where data.unlabeled finds it.

    Args:
        classes: text file with their names.
    """
    beside = output / "unlabeled" if is_remote(folder) else Path(folder)
    if is_remote(folder) and any(beside.glob("*.tar")):
        raise NstError(f"{beside} holds shards already", next="choose another folder: shard.output=<folder>")
    names = listed_classes(Path(classes)) if classes is not None else None
    return index_tars(folder, names, output=beside, remote=remote, progress=track)


def evaluation_sets(job: ShardJob) -> list[str]:
    """Places of the shards whose images `shard.exclude` wants excluded."""
    chosen = job.shard.exclude
    if not chosen:
        return []
    if chosen is True:  # the test set, and the validation set where there is one
        validation = job.data.validation
        return [shards_place(job.data, "test"), *([validation] if validation and has_index(validation) else [])]
    return chosen if isinstance(chosen, list) else [chosen]


def look_alikes_out(options: ShardOptions, unlabeled: ShardSet, evaluation: Sequence[ShardSet]) -> Iterator[str]:
    """Prunes the unlabeled set and tells what was found, line by line."""
    here = not is_remote(unlabeled.folder) and os.access(unlabeled.folder, os.W_OK)
    output = Path(unlabeled.folder) if here else Path(options.output) / "unlabeled"
    report = exclude(
        unlabeled,
        evaluation,
        output,
        distance=options.exclude_distance,
        workers=options.workers,
        progress=track,
    )
    share = report["excluded"] / report["before"]
    yield (
        f"{output}: {report['excluded']} of {report['before']} images excluded ({share:.3%}): {report['same_pixels']} "
        f"with the pixels of an evaluation image, {report['look_alike']} that look like one"
    )
    for row in report["images"][-report["excluded"] :][:SHOWN_EXCLUDED] if report["excluded"] else []:
        yield f"  {row['key']} = {row['matched_key']} ({row['reason']}, {row['distance']} bits apart)"
    if report["excluded"] > SHOWN_EXCLUDED:
        yield f"  and {report['excluded'] - SHOWN_EXCLUDED} more: {output / 'excluded.json'}"
    if not here:
        yield from to_be_named(output, unlabeled.place)


def to_be_named(folder: Path | str, place: Path | str) -> Iterator[str]:
    """What readers of an index must say, where its shards lie at a place that no index may name alone."""
    if place != folder and must_be_named(place):
        yield f"stages that read {folder} need the place of its shards: remote.shards_at='{in_index(place)}'"


def shard_sets(folder: str) -> list[Path | str]:
    """The folder itself, or those of its parts that hold a shard set."""
    if is_remote(folder):
        return [folder]
    parts = (Path(folder), *(Path(folder) / name for name in ("labeled", "unlabeled", "test", "validation")))
    found: list[Path | str] = [part for part in parts if has_index(part)]
    if not found:
        raise NstError(f"there is no shard set in {folder}", next="shard.output=<folder of one that is there>")
    return found
