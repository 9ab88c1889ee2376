"""A row of a series with a seed: its command, its directory, and the digest of its options."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.series_table import Row
from nst.config import compose_config, plain
from nst.documents import fingerprint

RUNS = Path("runs/series")
# options by which no number moves: where things lie, on what machine, and what is made of them besides
PLACES = (
    "run_dir", "name", "stage", "overrides", "overwrite", "seed", "logger", "remote", "iterate.report",
    "data.source", "data.root", "data.labeled", "data.unlabeled", "data.test", "data.validation",
)  # fmt: skip
TRAINER = ("trainer.accumulate",)  # the only one of the trainer by which they do more than round


@dataclass(frozen=True)
class Job:
    """A row with a seed.

    Args:
        given: options of the command line, for all runs.
        root: of the pictures, absolute; None: as the recipe says.
    """

    series: str
    row: Row
    seed: int
    given: tuple[str, ...] = ()
    root: Path | None = None

    @property
    def directory(self) -> Path:
        return place(self.series, self.row.name, self.seed)

    def command(self, root: str | None) -> list[str]:
        """`nst` with what is asked of it."""
        options = [*self.row.options, f"seed={self.seed}", f"run_dir={self.directory}"]
        if root and self.row.stage == "iterate":
            downloads = _all_options(self.row.options)["data"]["source"].get("download")
            options += [f"data.source.root={root}", *(["data.source.download=false"] if downloads else [])]
        return ["nst", self.row.stage, *options, *self.given]

    @property
    def told(self) -> str:
        """The command with the pictures by their name alone: where they lie is this machine's."""
        return shlex.join(self.command(self.root.name if self.root else None))

    @property
    def options(self) -> str:
        return digest((*self.row.options, *self.given))


def place(series: str, row: str, seed: int) -> Path:
    """The directory of a run."""
    return RUNS / series / f"{row}-seed{seed}"


@cache
def digest(options: tuple[str, ...]) -> str:
    """Of all in which a row's configuration differs from the defaults, whatever file says it."""
    ours, defaults = _leaves(options), _leaves(())
    changed = {name: value for name, value in ours.items() if name not in defaults or defaults[name] != value}
    return fingerprint(changed)[:12]


@cache
def _all_options(options: tuple[str, ...]) -> Mapping[str, Any]:
    return plain(compose_config(options), whole=False)


@cache
def _leaves(options: tuple[str, ...]) -> Mapping[str, Any]:
    def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in node.items():
            here = f"{prefix}{name}"
            if here in PLACES or (prefix == "trainer." and here not in TRAINER):
                continue
            if isinstance(value, dict) and value:
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(flat(_all_options(options)))
