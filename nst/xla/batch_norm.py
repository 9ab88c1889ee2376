"""BatchNorm's running variance as PyTorch defines it, also on XLA.

torch_xla adds the *biased* variance of a batch to the running one (as TensorFlow does, and so the released code);
torch on CPU and GPU adds the unbiased one, larger by n / (n - 1) for n values per channel. A network must not depend
on where it was trained, so the difference is added here; n is large except in tests and in the last blocks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def unbias_statistics(network: nn.Module) -> None:
    """Hooks the BatchNorm layers of a network that will be trained on XLA."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_remember)
            module.register_forward_hook(_correct)


def _moves(module: Any) -> bool:
    return module.training and module.track_running_stats


def _remember(module: Any, inputs: tuple[Tensor, ...]) -> None:
    if _moves(module):
        # the layer works on a copy: what it has used must not change before the backward pass
        module.__dict__["variance"] = module.running_var
        module._buffers["running_var"] = module.running_var.clone()


def _correct(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if _moves(module):
        values = inputs[0].numel() // inputs[0].shape[1]
        moved, variance = module.running_var, module.__dict__.pop("variance")
        module._buffers["running_var"] = variance
        variance.copy_(moved + (moved - variance * (1 - module.momentum)) / (values - 1))
