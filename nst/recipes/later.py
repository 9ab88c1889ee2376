"""What the later version of the paper asks besides, at full size. No figures: its tables could not be checked.

All rows are of EfficientNet-B4 unless they say otherwise, and share the teacher of table 8's rows: `table8_all` is the
one with which they are compared, a student of three unlabeled images per labeled one that starts anew. Its teacher is
not noised, and classes are balanced. What is without balancing stands beside `figure1_b0` to `figure1_b3`. The twins
are series of EuroSAT (`benchmarks/series_table.py`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from nst.recipes.rows import ITSELF, Row, training

TEACHER = {"iterate.teacher": "runs/table8_teacher-seed${seed}"}
# 128 labeled images of 8,192: nearly all of what is learned are pseudo-labels. An epoch of labeled images has 16 times
# the steps then, so all that is told in epochs is a sixteenth, and the rate per labeled image 16 times the recipe's
PRETRAINED = (
    "student.labeled_batch_size=128", "student.unlabeled_ratio=63", "student.epochs=43.75",
    "student.schedule.decay_epochs=0.3", "student.schedule.warmup_epochs=0.3125",
    "student.optimizer.rate_per_256=0.256", "student.finetune.epochs=30", "student.finetune.labeled_batch_size=2048",
)  # fmt: skip
# fmt: off
RATIOS = (
    # ratio  hours on 2,048 TPU v3 cores
    (1,      "3.24 (train 3.13, label 0.116)"),
    (7,      "9.5 (train 9.39, label 0.116)"),
    (14,     "16.8 (train 16.7, label 0.116)"),
    (28,     "31.4 (train 31.3, label 0.116)"),
)
STUDENTS = (
    ("b5",   "6.03 (train 5.92, label 0.116)"),
    ("b6",   "10.2 (train 10.1, label 0.116)"),
    ("b7",   "19.1 (train 19, label 0.116)"),
)
UNBALANCED = (
    ("b0",   "0.285 (train 0.275, label 0.0102)"),
    ("b1",   "0.833 (train 0.815, label 0.0182)"),
    ("b2",   "1.21 (train 1.18, label 0.0263)"),
    ("b3",   "2.22 (train 2.17, label 0.0484)"),
)
ITS_OWN = "5.33 (train 5.21, label 0.116)"  # of B4
ADAMW = {"student.optimizer.name": "adamw", "student.optimizer.rate_per_256": 0.00025, "student.weight_decay": 0.05,
         "student.schedule.kind": "cosine"}
NETWORKS: tuple[tuple[str, str, str, dict[str, Any], str], ...] = (
    # recipe              of timm's        what it is                     options by which it learns
    ("resnet50",          "resnet50",      "a ResNet-50",                 {},
     "2.53 (train 2.43, label 0.108)"),
    ("without_batchnorm", "convnext_tiny", "a network without BatchNorm", ADAMW,
     "2.76 (train 2.64, label 0.118)"),
)
# fmt: on


def later(
    name: str, says: str, *, hours: str, network: str = "b4", student: tuple[str, ...] = (),
    options: Mapping[str, Any] | None = None, teacher: tuple[str, ...] = (),
) -> Row:  # fmt: skip
    """A row of no table that is printed here.

    Args:
        network: empty: one of timm's, which the options name.
        student: options of the student; `teacher` those of generation 0.
    """
    generations = [teacher, student] if teacher or student else ITSELF
    return training(
        f"later_{name}", "", [], f"later version: {says}",
        network=network, generations=generations, hours=hours, options=options,
    )  # fmt: skip


def rows() -> Iterator[Row]:
    for ratio, hours in RATIOS:
        images = f"{ratio} unlabeled image{'s' if ratio > 1 else ''} per labeled one in a batch"
        yield later(
            f"ratio_{ratio}", images, hours=hours, student=(f"student.unlabeled_ratio={ratio}",), options=TEACHER
        )
    for network, hours in STUDENTS:
        yield later(
            f"student_{network}", f"EfficientNet-{network.upper()} taught by B4", hours=hours,
            network=network, teacher=("student=efficientnet_b4",), options=TEACHER,
        )  # fmt: skip
    for network, hours in UNBALANCED:
        yield later(
            f"unbalanced_{network}", f"EfficientNet-{network.upper()} with every sure image once, classes as they come",
            hours=hours, network=network, options={"select.images_per_class": None, "select.max_copies": 1},
        )  # fmt: skip
    yield later("noised_teacher", "labels under the noise of the teacher's own training", hours=ITS_OWN,
                options={"teacher.noised": True, "doctor.accept": ["noised_teacher"]})  # fmt: skip
    yield later("from_teacher", "a student that starts from its teacher's weights", hours=ITS_OWN,
                student=("student.start=teacher",), options=TEACHER)  # fmt: skip
    yield later(
        "pretrained", "pseudo-labels first, then labels alone", student=PRETRAINED,
        options={**TEACHER, "doctor.accept": ["learning_rate", "finetune_size"]},
        hours="5.38 (train 5.21, finetune 0.0447, label 0.116; of 128 cores, a sixteenth)",
    )  # fmt: skip
    for name, network, says, options, hours in NETWORKS:
        sizes = {
            "model.name": network,
            "model.train_size": 224,
            "model.test_size": 224,
            "noise.randaugment.magnitude": 15,
        }
        yield later(name, f"{says} of 224 px, taught by itself", hours=hours, network="", options={**sizes, **options})


ROWS = tuple(rows())
EXHIBITS = ()
