"""Trainings that die at a step, and what of a run is the same whatever happened to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from nst.atomic import sha256_file
from nst.documents import read_metrics
from nst.training.classifier import Classifier
from nst.training.loggers import TIMING_METRICS


class Crash(Exception):
    """Stands for the process dying: nothing after it runs."""


@contextlib.contextmanager
def dying_at(step: int) -> Iterator[None]:
    """Within, a training dies as it begins this step."""
    original = Classifier.training_step

    def dies(self: Classifier, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == step:
            raise Crash
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Classifier, "training_step", dies)
        yield


def rows(run: Path) -> list[tuple[int, str, float]]:
    """metrics.csv without what depends on the machine's speed."""
    return [row for row in read_metrics(run / "metrics.csv") if not row[1].endswith(TIMING_METRICS)]


def weights(run: Path, name: str = "trained") -> str:
    return sha256_file(run / "checkpoints" / f"{name}.safetensors")
