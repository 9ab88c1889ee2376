"""Table 3: robustness without robust training, on ImageNet-A. No other data has a counterpart, so there is no twin."""

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import NETWORKS_OF_TABLE_2, evaluation

# fmt: off
EXHIBITS = (Exhibit(
    "table 3",
    title="robustness on ImageNet-A",
    metrics={"top1": "top-1 %", "top5": "top-5 %"},
    columns=["ImageNet-A"],
    suites={"ImageNet-A": "imagenet_a"},
    rows=published({"ImageNet-A": "top1 top5"}, {
        "ResNet-101":              (4.7,  None),
        "ResNeXt-101 (32x4d)":     (5.9,  None),
        "ResNet-152":              (6.1,  None),
        "ResNeXt-101 (64x4d)":     (7.3,  None),
        "DPN-98":                  (9.4,  None),
        "ResNeXt-101+SE (32x4d)":  (14.2, None),
        "ResNeXt-101 WSL":         (16.6, None),
        "EfficientNet-L2":         (49.6, 78.6),
        "Noisy Student (L2)":      (74.2, 91.3),
    }),
),)

ROWS = tuple(
    evaluation(
        f"table3_{network}", row, "ImageNet-A", f"table 3: {row} on ImageNet-A (200 classes)",
        of=run, pictures="7,500 pictures", hours="0.01", options={"eval.imagenet_a": "datasets/imagenet-a"},
    )
    for network, row, run in NETWORKS_OF_TABLE_2
)
# fmt: on
