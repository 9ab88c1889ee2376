"""Metrics against brute-force NumPy and cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nst.errors import NstError
from nst.metrics import (
    EvaluationSums,
    accuracy_by_class,
    calibration_bins,
    calibration_error,
    topk_correct,
)


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    return calibration_error(calibration_bins(confidence, correct, bins=bins))


def random_batch(seed: int, samples: int = 200, classes: int = 12) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    logits = 2 * rng.standard_normal((samples, classes))
    logits[np.arange(samples), labels] += 1.5  # better than chance, so that bins differ
    return torch.as_tensor(logits, dtype=torch.float32), torch.as_tensor(labels)


def brute_force(logits: Tensor, labels: Tensor, bins: int = 15) -> dict[str, float]:
    """One sample at a time, in float64, bins by comparison with the two edges."""
    x, y = logits.double().numpy(), labels.numpy()
    top1, top5, loss = [], [], []
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(x, y, strict=True):
        order = np.argsort(-row, kind="stable")
        probs = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        top1.append(order[0] == label)
        top5.append(label in order[:5])
        loss.append(-math.log(probs[label]))
        (bin_index,) = (i for i in range(bins) if i / bins < probs.max() <= (i + 1) / bins)
        members[bin_index].append((probs.max(), order[0] == label))
    gaps = [len(m) / len(y) * abs(np.mean([a for _, a in m]) - np.mean([c for c, _ in m])) for m in members if m]
    return {
        "top1": 100 * np.mean(top1),
        "top5": 100 * np.mean(top5),
        "loss": np.mean(loss),
        "ece": 100 * sum(gaps),
        "samples": len(y),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 4, 12])
def test_evaluation_equals_brute_force(seed: int, classes: int) -> None:
    logits, labels = random_batch(seed, classes=classes)
    evaluation = EvaluationSums(classes)
    for part in torch.arange(200).split(64):
        evaluation.update(logits[part], labels[part])
    assert evaluation.compute() == pytest.approx(brute_force(logits, labels), rel=1e-5)


def test_padding_counts_for_nothing_whatever_it_contains() -> None:
    logits, labels = random_batch(7, samples=10)
    padded_logits = torch.cat([logits, torch.full((3, 12), float("nan")), torch.eye(12)[:1]])
    padded_labels = torch.cat([labels, torch.tensor([-1, 99, 0, 0])])
    valid = torch.arange(14) < 10
    padded, plain = EvaluationSums(12), EvaluationSums(12)
    padded.update(padded_logits, padded_labels, valid)
    plain.update(logits, labels)
    for name, sums in plain.state().items():
        torch.testing.assert_close(padded.state()[name], sums, msg=name)
    assert padded.compute()["samples"] == 10


def test_ranks_merge_by_adding_their_sums() -> None:
    logits, labels = random_batch(3)
    whole, merged = EvaluationSums(12), EvaluationSums(12)
    whole.update(logits, labels)
    for part in (slice(0, 30), slice(30, 31), slice(31, 200)):
        rank = EvaluationSums(12)
        rank.update(logits[part], labels[part])
        for name, sums in merged.state().items():
            sums += rank.state()[name]
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-6)
    assert torch.equal(merged.state()["confusion"], whole.state()["confusion"])


def test_topk_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.5, 0.3]]).expand(4, 4)
    labels = torch.tensor([0, 1, 2, 3])
    assert topk_correct(logits, labels, 1).tolist() == [False, True, False, False]
    assert topk_correct(logits, labels, 2).tolist() == [False, True, True, False]
    assert topk_correct(logits, labels, 3).tolist() == [False, True, True, True]
    assert topk_correct(logits, labels, 9).tolist() == [True, True, True, True]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_breaks_ties_like_a_stable_sort(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(4, (300, 10), generator=generator).float()  # many ties
    labels = torch.randint(10, (300,), generator=generator)
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k]
    expected = (order == labels.numpy()[:, None]).any(axis=1)
    assert topk_correct(logits, labels, k).tolist() == expected.tolist()


def test_a_collapsed_network_scores_chance_and_a_diverged_one_zero() -> None:
    labels = torch.arange(10)
    assert topk_correct(torch.zeros(10, 10), labels, 1).sum() == 1
    assert topk_correct(torch.zeros(10, 10), labels, 5).sum() == 5
    for k in (1, 5, 10, 20):
        assert topk_correct(torch.full((10, 10), float("nan")), labels, k).sum() == 0
    one_nan = torch.zeros(10, 10)
    one_nan[:, 9] = float("nan")
    assert not topk_correct(one_nan, labels, 10)[9]
    evaluation = EvaluationSums(10)
    evaluation.update(torch.full((10, 10), float("nan")), labels)
    result = evaluation.compute()
    assert (result["top1"], result["top5"]) == (0.0, 0.0)
    assert math.isnan(result["loss"])
    assert math.isnan(result["ece"])


def test_calibration_error_by_hand() -> None:
    # bins of 0.5: (0, 0.5] holds .2 .4 with one right: |.5 - .3|; (0.5, 1] holds .6 .8 1 all right: |1 - .8|
    confidence = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64)
    correct = torch.tensor([True, False, True, True, True])
    error = expected_calibration_error(confidence, correct, bins=2)
    assert error.item() == pytest.approx(2 / 5 * 0.2 + 3 / 5 * 0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edge", range(1, 15))
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(edge: int, dtype: torch.dtype) -> None:
    value = torch.tensor(edge / 15, dtype=dtype)
    above = torch.nextafter(value, torch.tensor(2.0, dtype=dtype))
    middle_below = torch.tensor((edge - 0.5) / 15, dtype=dtype)

    def error(first: Tensor) -> float:
        return expected_calibration_error(torch.stack([first, middle_below]), torch.tensor([True, False])).item()

    together = abs(1 - value.item() - middle_below.item()) / 2
    apart = (1 - above.item() + middle_below.item()) / 2
    assert error(value) == pytest.approx(together, abs=1e-9)
    assert error(above) == pytest.approx(apart, abs=1e-9)
    assert together != pytest.approx(apart, abs=1e-3)


def test_confidences_0_and_1_are_in_the_first_and_last_bin() -> None:
    confidence = torch.tensor([0.0, 1.0, 1.0000001])
    assert expected_calibration_error(confidence, torch.tensor([False, True, True])).item() < 1e-6


def test_a_calibrated_predictor_has_almost_no_error_and_an_overconfident_one_its_excess() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(100_000, generator=generator, dtype=torch.float64)
    correct = torch.rand(100_000, generator=generator, dtype=torch.float64) < confidence
    assert expected_calibration_error(confidence, correct).item() < 0.01
    too_sure = 0.2 + 0.8 * confidence
    assert expected_calibration_error(too_sure, correct).item() == pytest.approx(0.1, abs=0.01)


def test_confusion_and_accuracy_by_class() -> None:
    predictions, labels = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    evaluation = EvaluationSums(4)
    evaluation.update(torch.eye(4)[predictions], labels)
    confusion = evaluation.state()["confusion"]
    assert confusion.tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    by_class = accuracy_by_class(confusion)
    assert by_class[:3].tolist() == [50.0, 50.0, 100.0]
    assert by_class[3].isnan()


def test_the_confusion_matrix_is_left_out_above_1000_classes() -> None:
    assert "confusion" in EvaluationSums(1000).state()
    assert "confusion" not in EvaluationSums(1001).state()


def test_updates_read_no_value_back_to_the_host() -> None:
    evaluation = EvaluationSums(7).moved(lambda sums: sums.to("meta"))  # a meta tensor has no value: reading one raises
    batch = torch.empty(4, 7, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    evaluation.update(*batch, torch.empty(4, dtype=torch.bool, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        evaluation.compute()


def test_bfloat16_logits_give_the_result_of_their_float32_values() -> None:
    logits, labels = random_batch(1)
    half, full = EvaluationSums(12), EvaluationSums(12)
    half.update(logits.bfloat16(), labels)
    full.update(logits.bfloat16().float(), labels)
    assert half.compute() == full.compute()


def test_an_empty_evaluation_is_an_error() -> None:
    with pytest.raises(NstError, match="nothing was evaluated"):
        EvaluationSums(3).compute()
