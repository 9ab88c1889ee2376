"""How labeled and unlabeled images lie in the joint batch: in equal groups, labeled first in each.

One group is the plain layout: all labeled images, then all unlabeled ones. With one group for every device of a
sharded program, each device's slice of the batch holds its own share of both sides, so that taking the sides apart
moves nothing between devices; and with many hosts, whose slices are joined, the layout stays this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nst.data.batches import Batch


def joint_order(labeled: int, unlabeled: int, groups: int = 1) -> list[int]:
    """Which sample (labeled ones numbered first) lies at each place of the joint batch.

    Raises:
        ValueError: the groups cannot be equal.
    """
    if labeled % groups or unlabeled % groups:
        raise ValueError(f"{labeled} labeled and {unlabeled} unlabeled images do not make {groups} equal groups")
    ours, theirs = labeled // groups, unlabeled // groups
    return [
        number
        for group in range(groups)
        for number in (
            *range(group * ours, (group + 1) * ours),
            *range(labeled + group * theirs, labeled + (group + 1) * theirs),
        )
    ]


def take_apart(joint: Tensor, labeled: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """The two sides of something in the joint batch's layout: (B + U, ...) -> (B, ...), (U, ...)."""
    if groups == 1:
        return joint[:labeled], joint[labeled:]
    parts = joint.unflatten(0, (groups, -1))
    share = labeled // groups
    return parts[:, :share].flatten(0, 1), parts[:, share:].flatten(0, 1)


def micro_batch(batch: Batch, number: int, parts: int, groups: int = 1) -> Batch:
    """The `number`-th of `parts` equal parts of a joint batch, with its share of both sides, in the same layout."""
    labeled = len(batch["labels"])

    def part(name: str, value: Any) -> Any:
        return part_of(value, labeled if name == "images" else len(value), number, parts, groups)

    micro = {name: value if name == "bad" else part(name, value) for name, value in batch.items()}
    return cast("Batch", micro)


def part_of(joint: Tensor, labeled: int, number: int, parts: int, groups: int = 1) -> Tensor:
    """A micro-batch's rows of something in the joint batch's layout: (B + U, ...) -> ((B + U) / parts, ...).

    Every `parts`-th of a side: the same images for any number of groups, and none moves between devices.
    """
    if groups == 1:
        sides = joint[:labeled], joint[labeled:]
        shares = [side[number::parts] for side in sides if len(side)]
        return shares[0] if len(shares) == 1 else torch.cat(shares)
    slices = joint.unflatten(0, (groups, -1)).transpose(0, 1)
    return part_of(slices, labeled // groups, number, parts).transpose(0, 1).flatten(0, 1)
