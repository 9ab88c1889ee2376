"""What a plan counts, against independent counts; how it scales; what it prints; what the TPU compiler confirms."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from nst.cli import dispatch
from nst.config import compose_config, job_from
from nst.data.prediction_files import write_predictions
from nst.data.predictions import PredictionMetadata
from nst.data.shard_set import ShardSet
from nst.data.views import turns
from nst.errors import NstError
from nst.models.efficientnet import ARCHITECTURES, Architecture, build
from nst.plan import budget, paper_costs
from nst.plan.budget import Numerics, PhaseCost
from nst.plan.chips import CHIPS, EXAMPLES, GIB, cluster
from nst.plan.dataset_size import KEY, DatasetSize, find_images
from nst.plan.layer_costs import measure
from nst.plan.rates import Measurement, Rates, assumed, read_measurements, view_seconds
from nst.plan.tables import duration, memory, number, short, size, stages, tables
from nst.settings.data import DataOptions, Pictures, SourceOptions
from nst.settings.job import SurveyJob
from nst.settings.learning import OptimizerOptions, Recipe
from nst.settings.stages import PlanCounts
from nst.stages import plan
from nst.training.optim import build_optimizer, parameter_groups
from nst.training.phases import Length
from nst.xla import aot
from nst.xla.program import Collective, TrainStep, collectives
from tests.composing import made
from tests.tiny_networks import TINY

GOLDEN = list(csv.DictReader((Path(__file__).parent / "golden" / "architectures.csv").open()))
L2 = ["student=efficientnet_l2", "data=imagenet", "trainer=tpu_pod"]


def planned(*overrides: str) -> dict:
    """The plan for these options, from a folder without shards."""
    config = compose_config([*overrides, "stage=plan"])
    config.overrides = list(overrides)
    return plan.run(job_from(SurveyJob, config))


def training(model: str = "efficientnet_b0", **recipe) -> PhaseCost:
    architecture = ARCHITECTURES[model]
    cost = measure(architecture, 1000, architecture.train_size)
    made = Recipe(**recipe)
    return PhaseCost(1, "train", model, cost, made, Length.of(made, 1_281_167).steps)


# ---- the network


@pytest.mark.parametrize(
    ("model", "gmacs"),
    [("b0", 0.39), ("b1", 0.69), ("b2", 0.99), ("b3", 1.83), ("b4", 4.39), ("b5", 10.27), ("b6", 19.07), ("b7", 37.75),
     ("l0", 32.85), ("l1", 64.87), ("l2", 170.89)],
)  # fmt: skip
def test_multiply_accumulates_are_those_of_the_papers_networks(model: str, gmacs: float):
    architecture = ARCHITECTURES[f"efficientnet_{model}"]
    assert measure(architecture, 1000, architecture.train_size).macs / 1e9 == pytest.approx(gmacs, abs=0.006)


@pytest.mark.parametrize("row", [row for row in GOLDEN if row["small_image_model"] == "0" and row["classes"] == "1000"],
                         ids=lambda row: row["model"])  # fmt: skip
def test_parameters_and_statistics_are_the_released_codes(row: dict[str, str]):
    model = row["model"].partition("(")[0].replace("-", "_")
    cost = measure(ARCHITECTURES[model], 1000, int(row["input_size"]))
    assert cost.parameters == int(row["trainable_params"])
    assert cost.statistics == int(row["bn_moving_stats"])


@pytest.mark.parametrize("image_size", [16, 23])
def test_every_convolution_is_counted_as_torchs_own_counter_does(image_size: int):
    network = build(TINY, 10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.randn(1, 3, image_size, image_size))
    assert 2 * measure(TINY, 10, image_size).macs == counter.get_total_flops()


def test_a_backward_pass_works_twice_as_much_as_a_forward():
    """By torch's counter, layer by layer; depthwise ones, which it counts as if they were dense, apart."""
    with FlopCounterMode(display=False) as counter:
        build(TINY, 10)(torch.randn(2, 3, 16, 16)).sum().backward()
    layers = {name: list(counts.values()) for name, counts in counter.get_flop_counts().items() if len(counts) == 2}
    dense = {
        name: work for name, work in layers.items() if name.rpartition(".")[2] in ("conv_pw", "conv_pwl", "conv_head")
    }
    assert len(dense) > 10
    assert all(backward == 2 * forward for forward, backward in dense.values())
    cost = measure(TINY, 10, 16)
    assert cost.training_flops() == 3 * cost.inference_flops


def test_frozen_blocks_work_forward_only_and_keep_nothing():
    cost = measure(TINY, 10, 16)
    frozen = cost.parts[:4]  # stem and three blocks
    saved = 4 * sum(part.macs for part in frozen)
    assert cost.training_flops(3) == cost.training_flops() - saved
    assert cost.training_flops(0, remat=True) == cost.training_flops() + 2 * sum(p.macs for p in cost.parts if p.block)
    whole, top = (replace(training(), cost=cost, recipe=Recipe(frozen_blocks=count)) for count in (0, 3))
    assert budget.trainable(top) == budget.trainable(whole) - sum(part.parameters for part in frozen)
    for compiled in (True, False):
        less, all_ = (budget.activation_bytes(t, Numerics(), compiled=compiled, remat=False) for t in (top, whole))
        assert less < all_


def test_activations_without_a_compiler_are_what_a_real_backward_pass_keeps():
    torch.manual_seed(0)
    network, kept = build(TINY, 10), {}
    weights = {parameter.data_ptr() for parameter in network.parameters()}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights and tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(torch.randn(4, 3, 16, 16))
    images = sum(tensor.numel() for tensor in kept.values() if tensor.ndim > 1 and len(tensor) == 4)
    assert 4 * sum(part.saved for part in measure(TINY, 10, 16).parts) == images


# ---- memory, traffic, time


@pytest.mark.parametrize("model", ["efficientnet_b0", "efficientnet_b7", "efficientnet_l2"])
@pytest.mark.parametrize("hardware", ["v3:32x32", "h100:2048"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_rematerialisation_spares_activations_and_nothing_else(model: str, hardware: str, precision: str):
    numerics = Numerics.of(precision)
    kept, remat = (
        budget.memory(training(model), cluster(hardware), numerics, remat=choice) for choice in (False, True)
    )
    assert remat.activations < 0.8 * kept.activations
    assert replace(remat, activations=kept.activations) == kept


def test_memory_of_l2_is_near_what_the_tpu_compiler_found():
    """Its run in GiB: 475 px, 4 images a core, no EMA: arguments 5.49, temporaries 7.89, with remat 2.71."""
    l2, pod, numerics = training("efficientnet_l2"), cluster("v3:32x32"), Numerics.of("bf16-mixed")
    kept, remat = (budget.memory(l2, pod, numerics, remat=choice) for choice in (False, True))
    assert (kept.parameters + kept.optimizer + kept.batch) / GIB == pytest.approx(5.49, rel=0.03)
    narrow = kept.gradients / 2  # in that run the gradients were bfloat16
    assert (kept.activations + narrow) / GIB == pytest.approx(7.89, rel=0.1)
    assert (remat.activations + narrow) / GIB == pytest.approx(2.71, rel=0.15)


def test_micro_batches_divide_the_activations_and_nothing_else():
    numerics, eight = Numerics.of("bf16-mixed"), cluster("h100:8")
    one, four = (
        budget.memory(replace(training("efficientnet_b7"), accumulate=parts), eight, numerics, remat=True)
        for parts in (1, 4)
    )
    assert one.activations == 4 * four.activations
    assert replace(four, activations=one.activations) == one
    with pytest.raises(NstError, match="micro-batches") as told:
        budget.images_per_core(replace(training(), accumulate=3), eight)
    assert "student.labeled_batch_size=2064" in str(told.value)


@pytest.mark.parametrize("model", ["efficientnet_b7", "efficientnet_l2"])
def test_plan_names_the_fewest_micro_batches_that_fit_and_they_do(model: str):
    common = [f"student={model}", "data=imagenet", "trainer=gpu_ddp", "plan.hardware=h100:8", "model.remat=true"]
    found = planned(*common)
    parts, limit = found["memory"]["remat"]["accumulate"], found["cluster"]["memory_per_core"]
    assert found["memory"]["cure"] == f"trainer.accumulate={parts}"
    shown = io.StringIO()
    Console(file=shown, width=100).print(memory(found))
    assert f"does not fit; what does: trainer.accumulate={parts}" in shown.getvalue()
    for count, enough in ((parts, True), (parts // 2, False)):  # shares of 256 images: powers of two
        again = planned(*common, f"trainer.accumulate={count}")
        assert (again["memory"]["remat"]["total"] <= limit) is enough
        assert (again["memory"]["cure"] is None) is enough
    assert planned(*common[:-1], "model.remat=false")["memory"]["cure"].startswith("trainer.accumulate=")


def test_twice_the_cores_halve_what_depends_on_images_only():
    small, large = (
        budget.memory(training(), cluster(name), Numerics(), remat=False) for name in ("v3:16x16", "v3:16x32")
    )
    assert small.activations == 2 * large.activations
    assert small.batch == 2 * large.batch
    assert (small.parameters, small.optimizer, small.ema) == (large.parameters, large.optimizer, large.ema)


@pytest.mark.parametrize(
    "options",
    [{"name": "rmsprop"}, {"name": "adamw"}, {"name": "sgd"}, {"name": "sgd", "momentum": 0.0, "nesterov": False}],
)
def test_optimiser_state_is_what_a_real_optimiser_keeps(options: dict):
    network = build(TINY, 10)
    more = {name: value for name, value in options.items() if name != "name"}
    optimizer = build_optimizer(options["name"], parameter_groups(network, 1e-5), 0.1, more)
    network(torch.randn(4, 3, 16, 16)).sum().backward()
    optimizer.step()
    state = sum(
        value.numel() for values in optimizer.state.values() for name, value in values.items()
        if name != "step" and value is not None
    )  # fmt: skip
    slots = budget.optimizer_slots(Recipe(optimizer=made(OptimizerOptions, options)))
    assert state == slots * sum(parameter.numel() for parameter in network.parameters())


def test_all_reduce_of_b0_is_its_gradients_and_batchnorms_sums():
    wide, narrow = (
        budget.all_reduce_bytes(training(), Numerics.of("bf16-mixed", dtype)) for dtype in ("float32", "bfloat16")
    )
    assert wide == 4 * 5_288_548 + 2 * 4 * 42_016
    assert narrow == 2 * 5_288_548 + 2 * 4 * 42_016
    assert budget.step(training(), cluster("cpu:4"), Numerics(), 0.1).all_reduce_bytes == 0


def test_time_falls_with_cores_and_utilisation_and_grows_with_work():
    base = budget.step(training(), cluster("v3:16x16"), Numerics(), 0.05)
    assert base.seconds == pytest.approx(base.flops / (0.05 * 512 * 61.5e12))
    assert base.images_per_second == pytest.approx(8192 / base.seconds)
    assert budget.step(training(), cluster("v3:16x32"), Numerics(), 0.05).seconds == pytest.approx(base.seconds / 2)
    assert budget.step(training(), cluster("v3:16x16"), Numerics(), 0.10).seconds == pytest.approx(base.seconds / 2)
    half = budget.step(training(labeled_batch_size=1024), cluster("v3:16x16"), Numerics(), 0.05)
    assert half.flops == base.flops // 2
    remat = budget.step(replace(training(), remat=True), cluster("v3:16x16"), Numerics(), 0.05)
    assert 1.3 < remat.seconds / base.seconds < 1.34


@pytest.mark.parametrize(
    ("name", "cores", "hosts", "gib", "teraflops"),
    [("v2:4x4", 32, 4, 8, 22.5), ("v3:32x32", 2048, 256, 16, 61.5), ("v4:4x4x8", 128, 32, 32, 275),
     ("v5e:16x16", 256, 64, 16, 197), ("v5p:2x2x1", 4, 1, 95, 459), ("v6e:4x4", 16, 4, 32, 918),
     ("v5e:2x4", 8, 1, 16, 197), ("v6e:1x1", 1, 1, 32, 918)],
)  # fmt: skip
def test_slices_have_the_cores_of_their_chips(name: str, cores: int, hosts: int, gib: float, teraflops: float):
    found = cluster(name)
    assert (found.cores, found.hosts) == (cores, hosts)
    assert (found.chip.memory, found.chip.peak) == (gib * GIB, teraflops * 1e12)


def test_examples_of_hardware_are_valid_and_every_chip_can_be_named():
    for name in EXAMPLES.split(", "):
        assert cluster(name).cores > 0
    for chip in CHIPS.values():
        assert cluster(f"{chip.name}:{'x'.join(['2'] * max(chip.dimensions, 1))}").chip is chip


# ---- rates


def test_assumed_shares_are_of_the_chip_and_the_network_and_stated_ones_of_all():
    numerics, card = Numerics.of("bf16-mixed"), CHIPS["h100"]
    b0, l2 = training().cost, training("efficientnet_l2").cost
    kept = 2 * sum(part.saved for part in b0.parts)
    small, large = assumed(b0, card, numerics).value, assumed(l2, card, numerics).value
    assert small * card.peak / b0.training_flops() == pytest.approx(3.35e12 / (24 * kept)), "images/s by bandwidth"
    assert (small, large) == (pytest.approx(0.0074, rel=0.02), pytest.approx(0.036, rel=0.02))
    assert assumed(b0, card, Numerics()).value == pytest.approx(small / 2), "twice the bytes in float32"
    for cost in (b0, l2):
        assert assumed(cost, CHIPS["v3"], numerics).value == 0.05
    rates = Rates(stated=0.2)
    assert rates.share("efficientnet_b0", b0, card, numerics, work="train", remat=False).value == 0.2


def test_a_measurement_of_the_card_and_network_goes_before_the_assumption(tmp_path: Path):
    rows = [asdict(Measurement("h100", "efficientnet_b7", size, "train", remat, share))
            for size, remat, share in ((600, False, 0.1), (600, True, 0.2), (380, False, 0.3))]  # fmt: skip
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"benchmark": "gpu", "calibration": rows}))
    common = ["student=efficientnet_b7", "data=imagenet", "trainer=gpu_ddp", f"plan.measured={file}"]
    found = planned(*common, "plan.hardware=h100:8", "model.train_size=600")
    shares = {row["stage"]: row["utilization"] for row in found["stages"]}
    assert (shares["train"], found["utilization"]) == (0.1, 0.1)
    assert shares["label"] == pytest.approx(0.0166, rel=0.01), "of labeling nothing was measured"
    assert planned(*common, "plan.hardware=h100:8", "model.train_size=600", "model.remat=true")["utilization"] == 0.2
    assert planned(*common, "plan.hardware=h100:8", "model.train_size=400")["utilization"] == 0.3
    assert planned(*common, "plan.hardware=h200:8")["utilization"] < 0.1, "another card"
    assert "measured on h100 with efficientnet_b7 at 600 px" in found["stages"][0]["source"]


@pytest.mark.parametrize(
    "content", [{}, {"calibration": [{"chip": "h100"}]}, {"calibration": [3]}, {"calibration": "x"}]
)
def test_a_calibration_that_is_none_is_refused_by_its_name(content: dict, tmp_path: Path):
    with pytest.raises(NstError, match=r"(?s)is a folder.*bin/bench gpu --json"):
        planned("data=imagenet", f"plan.measured={tmp_path}")
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(NstError, match=r"(?s)other\.json has no calibration.*bin/bench gpu --json"):
        planned("data=imagenet", f"plan.measured={tmp_path / 'other.json'}")


def test_nsts_own_measurements_can_be_read():
    assert all(row.chip in CHIPS and row.network in ARCHITECTURES for row in read_measurements())


def test_views_cost_what_was_measured_on_a_core():
    """bin/bench input: 608 images/s with RandAugment, 719 without; single runs at other sizes: 230 at 600 px."""
    assert 1 / view_seconds(224, 107_000, "randaugment") == pytest.approx(608, rel=0.01)
    assert 1 / view_seconds(224, 107_000, "standard") == pytest.approx(719, rel=0.05)
    assert 1 / view_seconds(600, 107_000, "randaugment") == pytest.approx(230, rel=0.05)


def test_the_slower_of_card_and_loaders_binds_and_the_table_says_which():
    common = ["student=efficientnet_b0", "data=imagenet", "trainer=gpu", "plan.hardware=h100:1"]
    card, loader = planned(*common), planned(*common, "plan.utilization=0.9")
    assert {row["bound"] for row in card["stages"]} == {"chip"}
    assert {row["bound"] for row in loader["stages"]} == {"loader"}
    assert loader["step"]["seconds"] == loader["step"]["preparing"] > loader["step"]["computing"]
    views = view_seconds(224, 110_000) / 14  # crop and flip alone; 14 cores of a DGX for each card
    assert loader["step"]["images_per_second"] == pytest.approx(1 / views)
    noised = planned(*common, "plan.utilization=0.9", "noise.randaugment.num_ops=2")["step"]["images_per_second"]
    assert noised == pytest.approx(14 / view_seconds(224, 110_000, "randaugment"))
    assert card["step"]["images_per_second"] < loader["step"]["images_per_second"]
    label = next(row for row in loader["stages"] if row["stage"] == "label")
    assert label["hours"] == pytest.approx(300e6 * views / 3600)
    said = ((card, ["0.74%: assumed", "by the chips"]), (loader, ["trainer.workers=14", "by the loaders"]))
    for found, words in said:
        sheet = io.StringIO()
        for table in tables(found):
            Console(file=sheet, width=80).print(table)
        assert all(text in sheet.getvalue() for text in words)
        assert max(len(line.rstrip()) for line in sheet.getvalue().splitlines()) <= 80


# ---- images and storage


def data(name: str, labeled: str, unlabeled: str, **sizes: int) -> DataOptions:
    places = {"root": "nowhere", "labeled": labeled, "unlabeled": unlabeled, "test": None, "validation": None}
    return DataOptions(name=name, **places, source=SourceOptions(name=name), **sizes)


def test_images_come_from_options_before_shards_before_the_name(digits: Path):
    split = data("imagenet", str(digits / "labeled"), str(digits / "unlabeled"))
    nowhere = data("imagenet", "nowhere", "nowhere")
    assert find_images(nowhere, PlanCounts(), 130_000).labeled == 1_281_167
    assert find_images(nowhere, PlanCounts(), 130_000).copies == 130_000_000
    assert find_images(nowhere, PlanCounts(), 130_000).selected == 81_000_000
    found = find_images(split, PlanCounts(), None)
    assert (found.classes, found.labeled, found.unlabeled, found.copies) == (10, 50, 240, 240)
    asked = find_images(split, PlanCounts(labeled_images=7, unlabeled_images=9, classes=3, selected_images=5), None)
    assert (asked.classes, asked.labeled, asked.unlabeled, asked.selected) == (3, 7, 9, 5)


def test_a_data_set_known_by_name_is_divided_as_nst_shard_divides_it(digits: Path):
    split = data("digits", "nowhere", "nowhere", labeled_per_class=5, test_samples=100, unlabeled_samples=240)
    found = find_images(split, PlanCounts(), None)
    made = [ShardSet.open(digits / name).samples for name in ("labeled", "unlabeled")]
    assert [found.labeled, found.unlabeled] == made


@pytest.mark.parametrize("name", ["labeled", "unlabeled"])
def test_storage_of_shards_is_what_shards_take(digits: Path, name: str):
    shards = ShardSet.open(digits / name)
    sizes, ends = [], 0
    for position in range(len(shards.shards)):
        with tarfile.open(shards.path(position)) as file:
            members = list(file)
        sizes += [member.size for member in members if not member.name.endswith(".cls")]
        # zeros up to a multiple of 10 KiB: nothing for real shards, much for these
        ends += shards.path(position).stat().st_size - (members[-1].offset_data + 512)
    images = DatasetSize(10, len(sizes), len(sizes), 1, 1, float(np.mean(sizes)), float(np.mean(sizes)))
    taken = sum(shard.bytes for shard in shards.shards) - ends
    assert images.storage()[f"{name} shards"] == pytest.approx(taken, rel=0.2)


def test_storage_of_predictions_is_what_predictions_take(tmp_path: Path):
    count, classes = 2000, 100
    logits = np.random.default_rng(0).normal(size=(count, classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    keys = [f"{number:0{KEY}d}" for number in range(count)]
    metadata = PredictionMetadata("t" * 64, [str(c) for c in range(classes)], 64, "unlabeled-000000.tar", "0" * 64)
    path = tmp_path / "unlabeled-000000.parquet"
    probs = probs.astype(np.float32)
    write_predictions(path, index=np.arange(count), keys=keys, probs=probs, metadata=metadata, keep=0.0)
    images = DatasetSize(classes, 1, count, 1, 1, 0, 0)
    # which is before compression
    assert 0.7 < path.stat().st_size / images.storage()["predictions"] < 1.01


# ---- the plan as a whole


def test_the_papers_training_of_l2_implies_a_utilisation_of_five_percent():
    assert paper_costs.implied_utilization() == pytest.approx(0.0483, abs=0.0005)
    assert [round(ratio["ours"], 2) for ratio in paper_costs.time_ratios()] == [0.87, 1.97, 2.63]
    found = planned(*L2, "model.remat=false", f"plan.utilization={paper_costs.implied_utilization()}")
    student = next(row for row in found["stages"] if (row["generation"], row["stage"]) == (1, "train"))
    assert student["hours"] == pytest.approx(3.5 * 24, rel=1e-4)
    assert found["paper"]["our_days"] == pytest.approx(3.5)


def test_a_plan_follows_the_algorithm():
    """A teacher without unlabeled images, labels at its last size, a student at ratio 3, fine-tuned without them."""
    found = planned(*L2)
    rows = {(row["generation"], row["stage"]): row for row in found["stages"]}
    assert list(rows) == [(0, "train"), (0, "finetune"), (0, "label"), (1, "train"), (1, "finetune")]
    assert rows[1, "train"]["images"] == pytest.approx(4 * 350 * 1_281_167, rel=1e-4)
    assert rows[1, "train"]["flops"] == pytest.approx(4 * rows[0, "train"]["flops"])
    assert (rows[0, "label"]["image_size"], rows[0, "label"]["images"]) == (800, 300_000_000)
    assert rows[1, "finetune"]["images"] == pytest.approx(1.5 * 1_281_167, rel=1e-3)
    compiling = 4 * 1463 / 3600  # two networks, two picture sizes each
    assert found["compiling"]["hours"] == pytest.approx(compiling)
    assert found["total"]["hours"] == pytest.approx(sum(row["hours"] for row in rows.values()) + compiling)
    assert found["memory"]["chosen"] == "remat", "model=efficientnet_l2 rematerialises"
    assert found["step"]["images_per_core"] == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["student=efficientnet_l2", "plan.hardware=v3:32x32"], "compiles: 1,463 s on two cores (measured)"),
        (["student=efficientnet_b7", "plan.hardware=v3:4x4"], "compiles: 880 s on two cores (assumed, 16 s a block)"),
        (["student=efficientnet_b7", "plan.hardware=h100:8"], None),
    ],
)
def test_what_every_start_compiles_is_counted_on_tpus_and_says_whence_it_is_known(options: list[str], said: str | None):
    found = planned("data=imagenet", *options)
    sheet = io.StringIO()
    Console(file=sheet, width=300).print(next(iter(tables(found))))
    assert (said or "") in sheet.getvalue()
    assert ("compiling" in sheet.getvalue()) == (found["compiling"]["hours"] > 0) == (said is not None)


def test_an_online_teacher_works_in_the_step_and_not_in_a_stage():
    common = ["experiment=figure1_b7", "plan.hardware=v3:16x16"]
    stored, online = planned(*common), planned(*common, "teacher=online")
    assert [row["stage"] for row in online["stages"]] == ["train", "train"]
    forward = 2 * stored["network"]["macs"]  # B7 labels at 600 px, its training size
    assert online["step"]["flops"] == stored["step"]["flops"] + 6144 * forward
    assert online["memory"]["kept"]["teacher"] == online["memory"]["kept"]["parameters"]
    both = planned(*common, "teacher=online", "teacher.views=all")
    assert both["step"]["flops"] == stored["step"]["flops"] + 2 * 6144 * forward, "the mirrored images, too"


def test_a_teacher_that_looks_at_all_views_labels_for_as_many_passes():
    one, eight = (
        [row["flops"] for row in planned(*L2, "data.pictures.turn=true", *more)["stages"] if row["stage"] == "label"]
        for more in ([], ["teacher.views=all"])
    )
    assert eight == [8 * flops for flops in one]
    assert one


def test_an_experiment_is_planned_by_its_generations():
    found = planned("experiment=digits_demo", "plan.hardware=cpu:2")
    assert [row["generation"] for row in found["stages"]] == [0, 0, 1, 1, 2, "control"]
    assert found["network"]["generation"] == 2
    student, control = found["stages"][-2:]
    assert control["images"] == student["images"], "as many, of labeled ones alone"
    assert found["total"]["hours"] == pytest.approx(sum(row["hours"] for row in found["stages"]))
    without = planned("experiment=digits_demo", "plan.hardware=cpu:2", "iterate.control=false")
    assert without["stages"] == found["stages"][:-1]
    assert without["step"] == found["step"]
    assert found["paper"] is None


@pytest.mark.parametrize(
    ("trainer", "name"),
    [("gpu", "h100:1"), ("gpu_ddp", "h100:8"), ("tpu", "v3:2x2"), ("tpu_pod", "v3:32x32")],
)
def test_hardware_follows_the_trainer_unless_it_is_named(trainer: str, name: str):
    options = ["student=efficientnet_b0", "data=imagenet", f"trainer={trainer}"]
    assert planned(*options)["cluster"]["name"] == name
    assert planned(*options, "plan.hardware=v6e:4x4")["cluster"]["name"] == "v6e:4x4"


def test_a_long_name_of_a_network_is_folded_before_a_number_is_cut():
    found = planned(*L2)
    for row in found["stages"]:
        row["model"] = "tf_efficientnet_l2.ns_jft_in1k_475_and_more"
    sheet = io.StringIO()
    Console(file=sheet, width=80).print(stages(found))
    assert max(map(len, sheet.getvalue().splitlines())) <= 80
    assert "…" not in sheet.getvalue()
    assert all(short(row["hours"]) in sheet.getvalue() for row in found["stages"])


@pytest.mark.parametrize(
    "overrides",
    [L2, ["experiment=figure1_b7"], ["experiment=digits_demo"], [*L2, "teacher=online", "plan.hardware=v5p:8x16x16"],
     ["experiment=figure1_b7", "plan.hardware=cpu:1", "plan.unlabeled_images=50000000000"]],
    ids=lambda overrides: " ".join(overrides),
)  # fmt: skip
def test_tables_fit_into_80_columns(overrides: list[str]):
    found = planned(*overrides)
    found["compiled"] = compiled_example(found)
    sheet = io.StringIO()
    console = Console(file=sheet, width=300)
    for table in tables(found):
        console.print(table)
    text = sheet.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for word in ("FLOP", "all-reduce", "gradients", "predictions", "peak", "hours", "collective-permute"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "said"),
    [(["plan.hardware=v2:2x2", "model=efficientnet_l2"],
      "does not fit; what does: more cores or a smaller student.labeled_batch_size"),
     (["plan.hardware=v3:2x2"], "does not fit; what does: trainer.accumulate=128"),
     (["plan.hardware=v3:8x8"], "does not fit; what does: trainer.accumulate=8"),
     (["plan.hardware=v3:16x16"], "does not fit; what does: model.remat=true or trainer.accumulate=2"),
     (["plan.hardware=v3:32x32"], None)],
)  # fmt: skip
def test_a_plan_that_does_not_fit_says_so(options: list[str], said: str | None):
    assert memory(planned("experiment=figure1_b7", *options)).caption == said


def compiled_example(found: dict) -> dict:
    memory = dict.fromkeys(("arguments", "outputs", "aliased", "temporaries", "code", "peak"), 15.4 * GIB)
    entry = asdict(Collective("collective-permute", "bf16", 12_345, 967_000_000))
    return {**memory, "flops": found["step"]["flops_per_core"] * 1.1, "seconds": 1234.5, "collectives": [entry]}


def test_numbers_are_short():
    assert [number(value) for value in (12, 1234, 480_309_308, 170.9e9, 2.4e21)] == [
        "12", "1,234", "480.3M", "170.9G", "2,400.0E"
    ]  # fmt: skip
    assert [size(value) for value in (21_300_000, 610.2e9, 5.1e15)] == ["21.3 MB", "610.2 GB", "5,100.0 TB"]
    assert size(16 * GIB, 1024) == "16.0 GiB"
    assert [duration(value) for value in (0.0123, 4.56, 28_000)] == ["12.3 ms", "4.56 s", "7.78 h"]
    assert [short(value) for value in (0.0123, 12.34, 1234)] == ["0.0123", "12.3", "1,234"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["plan.hardware=v7"], ["unknown plan.hardware, did you mean 'v", "valid: v3:32x32"]),
        (["plan.hardware=v3-32"], ["next:  the mesh of a v3-32: plan.hardware=v3:4x4"]),
        (["plan.hardware=v5litepod-256"], ["plan.hardware=v5e:16x16"]),
        (["plan.hardware=v3:3x5"], ["does not come in this mesh", "2x2, 4x4, 4x8", "32x32"]),
        (["plan.hardware=v4:8x4x4"], ["does not come in this mesh", "the smallest first"]),
        (["plan.hardware=v3"], ["lacks the mesh of a TPU slice, in chips", "v3:NxN, such as v3:32x32"]),
        (["plan.hardware=v4:4x4"], ["v4:NxNxN, such as v4:4x4x4"]),
        (["plan.hardware=h100:2x2"], ["lacks the number of devices", "h100:N"]),
        (["plan.hardware=h100:0"], ["lacks the number of devices"]),
        (["plan.hardware=h100:24", "data=imagenet"], ["does not divide by the number", "labeled_batch_size=2064"]),
        (["plan.utilization=0"], ["plan.utilization cannot be 0", "above 0 to 1"]),
        (["plan.utilization=5"], ["plan.utilization cannot be 5"]),
        (["data=folder"], ["how many classes there will be is not known", "plan.classes=<number>"]),
        (["data=folder", "plan.classes=3"], ["how many labeled images", "plan.labeled_images=<number>"]),
        (["plan.compile=true", "plan.hardware=h100:1"], ["asks the TPU compiler", "valid: a TPU slice"]),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
def test_mistakes_are_told_in_words(overrides: list[str], words: list[str]):
    with pytest.raises(NstError) as caught:
        planned(*overrides)
    for text in words:
        assert text in str(caught.value)


def test_a_finished_run_as_teacher_labels_and_is_not_trained():
    """Table 9: the students of L2."""
    found = planned("experiment=table9_b0_from_l2", "plan.hardware=v3:32x32")
    assert [(row["generation"], row["stage"], row["model"]) for row in found["stages"]] == [
        (0, "label", "efficientnet_l2"),
        (1, "train", "efficientnet_b0"),
    ]


def test_nst_plan_needs_neither_shards_nor_a_pod_and_writes_only_what_it_is_told_to(tmp_path: Path):
    pod = ["trainer=tpu_pod", "plan.hardware=v3:16x16"]
    command = [sys.executable, "-m", "nst", "plan", "experiment=figure1_b7", *pod]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "efficientnet_b7" in done.stdout
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 80
    assert not list(tmp_path.iterdir())
    dispatch(["plan", "experiment=figure1_b7", f"plan.output={tmp_path / 'plan.json'}"])
    assert json.loads((tmp_path / "plan.json").read_text())["network"]["parameters"] == 66_347_960


# ---- asking the compiler


HLO = """
  %all-reduce.1 = f32[8,128]{1,0:T(8,128)} all-reduce(f32[8,128]{1,0} %x), channel_id=1, to_apply=%add
  %ar.2 = (f32[10]{0}, bf16[4,2]{1,0}, f32[]) all-reduce(f32[10]{0} %a, bf16[4,2]{1,0} %b, f32[] %c), channel_id=2
  %ags = (bf16[2]{0}, bf16[16]{0}) all-gather-start(bf16[2]{0} %y), channel_id=3, dimensions={0}
  %agd = bf16[16]{0} all-gather-done((bf16[2]{0}, bf16[16]{0}) %ags)
  %get = f32[10]{0} get-tuple-element((f32[10]{0}, bf16[4,2]{1,0}, f32[]) %all-reduce.3), index=0
"""


def test_collectives_are_counted_by_kind_and_type():
    assert collectives(HLO.splitlines()) == (
        Collective("all-gather", "bf16", 1, 32),
        Collective("all-reduce", "bf16", 1, 16),
        Collective("all-reduce", "f32", 2, 4096 + 40 + 4),
    )


def test_a_missing_compiler_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(aot, "NEEDED", ("json", "no_such_compiler"))
    with pytest.raises(NstError, match=r"(?s)needs no_such_compiler.*NST_EXTRAS=aot"):
        aot.compile_step(train_step(), "v3:2x2")


def train_step(image_size: int = 32, **options) -> TrainStep:
    """The paper's step of B0 on 8 cores, as `nst plan` would have it compiled."""
    overrides = ["student=efficientnet_b0", "data=imagenet", f"model.train_size={image_size}",
                 "student.labeled_batch_size=32", "student.unlabeled_ratio=3"]  # fmt: skip
    config = compose_config([*overrides, "stage=plan"])
    images = find_images(data("imagenet", "nowhere", "nowhere"), PlanCounts(), None)
    last = plan._generation(1, job_from(SurveyJob, config), images)
    base = TrainStep(last.architecture, last.phases[0], images.classes, cores=8)
    return replace(base, **options)


def test_batch_and_replaced_state_of_a_trace_are_known_although_shapes_coincide(tmp_path: Path):
    """32 labeled images and 1,152 in all, which are channel counts of B0 too: shapes would not tell."""
    step = train_step(classes=96)
    recipe = replace(step.phase.recipe, labeled_batch_size=32, unlabeled_ratio=35)
    step = replace(step, phase=replace(step.phase, recipe=recipe))
    program = aot._alone(aot.TRACING, aot._lower, step, tmp_path / "step.pb")
    assert sorted(program.shapes[place] for place in program.batch) == [(32,), (1120, 96), (1152, 3, 32, 32)]
    assert sum(shape[:1] in ((32,), (1152,)) for shape in program.shapes) > 50
    # weights, their averages, two of the optimiser, BatchNorm's statistics, their averages and counters, metrics
    assert len(program.replaced) == 4 * 213 + 2 * 98 + 49 + 1
    assert len(set(program.replaced.values())) == len(program.replaced)
    assert not set(program.replaced.values()) & set(program.batch)
    assert (tmp_path / "step.pb").stat().st_size > 100_000


def lower_all(steps: dict[str, TrainStep], folder: Path) -> None:
    """Traces of several steps, in one process: most of a second one would be its start."""
    for name, step in steps.items():
        aot._lower(step, folder / name)


def test_the_step_that_is_compiled_asks_an_online_teacher_in_each_of_its_turns(tmp_path: Path):
    config = compose_config(["data=digits", "data.pictures.flip=true", "teacher.mode=online", "teacher.views=all",
                             "student=small", "stage=plan"])  # fmt: skip
    images = find_images(data("digits", "nowhere", "nowhere"), PlanCounts(), None)
    assert len(plan._generation(1, job_from(SurveyJob, config), images).teacher_turns) == 2
    step = train_step(architecture=Architecture(0.25, 0.25, train_size=32, test_size=32, name="tiny"))
    online = replace(step, teacher=(step.architecture, 32))
    steps = {"none": step, "one": online, "two": replace(online, teacher_turns=turns(Pictures(flip=True)))}
    aot._alone(aot.TRACING, lower_all, steps, tmp_path)
    sizes = {name: (tmp_path / name).stat().st_size for name in steps}
    # a trace has each operation once more for each further look; the first brings the weights too
    assert sizes["two"] - sizes["one"] == pytest.approx(sizes["one"] - sizes["none"], rel=0.25)
    assert sizes["one"] > 1.1 * sizes["none"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tpu_compiler_confirms_the_plan_of_b0():
    """The real train step on a v3 host: 8 cores, 64 images of 128 px on each."""
    for name in aot.NEEDED:
        pytest.importorskip(name)
    step = train_step(image_size=128)
    recipe = replace(step.phase.recipe, labeled_batch_size=128)
    step = replace(step, phase=replace(step.phase, recipe=recipe))
    kept, remat = (aot.compile_step(replace(step, remat=choice), "v3:2x2") for choice in (False, True))

    cost = measure(step.architecture, 1000, 128)
    assert kept.flops == pytest.approx(64 * cost.training_flops(), rel=0.2)
    assert remat.flops == pytest.approx(64 * cost.training_flops(remat=True), rel=0.2)
    reduced = sum(entry.bytes for entry in kept.collectives if entry.kind == "all-reduce")
    assert reduced == pytest.approx(4 * 5_288_548, rel=0.02)
    weights = 4 * 4 * cost.parameters  # and momentum, mean square, average
    assert weights < kept.arguments < 1.2 * weights
    assert kept.aliased > 0.99 * weights, "the state is updated in place"
    assert kept.peak > kept.arguments
    assert remat.temporaries < 0.85 * kept.temporaries
    planned_training = PhaseCost(1, "train", "b0", cost, recipe, 1)
    for found, choice in ((kept, False), (remat, True)):
        memory = budget.memory(planned_training, cluster("v3:2x2"), Numerics.of("bf16-mixed"), remat=choice)
        assert memory.activations == pytest.approx(found.temporaries, rel=0.4)


def test_a_network_is_measured_by_one_rank_alone(monkeypatch: pytest.MonkeyPatch):
    """On the meta device no rank waits for another."""
    from nst.models import batch_norm

    monkeypatch.setattr(batch_norm, "ranks", lambda: 2)
    assert measure(Architecture(width=0.3, depth=0.3), 7, 24).parameters > 1000
