"""Numbers of robustness in words: the table, a row per number, and the conditions that they depend on.

The one decision worth knowing: a number has the name of what it is. mCE and mFR are of the benchmarks' files and
divided by AlexNet; means of pictures that were made on the fly are unnormalised, and stated with their conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nst.report.page import Table, number
from nst.report.robustness import Block, Measured
from nst.robustness.results import attack_steps

NUMBERS = {  # per kind of suite: key of the block → what it is
    "answers": {"top1": "top-1 %", "rms_calibration_error": "RMS calibration error %"},
    "real": {"top1": "top-1 %, any of the labels"},
    "corruptions": {
        "mce": "mCE (AlexNet = 100)",
        "relative_mce": "relative mCE (AlexNet = 100)",
        "mean_error": "mean corruption error %, unnormalised",
        "subset_error": "mean error % of what was measured",
        "clean_error": "error % on clean images",
        "error_to_baseline": "corruption error (baseline run = 100)",
    },
    "perturbations": {
        "mfr": "mFR (AlexNet = 100)",
        "mean_flip_probability": "flip rate %, unnormalised",
        "subset_flip_rate": "flip rate % of what was measured",
        "flips_to_baseline": "flip rate (baseline run = 100)",
    },
}
ANSWERS = ("answers", "real")  # kinds of suites of photographs, shown as they are
CHANGE_NOTE = "Change: last network less first. For errors and flips lower is better, for top-1 higher."
BASELINE_NOTE = "The baseline run is eval.baseline; nst iterate takes the teacher where none is named."


def numbers_table(networks: Mapping[str, Sequence[Measured]]) -> Table:
    """A row per number, a column per network in the order of the generations, and the change from first to last."""
    by_place = {network.place: network.label for shown in networks.values() for network in shown}
    labels = [label for _, label in sorted(by_place.items())]
    rows = []
    for suite, shown in networks.items():
        blocks = {network.label: network.block for network in shown}
        rows += [[name, suite, *_cells([values.get(label) for label in labels])]
                 for name, values in _numbers(blocks).items()]  # fmt: skip
    change = ["change"] if len(labels) > 1 else []
    columns = ["", "suite", *labels, *change]
    others = [conditions(suite, shown[0].block) for suite, shown in networks.items()
              if shown[0].block["kind"] in ANSWERS]  # fmt: skip
    divided = any("(baseline run = 100)" in row[0] for row in rows)
    notes = [CHANGE_NOTE] * bool(change) + [BASELINE_NOTE] * divided
    return Table(columns, rows, [False, False, *[True] * (len(columns) - 2)], note=" ".join([*notes, *others]))


def measured_rows(blocks: Mapping[str, Block]) -> list[list[str]]:
    """[suite, what the number is, value] of all that was measured of one network, attacks at every epsilon."""
    rows = []
    for suite, block in blocks.items():
        if block["kind"] == "attack":
            each = zip(block["epsilons"], block["top1"], strict=True)
            found = {f"top-1 % at ε = {epsilon:g}/255": value for epsilon, value in each}
        else:
            named = NUMBERS[block["kind"]].items()
            found = {name: block[key] for key, name in named if block.get(key) is not None}
        rows += [[suite, name, number(value, ".2f")] for name, value in found.items()]
    return rows


def _numbers(blocks: Mapping[str, Block]) -> dict[str, dict[str, float]]:
    """What a number is → network → its value; numbers that no network has are left out."""
    kind = next(iter(blocks.values()))["kind"]
    if kind == "attack":
        name = f"top-1 % at ε = {next(iter(blocks.values()))['epsilons'][-1]:g}/255"
        return {name: {label: block["top1"][-1] for label, block in blocks.items()}}
    found = {
        name: {label: block[key] for label, block in blocks.items() if block.get(key) is not None}
        for key, name in NUMBERS[kind].items()
    }
    return {name: values for name, values in found.items() if values}


def _cells(values: Sequence[float | None]) -> list[str]:
    cells = [number(value, ".2f") for value in values]
    if len(values) == 1:
        return cells
    first, last = values[0], values[-1]
    return [*cells, number(None if first is None or last is None else last - first, "+.2f")]


def conditions(suite: str, block: Block) -> str:
    """What the numbers of a suite depend on, in a sentence or two."""
    given = block["conditions"]
    if block["kind"] == "attack":
        return f"{suite}: {_subset(block)}; {attack_steps(block)}."
    if block["kind"] in ANSWERS:
        return f"{suite}: {_subset(block)}."
    parts = [_subset(block), _pictures(given)]
    if "frost" in given:
        quality = given["jpeg_quality"]
        parts.append(f"JPEG of quality {quality}" if quality is not None else "no JPEG step")
        parts.append(f"frost: {given['frost']}")
    text = f"{suite}: {'; '.join(parts)}."
    if "baseline_source" in block:
        text += f" Baseline: {block['baseline_source']}"
    return text


def _subset(block: Block) -> str:
    given = block["conditions"]
    of_class = f", a subset in proportion to the classes (seed {given['seed']})" if given["max_images"] else ""
    return f"{number(given['images'])} images{of_class}"


def _pictures(given: Mapping[str, Any]) -> str:
    """Where pictures come from, and at which size."""
    if "table" in given:
        made = f"made on the fly at {given['side']} px with the severities of {given['table']} px"
    else:
        made = f"the released files of {given['side']} px"
    return made if given["shown_at"] == given["side"] else f"{made}, shown to the network at {given['shown_at']} px"
