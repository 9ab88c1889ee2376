"""Table 4: robustness without robust training, on ImageNet-C of both sizes of its files."""

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import TWINS_OF_TABLE_2, released_rows, small_evaluations

# fmt: off
EXHIBITS = (Exhibit(
    "table 4",
    title="robustness on ImageNet-C",
    metrics={"top1": "top-1 %", "mce": "mCE", "corruption_error": "error %"},
    columns=["224 px", "299 px", "made on the fly"],
    suites={"224 px": "imagenet_c", "299 px": "imagenet_c_299", "made on the fly": "c_onthefly"},
    rows=published({"224 px": "top1 mce", "299 px": "top1 mce"}, {
        #                       224 px: top-1  mCE    299 px: top-1  mCE
        "ResNet-50":           (39.0,          76.7,  None,          None),
        "SIN":                 (45.2,          69.3,  None,          None),
        "Patch Gaussian":      (None,          None,  52.3,          60.4),
        "ResNeXt-101 WSL":     (None,          45.7,  None,          None),
        "EfficientNet-L2":     (62.6,          47.5,  66.6,          42.5),
        "Noisy Student (L2)":  (72.8,          34.7,  75.5,          31.2),
    }),
    twin_headings=TWINS_OF_TABLE_2,
),)
# fmt: on
ROWS = (
    *released_rows(4, "ImageNet-C", pictures="3,750,000", hours="1.2"),
    *small_evaluations("table 4", "made on the fly", "corruptions"),
)
