"""On which samples of the joint batch dropout and stochastic depth act."""

from __future__ import annotations

import torch

from nst.settings.network import Noise


def masks(
    noise: Noise, labeled: int, unlabeled: int, device: torch.device, *, groups: int = 1
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Switches of the joint batch's samples, in its layout, for dropout and stochastic depth: (B + U,), 1 = noised.

    None stands for "every sample", which spares the multiplication.
    """
    sides = noise.labeled, noise.unlabeled
    counts = labeled // groups, unlabeled // groups
    dropout = _switch([side.dropout for side in sides], counts, device, groups)
    return dropout, _switch([side.stochastic_depth for side in sides], counts, device, groups)


def _switch(acts: list[bool], counts: tuple[int, int], device: torch.device, groups: int) -> torch.Tensor | None:
    if all(on for on, count in zip(acts, counts, strict=True) if count):
        return None
    share = [float(on) for on, count in zip(acts, counts, strict=True) for _ in range(count)]
    return torch.tensor(share * groups).to(device, non_blocking=True)
