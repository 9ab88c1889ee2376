"""Suites of the released sets, from folders as they are published (paper section 3.2, tables 3 to 5).

The one decision worth knowing: photographs (-A, -R, -V2, -Sketch, ReaL) are cropped to the network's own size, but
corruptions and sequences are shown as they are stored, or resized whole (`resize_to`): they have been cropped before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from nst.documents import fingerprint
from nst.errors import NstError
from nst.progress import say
from nst.robustness import sets
from nst.robustness.baselines import CORRUPTIONS, EXTRA_CORRUPTIONS, PERTURBATIONS
from nst.robustness.classes import SUBSETS, subset_positions
from nst.robustness.readers import ImageSet, joined
from nst.robustness.results import Block
from nst.robustness.scorers import AnswersScorer, CorruptionScorer, FlipScorer, RealScorer
from nst.robustness.suites import Pass, Subject, Suite, framing_facts, shown_images, subset_facts

Name = TypeVar("Name")
WHOLE = "all"  # the one part of a suite that has no others
SHOWN_SEVERITY = 3
SHOWN_PER_CORRUPTION = 8
SHOWN_CLIPS = 8
ALL_CORRUPTIONS = CORRUPTIONS + EXTRA_CORRUPTIONS
SIDES = {"imagenet_c": 224, "imagenet_c_299": 299, "imagenet_p": 224, "imagenet_p_299": 299, "cifar_c": 32,
         "cifar_p": 32}  # fmt: skip


def released_suites(subject: Subject) -> list[Suite]:
    """The suites whose folders are given, in a fixed order."""
    kinds: dict[str, Callable[[Subject, str, str], Suite]] = {
        **dict.fromkeys((*sets.SETS, "imagenet_real"), PhotographSuite),
        **dict.fromkeys(("imagenet_c", "imagenet_c_299", "cifar_c"), ReleasedCorruptions),
        **dict.fromkeys(("imagenet_p", "imagenet_p_299", "cifar_p"), ReleasedPerturbations),
    }
    folders = {name: getattr(subject.options, name) for name in kinds}
    return [kinds[name](subject, name, folder) for name, folder in folders.items() if folder is not None]


@dataclass(frozen=True)
class PhotographSuite:
    """One set of photographs: ImageNet-A, -R, -V2, -Sketch, the validation images, or those with ReaL labels."""

    subject: Subject
    name: str
    folder: str

    @cached_property
    def images(self) -> ImageSet:
        subject = self.subject
        if self.name == "imagenet_real":
            images = sets.imagenet_real(self.folder, subject.classes, subject.options.real_labels)
        else:
            images = sets.imagenet_folders(self.name, self.folder, subject.classes)
        return subject.subset(images)

    def conditions(self) -> dict[str, Any]:
        shown = {"shown_at": self.subject.image_size, "shown_as": framing_facts(self.subject.photograph())}
        return subset_facts(self.subject, self.images) | shown

    def parts(self) -> list[str]:
        return [WHOLE]

    def pictures(self) -> int:
        return len(self.images)

    def open(self, part: str) -> Pass:
        subject, images = self.subject, self.images
        positions = subset_positions(self.name, subject.classes) if self.name in SUBSETS else None
        shown = shown_images(images, subject.options.seed)
        return Pass(
            images,
            subject.photograph(),
            subject.batch_size,
            RealScorer if self.name == "imagenet_real" else partial(AnswersScorer, len(images), positions),
            shown,
            [""] * len(shown),
        )

    def measured(self, parts: Mapping[str, Mapping[str, Any]]) -> Block:
        kept = parts[WHOLE]
        if self.name != "imagenet_real":
            return {"kind": "answers", **kept["scores"]}
        scores = RealScorer().with_counts([kept["counts"]]).accuracy.compute()
        return {"kind": "real", "top1": scores["real_top1"], "samples": scores["samples"]}


@dataclass(frozen=True)
class ReleasedCorruptions:
    """A copy of ImageNet-C or CIFAR-C, or a part of one."""

    subject: Subject
    name: str
    folder: str

    @cached_property
    def held(self) -> dict[str, tuple[int, ...]]:
        found = sets.find_corruptions(self.folder, arrays=self.name == "cifar_c")
        if not found:
            raise _nothing(self.name, "corruption", self.folder, CORRUPTIONS)
        _tell_strange(self.name, self.folder)
        return found

    @cached_property
    def _first(self) -> ImageSet:
        return self._images(next(iter(self.held)))

    def _cell(self, corruption: str, severity: int) -> ImageSet:
        opener = sets.cifar_c if self.name == "cifar_c" else sets.imagenet_c
        return opener(self.folder, corruption, severity, self.subject.classes)

    @cached_property
    def _listed(self) -> dict[tuple[str, int], tuple[int, str]]:
        """How many images every cell of the copy has, and which: any of them may be replaced or unpacked further."""
        cells = [(corruption, severity) for corruption, severities in self.held.items() for severity in severities]
        return {cell: (len(images), images.digest) for cell in cells for images in [self._cell(*cell)]}

    @property
    def _incomplete(self) -> list[tuple[str, int]]:
        """Cells with fewer images than others, whose error is of other images than theirs."""
        return _smaller({cell: count for cell, (count, _) in self._listed.items()})

    def _images(self, corruption: str) -> ImageSet:
        counted = CorruptionScorer(ALL_CORRUPTIONS).errors
        severities = self.held[corruption]
        found = [self.subject.subset(self._cell(corruption, severity)) for severity in severities]
        cells = [counted.cell(corruption, severity) for severity in severities]
        return joined(f"{self.name}/{corruption}", found, cells)

    def conditions(self) -> dict[str, Any]:
        side = require_side(self.name, self._first)
        facts = subset_facts(self.subject, self._first)
        facts["images"] = _shown_of(max(count for count, _ in self._listed.values()), facts["max_images"])
        facts["digest"] = fingerprint([digest for _, digest in self._listed.values()])
        shown_at = self.subject.options.resize_to or side
        return facts | {"held": self.held, "side": side, "shown_at": shown_at}

    def parts(self) -> list[str]:
        return list(self.held)

    def pictures(self) -> int:
        return len(self._first) * len(self.held)

    def open(self, part: str) -> Pass:
        images = self._first if part == next(iter(self.held)) else self._images(part)
        side = self.subject.options.resize_to or require_side(self.name, images)
        shown, captions = _shown_corruption(part, self.held[part], images)
        view = self.subject.resized(side)
        scorer = partial(CorruptionScorer, ALL_CORRUPTIONS)
        return Pass(images, view, self.subject.batch_size, scorer, shown, captions)

    def measured(self, parts: Mapping[str, Mapping[str, Any]]) -> Block:
        found = CorruptionScorer(ALL_CORRUPTIONS).with_counts([kept["counts"] for kept in parts.values()]).measured()
        for corruption, severity in self._incomplete:
            for table in (found["errors"], found["top5_errors"]):
                table[corruption] = [
                    None if place == severity else error for place, error in enumerate(table[corruption], 1)
                ]
        _tell_incomplete(self.name, "images", [f"{corruption}/{severity}" for corruption, severity in self._incomplete])
        return found


def _shown_corruption(corruption: str, severities: Sequence[int], images: ImageSet) -> tuple[list[int], list[str]]:
    """A few images of the middle severity: other ones for each corruption, so that together they are many."""
    severity = SHOWN_SEVERITY if SHOWN_SEVERITY in severities else severities[0]
    each = len(images) // len(severities)
    start = severities.index(severity) * each
    first = SHOWN_PER_CORRUPTION * ALL_CORRUPTIONS.index(corruption)
    step = max(1, each // (SHOWN_PER_CORRUPTION * len(ALL_CORRUPTIONS)))
    numbers = dict.fromkeys(start + (first + place) * step % each for place in range(SHOWN_PER_CORRUPTION))
    return list(numbers), [f"{corruption} {severity}"] * len(numbers)


@dataclass(frozen=True)
class ReleasedPerturbations:
    """A copy of ImageNet-P or CIFAR-P, or a part of one."""

    subject: Subject
    name: str
    folder: str

    @cached_property
    def clips(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Perturbation and difficulties of each part: noise has files of its own for each."""
        wanted = self.subject.options.difficulties
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, held in sets.find_perturbations(self.folder, arrays=self.name == "cifar_p").items():
            levels = tuple(level for level in wanted if level in held)
            if "noise" in name:
                found.update({sets.stored_name(name, level): (name, (level,)) for level in levels})
            elif levels:
                found[name] = name, levels
        if not found:
            raise _nothing(self.name, "perturbation", self.folder, PERTURBATIONS)
        _tell_strange(self.name, self.folder)
        return found

    @cached_property
    def _first(self) -> ImageSet:
        return self._images(next(iter(self.clips)))

    def _whole(self, part: str) -> ImageSet:
        opener = sets.cifar_p if self.name == "cifar_p" else sets.imagenet_p
        name, levels = self.clips[part]
        return opener(self.folder, name, self.subject.classes, difficulty=levels[0])

    def _images(self, part: str) -> ImageSet:
        return self.subject.subset(self._whole(part), clips=True)

    @cached_property
    def _listed(self) -> dict[str, tuple[int, str]]:
        """How many clips every part of the copy has, and which of them are shown."""
        wholes = ((part, self._whole(part)) for part in self.clips)
        return {part: (len(whole), self.subject.subset(whole, clips=True).digest) for part, whole in wholes}

    @property
    def _incomplete(self) -> list[str]:
        """Parts with fewer clips than others, whose flips are of other clips than theirs."""
        return _smaller({part: count for part, (count, _) in self._listed.items()})

    def conditions(self) -> dict[str, Any]:
        side = require_side(self.name, self._first)
        facts = subset_facts(self.subject, self._first, clips=True)
        facts["images"] = _shown_of(max(count for count, _ in self._listed.values()), facts["max_images"])
        facts["digest"] = fingerprint([digest for _, digest in self._listed.values()])
        shown_at = self.subject.options.resize_to or side
        return facts | {"held": self.clips, "side": side, "shown_at": shown_at}

    def parts(self) -> list[str]:
        return list(self.clips)

    def pictures(self) -> int:
        return len(self._first) * self._first.frames * len(self.clips)

    def open(self, part: str) -> Pass:
        images = self._first if part == next(iter(self.clips)) else self._images(part)
        side = self.subject.options.resize_to or require_side(self.name, images)
        return clip_pass(self.subject, images, self.subject.resized(side), *self.clips[part])

    def measured(self, parts: Mapping[str, Mapping[str, Any]]) -> Block:
        whole = {part: clips for part, clips in self.clips.items() if part not in self._incomplete}
        _tell_incomplete(self.name, "clips", self._incomplete)
        return {"kind": "perturbations", "sequences": clip_results(parts, whole)}


def _smaller(counts: Mapping[Name, int]) -> list[Name]:
    """What has fewer samples than the largest has."""
    most = max(counts.values())
    return [name for name, count in counts.items() if count < most]


def _shown_of(count: int, most: int | None) -> int:
    """Samples that are shown of `count`."""
    return count if most is None else min(count, most)


def _nothing(suite: str, what: str, folder: str, names: Sequence[str]) -> NstError:
    kind = "files" if suite.startswith("cifar") else "folders"
    return NstError(
        f"{suite}: no {what} in {folder}",
        got=", ".join(sets.strange_names(folder)) or None,
        valid=f"{kind} of {', '.join(names)}",
        next=sets.mistaken_kind(suite, folder),
    )


def _tell_incomplete(suite: str, samples: str, names: Sequence[str]) -> None:
    if names:
        more = " ..." if len(names) > 5 else ""
        say(f"{suite}: fewer {samples} than elsewhere, not scored: {', '.join(names[:5])}{more}")


def _tell_strange(suite: str, folder: str) -> None:
    """Says which folders are left out, since a misspelt one is missed without a word otherwise."""
    if strange := sets.strange_names(folder):
        say(f"{suite}: left out of {folder}: {', '.join(strange[:4])}{', ...' if len(strange) > 4 else ''}")


def clip_pass(subject: Subject, images: ImageSet, view: Any, name: str, difficulties: Sequence[int]) -> Pass:
    """A pass over clips, a few whole ones at a time."""
    shown = range(min(SHOWN_CLIPS, len(images)))
    scorer = partial(FlipScorer, name, difficulties, images.frames)
    return Pass(images, view, max(1, subject.batch_size // images.frames), scorer, shown, [name] * len(shown))


def clip_results(
    parts: Mapping[str, Mapping[str, Any]], clips: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, dict[str, Any]]:
    """`FlipScores.compute` by perturbation and difficulty, from what the parts have kept."""
    found: dict[str, dict[str, Any]] = {}
    for part, (name, difficulties) in clips.items():
        scorer = FlipScorer(name, difficulties, 1).with_counts([parts[part]["counts"]])
        found.setdefault(name, {}).update(scorer.compute())
    return found


def require_side(name: str, images: ImageSet) -> int:
    """Side in px of the stored pictures.

    Raises:
        NstError: they are not those of this benchmark, whose results would have another name.
    """
    height, width = images.picture_size()
    if (height, width) != (SIDES[name], SIDES[name]):
        raise NstError(
            f"{name} consists of pictures of {SIDES[name]} x {SIDES[name]} px",
            got=f"{width} x {height} px",
            next="ImageNet-C and -P of 299 px are eval.imagenet_c_299 and eval.imagenet_p_299",
        )
    return height
