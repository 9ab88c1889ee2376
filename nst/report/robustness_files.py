"""What the evaluations of robustness left on disk: which networks can be compared on a suite, and their shown answers.

Networks stand side by side only where they were shown the same pictures, that is
under the same conditions but for the size at which they are shown. What differs is left out by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nst.errors import NstError
from nst.evaluation.results import differences, kind_of
from nst.evaluation.suite import Block
from nst.report.records import Experiment, Generation, read_document
from nst.robustness.baselines import CORRUPTIONS, NUM_SEVERITIES
from nst.robustness.benchmark_scores import known_mean
from nst.untrusted import below, require_file_name

# the first whole one gives the numbers of a network's row
CORRUPTION_SUITES = ("imagenet_c", "imagenet_c_299", "cifar_c", "c_onthefly")
PERTURBATION_SUITES = ("imagenet_p", "imagenet_p_299", "cifar_p", "p_onthefly")
CORRUPTION_NUMBERS = {
    "corruption_error": "mean_error",
    "mce": "mce",
    "corruption_error_to_baseline": "error_to_baseline",
}
PERTURBATION_NUMBERS = {
    "flip_rate": "mean_flip_probability",
    "mfr": "mfr",
    "flip_rate_to_baseline": "flips_to_baseline",
}
COLUMNS = ("corruption_suite", *CORRUPTION_NUMBERS, "perturbation_suite", *PERTURBATION_NUMBERS)


def headline(blocks: Mapping[str, Block]) -> dict[str, Any]:
    """Numbers of one network's row, by COLUMNS, and the suites they are of; without those that are not known."""
    found: dict[str, Any] = {}
    for kind, suites, numbers in (
        ("corruption_suite", CORRUPTION_SUITES, CORRUPTION_NUMBERS),
        ("perturbation_suite", PERTURBATION_SUITES, PERTURBATION_NUMBERS),
    ):
        main = next(iter(numbers.values()))
        suite = next((name for name in suites if blocks.get(name, {}).get(main) is not None), None)
        if suite is not None:
            found |= {kind: suite, **{name: blocks[suite].get(key) for name, key in numbers.items()}}
    return {name: value for name, value in found.items() if value is not None}


def blocks_of(generation: Generation) -> dict[str, Block]:
    """The suites of a generation by name; empty where none was evaluated."""
    path = generation.directory / "evaluation" / "result.json"
    blocks = (generation.evaluation or {}).get("robustness", {})
    return {require_file_name(suite, path): block for suite, block in blocks.items()}  # figures are named by it


@dataclass(frozen=True)
class Sheet:
    """The pictures of a part's shown samples, tile by tile in one file.

    Args:
        tile: side in px.
        frames: numbers of a clip's frames that have a picture; (0,) of an image.
    """

    path: Path
    tile: int
    columns: int
    frames: tuple[int, ...]

    def tiles(self, place: int) -> list[np.ndarray]:
        """Pictures (S, S, 3) uint8 of a sample, one per shown frame; empty where the sheet is not there any more."""
        if not self.path.is_file():
            return []
        try:
            with Image.open(self.path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except OSError as error:
            again = "delete that suite's folder and evaluate again"
            raise NstError(f"cannot read {self.path}", got=error, next=again) from error
        count, side = len(self.frames), self.tile
        places = [divmod(place * count + number, self.columns) for number in range(count)]
        return [pixels[row * side : (row + 1) * side, left * side : (left + 1) * side] for row, left in places]


@dataclass(frozen=True)
class Answer:
    """What a network says of one shown picture, or of each shown frame of a clip.

    Args:
        place: which of the sheet's samples.
        caption: what the picture shows, e.g. "fog 3"; a perturbation's name; empty for photographs.
        label: None where it is not known.
        predicted, confidence: of the picture, or of the shown frames.
        flips: changes of the answer over all frames of the clip.
    """

    sheet: Sheet
    place: int
    key: str
    caption: str
    label: str | None
    predicted: tuple[str, ...]
    confidence: tuple[float, ...]
    flips: int

    @property
    def frames(self) -> tuple[int, ...]:
        return self.sheet.frames

    @property
    def right(self) -> bool:
        return self.predicted[0] == self.label

    @property
    def shows(self) -> tuple[str, str, str]:
        """What says that two networks were shown the same."""
        return self.sheet.path.stem, self.key, self.caption


@dataclass(frozen=True)
class Measured:
    """One network on one suite; `place` is its own among the generations."""

    place: int
    label: str
    named: str  # the label inside a sentence
    suite: str
    block: Block
    folder: Path

    @cached_property
    def answers(self) -> list[Answer]:
        """Of all shown pictures, part by part."""
        paths = sorted((self.folder / "parts").glob("*.json"))
        return [answer for path in paths for answer in _answers(path)]


def _answers(path: Path) -> list[Answer]:
    """Those of one part."""
    part = read_document(path) or {}
    given = part.get("sheet", {})
    picture = below(path.parent, given.get("file", "-"), path)
    sheet = Sheet(picture, given.get("tile", 0), given.get("columns", 1), tuple(given.get("frames") or [0]))
    return [_answer(sheet, place, entry) for place, entry in enumerate(part.get("shown", []))]


def _answer(sheet: Sheet, place: int, entry: Mapping[str, Any]) -> Answer:
    predicted, caption = entry["predicted"], entry["caption"]
    earlier = predicted[:1] * len(predicted) if "noise" in caption else predicted  # as flips are counted
    said, sure = ([entry[name][frame] for frame in sheet.frames] for name in ("predicted", "confidence"))
    flips = sum(before != after for before, after in zip(earlier, predicted[1:], strict=False))
    return Answer(sheet, place, entry["key"], caption, entry["label"], tuple(said), tuple(sure), flips)


def networks_of(experiment: Experiment, suite: str) -> tuple[list[Measured], list[str]]:
    """The networks that can be compared on a suite, in order; and a sentence for each that cannot."""
    shown: list[Measured] = []
    apart = []
    for place, generation in enumerate(experiment.generations):
        block = blocks_of(generation).get(suite)
        if block is None:
            continue
        folder = generation.directory / "evaluation" / "robustness" / suite
        network = Measured(place, generation.label, generation.named, suite, block, folder)
        differ = differences(shown[0].block["conditions"], block["conditions"]) if shown else []
        if differ:
            apart.append(f"{generation.label} was measured on {suite} under other conditions: {', '.join(differ)}.")
        else:
            shown.append(network)
    return shown, apart


def answered_by_both(first: Measured, last: Measured) -> list[tuple[Answer, Answer]]:
    """Answers of two networks to the same shown pictures."""
    others = {answer.shows: answer for answer in last.answers}
    return [(answer, others[answer.shows]) for answer in first.answers if answer.shows in others]


def suites_of(experiment: Experiment) -> list[str]:
    """Names of all suites that any generation has, in the order of the evaluation."""
    return list(dict.fromkeys(suite for generation in experiment.generations for suite in blocks_of(generation)))


def corruption_values(networks: Sequence[Measured]) -> tuple[list[str], dict[str, list[float | None]], bool]:
    """Per corruption and network CE where all have it for all of these, else the mean error over measured severities.

    Returns names, extra ones last, label → values in percent, and whether they are CE.
    """
    found = dict.fromkeys(name for network in networks for name in network.block["errors"])
    names = [*(name for name in CORRUPTIONS if name in found), *(name for name in found if name not in CORRUPTIONS)]
    normalised = all(network.block.get("ce", {}).get(name) is not None for network in networks for name in names)

    def values(block: Block) -> list[float | None]:
        return [block["ce"][name] if normalised else known_mean(block["errors"].get(name, ())) for name in names]

    return names, {network.label: values(network.block) for network in networks}, normalised


def severity_means(network: Measured, names: Sequence[str]) -> list[float | None]:
    """Mean error (%) over corruptions of the same severities: clean, then by severity; None where not measured."""
    rows = [network.block["errors"][name] for name in names]
    return [network.block["clean_error"], *(known_mean(column) for column in zip(*rows, strict=True))]


def whole_rows(networks: Sequence[Measured], names: Sequence[str]) -> list[str]:
    """Those of the corruptions that every network has at all severities at which any was measured."""
    nothing = [None] * NUM_SEVERITIES
    errors = [[network.block["errors"].get(name) or nothing for name in names] for network in networks]
    known = np.isfinite(np.array(errors, float))  # (networks, corruptions, severities)
    whole = (known | ~known.any(axis=(0, 1))).all(axis=(0, 2))
    return [name for name, kept in zip(names, whole, strict=True) if kept]


def measured_rows(blocks: Mapping[str, Block]) -> list[list[str]]:
    """[suite, what the number is, value] of all that was measured of one network, attacks at every epsilon."""
    return [
        [suite, name, f"{value:.2f}"]
        for suite, block in blocks.items()
        for name, value in kind_of(block).titled(block).items()
    ]


def conditions(suite: str, block: Block) -> str:
    """What the numbers of a suite depend on, in a sentence or two."""
    given = block["conditions"]
    of_class = f", a subset in proportion to the classes (seed {given['seed']})" if given["max_images"] else ""
    parts = [f"{given['images']:,} images{of_class}", *kind_of(block).stated(block)]
    text = f"{suite}: {'; '.join(parts)}."
    return f"{text} Baseline: {block['baseline_source']}" if "baseline_source" in block else text
