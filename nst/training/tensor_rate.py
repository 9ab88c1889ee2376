"""The optimisers for steps that are one compiled graph (XLA): the learning rate is a tensor.

torch's AdamW and SGD read such a rate back to the host, once per parameter and step. These do not, and cost the host
little: calls over whole lists, none of them in place but the last. On XLA an in-place call runs torch's shape checks
in Python for every tensor (100 us each, and there are thousands), a functional one is recorded in 3 us. State and
options are those of torch's and timm's optimisers, so checkpoints move freely between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim.rmsprop_tf import RMSpropTF
from torch import Tensor
from torch.optim import Optimizer

Tensors = list[Tensor] | tuple[Tensor, ...]


class TensorRate(Optimizer):
    """An optimiser that moves all parameters of a group at once."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self.move(group, parameters, [parameter.grad for parameter in parameters])
        return loss

    def move(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """An update of these parameters, which all have gradients."""
        raise NotImplementedError


class TensorRateRMSprop(TensorRate, RMSpropTF):
    """TensorFlow's RMSProp as timm computes it: epsilon in the root, mean square from 1, rate in the momentum."""

    def move(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        states = _count(self, parameters)
        squares = [state["square_avg"] for state in states]
        slopes = _decayed(gradients, parameters, group["weight_decay"])
        moved = torch._foreach_lerp(squares, torch._foreach_mul(slopes, slopes), 1 - group["alpha"])
        roots = torch._foreach_sqrt(torch._foreach_add(moved, group["eps"]))
        updates: Tensors = torch._foreach_mul(torch._foreach_div(slopes, roots), group["lr"])
        torch._foreach_copy_(squares, moved)
        if group["momentum"]:
            updates = _accumulated(states, updates, group["momentum"])
        torch._foreach_copy_(parameters, torch._foreach_sub(parameters, updates))


class TensorRateAdamW(TensorRate, torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2)."""

    def move(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        states = _count(self, parameters)
        (beta1, beta2), rate = group["betas"], group["lr"]
        first, second = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        # corrections of the averages' start, computed here and sent: as Python numbers they would be in the graph
        steps = int(states[0]["step"])
        corrections = torch.tensor([1 - beta1**steps, (1 - beta2**steps) ** 0.5]).to(rate.device)

        means = torch._foreach_lerp(first, gradients, 1 - beta1)
        squares = torch._foreach_lerp(second, torch._foreach_mul(gradients, gradients), 1 - beta2)
        roots = torch._foreach_div(torch._foreach_sqrt(squares), corrections[1])
        updates = torch._foreach_div(means, torch._foreach_add(roots, group["eps"]))
        updates = torch._foreach_mul(updates, rate / corrections[0])
        kept = torch._foreach_mul(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_copy_(first, means)
        torch._foreach_copy_(second, squares)
        torch._foreach_copy_(parameters, torch._foreach_sub(kept, updates))


class TensorRateSGD(TensorRate, torch.optim.SGD):
    """SGD with momentum, or Nesterov's."""

    def move(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        updates = slopes = _decayed(gradients, parameters, group["weight_decay"])
        if group["momentum"]:
            states = [self.state[parameter] for parameter in parameters]
            updates = _accumulated(states, slopes, group["momentum"])
            if group["nesterov"]:
                updates = torch._foreach_add(slopes, updates, alpha=group["momentum"])
        updates = torch._foreach_mul(updates, group["lr"])
        torch._foreach_copy_(parameters, torch._foreach_sub(parameters, updates))


def _count(optimizer: Optimizer, parameters: Tensors) -> list[dict[str, Any]]:
    """The parameters' states, with their steps (which stay on the host) counted up."""
    states = [optimizer.state[parameter] for parameter in parameters]
    for state in states:
        state["step"] += 1
    return states


def _decayed(gradients: Tensors, parameters: Tensors, decay: float) -> Tensors:
    """Gradients of the loss with its L2 penalty."""
    return torch._foreach_add(gradients, parameters, alpha=decay) if decay else gradients


def _accumulated(states: Sequence[dict[str, Any]], updates: Tensors, momentum: float) -> Tensors:
    """The momentum buffers after these updates, which they keep."""
    buffers = [state["momentum_buffer"] for state in states]
    moved = torch._foreach_add(torch._foreach_mul(buffers, momentum), updates)
    torch._foreach_copy_(buffers, moved)
    return moved


def prime(optimizer: Optimizer) -> None:
    """Creates the state that the first step would create, as it would start: every step is then the same graph.

    Values are made on the host and moved, so that nothing is computed on the device.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    name: torch.full(parameter.shape, value).to(parameter.device)
                    for name, value in _first_state(optimizer, group).items()
                }
                if not isinstance(optimizer, torch.optim.SGD):
                    optimizer.state[parameter]["step"] = torch.tensor(0.0)  # counted on the host


def _first_state(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, float]:
    if isinstance(optimizer, torch.optim.AdamW):
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}
    momentum = {"momentum_buffer": 0.0} if group["momentum"] else {}
    if isinstance(optimizer, torch.optim.SGD):
        return momentum
    return {"square_avg": 1.0, **momentum}  # TensorFlow's mean square starts at 1
