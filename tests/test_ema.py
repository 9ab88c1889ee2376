"""Moving average against the released code's numbers (tests/golden/ema.csv) and its promises."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers import golden_rows
from torch import Tensor, nn

from nst.errors import NstError
from nst.training.ema import Ema, decay_at


def rows(kind: str) -> list[dict[str, str]]:
    return [row for row in golden_rows("ema.csv") if row["kind"] == kind]


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def change(network: nn.Module) -> None:
    """Moves every parameter and every BatchNorm statistic, as a training step does."""
    network.train()
    network(5 + 3 * torch.randn(16, network[0].in_features, dtype=network[0].weight.dtype))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_decay_equals_the_released_code() -> None:
    golden = rows("decay")
    assert len(golden) > 10
    for row in golden:
        exact, n = float(row["decay_exact"]), int(row["step"])
        assert decay_at(n) == pytest.approx(exact, rel=1e-12)
        assert decay_at(torch.tensor(n)).item() == pytest.approx(float(row["decay_float32"]), abs=2e-7)
    assert decay_at(1) == 2 / 11


def test_decay_stops_at_the_cap() -> None:
    assert decay_at(10, cap=0.3) == decay_at(10_000, cap=0.3) == 0.3
    assert decay_at(1, cap=0.3) == 2 / 11


@pytest.mark.parametrize("as_tensor", [False, True])
def test_trajectory_equals_the_released_code(as_tensor: bool) -> None:
    network = nn.Module()
    network.parameter = nn.Parameter(torch.zeros(3))
    network.register_buffer("statistic", torch.zeros(()))
    first, *others = rows("trajectory")
    for tensor in (network.parameter.data, network.statistic):
        tensor.fill_(float(first["variable_value_after_step"]))
    ema = Ema(network)
    for row in others:
        n = int(row["step"])
        for tensor in (network.parameter.data, network.statistic):
            tensor.fill_(float(row["variable_value_after_step"]))
        ema.update(network, torch.tensor(n) if as_tensor else n)
        expected = float(row["shadow_official_step_counted_after_increment"])
        assert ema.network.parameter.tolist() == pytest.approx([expected] * 3, abs=2e-6)
        assert ema.network.statistic.item() == pytest.approx(expected, abs=2e-6)
    assert n == 20


def test_batchnorm_statistics_are_averaged_and_counters_copied() -> None:
    network = small_network()
    ema = Ema(network)
    expected = {name: tensor.double() for name, tensor in tensors(network).items()}
    for n in range(1, 6):
        change(network)
        ema.update(network, n)
        decay = (1 + n) / (10 + n)
        for name, tensor in tensors(network).items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    averaged = tensors(ema.network)
    assert averaged.keys() == expected.keys()
    assert averaged["1.num_batches_tracked"] == 5
    for name, tensor in averaged.items():
        if name != "1.num_batches_tracked":
            torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=2e-6, msg=name)
    assert not torch.allclose(averaged["1.running_mean"], network[1].running_mean)


def test_the_average_is_always_in_eval_mode_and_frozen() -> None:
    parent = nn.ModuleDict({"network": small_network(), "ema": Ema(small_network())})
    parent.train()
    assert parent["network"].training
    assert not any(module.training for module in parent["ema"].network.modules())
    assert not any(p.requires_grad for p in parent["ema"].parameters())
    images = torch.randn(8, 3)
    before = tensors(parent["ema"])
    assert torch.equal(parent["ema"](images), parent["ema"](images))
    for name, tensor in tensors(parent["ema"]).items():
        assert torch.equal(tensor, before[name])


def test_the_average_shares_nothing_with_the_network() -> None:
    network = small_network()
    ema = Ema(network)
    before = tensors(ema)
    change(network)
    for name, tensor in tensors(ema).items():
        assert torch.equal(tensor, before[name])


def test_update_leaves_the_network_alone() -> None:
    network = small_network()
    ema = Ema(network)
    change(network)
    before = tensors(network)
    ema.update(network, 1)
    for name, tensor in tensors(network).items():
        assert torch.equal(tensor, before[name])


def test_an_average_continues_from_its_state_dict_exactly() -> None:
    network = small_network()
    straight = Ema(network)
    for n in (1, 2):
        change(network)
        straight.update(network, n)
    resumed = Ema(small_network())
    resumed.update(small_network(), 1)  # so that its tensor lists exist before the state is loaded
    resumed.load_state_dict(straight.state_dict())
    change(network)
    for ema in (straight, resumed):
        ema.update(network, 3)
    for name, tensor in tensors(straight).items():
        assert torch.equal(tensor, tensors(resumed)[name])


@pytest.mark.parametrize("replace", ["convert", "assign", "buffer"])
def test_tensors_replaced_after_an_update_are_followed(replace: str) -> None:
    network = small_network()
    ema = Ema(network)
    change(network)
    ema.update(network, 1)
    if replace == "convert":  # what .to(device) does: the same parameters with new data, and new buffers
        network.double()
        ema.double()
    elif replace == "assign":
        ema.load_state_dict(tensors(ema), assign=True)
        network.load_state_dict(tensors(network), assign=True)
    else:
        network[1].running_mean = torch.full((4,), 100.0)
    before, current = tensors(ema.network), tensors(network)
    ema.update(network, 2)
    for name, tensor in tensors(ema.network).items():
        if tensor.is_floating_point():
            expected = 0.25 * before[name].double() + 0.75 * current[name].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6, msg=name)


def test_another_instance_of_the_network_is_followed() -> None:
    ema = Ema(small_network(), cap=0.0)
    ema.update(small_network(), 1)
    other = small_network()
    change(other)
    ema.update(other, 2)
    for name, tensor in tensors(other).items():
        assert torch.equal(tensors(ema.network)[name], tensor)


def test_shared_parameters_move_once() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    with torch.no_grad():
        network[0].weight.zero_()
    ema = Ema(network)
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    ema.update(network, 1)
    assert ema.network[1].weight is ema.network[0].weight
    assert torch.allclose(ema.network[0].weight, torch.tensor(9 / 11))


def test_copies_and_pickles_do_not_carry_the_training_network() -> None:
    network = small_network()
    ema = Ema(network)
    size = len(pickle.dumps(ema))
    ema.update(network, 1)
    assert len(pickle.dumps(ema)) == pytest.approx(size, rel=0.01)
    twin = copy.deepcopy(ema)
    change(network)
    for average in (ema, twin):
        average.update(network, 2)
    for name, tensor in tensors(ema).items():
        assert torch.equal(tensor, tensors(twin)[name])


def test_mistakes_are_explained() -> None:
    ema = Ema(small_network())
    with pytest.raises(NstError, match="another network"):
        ema.update(nn.Sequential(nn.Linear(3, 4)), 1)
    with pytest.raises(NstError, match="another network"):
        ema.update(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2)), 1)
    with pytest.raises(NstError, match="half precision"):
        ema.update(small_network().bfloat16(), 1)
