"""FGSM and PGD on a small trained network: the ball, the strength, and that the network comes back as it was."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from nst.data.stream import generator
from nst.errors import NstError
from nst.models.efficientnet import normalize
from nst.robustness.attacks import Attack, AttackScores, uniform_start
from tests.helpers import attack
from tests.tiny_networks import trained_tiny

FGSM = Attack()
PGD_10 = Attack(steps=10)  # the paper's, at epsilon 16
RANDOM = Attack(steps=3, random_start=True)


@functools.cache
def pictures() -> tuple[Tensor, Tensor]:
    """Noisy colour patterns of ten classes, (80, 3, 16, 16) in whole levels of 0..1, and labels; some at the rim."""
    rng = torch.Generator().manual_seed(0)
    patterns = interpolate(torch.rand(10, 3, 4, 4, generator=rng), size=16)
    labels = torch.arange(80) % 10
    images = 0.2 * patterns[labels] + 0.4 + 0.25 * torch.randn(80, 3, 16, 16, generator=rng)
    return (255 * images.clamp(0, 1)).round() / 255, labels


@functools.cache
def _trained() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.SiLU(), nn.Dropout(0.2)]
    network = nn.Sequential(*layers, nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.SiLU(), nn.Flatten())
    network.append(nn.Linear(32 * 9, 10))
    images, labels = pictures()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network(normalize(255 * images)), labels).backward()
        optimizer.step()
    return network.eval()


def trained() -> nn.Module:
    return copy.deepcopy(_trained())


def loss_of(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return cross_entropy(network.eval()(normalize(255 * images)), labels).item()


def start_for(images: Tensor, seed: int = 0) -> Tensor:
    return uniform_start(images.shape[1:], [generator(seed, number) for number in range(len(images))])


def scores(
    method: Attack, epsilons: list[float], network: nn.Module | None = None, batch_size: int = 80
) -> AttackScores:
    images, labels = pictures()
    running = AttackScores(method, epsilons)
    for rows in torch.arange(80).split(batch_size):
        batch = (255 * images[rows]).to(torch.uint8)
        running.update(network or trained(), batch, labels[rows], None, [f"picture {row}" for row in rows])
    return running


@pytest.mark.parametrize("epsilon", [0, 0.5, 2, 16, 255])
@pytest.mark.parametrize("method", [FGSM, PGD_10, RANDOM, Attack(steps=2, step_size=40.0)], ids=str)
def test_an_adversarial_image_lies_in_the_ball_and_is_a_picture(method: Attack, epsilon: float) -> None:
    images, labels = pictures()
    found = attack(trained(), images, labels, epsilon, method, start=start_for(images) if method.random_start else None)
    assert (found - images).abs().max() <= epsilon / 255 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, images) == (epsilon == 0)


def test_fgsm_moves_every_pixel_by_epsilon_along_the_sign_of_its_gradient() -> None:
    images, labels = pictures()
    network = trained()
    inside = images.clone().requires_grad_()
    cross_entropy(network(normalize(255 * inside)), labels).backward()  # a mean: other scale, same sign
    found = attack(network, images, labels, 4)
    assert torch.allclose(found, (images + 4 / 255 * inside.grad.sign()).clamp(0, 1), atol=1e-7)


def test_pgd_follows_its_formula() -> None:
    images, labels = pictures()
    network, point = trained(), images.clone()
    for _ in range(10):
        point.requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(network(normalize(255 * point)), labels), point)
        point = (point.detach() + 1.6 / 255 * slope.sign()).clamp(images - 16 / 255, images + 16 / 255).clamp(0, 1)
    apart = (attack(network, images, labels, 16, PGD_10) - point).abs() > 1e-6
    # a slope that is zero but for rounding has the sign of the rounding, which differs between sums and means
    assert apart.float().mean() < 1e-3


@pytest.mark.parametrize(
    ("method", "epsilon", "step"),
    [(FGSM, 0.5, 0.5), (FGSM, 16, 16), (PGD_10, 16, 1.6), (PGD_10, 4, 1), (Attack(10, step_size=4.0), 16, 4)],
)
def test_the_default_step_is_a_tenth_of_epsilon_but_at_least_one_level(method, epsilon, step) -> None:
    assert method.step(epsilon) == pytest.approx(step)


def test_attacks_hurt_more_the_larger_epsilon_and_pgd_more_than_fgsm() -> None:
    clean, small, large = scores(FGSM, [0, 4, 16]).compute()["top1"]
    assert clean > 90
    assert clean >= small >= large
    assert large < clean - 30
    images, labels = pictures()
    network = trained()
    losses = [loss_of(network, attack(network, images, labels, 8, method), labels) for method in (FGSM, PGD_10)]
    assert loss_of(network, images, labels) < losses[0] < losses[1]
    assert scores(PGD_10, [16]).compute()["top1"][0] <= large


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", [FGSM, PGD_10], ids=str)
def test_a_network_comes_back_as_it_was(method: Attack, training: bool) -> None:
    network = trained_tiny().train(training)  # EfficientNet: BatchNorm, dropout and stochastic depth
    network.conv_stem.weight.requires_grad_(False)
    network.classifier.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    images, labels = (values[:4] for values in pictures())
    attack(network, images, labels, 4, method)
    AttackScores(method, [0, 4]).update(network, 255 * images, labels, None, [])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert not network.conv_stem.weight.requires_grad
    assert network.conv_head.weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_in_train_mode_is_attacked_and_scored_in_eval_mode() -> None:
    images, labels = pictures()
    expected = attack(trained(), images, labels, 4, PGD_10)
    assert torch.equal(attack(trained().train(), images, labels, 4, PGD_10), expected)
    assert scores(FGSM, [0, 12], trained().train()).compute() == scores(FGSM, [0, 12]).compute()


def test_attacks_work_inside_inference_mode_and_are_float32_under_autocast() -> None:
    expected = scores(PGD_10, [0, 12]).compute()
    images, labels = pictures()
    network = trained()
    point = attack(network, images, labels, 4)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = images * 1.0, labels + 0  # inference tensors, as a test loop's are
        assert torch.equal(attack(network, *inside, 4), point)
        running = AttackScores(PGD_10, [0, 12])
        running.update(network, 255 * inside[0], inside[1], inside[1] >= 0, [str(row) for row in range(80)])
        assert running.compute() == expected


def test_the_score_of_fgsm_is_that_of_one_attack_per_epsilon() -> None:
    images, labels = pictures()
    epsilons = [0, 4, 12, 16]
    found = scores(FGSM, epsilons).compute()["top1"]
    for epsilon, top1 in zip(epsilons, found, strict=True):
        adversarial = attack(trained(), images, labels, epsilon)
        right = trained()(normalize(255 * adversarial)).argmax(dim=1) == labels
        assert top1 == pytest.approx(100 * right.double().mean().item())


@pytest.mark.parametrize("method", [PGD_10, RANDOM], ids=str)
def test_results_do_not_depend_on_batches_or_padding(method: Attack) -> None:
    images, labels = pictures()
    padded = AttackScores(method, [0, 12])
    batch = torch.cat([images, torch.rand(5, 3, 16, 16)]), torch.cat([labels, torch.full((5,), -1)])
    keys = [f"picture {row}" for row in range(80)]
    padded.update(trained(), 255 * batch[0], batch[1], torch.arange(85) < 80, keys)
    assert padded.compute() == scores(method, [0, 12]).compute()
    assert scores(method, [0, 12], batch_size=7).compute() == padded.compute()


def test_a_random_start_follows_from_seed_and_key_alone_and_fills_the_ball() -> None:
    images, _ = pictures()
    start = start_for(images)
    assert torch.equal(start[3:5], uniform_start(images.shape[1:], [generator(0, 3), generator(0, 4)]))
    assert not torch.equal(start, start_for(images, seed=1))
    assert start.abs().max() <= 1
    assert start.mean().abs() < 0.02
    assert abs(start.std().item() - 1 / np.sqrt(3)) < 0.01


def test_every_image_has_a_start_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def note(network, clean, labels, epsilon, method, start):
        starts.append(start)
        return clean

    monkeypatch.setattr("nst.robustness.attacks.search", note)
    images, labels = (values[:3] for values in pictures())
    for keys in (["a", "b", "c"], ["c", "a", "d"]):
        AttackScores(RANDOM, [4]).update(trained(), 255 * images, labels, None, keys)
    first, second = starts
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[2], second[0])
    assert not torch.equal(first[0], first[1])


def test_a_result_states_what_was_done() -> None:
    found = scores(Attack(steps=3, random_start=True), [0, 1, 6]).compute()
    assert len(found.pop("top1")) == 3
    assert found == {
        "attack": "pgd", "norm": "linf", "label": "true", "epsilons": [0, 1, 6], "steps": 3,
        "step_sizes": [1, 1, 2], "random_start": True, "seed": 0, "samples": 80.0,
    }  # fmt: skip
    assert scores(FGSM, [2]).compute()["attack"] == "fgsm"
    assert scores(FGSM, [2]).compute()["step_sizes"] == [2]


def test_scores_of_ranks_are_added() -> None:
    images, labels = pictures()
    ranks = []
    for rows in torch.arange(80).chunk(2):
        ranks.append(AttackScores(FGSM, [0, 12]))
        ranks[-1].update(trained(), 255 * images[rows], labels[rows], None, [])
    ranks[0].state()["counts"] += ranks[1].state()["counts"]
    assert ranks[0].compute() == scores(FGSM, [0, 12]).compute()


def test_an_attack_on_nothing_is_an_error() -> None:
    with pytest.raises(NstError, match="nothing was attacked"):
        AttackScores(FGSM, [0]).compute()


def test_attacks_equal_those_of_an_independent_library() -> None:
    torchattacks = pytest.importorskip("torchattacks")

    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = trained()

        def forward(self, images: Tensor) -> Tensor:
            return self.network(normalize(255 * images))

    images, labels = pictures()
    wrapped = Normalized().eval()
    theirs = torchattacks.FGSM(wrapped, eps=8 / 255)(images, labels)
    assert torch.allclose(attack(trained(), images, labels, 8), theirs, atol=1e-6)
    theirs = torchattacks.PGD(wrapped, eps=16 / 255, alpha=1.6 / 255, steps=10, random_start=False)(images, labels)
    assert torch.allclose(attack(trained(), images, labels, 16, PGD_10), theirs, atol=1e-6)


def test_gradients_of_attacks_are_not_rounded_to_tf32(tf32: list[Any]) -> None:
    seen = []

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append([kind.fp32_precision for kind in tf32])
            return images.mean(dim=(2, 3))

    attack(Network(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), 4, PGD_10)
    assert seen == [["ieee", "ieee"]] * 10
    assert [kind.fp32_precision for kind in tf32] == ["tf32", "tf32"]
