"""Reads the names of classes that come with others' weights; where none are told, none are assumed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from nst.documents import read_json
from nst.errors import NstError

NAMES = "label_names"  # of config.json beside weights as the hub lays them out


def label_names(weights: Path) -> tuple[str, ...] | None:
    """The names in the order of the logits, from the config.json beside the weights; None where it tells none."""
    config = weights.parent / "config.json"
    names = read_json(config, sealed=False).get(NAMES) if config.is_file() else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def order_of(names: Sequence[str], classes: Sequence[str], source: str) -> list[int]:
    """Numbers of the logits that belong to these classes, in their order.

    Raises:
        NstError: the weights know other classes.
    """
    if len(names) == len(classes) and set(names) == set(classes):
        return [names.index(name) for name in classes]
    strange = next((name for name in names if name not in classes), None)
    raise NstError(
        f"{source} knows other classes than the data",
        got=f"{len(names)} in its config.json" + (f", such as '{strange}'" if strange is not None else ""),
        valid=f"the {len(classes)} classes of the data: {', '.join(classes[:4])} ...",
        next="data.test=<a set of its classes>, or model.pretrained=<it> trains a classifier of yours",
    )


def reordered(state: Mapping[str, Tensor], classifier: Collection[str], order: Sequence[int]) -> dict[str, Tensor]:
    """The weights with the classifier's rows in this order of the logits."""
    rows = list(order)
    return {name: value[rows] if name in classifier and value.ndim else value for name, value in state.items()}
