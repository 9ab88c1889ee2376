"""Table 7: sizes and times of the networks. It asks nothing of data, so there is no twin."""

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import ALONE, training

# fmt: off
EXHIBITS = (Exhibit(
    "table 7",
    title="architectures",
    metrics={"params_m": "params M", "time_ratio": "time / the one above"},
    columns=["architecture"],
    rows=published({"architecture": "params_m time_ratio"}, {
        #                    parameters M  time
        "EfficientNet-B7":  (66,           None),
        "EfficientNet-L0":  (140,          1.0),
        "EfficientNet-L1":  (273,          2.0),
        "EfficientNet-L2":  (480,          2.72),
    }),
),)

ROWS = tuple(
    training(
        f"table7_{network}", f"EfficientNet-{network.upper()}", ["architecture"],
        f"table 7: EfficientNet-{network.upper()} and its time of training, on labels alone",
        network=network, generations=ALONE, hours=hours, planned=True,
    )
    for network, hours in (
        ("b7",  "4.48 (train 4.48)"),
        ("l0",  "3.93 (train 3.9, finetune 0.0318)"),
        ("l1",  "7.76 (train 7.7, finetune 0.0624)"),
        ("l2",  "27.2 (train 27, finetune 0.236)"),
    )
)
# fmt: on
