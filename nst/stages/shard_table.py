"""The table that closes `nst shard`: the classes with their numbers, and everything that was passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nst.shown import short

SHOWN_CLASSES = 40
NAME_LENGTH = 32  # letters, so that the table keeps within 80 columns
LABELED = ("labeled", "validation", "test")


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """A table of the classes, and a line for each kind of thing passed over."""
    if result["classes"]:
        yield from _table(result)
    yield from result.get("notes", ())


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    """Per class, the pictures of every set with labels; for unlabeled ones a total, since they show no class."""
    sets = [name for name in LABELED if name in result["sets"]]
    classes = [short(name, NAME_LENGTH) for name in result["classes"]]
    width = max(map(len, [*classes[:SHOWN_CLASSES], "unlabeled"]))
    yield f"{'class':<{width}}" + "".join(f"{name:>12}" for name in sets)
    counts = [result["sets"][name]["label_counts"] for name in sets]
    for label, name in enumerate(classes[:SHOWN_CLASSES]):
        yield f"{name:<{width}}" + "".join(f"{found[label]:>12,}" for found in counts)
    if len(classes) > SHOWN_CLASSES:
        yield f"and {len(classes) - SHOWN_CLASSES:,} more classes"


def summary_line(result: Mapping[str, Any]) -> str:
    """`50 labeled, 1247 unlabeled, 500 test images` and what was skipped."""
    parts = ", ".join(f"{entry['samples']} {name}" for name, entry in result["sets"].items())
    skipped = result["skipped"]
    note = f"; {skipped['count']} bad, left out: {', '.join(skipped['names'][:3])}" if skipped["count"] else ""
    return f"{parts} images of {len(result['classes'])} classes{note}"
