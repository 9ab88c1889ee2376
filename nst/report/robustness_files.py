"""What the evaluations of robustness left on disk: which networks can be compared on a suite, and their shown answers.

Networks stand side by side only where they were shown the same pictures, that is under the same conditions but for the
size at which they are shown. What differs is left out by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from nst.documents import read_document
from nst.errors import NstError
from nst.evaluation.results import differences, kind_of
from nst.evaluation.suite import Block
from nst.report.records import Experiment
from nst.robustness.baselines import CORRUPTIONS, NUM_SEVERITIES
from nst.robustness.benchmark_scores import known_mean
from nst.untrusted import below


@dataclass(frozen=True)
class Answer:
    """What a network says of one shown picture, or of each shown frame of a clip.

    Args:
        sheet: file with the pictures of a part's samples, `columns` tiles in a row.
        tile: side in px.
        place: which of the sheet's samples.
        frames: numbers of a clip's frames that have a picture; (0,) of an image.
        caption: what the picture shows, e.g. "fog 3"; a perturbation's name; empty for photographs.
        label: None where it is not known.
        predicted, confidence: of the picture, or of the shown frames.
        flips: changes of the answer over all frames of the clip.
    """

    sheet: Path
    tile: int
    columns: int
    place: int
    frames: tuple[int, ...]
    key: str
    caption: str
    label: str | None
    predicted: tuple[str, ...]
    confidence: tuple[float, ...]
    flips: int

    @property
    def right(self) -> bool:
        return self.predicted[0] == self.label

    @property
    def shows(self) -> tuple[str, str, str]:
        """What says that two networks were shown the same."""
        return self.sheet.stem, self.key, self.caption

    def pictures(self) -> list[np.ndarray]:
        """Those of the shown frames, (S, S, 3) uint8; empty where the sheet is not there any more."""
        if not self.sheet.is_file():
            return []
        try:
            with Image.open(self.sheet) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except OSError as error:
            again = "delete that suite's folder and evaluate again"
            raise NstError(f"cannot read {self.sheet}", got=error, next=again) from error
        count, side = len(self.frames), self.tile
        places = [divmod(self.place * count + number, self.columns) for number in range(count)]
        return [pixels[row * side : (row + 1) * side, left * side : (left + 1) * side] for row, left in places]


@dataclass(frozen=True)
class Measured:
    """One network on one suite."""

    title: str
    named: str  # the title inside a sentence
    suite: str
    block: Block
    folder: Path

    @cached_property
    def answers(self) -> list[Answer]:
        """Of all shown pictures, part by part."""
        return [answer for path in sorted((self.folder / "parts").glob("*.json")) for answer in _answers(path)]


def _answers(path: Path) -> list[Answer]:
    """Those of one part."""
    part = read_document(path) or {}
    given = part.get("sheet", {})
    sheet = below(path.parent, given.get("file", "-"), path)
    frames = tuple(given.get("frames") or [0])
    found = []
    for place, entry in enumerate(part.get("shown", [])):
        every, caption = entry["predicted"], entry["caption"]
        earlier = every[:1] * len(every) if "noise" in caption else every  # as flips are counted
        flips = sum(before != after for before, after in zip(earlier, every[1:], strict=False))
        said, sure = (tuple(entry[name][frame] for frame in frames) for name in ("predicted", "confidence"))
        found.append(Answer(sheet, given.get("tile", 0), given.get("columns", 1), place, frames, entry["key"], caption,
                            entry["label"], said, sure, flips))  # fmt: skip
    return found


def networks_of(experiment: Experiment, suite: str) -> tuple[list[Measured], list[str]]:
    """The networks that can be compared on a suite, in order; and a sentence for each that cannot."""
    shown: list[Measured] = []
    apart = []
    for generation in experiment.generations:
        block = generation.robustness.get(suite)
        if block is None:
            continue
        differ = differences(shown[0].block["conditions"], block["conditions"]) if shown else []
        if differ:
            apart.append(f"{generation.title} was measured on {suite} under other conditions: {', '.join(differ)}.")
        else:
            folder = generation.directory / "evaluation" / "robustness" / suite
            shown.append(Measured(generation.title, generation.named, suite, block, folder))
    return shown, apart


def answered_by_both(first: Measured, last: Measured) -> list[tuple[Answer, Answer]]:
    """Answers of two networks to the same shown pictures."""
    others = {answer.shows: answer for answer in last.answers}
    return [(answer, others[answer.shows]) for answer in first.answers if answer.shows in others]


def corruption_values(networks: Sequence[Measured]) -> tuple[list[str], dict[str, list[float | None]], bool]:
    """Per corruption and network CE where all have it for all of these, else the mean error over measured severities.

    Returns names, extra ones last, label → values in percent, and whether they are CE.
    """
    found = dict.fromkeys(name for network in networks for name in network.block["errors"])
    names = [*(name for name in CORRUPTIONS if name in found), *(name for name in found if name not in CORRUPTIONS)]
    normalised = all(network.block.get("ce", {}).get(name) is not None for network in networks for name in names)

    def values(block: Block) -> list[float | None]:
        return [block["ce"][name] if normalised else known_mean(block["errors"].get(name, ())) for name in names]

    return names, {network.title: values(network.block) for network in networks}, normalised


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
    if (looks := given.get("views", 1)) > 1:
        parts.append(f"the mean over {looks} views of each picture")
    text = f"{suite}: {'; '.join(parts)}."
    return f"{text} Baseline: {block['baseline_source']}" if "baseline_source" in block else text
