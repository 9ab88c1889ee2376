"""FGSM and PGD: untargeted L-infinity attacks on the true label (paper section 3.4, figure 3).

    FGSM   x + epsilon * sign(gradient)
    PGD    repeatedly x + step * sign(gradient), brought back into the epsilon ball and into 0..255

Epsilon and step are grey levels, 1/255 of the pixel range, alike for every channel: images are attacked before
they are normalised, at the network's own resolution, and are not rounded to whole levels afterwards. [P] tells
neither PGD's step nor whether it starts at random; our default [O] is a step of max(epsilon / steps, 1) and no
random start, and every result states both.

The network is attacked as it is evaluated (eval mode, float32), and comes back
as it was: no gradient reaches its parameters, no BatchNorm statistic moves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nst.data.stream import generator
from nst.errors import NstError
from nst.metrics import RunningSums, label_rank
from nst.models.efficientnet import normalize
from nst.models.in_parts import in_parts
from nst.models.precision import full_precision

LEVELS = 255.0


@dataclass(frozen=True)
class Attack:
    """How an attack searches; a single step from the image itself, by epsilon, is FGSM.

    Args:
        steps: gradients taken.
        step_size: in 1/255; None is max(epsilon / steps, 1) [O]. Madry et al. 2018 take 2.5 * epsilon / steps.
        random_start: begin at a uniformly drawn point of the ball.
    """

    steps: int = 1
    step_size: float | None = None
    random_start: bool = False

    @property
    def name(self) -> str:
        return "fgsm" if self.steps == 1 and not self.random_start and self.step_size is None else "pgd"

    def step(self, epsilon: float) -> float:
        """Size of one step in 1/255; FGSM's is epsilon itself."""
        if self.step_size is not None:
            return self.step_size
        return epsilon if self.name == "fgsm" else max(epsilon / self.steps, 1.0)


def search(
    network: nn.Module, clean: Tensor, labels: Tensor, epsilon: float, method: Attack, start: Tensor | None
) -> Tensor:
    """Adversarial images: (B, 3, H, W) float32 in 0..1 and labels (B,) -> the same shape, within epsilon/255.

    Args:
        network: normalised images to logits; inside `attackable`.
        epsilon: in 1/255.
        start: `random_start` alone: where in the ball to begin, (B, 3, H, W) of -1 to 1 (see `uniform_start`).
    """
    if epsilon == 0:
        return clean
    radius, step = epsilon / LEVELS, method.step(epsilon) / LEVELS
    low, high = (clean - radius).clamp(min=0.0), (clean + radius).clamp(max=1.0)
    adversarial = clean if start is None else (clean + radius * start).clamp(low, high)
    for _ in range(method.steps):
        direction = input_gradient(network, adversarial, labels).sign()
        adversarial = (adversarial + step * direction).clamp(low, high)
    return adversarial


def input_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's own cross-entropy with respect to it: (B, 3, H, W) in 0..1; inside `attackable`."""
    images = images.detach().requires_grad_()
    logits = network(normalize(LEVELS * images))
    # summed, because a mean over the batch would scale each gradient down, in the end to zero
    loss = cross_entropy(logits.float(), labels.long(), reduction="sum")
    return torch.autograd.grad(loss, images)[0]


@contextlib.contextmanager
def attackable(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, frozen parameters, float32, gradients on (also within inference mode); afterwards as before."""
    modes = {module: module.training for module in network.modules()}
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)  # spares the activations that their gradients would need
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            full_precision(),
        ):
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in modes.items():
            module.training = training


def uniform_start(shape: Sequence[int], generators: Sequence[np.random.Generator]) -> Tensor:
    """Points of the unit ball, one per generator: (3, H, W) and B generators -> (B, 3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.stack([rng.uniform(-1, 1, tuple(shape)).astype(np.float32) for rng in generators]))


class AttackScores(RunningSums):
    """Running accuracy under one attack at several epsilons; 0 is the clean accuracy.

    Args:
        epsilons: in 1/255.
        seed: of the random start; each image's depends on the seed and its key alone.
    """

    def __init__(self, method: Attack, epsilons: Sequence[float], *, seed: int = 0) -> None:
        self.method, self.epsilons, self.seed = method, list(epsilons), seed
        super().__init__(counts=torch.zeros(1 + len(self.epsilons), dtype=torch.int64))  # images, right ones each

    def update(
        self, network: nn.Module, images: Tensor, labels: Tensor, valid: Tensor | None, keys: Sequence[str]
    ) -> None:
        """Attacks a batch: images (B, 3, H, W) of 0..255, labels (B,), valid (B,) bool or None, keys of the B images.

        Of padding, the key may be absent: `keys` may be shorter than the batch.
        """
        valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
        start = self._start(images, keys)
        with attackable(network, images.device):
            pixels, labels = images.float() / LEVELS, torch.where(valid, labels, 0)
            attacked = self._attacked(network, pixels, labels, start)
            right = [self._right(network, adversarial, labels) for adversarial in attacked]
        self._sums["counts"] += (torch.stack([valid, *right]) & valid).sum(dim=1)

    def _attacked(self, network: nn.Module, clean: Tensor, labels: Tensor, start: Tensor | None) -> Iterator[Tensor]:
        """The adversarial images of each epsilon in turn; FGSM needs but one gradient for all."""
        if self.method.name == "fgsm":
            direction = input_gradient(network, clean, labels).sign()
            for epsilon in self.epsilons:
                yield (clean + epsilon / LEVELS * direction).clamp(0.0, 1.0)
            return
        for epsilon in self.epsilons:
            yield search(network, clean, labels, epsilon, self.method, start)

    @staticmethod
    def _right(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return label_rank(in_parts(network, normalize(LEVELS * images)).float(), labels) < 1

    def _start(self, images: Tensor, keys: Sequence[str]) -> Tensor | None:
        if not self.method.random_start:
            return None
        padding = [f"padding {number}" for number in range(len(images) - len(keys))]
        generators = [generator(self.seed, "attack", key) for key in [*keys, *padding]]
        return uniform_start(images.shape[1:], generators).to(images.device)

    def compute(self) -> dict[str, Any]:
        """`top1` in percent by `epsilons`, and all that defines the attack. Synchronises.

        Raises:
            NstError: no image was attacked.
        """
        samples, *right = self._sums["counts"].tolist()
        if samples == 0:
            raise NstError(
                "nothing was attacked",
                got="0 images",
                next="check the data: nst shard --verify shard.output=<folder of the test set>",
            )
        return {
            "attack": self.method.name,
            "norm": "linf",
            "label": "true",
            "epsilons": self.epsilons,
            "top1": [100.0 * count / samples for count in right],
            "steps": self.method.steps,
            "step_sizes": [self.method.step(epsilon) for epsilon in self.epsilons],
            "random_start": self.method.random_start,
            "seed": self.seed,
            "samples": float(samples),
        }
