"""One small run of all stages at a fixed seed, as digests.

Run it before a change and after:

    bin/bench identity --output before.json        on the old code
    bin/bench identity --against before.json       on the new code, same machine: exit code 1 where anything moved

Compared are values, not files: tensors by name, rows of predictions and selections in the order of their keys, numbers
of results and metrics without times, places and hashes. So a change of a file's form moves nothing here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = ["model.width=0.25", "model.depth=0.25", "model.train_size=12", "model.test_size=12"]
OPTIONS = [
    *(
        "experiment=digits_demo",
        "iterate.control=false",
        "eval=robustness_quick",
        "eval.max_images=24",
        "eval.max_clips=2",
        "trainer.workers=0",
    ),
    *("+eval.attacks.pgd={epsilons: [2], steps: 2, step_size: 1, random_start: true}", "iterate.report=false"),
    *SIZES,
    *("data.test_samples=100", "data.unlabeled_samples=240", "shard.samples_per_shard=80"),
    *("student.labeled_batch_size=8", "student.steps=12", "student.schedule.warmup_epochs=0.5"),
    *("student.checkpoint_every=4", "student.validate_every=8", "student.log_every=2"),
    *("student.finetune.epochs=2", "student.finetune.image_size=16", "select.min_confidence=0.12"),
    *("select.images_per_class=20", "select.allow_empty_classes=true", "data.root=data", "run_dir=run"),
    "iterate.generations=[[],['model.width=0.3'],['select.method=official','teacher.targets=hard','teacher.reassign=true']]",
]
# of results: what differs between two runs of the same code, or names a place or a file
SKIPPED = ("_s", "seconds", "sha256", "digest", "fingerprint", "weights", "directory", "_dir", "images_per_second")


def digests(folder: Path) -> dict[str, str]:
    """Name of each result below a run → sha256 of its values."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = _of(_tensors(path))
        elif path.name == "metrics.csv":
            found[name] = _of(_rows_of_metrics(path))
        elif path.name in ("result.json", "robustness.csv") or (path.parent.name == "parts" and path.suffix == ".json"):
            found[name] = _of(_numbers(path))
    for tables in ("predictions", "selection"):
        for directory in sorted(folder.rglob(tables)):
            found[str(directory.relative_to(folder)) + "/*.parquet"] = _of(_table(directory))
    return found


def _of(lines: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def _tensors(path: Path) -> Iterator[bytes]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            yield f"{name} {tensor.dtype} {tensor.shape}".encode()
            yield tensor.tobytes()


def _rows_of_metrics(path: Path) -> Iterator[bytes]:
    from nst.training.loggers import TIMING_METRICS

    for line in sorted(path.read_text().splitlines()):
        if not any(name in line for name in TIMING_METRICS):
            yield line.encode()


def _numbers(path: Path) -> Iterator[bytes]:
    if path.suffix == ".csv":
        yield path.read_bytes()
        return
    yield json.dumps(_kept(json.loads(path.read_text())), sort_keys=True).encode()


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _kept(entry) for key, entry in value.items() if not key.endswith(SKIPPED)}
    if isinstance(value, list):
        return [_kept(entry) for entry in value]
    return None if isinstance(value, str) else value


def _table(directory: Path) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    rows = [row for path in sorted(directory.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    columns = ("key", "label", "confidence", "probs", "copies")
    for row in sorted(rows, key=lambda row: row["key"]):
        yield repr([row.get(column) for column in columns]).encode()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bin/bench identity", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="file for the digests")
    parser.add_argument("--against", type=Path, help="such a file of before: what moved is said")
    arguments = parser.parse_args(argv)
    before = json.loads(arguments.against.read_text()) if arguments.against else None
    output = arguments.output.resolve() if arguments.output else None
    found = measured()
    if output:
        output.write_text(json.dumps(found, indent=1) + "\n")
    if before is None:
        print("\n".join(f"{digest[:16]}  {name}" for name, digest in found.items()))
        return
    moved = [name for name in sorted(before.keys() | found.keys()) if before.get(name) != found.get(name)]
    print(f"{len(found) - len(moved)} of {len(found)} are as before")
    if moved:
        sys.exit("\n".join(f"moved: {name}" for name in moved))


def measured() -> dict[str, str]:
    """The digests of a run in a folder of its own."""
    from nst import cli

    os.environ["OMP_NUM_THREADS"] = "1"  # sums of many threads are of another order
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        try:
            cli.main(["iterate", *OPTIONS])
        except SystemExit as end:
            if end.code:
                raise
        found = digests(Path("run"))
    assert len(found) > 30, "the run has written less than it should"
    return found
