"""The networks' table: EfficientNet B0 to B7 and L0 to L2, and how the paper trains each of them as a student.

A row makes three choices of the command line: `model=efficientnet_b4`, `student=efficientnet_b4`, and
`teacher=efficientnet_b4`, by which iterate trains generation 0 with that student's recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nst.recipes.choices import Made


@dataclass(frozen=True)
class Network:
    """A row of the table.

    Args:
        short: `b4`.
        width, depth: multiples of B0's channels and blocks.
        train_size, test_size: px.
        dropout: rate before the classifier.
        parameters_m: millions, at 1000 classes.
        epochs: of the labeled images.
        decay_epochs: after which the rate is multiplied by 0.97.
        unlabeled_ratio: unlabeled images per labeled one in a batch.
        magnitude: of RandAugment; None: crop and flip only.
        frozen_blocks: of how many; FixRes, see `student`. None: no fine-tuning at a larger size.
    """

    short: str
    width: float
    depth: float
    train_size: int
    test_size: int
    dropout: float
    parameters_m: float
    epochs: int
    decay_epochs: float
    unlabeled_ratio: int
    magnitude: int | None
    frozen_blocks: tuple[int, int] | None

    @property
    def name(self) -> str:
        return f"efficientnet_{self.short}"

    @property
    def title(self) -> str:
        return f"EfficientNet-{self.short.upper()}"


# width, depth and sizes of L0-L2: [P] table 7 ([C] names L2 only); the rest of them and every dropout rate: [C].
# Epochs: [P], 700 up to B4 and 350 for larger ones; magnitudes and ratios: [C]. Frozen are stages 1 to 4: [P] says
# "shallow layers" only, half is ours [O].
# fmt: off
NETWORKS = tuple(Network(*row) for row in (
    #       network                                            as a student
    #       width depth  train test  dropout  parameters M     epochs decay  ratio magnitude  frozen blocks
    ("b0",  1.0,  1.0,   224,  224,  0.2,     5.3,             700,   4.8,   1,    None,      None),
    ("b1",  1.0,  1.1,   240,  240,  0.2,     7.8,             700,   4.8,   3,    None,      None),
    ("b2",  1.1,  1.2,   260,  260,  0.3,     9.1,             700,   4.8,   3,    6,         None),
    ("b3",  1.2,  1.4,   300,  300,  0.3,     12.2,            700,   4.8,   3,    12,        None),
    ("b4",  1.4,  1.8,   380,  380,  0.4,     19.3,            700,   4.8,   3,    15,        None),
    ("b5",  1.6,  2.2,   456,  456,  0.4,     30.4,            350,   2.4,   3,    18,        None),
    ("b6",  1.8,  2.6,   528,  528,  0.5,     43.0,            350,   2.4,   3,    24,        None),
    ("b7",  2.0,  3.1,   600,  600,  0.5,     66.3,            350,   2.4,   3,    27,        None),
    ("l0",  2.8,  3.7,   380,  600,  0.5,     140.8,           350,   2.4,   3,    27,        (32, 63)),
    ("l1",  3.9,  3.7,   380,  600,  0.5,     272.6,           350,   2.4,   3,    27,        (32, 63)),
    ("l2",  4.3,  5.3,   475,  800,  0.5,     480.3,           350,   2.4,   3,    27,        (44, 88)),
))
# fmt: on
REMATERIALIZED = ("l2",)  # whose activations do not fit a chip otherwise


def model(network: Network) -> Made:
    """`model=`: the network itself."""
    options = {
        "defaults": ["_defaults", "_self_"],
        "name": network.name,
        "width": network.width,
        "depth": network.depth,
        "train_size": network.train_size,
        "test_size": network.test_size,
        "dropout": network.dropout,
        "remat": network.short in REMATERIALIZED,
    }
    return Made(f"{network.title}, {network.parameters_m}M parameters at 1000 classes", options)


def student(network: Network) -> Made:
    """`student=`: the network and the paper's recipe for it.

    FixRes, of the large ones: 1.5 epochs of labeled images at the test size, without augmentation, while the stem and
    the first blocks do not learn.
    """
    options: dict[str, Any] = {
        "defaults": ["/student/paper@student", {"override /model": network.name}],
        "student.epochs": network.epochs,
        "student.unlabeled_ratio": network.unlabeled_ratio,
        "student.schedule.decay_epochs": network.decay_epochs,
    }
    if network.magnitude is None:
        options["noise.randaugment.num_ops"] = 0
    else:
        options["noise.randaugment.magnitude"] = network.magnitude
    if network.frozen_blocks:
        options |= {"student.finetune.epochs": 1.5, "student.finetune.frozen_blocks": network.frozen_blocks[0]}
    noise = "crop and flip only" if network.magnitude is None else f"RandAugment {network.magnitude}"
    says = (
        f"the paper's student {network.title}: {network.epochs} epochs, unlabeled ratio {network.unlabeled_ratio}, "
        f"{noise}"
    )
    return Made(says, options, "_global_")


def teacher(network: Network) -> Made:
    """`teacher=`: soft labels of that network, which iterate trains first."""
    says = f"soft labels by {network.title} at its own test size ({network.test_size} px as released)"
    return Made(says, {"defaults": ["soft", "_self_"], "student": network.name})
