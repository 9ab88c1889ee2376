"""Reads the names of classes that come with others' weights; where none are told, none are assumed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from nst.documents import read_json
from nst.errors import NstError
from nst.progress import say

NAMES = "label_names"  # of config.json beside weights as the hub lays them out
IMAGENET = 1000  # classes, which are WordNet ids in the same order everywhere


def label_names(weights: Path) -> tuple[str, ...] | None:
    """The names in the order of the logits, from the config.json beside the weights; None where it tells none."""
    config = weights.parent / "config.json"
    names = read_json(config, sealed=False).get(NAMES) if config.is_file() else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def in_order_of(
    classes: Sequence[str], names: Sequence[str], state: Mapping[str, Tensor], classifier: Collection[str], source: str
) -> dict[str, Tensor]:
    """The weights, whose logits have these names, with the classifier's rows in the order of the classes.

    Raises:
        NstError: the weights know other classes.
    """
    if len(names) == len(classes) and set(names) == set(classes):
        rows = [names.index(name) for name in classes]
        return {name: value[rows] if name in classifier and value.ndim else value for name, value in state.items()}
    strange = next((name for name in names if name not in classes), None)
    raise NstError(
        f"{source} knows other classes than the data",
        got=f"{len(names)} in its config.json" + (f", such as '{strange}'" if strange is not None else ""),
        valid=f"the {len(classes)} classes of the data: {', '.join(classes[:4])} ...",
        next="data.test=<a set of its classes>, or model.pretrained=<it> trains a classifier of yours",
    )


def assume_order(source: str, place: Path | str, classes: Sequence[str]) -> None:
    """Warns that the outputs of weights without names are taken for these classes, in their order.

    ImageNet's 1,000 WordNet ids need no warning.

    Args:
        place: the file, or timm's name.

    Raises:
        NstError: the classes are sorted by name, and timm, which sorts numbers by value, would have another order.
    """
    if len(classes) == IMAGENET and list(classes) == sorted(classes) and all(_is_wnid(name) for name in classes):
        return
    beside = place.parent if isinstance(place, Path) else Path("<folder>")
    fetch = "" if isinstance(place, Path) else f"hf download timm/{place} --local-dir <folder>; then "
    way = f'{fetch}write {{"{NAMES}": ["<class of output 0>", ...]}} into {beside / "config.json"}'
    by_value = sorted(classes, key=_as_timm_sorts)
    if list(classes) == sorted(classes) != by_value:
        raise NstError(
            f"{source} does not say which class each of its outputs stands for",
            got=f"classes that are {_begin(classes)} by name and {_begin(by_value)} by number",
            valid="weights with the names of their classes, in the order of the outputs",
            next=way,
        )
    say(
        f"warning: {source} names no classes; its {len(classes)} outputs are taken for the data's classes in their"
        f" order: {_begin(classes)}; if it is another: {way}"
    )


def _as_timm_sorts(name: str) -> list[str | int]:
    """A key: numbers by their value, letters whatever their case."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name.lower()))]


def _is_wnid(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def _begin(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
