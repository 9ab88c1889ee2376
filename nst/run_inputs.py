"""Everything a run's result depends on, as it is kept and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nst.documents import as_json

MOVE_NOTHING = {"max_bad_fraction", "batch_size"}  # of which a batch only rounds
# came later, by group and name, and what was done before: BatchNorm saw whole batches, a picture was looked at once
ADDED = {
    ("accumulate",): 1,
    ("lanes",): 1,
    ("turns",): 1,
    ("views",): "one",
    ("computed_in",): "32-true",
    ("noise_of_labels",): "none",
    ("pictures", "turn"): False,
    ("teacher", "views"): "one",
    ("teacher", "noised"): False,
    ("recipe", "loss_scale"): 1.0,
}


def identity(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as JSON, without those that came later where they are as it was before: an older run goes on with them."""
    found: dict[str, Any] = as_json(inputs)
    for (*groups, name), before in ADDED.items():
        node: Any = found
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get(name) == before:
            del node[name]
    return found
