"""Holds options that say how shards are made against shards that are there: they would change nothing any more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nst.documents import read_config, read_json
from nst.errors import NstError
from nst.settings.data import DataOptions, Sizes
from nst.shown import kept

SIZES = [each.name for each in fields(Sizes)]
NOTHING_MOVED = ("download",)  # of the source


def differing(data: Mapping[str, Any], typed: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Options that say otherwise than the shards at `data.root`: dotted name → what they were made with, what is asked.

    Shards that nst shard has not made say nothing.

    Args:
        data: the group, as plain values.
        typed: dotted names of the options on the command line.
    """
    root, found = Path(str(data["root"])), {}
    if not (root / "DONE").exists():
        return {}
    made, sets = read_json(root / "started.json")["inputs"], read_json(root / "result.json").get("sets", {})
    unasked = asdict(Sizes())  # what the inputs leave out
    for name in SIZES:
        asked, before = data[name], made.get(name, unasked[name])
        if f"data.{name}" in typed and asked != before and not _is_so(name, asked, sets):
            found[f"data.{name}"] = (before, asked)
    return found | _source_differing(data, typed, root)


def differing_for(
    stage: str, data: Mapping[str, Any], typed: Sequence[str], *, overwrite: bool
) -> dict[str, tuple[Any, Any]]:
    """As `differing`, as far as a stage reads the shards as they are: nst iterate, and who looks at what it would do,
    knows pictures by their content, and with overwrite=true makes other shards of them."""
    if stage == "train":
        return differing(data, typed)
    if overwrite and data["source"].get("root", "") is not None:
        return {}
    return differing(data, [name for name in typed if name != "data.source.root"])


def stored_size(data: DataOptions, folder: Path, typed: Iterable[str]) -> int | None:
    """`data.stored_size` as it is typed; else of the shards in a folder, also of unfinished ones; else the recipe's."""
    if "data.stored_size" in typed or not (folder / "started.json").exists():
        return data.stored_size
    try:
        made: int | None = read_json(folder / "started.json")["inputs"].get("stored_size")
    except NstError:  # damage is told by whoever goes on with these shards, with a way to mend it
        return data.stored_size
    return made


def _source_differing(data: Mapping[str, Any], typed: Sequence[str], root: Path) -> dict[str, tuple[Any, Any]]:
    if not (root / "config.yaml").exists():
        return {}
    before = read_config(root / "config.yaml")["data"]["source"]
    asked = {name: kept(value) for name, value in data["source"].items() if f"data.source.{name}" in typed}
    return {
        f"data.source.{name}": (before.get(name), value)
        for name, value in asked.items()
        if name not in NOTHING_MOVED and _places(before.get(name)) != _places(value)
    }


def _is_so(name: str, asked: int | None, sets: Mapping[str, Any]) -> bool:
    """Whether the sets have the size that is asked for, whatever they were made with."""
    part, _, of_each = name.partition("_")
    there = sets.get(part, {"samples": 0, "label_counts": [0]})
    counts = there["label_counts"] if of_each == "per_class" or part == "validation" else [there["samples"]]
    return all(count == asked for count in counts)


def _places(value: Any) -> Any:
    """The value, paths however they are written."""
    if isinstance(value, list):
        return [_places(each) for each in value]
    return os.path.abspath(value) if isinstance(value, str) else value
