"""nst shard: images in, labeled, unlabeled and test shard sets out.

Every image is decoded once before anything is decided or written, so the split is exact over images that are whole,
and a source with too many bad ones leaves nothing half-written. Unlabeled shards hold no labels; where the source
knows them they go to truth.parquet, which no training stage reads.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from nst.advice import again
from nst.atomic import atomic_path
from nst.checking import check_values
from nst.config import job_from, require_values
from nst.data.images import BadImage, decode
from nst.data.packed import SOURCE as PACKED
from nst.data.remote import Remote
from nst.data.shard_writer import MAX_SHARD_BYTES, SAMPLES_PER_SHARD, SHOWN_SKIPPED
from nst.data.shards import ShardSet, verify, write_shards
from nst.data.source import Source
from nst.data.sources import open_source
from nst.data.splits import split
from nst.data.transfer import is_remote
from nst.errors import NstError, require_count
from nst.progress import Progress, say, silent, track
from nst.runs import Run
from nst.settings.data import Sizes
from nst.settings.job import ShardJob
from nst.shown import shown
from nst.stages.apart import keep_apart
from nst.stages.exclude import evaluation_sets, index_beside, look_alikes_out, shard_sets, to_be_named
from nst.stages.places import shards_place

log = logging.getLogger(__name__)
T = TypeVar("T")

CHUNK = 16  # images per task of a thread
CHUNKS_AHEAD = 8  # tasks read in advance: bounds memory to 128 images


def run(
    source: Source,
    output: Path | str,
    *,
    labeled_per_class: int | None = None,
    test_samples: int | None = None,
    unlabeled_samples: int | None = None,
    seed: int = 0,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    check_images: bool = True,
    max_bad_fraction: float = 0.01,
    workers: int = 4,
    overwrite: bool = False,
    config: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Splits `source` into `output`/labeled, /unlabeled and /test and returns what was written.

    A finished run of the same source and options is returned as it is. One that was killed starts over
    and ends with the same bytes.

    Args:
        labeled_per_class, test_samples, unlabeled_samples: see splits.Sizes.
        samples_per_shard, max_shard_bytes: a shard ends with whichever comes first.
        check_images: decode every image first and leave out those that fail.
        max_bad_fraction: a larger part of bad images stops the run.
        workers: threads that read and decode.
        config: kept as config.yaml.

    Raises:
        NstError: options out of range, images that the split needs and that are not there, too many bad ones, or an
            `output` that holds something else.
    """
    output = Path(output)
    sizes = Sizes(labeled_per_class, test_samples, unlabeled_samples)
    check_values("shard", samples_per_shard=samples_per_shard, workers=workers)
    require_count("max_shard_bytes", max_shard_bytes)
    layout = {"samples_per_shard": samples_per_shard, "max_bytes": max_shard_bytes}
    checks = {"check_images": check_images, "max_bad_fraction": max_bad_fraction}
    origin = {"name": source.name, "digest": source.digest}
    inputs = {"source": origin, "seed": seed, **asdict(sizes), **layout, **checks}
    indexes = [f"{name}/index.json" for name in ("labeled", "unlabeled", "test")]
    with Run(output, "shard", inputs, config=config, overwrite=overwrite, files=indexes) as this:
        if this.done:
            return _reopened(output, this.result())
        with ThreadPoolExecutor(workers) as pool:
            bad = find_bad_images(source, pool, progress) if check_images else {}
            _report_bad(source, bad, max_bad_fraction)
            good = [position for position in range(len(source)) if position not in bad]
            parts = split(source.entries, good, source.classes, sizes, seed)
            skipped = [source.entries[position].key for position in bad]
            sets = {
                name: _summary(
                    write_shards(
                        output / name,
                        name,
                        progress(in_order(pool, source.sample, part), f"writing {name}", len(part)),
                        classes=source.classes,
                        labeled=name != "unlabeled",
                        name=f"{source.name}-{name}",
                        source=origin,
                        split=name,
                        seed=seed,
                        skipped=skipped,
                        **layout,
                    )
                )
                for name, part in parts.items()
                if part
            }
        _write_truth(source, parts["unlabeled"], output / "unlabeled" / "truth.parquet")
        named = [f"{source.entries[position].key}: {reason}" for position, reason in bad.items()]
        return this.finish(
            {
                "source": source.name,
                "classes": list(source.classes),
                "sets": sets,
                "left_out": len(good) - sum(map(len, parts.values())),
                "skipped": {"count": len(bad), "names": named[:SHOWN_SKIPPED]},
            }
        )


def find_bad_images(source: Source, pool: ThreadPoolExecutor, progress: Progress = silent) -> dict[int, str]:
    """Position and reason of every image that does not decode."""
    if source.lossless:
        return {}

    def check(position: int) -> str | None:
        try:
            decode(source.read(position))
        except BadImage as error:
            return str(error)
        return None

    reasons = progress(in_order(pool, check, range(len(source))), "checking images", len(source))
    return {position: reason for position, reason in enumerate(reasons) if reason is not None}


def in_order(pool: ThreadPoolExecutor, function: Callable[[int], T], positions: Sequence[int]) -> Iterator[T]:
    """`function` of every position, computed ahead by the pool's threads, with bounded memory."""

    def compute(chunk: Sequence[int]) -> list[T]:
        return [function(position) for position in chunk]

    waiting: deque[Future[list[T]]] = deque()
    for start in range(0, len(positions), CHUNK):
        waiting.append(pool.submit(compute, positions[start : start + CHUNK]))
        if len(waiting) > CHUNKS_AHEAD:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _report_bad(source: Source, bad: Mapping[int, str], max_bad_fraction: float) -> None:
    if not bad:
        return
    named = [f"{source.entries[position].key}: {reason}" for position, reason in bad.items()][:SHOWN_SKIPPED]
    if len(bad) > max_bad_fraction * len(source):
        share = math.ceil(100 * len(bad) / len(source)) / 100
        raise NstError(
            f"too many images of {source.name} cannot be decoded: {len(bad)} of {len(source)}",
            got="\n         ".join(named[:10]),
            valid=f"at most {max_bad_fraction:g} of them (max_bad_fraction)",
            next=f"repair or remove them, or allow more: {again(f'max_bad_fraction={share}')}",
        )
    listed = shown("\n  ".join(named))
    log.warning("%d of %d images cannot be decoded and are left out:\n  %s", len(bad), len(source), listed)


def _summary(shards: ShardSet) -> dict[str, Any]:
    return {
        "samples": shards.samples,
        "shards": len(shards.shards),
        "bytes": sum(shard.bytes for shard in shards.shards),
        "label_counts": list(shards.label_counts),
        "digest": shards.digest,
    }


def _reopened(output: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a finished run, once its shards have been seen to be there still."""
    for name, found in result["sets"].items():
        shards = ShardSet.open(output / name)
        if (shards.whole_digest or shards.digest) != found["digest"]:
            raise NstError(
                f"{output / name} has changed since nst shard wrote it",
                next=f"restore it; or delete {output / 'DONE'}, and the same command writes it again",
            )
    return result


def _write_truth(source: Source, positions: Sequence[int], path: Path) -> None:
    """The labels that the unlabeled shards do not show, for diagnosis only; no file where none is known."""
    known = [entry for entry in map(source.entries.__getitem__, positions) if entry.label is not None]
    if not known:
        return
    keys = pa.array([entry.key for entry in known], pa.string())
    labels = pa.array([entry.label for entry in known], pa.int32())
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"key": keys, "label": labels}), temporary, write_page_checksum=True)


def main(cfg: DictConfig) -> None:
    """Reads the configuration and runs the stage, or indexes, prunes or checks what is there."""
    job = job_from(ShardJob, cfg)
    options, data, remote = job.shard, job.data, Remote(**vars(job.remote))
    if not options.verify and (options.index is None or is_remote(options.index)):  # an index lies beside its tars
        keep_apart(cfg, "shard")
    if options.exclude and options.index is None:
        shards_place(data, "unlabeled")  # that there is one is told first
    evaluation = [ShardSet.open(place, remote) for place in evaluation_sets(job)]  # before anything is written
    if data.source.name == PACKED and not options.verify and not options.exclude:
        from nst.stages import pack  # which knows of teachers and so loads torch

        say(f"{options.output}: {pack.summary_line(pack.run(job, Path(options.output)))}")
        return
    if options.index is not None:
        shards = index_beside(options.index, Path(options.output), remote)
        say(f"{shards.folder}: index.json for {len(shards.shards)} tars, {shards.samples} images")
        for line in to_be_named(shards.folder, shards.place):
            say(line)
    if options.exclude:
        unlabeled = ShardSet.open(shards_place(data, "unlabeled"), remote) if options.index is None else shards
        for line in look_alikes_out(options, unlabeled, evaluation):
            say(line)
    if options.verify:
        for folder in shard_sets(options.output):
            report = verify(folder, remote=remote)
            left_out = f", {report['excluded']} excluded ones left out" if report["excluded"] else ""
            say(f"{folder}: {report['samples']} images in {report['shards']} shards, all as the index says{left_out}")
    if options.index is None and not options.exclude and not options.verify:
        say(f"{options.output}: {summary_line(make(job))}")


def make(job: ShardJob) -> dict[str, Any]:
    """`run` on the source that a job names."""
    config, data = require_values(job.config), job.data
    return run(
        open_source(**vars(data.source)),
        job.shard.output,
        labeled_per_class=data.labeled_per_class,
        test_samples=data.test_samples,
        unlabeled_samples=data.unlabeled_samples,
        seed=job.seed,
        samples_per_shard=job.shard.samples_per_shard,
        check_images=job.shard.check_images,
        max_bad_fraction=job.max_bad_fraction,
        overwrite=job.overwrite,
        config=config,
        progress=track,
    )


def summary_line(result: dict[str, Any]) -> str:
    """`50 labeled, 1247 unlabeled, 500 test images` and what was skipped."""
    parts = ", ".join(f"{entry['samples']} {name}" for name, entry in result["sets"].items())
    skipped = result["skipped"]
    note = f"; {skipped['count']} bad, left out: {', '.join(skipped['names'][:3])}" if skipped["count"] else ""
    return f"{parts} images of {len(result['classes'])} classes{note}"
