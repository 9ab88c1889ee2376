"""Restricted evaluation, calibration and ReaL accuracy against loops over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nst.errors import NstError
from nst.metrics import EvaluationSums
from nst.robustness.answers import (
    RealAccuracy,
    SetAnswers,
    aurra,
    rms_calibration_error,
)


def random_answers(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences without ties, in no order, and correctness that follows them with an excess of confidence."""
    rng = np.random.default_rng(seed)
    confidence = rng.permutation(np.linspace(0.1, 1, count))
    return confidence, rng.random(count) < confidence**2


# ---- calibration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [200, 1234, 7500])
def test_rms_calibration_error_by_brute_force(count: int) -> None:
    confidence, correct = random_answers(count)
    pairs = sorted(zip(confidence, correct, strict=True))
    bins = [pairs[i : i + 100] for i in range(0, count - count % 100, 100)]
    total = 0.0
    for members in bins[:-1]:
        gap = np.mean([c for c, _ in members]) - np.mean([right for _, right in members])
        total += len(members) / count * gap**2
    assert rms_calibration_error(confidence, correct) == pytest.approx(100 * total**0.5, abs=1e-9)


def test_there_is_no_rms_calibration_error_below_two_bins() -> None:
    confidence, correct = random_answers(199)
    assert rms_calibration_error(confidence, correct) is None
    assert rms_calibration_error(*random_answers(200)) is not None


def test_aurra_by_brute_force_and_by_hand() -> None:
    confidence, correct = random_answers(150)
    order = np.argsort(-confidence)
    curve = [np.mean(correct[order[:k]]) for k in range(1, 151)]
    assert aurra(confidence, correct) == pytest.approx(100 * np.mean(curve), abs=1e-9)
    assert aurra([0.2, 0.9, 0.5], [True, True, False]) == pytest.approx(100 * (1 + 1 / 2 + 2 / 3) / 3)


def test_calibration_does_not_depend_on_the_order_of_images_even_with_equal_confidences() -> None:
    confidence, correct = random_answers(700)
    confidence = np.round(confidence, 1)
    shuffled = np.random.default_rng(1).permutation(700)
    for score in (rms_calibration_error, aurra):
        assert score(confidence, correct) == pytest.approx(score(confidence[shuffled], correct[shuffled]), rel=1e-12)


# ---- answers ---------------------------------------------------------------------------------------------


CLASSES = [2, 3, 5, 8, 11, 13, 4]


def random_batch(count: int = 500) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = torch.as_tensor(rng.choice(CLASSES, size=count))
    logits = torch.as_tensor(rng.normal(size=(count, 15)), dtype=torch.float32)
    logits[torch.arange(count), labels] += 1.5
    return logits, labels


def test_logits_are_restricted_before_softmax_and_argmax() -> None:
    logits, labels = random_batch()
    answers = SetAnswers(len(labels), CLASSES)
    answers.update(logits, labels, torch.arange(len(labels)))
    result = answers.compute()
    top1, top5, all_classes, confidence = [], [], [], []
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        own = row[CLASSES]
        order = [CLASSES[i] for i in np.argsort(-own)]
        top1.append(order[0] == label)
        top5.append(label in order[:5])
        all_classes.append(np.argmax(row) == label)
        confidence.append(np.exp(own.max()) / np.exp(own).sum())
    assert result["top1"] == pytest.approx(100 * np.mean(top1))
    assert result["top5"] == pytest.approx(100 * np.mean(top5))
    assert result["top1_all_classes"] == pytest.approx(100 * np.mean(all_classes))
    assert result["top1_all_classes"] < result["top1"]
    assert result["samples"] == 500
    assert result["rms_calibration_error"] == pytest.approx(rms_calibration_error(confidence, top1), abs=1e-4)
    assert result["aurra"] == pytest.approx(aurra(confidence, top1), abs=1e-9)


def test_without_restriction_top1_top5_and_ece_are_those_of_the_clean_evaluation() -> None:
    logits, labels = random_batch()
    answers, evaluation = SetAnswers(len(labels)), EvaluationSums(15)
    answers.update(logits, labels, torch.arange(len(labels)))
    evaluation.update(logits, labels)
    ours, clean = answers.compute(), evaluation.compute()
    for name in ("top1", "top5", "ece", "samples"):
        assert ours[name] == pytest.approx(clean[name], rel=1e-6)


def test_images_of_other_classes_are_left_out() -> None:
    logits, labels = random_batch()
    whole, part = SetAnswers(600, CLASSES), SetAnswers(600, CLASSES)
    part.update(logits, labels, torch.arange(500))
    whole.update(torch.cat([logits, logits[:100]]), torch.cat([labels, torch.full((100,), 7)]), torch.arange(600))
    assert whole.compute() == part.compute()


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_answers_do_not_depend_on_batches_order_padding_or_ranks(classes: list[int] | None) -> None:
    logits, labels = random_batch()
    whole = SetAnswers(500, classes)
    whole.update(logits, labels, torch.arange(500))
    ranks = [SetAnswers(500, classes), SetAnswers(500, classes)]
    for number, rows in enumerate(torch.randperm(500, generator=torch.Generator().manual_seed(0)).split(37)):
        padding = torch.full((5, 15), float("nan")), torch.full((5,), -1), torch.full((5,), -1)
        batch = [torch.cat(pair) for pair in zip((logits[rows], labels[rows], rows), padding, strict=True)]
        ranks[number % 2].update(*batch, torch.arange(len(rows) + 5) < len(rows))
    for name, values in ranks[0].state().items():
        values += ranks[1].state()[name]
    assert ranks[0].compute() == whole.compute()


def test_images_that_were_not_answered_do_not_count() -> None:
    logits, labels = random_batch()
    some, all_there = SetAnswers(900), SetAnswers(500)
    some.update(logits, labels, torch.arange(300, 800))
    all_there.update(logits, labels, torch.arange(500))
    assert some.compute() == all_there.compute()
    assert "top1_all_classes" not in some.compute()
    with pytest.raises(NstError, match="nothing was evaluated"):
        SetAnswers(3).compute()


# ---- ReaL ------------------------------------------------------------------------------------------------


def test_real_accuracy_takes_any_label_and_leaves_out_images_without_one() -> None:
    labels = torch.tensor([[3, -1, -1], [1, 4, 0], [2, 5, -1], [-1, -1, -1], [0, 1, 2]])
    logits = torch.eye(6)[[3, 4, 3, 0, 5]]
    real = RealAccuracy()
    real.update(logits[:2], labels[:2])
    real.update(logits[2:], labels[2:])
    assert real.compute() == {"real_top1": 50.0, "samples": 4.0}  # two hits of the four that have labels


def test_real_accuracy_counts_neither_padding_nor_a_diverged_network() -> None:
    real = RealAccuracy()
    logits = torch.eye(4)[[0, 1, 0]]
    logits[2] = float("nan")
    real.update(logits, torch.tensor([[0, -1], [1, -1], [0, 1]]), torch.tensor([True, False, True]))
    assert real.compute() == {"real_top1": 50.0, "samples": 2.0}
    with pytest.raises(NstError, match="nothing was evaluated"):
        RealAccuracy().compute()


def test_updates_read_no_value_back_to_the_host() -> None:
    def to_meta(values: Tensor) -> Tensor:  # a meta tensor has no value: reading one raises
        return values.to("meta")

    logits, labels = torch.empty(4, 15, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    answers, real = SetAnswers(9, CLASSES).moved(to_meta), RealAccuracy().moved(to_meta)
    answers.update(logits, labels, labels, labels > 0)
    real.update(logits, labels.unsqueeze(1), labels > 0)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        answers.compute()
