"""`trainer.compile`: the training of an eager network within rounding, and sentences where it cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from nst import cli
from nst.config import job_from
from nst.errors import NstError
from nst.models.batch_norm import BatchNorm
from nst.models.efficientnet import Architecture, build
from nst.settings.job import TrainJob
from nst.settings.learning import Recipe
from nst.settings.network import Noise, Side
from nst.stages import train
from nst.training import compiling
from nst.training.classifier import Classifier
from nst.training.hardware import Hardware
from nst.training.phases import Schedule
from tests.conftest import TINY

STEPS, LABELED, RATIO, CLASSES, SIDE = 20, 8, 2, 5, 12
SHAPE = Architecture(0.25, 0.25, SIDE, SIDE, small_images=True)
Trained = tuple[list[float], dict[str, Tensor]]


class Losses(Classifier):
    """Keeps the loss of every step."""

    def publish(self) -> None:
        super().publish()
        self.found = [*getattr(self, "found", []), self.latest["train/loss"]]


class Ready:
    """Other random images and targets in every step."""

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[dict[str, Any]]:
        made = torch.Generator().manual_seed(1)
        for _ in range(STEPS):
            shape = (LABELED * (1 + RATIO), 3, SIDE, SIDE)
            images = torch.randint(0, 256, shape, generator=made, dtype=torch.uint8)
            yield {
                "images": images.contiguous(memory_format=torch.channels_last),
                "labels": torch.randint(0, CLASSES, (LABELED,), generator=made),
                "targets": torch.rand(LABELED * RATIO, CLASSES, generator=made).softmax(1),
                "bad": [],
            }


def trained(folder: Path, accumulate: int, *, compile: bool) -> Trained:
    """Losses, and the end of weights, statistics and moving average; dropout on the labeled images alone."""
    torch.manual_seed(0)
    hardware = Hardware(compile=compile, accumulate=accumulate)
    module = Losses(
        hardware.place(build(SHAPE, CLASSES, dropout=0.3, stochastic_depth=0.5)),
        Recipe(labeled_batch_size=LABELED, unlabeled_ratio=RATIO, log_every=1),
        Noise(dropout=0.3, stochastic_depth=0.5, unlabeled=Side(dropout=False)),
        Schedule(0.01, steps_per_epoch=10),
        hardware,
    )
    hardware.trainer(folder, max_epochs=1).fit(module, Ready())
    return module.found, {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal_trainings(ours: Trained, theirs: Trained) -> None:
    assert len(ours[0]) == len(theirs[0]) == STEPS
    assert len(set(ours[0])) == STEPS, "noise and images change"
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert any(name.startswith("ema.") for name in theirs[1])
    for name, value in theirs[1].items():
        torch.testing.assert_close(ours[1][name], value, rtol=1e-4, atol=1e-4, msg=name)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Traces as ever, and runs eager kernels: inductor takes minutes."""
    counting = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    torch._dynamo.utils.counters.clear()
    return counting


@pytest.mark.parametrize("accumulate", [1, 2])
def test_twenty_traced_steps_are_those_of_an_eager_network_and_one_graph(counter: Any, tmp_path: Path, accumulate: int):
    """Whatever the noise and its masks. The graph has no break, and is never made again."""
    ours, theirs = (trained(tmp_path, accumulate, compile=compile) for compile in (True, False))
    assert_equal_trainings(ours, theirs)
    assert counter.frame_count == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow  # compiles for one to three minutes on an idle core
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_twenty_compiled_steps_are_those_of_an_eager_network(tmp_path: Path, accumulate: int):
    ours, theirs = (trained(tmp_path, accumulate, compile=compile) for compile in (True, False))
    assert torch._inductor.metrics.generated_kernel_count > 10
    assert_equal_trainings(ours, theirs)


def test_the_tenth_network_of_a_process_is_compiled_too(counter: Any):
    """torch stops at eight graphs of a piece of code: fewer than `nst iterate` has generations and phases."""
    for number in range(10):
        norm = BatchNorm(number + 1, act_layer=torch.nn.SiLU)
        compiling.compiled(norm)(torch.randn(4, number + 1, 3, 3))
        assert counter.frame_count == number + 1


# ---- where it cannot work


def refused(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Exit code and sentence of a training that leaves no trace."""
    command = ["train", *TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", "trainer.compile=true", *options]
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert not (tmp_path / "run").exists()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return int(str(end.value.code)), said


def test_rematerialised_blocks_are_refused_before_anything_is_written(digits: Path, tmp_path: Path, capsys: Any):
    code, said = refused(digits, tmp_path, capsys, "model.remat=true")
    assert code == 2
    assert "torch.compile does not take rematerialised blocks" in said
    assert "trainer.compile=false" in said


def test_iterate_refuses_them_before_its_first_generation(tiny: Any):
    with pytest.raises(NstError, match="rematerialised blocks"):
        train.check(job_from(TrainJob, tiny("trainer.compile=true", "model.remat=true")))


def test_a_machine_without_a_compiler_is_told_what_to_install(
    digits: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    code, said = refused(digits, tmp_path, capsys)
    assert code == 1
    assert f"{tmp_path / 'g++'}: No such file or directory" in said.replace("\n", " ")
    assert "apt-get install g++ python3-dev" in said


def test_a_compiler_without_pythons_headers_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(NstError, match=r"error: Python\.h: No such file"):
        compiling.require_compilable(Hardware(compile=True), remat=False)
    compiling.require_compilable(Hardware(compile=False), remat=True)  # is nobody's business


def test_this_machine_can_compile():
    compiling.require_compilable(Hardware(compile=True), remat=False)
