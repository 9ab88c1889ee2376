"""One row per network: what it is, what it learned from, how well it does. The table of the page and report.csv.

Every top-1 carries its 95 % interval (Wilson) from the number of test images alone, so that a small test set cannot
pass noise off as a gain.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nst.atomic import atomic_path
from nst.data.shard_set import load_index
from nst.report import robustness
from nst.report.records import Experiment, Generation

COLUMNS = (
    "experiment", "run", "generation", "model", "width", "depth", "parameters", "labeled", "unlabeled",
    "unlabeled_with_copies", "pseudo_label_accuracy", "steps", "test_images", "top1", "top1_low", "top1_high",
    "top5", "ece", "loss", "gain", *robustness.COLUMNS,
)  # fmt: skip
Z_95 = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval
Row = dict[str, Any]


def rows(experiment: Experiment) -> list[Row]:
    """A row per finished generation; accuracies, ECE and `gain` over the first generation in percentage points."""
    found = [row(generation) for generation in experiment.generations if generation.finished]
    base = found[0]["top1"] if found else None
    for entry in found:
        known = base is not None and entry["top1"] is not None
        entry["gain"] = entry["top1"] - base if known else None
        entry["experiment"] = experiment.name
    return found


def row(generation: Generation) -> Row:
    """The facts of one generation; None where its files do not tell."""
    result = generation.result
    architecture = result.get("architecture", {})
    images, copies = unlabeled_images(generation)
    scores = generation.evaluation or result
    top1 = scores.get("top1")
    test_images = int(scores["samples"]) if "samples" in scores else None
    low, high = interval(top1, test_images)
    accuracy = (generation.learned_from or {}).get("accuracy", {}).get("after", {}).get("accuracy")
    return {
        "run": generation.directory.name,
        "label": generation.label,
        "generation": generation.number,
        "model": result.get("model"),
        "width": architecture.get("width"),
        "depth": architecture.get("depth"),
        "parameters": result.get("parameters"),
        "labeled": result.get("labeled_samples"),
        "unlabeled": images,
        "unlabeled_with_copies": copies,
        "pseudo_label_accuracy": 100 * accuracy if accuracy is not None else None,
        "steps": result.get("steps"),
        "test_images": test_images,
        "top1": top1,
        "top1_low": low,
        "top1_high": high,
        **{name: scores.get(name) for name in ("top5", "ece", "loss")},
        **robustness.headline(robustness.blocks_of(generation)),
    }


def unlabeled_images(generation: Generation) -> tuple[int | None, int | None]:
    """Unlabeled images that the network learned from, once and with copies; None where that is not known."""
    if not generation.has_teacher:
        return 0, 0
    selection = generation.learned_from
    if selection is not None:
        return selection["totals"]["selected"], selection["totals"]["copies"]
    # an online teacher without a selection sees every unlabeled image
    folder = generation.data_folder("unlabeled")
    index = folder / "index.json" if folder else None
    if index is None or not index.exists():
        return None, None
    samples = load_index(index.parent).samples
    return samples, samples


def interval(percent: float | None, samples: int | None) -> tuple[float | None, float | None]:
    """95 % interval of an accuracy in percent measured on `samples` images (Wilson 1927)."""
    if percent is None or not samples:
        return None, None
    share, weight = percent / 100, Z_95**2 / samples
    centre = (share + weight / 2) / (1 + weight)
    half = Z_95 * math.sqrt(share * (1 - share) / samples + weight / (4 * samples)) / (1 + weight)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def model_name(entry: Mapping[str, Any]) -> str:
    """`small w0.35 d0.5`: the network, with its scaling where the name does not say it."""
    name = str(entry["model"] or "network")
    if name.startswith("efficientnet") or entry["width"] is None:
        return name
    return f"{name} w{entry['width']:g} d{entry['depth']:g}"


def write_csv(path: Path, entries: Sequence[Row], *, paper: Iterable[tuple[str, dict[str, float]]] = ()) -> None:
    """The rows as a table of numbers, unrounded; published figures follow, named so."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entries)
        writer.writerows({"experiment": "published", "run": name, **values} for name, values in paper)
