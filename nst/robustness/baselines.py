"""The contents of the published benchmarks, and the AlexNet that normalises them (paper tables 4 and 5).

A baseline carries its source, because the numbers differ in how sure they are. AlexNet's errors on ImageNet-C are exact
to 1e-5. Its flip probabilities on ImageNet-P are known to two decimals. Its top-5 distances are not published, so there
is no mT5D unless a run brings its own baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MADE_CORRUPTIONS, MADE_SEQUENCES = "c_onthefly", "p_onthefly"  # suites that are made on the fly of our own images
NUM_SEVERITIES = 5
DIFFICULTIES = (1, 2, 3)  # of perturbation sequences
# the four `extra` ones are for validation: in no mean
CORRUPTION_GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
CORRUPTIONS = tuple(name for group, names in CORRUPTION_GROUPS.items() if group != "extra" for name in names)
EXTRA_CORRUPTIONS = CORRUPTION_GROUPS["extra"]

PERTURBATIONS = (
    *("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow"),
    *("brightness", "translate", "rotate", "tilt", "scale"),
)
EXTRA_PERTURBATIONS = ("speckle_noise", "gaussian_blur", "spatter", "shear")
# the reference evaluation of CIFAR-P counts spatter, and leaves snow to validation
CIFAR_PERTURBATIONS = tuple("spatter" if name == "snow" else name for name in PERTURBATIONS)
# images of every corruption at each severity, or clips of every perturbation
PUBLISHED_SAMPLES = {
    **dict.fromkeys(("imagenet_c", "imagenet_c_299", "imagenet_p", "imagenet_p_299"), 50_000),
    **dict.fromkeys(("cifar_c", "cifar_p"), 10_000),
}


@dataclass(frozen=True)
class Baseline:
    """A network's own numbers, by which others are divided.

    Args:
        source: where the numbers come from, for the result.
        clean_error: top-1 error in percent on clean images.
        corruption_errors: top-1 error in percent at severity 1 to 5, by corruption; None where not measured.
        flip_probability: in percent, by perturbation.
        top5_distance: 0 to 15, by perturbation.
    """

    name: str
    source: str
    clean_error: float | None = None
    corruption_errors: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    flip_probability: Mapping[str, float] = field(default_factory=dict)
    top5_distance: Mapping[str, float] = field(default_factory=dict)


ALEXNET = Baseline(
    name="AlexNet",
    source=(
        "torchvision alexnet-owt-4df8aa71. ImageNet-C (224 and 299 px alike): hendrycks/robustness issue 10. "
        "ImageNet-P: Zhang 2019, Making Convolutional Networks Shift-Invariant Again, supplement, two decimals, "
        "recalled and not copied from it (with its row of ResNet-50 they give the published mFR of 58.0). "
        "Clean error: Hendrycks and Dietterich 2019."
    ),
    clean_error=43.5,  # as printed; torchvision's 56.52 % top-1 would be 43.48
    corruption_errors={
        "gaussian_noise": (69.528, 82.542, 93.554, 98.138, 99.452),
        "shot_noise": (71.224, 85.108, 93.574, 98.182, 99.146),
        "impulse_noise": (78.374, 89.808, 94.870, 98.720, 99.548),
        "defocus_blur": (65.624, 73.202, 85.036, 91.364, 94.714),
        "glass_blur": (64.308, 75.054, 88.806, 91.622, 93.344),
        "motion_blur": (58.430, 70.048, 82.108, 89.750, 92.638),
        "zoom_blur": (70.008, 76.992, 80.784, 84.198, 87.198),
        "snow": (71.726, 88.392, 86.468, 91.870, 94.952),
        "frost": (61.390, 79.734, 88.790, 89.942, 93.430),
        "fog": (67.474, 76.050, 84.378, 87.260, 94.500),
        "brightness": (45.140, 48.502, 54.048, 62.166, 72.440),
        "contrast": (64.548, 76.150, 88.874, 97.760, 99.270),
        "elastic_transform": (52.596, 70.116, 55.686, 64.076, 80.554),
        "pixelate": (52.218, 54.620, 73.728, 87.092, 91.262),
        "jpeg_compression": (51.002, 54.718, 57.294, 65.458, 74.778),
    },
    flip_probability={
        "gaussian_noise": 23.65,
        "shot_noise": 30.06,
        "motion_blur": 9.30,
        "zoom_blur": 5.94,
        "snow": 11.93,
        "brightness": 4.89,
        "translate": 11.01,
        "rotate": 13.10,
        "tilt": 7.05,
        "scale": 23.53,
    },
)
