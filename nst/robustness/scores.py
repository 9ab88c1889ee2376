"""Running errors on ImageNet-C and flips on ImageNet-P, from a network's answers (paper tables 4 and 5).

What becomes of them is in `nst.robustness.benchmark_scores`. Sums are whole numbers, so results do not depend on
batches or ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nst.errors import NstError
from nst.metrics import RunningSums, label_rank
from nst.robustness.baselines import NUM_SEVERITIES
from nst.robustness.benchmark_scores import percent

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
            name: [percent(n - right, n) for n, right in zip(*rows, strict=True)]
            for name, *rows in zip(self.corruptions, count, top1 if top == 1 else top5, strict=True)
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
