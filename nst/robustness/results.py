"""From what suites have measured to scores: means, what they are divided by, and the numbers of a result by name.

A suite's own result.json holds measurements (errors, flips); what follows from them is worked out here each time, so
that a clean error or a baseline that comes later costs no new evaluation.

The one decision worth knowing: only the benchmarks' own files are divided by AlexNet. Anything else is divided by
another run's results under the same conditions, or by nothing, and the key says which (`mce`, `error_to_baseline`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from nst.errors import NstError
from nst.robustness.baselines import (
    ALEXNET,
    CIFAR_PERTURBATIONS,
    CORRUPTIONS,
    NUM_SEVERITIES,
    PERTURBATIONS,
    PUBLISHED_SAMPLES,
    Baseline,
)
from nst.robustness.benchmark_scores import corruption_scores, perturbation_scores

Block = dict[str, Any]  # what a result says of a suite
NETWORKS_OWN = ("shown_at", "shown_as")  # conditions in which networks that are compared may differ


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
    published = ALEXNET if imagenet and name.startswith("imagenet_") else None
    if measured["kind"] == "corruptions":
        block = _corruptions(measured, clean_error, published, baseline)
    elif measured["kind"] == "perturbations":
        block = _perturbations(name, measured, published, baseline)
    else:
        return measured
    return block | ({"baseline_source": published.source} if published else {})


def require_comparable(name: str, conditions: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Raises NstError unless two results of a suite are of the same images under the same conditions."""
    differ = [
        f"{key}: {_short(others.get(key))} there, {_short(conditions.get(key))} here"
        for key in sorted(conditions.keys() | others.keys())
        if key not in NETWORKS_OWN and conditions.get(key) != others.get(key)
    ]
    if differ:
        raise NstError(
            f"the baseline's {name} was measured under other conditions",
            got="; ".join(differ[:4]),
            next="evaluate the baseline with the same options, or leave out eval.baseline",
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _corruptions(
    measured: Block, clean_error: float | None, published: Baseline | None, baseline: Block | None
) -> Block:
    errors, top5_errors = measured["errors"], measured["top5_errors"]
    clean = measured["clean_error"] if measured["clean_error"] is not None else clean_error
    block = {**measured, **corruption_scores(errors, clean_error=clean, baseline=published)}
    if block["missing"]:
        block["subset_error"] = _mean(error for row in errors.values() for error in row)
    else:
        block["top5"] = 100.0 - fmean(error for name in CORRUPTIONS for error in top5_errors[name])
    if baseline is not None:
        found = corruption_scores(errors, clean_error=clean, baseline=Baseline.of_run("run", "", baseline))
        block["to_baseline"] = found["ce"]
        block["error_to_baseline"], block["degradation_to_baseline"] = found["mce"], found["relative_mce"]
    return block


def _perturbations(name: str, measured: Block, published: Baseline | None, baseline: Block | None) -> Block:
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
        block["subset_flip_rate"] = _mean(result["flip_probability"] for result in first.values())
    if baseline is not None:
        run = Baseline.of_run("run", "", None, baseline)
        found = perturbation_scores(first, baseline=run, benchmark=benchmark)
        block["to_baseline"] = found["flip_rate"]
        block["flips_to_baseline"], block["distance_to_baseline"] = found["mfr"], found["mt5d"]
    for level, results in levels.items():
        block[f"difficulty_{level}"] = perturbation_scores(results, benchmark=benchmark)
    return block


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


# ---- what is shown of a result: one number per key, one row per number -------------------------------------------

HEADLINES = {
    "answers": ("top1", "top5", "ece", "rms_calibration_error", "aurra", "top1_all_classes"),
    "real": ("top1",),
    "corruptions": (
        *("mce", "relative_mce", "mean_error", "subset_error", "top1", "top5", "clean_error"),
        *("error_to_baseline", "degradation_to_baseline"),
    ),
    "perturbations": (
        *("mfr", "mt5d", "mean_flip_probability", "subset_flip_rate", "mean_top5_distance", "top1"),
        *("flips_to_baseline", "distance_to_baseline"),
    ),
    "attack": (),
}
SHORT = {"mean_flip_probability": "flip_rate", "mean_top5_distance": "top5_distance"}


def summary(robustness: Mapping[str, Block]) -> dict[str, float]:
    """Flat numbers of all blocks, such as `robustness/imagenet_c/mce`; what is not known has no key, and `images`
    only suites of fewer than were published."""
    found: dict[str, float | None] = {}
    for suite, block in robustness.items():
        values = {SHORT.get(name, name): block.get(name) for name in HEADLINES[block["kind"]]}
        values |= _series(block) | {"images": fewer_samples(suite, block)}
        found |= {f"robustness/{suite}/{name}": value for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def fewer_samples(suite: str, block: Block) -> int | None:
    """Images or clips that each error or flip probability of a benchmark is of; None: as many as were published."""
    published = PUBLISHED_SAMPLES.get(suite)
    return block["conditions"]["images"] if published and block["conditions"]["images"] < published else None


def _series(block: Block) -> dict[str, float | None]:
    """A number per corruption, perturbation or epsilon."""
    kind = block["kind"]
    if kind == "corruptions":
        means = {f"error/{name}": _mean(row) for name, row in block["errors"].items()}
        return means | {f"ce/{name}": value for name, value in block.get("ce", {}).items()}
    if kind == "perturbations":
        harder = {
            f"flip_rate_{level}": found["mean_flip_probability"]
            for level, found in block.items()
            if level.startswith("difficulty_")
        }
        return {f"flip/{name}": value for name, value in block["flip_probability"].items()} | harder
    if kind == "attack":
        found = {f"top1_at_{e:g}": value for e, value in zip(block["epsilons"], block["top1"], strict=True)}
        if block["attack"] != "fgsm":  # without these its numbers say little
            facts = (block["steps"], max(block["step_sizes"]), float(block["random_start"]))
            found |= dict(zip(ATTACK_FACTS, facts, strict=True))
        return found
    return {}


def headlines(robustness: Mapping[str, Block]) -> list[str]:
    """A line per suite for the terminal: its first numbers, and what is missing for a whole benchmark."""
    lines = []
    for suite, block in robustness.items():
        flat = {name.split("/", 2)[2]: value for name, value in summary({suite: block}).items()}
        told = [name for name in flat if "/" not in name and name not in (*ATTACK_FACTS, "images")]
        shown = [f"{name} {flat[name]:.2f}" for name in told[:6]]
        if block["kind"] == "attack":
            shown.append(attack_steps(block))
        if (count := fewer_samples(suite, block)) is not None:
            samples = "clips" if block["kind"] == "perturbations" else "images"
            shown.append(f"of {count:,} of {PUBLISHED_SAMPLES[suite]:,} {samples}")
        if lacks := block.get("missing"):
            shown.append(f"without {', '.join(lacks[:4])}{', ...' if len(lacks) > 4 else ''}")
        lines.append(f"{suite}: {', '.join(shown)}")
    return lines


ATTACK_FACTS = ("steps", "largest_step", "random_start")


def attack_steps(block: Block) -> str:
    """An attack's search: `10 steps of 1 to 1.6, from the image itself`, in 1/255."""
    sizes = sorted({size for size, epsilon in zip(block["step_sizes"], block["epsilons"], strict=True) if epsilon})
    if block["attack"] == "fgsm":
        return "one step of size ε along the sign of the gradient, in pixels of 0 to 1"
    if not sizes:
        return "no steps, as ε is 0"
    span = f"{sizes[0]:g}/255" if len(sizes) == 1 else f"{sizes[0]:g} to {sizes[-1]:g}/255, growing with ε"
    start = "a random point of the ball" if block["random_start"] else "the image itself"
    return f"{block['steps']} steps of {span}, from {start}"


COLUMNS = ("suite", "condition", "level", "metric", "value")


def table(robustness: Mapping[str, Block]) -> list[dict[str, Any]]:
    """A row per number: suite, condition (corruption, perturbation, attack), level (severity, difficulty, epsilon)."""
    rows: list[tuple[Any, ...]] = []
    for suite, block in robustness.items():
        kind = block["kind"]
        if kind == "corruptions":
            rows += [
                (suite, name, severity, "error", error)
                for name, row in block["errors"].items()
                for severity, error in zip(range(1, NUM_SEVERITIES + 1), row, strict=True)
                if error is not None
            ]
            rows += [
                (suite, name, None, metric, value)
                for metric in ("ce", "relative_ce", "to_baseline")
                for name, value in block.get(metric, {}).items()
                if value is not None
            ]
        elif kind == "perturbations":
            levels = {1: block} | {int(k[-1]): found for k, found in block.items() if k.startswith("difficulty_")}
            rows += [
                (suite, name, level, metric, value)
                for level, found in levels.items()
                for metric in ("flip_probability", "top5_distance")
                for name, value in found[metric].items()
            ]
            rows += [
                (suite, name, 1, metric, value)
                for metric in ("flip_rate", "to_baseline")
                for name, value in block.get(metric, {}).items()
                if value is not None
            ]
        elif kind == "attack":
            pairs = zip(block["epsilons"], block["top1"], strict=True)
            how = f"{block['attack']}: {attack_steps(block)}"
            rows += [(suite, how, epsilon, "top1", value) for epsilon, value in pairs]
        names = (name for name in HEADLINES[kind] if block.get(name) is not None)
        rows += [(suite, "", None, SHORT.get(name, name), block[name]) for name in names]
        if (count := fewer_samples(suite, block)) is not None:
            rows.append((suite, "", None, "images", count))
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]
