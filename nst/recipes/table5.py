"""Table 5: robustness without robust training, on ImageNet-P of both sizes of its files."""

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import TWINS_OF_TABLE_2, released_rows, small_evaluations

# fmt: off
EXHIBITS = (Exhibit(
    "table 5",
    title="robustness on ImageNet-P",
    metrics={"top1": "top-1 %", "mfr": "mFR", "flip_rate": "flips %"},
    columns=["224 px", "299 px", "made on the fly"],
    suites={"224 px": "imagenet_p", "299 px": "imagenet_p_299", "made on the fly": "p_onthefly"},
    rows=published({"224 px": "top1 mfr", "299 px": "top1 mfr"}, {
        #                            224 px: top-1  mFR    299 px: top-1  mFR
        "ResNet-50":                (None,          58.0,  None,          None),
        "Low Pass Filter Pooling":  (None,          51.2,  None,          None),
        "ResNeXt-101 WSL":          (None,          27.8,  None,          None),
        "EfficientNet-L2":          (80.4,          27.2,  81.6,          23.7),
        "Noisy Student (L2)":       (83.1,          17.8,  84.3,          16.1),
    }),
    twin_headings=TWINS_OF_TABLE_2,
),)
# fmt: on
ROWS = (
    *released_rows(5, "ImageNet-P", pictures="16,000,000", hours="5.1"),
    *small_evaluations("table 5", "made on the fly", "perturbations"),
)
