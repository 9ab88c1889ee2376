"""What the paper says of the method, and which networks of `bin/bench series` are compared to see whether it holds.

Claims of the later version of the paper (arXiv 1911.04252v4) are marked so.
"""

from __future__ import annotations

from dataclasses import dataclass

LAST = "last"  # the last generation of a run


@dataclass(frozen=True)
class Contender:
    """A network of a row of a series: gen0, gen1, ..., `last` or control; `network` of an evaluation."""

    series: str
    row: str
    network: str = LAST


SMALL = Contender("figure1", "small")  # the small student of the small teacher
MIDDLE = Contender("table6", "noise_full_130m")  # the middle student of the middle teacher


@dataclass(frozen=True)
class Expectation:
    """By what `more` should be better than `less`.

    Args:
        says: what is compared, for the table.
        metric: of `nst.report.evidence.METRICS`.
    """

    says: str
    more: Contender
    less: Contender
    metric: str = "top1"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Args:
        place: in the paper.
    """

    says: str
    place: str
    expectations: tuple[Expectation, ...]


def _within(says: str, series: str, row: str, more: str, less: str) -> Expectation:
    """Two networks of a run."""
    return Expectation(says, Contender(series, row, more), Contender(series, row, less))


def _rows(says: str, series: str, more: str, less: str, metric: str = "top1", network: str = LAST) -> Expectation:
    """The last networks of two rows."""
    return Expectation(says, Contender(series, more, network), Contender(series, less, network), metric)


def _against(base: Contender, says: str, series: str, row: str) -> Expectation:
    """A student that other tables share, and one that should be worse."""
    return Expectation(says, base, Contender(series, row))


def _beyond(base: Contender, says: str, series: str, row: str) -> Expectation:
    """A student that should be better than one that other tables share, and that one."""
    return Expectation(says, Contender(series, row), base)


def _robust(says: str, series: str, metric: str) -> Expectation:
    return _rows(says, series, "noisy_student", "large_supervised", metric, "network")


# fmt: off
CLAIMS = (
    Claim("a student beats its teacher", "table 2", (
        _within("10 labels a class: last student − teacher", "eurosat_10", "recipe", LAST, "gen0"),
        _within("5 labels a class: last student − teacher", "eurosat_5", "recipe", LAST, "gen0"),
    )),
    Claim("and the same network on the labels alone", "table 2", (
        _within("10 labels a class: last student − control", "eurosat_10", "recipe", LAST, "control"),
        _within("5 labels a class: last student − control", "eurosat_5", "recipe", LAST, "control"),
        _within("5 labels a class: fourth student − control", "eurosat_5", "four_students", LAST, "control"),
        _within("the chain of growing networks: last student − control", "table2", "noisy_student", LAST, "control"),
    )),
    Claim("iteration helps", "table 2", (
        _within("student 2 (surest 1,400 of a class) − student 1 (1,000), of one size", "eurosat_10", "recipe", "gen2",
                "gen1"),
        _within("5 labels a class: likewise", "eurosat_5", "recipe", "gen2", "gen1"),
        _within("5 labels a class: student 4 (surest 1,700) − student 2", "eurosat_5", "four_students", LAST, "gen2"),
    )),
    Claim("noise is needed", "table 6", (
        _rows("all noise − none, all selected images", "table6", "noise_full_130m", "no_noise_130m"),
        _rows("all noise − none, a tenth of them", "table6", "noise_full_1m", "no_noise_1m"),
    )),
    Claim("each kind of noise is needed", "table 6", (
        _rows("all noise − without augmentation", "table6", "noise_full_130m", "no_aug_130m"),
        _rows("all noise − without stochastic depth", "table6", "noise_full_130m", "no_depth_130m"),
        _rows("all noise − without dropout", "table6", "noise_full_130m", "no_dropout_130m"),
        _rows("a tenth of the images: all noise − without augmentation", "table6", "noise_full_1m", "no_aug_1m"),
        _rows("a tenth: all noise − without stochastic depth", "table6", "noise_full_1m", "no_depth_1m"),
        _rows("a tenth: all noise − without dropout", "table6", "noise_full_1m", "no_dropout_1m"),
    )),
    Claim("augmentation matters more than the noise of the network", "table 6", (
        _rows("augmentation alone − the network's noise alone", "table6", "no_depth_dropout_130m", "no_aug_130m"),
        _rows("augmentation alone − no noise", "table6", "no_depth_dropout_130m", "no_noise_130m"),
        _rows("the network's noise alone − no noise", "table6", "no_aug_130m", "no_noise_130m"),
        _rows("a tenth of the images: augmentation − the network's noise", "table6", "no_depth_dropout_1m",
              "no_aug_1m"),
        _rows("a tenth: augmentation alone − no noise", "table6", "no_depth_dropout_1m", "no_noise_1m"),
        _rows("a tenth: the network's noise alone − no noise", "table6", "no_aug_1m", "no_noise_1m"),
        _rows("a tenth: dropout alone − no noise", "table6", "no_aug_depth_1m", "no_noise_1m"),
        _rows("a tenth: stochastic depth alone − no noise", "table6", "no_aug_dropout_1m", "no_noise_1m"),
    )),
    Claim("soft labels are better than hard ones where the teacher is unsure", "figure 4", (
        _rows("soft − hard, confidence below 0.4", "figure4", "bin0_soft", "bin0_hard"),
        _rows("soft − hard, 0.4 to 0.6", "figure4", "bin1_soft", "bin1_hard"),
        _rows("soft − hard, 0.6 to 0.8", "figure4", "bin2_soft", "bin2_hard"),
        _rows("soft − hard, above 0.8", "figure4", "bin3_soft", "bin3_hard"),
    )),
    Claim("more unlabeled data are better", "table 8", (
        _against(MIDDLE, "all selected images − 1/16 of them", "table8", "16th"),
        _against(MIDDLE, "all selected images − a quarter", "table8", "4th"),
    )),
    Claim("a larger teacher is better", "table 9", (
        _beyond(SMALL, "small student: last network of table 2 as teacher − itself", "table9", "small_from_last"),
        _beyond(MIDDLE, "middle student: likewise", "table9", "middle_from_last"),
    )),
    Claim("a larger student is better", "later version", (
        _beyond(SMALL, "large − small student of one teacher", "later", "student_large"),
        _beyond(SMALL, "middle − small student of one teacher", "later", "student_middle"),
    )),
    Claim("robustness comes for free", "tables 4, 5, figure 3", (
        _robust("last student − its size on labels, 15 corruptions", "table4", "corruption_error"),
        _robust("the same, 10 perturbations", "table5", "flip_rate"),
        _robust("the same, attacked: FGSM, 2/255", "figure3", "fgsm_2"),
        _robust("the same, PGD, 16/255", "figure3", "pgd_16"),
    )),
    Claim("balancing helps", "later version", (
        _rows("balanced − all that are sure, once each", "later", "balanced", "unbalanced"),
    )),
    Claim("joint training is better than pretraining and fine-tuning", "later version", (
        _against(SMALL, "joint − pretrained on pseudo-labels, fine-tuned on labels", "later", "pretrained"),
    )),
    Claim("more unlabeled images in a batch are better", "later version", (
        _rows("14 − 1 unlabeled per labeled image", "ratio", "ratio_14", "ratio_1"),
        _rows("28 − 7", "ratio", "ratio_28", "ratio_7"),
    )),
    Claim("a teacher should not be noised when it labels", "later version", (
        _against(SMALL, "un-noised − noised teacher", "later", "noised_teacher"),
    )),
    Claim("a student starts better anew than from its teacher", "later version", (
        _against(SMALL, "anew − from its teacher", "later", "from_teacher"),
    )),
    Claim("it helps also where classes are uneven and few pictures are unlabeled (clothes)", "not of the paper", (
        _within("as many of every class: last student − control", "clothing", "equal", LAST, "control"),
        Expectation("in the proportions of the labels: last student − control", Contender("clothing", "labeled"),
                    Contender("clothing", "equal", "control")),
    )),
    Claim("it helps a network from scratch too (CIFAR-10, 4,000 labels)", "not of the paper", (
        _within("student − teacher", "cifar10", "offline", LAST, "gen0"),
        _within("student − control", "cifar10", "offline", LAST, "control"),
        _rows("the teacher labels within the step − before it", "cifar10", "online", "offline"),
    )),
    Claim("other networks gain too", "later version", (
        _within("ResNet from scratch: last student − control", "networks", "resnet", LAST, "control"),
        _within("likewise without BatchNorm: last student − control", "networks", "without_batchnorm", LAST,
                "control"),
    )),
)
# fmt: on
