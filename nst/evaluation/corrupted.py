"""Corruptions: copies of ImageNet-C and CIFAR-C, and those made on the fly of our own images (paper table 4).

Numbers of corruptions on the fly have a name of their own (`c_onthefly`) and are never called mCE: other images,
frost and seeds than the benchmark's. The result states the table of severities, the source of frost and the JPEG step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nst.evaluation.copies import copy_facts, incomplete, require_found, require_side, tell_incomplete
from nst.evaluation.suite import (
    BLOCK_IMAGES,
    Block,
    Kept,
    Pass,
    Row,
    Scorer,
    Subject,
    Suite,
    SuiteKind,
    block_size,
    framing_facts,
    image_blocks,
    pictures_stated,
)
from nst.robustness import cifar, sets
from nst.robustness.baselines import CORRUPTIONS, EXTRA_CORRUPTIONS, MADE_CORRUPTIONS, NUM_SEVERITIES, Baseline
from nst.robustness.benchmark_scores import corruption_scores, known_mean
from nst.robustness.corruptions import Corruptions
from nst.robustness.image_sets import ImageSet, joined
from nst.robustness.made import CLEAN, Variant, corrupted, whole_images

if TYPE_CHECKING:
    from torch import Tensor

    from nst.data.batches import Batch

RELEASED = ("imagenet_c", "imagenet_c_299", "cifar_c")
ALL_CORRUPTIONS = CORRUPTIONS + EXTRA_CORRUPTIONS
SHOWN_SEVERITY = 3
SHOWN_PER_CORRUPTION = 8


class Corrupted(SuiteKind):
    """Errors by corruption and severity."""

    headlines: ClassVar[Mapping[str, str]] = {
        "mce": "mCE (AlexNet = 100)",
        "relative_mce": "relative mCE (AlexNet = 100)",
        "mean_error": "mean corruption error %, unnormalised",
        "subset_error": "mean error % of what was measured",
        "top1": "",
        "top5": "",
        "clean_error": "error % on clean images",
        "error_to_baseline": "corruption error (baseline run = 100)",
        "degradation_to_baseline": "",
    }
    suites = (*RELEASED, MADE_CORRUPTIONS)
    row: ClassVar[Mapping[str, str]] = {
        "corruption_error": "mean_error",
        "mce": "mce",
        "corruption_error_to_baseline": "error_to_baseline",
    }
    row_suite = "corruption_suite"
    figures = ("errors", "severities")

    def scored(
        self, name: str, measured: Block, clean_error: float | None, published: Baseline | None, other: Block | None
    ) -> Block:
        errors, top5_errors = measured["errors"], measured["top5_errors"]
        clean = measured["clean_error"] if measured["clean_error"] is not None else clean_error
        block = {**measured, **corruption_scores(errors, clean_error=clean, baseline=published)}
        if block["missing"]:
            block["subset_error"] = known_mean(error for row in errors.values() for error in row)
        else:
            block["top5"] = 100.0 - fmean(error for corruption in CORRUPTIONS for error in top5_errors[corruption])
        if other is not None:
            run = Baseline("run", "", other.get("clean_error"), other.get("errors", {}))
            found = corruption_scores(errors, clean_error=clean, baseline=run)
            block["to_baseline"] = found["ce"]
            block["error_to_baseline"], block["degradation_to_baseline"] = found["mce"], found["relative_mce"]
        return block

    def series(self, block: Block) -> Mapping[str, float | None]:
        means = {f"error/{name}": known_mean(row) for name, row in block["errors"].items()}
        return means | {f"ce/{name}": value for name, value in block.get("ce", {}).items()}

    def rows(self, block: Block) -> Iterable[Row]:
        for name, row in block["errors"].items():
            cells = zip(range(1, NUM_SEVERITIES + 1), row, strict=True)
            yield from ((name, severity, "error", error) for severity, error in cells if error is not None)
        for metric in ("ce", "relative_ce", "to_baseline"):
            values = block.get(metric, {}).items()
            yield from ((name, None, metric, value) for name, value in values if value is not None)

    def stated(self, block: Block) -> list[str]:
        given, parts = block["conditions"], pictures_stated(block)
        if "frost" in given:
            quality = given["jpeg_quality"]
            parts.append(f"JPEG of quality {quality}" if quality is not None else "no JPEG step")
            parts.append(f"frost: {given['frost']}")
        return parts


KINDS = {"corruptions": Corrupted()}


def suites(subject: Subject) -> Iterator[Suite]:
    """Those whose folders are given, and those made of `subject.clean`."""
    for name, folder in subject.folders(RELEASED):
        yield released(subject, name, folder)
    if subject.clean is not None and subject.options.corruption_names:
        yield made(subject, subject.subset(subject.clean))


# ---- released ----------------------------------------------------------------------------------------------------


def released(subject: Subject, name: str, folder: str) -> Suite:
    """A copy of ImageNet-C or CIFAR-C, or a part of one."""
    held = sets.find_cells(name, folder)
    require_found(name, "corruption", folder, held, CORRUPTIONS)
    open_cell = cifar.cifar_c if name == "cifar_c" else sets.imagenet_c

    def cell(corruption: str, severity: int) -> ImageSet:
        return open_cell(folder, corruption, severity, subject.classes)

    def images(corruption: str) -> ImageSet:
        numbers, severities = CorruptionScorer(ALL_CORRUPTIONS).errors, held[corruption]
        found = [subject.subset(cell(corruption, severity)) for severity in severities]
        return joined(f"{name}/{corruption}", found, [numbers.cell(corruption, severity) for severity in severities])

    def opened(corruption: str) -> Pass:
        shown_images = first if corruption == next(iter(held)) else images(corruption)
        side = subject.options.resize_to or require_side(name, shown_images)
        scorer = CorruptionScorer(ALL_CORRUPTIONS)
        severity = _middle(held[corruption])
        shown = _shown(shown_images, ALL_CORRUPTIONS.index(corruption), scorer.errors.cell(corruption, severity))
        captions = dict.fromkeys(shown, f"{corruption} {severity}")
        return Pass(shown_images, subject.resized(side), subject.batch_size, scorer, captions)

    def measured(parts: Kept) -> Block:
        found = CorruptionScorer(ALL_CORRUPTIONS).with_counts(parts.values()).measured()
        for corruption, severity in incomplete(listed):
            for table in (found["errors"], found["top5_errors"]):
                table[corruption] = [None if place == severity else error
                                     for place, error in enumerate(table[corruption], 1)]  # fmt: skip
        tell_incomplete(name, "images", [f"{corruption}/{severity}" for corruption, severity in incomplete(listed)])
        return found

    first = images(next(iter(held)))
    require_side(name, first)  # before all cells are listed, which takes long
    cells = [(corruption, severity) for corruption, severities in held.items() for severity in severities]
    listed = {place: (len(found), found.digest) for place in cells for found in [cell(*place)]}
    conditions = copy_facts(name, subject, first, held, listed)
    return Suite(name, conditions, list(held), opened, len(first) * len(held), measured)


def _shown(images: ImageSet, number: int, cell: int) -> list[int]:
    """A few of the images of a cell: other ones for each corruption, by its number, together many."""
    assert images.cells is not None
    rows = np.flatnonzero(images.cells == cell)  # of a part of a copy, some cells have fewer
    first = SHOWN_PER_CORRUPTION * number
    step = max(1, len(rows) // (SHOWN_PER_CORRUPTION * len(ALL_CORRUPTIONS)))
    return list(dict.fromkeys(int(rows[(first + place) * step % len(rows)]) for place in range(SHOWN_PER_CORRUPTION)))


def _middle(severities: Sequence[int]) -> int:
    return SHOWN_SEVERITY if SHOWN_SEVERITY in severities else severities[0]


# ---- made on the fly ---------------------------------------------------------------------------------------------


def made(subject: Subject, images: ImageSet) -> Suite:
    """All corruptions of our own images, and the clean images for comparison."""
    options, view = subject.options, subject.view(subject.side)
    names, severities = options.corruption_names, options.severities
    quality = options.quality(Corruptions(subject.side).table)
    corruptions = Corruptions(subject.side, frost_folder=options.frost_folder, jpeg_quality=quality)
    variants = [CLEAN, *((name, severity) for name in names for severity in severities)]
    blocks = image_blocks(images, block_size(len(images)))
    all_shown = _shown_variants(names, severities, variants, min(len(images), BLOCK_IMAGES))

    def opened(part: str) -> Pass:
        block, scorer = blocks[part], CorruptionScorer(names)
        found = corrupted(images.chosen(block), view, corruptions, variants, scorer.errors, options.seed)
        shown = [number - block.start * len(variants) for number in all_shown if number // len(variants) in block]
        captions = {number: "{} {}".format(*variants[number % len(variants)]) for number in shown}
        batch = whole_images(len(variants), subject.batch_size)
        return Pass(found, subject.resized(subject.image_size), batch, scorer, captions)

    conditions = {
        **subject.facts(images),
        "corruptions": names,
        "severities": list(severities),
        "side": subject.side,
        "framed": framing_facts(view),
        "shown_at": subject.image_size,
        "table": corruptions.table,
        "jpeg_quality": corruptions.jpeg_quality,
        "frost": corruptions.frost_source,
    }

    def measured(parts: Kept) -> Block:
        return CorruptionScorer(names).with_counts(parts.values()).measured()

    return Suite(MADE_CORRUPTIONS, conditions, list(blocks), opened, len(images) * len(variants), measured)


def _shown_variants(
    names: Sequence[str], severities: Sequence[int], variants: Sequence[Variant], images: int
) -> list[int]:
    """A few images of each corruption at the middle severity, other ones for each: samples of all blocks."""
    wanted = [(name, _middle(severities)) for name in names for _ in range(SHOWN_PER_CORRUPTION)]
    pairs = [(place % images, variants.index(variant)) for place, variant in enumerate(wanted)]
    return list(dict.fromkeys(number * len(variants) + variant for number, variant in pairs))


class CorruptionScorer(Scorer):
    """Counts images with a cell each; cell -1 is a clean image."""

    def __init__(self, corruptions: Sequence[str]) -> None:
        from nst.robustness.answers import RealAccuracy
        from nst.robustness.scores import CorruptionErrors

        self.errors, self.clean = CorruptionErrors(corruptions), RealAccuracy()
        super().__init__(errors=self.errors, clean=self.clean)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        labels, cells, valid = batch["labels"], batch["cells"], batch["valid"]
        self.errors.update(logits, labels, cells, valid & (cells >= 0))
        self.clean.update(logits, labels.unsqueeze(1), valid & (cells < 0))
        return logits

    def measured(self) -> Block:
        """Errors in percent by corruption and severity, top-1 and top-5, and top-1 on the clean images."""
        top1, top5 = self.errors.errors(), self.errors.errors(top=5)
        seen = [name for name, row in top1.items() if any(error is not None for error in row)]
        images, right = self.clean.state()["counts"].tolist()
        return {
            "kind": "corruptions",
            "errors": {name: top1[name] for name in seen},
            "top5_errors": {name: top5[name] for name in seen},
            "clean_error": 100.0 - 100.0 * right / images if images else None,
        }
