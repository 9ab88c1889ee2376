"""CPU time and memory of each stage: the demo, or a run at 224 px.

    bin/bench profile                          # the stages of the demo, with a table of CPU time
    bin/bench profile --run photographs        # EfficientNet-B0 at 224 px on generated JPEGs, a few steps
    bin/bench profile --stage train --functions 25    # and what a stage spends it on, by cProfile

Each stage is the `nst` command in a process of its own. CPU time (user + system, loader workers included) hardly
depends on what else the machine does, time on the clock does. With --functions a stage runs under Python's profiler,
which slows it: compare functions, not seconds.
"""

from __future__ import annotations

import argparse
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import harness
from nst.errors import NstError

PHOTOGRAPHS = 400
STAGES = ("shard", "train", "label", "select", "evaluate", "report")
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Spent:
    """What a stage took."""

    user_s: float
    system_s: float
    wall_s: float
    peak_mb: float


def digits(folder: Path, steps: int | None) -> dict[str, list[str]]:
    """The demo's stages, one generation of students."""
    common = ["experiment=digits_demo", f"data.root={folder}/data"]
    common += [f"student.steps={steps}"] if steps else []
    teacher, student = folder / "teacher", folder / "student"
    ratio = ["student.labeled_batch_size=16", "student.unlabeled_ratio=7", "student.optimizer.rate_per_256=0.16"]
    return _chain(common, teacher, student, ["model.width=0.35"], ["model.width=0.5", *ratio])


def photographs(folder: Path, steps: int | None) -> dict[str, list[str]]:
    """B0 at 224 px from a folder of JPEGs; steps enough to see the rates, not to learn."""
    from benchmarks.photographs import samples

    steps = steps or 6
    for sample in samples(PHOTOGRAPHS):
        path = folder / "pictures" / f"class{sample.label}" / f"{sample.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    common = ["data=folder", f"data.source.root={folder}/pictures", f"data.root={folder}/data"]
    common += [
        "data.labeled_per_class=3", f"student.steps={steps}", "student.labeled_batch_size=8",
        "student.unlabeled_ratio=3", "student.schedule.warmup_epochs=0",
    ]  # fmt: skip
    selecting = ["select.min_confidence=0", "select.allow_empty_classes=true", "select.images_per_class=null"]
    return _chain(common, folder / "teacher", folder / "student", [], [], ["label.batch_size=32"], selecting)


RUNS = {"digits": digits, "photographs": photographs}


def _chain(
    common: list[str],
    teacher: Path,
    student: Path,
    teacher_options: list[str],
    student_options: list[str],
    labeling: Sequence[str] = (),
    selecting: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Arguments of `nst` for each stage, by name."""
    from_teacher = [*common, f"teacher.run={teacher}"]
    return {
        "shard": ["shard", *common],
        "train teacher": ["train", *common, *teacher_options, f"run_dir={teacher}"],
        "label": ["label", *from_teacher, *labeling],
        "select": ["select", *from_teacher, *selecting],
        "train student": ["train", *from_teacher, *student_options, f"run_dir={student}"],
        "evaluate": ["evaluate", *common, f"model.checkpoint={student}"],
        "report": ["report", f"report.runs=[{teacher},{student}]", f"run_dir={teacher.parent}/report"],
    }


def main(argv: list[str]) -> None:
    options = parse(argv)
    spent: dict[str, Spent] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{options.run}: CPU seconds of each stage\n{'':16s}{'user':>8}{'system':>8}{'clock':>8}{'peak MB':>9}")
        for name, arguments in RUNS[options.run](folder, options.steps).items():
            profiled = options.functions and options.stage in (None, arguments[0])
            times = spent[name] = run(arguments, folder / "profile" if profiled else None)
            print(
                f"{name:16s}{times.user_s:8.1f}{times.system_s:8.1f}{times.wall_s:8.1f}{times.peak_mb:9.0f}", flush=True
            )
            if profiled:
                pstats.Stats(str(folder / "profile")).sort_stats("tottime").print_stats(options.functions)
            if options.last == arguments[0]:
                break
    total = sum(times.user_s + times.system_s for times in spent.values())
    print(f"{'together':16s}{total:8.1f} CPU s")
    harness.finish("profile", "s", {name: asdict(times) for name, times in spent.items()}, options)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = harness.parser("profile", __doc__, rounds=None)
    parser.add_argument("--run", default="digits", choices=RUNS)
    parser.add_argument("--steps", type=int, default=None, help="of each training; default: 300, photographs: 6")
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="print the N functions that take longest")
    parser.add_argument("--stage", choices=STAGES, help="look only into this stage with --functions")
    parser.add_argument("--last", choices=STAGES, help="stop after this stage")
    return parser.parse_args(argv)


def run(arguments: list[str], profile: Path | None) -> Spent:
    """One `nst` command.

    Raises:
        NstError: it failed.
    """
    profiler = ["-m", "cProfile", "-o", str(profile)] if profile else []
    command = [sys.executable, *profiler, "-m", "nst", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise NstError(f"nst {arguments[0]} failed", got=errors.decode(errors="replace")[-2000:])
    return Spent(usage.ru_utime, usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 1024)
