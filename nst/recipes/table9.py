"""Table 9 and figure 1, which draws its first two columns: itself or a larger network as teacher?

By B0, B1, ... the recipes `figure1_*` make the first two columns and `table9_*` the third.
"""

from collections.abc import Iterator
from typing import Any

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import (
    ITSELF,
    LAST_OF_TABLE_2,
    SMALL_LAST_OF_TABLE_2,
    Row,
    small,
    small_student,
    small_teacher,
    small_training,
    training,
)

# fmt: off
HEADS = {"supervised": "top1 top5 params_m", "itself as teacher": "top1 top5", "L2 as teacher": "top1 top5"}
FIGURES = published(HEADS, {
    #                    supervised  top-5  params M  itself  top-5  L2     top-5
    "EfficientNet-B0":  (77.3,       93.4,  5.3,      78.1,   94.2,  79.0,  94.6),
    "EfficientNet-B1":  (79.2,       94.4,  7.8,      80.3,   95.1,  81.4,  95.6),
    "EfficientNet-B2":  (80.0,       94.9,  9.2,      81.1,   95.5,  82.2,  96.0),
    "EfficientNet-B3":  (81.7,       95.7,  12,       82.4,   96.2,  83.4,  96.6),
    "EfficientNet-B4":  (83.2,       96.4,  19,       84.0,   96.8,  84.9,  97.2),
    "EfficientNet-B5":  (84.0,       96.8,  30,       84.9,   97.2,  85.6,  97.6),
    "EfficientNet-B6":  (84.5,       97.0,  43,       85.3,   97.5,  86.0,  97.7),
    "EfficientNet-B7":  (85.0,       97.2,  66,       85.9,   97.6,  86.8,  98.0),
})
EXHIBITS = (
    Exhibit(
        "table 9",
        title="capacity of the teacher, top-1",
        metrics={"top1": "top-1 %"},
        columns=["supervised", "itself as teacher", "L2 as teacher"],
        rows=FIGURES,
        twin_headings={"L2 as teacher": "table 2's last student as teacher"},
    ),
    Exhibit(
        "figure 1",
        title="accuracy against parameters, each network taught by one of its own size",
        metrics={"top1": "top-1 %"},
        columns=["supervised", "itself as teacher"],
        rows=FIGURES,
    ),
)

HOURS = {
    #      taught by itself                    taught by L2
    "b0": ("0.285 (train 0.275, label 0.0102)", "12.8 (label 12.6, train 0.183)"),
    "b1": ("0.833 (train 0.815, label 0.0182)", "13.2 (label 12.6, train 0.652)"),
    "b2": ("1.21 (train 1.18, label 0.0263)",   "13.5 (label 12.6, train 0.943)"),
    "b3": ("2.22 (train 2.17, label 0.0484)",   "14.3 (label 12.6, train 1.73)"),
    "b4": ("5.33 (train 5.21, label 0.116)",    "16.8 (label 12.6, train 4.17)"),
    "b5": ("6.36 (train 6.09, label 0.272)",    "17.5 (label 12.6, train 4.87)"),
    "b6": ("11.8 (train 11.3, label 0.505)",    "21.6 (label 12.6, train 9.05)"),
    "b7": ("23.4 (train 22.4, label 0.999)",    "30.5 (label 12.6, train 17.9)"),
}
SMALLER = {"doctor.accept": ["student_smaller"]}  # the larger teacher is what the column asks about
BOTH = ("figure 1", "table 9")

SMALL_SIZES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    # size     row                 shared teacher  of the large teacher
    ("small",  "EfficientNet-B0",  "teacher",      SMALLER),
    ("middle", "EfficientNet-B4",  "middle",       SMALLER),
    ("large",  "EfficientNet-B7",  "large",        {}),
)
# fmt: on


def full_size() -> Iterator[Row]:
    for network, (itself, from_l2) in HOURS.items():
        title = f"EfficientNet-{network.upper()}"
        yield training(
            f"figure1_{network}", title, ["supervised", "itself as teacher"],
            f"figure 1 and table 9: {title} teaches {title}",
            places=BOTH, network=network, generations=ITSELF, hours=itself,
        )  # fmt: skip
        yield training(
            f"table9_{network}_from_l2", title, [None, "L2 as teacher"],
            f"table 9: {title}, standard augmentation, taught by the last network of table 2",
            network=network, teacher="l2", noise="standard_augment", generations=[None, ()], hours=from_l2,
            options={"iterate.teacher": LAST_OF_TABLE_2, **SMALLER},
        )  # fmt: skip


def twins() -> Iterator[Row]:
    for size, row, teacher, accepted in SMALL_SIZES:
        yield small_training(
            f"small_figure1_{size}", row, ["supervised", "itself as teacher"],
            f"twin of figure 1 and table 9: a {size} network teaches one of its own size",
            places=BOTH, teacher=small_teacher(teacher), generations=[small(size), small_student(size)],
        )  # fmt: skip
        yield small_training(
            f"small_table9_{size}_from_last", row, [None, "L2 as teacher"],
            f"twin of table 9: a {size} network taught by the last student of small_table2",
            teacher=SMALL_LAST_OF_TABLE_2, generations=[None, small_student(size)], options=accepted,
        )  # fmt: skip


ROWS = (*full_size(), *twins())
