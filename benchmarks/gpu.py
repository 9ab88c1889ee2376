"""One GPU: bits, speed, memory, loaders, in at most 8 minutes.

    bin/bench gpu --json gpu.json --markdown gpu.md
    bin/bench gpu --device cpu             # tiny, to try the benchmark itself; what needs a card is not measured

Every part runs in a process of its own with a limit of its own, so that one that fails or hangs says so in its row and
takes neither the card's memory nor the others' time. `nst plan plan.measured=gpu.json` plans by what was found; rows of
its `calibration` that are added to nst/plan/measured.json are what nst plans by anywhere.

The process that starts the parts never touches CUDA, which does not survive a fork.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import harness
from benchmarks.gpu_parts import FULL, PARTS, TINY, Device, Part, Row, Sizes
from nst.atomic import atomic_path
from nst.errors import NstError

SECONDS = 450  # for all parts together


def main(argv: list[str]) -> None:
    options = parse(argv)
    harness.warn_if_busy()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(Device(options.device), Path(folder), options.seconds):
            rows.append(row)
            print(line(row), flush=True)
    text = "\n".join([*HEAD, *map(line, rows), "", *harness.machine_lines()]) + "\n"
    print("\n".join(harness.machine_lines()))
    if options.markdown is not None:
        with atomic_path(options.markdown) as path:
            path.write_text(text)
    harness.write_json(
        options.json,
        {
            "benchmark": "gpu",
            "options": {"device": options.device, "seconds": options.seconds},
            "machine": harness.machine(),
            "rows": [asdict(row) for row in rows],
            "calibration": [row.calibration for row in rows if row.calibration],
        },
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = harness.parser("gpu", __doc__, rounds=None)
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"), help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table to FILE")
    return parser.parse_args(argv)


HEAD = ("| part | what | result | aim |", "|---|---|---|---|")


def line(row: Row) -> str:
    return f"| {row.part} | {row.what} | {row.result} | {row.aim} |"


def measured(device: Device, folder: Path, seconds: float) -> Iterator[Row]:
    """The rows of all parts as they come.

    Raises:
        NstError: no part can run, because the device is not there.
    """
    end = time.monotonic() + seconds
    sizes = FULL if device.name == "gpu" else TINY
    print("\n".join(HEAD))
    for number, (name, part) in enumerate(PARTS.items()):
        left = max(0.0, min(part.seconds, end - time.monotonic()))
        for row in isolated(name, part, device, sizes, folder, left):
            if number == 0 and row.failed:
                raise NstError(row.result, next="bin/bench gpu --device cpu tries the benchmark itself, at tiny size")
            yield row


def isolated(name: str, part: Part, device: Device, sizes: Sizes, folder: Path, seconds: float) -> Iterator[Row]:
    """The rows of one part; one that says why where it fails, dies, or has more to do than its time allows."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, part, device, sizes, folder / name, there))
    process.start()
    there.close()
    end = time.monotonic() + seconds
    try:
        while here.poll(max(0.0, end - time.monotonic())):
            row = here.recv()
            if row is None:
                return
            yield row
        yield Row(name, part.title, f"failed: not finished within {seconds:.0f} s", failed=True)
    except EOFError:
        process.join()
        yield Row(name, part.title, f"failed: its process ended with exit code {process.exitcode}", failed=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # its loaders too, which it leads
        process.kill()
        process.join()


def _child(name: str, part: Part, device: Device, sizes: Sizes, folder: Path, rows: Connection) -> None:
    os.setsid()
    os.dup2(2, 1)  # what trainings say is no part of the table
    folder.mkdir(parents=True)
    try:
        for row in part.rows(device, sizes, folder):
            rows.send(row)
    except Exception as error:  # of any kind: it is told in the table, and the other parts go on
        said = " ".join(str(error).split())[:300].replace("|", "/")
        rows.send(Row(name, part.title, f"failed: {type(error).__name__}: {said}", failed=True))
    rows.send(None)
