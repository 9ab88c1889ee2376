"""Scores of ImageNet-C and -P from errors and flips: CE, mCE, relative mCE; mFR, mT5D (paper tables 4 and 5).

    CE_c = sum_s E_sc / sum_s E_sc of the baseline        relative CE_c: the same of E_sc - E_clean
    FR_p = FP_p / FP_p of the baseline                     mCE, mFR: 100 * their means, unweighted

Definitions: Hendrycks and Dietterich 2019 and their ImageNet-P/test.py. Every error and probability here is in
percent. A mean is given for the whole benchmark or not at all. What is missing is listed, so a part of it is never
mistaken for an mCE. Plain numbers: a report reads them without loading torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from nst.robustness.baselines import CORRUPTIONS, NUM_SEVERITIES, PERTURBATIONS, Baseline


def missing_cells(errors: Mapping[str, Sequence[float | None]], benchmark: Sequence[str] = CORRUPTIONS) -> list[str]:
    """What an error table lacks of a benchmark: `fog`, or `fog/4` where only a severity is missing."""
    missing = []
    for name in benchmark:
        row = list(errors.get(name, ()))
        row += [None] * (NUM_SEVERITIES - len(row))
        absent = [f"{name}/{severity}" for severity, error in enumerate(row, 1) if error is None]
        missing += [name] if len(absent) == NUM_SEVERITIES else absent
    return missing


def corruption_scores(
    errors: Mapping[str, Sequence[float | None]],
    *,
    clean_error: float | None = None,
    baseline: Baseline | None = None,
) -> dict[str, Any]:
    """All scores of an error table (percent at severity 1 to 5 by corruption; None where not measured).

    Returns `errors`, `clean_error`, `missing`, `mean_error` (unnormalised mean corruption error) and `top1` over
    the benchmark; with a baseline also its name as `baseline`, `ce`, `mce`, `relative_ce` and `relative_mce`.
    What is incomplete or undefined is None. Corruptions outside the benchmark are in `errors` alone.
    """
    missing = missing_cells(errors)
    table = _complete(errors, CORRUPTIONS)
    mean_error = None if missing else fmean(error for row in table.values() for error in row)
    scores: dict[str, Any] = {
        "errors": {name: list(row) for name, row in errors.items()},
        "clean_error": clean_error,
        "missing": missing,
        "mean_error": mean_error,
        "top1": None if mean_error is None else 100.0 - mean_error,
    }
    if baseline is not None:
        base = _complete(baseline.corruption_errors, list(table))
        clean, base_clean = clean_error, baseline.clean_error
        ce = {name: percent(sum(table[name]), sum(base[name])) for name in base}
        relative = {} if clean is None or base_clean is None else {
            name: percent(sum(error - clean for error in table[name]), sum(error - base_clean for error in base[name]))
            for name in base
        }  # fmt: skip
        scores |= {"baseline": baseline.name, "ce": ce, "mce": _mean_over(CORRUPTIONS, ce)}
        scores |= {"relative_ce": relative, "relative_mce": _mean_over(CORRUPTIONS, relative)}
    return scores


def _complete(errors: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> dict[str, list[float]]:
    """Rows of the named corruptions that were measured at every severity."""
    return {
        name: [error for error in errors[name] if error is not None]
        for name in names
        if not missing_cells(errors, [name])
    }


def perturbation_scores(
    results: Mapping[str, Mapping[str, Any]],
    *,
    baseline: Baseline | None = None,
    benchmark: Sequence[str] = PERTURBATIONS,
) -> dict[str, Any]:
    """All scores of `FlipScores.compute` by perturbation; of a result, `flip_probability` alone must be known.

    Returns `flip_probability` and `top5_distance` by perturbation, `missing`, and over the benchmark their means
    `mean_flip_probability`, `mean_top5_distance`, and `top1` (all labeled frames); with a baseline also its name
    as `baseline`, `flip_rate`, `mfr`, `top5_rate` and `mt5d`. What is incomplete or undefined is None.
    """
    flips = {name: float(result["flip_probability"]) for name, result in results.items()}
    distance = {name: float(result["top5_distance"]) for name, result in results.items() if "top5_distance" in result}
    missing = [name for name in benchmark if name not in results]
    counted = [] if missing else [results[name] for name in benchmark]
    frames = sum(result.get("frames", 0) for result in counted)
    scores: dict[str, Any] = {
        "flip_probability": flips,
        "top5_distance": distance,
        "missing": missing,
        "mean_flip_probability": _mean_over(benchmark, flips),
        "mean_top5_distance": _mean_over(benchmark, distance),
        "top1": percent(sum(result.get("right", 0) for result in counted), frames),
    }
    if baseline is not None:
        rate = _rates(flips, baseline.flip_probability, benchmark)
        top5_rate = _rates(distance, baseline.top5_distance, benchmark)
        scores |= {"baseline": baseline.name, "flip_rate": rate, "mfr": _mean_over(benchmark, rate)}
        scores |= {"top5_rate": top5_rate, "mt5d": _mean_over(benchmark, top5_rate)}
    return scores


def _rates(values: Mapping[str, float], baseline: Mapping[str, float], names: Sequence[str]) -> dict[str, float | None]:
    return {name: percent(values[name], baseline[name]) for name in names if name in values and name in baseline}


def _mean_over(names: Sequence[str], values: Mapping[str, float | None]) -> float | None:
    """Mean of the values of all names; None if one is missing or undefined."""
    known = [value for name in names if (value := values.get(name)) is not None]
    return fmean(known) if len(known) == len(names) else None


def known_mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known; None of none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def percent(part: float, whole: float) -> float | None:
    """100 * part / whole; None where there is no whole."""
    return 100.0 * (part / whole) if whole > 0 else None
