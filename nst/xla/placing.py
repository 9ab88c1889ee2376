"""Moving tensors between host and devices so that a compiled step always sees the same kind of inputs.

Everything travels in batches: a transfer per tensor costs a round trip each. Parameters, buffers and optimiser state
are marked as replicated before the first step, or the second would be another graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.distributed.spmd as xs
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_unflatten

Tree = TypeVar("Tree")


def is_remote(value: Any) -> bool:
    """Whether it is a tensor on an XLA device."""
    return isinstance(value, Tensor) and value.device.type == "xla"


def to_host(tree: Tree) -> Tree:
    """The same tree with all its device tensors on the CPU, fetched in one transfer."""
    leaves, spec = tree_flatten(tree)
    places = [number for number, leaf in enumerate(leaves) if is_remote(leaf)]
    if places:
        torch_xla.sync()
        fetched = torch_xla._XLAC._xla_get_cpu_tensors([leaves[number].detach() for number in places])
        for number, tensor in zip(places, fetched, strict=True):
            leaves[number] = tensor
    return tree_unflatten(leaves, spec)


def module_to_host(module: nn.Module) -> None:
    """Moves a module's parameters and buffers to the CPU, in one transfer."""
    for parameter in module.parameters():
        parameter.grad = None
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if is_remote(tensor)]
    fetched = dict(zip(map(id, tensors), to_host(tensors), strict=True))
    # the module looks its tensors up by itself: shared ones stay shared
    module._apply(lambda tensor: fetched.get(id(tensor), tensor))


def settle(module: nn.Module, optimizers: Iterable[Optimizer], mesh: xs.Mesh) -> None:
    """Gives state the form that it has after a step: no shared scalars, all replicated, nothing pending."""
    for buffer in module.buffers():
        if buffer.dim() == 0 and is_remote(buffer):
            # scalars of equal value share one handle after a move: one input of the graph, and several after a step
            buffer.data = buffer.cpu().reshape(1).to(buffer.device)[0].clone()
    torch_xla.sync(wait=True)
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    for tensor in (*module.parameters(), *module.buffers(), *(value for state in states for value in state.values())):
        if is_remote(tensor):
            xs.mark_sharding(tensor.data, mesh, (None,) * tensor.dim())
    torch_xla.sync(wait=True)


def send_rows(tensor: Tensor, device: torch.device, mesh: xs.Mesh, *, slices: bool) -> Tensor:
    """A batch to the devices, its rows divided among them.

    Args:
        slices: `tensor` is this host's slice of the batch, not the whole of it.
    """
    spec = xs.ShardingSpec(mesh, ("data", *[None] * (tensor.dim() - 1)), minibatch=slices)
    return _send(tensor, device, spec)


def send_whole(tensor: Tensor, device: torch.device, mesh: xs.Mesh) -> Tensor:
    """A tensor to the devices, the same on each."""
    spec = xs.ShardingSpec(mesh, (None,) * tensor.dim())
    return _send(tensor, device, spec)


def _send(tensor: Tensor, device: torch.device, spec: xs.ShardingSpec) -> Tensor:
    sent: Any = xm.send_cpu_data_to_device([tensor.contiguous()], device, spec)
    return sent[0]
