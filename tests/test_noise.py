"""Dropout and stochastic depth: exact where clean, right in distribution where noised."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from nst.errors import NstError
from nst.models.noise import Dropout, NoiseSwitch, StochasticDepth, dropout, stochastic_depth

FUNCTIONS = [dropout, stochastic_depth]
MODULES = [Dropout, StochasticDepth]
HALF = torch.tensor([1.0, 0.0] * 32)  # 64 samples, every other one noised


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int = 64) -> Tensor:
    return torch.randn(batch, 3, 4, 4, generator=seeded(1))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clean_samples_pass_bit_for_bit_and_noised_ones_do_not(function, dtype):
    x = images().to(dtype)
    y = function(x, 0.5, HALF, seeded())
    assert torch.equal(y[1::2], x[1::2])
    assert y.dtype == dtype
    assert not torch.equal(y[0::2], x[0::2])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_noised_values_are_zero_or_rescaled_by_survival(function):
    x = images()
    y = function(x, 0.2, None, seeded())
    dropped = y == 0
    assert 0 < dropped.float().mean() < 0.5
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.8)


def test_stochastic_depth_drops_whole_samples():
    dropped = stochastic_depth(images(), 0.5, None, seeded()).eq(0).flatten(1).float().mean(1)
    assert set(dropped.tolist()) == {0.0, 1.0}


def test_dropout_drops_single_values():
    dropped = dropout(images(), 0.5, None, seeded()).eq(0).flatten(1).float().mean(1)
    assert ((dropped > 0) & (dropped < 1)).all()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_rate_and_mean_are_kept_on_average(function, rate):
    count = 100_000
    y = function(torch.ones(count, 1), rate, None, seeded(3))
    deviation = (rate * (1 - rate) / count) ** 0.5
    assert abs(y.eq(0).float().mean().item() - rate) < 4 * deviation
    assert abs(y.mean().item() - 1) < 4 * deviation / (1 - rate)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_small_rate_survives_bfloat16(function):
    # drawn in bfloat16, 0.999 would round to 1 and nothing would ever drop
    y = function(torch.ones(200_000, 1, dtype=torch.bfloat16), 0.001, None, seeded(4))
    assert 140 < y.eq(0).sum().item() < 260  # 200 expected, deviation 14


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_mask_means_all_noised_and_masks_may_be_bool(function):
    x = images()
    everything = function(x, 0.5, None, seeded())
    assert torch.equal(everything, function(x, 0.5, torch.ones(64), seeded()))
    assert torch.equal(function(x, 0.5, HALF, seeded()), function(x, 0.5, HALF.bool(), seeded()))
    # a mask changes which samples are noised, not what is drawn for them
    assert torch.equal(everything[0::2], function(x, 0.5, HALF, seeded())[0::2])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradient_is_the_factor_that_was_applied(function):
    x = images().requires_grad_()
    y = function(x, 0.5, HALF, seeded())
    y.sum().backward()
    assert torch.equal(x.grad[1::2], torch.ones_like(x.grad[1::2]))
    assert torch.equal(x.grad[0::2], y[0::2].ne(0) * 2.0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_traced_graph_serves_every_mask(function):
    x = images()
    graph = make_fx(lambda x, mask: function(x, 0.5, mask))(x, torch.zeros(64))
    for mask in (torch.zeros(64), torch.ones(64), HALF):
        torch.manual_seed(5)
        expected = function(x, 0.5, mask)
        torch.manual_seed(5)
        assert torch.equal(graph(x, mask), expected)


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_identity_in_eval_mode_and_at_rate_zero(module):
    x = images()
    assert module(0.5, NoiseSwitch()).eval()(x) is x
    assert module(0.0, NoiseSwitch()).train()(x) is x
    assert not torch.equal(module(0.5, NoiseSwitch()).train()(x), x)


def test_each_module_obeys_its_own_mask():
    switch, x = NoiseSwitch(), images()
    switch.dropout, switch.stochastic_depth = torch.zeros(64), torch.ones(64)
    assert torch.equal(Dropout(0.5, switch)(x), x)
    assert not torch.equal(StochasticDepth(0.5, switch)(x), x)
    switch.dropout, switch.stochastic_depth = torch.ones(64), torch.zeros(64)
    assert not torch.equal(Dropout(0.5, switch)(x), x)
    assert torch.equal(StochasticDepth(0.5, switch)(x), x)


def test_a_deep_copy_has_one_switch_of_its_own():
    switch = NoiseSwitch()
    original = nn.Sequential(Dropout(0.5, switch), StochasticDepth(0.5, switch))
    twin = copy.deepcopy(original)
    assert twin[0].switch is twin[1].switch
    assert twin[0].switch is not switch
    switch.dropout = torch.zeros(64)
    assert twin[0].switch.dropout is None


def test_noise_adds_nothing_to_the_state_dict():
    switch = NoiseSwitch()
    switch.dropout = HALF
    assert not Dropout(0.5, switch).state_dict()
    assert not StochasticDepth(0.5, switch).state_dict()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_mask_of_another_batch_is_refused(function):
    for mask in (torch.ones(1), torch.ones(65)):
        with pytest.raises(ValueError, match="batch of 64"):
            function(images(), 0.5, mask)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_impossible_rates_are_refused(module, rate):
    with pytest.raises(NstError, match="0 <= rate < 1"):
        module(rate, NoiseSwitch())
