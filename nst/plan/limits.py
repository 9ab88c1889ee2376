"""Refuses a training step that no device here can hold: the plan's numbers tell before it is tried."""

from __future__ import annotations

import math
from dataclasses import replace

from nst.errors import UsageError
from nst.machine import GIB, MARGIN
from nst.plan.budget import Numerics, PhaseCost, memory
from nst.plan.chips import CHIPS, Cluster


def require_room(training: PhaseCost, numerics: Numerics, available: float | None, *, devices: int) -> None:
    """Holds a training step against a device's memory.

    Args:
        available: bytes of a device; None: not known, and nothing is refused.
        devices: that share the batch, each with a memory of its own.

    Raises:
        UsageError: the step is far too large.
    """
    if available is None:
        return
    parts = devices * training.accumulate
    batch = math.ceil(training.recipe.labeled_batch_size / parts) * training.accumulate
    share = replace(training, recipe=replace(training.recipe, labeled_batch_size=batch))
    needed = memory(share, Cluster("a device", CHIPS["cpu"], 1), numerics, remat=training.remat).total
    if needed <= MARGIN * available:
        return
    parameters = f"{training.cost.parameters / 1e6:,.1f}M parameters"
    raise UsageError(
        f"a training step needs about {needed / GIB:,.0f} GiB, and a device here has {available / GIB:,.0f}",
        got=f"{share.batch:,} images of {training.cost.image_size} px on a device, a network of {parameters}",
        valid="a smaller student.labeled_batch_size or network; trainer.accumulate=2, model.remat=true keep less",
        next="nst plan shows what takes how much",
    )
