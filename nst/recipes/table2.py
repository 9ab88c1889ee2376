"""Table 2: how good is the chain B7 → B7 → L0 → L1 → L2 → L2?"""

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import ALONE, small, small_student, small_teacher, small_training, training

# fmt: off
EXHIBITS = (Exhibit(
    "table 2",
    title="accuracy on ImageNet",
    metrics={"top1": "top-1 %", "top5": "top-5 %"},
    columns=["ImageNet"],
    rows=published({"ImageNet": "top1 top5"}, {
        "ResNet-50":               (76.0, 93.0),
        "ResNet-152":              (77.8, 93.8),
        "ResNeXt-101":             (80.9, 95.6),
        "SENet":                   (82.7, 96.2),
        "AmoebaNet-C":             (83.5, 96.5),
        "GPipe":                   (84.3, 97.0),
        "EfficientNet-B7":         (85.0, 97.2),
        "EfficientNet-L2":         (85.5, 97.5),
        "ResNeXt-101 WSL":         (85.4, 97.6),
        "FixRes ResNeXt-101 WSL":  (86.4, 98.0),
        "Noisy Student (L2)":      (87.4, 98.2),
    }),
    twin_headings={
        "ImageNet": "the test images of the twin's data",
        "EfficientNet-B7": "a small network on labels alone",
        "EfficientNet-L2": "a large network on labels alone",
        "Noisy Student (L2)": "the large network, three generations after the small one",
    },
),)

ROWS = (
    training(
        "table2_b7_supervised", "EfficientNet-B7", ["ImageNet"],
        "table 2: EfficientNet-B7 on labels alone",
        network="b7", generations=ALONE, hours="4.48 (train 4.48)",
    ),
    training(
        "table2_l2_supervised", "EfficientNet-L2", ["ImageNet"],
        "table 2: EfficientNet-L2 on labels alone, fine-tuned at its test size",
        network="l2", generations=ALONE, hours="27.2 (train 27, finetune 0.236)",
    ),
    training(
        "table2_noisy_student_l2", "Noisy Student (L2)", [None, None, None, None, None, "ImageNet"],
        "table 2: the whole chain, B7 to B7 to L0 to L1 to L2 to L2",
        network="l2",
        generations=[
            ["student=efficientnet_b7"],
            ["student=efficientnet_b7"],
            ["student=efficientnet_l0"],
            ["student=efficientnet_l1"],
            [],
            [],
        ],
        hours="306 (train 284, label 21, finetune 0.566)",
    ),
    small_training(
        "small_table2_supervised", "EfficientNet-B7", ["ImageNet"],
        "twin of table 2: a small network on labels alone",
        teacher=small_teacher("teacher"), generations=[small("small")],
    ),
    small_training(
        "small_table2_large_supervised", "EfficientNet-L2", ["ImageNet"],
        "twin of table 2: a large network on labels alone",
        teacher=small_teacher("large"), generations=[small("large")],
    ),
    small_training(
        "small_table2_noisy_student", "Noisy Student (L2)", [None, None, None, "ImageNet"],
        "twin of table 2: the chain, a small teacher and three generations of students",
        teacher=small_teacher("teacher"),
        generations=[small("small"), small_student("middle"), small_student("large"), small_student("large")],
    ),
)
# fmt: on
