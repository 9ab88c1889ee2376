"""`nst shard`: images in; labeled, unlabeled, test and validation shard sets out.

Every image is decoded once before anything is decided or written, so the split is exact over images that are whole,
and a source with too many bad ones leaves nothing half-written. Unlabeled shards hold no labels; where the source
knows them they go to truth.parquet, which no training stage reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from nst.atomic import atomic_path
from nst.config import job_from, require_values
from nst.data.examination import Examined, examine, in_order, report_bad
from nst.data.images import DARK, READERS
from nst.data.index_files import has_index
from nst.data.packed import SOURCE as PACKED
from nst.data.remote import Remote
from nst.data.same_pictures import FILE as SAME_PICTURES
from nst.data.same_pictures import SamePictures
from nst.data.shard_writer import MAX_SHARD_BYTES
from nst.data.shards import ShardSet, verify, write_shards
from nst.data.source import Source
from nst.data.sources import open_source, takes
from nst.data.splits import split
from nst.data.storing import Storing
from nst.data.transfer import is_remote
from nst.errors import NstError, UsageError
from nst.progress import say, track
from nst.runs import Run
from nst.settings.job import ShardJob
from nst.settings.stages import ShardOptions
from nst.shown import count_of, some
from nst.stages.apart import PARTS, keep_apart
from nst.stages.as_sharded import SIZES, stored_size
from nst.stages.exclude import evaluation_sets, index_beside, look_alikes_out, shard_sets, to_be_named
from nst.stages.places import shards_place
from nst.stages.shard_table import lines, summary_line
from nst.stages.unread import typed_names

NOT_PRUNED = "what --exclude took out of the shards before is in these again: nst shard --exclude as before"
LATER = ("validation_samples", "stored_size")  # earlier runs did not record them: 0 and null are what they did


def run(job: ShardJob, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Splits the job's source into labeled/, unlabeled/, test/ and validation/ of its folder; returns what was written.

    A finished run of the same source and options is returned as it is. One that was killed starts over and ends with
    the same bytes.

    Args:
        needed: sets that may not be empty; where one would be, nothing is written.

    Raises:
        NstError: images that the split needs and that are not there, too many bad ones, or a folder that holds
            something else.
    """
    config, output = require_values(job.config), Path(job.shard.output)
    typed = typed_names(config.get("overrides") or ())
    sizes = replace(job.data, stored_size=stored_size(job.data, output, typed))  # of shards that are there
    source = open_source(**vars(job.data.source))
    layout = {"samples_per_shard": job.shard.samples_per_shard, "max_bytes": MAX_SHARD_BYTES}
    checks = {"check_images": job.shard.check_images, "max_bad_fraction": job.max_bad_fraction}
    origin = {"name": source.name, "digest": source.digest}
    asked = {name: getattr(sizes, name) for name in SIZES if name not in LATER or getattr(sizes, name)}
    inputs = {"source": origin, "seed": job.seed, **asked, **layout, **checks}
    files = [SAME_PICTURES, *(f"{name}/index.json" for name in PARTS)]
    pruned = (output / "unlabeled" / "excluded.json").exists()

    @cache
    def look() -> tuple[Examined, list[str], dict[str, list[int]]]:
        """At all pictures, and how they are split: before shards of others are deleted for it."""
        with ThreadPoolExecutor(READERS) as pool:
            seen = examine(source, pool, track) if job.shard.check_images else Examined()
        named = report_bad(source, seen, job.max_bad_fraction)
        good = [position for position in range(len(source)) if position not in seen.bad]
        options = {option for option in ("labeled", "ignore") if takes(source.name, option)}
        parts = split(source.entries, good, source.classes, sizes, job.seed, options)
        labels = Counter(source.entries[position].label for position in parts["labeled"])
        _require_sets(needed, [name for name, part in parts.items() if part], list(labels.values()))
        return seen, named, parts

    with Run(output, "shard", inputs, config=config, overwrite=job.overwrite, files=files, first=look) as this:
        if this.done:
            result = _reopened(output, this.result())
            counts = result["sets"].get("labeled", {}).get("label_counts", ())
            _require_sets(needed, result["sets"], counts, f" data.root=<another folder than {output}>")
            return result
        seen, named, parts = look()
        with ThreadPoolExecutor(READERS) as pool:
            store = Storing(source, sizes.stored_size)
            skipped = [source.entries[position].key for position in seen.bad]
            sets = {
                name: _summary(
                    write_shards(
                        output / name,
                        name,
                        track(in_order(pool, store, part), f"writing {name}", len(part)),
                        classes=source.classes,
                        labeled=name != "unlabeled",
                        name=f"{source.name}-{name}",
                        source=origin,
                        split=name,
                        seed=job.seed,
                        skipped=skipped,
                        **layout,
                    )
                )
                for name, part in parts.items()
                if part
            }
        _write_truth(source, parts["unlabeled"], output / "unlabeled" / "truth.parquet")
        left_out = len(source) - len(seen.bad) - sum(map(len, parts.values()))
        same = SamePictures.of(source.entries, source.classes, seen.pixels, parts)
        same.write(output)
        notes = [*_notes(source, seen, parts, left_out), *same.labeled(output)]
        if store.shrunk:
            notes.append(f"{_pictures(len(store.shrunk), ('is', 'are'))} stored smaller, {store.size} px on the shorter"
                         " side (data.stored_size)")  # fmt: skip
        in_unlabeled = [*([NOT_PRUNED] if pruned else []), *same.unlabeled(output)]
        return this.finish(
            {
                "source": source.name,
                "classes": list(source.classes),
                "sets": sets,
                "left_out": left_out,
                "skipped": {"count": len(seen.bad), "names": named},
                **({"notes": notes} if notes else {}),
                **({"in_unlabeled": in_unlabeled} if in_unlabeled else {}),
            }
        )


def _notes(source: Source, seen: Examined, parts: Mapping[str, Sequence[int]], left_out: int) -> list[str]:
    """Everything about the source that its owner should know: passed over, odd, used otherwise than named."""
    notes = list(source.notes)
    notes += [f"{_pictures(count, ('has', 'have') if what == DARK else ('is', 'are'))} {what}"
              for what, count in sorted(seen.notes.items())]  # fmt: skip
    notes += [f"{some(same, 5)} differ in capital letters alone, and are different classes" for same in _cases(source)]
    if any(source.entries[position].split == "val" for position in parts["test"][:1]):
        notes.append("val/ serves as the test set, since there is no other")
    unknown = sum(entry.label is None and entry.split in ("test", "val") and place not in seen.bad
                  for place, entry in enumerate(source.entries))  # fmt: skip
    if unknown:
        notes.append(
            f"{_pictures(unknown, ('is', 'are'))} for test or validation and without a label: in none of the sets"
        )
    if left_out := left_out - unknown:
        notes.append(f"{_pictures(left_out, ('is', 'are'))} in none of the sets, as the sizes asked for say")
    for name in ("test", "validation"):
        found = {source.entries[position].label for position in parts[name]}
        missing = [known for label, known in enumerate(source.classes) if label not in found]
        if found and missing:
            notes.append(f"{name} has no picture of {count_of(len(missing), 'class')}: {some(missing, 5)}")
    return notes


def _cases(source: Source) -> Iterable[list[str]]:
    """Classes whose names differ in case alone."""
    groups: dict[str, list[str]] = {}
    for name in source.classes:
        groups.setdefault(name.casefold(), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _pictures(count: int, verbs: tuple[str, str]) -> str:
    return f"{count_of(count, 'picture')} {verbs[count != 1]}"


def _require_sets(needed: Sequence[str], there: Iterable[str], label_counts: Sequence[int], more: str = "") -> None:
    """Raises NstError where a set is empty that may not be, with a number of labels that leaves some unlabeled."""
    missing = [name for name in needed if name not in there]
    if missing == ["unlabeled"]:
        fewer = min(label_counts) // 2
        raise NstError(
            "there are no unlabeled images",
            got="all images became labeled ones",
            next="add a folder unlabeled/ beside the class folders"
            + (f", or take some for unlabeled ones: data.labeled_per_class={fewer}{more}" if fewer else ""),
        )
    if missing:
        raise NstError(
            f"there are no {missing[0]} images",
            valid="class folders, or train/<class>/x.jpg",
            next="sort some pictures into class folders, or give a file of labels: data=csv "
            "data.source.root=<labels.csv> data.source.pictures=<folder>",
        )


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
        if shards.excluded:
            found["samples"] = shards.samples
            result.pop("in_unlabeled", None)  # as it was before
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
    if options.classes is not None and options.index is None:
        raise UsageError(
            "shard.classes names the classes of tars that are indexed",
            got="no shard.index",
            next="shard.index=<folder of tars>; folders and CSV files name their classes themselves",
        )
    if not options.verify and (options.index is None or is_remote(options.index)):  # an index lies beside its tars
        keep_apart(cfg, "shard")
    if options.exclude and options.index is None:
        if not options.verify and _names_their_pictures(job):
            tell(run(job), options.output)
        shards_place(data, "unlabeled")  # that there is one is told first
    evaluation = [ShardSet.open(place, remote) for place in evaluation_sets(job)]  # before anything is written
    if data.source.name == PACKED and not options.verify and not options.exclude:
        from nst.stages import pack  # which knows of teachers and so loads torch

        say(f"{options.output}: {pack.summary_line(pack.run(job, Path(options.output)))}")
        return
    indexed = _index(options, remote) if options.index is not None else None
    if options.exclude:
        unlabeled = indexed or ShardSet.open(shards_place(data, "unlabeled"), remote)
        for line in look_alikes_out(options, unlabeled, evaluation):
            say(line)
    if options.verify:
        _verify(options.output, remote)
    if options.index is None and not options.exclude and not options.verify:
        tell(run(job), options.output)


def _index(options: ShardOptions, remote: Remote) -> ShardSet:
    assert options.index is not None
    shards = index_beside(options.index, options.classes, Path(options.output), remote)
    tars = count_of(len(shards.shards), "tar")
    say(f"{shards.folder}: index.json for {tars}, {count_of(shards.samples, 'image')}")
    for line in to_be_named(shards.folder, shards.place):
        say(line)
    return shards


def _verify(output: str, remote: Remote) -> None:
    for folder in shard_sets(output):
        report = verify(folder, remote=remote)
        left_out = f", {report['excluded']} excluded ones left out" if report["excluded"] else ""
        counted = f"{count_of(report['samples'], 'image')} in {count_of(report['shards'], 'shard')}"
        say(f"{folder}: {counted}, as index.json lists them{left_out}")


def _names_their_pictures(job: ShardJob) -> bool:
    """Whether the command names pictures of which it makes the unlabeled shards, or has: `run` compares what it did."""
    output, unlabeled = job.shard.output, job.data.unlabeled
    if job.data.source.root is None or is_remote(output) or unlabeled != f"{output}/unlabeled":
        return False
    return (Path(output) / "DONE").exists() or not has_index(unlabeled)


def tell(result: Mapping[str, Any], output: Path | str) -> None:
    """Says what `run` has made: the classes with their numbers, what was passed over, the totals."""
    for line in lines(result):
        say(line)
    say(f"{output}: {summary_line(result)}")
