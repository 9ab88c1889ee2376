"""Table 8: how much unlabeled data? EfficientNet-B4 with uniform subsets, each within the next larger one."""

from typing import Any

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import ITSELF, small, small_student, small_teacher, small_training, training

# fmt: off
EXHIBITS = (Exhibit(
    "table 8",
    title="size of the unlabeled data, uniform subsets",
    metrics={"top1": "top-1 %"},
    columns=["supervised", "Noisy Student"],
    rows=published({"supervised": "top1", "Noisy Student": "top1"}, {
        #         supervised  Noisy Student
        "1/128":  (83.2,      83.4),
        "1/64":   (83.2,      83.3),
        "1/32":   (83.2,      83.7),
        "1/16":   (83.2,      83.9),
        "1/4":    (83.2,      83.8),
        "1":      (83.2,      84.0),
    }),
    twin_headings={"Noisy Student": "taught by the row's share of the images selected from the twin's data"},
),)

SHARES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    # recipe  row      of the selected images
    ("128th", "1/128", {"select.fraction": 1 / 128}),
    ("64th",  "1/64",  {"select.fraction": 1 / 64}),
    ("32th",  "1/32",  {"select.fraction": 1 / 32}),
    ("16th",  "1/16",  {"select.fraction": 1 / 16}),
    ("4th",   "1/4",   {"select.fraction": 1 / 4}),
    ("all",   "1",     {}),
)
FULL_SIZE = tuple(
    training(
        f"table8_{name}", row, ["supervised", "Noisy Student"],
        f"table 8: EfficientNet-B4 with {row if fraction else 'all'} of the selected images",
        network="b4", generations=ITSELF, hours="5.33 (train 5.21, label 0.116)",
        options={"iterate.teacher": "runs/table8_teacher-seed${seed}", **fraction},
    )
    for name, row, fraction in SHARES
)
TWINS = tuple(
    small_training(
        f"small_table8_{name}", row, ["supervised", "Noisy Student"],
        f"twin of table 8: {row if fraction else 'all'} of the selected images",
        teacher=small_teacher("middle"), generations=[small("middle"), small_student("middle")], options=fraction,
    )
    for name, row, fraction in SHARES
)
ROWS = (*FULL_SIZE, *TWINS)
# fmt: on
