"""Trainings on PyTorch/XLA in processes of their own: what tests of one host and of several start and look at."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nst.cli import dispatch
from nst.stage_table import STAGES
from tests.conftest import TINY, read_by
from tests.forked import PYTHON, Launched

Ran = tuple[Path, dict[str, dict[str, Any]]]  # where the runs lie, and what each was told and counted
ROOT = Path(__file__).parent.parent
STEPS = 20
# a low rate: RMSProp at a high one lets any two runs drift apart by their rounding
RECIPE = [f"student.steps={STEPS}", "student.log_every=2", "student.checkpoint_every=8", "student.validate_every=null",
          "student.optimizer.name=rmsprop", "student.optimizer.rate_per_256=0.003", "student.schedule.kind=constant",
          "student.schedule.warmup_epochs=0.2", "student.gradient_clip=20"]  # fmt: skip
QUIET = ["noise.dropout=0", "noise.stochastic_depth=0"]  # whose masks a CPU and XLA draw from different generators
# FixRes on a larger picture behind frozen blocks
FINETUNE = ["student.finetune.epochs=1", "student.finetune.image_size=16", "student.finetune.frozen_blocks=2"]
ON_XLA = ["trainer=xla_cpu", "trainer.guard.action=stop"]


class Program:
    """Trainings in one process with a number of devices."""

    def __init__(self, folder: Path, digits: Path, teacher: Path) -> None:
        self.folder, self.runs = folder, []  # type: ignore[var-annotated]
        folder.mkdir()
        self.common = [*TINY, f"data.root={digits}", *RECIPE, f"teacher.run={teacher}"]

    def add(self, name: str, *options: str, stage: str = "train", run_dir: str | None = None, **patches: Any) -> None:
        asked = [*self.common, f"run_dir={self.folder / (run_dir or name)}", *options]
        if STAGES[stage].job is not None:  # it lies in the run that it reads
            asked = [option for option in read_by(stage, asked) if not option.startswith("run_dir=")]
        self.runs.append({"name": name, "stage": stage, "options": asked, **patches})

    def start(self, devices: int, **environment: str) -> dict[str, dict[str, Any]]:
        """Runs them all; what each was told and counted, by name."""
        process = self.launch(devices, **environment)
        output, errors = process.communicate()
        assert process.returncode == 0, errors + output
        results = json.loads(output.split("RESULT ")[1])
        assert not [result["error"] for result in results if "error" in result]
        return {run["name"]: result for run, result in zip(self.runs, results, strict=True)}

    def launch(self, devices: int, **more: str) -> Launched:
        file = self.folder / f"runs{devices}.json"
        on_xla = [*ON_XLA, f"trainer.virtual_devices={devices}", "trainer.workers=0"]
        file.write_text(json.dumps([{**run, "options": [*run["options"], *on_xla]} for run in self.runs]))
        return Launched([*PYTHON, "tests.xla_program", str(devices), str(file)], ROOT, **more)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def dispatch_until_killed(options: list[str], step: int) -> None:
    from tests.xla_program import Died, die, in_step

    with in_step(step, die), pytest.raises(Died):
        dispatch(["train", *options])


def metrics(run: Path) -> dict[str, np.ndarray]:
    """Values of each metric in order of step, without those that tell the time."""
    found: dict[str, list[float]] = {}
    with open(run / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["metric"], []).append(float(row["value"]))
    told_by_the_machine = ("second", "_ms", "guard/")
    kept = {name: values for name, values in found.items() if not any(part in name for part in told_by_the_machine)}
    return {name: np.array(values) for name, values in kept.items()}
