"""Figure 4: soft or hard labels, by the teacher's confidence? EfficientNet-B0 as teacher and student.

A row is a bin of confidence, from which 1,300 images a class are taken, 1.3M in all.
"""

from collections.abc import Iterator
from typing import Any

from nst.recipes.published import Exhibit
from nst.recipes.rows import ITSELF, Row, small, small_student, small_teacher, small_training, training

# fmt: off
EXHIBITS = (Exhibit(
    "figure 4",
    title="soft against hard pseudo-labels by the teacher's confidence (the paper's figure has no numbers; its "
          "finding: soft ones help in every bin, hard ones at high confidence only)",
    metrics={"top1": "top-1 %"},
    columns=["supervised", "soft", "hard"],
    rows={},
),)
# fmt: on

BINS = tuple((number / 10, (number + 1) / 10) for number in range(10))
SMALL_BINS = ((0.0, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0))
HARD = ("teacher.targets=hard",)


def selection(low: float, high: float) -> dict[str, Any]:
    """Images of a bin; the last one has no upper end, a confidence of 1 belongs to it."""
    upper = {} if high == 1.0 else {"select.max_confidence": high}
    return {"select.min_confidence": low, **upper, "select.allow_empty_classes": True}


def full_size() -> Iterator[Row]:
    for number, (low, high) in enumerate(BINS):
        for targets, generations in (("soft", ITSELF), ("hard", ((), HARD))):
            yield training(
                f"figure4_bin{number}_{targets}", f"{low} to {high}", ["supervised", targets],
                f"figure 4: {targets} pseudo-labels of confidence {low} to {high}, "
                "EfficientNet-B0 as teacher and student",
                network="b0", generations=generations, hours="0.285 (train 0.275, label 0.0102)",
                options={
                    "iterate.teacher": "runs/figure4_teacher-seed${seed}",
                    "select.images_per_class": 1300,
                    **selection(low, high),
                },
            )  # fmt: skip


def twins() -> Iterator[Row]:
    for number, (low, high) in enumerate(SMALL_BINS):
        for targets, changes in (("soft", ()), ("hard", HARD)):
            yield small_training(
                f"small_figure4_bin{number}_{targets}", f"{low} to {high}", ["supervised", targets],
                f"twin of figure 4: {targets} pseudo-labels of confidence {low} to {high}",
                teacher=small_teacher("teacher"), generations=[small("small"), small_student("small", *changes)],
                options={"select.images_per_class": "${scale.bin_images_per_class}", **selection(low, high)},
            )  # fmt: skip


ROWS = (*full_size(), *twins())
