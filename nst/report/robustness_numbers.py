"""Numbers of robustness in words: the table, a row per number, and the conditions that they depend on.

A number has the name of what it is (`nst.evaluation.suite.Kind`). mCE and mFR are of the benchmarks' files and
divided by AlexNet; means of pictures that were made on the fly are unnormalised, and stated with their conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nst.evaluation.results import kind_of
from nst.evaluation.suite import Block
from nst.report.page import Table, number
from nst.report.robustness import Measured

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
                 for name, values in kind_of(shown[0].block).compared(blocks).items()]  # fmt: skip
    change = ["change"] if len(labels) > 1 else []
    columns = ["", "suite", *labels, *change]
    others = [
        conditions(suite, shown[0].block)
        for suite, shown in networks.items()
        if not kind_of(shown[0].block).stated(shown[0].block)
    ]  # the others' stand below their figures
    divided = any("(baseline run = 100)" in row[0] for row in rows)
    notes = [CHANGE_NOTE] * bool(change) + [BASELINE_NOTE] * divided
    return Table(columns, rows, [False, False, *[True] * (len(columns) - 2)], note=" ".join([*notes, *others]))


def measured_rows(blocks: Mapping[str, Block]) -> list[list[str]]:
    """[suite, what the number is, value] of all that was measured of one network, attacks at every epsilon."""
    return [
        [suite, name, number(value, ".2f")]
        for suite, block in blocks.items()
        for name, value in kind_of(block).titled(block).items()
    ]


def _cells(values: Sequence[float | None]) -> list[str]:
    cells = [number(value, ".2f") for value in values]
    if len(values) == 1:
        return cells
    first, last = values[0], values[-1]
    return [*cells, number(None if first is None or last is None else last - first, "+.2f")]


def conditions(suite: str, block: Block) -> str:
    """What the numbers of a suite depend on, in a sentence or two."""
    given = block["conditions"]
    of_class = f", a subset in proportion to the classes (seed {given['seed']})" if given["max_images"] else ""
    parts = [f"{number(given['images'])} images{of_class}", *kind_of(block).stated(block)]
    text = f"{suite}: {'; '.join(parts)}."
    if "baseline_source" in block:
        text += f" Baseline: {block['baseline_source']}"
    return text
