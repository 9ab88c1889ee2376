"""Confidences that fit how often a network is right: the temperature that its validation pictures ask for.

Beside the weights stands what the training measured last, that temperature with it (`nst.metrics.fitted_temperature`;
Guo et al. 2017, section 4.2); an exported network has it in its own file. No answer becomes another class. Teachers
label without it: the method has no such step.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from nst.atomic import known_sha256
from nst.documents import read_json
from nst.errors import NstError
from nst.metrics import TEMPERATURES
from nst.models.network_info import TEMPERATURE, read_info
from nst.training.ensemble import Ensemble

NEAR_ONE = 1.25  # temperatures up to here, and down to 1 / 1.25, may come of fifty validation pictures by chance


def fitted(weights: Path) -> float | None:
    """The temperature of a network file, by itself or the summary of its training beside it; None: not measured."""
    with contextlib.suppress(NstError):  # there is none, or it is damaged or of other hands: then nothing is known
        if (exported := read_info(weights).extra.get(TEMPERATURE)) is not None:
            return _temperature(exported)
        summary = read_json(weights.with_suffix(".json"))
        phase = summary.get(weights.stem)  # that of adopted weights has none
        if isinstance(phase, dict) and summary.get("weights_sha256") == known_sha256(weights):
            return _temperature(phase.get("validation/temperature"))
    return None


def _temperature(value: Any) -> float | None:
    """What a file of anybody's gives as one; None: it is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < math.inf else None


def at_own_temperature(network: Ensemble) -> Ensemble:
    """The same networks, each at the temperature at which its confidences fit.

    Raises:
        NstError: a network of which it is not known.
    """
    members = []
    for member in network.members:
        if (temperature := fitted(member.weights)) is None:
            raise NstError(
                "the temperature at which confidences fit is not known of this network",
                got=member.weights,
                valid="the run of a network that this version has trained with validation pictures (data.validation)",
                next="predict.calibrated=false; in Python, nst.load without calibrated",
            )
        members.append(replace(member, temperature=temperature))
    return replace(network, members=tuple(members))


def remark(network: Ensemble) -> str | None:
    """What a user should know of the confidences; None: nothing, or it is not known."""
    temperatures = [member.temperature for member in network.members]
    if any(each != 1 for each in temperatures):
        said = f"confidences at temperature {', '.join(f'{each:.2f}' for each in temperatures)}, by validation pictures"
        if not all(TEMPERATURES[0] * 1.001 < each < TEMPERATURES[-1] / 1.001 for each in temperatures):
            said += ", an end of the range that is looked at, beyond which they may fit better"
        several = len(network.members) * len(network.turns) > 1
        return f"{said}; of each answer by itself: their mean is less sure than it is right" if several else said
    temperature = fitted(network.members[0].weights) if len(temperatures) == 1 else None
    if temperature is None or 1 / NEAR_ONE <= temperature <= NEAR_ONE:
        return None
    often = "more" if temperature < 1 else "less"
    return (
        f"on validation pictures the network was right {often} often than its confidences say: --calibrated mends them"
    )
