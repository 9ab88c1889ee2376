"""ImageNet-C and -P scores against the reference's own numbers, published rows and brute force over whole rankings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nst.errors import NstError
from nst.robustness.baselines import (
    ALEXNET,
    CIFAR_PERTURBATIONS,
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    EXTRA_PERTURBATIONS,
    PERTURBATIONS,
    Baseline,
)
from nst.robustness.benchmark_scores import corruption_scores, missing_cells, perturbation_scores
from nst.robustness.scores import CorruptionErrors, FlipScores, clip_distances, top_classes
from tests.helpers import golden_arrays

EXACT = {"rel": 0, "abs": 1e-9}
# ResNet-50 as published: CE (Hendrycks and Dietterich 2019, table 1) and flip probabilities (Zhang 2019, supplement)
RESNET_50_CE = dict(zip(CORRUPTIONS, [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77], strict=True))
RESNET_50_FP = dict(zip(PERTURBATIONS, [14.04, 17.38, 6.00, 4.29, 7.54, 3.03, 4.86, 6.79, 4.01, 11.32], strict=True))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return golden_arrays("metrics.npz")


def table(errors: np.ndarray) -> dict[str, list[float]]:
    return dict(zip(CORRUPTIONS, (100 * errors).tolist(), strict=True))


def everywhere(row: list[float]) -> dict[str, list[float]]:
    return {name: list(row) for name in CORRUPTIONS}


def result(flip_probability: float, top5_distance: float = 1.0, frames: int = 0, right: int = 0) -> dict[str, float]:
    return {"flip_probability": flip_probability, "top5_distance": top5_distance, "frames": frames, "right": right}


# ---- ImageNet-C ----------------------------------------------------------------------------------------------


def test_the_benchmark_is_15_corruptions_and_10_perturbations() -> None:
    assert len(CORRUPTIONS) == len(ALEXNET.corruption_errors) == 15
    assert set(CORRUPTIONS) == set(ALEXNET.corruption_errors)
    assert len(PERTURBATIONS) == len(set(CIFAR_PERTURBATIONS)) == 10
    assert set(PERTURBATIONS) == set(ALEXNET.flip_probability)
    assert not set(EXTRA_CORRUPTIONS) & set(CORRUPTIONS)
    assert not set(EXTRA_PERTURBATIONS) & set(PERTURBATIONS)


def test_alexnets_table_is_the_published_one_and_averages_to_the_published_means(golden) -> None:
    assert tuple(golden["ce/names"]) == CORRUPTIONS
    errors = np.array([ALEXNET.corruption_errors[name] for name in CORRUPTIONS])
    np.testing.assert_allclose(errors, 100 * golden["ce/alexnet_error"], **{"rtol": 0, "atol": 1e-9})
    np.testing.assert_allclose(errors.mean(axis=1), 100 * golden["ce/alexnet_mean_error"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("clean", ["0.4348", "0.435"])
def test_ce_mce_and_relative_ce_equal_the_reference(golden, clean: str) -> None:
    alexnet = Baseline("AlexNet", "", 100 * float(clean), ALEXNET.corruption_errors)
    scores = corruption_scores(
        table(golden["ce/model_error"]), clean_error=100 * float(golden["ce/model_clean_error"]), baseline=alexnet
    )
    assert [scores["ce"][name] for name in CORRUPTIONS] == pytest.approx(golden["ce/CE"].tolist(), **EXACT)
    assert scores["mce"] == pytest.approx(float(golden["ce/mCE"]), **EXACT)
    expected = golden[f"ce/relative_CE_alexclean_{clean}"].tolist()
    assert [scores["relative_ce"][name] for name in CORRUPTIONS] == pytest.approx(expected, **EXACT)
    mean = float(golden[f"ce/relative_mCE_alexclean_{clean}"])
    assert scores["relative_mce"] == pytest.approx(mean, **EXACT)
    assert scores["mean_error"] == pytest.approx(float(golden["ce/unnormalised_mean_error"]), **EXACT)
    assert scores["top1"] == pytest.approx(float(golden["ce/mean_top1_accuracy"]), **EXACT)


def test_alexnet_against_itself_is_exactly_100() -> None:
    scores = corruption_scores(ALEXNET.corruption_errors, clean_error=ALEXNET.clean_error, baseline=ALEXNET)
    assert scores["mce"] == scores["relative_mce"] == 100.0
    assert set(scores["ce"].values()) == set(scores["relative_ce"].values()) == {100.0}
    assert scores["missing"] == []


def test_resnet_50s_published_ce_give_its_published_mce_and_top1() -> None:
    errors = {
        name: [ce / 100 * error for error in ALEXNET.corruption_errors[name]] for name, ce in RESNET_50_CE.items()
    }
    scores = corruption_scores(errors, baseline=ALEXNET)
    assert scores["mce"] == pytest.approx(76.7, abs=0.5)  # the row is rounded to whole percent
    assert scores["top1"] == pytest.approx(39.0, abs=0.1)  # published apart from the row: table 4


def test_severities_are_summed_before_the_division() -> None:
    errors = everywhere([10.0, 10, 10, 10, 60])
    baseline = Baseline("b", "", corruption_errors=everywhere([20.0, 20, 20, 20, 20]))
    assert corruption_scores(errors, baseline=baseline)["mce"] == 100.0


@pytest.mark.parametrize(
    ("lack", "missing"),
    [
        ({"fog": None}, ["fog"]),
        ({"fog": [1.0, 2, 3, None, None]}, ["fog/4", "fog/5"]),
        ({"snow": [1.0, 2, 3, 4], "frost": [None] * 5}, ["snow/5", "frost"]),
    ],
)
def test_what_is_missing_is_listed_and_there_is_no_mean(lack: dict, missing: list[str]) -> None:
    errors = {name: row for name, row in {**ALEXNET.corruption_errors, **lack}.items() if row is not None}
    scores = corruption_scores(errors, clean_error=40.0, baseline=ALEXNET)
    assert scores["missing"] == missing
    assert {scores[name] for name in ("mce", "relative_mce", "mean_error", "top1")} == {None}
    assert len(scores["ce"]) == len(scores["relative_ce"]) == 15 - len(lack)
    assert scores["ce"]["pixelate"] == 100.0


def test_extra_corruptions_are_in_the_table_but_in_no_mean() -> None:
    with_extra = {**ALEXNET.corruption_errors, "saturate": [99.0] * 5}
    scores = corruption_scores(with_extra, baseline=ALEXNET)
    assert scores["mce"] == 100.0
    assert scores["mean_error"] == corruption_scores(ALEXNET.corruption_errors)["mean_error"]
    assert scores["errors"]["saturate"] == [99.0] * 5
    assert "saturate" not in scores["ce"]


def test_without_a_clean_error_nothing_is_relative() -> None:
    scores = corruption_scores(ALEXNET.corruption_errors, baseline=ALEXNET)
    assert (scores["relative_ce"], scores["relative_mce"], scores["mce"]) == ({}, None, 100.0)


def test_a_run_can_be_the_baseline_of_another() -> None:
    perturbation = perturbation_scores({name: result(4.0, 2.0) for name in PERTURBATIONS})
    corruption = corruption_scores(everywhere([40.0] * 5), clean_error=20.0)
    teacher = Baseline(
        "teacher", "", corruption["clean_error"], corruption["errors"],
        perturbation["flip_probability"], perturbation["top5_distance"],
    )  # fmt: skip
    student = corruption_scores(everywhere([30.0] * 5), clean_error=15.0, baseline=teacher)
    assert (student["baseline"], student["mce"], student["relative_mce"]) == ("teacher", 75.0, 75.0)
    flips = perturbation_scores({name: result(3.0, 1.0) for name in PERTURBATIONS}, baseline=teacher)
    assert (flips["baseline"], flips["mfr"], flips["mt5d"]) == ("teacher", 75.0, 50.0)


def test_published_flips_alone_have_a_flip_rate_and_nothing_else() -> None:
    flips = {name: {"flip_probability": value / 2} for name, value in ALEXNET.flip_probability.items()}
    scores = perturbation_scores(flips, baseline=ALEXNET)
    assert scores["mfr"] == pytest.approx(50.0, **EXACT)
    assert (scores["top5_distance"], scores["top5_rate"]) == ({}, {})
    assert (scores["mean_top5_distance"], scores["mt5d"], scores["top1"]) == (None, None, None)


def test_a_baseline_without_an_error_divides_nothing() -> None:
    perfect = everywhere([10.0] * 5) | {"fog": [0.0] * 5}
    baseline = Baseline("b", "", 10.0, perfect)
    scores = corruption_scores(everywhere([10.0] * 5), clean_error=5.0, baseline=baseline)
    assert (scores["ce"]["fog"], scores["ce"]["snow"], scores["mce"]) == (None, 100.0, None)
    assert set(scores["relative_ce"].values()) == {None}  # the baseline loses nothing under corruption
    partial = Baseline("b", "", 10.0, {"fog": [10.0] * 5, "snow": [10.0, None, 1, 1, 1]})
    scores = corruption_scores(everywhere([10.0] * 5), baseline=partial)
    assert (scores["ce"], scores["mce"], scores["missing"]) == ({"fog": 100.0}, None, [])


def test_missing_cells_of_an_empty_table_are_all_corruptions() -> None:
    assert missing_cells({}) == list(CORRUPTIONS)


def test_errors_are_counted_per_corruption_and_severity_whatever_the_batches_and_ranks() -> None:
    rng = np.random.default_rng(0)
    names, count = ("fog", "snow", "saturate"), 3000
    logits = torch.as_tensor(rng.normal(size=(count, 12)), dtype=torch.float32)
    labels, cells = torch.as_tensor(rng.integers(12, size=count)), torch.as_tensor(rng.integers(14, size=count))
    valid = torch.as_tensor(rng.random(count) < 0.9)
    shown = torch.where(valid, labels, -1), torch.where(valid, cells, -7)
    ranks = [CorruptionErrors(names), CorruptionErrors(names)]
    for number, rows in enumerate(torch.arange(count).split(171)):
        ranks[number % 2].update(logits[rows], shown[0][rows], shown[1][rows], valid[rows])
    for name, values in ranks[0].state().items():
        values += ranks[1].state()[name]
    order = logits.argsort(dim=1, descending=True)
    for top in (1, 5):
        wrong = ~(order[:, :top] == labels[:, None]).any(dim=1)
        errors = ranks[0].errors(top)
        for name in names:
            for severity in range(1, 6):
                own = valid & (cells == ranks[0].cell(name, severity))
                expected = 100 * float(wrong[own].double().mean()) if own.any() else None
                assert errors[name][severity - 1] == pytest.approx(expected)
    assert errors["saturate"][4] is None  # cell 14 was never drawn


def test_one_cell_may_stand_for_a_whole_batch() -> None:
    errors = CorruptionErrors(["fog"])
    errors.update(torch.eye(4), torch.tensor([0, 1, 0, 0]), errors.cell("fog", 3))
    assert errors.errors() == {"fog": [None, None, 50.0, None, None]}


# ---- ImageNet-P ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", [1, 2, 3])
@pytest.mark.parametrize("kind", ["noise", "other"])
def test_flips_and_top5_distance_equal_the_reference(golden, kind: str, difficulty: int) -> None:
    top5, key = torch.as_tensor(golden["top5"].astype(np.int64)), f"{kind}/d{difficulty}"
    flips, distance = clip_distances(top5, noise=kind == "noise", difficulty=difficulty)
    per_clip = golden[f"{key}/per_clip_flip_prob"], golden[f"{key}/per_clip_top5_distance"]
    np.testing.assert_allclose(flips.double().mean(dim=1), per_clip[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(distance.double().mean(dim=1), per_clip[1], rtol=0, atol=1e-9)
    scores = FlipScores("shot_noise" if kind == "noise" else "snow", difficulty)
    for clips in top5.split(2):
        scores.update(clips, torch.full((len(clips),), -1))
    found = scores.compute()
    assert found["flip_probability"] == pytest.approx(100 * float(golden[f"{key}/flip_prob"]), **EXACT)
    assert found["top5_distance"] == pytest.approx(float(golden[f"{key}/top5_distance"]), **EXACT)
    assert (found["clips"], found["frames"]) == (5, 0)


def test_top_classes_are_the_references(golden) -> None:
    logits = torch.as_tensor(golden["logits"])
    np.testing.assert_array_equal(top_classes(logits), golden["top5"][1, : len(logits)])


CASES = ["identical", "swap12", "swap56", "five_out", "reverse5", "first_to_900"]


@pytest.mark.parametrize("case", CASES)
def test_rankings_that_can_be_checked_by_hand(golden, case: str) -> None:
    sigma = golden[f"case/{case}/rank_in_second_of_class_ranked_i"]
    first, second = np.arange(1000), np.argsort(sigma)  # class i is ranked i + 1 first, sigma[i] second
    clip = torch.as_tensor(np.stack([first, second])[None, :, :5])
    _, distance = clip_distances(clip, noise=False)
    assert distance.item() == golden[f"case/{case}/top5_distance"]


def by_whole_rankings(logits: np.ndarray, noise: bool, difficulty: int) -> tuple[float, float]:
    """Mean over clips of the mean over pairs, each pair by the ranks of all its classes."""
    flips, distances = [], []
    for clip in logits:
        ranks = [np.argsort(np.argsort(-frame, kind="stable")) + 1 for frame in clip]
        pairs = [(0, i) for i in range(1, len(clip))] if noise else zip(range(len(clip)), range(difficulty, len(clip)))  # noqa: B905
        found = []
        for i, j in pairs:
            classes = np.argsort(ranks[i])[:5]
            found.append(sum(abs(place - min(ranks[j][c], 6)) for place, c in enumerate(classes, 1)))
            flips.append(np.argmax(clip[i]) != np.argmax(clip[j]))
        distances.append(np.mean(found))
    return float(np.mean(flips)), float(np.mean(distances))


@pytest.mark.parametrize("classes", [3, 5, 6, 40])
@pytest.mark.parametrize("perturbation", ["gaussian_noise", "rotate"])
@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_the_streamed_top_five_suffice_for_the_whole_ranking(classes: int, perturbation: str, difficulty: int) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(7, 1, classes)) + 0.4 * rng.normal(size=(7, 16, classes))
    scores = FlipScores(perturbation, difficulty)
    for clips in np.array_split(logits, 3):
        frames = torch.as_tensor(clips, dtype=torch.float32)
        top5 = top_classes(frames.flatten(0, 1)).view(*frames.shape[:2], -1)
        scores.update(top5, torch.zeros(len(frames), dtype=torch.int64))
    flip, distance = by_whole_rankings(logits, "noise" in perturbation, difficulty)
    assert scores.compute()["flip_probability"] == pytest.approx(100 * flip)
    assert scores.compute()["top5_distance"] == pytest.approx(distance)


def test_padding_is_not_counted_and_top1_is_over_labeled_frames() -> None:
    right, wrong = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([2, 1, 3, 4, 5])
    clips = torch.stack([torch.stack([right, right, wrong]), torch.stack([wrong] * 3), torch.stack([right] * 3)])
    scores = FlipScores("tilt")
    scores.update(clips, torch.tensor([1, 1, -1]), torch.tensor([True, False, True]))
    assert scores.compute() == {
        "flip_probability": 25.0, "top5_distance": 0.5, "clips": 2, "frames": 3, "right": 2
    }  # fmt: skip


def test_a_diverged_network_is_not_stable() -> None:
    logits = torch.zeros(4, 10)
    logits[2:, 3] = float("nan")
    top5 = top_classes(logits)
    assert top5.tolist() == [[0, 1, 2, 3, 4]] * 2 + [[-1] * 5] * 2
    for noise in (True, False):
        flips, distance = clip_distances(top5.unsqueeze(0), noise=noise)
        assert flips.tolist() == [[False, True, True]]
        assert distance.tolist() == [[0, 15, 15]]


def test_equal_logits_are_ranked_by_class_so_that_a_constant_network_never_flips() -> None:
    assert top_classes(torch.zeros(2, 9)).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_mfr_equals_the_reference(golden) -> None:
    names = golden["mfr/names"].tolist()
    baseline = Baseline(
        "b", "", flip_probability=dict(zip(names, 100 * golden["mfr/invented_baseline_fp"], strict=True))
    )
    results = {name: result(100 * value) for name, value in zip(names, golden["mfr/model_fp"], strict=True)}
    scores = perturbation_scores(results, baseline=baseline)
    assert [scores["flip_rate"][name] for name in names] == pytest.approx(golden["mfr/FR"].tolist(), **EXACT)
    assert scores["mfr"] == pytest.approx(float(golden["mfr/mFR"]), **EXACT)


def test_resnet_50s_published_flip_probabilities_give_its_published_mfr() -> None:
    scores = perturbation_scores({name: result(value) for name, value in RESNET_50_FP.items()}, baseline=ALEXNET)
    assert scores["mfr"] == pytest.approx(58.0, abs=0.05)
    assert scores["mt5d"] is None  # nobody has published AlexNet's distances
    alexnet = {name: result(value) for name, value in ALEXNET.flip_probability.items()}
    assert perturbation_scores(alexnet, baseline=ALEXNET)["mfr"] == 100.0


def test_top1_of_perturbations_is_over_all_their_frames() -> None:
    results = {name: result(1.0, 1.0, 31, 31) for name in PERTURBATIONS} | {"translate": result(1.0, 3.0, 41, 0)}
    scores = perturbation_scores(results)
    assert scores["top1"] == pytest.approx(100 * 9 * 31 / (9 * 31 + 41))
    assert (scores["mean_flip_probability"], scores["mean_top5_distance"]) == (1.0, pytest.approx(1.2))


def test_a_missing_perturbation_is_listed_and_there_is_no_mfr() -> None:
    results = {name: result(1.0, frames=31, right=3) for name in PERTURBATIONS if name != "tilt"}
    scores = perturbation_scores(results, baseline=ALEXNET)
    assert scores["missing"] == ["tilt"]
    assert {scores[name] for name in ("mfr", "mean_flip_probability", "top1", "mt5d")} == {None}
    assert len(scores["flip_rate"]) == 9
    cifar = {name: result(1.0) for name in CIFAR_PERTURBATIONS}
    assert perturbation_scores(cifar)["missing"] == ["snow"]
    assert perturbation_scores(cifar, benchmark=CIFAR_PERTURBATIONS)["mean_flip_probability"] == 1.0


def test_updates_read_no_value_back_to_the_host() -> None:
    def to_meta(values: torch.Tensor) -> torch.Tensor:  # a meta tensor has no value: reading one raises
        return values.to("meta")

    labels = torch.empty(4, dtype=torch.int64, device="meta")
    errors, flips = CorruptionErrors(["fog"]).moved(to_meta), FlipScores("tilt").moved(to_meta)
    errors.update(torch.empty(4, 7, device="meta"), labels, labels, labels > 0)
    flips.update(top_classes(torch.empty(12, 7, device="meta")).view(4, 3, 5), labels, labels > 0)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        flips.compute()


def test_an_evaluation_without_a_clip_is_an_error() -> None:
    with pytest.raises(NstError, match="no clip"):
        FlipScores("tilt").compute()
