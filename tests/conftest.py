"""Data that the tests make for themselves, and the configuration of a training that takes seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nst.settings import GROUPS
from nst.stage_table import STAGES
from tests import composing
from tests.sharding import sharded

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "2")
composing.start()

# what takes minutes, longest first: started last, one of them would keep a single core busy while the others idle
LONG_FILES = ["test_xla.py", "test_xla_hosts.py", "test_distributed.py", "test_iterate.py", "test_docs.py",
              "test_train.py", "test_ranks.py", "test_damage.py", "test_bench.py", "test_wrong_values.py",
              "test_xla_networks.py", "test_tpu.py", "test_batch_norm.py", "test_xla_small.py",
              "test_experiments.py"]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


SIZES = ["data.test_samples=100", "data.unlabeled_samples=240", "shard.samples_per_shard=80"]
# a network of 50,000 parameters on 12-px digits, a few steps
TINY = [
    "experiment=digits_demo",
    "iterate.control=false",
    "eval=clean",
    "model.width=0.25",
    "model.depth=0.25",
    "model.train_size=12",
    "model.test_size=12",
    "student.labeled_batch_size=8",
    "student.steps=12",
    "student.schedule.warmup_epochs=0.5",
    "student.checkpoint_every=4",
    "student.validate_every=8",
    "student.log_every=2",
    "trainer.workers=0",
    *SIZES,
]


def read_by(stage: str, options: list[str]) -> list[str]:
    """Of options for a whole recipe those that a stage reads; others are refused on the command line."""
    record = STAGES[stage]
    if record.job is None or not record.strict:  # its recipes are whole
        return options
    names = [option.partition("=")[0] for option in options]
    chosen = {name for name in names if name in GROUPS and name not in record.options}  # which would ask for more
    return [option for option, name in zip(options, names, strict=True) if record.reads(name) and name not in chosen]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard sets of the digits: 50 labeled, 240 unlabeled in three shards, 100 test images."""
    root = tmp_path_factory.mktemp("digits")
    sharded("digits", root, *SIZES)
    return root


@pytest.fixture
def tiny(digits: Path, tmp_path: Path) -> Callable[..., Any]:
    """`tiny(*overrides, run_dir=...)` composes the configuration of a training that takes seconds."""
    from nst.config import compose_config

    def compose(*overrides: str, run_dir: Path | None = None) -> Any:
        directory = run_dir or tmp_path / "run"
        return compose_config([*TINY, f"data.root={digits}", f"run_dir='{directory}'", *overrides])

    return compose


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read words only: figures are made but not drawn, which is what takes seconds."""
    from nst.report import page
    from nst.stages import report

    monkeypatch.setattr(report, "save_png", lambda figure, path: None)
    monkeypatch.setattr(page, "svg_document", lambda figure: '<svg width="1" height="1"/>')


@pytest.fixture
def tf32() -> Iterator[list[Any]]:
    """Whatever may compute in TF32 does so; afterwards as before."""
    import torch

    kinds = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "tf32"
    yield kinds
    for kind, precision in zip(kinds, before, strict=True):
        kind.fp32_precision = precision
