"""Gradient accumulation: micro-batches, one after the other, make the step of the undivided batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nst.atomic import sha256_file
from nst.cli import dispatch
from nst.data.datamodule import require_divisible
from nst.data.joint import joint_order, micro_batch, part_of, take_apart
from nst.errors import NstError
from nst.models.batch_norm import BatchNorm, micro_momentum
from nst.models.efficientnet import Architecture, EfficientNet, build
from nst.settings.learning import Recipe
from nst.settings.network import Noise, Side
from nst.training.classifier import Classifier
from nst.training.hardware import Hardware
from nst.training.phases import Schedule
from tests.conftest import TINY
from tests.xla_runs import dispatch_until_killed, metrics

LABELED, UNLABELED, CLASSES = 8, 16, 5


@dataclass(frozen=True)
class Grouped(Hardware):
    """A CPU whose steps see the batch in several parts, as a TPU's do."""

    parts: int = 1

    @property
    def groups(self) -> int:
        return self.parts


@pytest.fixture(scope="module")
def student() -> EfficientNet:
    torch.manual_seed(0)
    return build(Architecture(0.25, 0.5), CLASSES, dropout=0.3, stochastic_depth=0.5)


def joint_batch(groups: int, teacher: bool, unlabeled: int = UNLABELED) -> dict[str, Any]:
    made = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (LABELED + unlabeled, 3, 32, 32), generator=made, dtype=torch.uint8)
    batch: dict[str, Any] = {
        "images": images[joint_order(LABELED, unlabeled, groups)].contiguous(memory_format=torch.channels_last),
        "labels": torch.randint(0, CLASSES, (LABELED,), generator=made),
        "bad": [],
    }
    if teacher:
        batch["clean_images"] = images[LABELED:]
    elif unlabeled:
        batch["targets"] = torch.rand(unlabeled, CLASSES, generator=made).softmax(1)
    return batch


def step(student: EfficientNet, accumulate: int, *, groups: int, remat: bool, teacher: bool, ratio: int = 2) -> Any:
    """Gradients and noted scalars of a step with all noises on and BatchNorm in eval mode."""
    network = copy.deepcopy(student)
    network.set_grad_checkpointing(remat)
    network.to(memory_format=torch.channels_last)
    noise = Noise(dropout=0.3, stochastic_depth=0.5, unlabeled=Side(dropout=False))
    online = copy.deepcopy(student) if teacher else None
    module = Classifier(
        network, Recipe(labeled_batch_size=LABELED, unlabeled_ratio=ratio), noise, Schedule(0.1, 1.0),
        Grouped(accumulate=accumulate, parts=groups), teacher=online,
    )  # fmt: skip
    module.train()
    for norm in network.modules():
        if isinstance(norm, BatchNorm):
            norm.eval()
    torch.manual_seed(7)
    module.training_step(joint_batch(groups, teacher, ratio * LABELED), 0).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}, module.sums[:4], module


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize(
    "how",
    [
        {"groups": 1, "remat": False, "teacher": False},
        {"groups": 1, "remat": True, "teacher": True},
        {"groups": 2, "remat": False, "teacher": True},
        {"groups": 1, "remat": False, "teacher": False, "ratio": 0},
    ],
    ids=str,
)
def test_micro_batches_leave_the_gradients_and_scalars_of_one_batch(student: Any, accumulate: int, how: Any):
    """Under all noises, whose masks are those of the undivided batch."""
    whole, told, _ = step(student, 1, **how)
    parts, micro_told, module = step(student, accumulate, **how)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 0.1
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=1e-6 * max(1, largest), msg=name)
    torch.testing.assert_close(micro_told, told, rtol=1e-6, atol=1e-6)
    assert module.summed_steps == 1


def test_noise_is_on_in_that_comparison(student: EfficientNet):
    one, other = (step(student, 1, groups=1, remat=False, teacher=False)[0] for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    quiet = copy.deepcopy(student)
    for layer, _ in quiet._drawing():
        layer.rate = 0.0
    still = step(quiet, 1, groups=1, remat=False, teacher=False)[0]
    assert not torch.allclose(one["conv_stem.weight"], still["conv_stem.weight"], rtol=1e-2)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_micro_batches_are_the_same_images_for_any_number_of_groups(groups: int):
    order = torch.tensor(joint_order(LABELED, UNLABELED, groups))
    batch = {"images": order, "labels": torch.arange(LABELED), "targets": torch.arange(UNLABELED), "bad": ["a"]}
    seen: list[Tensor] = []
    for number in range(2):
        part = micro_batch(batch, number, 2, groups)
        labeled, unlabeled = take_apart(part["images"], len(part["labels"]), groups)
        assert labeled.tolist() == part["labels"].tolist()
        assert (unlabeled - LABELED).tolist() == part["targets"].tolist()
        assert sorted(labeled.tolist()) == list(range(number, LABELED, 2))
        assert part["bad"] == ["a"]
        seen += [labeled, unlabeled]
    assert sorted(torch.cat(seen).tolist()) == list(range(LABELED + UNLABELED))
    images = torch.zeros(LABELED, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert part_of(images, 4, 1, 2).is_contiguous(memory_format=torch.channels_last)


def test_running_statistics_weigh_micro_batches_as_one_batch():
    assert micro_momentum(0.01, 1) == 0.01
    kept = 1.0
    for _ in range(4):
        kept *= 1 - micro_momentum(0.1, 4)
    assert kept == pytest.approx(0.9)


def test_batches_that_do_not_divide_are_refused_in_words(digits: Path, tmp_path: Path):
    require_divisible(24, 2, accumulate=3)
    with pytest.raises(NstError, match="micro-batches") as told:
        require_divisible(32, 4, accumulate=3)
    assert "student.labeled_batch_size=36" in str(told.value)
    options = [*TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", "trainer.accumulate=3"]
    with pytest.raises(NstError, match="micro-batches"):
        dispatch(["train", *options])
    # each of two ranks gets as much: said before they are started
    ranks = ["trainer.accumulate=1", "trainer.devices=2", "trainer.strategy=ddp"]
    for batch in ("student.labeled_batch_size=9", "student.finetune={epochs: 1, labeled_batch_size: 9}"):
        with pytest.raises(NstError, match="does not divide by the number of devices"):
            dispatch(["train", *options, *ranks, batch])
    assert not (tmp_path / "run").exists()
    for wrong in (0, 1.5, True, "four"):
        with pytest.raises(NstError, match=r"trainer\.accumulate"):
            Hardware(accumulate=wrong)  # type: ignore[arg-type]
    with pytest.raises(NstError, match="loss scaling"):
        Hardware(accumulate=2, precision="16-mixed")


def test_an_accumulating_training_resumes_bit_for_bit_and_is_another_run(digits: Path, tmp_path: Path):
    common = [*TINY, f"data.root={digits}", "trainer.accumulate=2", "student.labeled_batch_size=8"]
    dispatch(["train", *common, f"run_dir={tmp_path / 'whole'}"])
    for stop in (5, 9):  # between two checkpoints
        dispatch_until_killed([*common, f"run_dir={tmp_path / 'cut'}"], step=stop)
    dispatch(["train", *common, f"run_dir={tmp_path / 'cut'}"])
    files = [tmp_path / name / "checkpoints" / "trained.safetensors" for name in ("whole", "cut")]
    assert sha256_file(files[0]) == sha256_file(files[1])
    ours, theirs = (metrics(tmp_path / name) for name in ("cut", "whole"))
    assert {name: values.tolist() for name, values in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
    assert len(ours["train/loss"]) == 6  # a row of two steps, as without micro-batches
    with pytest.raises(NstError, match="accumulate"):  # BatchNorm saw other batches
        dispatch(["train", *common, f"run_dir={tmp_path / 'whole'}", "trainer.accumulate=1"])
