"""From what suites have measured to scores, and the numbers of a result by name.

A suite's own result.json holds measurements (errors, flips); what follows from them is worked out here each time, so
that a clean error or a baseline that comes later costs no new evaluation. Only the benchmarks' own files are divided
by AlexNet. Anything else is divided by another run's results under the same conditions, or by nothing, and the key
says which (`mce`, `error_to_baseline`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nst.data.views import turns
from nst.documents import read_document
from nst.errors import NstError
from nst.evaluation import attacked, corrupted, photographs, sequences
from nst.evaluation.suite import Block, Subject, Suite, SuiteKind
from nst.robustness.baselines import ALEXNET, PUBLISHED_SAMPLES
from nst.settings.data import Pictures
from nst.shown import some

ROOMS = (photographs, corrupted, sequences, attacked)  # a new kind of suites is a module of its own, and its name here
KINDS: dict[str, SuiteKind] = {name: kind for room in ROOMS for name, kind in room.KINDS.items()}
COLUMNS = ("suite", "condition", "level", "metric", "value")
ROW_COLUMNS = tuple(column for kind in KINDS.values() if kind.row for column in (kind.row_suite, *kind.row))
NETWORKS_OWN = ("shown_at", "shown_as")  # conditions in which networks that are compared may differ
ONCE = {"views": 1}  # a condition that came later, as it was before: a picture was looked at once


def kind_of(block: Block) -> SuiteKind:
    """How a suite's block is read."""
    return KINDS[block["kind"]]


def suites_of(subject: Subject) -> list[Suite]:
    """The suites that are asked for, in a fixed order: released sets before what is made of our own images.

    Raises:
        NstError: a folder that does not hold what it is said to.
    """
    found = [suite for room in ROOMS for suite in room.suites(subject)]
    return sorted(found, key=lambda suite: suite.name not in vars(subject.options))


def scored(
    name: str,
    measured: Block,
    *,
    clean_error: float | None = None,
    imagenet: bool = False,
    baseline: Block | None = None,
) -> Block:
    """The block of a suite with its scores.

    Args:
        measured: `kind`, `conditions`, and what that kind of suite measures.
        clean_error: top-1 error in percent on clean images, of suites that have measured none themselves.
        imagenet: the network knows ImageNet's 1,000 classes, so that AlexNet is a baseline.
        baseline: the same suite's block of another run.

    Raises:
        NstError: the baseline was measured under other conditions.
    """
    if baseline is not None:
        require_comparable(name, measured["conditions"], baseline["conditions"])
    published = ALEXNET if imagenet and name in PUBLISHED_SAMPLES and name.startswith("imagenet_") else None
    block = kind_of(measured).scored(name, measured, clean_error, published, baseline)
    return block | ({"baseline_source": published.source} if published else {})


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the conditions in which two results of a suite differ, those that may differ apart."""
    first, other = {**ONCE, **first}, {**ONCE, **other}
    names = sorted(first.keys() | other.keys())
    return [name for name in names if name not in NETWORKS_OWN and first.get(name) != other.get(name)]


def inputs_of(folder: Path) -> dict[str, Any]:
    """The inputs of the evaluation in a folder, such as the `test` images; empty where they are not known."""
    started = read_document(folder / "started.json") or {}
    return dict(started.get("inputs") or {})


def looks_of(inputs: Mapping[str, Any]) -> int:
    """In how many views of a picture an evaluation of these inputs asks its network."""
    if inputs.get("views", "one") == "one":
        return 1
    known = inputs.get("pictures") or {}
    return len(turns(Pictures(flip=bool(known.get("flip")), turn=bool(known.get("turn")))))


def with_views(block: Block, looks: int) -> Block:
    """A suite's block that says in how many views its pictures were looked at; older ones leave it to the evaluation
    around them."""
    return {**block, "conditions": {"views": looks, **block["conditions"]}}


def require_comparable(name: str, conditions: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Raises NstError unless two results of a suite are of the same images under the same conditions."""
    names = differences(conditions, others)
    if names:
        of_networks = "framed" in names  # and no option makes them alike
        raise NstError(
            f"the baseline's {name} was measured under other conditions"
            + ("; the networks crop pictures in different ways" if of_networks else ""),
            got="; ".join([_differ(key, others.get(key), conditions.get(key)) for key in names][:4]),
            next=("" if of_networks else "evaluate the baseline with the same options, or ")
            + "leave out eval.baseline",
        )


def _differ(name: str, there: object, here: object) -> str:
    """What differs in a condition, in few words."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return "; ".join(_differ(f"{name}.{key}", there.get(key), here.get(key))
                         for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key))  # fmt: skip
    before, now = (text if len(text := str(value)) <= 40 else text[:37] + "..." for value in (there, here))
    return f"{name}: {before} there, {now} here"


# ---- what is shown of a result: one number per key, one row per number -------------------------------------------


def summary(robustness: Mapping[str, Block]) -> dict[str, float]:
    """Flat numbers of all blocks, such as `robustness/imagenet_c/mce`; what is not known has no key, and `images`
    only suites of fewer than were published."""
    return {
        f"robustness/{suite}/{name}": value
        for suite, block in robustness.items()
        for name, value in {**dict(_main(suite, block)), **kind_of(block).series(block)}.items()
        if value is not None
    }


def _main(suite: str, block: Block) -> Iterator[tuple[str, float]]:
    """The main numbers of a block by their flat names, in order; then how many samples, where they are fewer than
    were published."""
    kind = kind_of(block)
    for name in kind.headlines:
        if (value := block.get(name)) is not None:
            yield kind.short.get(name, name), value
    if (count := fewer_samples(suite, block)) is not None:
        yield "images", count


def fewer_samples(suite: str, block: Block) -> int | None:
    """Images or clips that each error or flip probability of a benchmark is of; None: as many as were published."""
    published = PUBLISHED_SAMPLES.get(suite)
    return block["conditions"]["images"] if published and block["conditions"]["images"] < published else None


def headlines(robustness: Mapping[str, Block]) -> list[str]:
    """A line per suite for the terminal: its first numbers, and what is missing for a whole benchmark."""
    lines = []
    for suite, block in robustness.items():
        kind = kind_of(block)
        flat = {name.split("/", 2)[2]: value for name, value in summary({suite: block}).items()}
        told = [name for name in flat if "/" not in name and name not in (*kind.in_words, "images")]
        shown = [f"{name} {flat[name]:.2f}" for name in told[:6]]
        if not kind.headlines:
            shown += kind.stated(block)
        if (count := fewer_samples(suite, block)) is not None:
            shown.append(f"of {count:,} of {PUBLISHED_SAMPLES[suite]:,} {kind.samples}")
        if lacks := block.get("missing"):
            shown.append(f"without {some(lacks)}")
        lines.append(f"{suite}: {', '.join(shown)}")
    return lines


def row_numbers(robustness: Mapping[str, Block]) -> dict[str, Any]:
    """What a network's row in reports has, by ROW_COLUMNS; what is not known has no key."""
    found: dict[str, Any] = {}
    for kind in KINDS.values():
        main = next(iter(kind.row.values()), "")
        suite = next((name for name in kind.suites if robustness.get(name, {}).get(main) is not None), None)
        if suite is not None:
            numbers = {column: robustness[suite].get(key) for column, key in kind.row.items()}
            found |= {kind.row_suite: suite, **{name: value for name, value in numbers.items() if value is not None}}
    return found


def table(robustness: Mapping[str, Block]) -> list[dict[str, Any]]:
    """A row per number: suite, condition (corruption, perturbation, attack), level (severity, difficulty, epsilon)."""
    rows: list[tuple[Any, ...]] = []
    for suite, block in robustness.items():
        rows += [(suite, *row) for row in kind_of(block).rows(block)]
        rows += [(suite, "", None, name, value) for name, value in _main(suite, block)]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]
