"""Two ranks (gloo) with a part of the batch each, beside one process with all of it.

`python -m tests.batch_norm_program` prints JSON behind RESULT: how far they are apart, by case and tensor. Forked
before torch has computed anything, since its threads do not survive that.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nst.models.batch_norm import BatchNorm
from nst.models.efficientnet import Architecture
from nst.models.networks import AnyArchitecture, build
from nst.models.timm_architecture import timm_architecture
from nst.settings.learning import Recipe
from nst.settings.network import Noise
from nst.training.classifier import Classifier
from nst.training.hardware import Hardware
from nst.training.phases import Schedule
from tests.tiny_networks import LEVIT

RANKS = 2
Found = dict[str, Tensor]


# ---- the layer


def layer_case(shares: Sequence[int], side: int, dtype: torch.dtype = torch.float32, mean: float = 1.0) -> list[Tensor]:
    """Images of each rank: (share, 6, side, side)."""
    torch.manual_seed(0)
    images = (torch.randn(sum(shares), 6, side, side) * 2 + mean).to(dtype)
    return [part.contiguous(memory_format=torch.channels_last) for part in images.split(list(shares))]


LAYERS: dict[str, Callable[[], list[Tensor]]] = {
    "equal parts": lambda: layer_case((4, 4), 5),
    "unequal parts": lambda: layer_case((2, 5), 5),
    "one image of one pixel each": lambda: layer_case((1, 1), 1),
    "far from zero": lambda: layer_case((4, 4), 5, mean=1000.0),
    "bfloat16": lambda: layer_case((4, 4), 5, torch.bfloat16),
    "channels first": lambda: [part.contiguous() for part in layer_case((4, 4), 5)],
    "of features": lambda: [part[:, :, 0, 0].contiguous() for part in layer_case((6, 3), 1)],
    "of tokens": lambda: [part[:, :, 0].contiguous() for part in layer_case((4, 4), 7)],
}
OURS = Architecture(0.25, 0.25)
OTHERS = {  # networks of timm's
    "test_resnet": timm_architecture("test_resnet", train_size=32),
    "test_vit": timm_architecture("test_vit", train_size=32),
    "levit": timm_architecture("levit_128s", train_size=32, arguments=LEVIT),
}


def layer_step(x: Tensor, share: int, offset: int, total: int) -> Found:
    norm = BatchNorm(6, momentum=0.3, eps=1e-3, act_layer=nn.SiLU)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 6))
        norm.bias.copy_(torch.linspace(-1, 1, 6))
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    result = norm(x)
    assert result.dtype == x.dtype
    assert result.stride() == x.stride()
    # every image with a weight of its own, or the gradients of a normalised batch would be zero
    weights = torch.linspace(1, 3, total)[offset : offset + share].view(-1, *[1] * (x.ndim - 1))
    (result.float().cos() * weights).sum().backward()
    assert x.grad is not None
    tensors = {"result": result.detach(), "to images": x.grad, **norm.state_dict()}
    return tensors | {f"to {name}": parameter.grad for name, parameter in norm.named_parameters()}


# ---- a training step of the whole network


class Step(nn.Module):
    """A training step as DDP calls it."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        ignored = classifier._ddp_params_and_buffers_to_ignore
        self._ddp_params_and_buffers_to_ignore = [f"classifier.{name}" for name in ignored]

    def forward(self, batch: Any) -> Tensor:
        return self.classifier.training_step(batch, 0)


def classifier(remat: bool, accumulate: int, compile: bool = False, shape: AnyArchitecture = OURS) -> Classifier:
    torch.manual_seed(0)
    student, teacher = (build(shape, 5, dropout=0.0, stochastic_depth=0.0) for _ in range(2))
    student.set_grad_checkpointing(remat)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = Recipe(labeled_batch_size=16, unlabeled_ratio=1)
    schedule = Schedule(0.1, 1.0)
    noise, machine = Noise(dropout=0.0, stochastic_depth=0.0), Hardware(accumulate=accumulate, compile=compile)
    made = Classifier(student, recipe, noise, schedule, machine, teacher=teacher)
    return made.train()


def network_step(
    rank: int | None,
    remat: bool,
    accumulate: int = 1,
    still: bool = False,
    compile: bool = False,
    shape: AnyArchitecture = OURS,
) -> Found:
    """A step over a rank's half of the batch, or over all: loss, averaged gradients, and all that the network holds.

    Args:
        still: BatchNorm in eval mode, so that micro-batches are as good as the whole.
    """
    made = torch.Generator().manual_seed(1)
    batch = {
        name: torch.randint(0, 256, (16, 3, 32, 32), generator=made, dtype=torch.uint8)
        for name in ("labeled", "unlabeled", "clean_images")
    }
    batch["labels"] = torch.randint(0, 5, (16,), generator=made)
    if rank is not None:
        batch = {name: value.chunk(RANKS)[rank] for name, value in batch.items()}
    batch["images"] = torch.cat([batch.pop("labeled"), batch.pop("unlabeled")])
    module = classifier(remat, accumulate, compile, shape)
    for norm in module.network.modules():
        if isinstance(norm, BatchNorm) and still:
            norm.eval()
    assert module.teacher is not None
    before = copy.deepcopy(module.teacher.state_dict())
    step = Step(module) if rank is None else nn.parallel.DistributedDataParallel(Step(module))
    loss = step(batch)
    loss.backward()
    loss = module.sums[0].clone()  # of all micro-batches
    if rank is not None:
        dist.all_reduce(loss)
        loss /= RANKS
    assert all(torch.equal(before[name], value) for name, value in module.teacher.state_dict().items())
    gradients = {f"to {name}": parameter.grad for name, parameter in module.network.named_parameters()}
    return {"loss": loss, **gradients, **copy.deepcopy(module.network.state_dict())}


# ---- compared


def apart(ours: Found, theirs: Found) -> dict[str, float]:
    """Largest difference of each tensor.

    In units of its largest value, if that is above 1; of gradients, in units of the largest of all. (Two orders of the
    same batch in one process make 3e-5 of a tensor's own, in float32.)
    """
    assert ours.keys() == theirs.keys()
    largest = {name: value.float().abs().max().clamp(min=1) for name, value in theirs.items()}
    of_gradients = max(largest[name] for name in largest if name.startswith("to "))
    units = {name: of_gradients if name.startswith("to ") else largest[name] for name in largest}
    return {name: float((ours[name].float() - theirs[name].float()).abs().max() / units[name]) for name in theirs}


def part_of(rank: int, shares: Sequence[int], found: Found) -> Found:
    """Of what one process found, what belongs to a rank's images."""
    return {
        name: value.split(list(shares))[rank] if value.dim() > 1 and len(value) == sum(shares) else value
        for name, value in found.items()
    }


def summed(found: Found) -> Found:
    """Gradients of weight and bias, as DDP would add them."""
    for name in ("to weight", "to bias"):
        dist.all_reduce(found[name])
    return found


def compare(rank: int, place: str) -> list[dict[str, dict[str, float]]]:
    """What each rank is apart from one process with everything."""
    torch.set_num_threads(1)
    layers = {name: make() for name, make in LAYERS.items()}
    # before there is a group: one process with everything
    whole = {name: layer_step(torch.cat(x), sum(map(len, x)), 0, sum(map(len, x))) for name, x in layers.items()}
    networks = {remat: network_step(None, remat) for remat in (False, True)}
    still = network_step(None, False, still=True)
    others = {name: network_step(None, False, shape=shape) for name, shape in OTHERS.items()}
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=RANKS)
    told = {}
    for name, x in layers.items():
        shares = [len(part) for part in x]
        ours = summed(layer_step(x[rank], shares[rank], sum(shares[:rank]), sum(shares)))
        told[name] = apart(ours, part_of(rank, shares, whole[name]))
    for remat, theirs in networks.items():
        told[f"remat={remat}"] = apart(network_step(rank, remat), theirs)
        told[f"micro-batches, remat={remat}"] = apart(network_step(rank, remat, accumulate=4, still=True), still)
    for name, theirs in others.items():
        told[name] = apart(network_step(rank, False, shape=OTHERS[name]), theirs)
        told[f"{name}, remat"] = apart(network_step(rank, True, shape=OTHERS[name]), theirs)
    torch.compile = partial(torch.compile, backend="aot_eager")  # inductor takes minutes
    told["compiled"] = apart(network_step(rank, False, compile=True), network_step(rank, False))
    for name in ("test_resnet", "test_vit"):
        eager = network_step(rank, False, shape=OTHERS[name])
        told[f"{name}, compiled"] = apart(network_step(rank, False, compile=True, shape=OTHERS[name]), eager)
    told["breaks of the graph"] = dict(torch._dynamo.utils.counters["graph_break"])
    told["remat itself"] = apart(networks[True], networks[False])
    every: list[Any] = [None] * RANKS
    dist.all_gather_object(every, told)
    dist.destroy_process_group()
    return every


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        told = compare(int(child == 0), f"{folder}/meeting")
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    print("RESULT " + json.dumps(told))


if __name__ == "__main__":
    main()
