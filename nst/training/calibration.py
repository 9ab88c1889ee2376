"""Confidences that fit how often a network is right: the temperature that its validation pictures ask for.

Beside the weights stands what the training measured last, that temperature with it (`nst.metrics.fitted_temperature`;
Guo et al. 2017, section 4.2). No answer becomes another class. Teachers label without it: the method has no such step.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from nst.atomic import known_sha256
from nst.documents import read_json
from nst.errors import NstError, UsageError
from nst.training.ensemble import Ensemble

NEAR_ONE = 1.25  # temperatures up to here, and down to 1 / 1.25, may come of fifty validation pictures by chance
OTHERWISE = "predict.calibrated=false; in Python, nst.load without calibrated"


def fitted(weights: Path) -> float | None:
    """The temperature of a network file, by the summary of its training beside it; None where none was measured."""
    with contextlib.suppress(NstError):  # there is none, or it is damaged or of other hands: then nothing is known
        told = read_json(weights.with_suffix(".json"))
        if told.get("weights_sha256") == known_sha256(weights):
            return told[weights.stem].get("validation/temperature")
    return None


def temperature_of(network: Ensemble) -> float:
    """At which a network's confidences fit.

    Raises:
        NstError: nothing is known of it.
        UsageError: the answer is the mean of several, of which nothing was measured.
    """
    if (answers := len(network.members) * len(network.turns)) > 1:
        raise UsageError(
            "only the confidences of one network in one view can be calibrated",
            got=f"the mean of {answers} answers",
            next=OTHERWISE,
        )
    weights = network.members[0].weights
    if (temperature := fitted(weights)) is None:
        raise NstError(
            "the temperature at which confidences fit is not known of this network",
            got=weights,
            valid="the run of a network that this version has trained with validation pictures (data.validation)",
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
