"""Pictures of a source that are there more than once: in training and in test, or under two classes."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from nst.data.layout import Entry
from nst.shown import count_of, short

NAME_LENGTH = 60


def told(
    entries: Sequence[Entry], pixels: Sequence[int], parts: Mapping[str, Sequence[int]], root: str
) -> Iterator[str]:
    """What the owner should know, a line for each kind.

    Args:
        pixels: (N,) a hash of each picture's pixels; empty where nobody has looked.
        parts: set → positions of its pictures.
        root: where the shards go.
    """
    if not pixels:
        return
    labeled: dict[int, list[int]] = defaultdict(list)
    for position in parts["labeled"]:
        labeled[pixels[position]].append(position)
    unlabeled = {pixels[position]: [position] for position in parts["unlabeled"]}
    for name in ("test", "validation"):
        if seen := _both(parts[name], labeled, pixels):
            yield f"{_of(name, seen, entries, 'labeled')}: its score is too good; keep one of each"
        if seen := _both(parts[name], unlabeled, pixels):
            out = shlex.join(["nst", "shard", f"data.root={root}", "--exclude"])
            yield f"{_of(name, seen, entries, 'unlabeled')}; to take them out of these: {out}"
    two_classes = [same for same in labeled.values() if len({entries[position].label for position in same}) > 1]
    if two_classes:
        first, *others = two_classes[0]
        other = next(position for position in others if entries[position].label != entries[first].label)
        verb = "is" if len(two_classes) == 1 else "are"
        yield f"{count_of(len(two_classes), 'labeled picture')} {verb} of two classes: {_named(entries, first, other)}"


def _both(positions: Sequence[int], others: Mapping[int, list[int]], pixels: Sequence[int]) -> list[tuple[int, int]]:
    return [(position, others[pixels[position]][0]) for position in positions if pixels[position] in others]


def _of(name: str, seen: Sequence[tuple[int, int]], entries: Sequence[Entry], other: str) -> str:
    verb = "is" if len(seen) == 1 else "are"
    return f"{count_of(len(seen), 'picture')} of {name} {verb} {other} too: {_named(entries, *seen[0])}"


def _named(entries: Sequence[Entry], one: int, other: int) -> str:
    return f"{short(entries[one].key, NAME_LENGTH)} = {short(entries[other].key, NAME_LENGTH)}"
