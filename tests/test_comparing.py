"""Differences of two networks: intervals against a simulation and by hand, and the words for them."""

import numpy as np
import pytest

from nst.evaluation.comparing import Scores, about, against, best, difference, scores_of


def scores(top1: float, images: int, name: str = "gen1", *, wrong: set[str] | None = None, **more) -> Scores:
    values = {"pictures": "test", "chance": 10.0, "answer": "cat", "answer_share": 15.0, **more}
    return Scores(name=name, images=images, top1=top1, wrong=None if wrong is None else frozenset(wrong), **values)


def pair(gained: int, lost: int, images: int, both_wrong: int = 0) -> tuple[Scores, Scores]:
    """A new and an old network, of which one alone is right on so many pictures."""
    shared = {f"both{n}" for n in range(both_wrong)}
    new, old = shared | {f"lost{n}" for n in range(lost)}, shared | {f"gained{n}" for n in range(gained)}
    made = (100 * (1 - len(wrong) / images) for wrong in (new, old))
    return scores(next(made), images, "gen1", wrong=new), scores(next(made), images, "gen0", wrong=old)


def test_the_interval_of_pairs_by_hand():
    """30 against 10 of 200: (30 - 10) / 202 with the deviation sqrt(41 / 202 - (20 / 202)^2) / sqrt(202)."""
    found = difference(*pair(30, 10, 200, both_wrong=20))
    assert found.paired
    assert found.points == pytest.approx(10.0)
    assert (found.low, found.high) == pytest.approx((3.839, 15.963), abs=2e-3)


@pytest.mark.parametrize(("gained", "lost"), [(0.12, 0.12), (0.25, 0.05), (0.04, 0.01)])
def test_the_interval_of_pairs_holds_the_true_difference_as_often_as_it_says(gained: float, lost: float):
    rng, images, runs = np.random.default_rng(7), 100, 2000
    counts = rng.multinomial(images, [gained, lost, 1 - gained - lost], size=runs)
    found = [difference(*pair(int(b), int(c), images)) for b, c, _ in counts]
    held = np.mean([one.low <= 100 * (gained - lost) <= one.high for one in found])
    assert 0.93 <= held <= 0.995


def test_pairs_say_more_than_two_accuracies():
    new, old = pair(30, 10, 200, both_wrong=60)
    pairs, accuracies = difference(new, old), difference(scores(new.top1, 200), scores(old.top1, 200, "gen0"))
    assert pairs.points == pytest.approx(accuracies.points)
    assert pairs.high - pairs.low < 0.8 * (accuracies.high - accuracies.low)
    assert (pairs.verdict, accuracies.verdict) == ("better", "better")


def test_few_pictures_decide_nothing():
    assert difference(*pair(4, 0, 100)).verdict == "undecided", "heads four times"
    assert difference(*pair(6, 0, 100)).verdict == "better"
    assert difference(*pair(0, 6, 100)).verdict == "worse"
    assert difference(*pair(0, 0, 100)).verdict == "undecided"


def test_other_pictures_are_never_pairs():
    new, old = pair(30, 10, 200)
    for other in (
        scores(old.top1, 200, wrong=set(old.wrong or ()), pictures="validation"),
        scores(old.top1, 100, wrong=set()),
    ):
        assert not difference(new, other).paired


def test_a_student_within_the_noise_is_not_praised():
    new, old = pair(12, 8, 500, both_wrong=100)
    told = against(new, old, difference(new, old))
    assert told.startswith("gen1 and gen0 cannot be told apart: +0.80 points of top-1, 95 % interval -1.0 to +2.6")
    assert "500 test images" in told
    better, worse = pair(60, 10, 500), pair(10, 60, 500)
    assert against(*better, difference(*better)).startswith("gen1 is better than gen0: +10.00 points")
    assert against(*worse, difference(*worse)).startswith("gen1 is worse than gen0: -10.00 points")


def test_a_collapse_is_named_with_the_one_answer_that_is_left():
    new, old = scores(20.0, 500, answer="Sea or Lake", answer_share=93.2), scores(55.4, 500, "gen0")
    told = against(new, old, difference(new, old))
    assert told.startswith(
        "gen1 has collapsed: 20.0 % after 55.4 % of gen0; its answer to 93 % of them is 'Sea or Lake'"
    )
    fallen = scores(45.0, 500)
    assert against(fallen, old, difference(fallen, old)).startswith("gen1 is worse")


def test_a_teacher_near_chance_is_named():
    told = about(scores(5.4, 500, "gen0"))
    assert told is not None
    assert told.startswith("gen0 is worse than chance: 5.4 % of 500 test images, where one answer to all gives 10.0 %")
    assert "is hardly better than chance: 12.0 %" in str(about(scores(12.0, 500))), "within its interval"
    assert about(scores(16.7, 500)) is None
    assert about(scores(60.0, 500, chance=62.0)) is not None, "the largest class has more"


def test_chance_and_the_most_frequent_answer_are_those_of_the_confusion_matrix():
    confusion = [[6, 1, 0], [3, 0, 0], [9, 0, 1]]  # row: label
    found = scores_of(
        "gen0", "test", {"samples": 20.0, "top1": 35.0, "classes": ["a", "b", "c"], "confusion": confusion}, None
    )
    assert (found.images, found.chance, found.answer, found.answer_share) == (20, 50.0, "a", 90.0)
    assert scores_of("gen0", "test", {"samples": 20.0, "top1": 35.0}, None).chance == 0.0


def test_the_first_of_equal_networks_is_the_best():
    assert best([scores(50.0, 100), scores(60.0, 100), scores(60.0, 100)]) == 1
