"""Scores of ImageNet-C and -P: CE, mCE, relative mCE; flip rate, top-5 distance, mFR (paper tables 4 and 5).

    CE_c = sum_s E_sc / sum_s E_sc of the baseline        relative CE_c: the same of E_sc - E_clean
    FR_p = FP_p / FP_p of the baseline                     mCE, mFR: 100 * their means, unweighted

Definitions: Hendrycks and Dietterich 2019 and their ImageNet-P/test.py. Every error and probability here is in
percent. The one decision worth knowing: a mean is given for the whole benchmark or not at all. What is missing
is listed, so a part of it is never mistaken for an mCE.

Sums are whole numbers, so results do not depend on batches or ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from nst.errors import NstError, require_choice
from nst.metrics import RunningSums, label_rank
from nst.robustness.baselines import CORRUPTIONS, NUM_SEVERITIES, PERTURBATIONS, Baseline

TOP = 5

# ---- corruptions: ImageNet-C -----------------------------------------------------------------------------


class CorruptionErrors(RunningSums):
    """Running counts per corruption and severity.

    Args:
        corruptions: names, in any order.
    """

    def __init__(self, corruptions: Sequence[str]) -> None:
        self.corruptions = tuple(corruptions)
        cells = len(self.corruptions) * NUM_SEVERITIES
        super().__init__(counts=torch.zeros((3, cells), dtype=torch.int64))  # images, top-1 right, top-5 right

    def cell(self, corruption: str, severity: int) -> int:
        """Number of a corruption at a severity of 1 to 5, as `update` takes it."""
        require_choice("corruption", corruption, self.corruptions)
        require_choice("severity", str(severity), map(str, range(1, NUM_SEVERITIES + 1)))
        return self.corruptions.index(corruption) * NUM_SEVERITIES + severity - 1

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, cells: Tensor | int, valid: Tensor | None = None) -> None:
        """Adds a batch: logits (B, C), labels (B,), cells (B,) or one for all, valid (B,) bool or None."""
        valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
        rank = label_rank(logits, torch.where(valid, labels, 0))
        cells = torch.where(valid, torch.as_tensor(cells, device=labels.device), 0)  # padding may carry any cell
        counted = torch.stack([valid, valid & (rank < 1), valid & (rank < TOP)])
        self._sums["counts"].index_add_(1, cells, counted.long())

    def errors(self, top: int = 1) -> dict[str, list[float | None]]:
        """Top-1 or top-5 error in percent at severity 1 to 5 by corruption; None of no image. Synchronises."""
        count, top1, top5 = self._sums["counts"].view(3, -1, NUM_SEVERITIES).tolist()
        return {
            name: [_percent(n - right, n) for n, right in zip(*rows, strict=True)]
            for name, *rows in zip(self.corruptions, count, top1 if top == 1 else top5, strict=True)
        }


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
    benchmark: Sequence[str] = CORRUPTIONS,
) -> dict[str, Any]:
    """All scores of an error table (percent at severity 1 to 5 by corruption; None where not measured).

    Returns `errors`, `clean_error`, `missing`, `mean_error` (unnormalised mean corruption error) and `top1` over
    the benchmark; with a baseline also its name as `baseline`, `ce`, `mce`, `relative_ce` and `relative_mce`.
    What is incomplete or undefined is None. Corruptions outside the benchmark are in `errors` alone.
    """
    missing = missing_cells(errors, benchmark)
    table = _complete(errors, benchmark)
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
        ce = {name: corruption_error(table[name], base[name]) for name in base}
        relative = {} if clean is None or base_clean is None else {
            name: relative_corruption_error(table[name], clean, base[name], base_clean) for name in base
        }  # fmt: skip
        scores |= {"baseline": baseline.name, "ce": ce, "mce": _mean_over(benchmark, ce)}
        scores |= {"relative_ce": relative, "relative_mce": _mean_over(benchmark, relative)}
    return scores


def corruption_error(errors: Sequence[float], baseline: Sequence[float]) -> float | None:
    """CE in percent of one corruption's errors at severity 1 to 5; None where the baseline makes no error."""
    return _percent(sum(errors), sum(baseline))


def relative_corruption_error(
    errors: Sequence[float], clean_error: float, baseline: Sequence[float], baseline_clean_error: float
) -> float | None:
    """Relative CE in percent: of what errors exceed the clean error by; None where the baseline's do not."""
    return corruption_error(
        [error - clean_error for error in errors], [error - baseline_clean_error for error in baseline]
    )


def _complete(errors: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> dict[str, list[float]]:
    """Rows of the named corruptions that were measured at every severity."""
    return {
        name: [error for error in errors[name] if error is not None]
        for name in names
        if not missing_cells(errors, [name])
    }


# ---- perturbations: ImageNet-P ---------------------------------------------------------------------------


def top_classes(logits: Tensor) -> Tensor:
    """The five largest classes in order: logits (B, C) -> (B, min(5, C)) int64; all -1 where a logit is NaN.

    Float32 logits only: those of half precision tie, which flips by itself. A tie goes to the lower class.
    """
    order = logits.float().argsort(dim=1, descending=True, stable=True)[:, :TOP]
    return torch.where(logits.isnan().any(dim=1, keepdim=True), -1, order)


def clip_distances(top5: Tensor, *, noise: bool, difficulty: int = 1) -> tuple[Tensor, Tensor]:
    """Flips and top-5 distance of each pair of frames of N clips: (N, T, K) -> (N, P) bool, (N, P) int64.

    Pairs: every later frame with frame 0 (noise, whose difficulty lies in the frames), or i with i + difficulty.
    Distance: sum over i = 1..5 of |i - min(sigma(i), 6)|, sigma(i) the rank in the later frame of the class that
    has rank i in the earlier one; 0 to 15. What lies outside the later top five has rank 6 or more, so the five
    suffice. A frame of NaN (-1) differs from every other.
    """
    earlier = top5[:, :1] if noise else top5[:, :-difficulty]
    later = top5[:, 1:] if noise else top5[:, difficulty:]
    flips = (earlier[..., 0] != later[..., 0]) | (later[..., 0] < 0)
    places = torch.arange(1, top5.shape[2] + 1, device=top5.device)
    same = (earlier.unsqueeze(3) == later.unsqueeze(2)) & (later.unsqueeze(2) >= 0)
    ranks = torch.where(same, places, TOP + 1).amin(dim=3)
    return flips, (places - ranks).abs().sum(dim=2)


class FlipScores(RunningSums):
    """Running counts of one perturbation at one difficulty; whole clips in, only their top five kept.

    Args:
        perturbation: with `noise` in its name, frames are compared with frame 0.
        difficulty: 1 to 3. Of noise it is the folder the clips were read from; else the distance of the frames.
    """

    COUNTS = ("clips", "pairs", "flips", "distance", "frames", "right")

    def __init__(self, perturbation: str, difficulty: int = 1) -> None:
        super().__init__(counts=torch.zeros(len(self.COUNTS), dtype=torch.int64))
        self.noise, self.difficulty = "noise" in perturbation, difficulty

    @torch.no_grad()
    def update(self, top5: Tensor, labels: Tensor, valid: Tensor | None = None) -> None:
        """Adds N clips of T frames: `top_classes` (N, T, K), labels (N,) or -1 if unknown, valid (N,) or None."""
        valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
        flips, distance = clip_distances(top5, noise=self.noise, difficulty=self.difficulty)
        labeled = valid & (labels >= 0)
        right = (top5[..., 0] == labels.unsqueeze(1)).sum(dim=1)
        clips, labeled_clips = valid.long().sum(), labeled.long().sum()
        self._sums["counts"] += torch.stack(
            [
                clips,
                clips * flips.shape[1],
                torch.where(valid, flips.sum(dim=1), 0).sum(),
                torch.where(valid, distance.sum(dim=1), 0).sum(),
                labeled_clips * top5.shape[1],
                torch.where(labeled, right, 0).sum(),
            ]
        )

    def compute(self) -> dict[str, Any]:
        """`flip_probability` in percent, `top5_distance`, `clips`, labeled `frames` and how many are `right`.

        Raises:
            NstError: no clip was counted.
        """
        sums = dict(zip(self.COUNTS, self._sums["counts"].tolist(), strict=True))
        if not sums["pairs"]:
            raise NstError("no clip was evaluated", got="0 clips", next="check the folder of the perturbation")
        return {
            "flip_probability": 100.0 * sums["flips"] / sums["pairs"],
            "top5_distance": sums["distance"] / sums["pairs"],
            **{name: sums[name] for name in ("clips", "frames", "right")},
        }


def perturbation_scores(
    results: Mapping[str, Mapping[str, Any]],
    *,
    baseline: Baseline | None = None,
    benchmark: Sequence[str] = PERTURBATIONS,
) -> dict[str, Any]:
    """All scores of `FlipScores.compute` by perturbation.

    Returns `flip_probability` and `top5_distance` by perturbation, `missing`, and over the benchmark their means
    `mean_flip_probability`, `mean_top5_distance`, and `top1` (all labeled frames); with a baseline also its name
    as `baseline`, `flip_rate`, `mfr`, `top5_rate` and `mt5d`. What is incomplete or undefined is None.
    """
    flips = {name: float(result["flip_probability"]) for name, result in results.items()}
    distance = {name: float(result["top5_distance"]) for name, result in results.items()}
    missing = [name for name in benchmark if name not in results]
    counted = [] if missing else [results[name] for name in benchmark]
    frames = sum(result["frames"] for result in counted)
    scores: dict[str, Any] = {
        "flip_probability": flips,
        "top5_distance": distance,
        "missing": missing,
        "mean_flip_probability": _mean_over(benchmark, flips),
        "mean_top5_distance": _mean_over(benchmark, distance),
        "top1": _percent(sum(result["right"] for result in counted), frames),
    }
    if baseline is not None:
        rate = _rates(flips, baseline.flip_probability, benchmark)
        top5_rate = _rates(distance, baseline.top5_distance, benchmark)
        scores |= {"baseline": baseline.name, "flip_rate": rate, "mfr": _mean_over(benchmark, rate)}
        scores |= {"top5_rate": top5_rate, "mt5d": _mean_over(benchmark, top5_rate)}
    return scores


def _rates(values: Mapping[str, float], baseline: Mapping[str, float], names: Sequence[str]) -> dict[str, float | None]:
    return {name: _percent(values[name], baseline[name]) for name in names if name in values and name in baseline}


def _mean_over(names: Sequence[str], values: Mapping[str, float | None]) -> float | None:
    """Mean of the values of all names; None if one is missing or undefined."""
    known = [value for name in names if (value := values.get(name)) is not None]
    return fmean(known) if len(known) == len(names) else None


def _percent(part: float, whole: float) -> float | None:
    return 100.0 * (part / whole) if whole > 0 else None
