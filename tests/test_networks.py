"""Networks of timm's: noise by the sample, timm's own state dict, and all that a training does with a network."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from nst.errors import NstError, UsageError
from nst.models.batch_norm import BatchNorm
from nst.models.checkpoints import NetworkInfo, load_network, save_network
from nst.models.efficientnet import normalize
from nst.models.folding import labeling_network
from nst.models.networks import build
from nst.models.timm_architecture import TimmArchitecture, timm_architecture
from nst.models.timm_network import TimmNetwork
from nst.plan.layer_costs import measure
from nst.robustness.logits import full_logits
from nst.training.ema import Ema
from tests.tiny_networks import random_images

CLASSES = ("a", "b", "c")


@dataclass(frozen=True)
class Family:
    """A small network of a family: px, arguments that make it smaller, what it has."""

    name: str
    size: int = 32
    arguments: tuple[tuple[str, Any], ...] = ()
    batch_norm: bool = True
    folds: bool = False
    attention: bool = False

    def __str__(self) -> str:
        return self.name


SWIN = (("embed_dim", 16), ("depths", (1, 1, 1, 1)), ("num_heads", (1, 2, 4, 8)))
MAXVIT = (("depths", (1, 1)), ("embed_dim", (32, 64)), ("block_type", ("M", "M")), ("stem_width", 16))
DEIT = (("embed_dim", 48), ("depth", 3), ("num_heads", 3))
FAMILIES = [
    Family("tinynet_e", folds=True),
    Family("tf_efficientnet_lite0", folds=True),
    Family("tf_efficientnetv2_b0", folds=True),
    Family("test_resnet", folds=True),
    Family("resnext26ts"),
    Family("regnety_002", folds=True),
    Family("mobilenetv3_small_050"),
    Family("mobilenetv4_conv_small_035"),
    Family("test_convnext", batch_norm=False),
    Family("test_vit", 32, batch_norm=False, attention=True),
    Family("deit3_small_patch16_224", 32, DEIT, batch_norm=False, attention=True),
    Family("swin_tiny_patch4_window7_224", 56, SWIN, batch_norm=False, attention=True),
    Family("maxvit_rmlp_pico_rw_256", 64, MAXVIT, attention=True),
]
each = pytest.mark.parametrize("family", FAMILIES, ids=str)


def architecture(family: Family) -> TimmArchitecture:
    size = family.size
    return timm_architecture(family.name, train_size=size, test_size=size, arguments=dict(family.arguments))


def network_of(family: Family, *, dropout: float = 0.0, stochastic_depth: float = 0.0) -> TimmNetwork:
    """The network with random weights that let every branch through, and statistics of a batch."""
    network = build(architecture(family), len(CLASSES), dropout=dropout, stochastic_depth=stochastic_depth)
    assert isinstance(network, TimmNetwork)
    network.load_state_dict(weights(family))
    return network


@functools.cache
def weights(family: Family) -> Mapping[str, Tensor]:
    torch.manual_seed(1)
    network = build(architecture(family), len(CLASSES), stochastic_depth=0.0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 0.01:  # some families begin with branches and biases of zero
                parameter.copy_(0.3 * torch.rand(parameter.shape))
        for module in network.modules():
            if isinstance(module, BatchNorm):
                module.momentum = 1.0
        network.train()(random_images(family.size, batch=8))
    return network.state_dict()


def timms(family: Family, state: Mapping[str, Tensor]) -> torch.nn.Module:
    """timm's own network with these weights, without noise."""
    made = dict(family.arguments)
    if architecture(family).fixed_size:
        made["img_size"] = family.size
    model = timm.create_model(family.name, num_classes=len(CLASSES), **made)
    model.load_state_dict(state)
    return model


def as_timm_sees(network: TimmNetwork, images: Tensor) -> Tensor:
    """Images that are normalised as ours, in the normalisation of the network's weights."""
    levels = images * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) + torch.tensor([0.485, 0.456, 0.406]).view(
        3, 1, 1
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.architecture.mean, network.architecture.std))
    return (levels - mean) / std


def still(network: torch.nn.Module) -> torch.nn.Module:
    """Train mode for the noise, with BatchNorm in eval mode: else every sample changes every other."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return network


@each
def test_samples_that_are_not_noised_come_out_as_without_noise_and_the_others_do_not(family: Family):
    images = random_images(family.size, batch=4)
    noised = torch.tensor([0.0, 1.0, 0.0, 1.0])
    with torch.no_grad():
        plain = still(network_of(family))(images)
        for rates, masks in (({"dropout": 0.5}, (noised, None)), ({"stochastic_depth": 0.9}, (None, noised))):
            network = network_of(family, **rates)
            still(network)
            network.set_noise(*masks)
            torch.manual_seed(2)
            found = network(images)
            assert torch.equal(found[noised == 0], plain[noised == 0]), rates
            different = (found != plain).any(dim=1)
            assert different[noised == 1].any(), rates


@each
def test_the_state_dict_is_timms_in_both_directions_and_so_are_the_answers(family: Family, tmp_path: Any):
    network, images = network_of(family, stochastic_depth=0.2).eval(), random_images(family.size)
    model = timms(family, network.state_dict()).eval()
    with torch.no_grad():
        ours = network(images)
        torch.testing.assert_close(ours, model(as_timm_sees(network, images)), rtol=1e-3, atol=1e-3)
        other = network_of(family)
        other.load_state_dict({name: value + 1 for name, value in other.state_dict().items()})
        other.load_state_dict(model.state_dict())
        assert torch.equal(other.eval()(images), ours)
        info = NetworkInfo(architecture(family), CLASSES, family.size, family.size)
        save_network(tmp_path / "network.safetensors", network.state_dict(), info)
        again, read = load_network(tmp_path / "network.safetensors")
        assert read == info
        assert torch.equal(again(images), ours)


@each
def test_no_dropout_and_no_batch_norm_but_ours_is_left(family: Family):
    network = network_of(family, dropout=0.3, stochastic_depth=0.2)
    kinds = {type(module) for module in network.modules()}
    assert timm.layers.DropPath not in kinds
    assert all(module.p == 0 for module in network.modules() if isinstance(module, torch.nn.Dropout))
    assert {kind for kind in kinds if issubclass(kind, _BatchNorm)} == ({BatchNorm} if family.batch_norm else set())
    rates = [path.rate for path in network.paths]
    assert rates == sorted(rates)
    assert 0.1 < max(rates) < 0.2001


def learnt(network: TimmNetwork, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of a noised step, and the buffers after it."""
    torch.manual_seed(3)
    network.set_noise(None, torch.tensor([1.0, 0.0, 1.0, 1.0]))
    network(images).square().mean().backward()
    gradients = {name: value.grad for name, value in network.body.named_parameters() if value.grad is not None}
    return gradients, dict(network.body.named_buffers())


@each
def test_gradients_and_statistics_are_the_same_with_rematerialised_blocks(family: Family):
    images = random_images(family.size, batch=4)
    network = network_of(family, dropout=0.2, stochastic_depth=0.3).train()
    again = copy.deepcopy(network)
    again.set_grad_checkpointing(True)
    runs: list[torch.nn.Module] = []
    original = again.checkpoint
    again.checkpoint = lambda block, x: runs.append(block) or original(block, x)  # type: ignore[func-returns-value]
    (gradients, buffers), (others, other_buffers) = learnt(network, images), learnt(again, images)
    assert len(runs) == len(network.residual_blocks) > 0
    assert gradients.keys() == others.keys() == dict(network.body.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, msg=name)
    for name, buffer in buffers.items():
        torch.testing.assert_close(other_buffers[name], buffer, msg=name)
    again.set_grad_checkpointing(False)
    learnt(again, images)
    assert len(runs) == len(network.residual_blocks)


@each
def test_frozen_layers_neither_learn_nor_move_and_thawed_ones_do(family: Family):
    network, images = network_of(family).train(), random_images(family.size, batch=4)
    network.freeze_blocks(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    frozen = {name for layer in network.layers[:2] for name in layer.parameters}
    assert {name for name, value in network.body.named_parameters() if not value.requires_grad} == frozen
    network(images)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    owners = {name.rpartition(".")[0] for name in frozen}
    assert not {name for name in moved if name.rpartition(".")[0] in owners}
    assert bool(moved) == family.batch_norm
    network.freeze_blocks(0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(
        UsageError,
        match=rf"has {len(network.layers) - 2} blocks[\s\S]*next:  student.frozen_blocks={len(network.layers) - 2}",
    ):
        network.freeze_blocks(len(network.layers))


@each
def test_the_average_of_a_network_is_a_network_of_its_own(family: Family):
    network, images = network_of(family, dropout=0.5, stochastic_depth=0.5).train(), random_images(family.size)
    ema = Ema(network, cap=0.9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    start = {name: value.clone() for name, value in ema.network.state_dict().items()}
    ema.update(network, 1)
    for name, value in network.body.named_parameters():
        torch.testing.assert_close(ema.network.state_dict()[name], start[name] + (1 - 2 / 11) * 0.01, msg=name)
        assert value.requires_grad
    assert torch.equal(ema(images), ema(images))  # never noised
    assert not any(ema.network.noise is module.switch for module in (*network.paths, *network.dropouts))


@each
def test_a_labeling_network_gives_the_same_answers_and_bfloat16_nearly_so(family: Family):
    network, images = network_of(family).eval(), random_images(family.size, batch=8)
    with torch.no_grad():
        expected = network(images)
        exact = labeling_network(network)
        torch.testing.assert_close(exact(images), expected, rtol=1e-3, atol=1e-3)
        rough = labeling_network(network, torch.bfloat16)
        logits = rough(images)
    assert logits.dtype == torch.float32
    assert torch.corrcoef(torch.stack([logits.flatten(), expected.flatten()]))[0, 1] > 0.8
    left = sum(isinstance(module, _BatchNorm) for module in exact.modules())
    all_of_it = sum(isinstance(module, _BatchNorm) for module in network.modules())
    assert left <= 1 if family.folds else left == all_of_it


@each
def test_noise_that_is_drawn_before_is_that_of_the_samples(family: Family):
    images = random_images(family.size, batch=4)
    network = still(network_of(family, dropout=0.3, stochastic_depth=0.5))
    assert isinstance(network, TimmNetwork)
    torch.manual_seed(4)
    draws = network.draw_noise(4, images.device)
    with torch.no_grad():
        network.use_noise(draws)
        whole = network(images)
        network.use_noise([drawn[2:] for drawn in draws])
        part = network(images[2:])
        network.use_noise(None)
        other = network(images)
    torch.testing.assert_close(part, whole[2:], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(other, whole)


@each
def test_a_plan_counts_what_the_network_computes(family: Family):
    network = network_of(family).eval()
    cost = measure(architecture(family), len(CLASSES), family.size)
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert [part.name for part in cost.parts][:2] == ["stem", "block 0"]
    assert all(part.macs > 0 for part in cost.parts if part.block)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(random_images(family.size, batch=1))
    counted = counter.get_total_flops() / 2
    assert cost.macs <= counted
    assert cost.macs == pytest.approx(counted, rel=0.2 if family.attention else 1e-6)


@each
def test_an_attack_finds_the_gradient_of_images(family: Family):
    network = network_of(family).eval().requires_grad_(False)
    images = (255 * torch.rand(2, 3, family.size, family.size)).requires_grad_()
    logits = full_logits(network, images)
    torch.testing.assert_close(logits, network(normalize(images)))
    logits.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_blocks_of_a_network_of_branches_take_a_list_with_rematerialised_blocks_too():
    found = timm_architecture("crossvit_9_240", arguments={"embed_dim": (16, 32), "num_heads": (1, 1)})
    torch.manual_seed(0)
    network = build(found, 2, dropout=0.0, stochastic_depth=0.0)
    images = random_images(240, batch=1)
    expected = network(images)
    network.set_grad_checkpointing(True)
    assert torch.equal(network(images), expected)
    assert all(part.inputs > 0 for part in measure(found, 2, 240).parts if part.block)


def test_a_network_of_one_size_says_so_and_others_take_any():
    with pytest.raises(UsageError, match="built for one image size"):
        timm_architecture("test_vit", train_size=64, test_size=96)
    vit = timm_architecture("test_vit", train_size=64)
    assert (vit.train_size, vit.test_size) == (64, 64)
    with pytest.raises(UsageError, match="for images of 64 px"):
        measure(vit, 2, 96)
    assert timm_architecture("convnext_nano").test_size == 288
    assert measure(timm_architecture("test_resnet", train_size=64, test_size=96), 2, 96).image_size == 96


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="convnext_nano"):
        timm_architecture("convnext_nanno")
    with pytest.raises(UsageError, match="no network"):
        timm_architecture("hf-hub:somebody/something")


def test_what_timm_cannot_build_is_an_error_in_words():
    with pytest.raises(NstError, match="does not build test_vit"):
        build(timm_architecture("test_vit", train_size=64, arguments={"depths": "many"}), 2)


def test_a_family_without_drop_path_is_built_without():
    network = build(timm_architecture("dla46_c", train_size=64), 2, stochastic_depth=0.2)
    assert isinstance(network, TimmNetwork)
    assert network.paths == []
