"""Confidences that fit how often a network is right: the temperature that its validation pictures ask for.

Beside the weights stands what the training measured last, that temperature with it (`nst.metrics.fitted_temperature`;
Guo et al. 2017, section 4.2). No answer becomes another class. Teachers label without it: the method has no such step.
"""

from __future__ import annotations

from pathlib import Path

from nst.documents import read_json
from nst.errors import NstError
from nst.training.ensemble import Ensemble

NEAR_ONE = 1.25  # temperatures up to here, and down to 1 / 1.25, may come of fifty validation pictures by chance
OTHERWISE = "predict.calibrated=false; in Python, nst.load without calibrated"


def fitted(weights: Path) -> float | None:
    """The temperature of a network file in a run directory; None where this version has measured none.

    Raises:
        NstError: a summary of the training that is damaged.
    """
    summary = weights.with_suffix(".json")
    if weights.parent.name != "checkpoints" or not summary.exists():
        return None
    return read_json(summary).get(weights.stem, {}).get("validation/temperature")


def temperature_of(network: Ensemble) -> float:
    """At which a network's confidences fit.

    Raises:
        NstError: nothing is known of it, or the answer is the mean of several, of which nothing was measured.
    """
    if (answers := len(network.members) * len(network.turns)) > 1:
        raise NstError(
            "only the confidences of one network in one view can be calibrated",
            got=f"the mean of {answers} answers",
            next=OTHERWISE,
        )
    weights = network.members[0].weights
    if (temperature := fitted(weights)) is None:
        raise NstError(
            "the temperature at which confidences fit is not known of this network",
            got=weights,
            valid="a network in the run directory of an nst train that had validation pictures",
            next=OTHERWISE,
        )
    return temperature


def advice(network: Ensemble) -> str | None:
    """What a user should know of confidences that are not calibrated; None: nothing, or they could not be."""
    single = len(network.members) * len(network.turns) == 1
    temperature = fitted(network.members[0].weights) if single else None
    if temperature is None or 1 / NEAR_ONE <= temperature <= NEAR_ONE:
        return None
    often = "more" if temperature < 1 else "less"
    return (
        f"on validation pictures the network was right {often} often than its confidences say: --calibrated mends them"
    )
