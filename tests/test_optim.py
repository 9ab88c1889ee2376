"""Schedule and optimiser against the released code's numbers (tests/golden/schedule*.csv, optimizer.npz)."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import golden_rows, golden_tensors
from torch import Tensor, nn

from nst.config import compose_config
from nst.errors import NstError, UsageError
from nst.settings.learning import Recipe, ScheduleOptions
from nst.stages import train
from nst.training.optim import (
    OPTIMIZERS,
    build_optimizer,
    on_device,
    parameter_groups,
    require_options,
    set_learning_rate,
)
from nst.training.phases import Length, Schedule, decay_epochs_for_final_rate, scaled_rate, schedule_for
from nst.training.tensor_rate import prime

Compose = Callable[..., Any]
CONFIGS = {row["config"]: row for row in golden_rows("schedule_configs.csv")}


def schedule_of(config: dict[str, str]) -> Schedule:
    """A schedule from what a user gives: images, batch, epochs; nothing precomputed."""
    batch = int(config["batch"])
    steps_per_epoch = int(config["images"]) / batch
    decay_epochs = 2.4 * int(config["train_ratio"])
    if config["final_base_lr"]:
        epochs = int(config["train_steps"]) / steps_per_epoch
        decay_epochs = decay_epochs_for_final_rate(float(config["final_base_lr"]), 0.016, epochs)
    return Schedule(scaled_rate(0.016, batch), steps_per_epoch, ScheduleOptions(decay_epochs=decay_epochs))


@pytest.mark.parametrize("config", CONFIGS)
def test_learning_rate_equals_the_released_code(config: str) -> None:
    schedule = schedule_of(CONFIGS[config])
    checked = 0
    for row in golden_rows("schedule.csv"):
        if row["config"] != config:
            continue
        rate = schedule.learning_rate(int(row["step"]))
        assert rate == pytest.approx(float(row["lr_exact_float64"]), rel=1e-12)
        official = float(row["lr_official_float32"])
        if row["float32_decays_one_step_early"] == "1":
            assert official == pytest.approx(0.97 * rate, rel=1e-5)
        else:
            assert rate == pytest.approx(official, rel=1e-5)
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("config", CONFIGS)
def test_lengths_follow_from_images_and_batch(config: str) -> None:
    golden, schedule = CONFIGS[config], schedule_of(CONFIGS[config])
    assert schedule.warmup_steps == int(golden["warmup_steps"])
    assert schedule.base_rate == pytest.approx(float(golden["base_lr"]))
    assert schedule.options.decay_epochs == pytest.approx(float(golden["decay_epochs"]))


def test_the_base_rate_is_never_reached_because_decay_counts_from_step_0() -> None:
    schedule = Schedule(0.128, 100.0)
    peak = max(schedule.learning_rate(step) for step in range(3000))
    assert peak == schedule.learning_rate(499) == 0.128 * 499 / 500
    assert schedule.learning_rate(500) == 0.128 * 0.97**2


def test_a_boundary_on_a_whole_step_decays_on_that_step() -> None:
    for tenths in range(1, 100):  # a period of 5 * tenths steps, some of which (1.1 * 50) are inexact in floats
        schedule = Schedule(1.0, 50.0, ScheduleOptions(decay_epochs=tenths / 10, warmup_epochs=0))
        for decays in (1, 2, 3, 7, 145):
            assert schedule.learning_rate(5 * tenths * decays) == 0.97**decays
            assert schedule.learning_rate(5 * tenths * decays - 1) == 0.97 ** (decays - 1)


def test_without_staircase_the_rate_decays_at_every_step() -> None:
    schedule = Schedule(1.0, 10.0, ScheduleOptions(warmup_epochs=0, staircase=False))
    assert schedule.learning_rate(12) == pytest.approx(0.97**0.5)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (5, 0.5), (10, 1.0), (35, 0.5), (60, 0.0), (99, 0.0)])
def test_cosine_warms_up_then_falls_to_zero_at_the_last_step(step: int, rate: float) -> None:
    schedule = Schedule(1.0, 10.0, ScheduleOptions(kind="cosine", warmup_epochs=1), 60)
    assert schedule.learning_rate(step) == pytest.approx(rate, abs=1e-12)


def test_a_cosine_without_a_step_after_its_warm_up_is_refused() -> None:
    with pytest.raises(UsageError, match="must end after its warm-up") as caught:
        Schedule(1.0, 10.0, ScheduleOptions(kind="cosine", warmup_epochs=6), 60)
    assert caught.value.got == "60 steps in all, 60 of warm-up"
    assert caught.value.next.endswith("student.schedule.warmup_epochs=0")
    Schedule(1.0, 10.0, ScheduleOptions(kind="cosine", warmup_epochs=0), 60)


def test_constant_warms_up_then_stays() -> None:
    schedule = Schedule(0.5, 10.0, ScheduleOptions(kind="constant", warmup_epochs=1))
    assert [schedule.learning_rate(step) for step in (0, 5, 10, 10_000)] == [0.0, 0.25, 0.5, 0.5]


def test_final_rate_is_the_smooth_rate_one_warm_up_before_the_end() -> None:
    period = decay_epochs_for_final_rate(0.0002, 0.016, total_epochs=200)
    schedule = Schedule(0.016, 1.0, ScheduleOptions(decay_epochs=period, staircase=False))
    assert schedule.learning_rate(195) == pytest.approx(0.0002)


def test_a_recipe_reaches_a_final_rate_and_nothing_changes_without_one() -> None:
    """SVHN in the released code: 0.0002 at the end of 200 epochs; here 10 steps an epoch, batches of 512."""

    def rates(**options: Any) -> Schedule:
        recipe = Recipe(labeled_batch_size=512, epochs=200, schedule=ScheduleOptions(**options))
        return schedule_for(recipe, Length.of(recipe, 5120))

    schedule = rates(final_rate_per_256=0.0002)
    smooth = replace(schedule, options=replace(schedule.options, staircase=False))
    assert smooth.base_rate == pytest.approx(0.032)
    assert smooth.learning_rate(1950) == pytest.approx(0.0004)
    assert rates() == Schedule(0.032, 10.0, total_steps=2000)
    with pytest.raises(NstError, match="of the exponential decay"):
        rates(kind="cosine", final_rate_per_256=0.001)
    with pytest.raises(NstError, match=r"did you mean 'student\.schedule\.decay_rate'"):
        compose_config(["+student.schedule.decay_rat=0.9"])


@pytest.mark.parametrize("total_steps", [None, 50])
def test_impossible_schedules_are_refused(total_steps: int | None) -> None:
    with pytest.raises(NstError, match="must end after"):
        Schedule(0.1, 10.0, ScheduleOptions(kind="cosine"), total_steps)


@pytest.mark.parametrize(
    ("final", "epochs", "decay_rate"), [(0.016, 100, 0.97), (0.0, 100, 0.97), (0.001, 5, 0.97), (0.001, 100, 1)]
)
def test_impossible_final_rates_are_refused(final: float, epochs: float, decay_rate: float) -> None:
    with pytest.raises(NstError):
        decay_epochs_for_final_rate(final, 0.016, epochs, decay_rate=decay_rate)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_tensors("optimizer.npz")


class Variables(nn.Module):
    def __init__(self, golden: dict[str, Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(golden["init/w"].clone())
        self.b = nn.Parameter(golden["init/b"].clone())


def run_rmsprop(
    golden: dict[str, Tensor], rates: str, decay: float, *, tensor_rate: bool = False, **options: Any
) -> dict[str, Tensor]:
    """20 steps under the golden gradients and rates; everything after each step, by golden key."""
    network = Variables(golden)
    optimizer = build_optimizer("rmsprop", parameter_groups(network, decay), 0.1, options, tensor_rate=tensor_rate)
    if tensor_rate:
        rates_as_tensors(optimizer)
        prime(optimizer)
    history: dict[str, list[Tensor]] = {}
    for step in range(20):
        set_learning_rate(optimizer, float(golden[f"lr/{rates}"][step]))
        for name, variable in network.named_parameters():
            variable.grad = golden[f"grad/{name}"][step].clone()
        optimizer.step()
        for name, variable in network.named_parameters():
            state = optimizer.state[variable]
            history.setdefault(f"param_{name}", []).append(variable.detach().clone())
            history.setdefault(f"slot_rms_{name}", []).append(state["square_avg"].clone())
            history.setdefault(f"slot_momentum_{name}", []).append(state["momentum_buffer"].clone())
    return {name: torch.stack(values) for name, values in history.items()}


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize(("label", "decay"), [("nowd", 0.0), ("wd1e-5", 1e-5), ("wd1e-2", 1e-2)])
@pytest.mark.parametrize("rates", ["const", "varying"])
def test_rmsprop_equals_tensorflow(
    golden: dict[str, Tensor], rates: str, label: str, decay: float, foreach: bool | None
) -> None:
    history = run_rmsprop(golden, rates, decay, foreach=foreach)
    assert len(history) == 6
    for name, values in history.items():
        torch.testing.assert_close(values, golden[f"{rates}/{label}/{name}"], rtol=0, atol=2e-6, msg=name)


def test_foreach_makes_no_difference(golden: dict[str, Tensor]) -> None:
    one, many = (run_rmsprop(golden, "varying", 1e-2, foreach=foreach) for foreach in (False, True))
    for name in one:
        torch.testing.assert_close(one[name], many[name], rtol=0, atol=1e-7)


def rates_as_tensors(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = on_device(group["lr"], torch.device("cpu"))


def test_a_rate_in_a_tensor_gives_the_same_steps(golden: dict[str, Tensor]) -> None:
    as_tensor, as_float = (run_rmsprop(golden, "varying", 1e-5, tensor_rate=tensor) for tensor in (True, False))
    for name in as_float:
        torch.testing.assert_close(as_tensor[name], as_float[name], rtol=0, atol=1e-6)


TENSOR_RATE_OPTIONS = [
    ("adamw", {}),
    ("adamw", {"betas": (0.8, 0.95), "eps": 1e-4}),
    ("sgd", {}),
    ("sgd", {"nesterov": False}),
    ("sgd", {"momentum": 0.0, "nesterov": False}),
    ("rmsprop", {"momentum": 0.0}),
]


@pytest.mark.parametrize(("name", "options"), TENSOR_RATE_OPTIONS)
def test_optimisers_with_a_tensor_rate_take_the_steps_of_torchs(name: str, options: dict[str, Any]) -> None:
    """From primed state and through a checkpoint of the other kind in the middle."""
    networks = small_network(), small_network()
    optimizers = [
        build_optimizer(name, parameter_groups(network, 1e-2), 0.1, options, tensor_rate=tensor)
        for network, tensor in zip(networks, (False, True), strict=True)
    ]
    rates_as_tensors(optimizers[1])
    prime(optimizers[1])
    for step in range(8):
        torch.manual_seed(step)
        gradients = [torch.randn_like(parameter) for parameter in networks[0].parameters()]
        for network, optimizer in zip(networks, optimizers, strict=True):
            set_learning_rate(optimizer, 0.1 / (step + 1))
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
        if step == 3:  # state moves freely between the two
            states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
            for group in states[1]["param_groups"]:
                group["lr"] = float(group["lr"])
            optimizers[0].load_state_dict(states[1])
            optimizers[1].load_state_dict(states[0])
            rates_as_tensors(optimizers[1])


def test_priming_makes_the_state_that_the_first_step_would_make() -> None:
    for name in ("rmsprop", "adamw", "sgd"):
        primed, stepped = (build_optimizer(name, parameter_groups(small_network(), 0.0), 0.0) for _ in range(2))
        prime(primed)
        for group in stepped.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        stepped.step()
        for one, other in zip(primed.state.values(), stepped.state.values(), strict=True):
            assert set(one) == set(other), name
            assert all(one[key].shape == other[key].shape for key in one), name


def test_options_that_the_tensor_rate_variants_lack_are_refused() -> None:
    with pytest.raises(NstError, match=r"adamw has no amsgrad[\s\S]*trainer=cpu"):
        build_optimizer("adamw", parameter_groups(small_network(), 0.0), 0.1, {"amsgrad": True}, tensor_rate=True)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5))


def test_weight_decay_is_the_gradient_of_an_l2_loss_without_batchnorm() -> None:
    decayed, explicit = small_network(), small_network()
    by_group = build_optimizer("rmsprop", parameter_groups(decayed, 1e-2), 0.1)
    by_loss = build_optimizer("rmsprop", parameter_groups(explicit, 0.0), 0.1)
    images = torch.randn(8, 3, 4, 4)
    for _ in range(3):
        for network, optimizer in ((decayed, by_group), (explicit, by_loss)):
            optimizer.zero_grad()
            loss = network(images).square().mean()
            if network is explicit:
                for module in (network[0], network[3]):
                    for p in module.parameters():
                        loss = loss + 1e-2 * 0.5 * p.square().sum()
            loss.backward()
            optimizer.step()
    for ours, theirs in zip(decayed.parameters(), explicit.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_biases_are_decayed_and_batchnorm_is_not() -> None:
    network = small_network()
    decayed, undecayed = parameter_groups(network, 1e-5)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (1e-5, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(p) for m in (network[0], network[3]) for p in m.parameters()}
    assert {id(p) for p in undecayed["params"]} == {id(p) for m in (network[1], network[4]) for p in m.parameters()}


def test_batchnorm_of_timm_is_recognised_and_every_parameter_is_in_one_group() -> None:
    with torch.device("meta"):
        network = timm.create_model("tf_efficientnet_b0")
    decayed, undecayed = parameter_groups(network, 1e-5)
    names = {id(p): name for name, p in network.named_parameters()}
    assert all(".bn" in f".{names[id(p)]}" for p in undecayed["params"])
    assert not any(".bn" in f".{names[id(p)]}" for p in decayed["params"])
    assert len(decayed["params"]) + len(undecayed["params"]) == len(names)


def test_frozen_and_shared_parameters() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    network[1].weight = network[0].weight
    network[2].requires_grad_(False)
    (only,) = parameter_groups(network, 0.1)
    assert [id(p) for p in only["params"]] == [
        id(network[0].weight),
        id(network[0].bias),
        id(network[1].bias),
    ]
    with pytest.raises(NstError, match="no trainable"):
        parameter_groups(network.requires_grad_(False), 0.1)


def test_adamw_decouples_the_decay_and_sgd_is_nesterov() -> None:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(2.0)
    adamw = build_optimizer("adamw", parameter_groups(network, 0.1), 0.5)
    network.weight.grad = torch.zeros(1, 1)
    adamw.step()
    assert network.weight.item() == pytest.approx(2.0 * (1 - 0.5 * 0.1))

    network.weight.data.fill_(0.0)
    sgd = build_optimizer("sgd", parameter_groups(network, 0.0), 1.0)
    network.weight.grad = torch.ones(1, 1)
    sgd.step()
    assert network.weight.item() == pytest.approx(-1.9)  # gradient + 0.9 * (first buffer = gradient)


def test_options_override_defaults_and_mistakes_are_explained() -> None:
    groups = parameter_groups(nn.Linear(1, 1), 0.0)
    assert build_optimizer("rmsprop", groups, 0.1, {"eps": 1e-2}).defaults["eps"] == 1e-2
    assert math.isclose(build_optimizer("rmsprop", groups, 0.1).defaults["alpha"], 0.9)
    with pytest.raises(NstError, match="did you mean 'momentum'"):
        build_optimizer("sgd", groups, 0.1, {"momentun": 0.5})
    with pytest.raises(NstError, match=r"sgd refuses[\s\S]*student\.optimizer\.nesterov=true"):
        build_optimizer("sgd", groups, 0.1, {"momentum": 0.0})
    with pytest.raises(NstError, match=r"valid: by default student\.optimizer\.eps=1e-08$"):
        build_optimizer("adamw", groups, 0.1, {"eps": -1})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_has_its_rate_and_its_decay_from_options_of_their_own(name: str) -> None:
    for option, place in {"lr": "student.optimizer.rate_per_256", "weight_decay": "student.weight_decay"}.items():
        with pytest.raises(UsageError, match=place):
            require_options(name, {option: 0.1})
    for option in ("params", "capturable", "differentiable"):
        with pytest.raises(UsageError, match="has no such option"):
            require_options(name, {option: True})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("value", [True, -1, 0.5, 2, [], [0.9], [0.9, 0.99], [0.9, True], [1, 2, 3]], ids=str)
def test_every_value_of_every_option_makes_an_optimiser_or_a_sentence(name: str, value: Any) -> None:
    for option in [*inspect.signature(OPTIMIZERS[name][0]).parameters, "name", "groups", "tensor_rate"]:
        weight = nn.Parameter(torch.ones(1))
        with contextlib.suppress(UsageError):
            optimizer = build_optimizer(name, [{"params": [weight]}], 0.1, {option: value})
            weight.grad = torch.ones(1)
            optimizer.step()


def test_options_of_an_optimiser_are_told_before_anything_is_written(tiny: Compose, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"student.optimizer.betas cannot be this[\s\S]*2 numbers"):
        train.from_cfg(tiny("+student.optimizer.betas=0.9"))
    assert not (tmp_path / "run").exists()
