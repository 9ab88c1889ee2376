"""The table that closes `nst shard`: the classes with their numbers, and everything that was passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nst.shown import count_of, short

SHOWN_CLASSES = 40
NAME_LENGTH = 32  # letters, so that the table keeps within 80 columns
SETS = ("labeled", "unlabeled", "validation", "test")
NO_CLASS = "(no class)"


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """A table of the classes, and a line for each kind of thing passed over."""
    if result["classes"]:
        yield from _table(result)
    yield from (*result.get("notes", ()), *result.get("in_unlabeled", ()))


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    """Per class, the pictures of every set with labels; the unlabeled ones, which show no class, in a last row."""
    sets = [name for name in SETS if name in result["sets"]]
    classes = [short(name, NAME_LENGTH) for name in result["classes"]]
    width = max(map(len, [*classes[:SHOWN_CLASSES], NO_CLASS]))
    yield f"{'class':<{width}}" + "".join(f"{name:>12}" for name in sets)
    counts = {name: result["sets"][name]["label_counts"] for name in sets if name != "unlabeled"}
    for label, name in enumerate(classes[:SHOWN_CLASSES]):
        cells = (f"{counts[column][label]:,}" if column in counts else "" for column in sets)
        yield f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)
    if len(classes) > SHOWN_CLASSES:
        yield f"and {len(classes) - SHOWN_CLASSES:,} more classes"
    if "unlabeled" in sets:
        total = f"{result['sets']['unlabeled']['samples']:,}"
        cells = (total if column == "unlabeled" else "" for column in sets)
        yield (f"{NO_CLASS:<{width}}" + "".join(f"{cell:>12}" for cell in cells)).rstrip()


def summary_line(result: Mapping[str, Any]) -> str:
    """`50 labeled, 1247 unlabeled, 500 test images` and what was skipped."""
    parts = ", ".join(f"{entry['samples']} {name}" for name, entry in result["sets"].items())
    skipped = result["skipped"]
    note = f"; {skipped['count']} bad, left out: {', '.join(skipped['names'][:3])}" if skipped["count"] else ""
    images = "image" if [entry["samples"] for entry in result["sets"].values()][-1:] == [1] else "images"
    classes = f" of {count_of(len(result['classes']), 'class')}" if result["classes"] else ""
    return f"{parts} {images}{classes}{note}"
