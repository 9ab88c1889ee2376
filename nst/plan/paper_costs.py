"""What the paper says about cost, beside what is counted here (arXiv 1911.04252, first version)."""

from __future__ import annotations

from typing import Any

from nst.models.architectures import ARCHITECTURES
from nst.plan.chips import cluster
from nst.plan.layer_costs import measure

CLASSES, LABELED_IMAGES = 1000, 1_281_167

# section 3.1: "Our largest model, EfficientNet-L2, needs to be trained for 3.5 days on a Cloud TPU v3 Pod, which has
# 2048 cores"; 350 epochs of the labeled images, each batch with three times as many unlabeled ones
DAYS, POD = 3.5, "v3:32x32"
EPOCHS, UNLABELED_RATIO = 350, 3

# table 7: training time of one network over another's, each at its own training size
TIME_RATIOS = (
    ("efficientnet_l0", "efficientnet_b7", 1.0),
    ("efficientnet_l1", "efficientnet_l0", 2.0),
    ("efficientnet_l2", "efficientnet_l1", 2.72),
)


def time_ratios() -> list[dict[str, Any]]:
    """Training time of `model` over that of `base`: the paper's, and ours by work alone."""
    return [
        {"model": model, "base": base, "paper": paper, "ours": _work(model) / _work(base)}
        for model, base, paper in TIME_RATIOS
    ]


def l2_flops() -> float:
    """Work of the paper's training of L2 at 475 px, without rematerialisation and fine-tuning."""
    return EPOCHS * LABELED_IMAGES * (1 + UNLABELED_RATIO) * _work("efficientnet_l2")


def implied_utilization() -> float:
    """Share of the pod's peak that the paper's 3.5 days amount to."""
    return l2_flops() / (DAYS * 86400 * cluster(POD).peak)


def _work(model: str) -> int:
    architecture = ARCHITECTURES[model]
    return measure(architecture, CLASSES, architecture.train_size).training_flops()
