"""Perturbation sequences: copies of ImageNet-P and CIFAR-P, and those made on the fly (paper table 5).

As with corruptions, sequences on the fly have a name of their own (`p_onthefly`) and no mFR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nst.evaluation.copies import copy_facts, incomplete, require_found, require_side, tell_incomplete
from nst.evaluation.suite import (
    Block,
    Kept,
    Pass,
    Row,
    Scorer,
    Subject,
    Suite,
    SuiteKind,
    framing_facts,
    pictures_stated,
)
from nst.robustness import cifar, sets
from nst.robustness.baselines import CIFAR_PERTURBATIONS, MADE_SEQUENCES, PERTURBATIONS, Baseline
from nst.robustness.benchmark_scores import known_mean, perturbation_scores
from nst.robustness.image_sets import ImageSet
from nst.robustness.made import perturbed
from nst.robustness.perturbations import Perturbations

if TYPE_CHECKING:
    from torch import Tensor

    from nst.data.batches import Batch, View

RELEASED = ("imagenet_p", "imagenet_p_299", "cifar_p")
SHOWN_CLIPS = 8
Clips = dict[str, tuple[str, tuple[int, ...]]]  # perturbation and difficulties of each part


class Perturbed(SuiteKind):
    """Flips by perturbation and difficulty."""

    headlines: ClassVar[Mapping[str, str]] = {
        "mfr": "mFR (AlexNet = 100)",
        "mt5d": "",
        "mean_flip_probability": "flip rate %, unnormalised",
        "subset_flip_rate": "flip rate % of what was measured",
        "mean_top5_distance": "",
        "top1": "",
        "flips_to_baseline": "flip rate (baseline run = 100)",
        "distance_to_baseline": "",
    }
    short: ClassVar[Mapping[str, str]] = {"mean_flip_probability": "flip_rate", "mean_top5_distance": "top5_distance"}
    suites = (*RELEASED, MADE_SEQUENCES)
    row: ClassVar[Mapping[str, str]] = {
        "flip_rate": "mean_flip_probability",
        "mfr": "mfr",
        "flip_rate_to_baseline": "flips_to_baseline",
    }
    row_suite = "perturbation_suite"
    figures = ("flips", "strips")
    samples = "clips"

    def scored(
        self, name: str, measured: Block, clean_error: float | None, published: Baseline | None, other: Block | None
    ) -> Block:
        benchmark = CIFAR_PERTURBATIONS if name == "cifar_p" else PERTURBATIONS
        levels: dict[str, Block] = {}
        for perturbation, found in measured["sequences"].items():
            for level, result in found.items():
                levels.setdefault(level, {})[perturbation] = result
        first = levels.pop("1", {})
        block = {**measured, **perturbation_scores(first, baseline=published, benchmark=benchmark)}
        if not first:
            block["missing"] = []  # the benchmark's difficulty was not asked for
        elif block["missing"]:
            block["subset_flip_rate"] = known_mean(result["flip_probability"] for result in first.values())
        if other is not None:
            given = {name: other.get(name, {}) for name in ("flip_probability", "top5_distance")}
            found = perturbation_scores(first, baseline=Baseline("run", "", **given), benchmark=benchmark)
            block["to_baseline"] = found["flip_rate"]
            block["flips_to_baseline"], block["distance_to_baseline"] = found["mfr"], found["mt5d"]
        for level, results in levels.items():
            block[f"difficulty_{level}"] = perturbation_scores(results, benchmark=benchmark)
        return block

    def series(self, block: Block) -> Mapping[str, float | None]:
        flips = {f"flip/{name}": value for name, value in block["flip_probability"].items()}
        return flips | {f"flip_rate_{level}": found["mean_flip_probability"] for level, found in _harder(block).items()}

    def rows(self, block: Block) -> Iterable[Row]:
        for level, found in {"1": block, **_harder(block)}.items():
            for metric in ("flip_probability", "top5_distance"):
                yield from ((name, int(level[-1]), metric, value) for name, value in found[metric].items())
        for metric in ("flip_rate", "to_baseline"):
            values = block.get(metric, {}).items()
            yield from ((name, 1, metric, value) for name, value in values if value is not None)

    def stated(self, block: Block) -> list[str]:
        return pictures_stated(block)


def _harder(block: Block) -> dict[str, Block]:
    """Scores of difficulties above 1, by `difficulty_<level>`."""
    return {level: found for level, found in block.items() if level.startswith("difficulty_")}


KINDS = {"perturbations": Perturbed()}


def suites(subject: Subject) -> Iterator[Suite]:
    """Those whose folders are given, and those made of `subject.clean`."""
    for name, folder in subject.folders(RELEASED):
        yield released(subject, name, folder)
    if subject.clean is not None and subject.options.perturbation_names:
        yield made(subject, subject.subset(subject.clean, clips=True))


def released(subject: Subject, name: str, folder: str) -> Suite:
    """A copy of ImageNet-P or CIFAR-P, or a part of one: noise has files of its own for each difficulty."""
    held = sets.find_cells(name, folder)
    clips = _clips(held, subject.options.difficulties)
    require_found(name, "perturbation", folder, clips, PERTURBATIONS)
    open_clips = cifar.cifar_p if name == "cifar_p" else sets.imagenet_p

    def whole(part: str) -> ImageSet:
        perturbation, levels = clips[part]
        return open_clips(folder, perturbation, subject.classes, difficulty=levels[0])

    def opened(part: str) -> Pass:
        images = first if part == next(iter(clips)) else subject.subset(whole(part), clips=True)
        side = subject.options.resize_to or require_side(name, images)
        return _pass(subject, images, subject.resized(side), *clips[part])

    def measured(parts: Kept) -> Block:
        lacking = incomplete(listed)
        tell_incomplete(name, "clips", lacking)
        return _measured(parts, {part: found for part, found in clips.items() if part not in lacking})

    first = subject.subset(whole(next(iter(clips))), clips=True)
    require_side(name, first)  # before all parts are listed, which takes long
    listed = {part: (len(found), subject.subset(found, clips=True).digest) for part in clips for found in [whole(part)]}
    conditions = copy_facts(name, subject, first, clips, listed, clips=True)
    return Suite(name, conditions, list(clips), opened, len(first) * first.frames * len(clips), measured)


def made(subject: Subject, images: ImageSet) -> Suite:
    """Perturbation sequences of our own images: noise is drawn anew for each difficulty."""
    options, perturbations = subject.options, Perturbations(subject.side)
    # small images are perturbed as the network sees them
    view = subject.view(subject.side) if subject.pictures.small else None
    clips = _clips(dict.fromkeys(options.perturbation_names, options.difficulties), options.difficulties)

    def opened(part: str) -> Pass:
        name, levels = clips[part]
        made_of = perturbed(images, view, perturbations, name, levels[0], options.seed)
        return _pass(subject, made_of, subject.resized(subject.image_size), name, levels)

    conditions = {
        **subject.facts(images, clips=True),
        "perturbations": options.perturbation_names,
        "difficulties": list(options.difficulties),
        "side": subject.side,
        "framed": framing_facts(view) if view else "whole photographs, cropped afterwards",
        "shown_at": subject.image_size,
        "table": perturbations.table,
    }
    pictures = len(images) * sum(perturbations.frame_count(name) for name, _ in clips.values())
    return Suite(MADE_SEQUENCES, conditions, list(clips), opened, pictures, lambda parts: _measured(parts, clips))


def _clips(held: Mapping[str, Sequence[int]], wanted: Sequence[int]) -> Clips:
    """The parts of perturbations that have clips of these difficulties."""
    found: Clips = {}
    for name, difficulties in held.items():
        levels = tuple(level for level in wanted if level in difficulties)
        if "noise" in name:
            found |= {sets.stored_name(name, level): (name, (level,)) for level in levels}
        elif levels:
            found[name] = name, levels
    return found


def _pass(subject: Subject, images: ImageSet, view: View, name: str, difficulties: Sequence[int]) -> Pass:
    """A pass over clips, a few whole ones at a time."""
    shown = dict.fromkeys(range(min(SHOWN_CLIPS, len(images))), name)
    scorer = FlipScorer(name, difficulties, images.frames)
    return Pass(images, view, max(1, subject.batch_size // images.frames), scorer, shown)


def _measured(parts: Kept, clips: Clips) -> Block:
    """`FlipScores.compute` by perturbation and difficulty, from what the parts have kept."""
    found: dict[str, dict[str, Any]] = {}
    for part, (name, difficulties) in clips.items():
        scorer = FlipScorer(name, difficulties, 1).with_counts([parts[part]])
        found.setdefault(name, {}).update({level: flips.compute() for level, flips in scorer.flips.items()})
    return {"kind": "perturbations", "sequences": found}


class FlipScorer(Scorer):
    """Counts clips of `frames` frames of one perturbation, at several difficulties at once.

    Args:
        difficulties: one alone of noise, whose clips differ; any of the others, whose frames are the same.
    """

    def __init__(self, perturbation: str, difficulties: Sequence[int], frames: int) -> None:
        from nst.robustness.scores import FlipScores

        self.flips = {str(level): FlipScores(perturbation, level) for level in difficulties}
        self.frames = frames
        super().__init__(**self.flips)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        from nst.robustness.scores import top_classes

        top5 = top_classes(logits).unflatten(0, (-1, self.frames))
        for flips in self.flips.values():
            flips.update(top5, batch["labels"], batch["valid"])
        return logits
