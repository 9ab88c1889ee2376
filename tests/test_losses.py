"""Losses against the released code's numbers (tests/golden/loss.npz) and their mathematics."""

from __future__ import annotations

import pytest
import torch
from helpers import golden_tensors
from torch import Tensor
from torch.nn.functional import cross_entropy

from nst.errors import NstError
from nst.training.losses import (
    joint_loss,
    labeled_loss,
    sharpen,
    smooth_one_hot,
    soft_cross_entropy,
    soft_targets,
    unlabeled_loss,
)

LABELED, RATIO = 8, 3
TEMPERATURES = {"T1": 1.0, "T05": 0.5, "T2": 2.0}
CASES = (
    "soft_T1",
    "soft_T05",
    "soft_T2",
    "hard",
    "online_soft_T1",
    "online_soft_T05",
    "online_hard",
    "soft_T1_nosmooth",
    "hard_nosmooth",
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_tensors("loss.npz")


def pseudo_labels(case: str, golden: dict[str, Tensor]) -> Tensor:
    teacher = golden["teacher_logits"][LABELED:]
    if "hard" in case:
        return teacher.argmax(dim=1) if "online" in case else golden["unl_labels"]
    temperature = next(value for name, value in TEMPERATURES.items() if name in case.split("_"))
    return soft_targets(teacher, temperature) if "online" in case else sharpen(golden["unl_probs"], temperature)


def test_the_cases_are_all_of_the_golden_file(golden: dict[str, Tensor]) -> None:
    assert {name.split("/")[0] for name in golden if "/" in name} == {*CASES, "labelled_only"}


@pytest.mark.parametrize("case", CASES)
def test_losses_equal_the_released_code(case: str, golden: dict[str, Tensor]) -> None:
    smoothing = 0.0 if "nosmooth" in case else 0.1
    logits = golden["logits"]
    labeled = labeled_loss(logits[:LABELED], golden["labels"], smoothing)
    unlabeled = unlabeled_loss(logits[LABELED:], pseudo_labels(case, golden), smoothing)
    total = joint_loss(labeled, unlabeled, RATIO)
    l2 = 1e-5 * 0.5 * golden["decay_var"].square().sum()
    torch.testing.assert_close(labeled, golden[f"{case}/lab_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(unlabeled, golden[f"{case}/ext_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(total, golden[f"{case}/train_data_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(total + l2, golden[f"{case}/train_loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", [case for case in CASES if "soft" in case])
def test_targets_have_the_top_probability_of_the_released_code(case: str, golden: dict[str, Tensor]) -> None:
    top = pseudo_labels(case, golden).amax(dim=1).mean()
    torch.testing.assert_close(top, golden[f"{case}/unl_target_prob"], rtol=1e-5, atol=0)


def test_a_teacher_learns_from_the_labeled_mean_alone(golden: dict[str, Tensor]) -> None:
    loss = labeled_loss(golden["logits"][:LABELED], golden["labels"])
    torch.testing.assert_close(loss, golden["labelled_only/train_data_loss"], rtol=1e-5, atol=0)


def test_joint_average_is_the_mean_over_the_concatenated_batch(golden: dict[str, Tensor]) -> None:
    logits = golden["logits"]
    targets = torch.cat([smooth_one_hot(golden["labels"], 10, 0.1), golden["unl_probs"]])
    labeled = labeled_loss(logits[:LABELED], golden["labels"])
    unlabeled = unlabeled_loss(logits[LABELED:], golden["unl_probs"])
    expected = soft_cross_entropy(logits, targets).mean()
    torch.testing.assert_close(joint_loss(labeled, unlabeled, RATIO, average="joint"), expected)
    torch.testing.assert_close(joint_loss(labeled, unlabeled, RATIO, average="sum"), expected * (1 + RATIO))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_labeled_loss_equals_the_library_s(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(16, 7, generator=generator)
    labels = torch.randint(7, (16,), generator=generator)
    expected = cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(labeled_loss(logits, labels, smoothing), expected)


def test_the_gradient_of_soft_cross_entropy_is_prediction_minus_target() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(6, 5, generator=generator, dtype=torch.float64).softmax(dim=1)
    soft_cross_entropy(logits, targets).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, logits.detach().softmax(dim=1) - targets)


def test_online_targets_carry_no_gradient_to_the_teacher() -> None:
    teacher_logits = torch.randn(4, 5, requires_grad=True)
    assert not soft_targets(teacher_logits, 0.5).requires_grad


@pytest.mark.parametrize("temperature", [0.02, 0.5, 1.0, 3.0])
def test_sharpening_stored_probabilities_equals_softmax_at_that_temperature(temperature: float) -> None:
    logits = 2 * torch.randn(32, 100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sharpened = sharpen(logits.softmax(dim=1), temperature)
    torch.testing.assert_close(sharpened, soft_targets(logits, temperature))


def test_low_temperature_on_a_flat_float16_distribution_stays_finite() -> None:
    probs = torch.full((1, 1000), 1e-3, dtype=torch.float16)
    probs[0, 7] = 2e-3
    sharpened = sharpen(probs, 0.05)  # (2e-3)^20 is below the smallest float32
    assert sharpened.dtype == torch.float32
    assert sharpened.argmax() == 7
    torch.testing.assert_close(sharpened.sum(dim=1), torch.ones(1))


def test_losses_are_computed_in_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(64, 1000, generator=generator).bfloat16()
    targets = torch.randn(64, 1000, generator=generator).softmax(dim=1).half()
    expected = soft_cross_entropy(logits.double(), targets.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = soft_cross_entropy(logits, targets)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)


def test_soft_pseudo_labels_are_never_smoothed_and_hard_ones_are() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(4))
    hard = torch.tensor([0, 1, 2, 3])
    soft = smooth_one_hot(hard, 5)
    assert torch.equal(unlabeled_loss(logits, soft, 0.0), unlabeled_loss(logits, soft, 0.3))
    torch.testing.assert_close(unlabeled_loss(logits, hard, 0.3), labeled_loss(logits, hard, 0.3))
    assert not torch.isclose(unlabeled_loss(logits, hard, 0.0), unlabeled_loss(logits, hard, 0.3))


def test_losses_trace_to_one_graph_without_reading_values() -> None:
    def student_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        unlabeled = unlabeled_loss(logits[4:], soft_targets(teacher_logits, 0.5))
        return joint_loss(labeled_loss(logits[:4], labels), unlabeled, 2)

    with torch.device("meta"):  # a meta tensor has no values: .item() or a branch on one raises
        loss = student_loss(torch.empty(12, 5), torch.empty(4, dtype=torch.int64), torch.empty(8, 5))
    assert loss.shape == ()


def test_labels_out_of_range_are_an_error() -> None:
    with pytest.raises(RuntimeError):
        labeled_loss(torch.zeros(2, 5), torch.tensor([0, 5]))


def test_targets_of_another_form_are_refused() -> None:
    with pytest.raises(NstError, match="neither soft nor hard"):
        unlabeled_loss(torch.zeros(2, 5), torch.zeros(2))
