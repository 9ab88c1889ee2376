"""Suites made on the fly from our own test images: corruptions, perturbation sequences, attacks.

The one decision worth knowing: their numbers have names of their own (`c_onthefly`, `p_onthefly`) and are never
called mCE or mFR: other images, frost and seeds than the benchmarks'. Every result states the table of severities,
the source of frost and the JPEG step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from nst.data.transforms import CenterView
from nst.robustness.attacks import Attack
from nst.robustness.corruptions import Corruptions
from nst.robustness.made import CLEAN, Variant, corrupted, perturbed, whole_images
from nst.robustness.options import MADE
from nst.robustness.perturbations import NOISES, Perturbations
from nst.robustness.readers import ImageSet
from nst.robustness.released_suites import (
    SHOWN_PER_CORRUPTION,
    SHOWN_SEVERITY,
    clip_pass,
    clip_results,
)
from nst.robustness.results import Block
from nst.robustness.scorers import AttackScorer, CorruptionScorer
from nst.robustness.suites import (
    BLOCK_IMAGES,
    Pass,
    Subject,
    Suite,
    block_size,
    framing_facts,
    image_blocks,
    subset_facts,
)

CORRUPTED, PERTURBED = MADE


def made_suites(subject: Subject) -> list[Suite]:
    """The suites that are asked for, of `subject.clean`."""
    options, images = subject.options, subject.clean
    if images is None:
        return []
    found: list[Suite] = []
    if options.corruption_names:
        found.append(MadeCorruptions(subject, subject.subset(images)))
    if options.perturbation_names:
        found.append(MadePerturbations(subject, subject.subset(images, clips=True)))
    for name, (method, epsilons) in options.attack_methods().items():
        found.append(AttackSuite(subject, subject.subset(images), name, method, epsilons))
    return found


@dataclass(frozen=True)
class MadeCorruptions:
    """All corruptions of our own images, and the clean images for comparison."""

    subject: Subject
    images: ImageSet
    name: str = CORRUPTED

    @cached_property
    def corruptions(self) -> Corruptions:
        options, side = self.subject.options, made_side(self.subject)
        quality = options.quality(Corruptions(side).table)
        return Corruptions(side, frost_folder=options.frost_folder, jpeg_quality=quality)

    @cached_property
    def variants(self) -> list[Variant]:
        options = self.subject.options
        return [CLEAN, *((name, severity) for name in options.corruption_names for severity in options.severities)]

    def conditions(self) -> dict[str, Any]:
        made = {
            "corruptions": self.subject.options.corruption_names,
            "severities": list(self.subject.options.severities),
            "side": made_side(self.subject),
            "framed": framing_facts(self.subject.view(made_side(self.subject))),
            "shown_at": self.subject.image_size,
            "table": self.corruptions.table,
            "jpeg_quality": self.corruptions.jpeg_quality,
            "frost": self.corruptions.frost_source,
        }
        return subset_facts(self.subject, self.images) | made

    @cached_property
    def _blocks(self) -> dict[str, range]:
        return image_blocks(self.images, block_size(len(self.images)))

    def parts(self) -> list[str]:
        return list(self._blocks)

    def pictures(self) -> int:
        return len(self.images) * len(self.variants)

    def open(self, part: str) -> Pass:
        subject, variants = self.subject, self.variants
        names = subject.options.corruption_names
        block = self._blocks[part]
        images = self.images.chosen(block)
        errors = CorruptionScorer(names).errors
        view = subject.view(made_side(subject))
        found = corrupted(images, view, self.corruptions, variants, errors, subject.options.seed)
        shown = [number - block.start * len(variants) for number in self._shown if number // len(variants) in block]
        captions = [f"{name} {severity}" for name, severity in (variants[number % len(variants)] for number in shown)]
        batch = whole_images(len(variants), subject.batch_size)
        shown_view = subject.resized(subject.image_size)
        return Pass(found, shown_view, batch, partial(CorruptionScorer, names), shown, captions)

    @cached_property
    def _shown(self) -> list[int]:
        """A few images of each corruption at the middle severity, other ones for each: samples of all blocks."""
        options, variants, images = self.subject.options, self.variants, min(len(self.images), BLOCK_IMAGES)
        severity = SHOWN_SEVERITY if SHOWN_SEVERITY in options.severities else options.severities[0]
        wanted = [(name, severity) for name in options.corruption_names for _ in range(SHOWN_PER_CORRUPTION)]
        pairs = [(place % images, variants.index(variant)) for place, variant in enumerate(wanted)]
        return list(dict.fromkeys(number * len(variants) + variant for number, variant in pairs))

    def measured(self, parts: Mapping[str, Mapping[str, Any]]) -> Block:
        counted = CorruptionScorer(self.subject.options.corruption_names)
        return counted.with_counts([kept["counts"] for kept in parts.values()]).measured()


@dataclass(frozen=True)
class MadePerturbations:
    """Perturbation sequences of our own images."""

    subject: Subject
    images: ImageSet
    name: str = PERTURBED

    @cached_property
    def perturbations(self) -> Perturbations:
        return Perturbations(made_side(self.subject))

    @property
    def _view(self) -> CenterView | None:
        """Of small images, which are perturbed as the network sees them."""
        return self.subject.view(made_side(self.subject)) if self.subject.pictures.small else None

    @cached_property
    def clips(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Perturbation and difficulties of each part: noise is drawn anew for each."""
        options = self.subject.options
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name in options.perturbation_names:
            if name in NOISES:
                found |= {f"{name}_{level}" if level > 1 else name: (name, (level,)) for level in options.difficulties}
            else:
                found[name] = name, tuple(options.difficulties)
        return found

    def conditions(self) -> dict[str, Any]:
        made = {
            "perturbations": self.subject.options.perturbation_names,
            "difficulties": list(self.subject.options.difficulties),
            "side": made_side(self.subject),
            "framed": framing_facts(self._view) if self._view else "whole photographs, cropped afterwards",
            "shown_at": self.subject.image_size,
            "table": self.perturbations.table,
        }
        return subset_facts(self.subject, self.images, clips=True) | made

    def parts(self) -> list[str]:
        return list(self.clips)

    def pictures(self) -> int:
        return len(self.images) * sum(self.perturbations.frame_count(name) for name, _ in self.clips.values())

    def open(self, part: str) -> Pass:
        name, levels = self.clips[part]
        subject = self.subject
        clips = perturbed(self.images, self._view, self.perturbations, name, levels[0], subject.options.seed)
        return clip_pass(subject, clips, subject.resized(subject.image_size), name, levels)

    def measured(self, parts: Mapping[str, Mapping[str, Any]]) -> Block:
        return {"kind": "perturbations", "sequences": clip_results(parts, self.clips)}


@dataclass(frozen=True)
class AttackSuite:
    """Our own images under one attack."""

    subject: Subject
    images: ImageSet
    name: str
    method: Attack
    epsilons: Sequence[float]

    def conditions(self) -> dict[str, Any]:
        subject = self.subject
        made = {"method": self.method, "epsilons": list(self.epsilons), "shown_at": subject.image_size,
                "shown_as": framing_facts(subject.view(subject.image_size))}  # fmt: skip
        return subset_facts(subject, self.images) | made

    def parts(self) -> list[str]:
        return list(image_blocks(self.images))

    def pictures(self) -> int:
        return len(self.images)

    def open(self, part: str) -> Pass:
        subject = self.subject
        images = self.images.chosen(image_blocks(self.images)[part])
        return Pass(images, subject.view(subject.image_size), subject.batch_size, self._scorer)

    def _scorer(self) -> AttackScorer:
        return AttackScorer(self.method, self.epsilons, self.subject.options.seed)

    def measured(self, parts: Mapping[str, Mapping[str, Any]]) -> Block:
        counted = self._scorer().with_counts([kept["counts"] for kept in parts.values()])
        return {"kind": "attack", **counted.scores.compute()}


def made_side(subject: Subject) -> int:
    """px at which pictures are corrupted and perturbed."""
    return subject.options.side or subject.image_size
