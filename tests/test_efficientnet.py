"""EfficientNet against the released code: shapes, rates, and whole forward passes (golden/forward.npz)."""

from __future__ import annotations

import copy
import functools
import math
import re
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from helpers import golden_arrays, golden_rows
from timm.models._efficientnet_builder import round_channels
from tiny_networks import TINY, random_images
from torch import Tensor, nn

from nst.errors import NstError
from nst.models.architectures import (
    ARCHITECTURES,
    HEAD_CHANNELS,
    STAGES,
    STEM_CHANNELS,
    Architecture,
    Parameter,
    block_counts,
    parameters,
)
from nst.models.batch_norm import BatchNorm
from nst.models.efficientnet import IMAGENET_MEAN, IMAGENET_STD, EfficientNet, build, normalize
from nst.models.noise import StochasticDepth
from nst.recipes.network_table import NETWORKS
from nst.training.optim import NORMS


@functools.cache
def reference_network(model: str) -> EfficientNet:
    """Network of a row of architectures.csv, without memory for its weights."""
    row = next(row for row in golden_rows("architectures.csv") if row["model"] == model)
    short = re.match(r"efficientnet-(\w\d)", model)
    known = ARCHITECTURES[f"efficientnet_{short.group(1)}"]
    small = row["small_image_model"] == "1"
    with torch.device("meta"):
        architecture = Architecture(known.width, known.depth, dropout=known.dropout, small_images=small)
        return build(architecture, int(row["classes"])).eval()


def block_table(network: EfficientNet) -> list[dict[str, Any]]:
    """One row per residual block: where it is, its shape, and its stochastic depth rate.

    `rate_by_rule` is the linear rule's, `rate_applied` what the block uses: None where there is no skip.
    """
    places = [
        (stage, block) for stage, blocks in enumerate(network.blocks, start=1) for block in cast(nn.Sequential, blocks)
    ]
    return [_block_row(network, index, stage, block) for index, (stage, block) in enumerate(places)]


def _block_row(network: EfficientNet, index: int, stage: int, block: Any) -> dict[str, Any]:
    expands = hasattr(block, "conv_pwl")  # conv_pw expands in an inverted residual, projects in stage 1's blocks
    first, last = (block.conv_pw, block.conv_pwl) if expands else (block.conv_dw, block.conv_pw)
    return {
        "index": index,
        "stage": stage,
        "kernel": block.conv_dw.kernel_size[0],
        "expand": block.conv_dw.in_channels // first.in_channels,
        "in_channels": first.in_channels,
        "out_channels": last.out_channels,
        "stride": block.conv_dw.stride[0],
        "has_skip": block.has_skip,
        "rate_by_rule": network.stochastic_depth_rate(index),
        "rate_applied": block.drop_path.rate if block.has_skip else None,
    }


MODELS = [row["model"] for row in golden_rows("architectures.csv")]


# --- shapes and rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", golden_rows("architectures.csv"), ids=MODELS)
def test_tensors_and_parameters_are_counted_as_in_the_released_code(row):
    network = reference_network(row["model"])
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    in_norms = sum(parameter.numel() for module in norms for parameter in module.parameters())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    table = block_table(network)
    measured = {
        "num_blocks": len(table),
        "blocks_with_skip": sum(block["has_skip"] for block in table),
        "trainable_params": parameters,
        "weight_decayed_params": parameters - in_norms,  # biases are decayed, BatchNorm is not
        "bn_gamma_beta_params": in_norms,
        "bn_moving_stats": sum(module.running_mean.numel() + module.running_var.numel() for module in norms),
        "trainable_tensors": len(list(network.parameters())),
        "ema_tensors": len(list(network.parameters())) + 2 * len(norms),
        "stem_channels": network.conv_stem.out_channels,
        "head_channels": network.conv_head.out_channels,
    }
    assert measured == {name: int(row[name]) for name in measured}
    assert network.dropout.rate == float(row["dropout"])


@pytest.mark.parametrize("row", golden_rows("architectures.csv"), ids=MODELS)
def test_maps_have_the_sizes_of_the_released_code(row):
    network = reference_network(row["model"])
    size = int(row["input_size"])
    x = network.bn1(network.conv_stem(torch.empty(1, 3, size, size, device="meta")))
    assert x.shape[-1] == int(row["stem_size"])
    sizes, channels = [], []
    for stage in network.blocks:
        x = stage(x)
        sizes.append(x.shape[-1])
        channels.append(x.shape[1])
    assert sizes == [int(value) for value in row["stage_out_sizes"].split()]
    assert channels == [int(value) for value in row["stage_out_channels"].split()]
    assert sizes[-1] == int(row["final_map"])


@pytest.mark.parametrize("model", MODELS)
def test_stochastic_depth_is_linear_over_all_blocks_and_applied_where_a_skip_exists(model):
    expected = [row for row in golden_rows("stochastic_depth.csv") if row["model"] == model]
    network = reference_network(model)
    table = block_table(network)
    assert len(table) == len(expected) > 0
    for block, row in zip(table, expected, strict=True):
        names = {"index": "block"} | {
            name: name for name in ("stage", "kernel", "expand", "in_channels", "out_channels", "stride", "has_skip")
        }
        assert {ours: int(block[ours]) for ours in names} == {ours: int(row[name]) for ours, name in names.items()}
        assert block["rate_by_rule"] == pytest.approx(float(row["rate_by_rule"]), abs=1e-15)
        applied = float(row["rate_applied"]) if row["rate_applied"] else None
        assert block["rate_applied"] == pytest.approx(applied, abs=1e-15)
    noise = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    assert len(noise) == sum(row["has_skip"] == "1" for row in expected)


def test_the_table_names_what_the_paper_trains():
    assert list(ARCHITECTURES) == [f"efficientnet_b{n}" for n in range(8)] + [f"efficientnet_l{n}" for n in range(3)]
    assert all(name == architecture.name for name, architecture in ARCHITECTURES.items())
    sizes = {name: (a.train_size, a.test_size) for name, a in ARCHITECTURES.items()}
    assert sizes["efficientnet_b7"] == (600, 600)
    assert sizes["efficientnet_l0"] == sizes["efficientnet_l1"] == (380, 600)
    assert sizes["efficientnet_l2"] == (475, 800)


@pytest.mark.parametrize("name", ["b0", "b4", "l2"])
def test_names_and_shapes_are_timms(name):
    with torch.device("meta"):
        theirs = timm.create_model(f"tf_efficientnet_{name}", num_classes=17).state_dict()
        ours = build(ARCHITECTURES[f"efficientnet_{name}"], 17).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_block_counts_agree_with_the_network():
    assert block_counts(ARCHITECTURES["efficientnet_b4"]) == [2, 4, 4, 6, 6, 8, 2]
    assert block_counts(TINY) == [len(stage) for stage in build(TINY, 10).blocks]


@pytest.mark.parametrize("small_images", [False, True])
@pytest.mark.parametrize(
    ("width", "depth"), [*((row.width, row.depth) for row in NETWORKS), (0.25, 0.25), (0.3, 0.1), (1.93, 2.01)]
)
def test_parameters_are_known_without_the_network(width: float, depth: float, small_images: bool):
    """Names, sizes and whose they are, in the order of the modules."""
    architecture = Architecture(width, depth, small_images=small_images)
    with torch.device("meta"):
        network = build(architecture, 17)
    norms = {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    built = [Parameter(name, each.numel(), name in norms) for name, each in network.named_parameters()]
    assert list(parameters(architecture, 17)) == built


def test_channels_are_rounded_as_timm_does():
    bases = (STEM_CHANNELS, HEAD_CHANNELS, *(stage.channels for stage in STAGES))
    for width in map(float, np.linspace(0.02, 8, 600)):
        found = [Architecture(width, 1.0).channels(base) for base in bases]
        assert found == [round_channels(base, width) for base in bases], width


def test_tiny_network_runs_at_16_px():
    network = build(TINY, 10)
    assert network(torch.randn(4, 3, 16, 16)).shape == (4, 10)
    assert network.forward_features(torch.randn(4, 3, 16, 16)).shape[-1] == 2


# --- forward passes -----------------------------------------------------------------------------------------


def our_name(variable: str) -> str:
    """TensorFlow's name of a variable of B0 in ours."""
    place, rest = variable.split("/", 1)
    leaf = {
        "kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias",
        "moving_mean": "running_mean", "moving_variance": "running_var",
    }[rest.rsplit("/", 1)[1]]  # fmt: skip
    module = rest.rsplit("/", 1)[0].removeprefix("tpu_")
    if place == "stem":
        return f"{ {'conv2d': 'conv_stem', 'batch_normalization': 'bn1'}[module] }.{leaf}"
    if place == "head":
        return f"{ {'conv2d': 'conv_head', 'batch_normalization': 'bn2', 'dense': 'classifier'}[module] }.{leaf}"
    number = int(place.removeprefix("blocks_"))
    convolutions = ["conv_pw"] if number == 0 else ["conv_pw", "conv_pwl"]
    modules = {"depthwise_conv2d": "conv_dw", "se/conv2d": "se.conv_reduce", "se/conv2d_1": "se.conv_expand"}
    for kind, names in (("conv2d", convolutions), ("batch_normalization", ["bn1", "bn2", "bn3"])):
        modules |= {kind + (f"_{i}" if i else ""): name for i, name in enumerate(names)}
    repeats = block_counts(ARCHITECTURES["efficientnet_b0"])
    stage = next(stage for stage in range(len(repeats)) if number < sum(repeats[: stage + 1]))
    return f"blocks.{stage}.{number - sum(repeats[:stage])}.{modules[module]}.{leaf}"


def recipe(row: dict[str, str]) -> np.ndarray:
    """Weights by the reference's recipe, in TensorFlow's layout; checked against the recorded sums."""
    shape = tuple(int(size) for size in row["shape"].split("x"))
    n = np.random.RandomState(1000 + int(row["index"])).standard_normal(shape)
    kind = row["kind"]
    if kind == "kernel":
        n = n * np.sqrt(2 / np.prod(shape[:-1]))
    elif kind == "depthwise_kernel":
        n = n * np.sqrt(2 / np.prod(shape[:2]))
    elif kind == "gamma":
        n = 1 + 0.1 * n
    elif kind == "moving_variance":
        n = 1 + 0.5 * np.abs(n)
    else:
        assert kind in ("bias", "beta", "moving_mean")
        n = 0.1 * n
    weights = n.astype(np.float32)
    assert weights.sum(dtype=np.float64) == pytest.approx(float(row["sum"]), abs=1e-6)
    assert np.abs(weights).sum(dtype=np.float64) == pytest.approx(float(row["abs_sum"]), rel=1e-9)
    return weights


def our_layout(kind: str, weights: np.ndarray) -> Tensor:
    order = {("kernel", 4): (3, 2, 0, 1), ("kernel", 2): (1, 0), ("depthwise_kernel", 4): (2, 3, 0, 1)}
    return torch.from_numpy(np.ascontiguousarray(weights.transpose(order.get((kind, weights.ndim), (0,)))))


CONFIGS = {"b0_small32_c10": (True, 10), "b0_224_c1000": (False, 1000), "b0_odd75_c10": (False, 10)}


@functools.cache
def recipe_state(config: str) -> dict[str, Tensor]:
    # the file lists one configuration in full, and of the others what differs
    variables = {row["index"]: row for row in golden_rows("forward_variables.csv") if row["config"] == "b0_small32_c10"}
    variables |= {row["index"]: row for row in golden_rows("forward_variables.csv") if row["config"] == config}
    return {our_name(row["variable"]): our_layout(row["kind"], recipe(row)) for row in variables.values()}


def recipe_network(config: str) -> EfficientNet:
    small, classes = CONFIGS[config]
    architecture = Architecture(1.0, 1.0, small_images=small)
    network = build(architecture, classes, dropout=0.0, stochastic_depth=0.0)
    state = recipe_state(config)
    learned = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    assert learned == state.keys()
    network.load_state_dict(state)
    return network


@functools.cache
def golden() -> dict[str, np.ndarray]:
    return golden_arrays("forward.npz")


def golden_input(config: str) -> Tensor:
    if f"{config}/input" in golden():
        images = golden()[f"{config}/input"]
    else:
        pictures = np.stack([golden()["chelsea_224"], golden()["astronaut_224"]]).astype(np.float64)
        images = ((pictures - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)).astype(np.float32)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def run_with_taps(network: EfficientNet, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the outputs of the stem and of every block."""
    taps: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, args, output: taps.append(output.detach().clone()))
        for module in (network.bn1, *network.residual_blocks)
    ]
    with torch.no_grad():
        logits = network(images)
    for hook in hooks:
        hook.remove()
    return logits, taps


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("config", CONFIGS)
def test_forward_equals_the_released_code(config, mode):
    tolerance = 1e-5 if mode == "eval" else 1e-4
    reference = {
        key.removeprefix(f"{config}/{mode}/"): value
        for key, value in golden().items()
        if key.startswith(f"{config}/{mode}/")
    }
    network = recipe_network(config).train(mode == "train")
    logits, taps = run_with_taps(network, golden_input(config))
    np.testing.assert_allclose(logits.numpy(), reference["logits"], rtol=0, atol=tolerance)
    last = taps[-1][:, :16].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(last, reference["last_block_features"], rtol=tolerance, atol=10 * tolerance)
    moments = np.array([[tap.double().mean(), tap.double().std(correction=0)] for tap in taps])
    expected = np.vstack([reference["stem_mean_std"], reference["block_mean_std"]])
    np.testing.assert_allclose(moments, expected, rtol=tolerance, atol=tolerance)
    shapes = [[tap.shape[2], tap.shape[3], tap.shape[1]] for tap in taps[1:]]
    assert shapes == reference["block_shape_hwc"].tolist()


@pytest.mark.parametrize("config", CONFIGS)
def test_running_statistics_move_by_one_percent_of_the_batch(config):
    network = recipe_network(config)
    counts: dict[str, int] = {}  # values per channel that each BatchNorm saw
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda module, args, output, name=name: counts.__setitem__(name, args[0].numel() // args[0].shape[1])
            )
    network(golden_input(config))
    prefix = f"{config}/train/after_one_update/"
    updates = {key.removeprefix(prefix): value for key, value in golden().items() if key.startswith(prefix)}
    assert len(updates) == 6
    for variable, expected in updates.items():
        name = our_name(variable)
        moved = network.state_dict()[name].double()
        if name.endswith("running_var"):
            # TensorFlow averages the biased variance, PyTorch the unbiased one: n / (n - 1) larger
            kept, n = 0.99 * recipe_state(config)[name].double(), counts[name.rpartition(".")[0]]
            moved = kept + (moved - kept) * (n - 1) / n
        np.testing.assert_allclose(moved.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_small_image_variant_only_moves_strides():
    # same weights, other strides: the variant sees 4 x 4 where the plain network sees 1 x 1
    state = recipe_state("b0_small32_c10")
    plain = build(Architecture(1.0, 1.0), 10).eval()
    plain.load_state_dict(state)
    images = golden_input("b0_small32_c10")
    assert plain.forward_features(images).shape[-1] == 1
    assert recipe_network("b0_small32_c10").eval().forward_features(images).shape[-1] == 4


# --- initialisation -----------------------------------------------------------------------------------------


def test_initialisation_is_the_released_codes():
    torch.manual_seed(0)
    network = build(ARCHITECTURES["efficientnet_b0"], 100)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            fan_out = kernel if module.groups > 1 else kernel * module.out_channels
            deviation, count = math.sqrt(2 / fan_out), module.weight.numel()
            measured = module.weight.std(correction=0).item()
            assert abs(measured / deviation - 1) < 5 / math.sqrt(2 * count), name  # 5 deviations of the estimate
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.momentum, module.eps) == (0.01, 1e-3)
            assert module.weight.eq(1).all()
            assert not module.bias.any()
    largest = network.classifier.weight.abs().max().item()
    assert 0.099 < largest <= 0.1  # uniform within 1 / sqrt(100)
    assert not network.classifier.bias.any()


# --- noise in the network -----------------------------------------------------------------------------------


def tiny(seed: int = 0, **rates: float) -> EfficientNet:
    torch.manual_seed(seed)
    # depth 1 so that blocks with a skip exist
    return build(Architecture(0.35, 1.0, small_images=True), 10, **rates)


def tiny_images(batch: int = 8) -> Tensor:
    return random_images(16, batch, seed=9)


CLEAN_SECOND_HALF = torch.tensor([1.0] * 4 + [0.0] * 4)


def test_masked_dropout_leaves_clean_samples_and_batch_norm_as_without_noise():
    noised, plain = tiny(dropout=0.5, stochastic_depth=0.0), tiny(dropout=0.0, stochastic_depth=0.0)
    noised.set_noise(dropout=CLEAN_SECOND_HALF)
    ours, expected = noised(tiny_images()), plain(tiny_images())
    assert torch.equal(ours[4:], expected[4:])
    assert not torch.isclose(ours[:4], expected[:4]).all(1).any()
    # dropout comes after the last BatchNorm: its statistics are those of the whole batch without noise
    buffers = dict(plain.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in noised.named_buffers())


def test_masked_stochastic_depth_leaves_clean_samples_exactly():
    noised, plain = tiny(dropout=0.0, stochastic_depth=0.9), tiny(dropout=0.0, stochastic_depth=0.0)
    for network in (noised, plain):  # fixed statistics, so that a sample does not feel the others
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    noised.set_noise(stochastic_depth=CLEAN_SECOND_HALF)
    torch.manual_seed(0)
    ours, expected = noised(tiny_images()), plain(tiny_images())
    assert torch.equal(ours[4:], expected[4:])
    assert not torch.isclose(ours[:4], expected[:4]).all(1).any()


def test_batch_norm_sees_clean_and_noised_samples_together():
    noised, plain = tiny(dropout=0.0, stochastic_depth=0.9), tiny(dropout=0.0, stochastic_depth=0.0)
    noised.set_noise(stochastic_depth=CLEAN_SECOND_HALF)
    torch.manual_seed(0)
    ours, expected = noised(tiny_images()), plain(tiny_images())
    assert torch.equal(noised.bn1.running_mean, plain.bn1.running_mean)  # no noise before the stem's
    assert not torch.equal(noised.bn2.running_mean, plain.bn2.running_mean)
    assert not torch.equal(ours[4:], expected[4:])  # through the shared statistics
    noised, plain = tiny(dropout=0.5, stochastic_depth=0.9), tiny(dropout=0.0, stochastic_depth=0.0)
    noised.set_noise(torch.zeros(8), torch.zeros(8))
    assert torch.equal(noised(tiny_images()), plain(tiny_images()))


def test_eval_mode_is_never_noised_whatever_the_masks():
    noised, plain = (
        tiny(dropout=0.5, stochastic_depth=0.9).eval(),
        tiny(dropout=0.0, stochastic_depth=0.0).eval(),
    )
    noised.set_noise(torch.ones(8), torch.ones(8))
    assert torch.equal(noised(tiny_images()), plain(tiny_images()))


def test_rematerialisation_changes_neither_gradients_nor_statistics():
    gradients, statistics = [], []
    for checkpointing in (False, True):
        network = tiny(dropout=0.5, stochastic_depth=0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # a recipe's own must survive the second run
        network.set_grad_checkpointing(checkpointing)
        network.set_noise(CLEAN_SECOND_HALF, CLEAN_SECOND_HALF)
        torch.manual_seed(3)
        network(tiny_images()).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        statistics.append({n: v for n, v in network.named_buffers() if not n.endswith("num_batches_tracked")})
        assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    for plain, rematerialised in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, rematerialised)
    for name, value in statistics[0].items():
        assert torch.equal(value, statistics[1][name]), name  # moved once, not again by the second run


def test_a_deep_copied_network_has_its_own_switch():
    network = tiny()
    twin = copy.deepcopy(network)
    network.set_noise(torch.zeros(8), torch.zeros(8))
    assert twin.noise.dropout is None
    twin.set_noise(torch.ones(8), torch.ones(8))
    switches = {id(m.switch) for m in twin.modules() if hasattr(m, "switch")}
    assert switches == {id(twin.noise)}
    assert id(network.noise) not in switches


# --- freezing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 16])
def test_frozen_blocks_neither_learn_nor_move_their_statistics(count):
    network = tiny()
    network.freeze_blocks(count)
    network.eval().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(tiny_images()).square().sum().backward()
    parts = [module for *_, modules in network.parts()[: count + 1] for module in modules]
    frozen = tuple(f"{name}." for name, module in network.named_modules() if module in parts)
    assert len(frozen) == 2 + count
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == name.startswith(frozen), name


def test_the_batchnorm_of_frozen_blocks_stays_in_eval_mode():
    """In which it exchanges nothing with other ranks either."""
    network = tiny()
    network.freeze_blocks(3)
    network.train()
    parts = [module for *_, modules in network.parts()[:4] for module in modules]
    norms = [m for part in parts for m in part.modules() if isinstance(m, BatchNorm)]
    assert len(norms) > 5
    assert not any(norm.training for norm in norms)
    assert network.bn2.training


def test_freezing_nothing_frees_everything():
    network = tiny()
    network.freeze_blocks(4)
    twin = copy.deepcopy(network).train()
    assert twin.frozen_blocks == 4
    assert not twin.bn1.training
    network.freeze_blocks(0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())
    network.eval().freeze_blocks(2)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("count", [-1, 17])
def test_freezing_more_than_there_is_is_refused(count):
    with pytest.raises(NstError, match="0 to 16"):
        tiny().freeze_blocks(count)


# --- input and errors ---------------------------------------------------------------------------------------


def test_normalize_is_mean_and_deviation_of_imagenet():
    pictures = np.stack([golden()["chelsea_224"], golden()["astronaut_224"]])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # channels_last in memory
    normalised = normalize(images)
    expected = golden_input("b0_224_c1000")
    torch.testing.assert_close(normalised, expected, rtol=1e-6, atol=1e-6)
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert normalize(images.contiguous()).is_contiguous()


def test_normalize_passes_gradients_to_float_images():
    images = torch.full((1, 3, 2, 2), 100.0, requires_grad=True)
    normalize(images).sum().backward()
    torch.testing.assert_close(images.grad[0, :, 0, 0], 1 / torch.tensor(IMAGENET_STD))


@pytest.mark.parametrize(
    ("architecture", "classes", "rates"),
    [
        (TINY, 0, {}),
        (Architecture(0.0, 1.0), 10, {}),
        (Architecture(1.0, -1.0), 10, {}),
        (TINY, 10, {"dropout": 1.0}),
    ],
)
def test_impossible_networks_are_refused(architecture, classes, rates):
    with pytest.raises(NstError, match="valid"):
        build(architecture, classes, **rates)
