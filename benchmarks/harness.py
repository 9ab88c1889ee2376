"""What all benchmarks share: options, alternating rounds, the table, the JSON file, and which machine it was.

Ours and the peers take turns, in one process unless each is `Apart`, in an order that rotates, and a ratio is taken
within each round. So a machine that slows down slows all of them, and the spread tells how far to trust it.

To add a benchmark, write benchmarks/<name>.py and one line in BENCHMARKS of benchmarks/__main__.py. The first line
of its docstring is what `bin/bench` lists.

    def main(argv: list[str]) -> None:
        parser = harness.parser("labeling", __doc__, rounds=5)        # brings --rounds and --json
        parser.add_argument("--batch-size", type=int, default=64, help="images (default: %(default)s)")
        options = parser.parse_args(argv)
        contenders = {"ours": label_once, "bare forward": forward_once}   # each does a round's work, returns its items
        comparisons = [Comparison("ours", "bare forward", target=1.5)]
        measured = harness.alternate(contenders, options.rounds)
        harness.report(Report("labeling", "images/s", measured, comparisons, vars(options)), options.json)

Tests run it at tiny size and check the table, never a time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WIDTH = 80  # columns
PACKAGES = (
    "torch", "torchvision", "lightning", "timm", "numpy", "pillow", "simplejpeg", "opencv-python-headless",
    "webdataset", "duckdb", "pyarrow",
)  # fmt: skip
BUSY = 0.3  # runnable processes per core before we start, above which a time is doubtful


def parser(name: str, description: str | None, *, rounds: int | None = 5) -> argparse.ArgumentParser:
    """The options of `bin/bench <name>`, with those that all benchmarks have; rounds=None: it takes no turns."""
    made = argparse.ArgumentParser(
        prog=f"bin/bench {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds is not None:
        made.add_argument("--rounds", type=_positive, default=rounds, help="turns of each (default: %(default)s)")
    made.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write all numbers to FILE")
    return made


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return value


@dataclass
class Turns:
    """What one contender did in each round: items, seconds on the clock, and CPU seconds of all its processes."""

    items: list[int] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def add(self, turn: Timed) -> None:
        self.items.append(turn.items)
        self.wall_s.append(turn.wall_s)
        self.cpu_s.append(turn.cpu_s)

    def rates(self, clock: str) -> list[float]:
        """Items per second of each round, by "wall" or "cpu"."""
        seconds = self.wall_s if clock == "wall" else self.cpu_s
        return [count / max(spent, 1e-9) for count, spent in zip(self.items, seconds, strict=True)]


@dataclass(frozen=True)
class Timed:
    """What a contender returns that times itself, because it has to prepare in every turn (see `Stopwatch`)."""

    items: int
    wall_s: float
    cpu_s: float


class Stopwatch:
    """Times the counted part of a turn; a GPU is waited for at both ends."""

    def __init__(self, items: int, device: Any = None) -> None:
        self.items = items
        self._wait = _waiting_for(device)
        self._began = self._ended = (0.0, 0.0)

    def start(self) -> None:
        self._wait()
        self._began = time.perf_counter(), cpu_seconds()

    def stop(self) -> None:
        self._wait()
        self._ended = time.perf_counter(), cpu_seconds()

    def timed(self) -> Timed:
        wall, cpu = (end - begin for begin, end in zip(self._began, self._ended, strict=True))
        return Timed(self.items, wall, cpu)


def _waiting_for(device: Any) -> Callable[[], None]:
    if getattr(device, "type", "cpu") != "cuda":
        return lambda: None
    return lambda: sys.modules["torch"].cuda.synchronize(device)


@dataclass(frozen=True)
class Comparison:
    """One row of the table: a contender of ours, a peer, and the ratio that is asked for (None: only told)."""

    ours: str
    peer: str
    target: float | None = None


@dataclass(frozen=True)
class Report:
    """A finished benchmark.

    Args:
        unit: of the rates, such as "images/s".
        clock: "wall", or "cpu" for rates per core used, worker processes included.
        facts: anything else worth writing down (sizes of the data, precision).
    """

    name: str
    unit: str
    measured: Mapping[str, Turns]
    comparisons: Sequence[Comparison]
    options: Mapping[str, Any]
    clock: str = "wall"
    facts: Mapping[str, Any] = field(default_factory=dict)


Contender = Callable[[], int | Timed]


def alternate(contenders: Mapping[str, Contender], rounds: int, *, warm_up: bool = True) -> dict[str, Turns]:
    """Lets the contenders take turns; each call does one round's work to the end and returns its number of items.

    The order rotates from round to round. A first turn of each, which prepares, is not counted.
    """
    names = list(contenders)
    if warm_up:
        for name in names:
            contenders[name]()
    measured = {name: Turns() for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            measured[name].add(_one_turn(contenders[name]))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return measured


def _one_turn(contender: Contender) -> Timed:
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = contender()
    if isinstance(result, Timed):
        return result
    return Timed(result, time.perf_counter() - wall, cpu_seconds() - cpu)


class Apart:
    """A contender that takes its turns in a process of its own: what it sets for its whole process is not its peers'.

    Args:
        make: makes the contender there, from `given`; both go through pickle.
    """

    def __init__(self, make: Callable[..., Callable[[], Timed]], *given: Any) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_take_turns, args=(theirs, make, given), daemon=True
        )
        process.start()
        theirs.close()  # so that the end of the other process is noticed

    def __call__(self) -> Timed:
        self._ours.send(None)
        turn: Timed = self._ours.recv()
        return turn


def _take_turns(turns: Connection, make: Callable[..., Callable[[], Timed]], given: Sequence[Any]) -> None:
    contender = make(*given)
    while True:
        try:
            turns.recv()
        except EOFError:
            return
        turns.send(contender())


def in_full(contender: Contender, clock: str) -> float:
    """Seconds that a turn takes with all its preparation, by "wall" or "cpu"."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    contender()
    return (cpu_seconds() - cpu) if clock == "cpu" else (time.perf_counter() - wall)


def cpu_seconds() -> float:
    """User and system time of this process, its threads, and its children that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def hardware(device: str, *options: str) -> Any:
    """The machine of `nst train trainer=<device>`, with all that its users get."""
    from nst.config import compose_config  # here: others than the training's benchmarks do without
    from nst.stages.resolving import machine_from

    return machine_from(compose_config([f"trainer={device}", *options]))


# ---- what is printed and written --------------------------------------------------------------------------


def report(finished: Report, file: Path | None) -> None:
    """Prints the table; writes the JSON file where one is asked for."""
    print(table(finished))
    write_json(file, as_json(finished))


def table(finished: Report) -> str:
    """Ours, peer, ratio: median [least .. largest] over the rounds, at most 80 columns."""
    per = " per core used" if finished.clock == "cpu" else ""
    rounds = len(next(iter(finished.measured.values())).items)
    title = f"{finished.name}: {finished.unit}{per}, median of {rounds} rounds"
    lines = [title, f"{'ours / peer':<32}{'ours':>8}{'peer':>8}{'ratio':>7} {'[min .. max]':<16}{'target':>7}"]
    for row in finished.comparisons:
        lines += _row(finished, row)
    lines += [line for name, value in finished.facts.items() for line in wrapped(f"{name}: {value}")]
    return "\n".join([*lines, *machine_lines()])


def _row(finished: Report, row: Comparison) -> list[str]:
    spread = ratio(finished, row)
    ours, peer = (statistics.median(finished.measured[name].rates(finished.clock)) for name in (row.ours, row.peer))
    *above, last = textwrap.wrap(f"{row.ours} / {row.peer}", 32, subsequent_indent="  ")
    median, least, largest = (f"{value:.2f}" if value < 100 else _short(value) for value in spread.values())
    span = f"[{least} .. {largest}]"
    target = f">= {row.target:g}" if row.target is not None else ""
    text = f"{last:<32}{_short(ours):>8}{_short(peer):>8}{median:>7} {span:<16}{target:>7}"
    return [*above, text.rstrip()]


def _short(value: float) -> str:
    """A rate in at most 8 characters: three significant digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}" if value < 1e7 else f"{value:.2e}"


def ratio(finished: Report, row: Comparison) -> dict[str, float]:
    """Median, least and largest of ours / peer within each round."""
    ours, peer = (finished.measured[name].rates(finished.clock) for name in (row.ours, row.peer))
    return _spread([mine / theirs for mine, theirs in zip(ours, peer, strict=True)])


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def as_json(finished: Report) -> dict[str, Any]:
    """Everything about a finished benchmark."""
    return {
        "benchmark": finished.name,
        "unit": finished.unit,
        "clock": finished.clock,
        "options": _plain(finished.options),
        "facts": dict(finished.facts),
        "machine": machine(),
        "contenders": {
            name: {**vars(turns), "rate": _spread(turns.rates(finished.clock))}
            for name, turns in finished.measured.items()
        },
        "comparisons": [{**vars(row), "ratio": ratio(finished, row)} for row in finished.comparisons],
    }


def finish(name: str, unit: str, numbers: Mapping[str, Any], options: argparse.Namespace) -> None:
    """The end of a benchmark that prints a table of its own: which machine it was, and the JSON file."""
    print("\n".join(machine_lines()))
    content = {"benchmark": name, "unit": unit, "options": _plain(vars(options)), "machine": machine()}
    write_json(options.json, {**content, "numbers": numbers})


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def write_json(file: Path | None, content: Mapping[str, Any]) -> None:
    """Writes `content` to `file`, unless that is None."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1, default=str) + "\n")


def machine() -> dict[str, Any]:
    """CPU, cores, threads, accelerators and versions, as far as they decide a speed."""
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if torch else []
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "load": round(os.getloadavg()[0], 2),
        "gpus": gpus,
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional one, not in this environment
    return found


def machine_lines() -> list[str]:
    about = machine()
    parts = [about["cpu"], f"{about['cores']} cores", *about["gpus"], f"Python {about['python']}"]
    parts += [f"{about['threads']} torch threads"] if about["threads"] else []
    parts += [f"{name} {version}" for name, version in about["versions"].items()]
    return wrapped("machine: " + ", ".join(parts))


def warn_if_busy() -> None:
    """Tells of other work on the machine, before ours begins."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > BUSY:
        print(f"note: the machine is busy (load {load:.1f} per core); times will be unsteady", file=sys.stderr)


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
