"""One row per network: its size, its data and its scores. The table of the page and report.csv.

Every top-1 carries its 95 % interval (Wilson) from the number of test images alone, and every gain an interval of its
own, so that a small test set cannot pass noise off as a gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nst.data.shard_set import load_index
from nst.evaluation.results import ROW_COLUMNS, row_numbers
from nst.intervals import Interval, of_gain, wilson
from nst.report.records import CONTROL, Experiment, Generation
from nst.shown import some

COLUMNS = (
    "experiment", "run", "generation", "model", "width", "depth", "parameters", "labeled", "unlabeled",
    "unlabeled_with_copies", "pseudo_label_accuracy", "steps", "test_images", "top1", "top1_low", "top1_high",
    "top5", "ece", "loss", "gain", "gain_low", "gain_high",
    *ROW_COLUMNS,
)  # fmt: skip
Row = dict[str, Any]


def rows(experiment: Experiment) -> list[Row]:
    """A row per finished generation; accuracies, ECE and `gain` over the first generation in percentage points."""
    finished = [generation for generation in experiment.generations if generation.finished]
    found = [row(generation) for generation in finished]
    for generation, entry in zip(finished, found, strict=True):
        _add_gain(entry, found[0], generation, finished[0], experiment)
    return found


def control_row(experiment: Experiment, entries: Sequence[Row]) -> Row | None:
    """The row of the control, whose gain is over the first generation too; None while there is none.

    `beaten_by` is what the last network has more than the control, from `beaten_low` to `beaten_high`.
    """
    control = experiment.control
    if control is None or not control.finished or not entries:
        return None
    found, last = {**row(control), "generation": CONTROL}, entries[-1]
    first = next(generation for generation in experiment.generations if generation.finished)
    _add_gain(found, entries[0], control, first, experiment)
    known = last["top1"] is not None and found["top1"] is not None and last["looks"] == found["looks"]
    found["beaten_by"] = last["top1"] - found["top1"] if known else None
    found["beaten_low"], found["beaten_high"] = compared(found, last, control, experiment.last) or (None, None)
    return found


def _add_gain(entry: Row, base: Row, generation: Generation, first: Generation, experiment: Experiment) -> None:
    known = base["top1"] is not None and entry["top1"] is not None and base["looks"] == entry["looks"]
    entry["gain"] = entry["top1"] - base["top1"] if known else None
    interval = None if generation is first else compared(base, entry, first, generation)
    entry["gain_low"], entry["gain_high"] = interval or (None, None)
    entry["experiment"] = experiment.name


def row(generation: Generation) -> Row:
    """The facts of one generation; None where its files do not tell."""
    result = generation.result
    architecture = result.get("architecture", {})
    images, copies = unlabeled_images(generation)
    scores = generation.evaluation or result
    top1 = scores.get("top1")
    test_images = int(scores["samples"]) if "samples" in scores else None
    low, high = wilson(top1, test_images) if top1 is not None and test_images else (None, None)
    accuracy = (generation.learned_from or {}).get("accuracy", {}).get("after", {}).get("accuracy")
    return {
        "run": generation.directory.name,
        "label": generation.title,
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
        "looks": generation.looks,
        "top1": top1,
        "top1_low": low,
        "top1_high": high,
        **{name: scores.get(name) for name in ("top5", "ece", "loss")},
        **row_numbers(generation.robustness),
    }


def is_untested(entry: Mapping[str, Any]) -> bool:
    """Whether a network's score in a report is of the images that its training held out: those for validation, or where
    there are none, the test's."""
    return entry["top1"] is not None and entry.get("test_images", 0) is None


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


def compared(before: Row, after: Row, first: Generation, second: Generation) -> Interval | None:
    """Interval of what `after` has more of top-1 than `before`, in points; None where a score is not known, or where
    one was asked about a picture in more views than the other.

    Where both were tested on the same images and all their mistakes are kept, images that both get right or wrong do
    not count, and the interval is a narrower one.
    """
    samples, samples_after = before["test_images"], after["test_images"]
    if before["top1"] is None or after["top1"] is None or not samples or not samples_after:
        return None
    if before["looks"] != after["looks"]:
        return None
    images = first.evaluated.get("test")
    same = images is not None and images == second.evaluated.get("test") and samples == samples_after
    wrong = None
    if same and first.mistakes is not None and second.mistakes is not None:
        wrong = set(first.mistakes), set(second.mistakes)
    return of_gain(before["top1"], after["top1"], samples, samples_after, wrong)


def looked_at(entries: Sequence[Row], name: str = "label") -> str | None:
    """A sentence where networks were evaluated in different numbers of views, between which no gain is told.

    Args:
        name: by which column they are called.
    """
    scored = [entry for entry in entries if entry["top1"] is not None]
    if len({entry["looks"] for entry in scored}) < 2:
        return None
    each = [f"{entry[name]} in {entry['looks']} view{'s' if entry['looks'] > 1 else ''}" for entry in scored]
    return (
        f"Pictures were not looked at alike: {some(each)}. So no gain between these is told; nst evaluate"
        " model.checkpoint=<run> eval.views=<one or all> overwrite=true evaluates one again."
    )


def certain(low: float | None, high: float | None) -> bool | None:
    """Whether a difference is larger than the test images alone explain; None where its interval is not known."""
    return None if low is None or high is None else not low <= 0 <= high


def model_name(entry: Mapping[str, Any]) -> str:
    """`small w0.35 d0.5`: the network, with its scaling where the name does not say it."""
    name = str(entry["model"] or "network")
    if name.startswith("efficientnet") or entry["width"] is None:
        return name
    return f"{name} w{entry['width']:g} d{entry['depth']:g}"
