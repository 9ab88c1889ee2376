"""Pictures of a source that are there more than once: in training and in test, or under two classes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst.atomic import write_csv
from nst.data.layout import Entry
from nst.shown import count_of, short

FILE = "same_pictures.csv"
COLUMNS = ("set", "picture", "class", "other_set", "other_picture", "other_class")
NAME_LENGTH = 60


@dataclass(frozen=True)
class Pair:
    """Two pictures with the same pixels, by set and position; the other one is of the training's sets."""

    set: str
    position: int
    other_set: str
    other: int


@dataclass(frozen=True)
class SamePictures:
    """The pairs of a source that its owner should know.

    Args:
        classes: names of the labels.
    """

    entries: Sequence[Entry]
    classes: Sequence[str]
    pairs: Sequence[Pair]

    @classmethod
    def of(
        cls, entries: Sequence[Entry], classes: Sequence[str], pixels: Sequence[int], parts: Mapping[str, Sequence[int]]
    ) -> SamePictures:
        """Those in training and in test or validation, and the labeled ones of two classes.

        Args:
            pixels: (N,) a hash of each picture's pixels; empty where nobody has looked.
            parts: set → positions of its pictures.
        """
        return cls(entries, classes, [*_pairs(entries, pixels, parts)] if pixels else [])

    def write(self, folder: Path) -> None:
        """A line for each pair; no file where there is none."""
        if self.pairs:
            write_csv(folder / FILE, COLUMNS, map(self._row, self.pairs))

    def labeled(self, folder: Path) -> Iterator[str]:
        """Lines about labeled pictures; all pairs are in a file of the folder."""
        for name in ("test", "validation"):
            if seen := self._of(name, "labeled"):
                others = sum(self.entries[pair.position].label != self.entries[pair.other].label for pair in seen)
                contradicting = f", {others} of them under another class" if others else ""
                yield f"{self._told(name, seen)}{contradicting}: keep one of each ({folder / FILE})"
        if seen := self._of("labeled", "labeled"):
            verb = "is" if len(seen) == 1 else "are"
            pictures = f"{count_of(len(seen), 'labeled picture')} {verb} of two classes"
            yield f"{pictures}, {self._named(seen[0])}: keep the right ones ({folder / FILE})"

    def unlabeled(self, folder: Path) -> Iterator[str]:
        """Lines about unlabeled pictures, of which `nst shard --exclude` of the shards in a folder takes these out."""
        for name in ("test", "validation"):
            if seen := self._of(name, "unlabeled"):
                command = shlex.join(["nst", "shard", f"data.root={folder}", "--exclude"])
                yield f"{self._told(name, seen)}; to take them out of these: {command}"

    def _of(self, name: str, other: str) -> list[Pair]:
        return [pair for pair in self.pairs if (pair.set, pair.other_set) == (name, other)]

    def _told(self, name: str, seen: Sequence[Pair]) -> str:
        verb = "is" if len(seen) == 1 else "are"
        pictures = f"{count_of(len(seen), 'picture')} of {name} {verb} {seen[0].other_set} too"
        return f"{pictures}, {self._named(seen[0])}"

    def _named(self, pair: Pair) -> str:
        both = (self.entries[position] for position in (pair.position, pair.other))
        one, other = (short(entry.name or entry.key, NAME_LENGTH, end=True) for entry in both)
        return f"{one} = {other}"

    def _row(self, pair: Pair) -> dict[str, str]:
        one, other = self.entries[pair.position], self.entries[pair.other]
        names = ["" if each.label is None else self.classes[each.label] for each in (one, other)]
        return dict(zip(COLUMNS, (pair.set, one.key, names[0], pair.other_set, other.key, names[1]), strict=True))


def _pairs(entries: Sequence[Entry], pixels: Sequence[int], parts: Mapping[str, Sequence[int]]) -> Iterator[Pair]:
    labeled: dict[int, int] = {}  # the first of each kind
    for position in parts["labeled"]:
        first = labeled.setdefault(pixels[position], position)
        if entries[position].label != entries[first].label:
            yield Pair("labeled", position, "labeled", first)
    unlabeled = {pixels[position]: position for position in parts["unlabeled"]}
    for name in ("test", "validation"):
        for other_set, others in (("labeled", labeled), ("unlabeled", unlabeled)):
            for position in parts[name]:
                if pixels[position] in others:
                    yield Pair(name, position, other_set, others[pixels[position]])
