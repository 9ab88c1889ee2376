"""Table 6: does removing noise on the unlabeled images hurt? EfficientNet-B5 as teacher and student."""

from collections.abc import Iterator
from typing import Any

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import (
    ALONE,
    NO_AUGMENTATION,
    NO_NOISE,
    Row,
    small,
    small_student,
    small_teacher,
    small_training,
    training,
)

# fmt: off
EXHIBITS = (Exhibit(
    "table 6",
    title="noise removed on the unlabeled images only",
    metrics={"top1": "top-1 %"},
    columns=["1.3M unlabeled", "130M unlabeled"],
    rows=published({"1.3M unlabeled": "top1", "130M unlabeled": "top1"}, {
        #                             1.3M   130M
        "EfficientNet-B5":           (83.3,  84.0),
        "Noisy Student (B5)":        (83.9,  84.9),
        "without Aug":               (83.6,  84.6),
        "without Aug, SD, Dropout":  (83.2,  84.3),
    }),
    twin_headings={
        "1.3M unlabeled": "a tenth of the selected images, with standard augmentation",
        "130M unlabeled": "all of the selected images, with RandAugment",
        "EfficientNet-B5": "a middle-sized network on labels alone",
        "Noisy Student (B5)": "a student of that size",
    },
),)

STUDENTS = (
    # recipe        row                          the student's options  what it is
    ("noise_full",  "Noisy Student (B5)",        (),
     "Noisy Student with EfficientNet-B5 as teacher and student"),
    ("no_aug",      "without Aug",               NO_AUGMENTATION,
     "without augmentation of the unlabeled ones"),
    ("no_noise",    "without Aug, SD, Dropout",  NO_NOISE,
     "without augmentation, stochastic depth and dropout on the unlabeled ones"),
)
COLUMNS: tuple[tuple[str, str, str, dict[str, Any], str], ...] = (
    # recipe  column             noise               selection                          of labels alone
    ("130m",  "130M unlabeled",  "",                 {},                                "RandAugment"),
    ("1m",    "1.3M unlabeled",  "standard_augment", {"select.images_per_class": 1300}, "standard augmentation"),
)
SMALL_STUDENTS = (
    ("noise_full",  "Noisy Student (B5)",        (),                      "all noise"),
    ("no_aug",      "without Aug",               NO_AUGMENTATION,         "without augmentation of the unlabeled ones"),
    ("no_noise",    "without Aug, SD, Dropout",  ("${scale.no_noise}",),  "no noise on the unlabeled ones"),
)
SMALL_COLUMNS: tuple[tuple[str, str, str, dict[str, Any], str, str], ...] = (
    # recipe  column             noise               selection                 teacher            what it is
    ("130m",  "130M unlabeled",  "",                 {},                       "middle",
     "RandAugment, all selected images"),
    ("1m",    "1.3M unlabeled",  "standard_augment", {"select.fraction": 0.1}, "middle_standard",
     "standard augmentation, a tenth of the selected images"),
)
# fmt: on


def full_size() -> Iterator[Row]:
    for size, column, noise, selection, augmentation in COLUMNS:
        teacher = {"iterate.teacher": f"runs/table6_teacher_{size}-seed${{seed}}"}
        yield training(
            f"table6_supervised_{size}", "EfficientNet-B5", [column],
            f"table 6, {augmentation}: EfficientNet-B5 on labels alone",
            network="b5", noise=noise, generations=ALONE, options=teacher, hours="1.22 (train 1.22)",
        )  # fmt: skip
        for name, row, changes, says in STUDENTS:
            yield training(
                f"table6_{name}_{size}", row, [None, column], f"table 6, {column} images: {says}",
                network="b5", noise=noise, generations=[(), changes], options={**teacher, **selection},
                hours="6.36 (train 6.09, label 0.272)",
            )  # fmt: skip


def twins() -> Iterator[Row]:
    for size, column, noise, selection, teacher, images in SMALL_COLUMNS:
        yield small_training(
            f"small_table6_supervised_{size}", "EfficientNet-B5", [column], f"twin of table 6, {images}: labels alone",
            teacher=small_teacher(teacher), noise=noise, generations=[small("middle")],
        )  # fmt: skip
        for name, row, changes, says in SMALL_STUDENTS:
            yield small_training(
                f"small_table6_{name}_{size}", row, [None, column], f"twin of table 6, {images}: {says}",
                teacher=small_teacher(teacher), noise=noise, options=selection,
                generations=[small("middle"), small_student("middle", *changes)],
            )  # fmt: skip


ROWS = (*full_size(), *twins())
