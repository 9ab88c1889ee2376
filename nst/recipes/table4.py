"""Table 4: robustness without robust training, on ImageNet-C of both sizes of its files."""

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import NETWORKS_OF_TABLE_2, TWINS_OF_TABLE_2, before_finetuning, evaluation, small_evaluations

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

SIZES = (
    # files    option of the suite     folder
    (224,      "eval.imagenet_c",      "datasets/imagenet-c"),
    (299,      "eval.imagenet_c_299",  "datasets/imagenet-c-299"),
)
FULL_SIZE = tuple(
    evaluation(
        f"table4_{network}_{px}", row, f"{px} px",
        f"table 4: {row}, before fine-tuning, on ImageNet-C of {px} px",
        of=before_finetuning(run), pictures="3,750,000 pictures of 475 px", hours="1.2",
        # as the paper, as far as we recall its appendix: the px of training
        options={option: folder, "eval.resize_to": "${model.train_size}"},
    )
    for network, row, run in NETWORKS_OF_TABLE_2
    for px, option, folder in SIZES
)
# fmt: on
ROWS = (*FULL_SIZE, *small_evaluations("table 4", "made on the fly", "corruptions"))
