"""Layers that do not learn (FixRes): what all our networks have of it."""

from __future__ import annotations

from typing import Self

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nst.errors import UsageError


class Freezing(nn.Module):
    """A network whose stem and first blocks can stop learning."""

    frozen_blocks = 0

    def parts(self) -> list[tuple[str, bool, list[nn.Parameter], list[nn.Module]]]:
        """Stem, blocks and head: name, whether a block, parameters and modules, the first of them where it begins."""
        raise NotImplementedError

    def freeze_blocks(self, count: int) -> None:
        """The stem and the first `count` blocks stop learning, BatchNorm included; 0 frees all.

        Raises:
            UsageError: the network has fewer blocks.
        """
        parts = self.parts()
        blocks = sum(block for _, block, *_ in parts)
        if not 0 <= count <= blocks:
            raise UsageError(
                f"this network has {blocks} blocks to freeze",
                got=f"student.frozen_blocks={count}",
                valid=f"0 to {blocks}",
                next=f"student.frozen_blocks={blocks}",
            )
        self.frozen_blocks = count
        for place, (*_, parameters, _) in enumerate(parts):
            for parameter in parameters:
                parameter.requires_grad_(not count or place > count)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Train mode, except that the BatchNorm of frozen layers stays in eval mode."""
        super().train(mode)
        for module in self.modules() if self.frozen_blocks else ():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()
        return self
