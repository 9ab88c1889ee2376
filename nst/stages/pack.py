"""`nst shard data.source.name=selection`: packs a selection into training shards → packed-*.tar and an index.

A part of the stage `shard`: what is selected of `data.unlabeled` goes, with labels and distributions, into shards
that a student reads alone. Which image goes where is decided in nst/data/packing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nst.config import require_values
from nst.data.packed import SOURCE
from nst.data.packing import OPEN_SHARDS, Packer, Packing
from nst.data.pseudo_labels import PseudoLabels
from nst.documents import fingerprint
from nst.errors import NstError
from nst.progress import Bar
from nst.runs import Run
from nst.settings.job import ShardJob
from nst.shown import count_of
from nst.stages import resolving
from nst.stages.places import open_shards
from nst.training.teachers import pseudo_labels


def run(job: ShardJob, output: Path, *, shards_at_once: int = OPEN_SHARDS) -> dict[str, Any]:
    """Packs what the teacher's student would learn from; a finished run is returned as it is, a killed one continued.

    Args:
        shards_at_once: files that are open at the same time.

    Raises:
        NstError: no teacher; selection, predictions and shards that do not belong together; or no room.
    """
    teacher = resolving.teacher(job.teacher, job.stage)
    if teacher is None:
        raise NstError("whose selection is to be packed?", next="teacher.run=<run directory of the teacher>")
    unlabeled = open_shards(job.data, "unlabeled", job.remote)
    config, samples_per_shard = require_values(job.config), job.shard.samples_per_shard
    labels = pseudo_labels(teacher, unlabeled)
    if not isinstance(labels, PseudoLabels):
        raise NstError("there is no selection to pack", next="nst label and nst select, with teacher.mode=offline")
    about = {
        "name": SOURCE,
        "teacher": labels.predictions.teacher if labels.predictions else labels.summary["teacher"],
        "selection": fingerprint(labels.summary),
        "predictions": labels.predictions.digest if labels.predictions else None,
        "targets": labels.targets,
    }
    inputs = {
        **about,
        "unlabeled": unlabeled.digest,
        "seed": job.seed,
        "samples_per_shard": samples_per_shard,
        "shards_at_once": shards_at_once,
    }
    packing = Packing(
        copies=lambda number: labels.copies(unlabeled.shards[number].name),
        shards=len(unlabeled.shards),
        entries=len(labels),
        seed=job.seed,
        samples_per_shard=samples_per_shard,
        open_shards=shards_at_once,
    )
    with Run(output, "shard", inputs, config=config, overwrite=job.overwrite, files=["index.json"]) as this:
        if this.done:
            return this.result()
        with Bar("pack", len(labels)) as bar:
            packed = Packer(unlabeled, labels, output, packing).run(about, bar.update)
        images = sum(shard["samples"] for shard in labels.summary["shards"])
        return this.finish(
            {
                **about,
                "images": images,
                "entries": packed.samples,
                "shards": len(packed.shards),
                "digest": packed.digest,
            }
        )


def summary_line(result: Mapping[str, Any]) -> str:
    """`1,234 entries of 800 images in 2 shards`."""
    targets = f"{result['targets']} targets of {result['teacher'][:12]}"
    entries = "1 entry" if result["entries"] == 1 else f"{result['entries']:,} entries"
    images, shards = count_of(result["images"], "image"), count_of(result["shards"], "shard")
    return f"{entries} of {images} in {shards}, {targets}"
