"""Our BatchNorm: timm's layer on one device, the whole batch's on several ranks; on XLA see test_xla.py."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from nst.models import batch_norm
from nst.models.batch_norm import BatchNorm, still_statistics
from nst.models.efficientnet import Architecture, EfficientNet, build, normalize, rematerialize
from tests.forked import PYTHON, run


def tiny() -> EfficientNet:
    torch.manual_seed(0)
    return build(Architecture(0.25, 0.25), 5, dropout=0.0, stochastic_depth=0.0)


def with_timms(network: EfficientNet) -> EfficientNet:
    """A copy with timm's own layers in place of ours."""
    copied = copy.deepcopy(network)
    for name, norm in list(copied.named_modules()):
        if isinstance(norm, BatchNorm):
            apply_act = not isinstance(norm.act, nn.Identity)
            theirs = BatchNormAct2d(norm.num_features, norm.eps, norm.momentum, apply_act=apply_act, act_layer=nn.SiLU)
            theirs.load_state_dict(norm.state_dict())
            copied.set_submodule(name, theirs)
    return copied


@pytest.mark.parametrize("training", [True, False])
def test_on_one_device_it_is_timms_layer_bit_for_bit(training: bool):
    ours = tiny()
    theirs = with_timms(ours)
    assert not any(isinstance(module, BatchNorm) for module in theirs.modules())
    images = normalize(torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8))
    for step in range(2):  # the second sees moved statistics
        found = [network.train(training)(images) for network in (ours, theirs)]
        assert torch.equal(*found), step
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_every_batchnorm_of_our_networks_is_ours_and_as_active_as_timms():
    network = tiny()
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(isinstance(norm, BatchNorm) for norm in norms.values())
    silent = {name for name, norm in norms.items() if isinstance(norm.act, nn.Identity)}
    assert silent == {name for name in norms if name.endswith("bn3")} | {"blocks.0.0.bn2"}
    assert {type(norm.act) for name, norm in norms.items() if name not in silent} == {type(network.bn1.act)}
    assert network.bn1.act(torch.ones(1)).item() == pytest.approx(F.silu(torch.ones(1)).item())


def test_rematerialisation_moves_the_statistics_once():
    plain, again = tiny(), tiny()
    again.set_grad_checkpointing(True)
    images = normalize(torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8))
    for network in (plain, again):
        network(images).square().sum().backward()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter.grad, again.get_parameter(name).grad), name


def test_a_second_run_that_fails_leaves_the_statistics_free_to_move():
    block = nn.Sequential(BatchNorm(3))
    with pytest.raises(KeyError), still_statistics(block):
        assert not block[0].moves
        raise KeyError
    assert block[0].moves
    assert rematerialize(block, torch.randn(2, 3, 4, 4, requires_grad=True)).requires_grad


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, dict[str, float]]]:
    """What each of two ranks is apart from one process, by case and tensor."""
    done = run([*PYTHON, "tests.batch_norm_program"], limit_s=560)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.split("RESULT ")[1])
    assert len(told) == 2
    return told


# a value of 1000 has four digits of a deviation of 2 left in float32; bfloat16 has two or three of anything
@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        ("equal parts", 2e-6),
        ("unequal parts", 2e-6),
        ("one image of one pixel each", 1e-5),
        ("channels first", 2e-6),
        ("far from zero", 3e-4),
        ("bfloat16", 1e-2),
        ("of features", 2e-6),
        ("of tokens", 2e-6),
    ],
)
def test_two_ranks_normalise_as_one_process_with_the_whole_batch(two_ranks: Any, case: str, tolerance: float):
    """Result, gradients of images, weight and bias, running statistics and their count."""
    for told in two_ranks:
        assert len(told[case]) == 9
        assert max(told[case].values()) < tolerance, told[case]


@pytest.mark.parametrize("remat", [False, True])
def test_two_ranks_with_half_a_batch_take_the_step_of_one_process_with_all(two_ranks: Any, remat: bool):
    """Loss, every gradient and all statistics, with an online teacher, which nobody touches."""
    for told in two_ranks:
        found = told[f"remat={remat}"]
        assert sum(name.startswith("to ") for name in found) > 80
        assert sum(name.endswith("running_var") for name in found) > 15
        assert max(found.values()) < 1e-5, {name: value for name, value in found.items() if value > 1e-5}


@pytest.mark.parametrize("remat", [False, True])
def test_micro_batches_on_two_ranks_make_the_step_of_one_batch(two_ranks: Any, remat: bool):
    """BatchNorm in eval mode. Each rank's are added up before ranks exchange anything, or it would be too much."""
    for told in two_ranks:
        found = told[f"micro-batches, remat={remat}"]
        assert sum(name.startswith("to ") for name in found) > 80
        assert max(found.values()) < 1e-6, {name: value for name, value in found.items() if value > 1e-6}


@pytest.mark.parametrize("how", ["", ", remat", ", compiled"])
@pytest.mark.parametrize("network", ["test_resnet", "test_vit", "levit"])
def test_two_ranks_take_the_step_of_one_process_with_networks_of_timms(two_ranks: Any, network: str, how: str):
    """With and without BatchNorm, and with that of features, which have no height and width."""
    if (network, how) == ("levit", ", compiled"):
        return
    for told in two_ranks:
        found = told[network + how]
        assert sum(name.startswith("to ") for name in found) > 20
        assert any(name.endswith("running_var") for name in found) == (network != "test_vit")
        assert max(found.values()) < 1e-5, {name: value for name, value in found.items() if value > 1e-5}


def test_compiled_ranks_take_the_step_of_eager_ones_in_one_graph(two_ranks: Any):
    """The exchanges of statistics and sums are part of it; by the backend aot_eager."""
    for told in two_ranks:
        found = told["compiled"]
        assert sum(name.startswith("to ") for name in found) > 80
        assert max(found.values()) < 1e-5, {name: value for name, value in found.items() if value > 1e-5}
        assert not told["breaks of the graph"]


def test_rematerialised_ranks_are_compared_with_what_is_the_same_without(two_ranks: Any):
    assert max(two_ranks[0]["remat itself"].values()) == 0


@pytest.fixture
def one_rank(tmp_path: Path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_ranks_run_on_a_gpu_is_the_native_kernel(one_rank: None, dtype: torch.dtype):
    x = (torch.randn(8, 16, 7, 7, device="cuda") * 2 + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    found = []
    for alone in (True, False):
        norm = BatchNorm(16, act_layer=nn.SiLU).cuda()
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        result = norm(leaf) if alone else norm.act(_as_ranks(norm, leaf))
        result.float().cos().sum().backward()
        found.append([result, leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=tolerance, atol=tolerance)


def _as_ranks(norm: BatchNorm, x: torch.Tensor) -> torch.Tensor:
    mean, variance, values = batch_norm.whole_statistics(x)
    norm._move(mean, variance * (values / (values - 1)))
    return batch_norm._Normalized.apply(x, norm.weight, norm.bias, mean, variance, values, norm.eps)
