"""Host time to record a step for XLA; peer: timm's RMSProp.

    bin/bench host_cost --network efficientnet_b0 --optimizer ours
    bin/bench host_cost --network efficientnet_l2 --optimizer timm   # timm's RMSProp, a call per parameter

What Python needs for each part of a step; nothing is executed. Recording overlaps with the devices' work but caps the
rate of steps. It does not depend on image or batch size, which are small here. One core, the median of the rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from benchmarks import harness
from nst.models.efficientnet import ARCHITECTURES, build, normalize
from nst.training.ema import Ema
from nst.training.losses import labeled_loss
from nst.training.optim import build_optimizer, on_device, parameter_groups, set_learning_rate
from nst.training.tensor_rate import prime
from nst.xla.environment import configure, require_torch_xla

PARTS = ("forward", "backward", "gradient norm", "optimiser", "EMA")


def main(argv: list[str]) -> None:
    parser = harness.parser("host_cost", __doc__)
    parser.add_argument("--network", default="efficientnet_b0", choices=ARCHITECTURES)
    parser.add_argument("--optimizer", default="ours", choices=("ours", "timm"))
    parser.add_argument("--remat", action="store_true")
    options = parser.parse_args(argv)
    require_torch_xla()
    configure("cpu", 1, fast_compile=True)
    times = measure(options.network, options.optimizer == "ours", options.remat, options.rounds)
    print(f"{options.network}, {options.optimizer} optimiser{', remat' if options.remat else ''}: ms per step")
    for part, values in times.items():
        print(f"  {part:<14} {1000 * statistics.median(values):8.1f}   {1000 * min(values):8.1f} least")
    print(f"  {'together':<14} {1000 * sum(statistics.median(values) for values in times.values()):8.1f}")
    harness.finish("host_cost", "s", times, options)


def measure(name: str, ours: bool, remat: bool, repeats: int) -> dict[str, list[float]]:
    import torch_xla

    from nst.xla.remat import rematerialize

    network = build(ARCHITECTURES[name], 1000, stochastic_depth=0.2)
    network.set_grad_checkpointing(remat)
    network.checkpoint = rematerialize
    device = torch_xla.device()
    network = network.to(device)
    ema = Ema(network)
    optimizer = build_optimizer("rmsprop", parameter_groups(network, 1e-5), 0.1, tensor_rate=ours)
    for group in optimizer.param_groups:
        group["lr"] = on_device(0.1, device)
    prime(optimizer)
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8).to(device)
    labels = torch.zeros(2, dtype=torch.int64).to(device)
    torch_xla.sync(wait=True)
    state = [*network.parameters(), *network.buffers(), *ema.parameters(), *ema.buffers()]
    state += [value for entry in optimizer.state.values() for name, value in entry.items() if name != "step"]
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    with torch.no_grad():
        before = [torch.empty_like(tensor).copy_(tensor) for tensor in state]  # the same memory on the device
    for step in range(repeats + 1):
        record(times if step else {part: [] for part in PARTS}, network, ema, optimizer, images, labels)
        # as after a step that was executed: the next begins at the same inputs, whose shapes torch_xla has cached
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
    return times


def record(
    times: dict[str, list[float]],
    network: Any,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> None:
    """One step as nst.training.classifier takes it."""

    def timed(part: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        times[part].append(time.perf_counter() - start)
        return result

    optimizer.zero_grad()
    logits = timed("forward", lambda: labeled_loss(network(normalize(images)), labels))
    timed("backward", logits.backward)
    gradients = [parameter.grad for parameter in network.parameters()]
    timed("gradient norm", lambda: torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    set_learning_rate(optimizer, 0.1)
    timed("optimiser", optimizer.step)
    timed("EMA", lambda: ema.update(network, on_device(5.0, images.device)))
