"""Selection from 300 million predictions; peer: a DuckDB query.

    bin/bench selection                                # 300 million rows; 6 GB of disk, a quarter of an hour in all
    bin/bench selection --rows 20000000 --images-per-class 8667
    bin/bench selection --rows 20000000 --images-per-class 8667 --peer duckdb          # the two in turn
    bin/bench selection --rows 30000000 --images-per-class 13000 --saturated           # or --equal

ours    what `nst select` calls, in a process of its own that starts others: rows in the order of the shards
duckdb  in a process of its own, too: one query that ranks each class by a window function and writes Parquet files,
        as many as it likes and in any order, within the memory that is asked of us

Makes prediction files as `nst label` writes them (with no distributions: the selection does not read them), and
compares what was selected from them with the rule, counted again by NumPy. Some classes have thousands of times the
images of others; some confidences are equal. --saturated is a teacher that is sure of everything: all confidences lie
above 0.9999, almost half of them are 1. With --equal all are 0.97. All images of a class then lie near its cutoff.
Memory is the sum of all processes, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import harness
from benchmarks.harness import Comparison, Report, Timed
from nst.data.prediction_files import footer_of, write_columns
from nst.data.predictions import PredictionMetadata, finish_predictions, key_hashes, parquet_name
from nst.errors import NstError

TARGET_S, TARGET_GB = 60, 2  # of 300 million rows
MINIMUM = 0.3
TIES = 10_000  # every tenth confidence is a multiple of 1 / TIES
SATURATED = 1e-4  # saturated confidences lie within half of it below 1
EQUAL = 0.97


def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.child:
        return SELECTIONS[options.child](options, *options.folders)
    harness.warn_if_busy()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="nst-selection-") as folder:
        predictions = Path(folder) / "predictions"
        begun = time.perf_counter()
        write_all(predictions, options.rows, options.rows_per_shard, options.classes, kind=options.kind)
        written_bytes = sum(file.stat().st_size for file in predictions.glob("*.parquet"))
        shards = -(-options.rows // options.rows_per_shard)
        about = f"{options.rows:,} rows, {options.classes:,} classes, {shards:,} files, {written_bytes / 1e9:.1f} GB"
        about += f", {options.kind}" if options.kind else ""
        print(f"made {about} in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        if options.peer:
            return compare(predictions, options, about)
        output = Path(folder) / "selection"
        spent = in_a_child("ours", predictions, output, options)
        totals = check(predictions, output, options.images_per_class, options.classes)
    print(f"selection: {about}")
    print(f"  time          {spent.wall_s:8.1f} s  {options.rows / spent.wall_s / 1e6:.2f} million rows/s")
    print(f"  of all cores  {spent.cpu_s:8.1f} s")
    print(f"  peak memory   {spent.peak_gb:8.2f} GB")
    print(f"  selected      {totals['selected']:>12,} images, {totals['copies']:,} with copies: exactly the rule")
    print(f"  asked for     {TARGET_S} s and {TARGET_GB} GB with 300 million rows on two cores")
    numbers = {
        "time": spent.wall_s,
        "of all cores": spent.cpu_s,
        "peak memory": spent.peak_gb,
        "selected": totals["selected"],
        "with copies": totals["copies"],
        "files": shards,
    }
    harness.finish("selection", "s, GB and images", numbers, options)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = harness.parser("selection", __doc__, rounds=3)
    parser.add_argument("--rows", type=int, default=300_000_000, help="(default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--rows-per-shard", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--images-per-class", type=int, default=130_000, help="(default: %(default)s)")
    kinds = {"saturated": "all confidences above 0.9999", "equal": f"all confidences are {EQUAL}"}
    for kind, help in kinds.items():
        parser.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=help)
    parser.add_argument("--peer", choices=PEERS, default=None, help="takes turns with us; else ours runs once")
    parser.add_argument("--threads", type=int, default=None, help="of a selection (default: all cores)")
    parser.add_argument("--folder", type=Path, default=None, help="for the files (default: the temporary folder)")
    # what the children do
    parser.add_argument("--child", choices=SELECTIONS, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--folders", type=Path, nargs=2, default=None, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def compare(predictions: Path, options: argparse.Namespace, about: str) -> None:
    """Ours and the peer in turn; what each selected is compared with the rule, not timed."""
    peaks: dict[str, float] = {}

    def contender(name: str) -> Callable[[], Timed]:
        def turn() -> Timed:
            output = predictions.parent / name
            spent = in_a_child(name, predictions, output, options)
            check(predictions, output, options.images_per_class, options.classes)
            shutil.rmtree(output)
            peaks[name] = max(peaks.get(name, 0), spent.peak_gb)
            return Timed(options.rows, spent.wall_s, spent.cpu_s)

        return turn

    measured = harness.alternate({name: contender(name) for name in ("ours", options.peer)}, options.rounds)
    facts = {
        "predictions": about,
        "seconds": ", ".join(f"{name} {statistics.median(turns.wall_s):.1f}" for name, turns in measured.items()),
        "peak memory": ", ".join(f"{name} {peak:.2f} GB" for name, peak in peaks.items()),
        "selected": "exactly the rule, by both",
    }
    comparisons = [Comparison("ours", options.peer)]
    harness.report(Report("selection", "rows/s", measured, comparisons, vars(options), facts=facts), options.json)


def select(options: argparse.Namespace, predictions: Path, output: Path) -> None:
    """The measured part: what `nst select` calls."""
    from nst.settings.data import DataOptions, RemoteOptions, SourceOptions
    from nst.settings.job import SelectJob
    from nst.settings.learning import TeacherOptions
    from nst.settings.stages import SelectOptions
    from nst.stages.select import run

    job = SelectJob(
        stage="select", name="select", seed=0, overwrite=False, config={}, title="select",
        select=SelectOptions(
            images_per_class=options.images_per_class, min_confidence=MINIMUM, threads=options.threads,
            allow_empty_classes=True,
        ),
        teacher=TeacherOptions(predictions=str(predictions)), remote=RemoteOptions(),
        data=DataOptions(name="made", root="none", labeled="none", unlabeled="none", test=None, validation=None,
                         source=SourceOptions(name="folder")),
    )  # fmt: skip
    run(job, output)


def select_by_duckdb(options: argparse.Namespace, predictions: Path, output: Path) -> None:
    """The same rule as a query; a hash of the key decides ties."""
    import duckdb

    output.mkdir()
    settings = {
        "memory_limit": f"{TARGET_GB}GB",
        "temp_directory": str(output / ".spill"),
        "preserve_insertion_order": False,
        **({"threads": options.threads} if options.threads else {}),
    }
    wanted = options.images_per_class
    with duckdb.connect(config=settings) as database:
        database.execute(f"""
            CREATE VIEW confident AS SELECT index, key, label, confidence
                FROM read_parquet('{predictions}/*.parquet') WHERE confidence::DOUBLE >= {MINIMUM}::DOUBLE;
            COPY (
                WITH sizes AS (SELECT label, count(*) AS images FROM confident GROUP BY label),
                ranked AS (
                    SELECT index, key, label, confidence, images, row_number() OVER (
                        PARTITION BY label
                        ORDER BY CASE WHEN images > {wanted} THEN confidence END DESC, hash(key)
                    ) AS rank FROM confident JOIN sizes USING (label)
                )
                SELECT index, key, label, confidence,
                    ({wanted} // images + (rank <= {wanted} % images)::INTEGER)::UINTEGER AS copies
                FROM ranked WHERE images <= {wanted} OR rank <= {wanted}
            ) TO '{output}' (FORMAT parquet, COMPRESSION zstd, PER_THREAD_OUTPUT, OVERWRITE_OR_IGNORE)""")


PEERS = {"duckdb": select_by_duckdb}
SELECTIONS = {"ours": select, **PEERS}


@dataclass(frozen=True)
class Spent:
    """By a selection, its start included: seconds on the clock and of all cores, GB resident at the peak."""

    wall_s: float
    cpu_s: float
    peak_gb: float


def in_a_child(name: str, predictions: Path, output: Path, options: argparse.Namespace) -> Spent:
    command = [sys.executable, "-m", "benchmarks", "selection", "--child", name]
    command += ["--folders", str(predictions.absolute()), str(output.absolute())]
    command += ["--images-per-class", str(options.images_per_class)]
    command += ["--threads", str(options.threads)] if options.threads else []
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
    peak = 0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, resident(process.pid))
        time.sleep(0.1)
    _, status, usage = ended  # its times are also those of the processes that it has waited for
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise NstError(f"the selection failed ({name})", got=f"exit status {process.returncode}")
    return Spent(time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, peak / 1e9)


def resident(pid: int) -> int:
    """Bytes of a process and of those below it; what they share counts for each."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0  # it has ended
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(int(child)) for child in children)


# ---- predictions -----------------------------------------------------------------------------------------


def write_all(folder: Path, rows: int, per_shard: int, classes: int, *, kind: str | None = None) -> None:
    """Prediction files of so many rows, `kind` saturated or equal; memory is that of one file."""
    folder.mkdir(parents=True)
    names = [f"class {number}" for number in range(classes)]
    _require_room(folder, 32 * rows + 20 * classes * (rows // per_shard))
    rng = np.random.default_rng(0)
    share = rng.permutation(1 / np.arange(1, classes + 1) ** 0.8)  # a long tail
    ends = np.cumsum(share / share.sum())
    # sure of a third, unsure of the rest
    quantiles = np.quantile(
        np.concatenate([rng.beta(6, 1.2, 40_000), rng.beta(1.3, 3, 60_000)]), np.arange(4097) / 4096
    )
    for number, start in enumerate(range(0, rows, per_shard)):
        count = min(per_shard, rows - start)
        label = np.minimum(np.searchsorted(ends, rng.random(count)), classes - 1)
        confidence = np.interp(rng.random(count) * 4096, np.arange(4097), quantiles)
        if kind == "saturated":
            confidence = np.minimum(1 - SATURATED / 2 + SATURATED * confidence, 1)
        elif kind == "equal":
            confidence = np.full(count, EQUAL)
        else:
            confidence[::10] = np.round(confidence[::10] * TIES) / TIES
        write_shard(folder, number, start, label, np.clip(confidence, 1 / classes, 1), names)
    finish_predictions(folder, {"images": rows})


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NstError(
            f"too little room in {folder}",
            got=f"{free / 1e9:.0f} GB free",
            valid=f"about {needed / 1e9:.0f} GB",
            next="--folder <another disk>, or fewer --rows",
        )


def write_shard(
    folder: Path, number: int, start: int, label: np.ndarray, confidence: np.ndarray, names: list[str]
) -> None:
    count, name = len(label), f"unlabeled-{number:06d}.tar"
    keys = pc.utf8_lpad(pc.cast(pa.array(np.arange(start, start + count)), pa.string()), 12, "0")
    columns = {
        "index": np.arange(count, dtype=np.uint32),
        "key": keys,
        "key_hash": key_hashes(keys.to_pylist()),
        "label": label.astype(np.uint16),
        "confidence": confidence.astype(np.float32),
        "probs": pa.nulls(count, pa.list_(pa.float16(), len(names))),
    }
    about = PredictionMetadata("0" * 64, names, 224, name, f"{number:064d}")
    # no fsync as in nst label: these files need not outlive the machine
    write_columns(folder / parquet_name(name), columns, footer_of(about, keep=1.1, rows=f"{number:064d}"))


# ---- what is right ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Of each class: images at or over the minimum, above and at the lowest selected confidence."""

    images: np.ndarray
    above: np.ndarray
    reached: np.ndarray


def check(predictions: Path, output: Path, wanted: int, classes: int) -> dict[str, int]:
    """Compares a selection with its rule, by NumPy alone; returns the totals.

    Raises:
        NstError: it is not exactly the rule.
    """
    selected, copies, higher = (np.zeros(classes, np.int64) for _ in range(3))
    fewest, most = np.full(classes, wanted + 1), np.zeros(classes, np.int64)
    lowest = np.full(classes, np.inf)
    for label, confidence, times in _columns(output, "label", "confidence", "copies"):
        selected += np.bincount(label, minlength=classes)
        copies += np.bincount(label, weights=times, minlength=classes).astype(np.int64)
        np.minimum.at(lowest, label, confidence)
        np.minimum.at(fewest, label, times)
        np.maximum.at(most, label, times)
    for label, confidence in _columns(output, "label", "confidence"):
        higher += np.bincount(label[confidence > lowest[label]], minlength=classes)
    counts = _count(predictions, lowest)
    some = counts.images > 0
    abundant = counts.images > wanted
    base = wanted // np.maximum(counts.images, 1)
    claims = {
        "every class has exactly its total": copies == np.where(some, wanted, 0),
        "classes with too few keep every image": abundant | (selected == counts.images),
        "copies are as even as can be": ~some | abundant | ((fewest >= base) & (most <= base + 1)),
        "classes with enough have no copies": ~abundant | ((selected == wanted) & (most == 1)),
        "no image left out is surer than one selected": ~abundant | (higher == counts.above),
        "the cutoff is where the total is reached": ~abundant | (counts.reached >= wanted) & (counts.above < wanted),
    }
    broken = {claim: np.flatnonzero(~holds).tolist() for claim, holds in claims.items() if not holds.all()}
    if broken:
        raise NstError("the selection is not exact", got=str(broken)[:300])
    return {"selected": int(selected.sum()), "copies": int(copies.sum()), "classes_with_copies": int((most > 1).sum())}


def _count(predictions: Path, lowest: np.ndarray) -> Counts:
    found = Counts(*(np.zeros(len(lowest), np.int64) for _ in range(3)))
    for label, confidence in _columns(predictions, "label", "confidence"):
        at = lowest[label]
        for into, mask in (
            (found.images, confidence >= MINIMUM),
            (found.above, confidence > at),
            (found.reached, confidence >= at),
        ):
            into += np.bincount(label[mask], minlength=len(lowest))
    return found


def _columns(folder: Path, *names: str) -> Iterator[list[Any]]:
    """These columns of every Parquet file of a folder; confidence in double."""
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(names))
        yield [
            column.astype(np.float64 if name == "confidence" else np.int64)
            for name, column in ((name, table[name].to_numpy()) for name in names)
        ]
