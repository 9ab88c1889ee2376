"""Rematerialisation on XLA: a block's inner activations are computed again in the backward pass.

torch's own checkpointing does not know XLA, and the compiler would merge the second run with the first, which keeps
what was to be dropped: torch_xla's version puts a barrier between the two.
"""

from __future__ import annotations

import torch
import torch_xla.utils.checkpoint as xla_checkpoint
from torch import Tensor, nn

from nst.models.batch_norm import still_statistics
from nst.xla.replacing import same_operations


def rematerialize(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, keeping `x` only; BatchNorm's statistics move once."""

    # the second run comes in the backward pass, outside of what surrounds the first; only autocast is restored there
    operations = same_operations()

    def run(inputs: Tensor) -> Tensor:
        # the first run is without gradients, the second with: there the statistics stay
        if not torch.is_grad_enabled():
            return block(inputs)
        with still_statistics(block), operations:
            return block(inputs)

    if not x.requires_grad and any(parameter.requires_grad for parameter in block.parameters()):
        # behind frozen layers: without an input that wants a gradient this kind of checkpointing gives none at all
        x = x.detach().requires_grad_()
    return xla_checkpoint.checkpoint(run, x) if x.requires_grad else block(x)
