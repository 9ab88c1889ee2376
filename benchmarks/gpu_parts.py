"""What `bin/bench gpu` measures, part by part, and the device that it is measured on."""

from __future__ import annotations

import gc
import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks import harness, labeling, photographs, train_step
from benchmarks.harness import Comparison, Report
from nst.cli import dispatch
from nst.data.batches import Batch, LabeledSamples
from nst.data.datamodule import JointDataModule
from nst.data.shared_memory import LoaderOptions
from nst.data.views import training_view
from nst.plan import budget
from nst.plan.budget import Numerics, PhaseCost
from nst.plan.chips import CHIPS, GIB, Chip
from nst.plan.layer_costs import measure
from nst.plan.rates import Measurement
from nst.settings.data import Pictures
from nst.settings.learning import Recipe
from nst.settings.network import Noise
from nst.training.gpus import require_gpus

NOT_MEASURED = "not measured: needs a GPU"
ROOM = 0.55  # of the card's memory for activations


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        numbers: what `result` says, for the JSON file.
        calibration: as `nst.plan.rates.Measurement`.
    """

    part: str
    what: str
    result: str
    aim: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    failed: bool = False


@dataclass(frozen=True)
class Device:
    """A GPU, or a CPU in its place."""

    name: str  # gpu | cpu, as `trainer=`

    @property
    def gpu(self) -> bool:
        return self.name == "gpu"

    @property
    def chip(self) -> Chip | None:
        """As `nst plan` knows it; None: it does not."""
        if not self.gpu:
            return CHIPS["cpu"]
        title = torch.cuda.get_device_name(0).lower()
        return next((chip for name, chip in CHIPS.items() if chip.bandwidth and name in title), None)

    @property
    def memory(self) -> int | None:
        """Bytes of the card."""
        return torch.cuda.get_device_properties(0).total_memory if self.gpu else None

    def share(self, flops_per_second: float) -> float | None:
        """Of the peak; a CPU's is that of all threads."""
        cores = 1 if self.gpu else torch.get_num_threads()
        return flops_per_second / (cores * self.chip.peak) if self.chip else None

    def forget(self) -> None:
        """Memory of what was measured before is given back, and the next peak begins at nothing."""
        gc.collect()
        if self.gpu:
            torch.cuda.init()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        """The most that tensors took since `forget`."""
        return torch.cuda.max_memory_allocated() if self.gpu else None


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        bits: options of the two trainings that are to be equal.
        step, label: options of `bin/bench train_step` and `labeling`.
        large: networks and px.
        loading: px, images of a batch, batches.
    """

    bits: tuple[str, ...]
    step: tuple[str, ...]
    label: tuple[str, ...]
    rounds: int
    large: dict[str, tuple[str, int]]
    large_steps: int
    photographs: int
    loading: tuple[int, int, int]


FULL = Sizes(
    bits=("student.steps=40", "student.schedule.warmup_epochs=0.5", "model.width=0.5"),
    step=("--network=efficientnet_b0", "--image-size=224", "--labeled=64", "--ratio=3", "--steps=10"),
    label=("--network=efficientnet_b0", "--image-size=224", "--batch-size=256", "--batches=16", "--per-shard=4"),
    rounds=3,
    large={"B7": ("efficientnet_b7", 600), "L2": ("efficientnet_l2", 475)},
    large_steps=3,
    photographs=256,
    loading=(224, 256, 200),
)
TINY = Sizes(
    bits=("student.steps=4", "student.schedule.warmup_epochs=0.5", "model.width=0.25", "model.depth=0.25",
          "data.test_samples=100", "data.unlabeled_samples=100", "student.labeled_batch_size=8", "trainer.workers=0"),
    step=("--image-size=16", "--labeled=2", "--ratio=1", "--steps=1"),
    label=("--network=small", "--image-size=16", "--classes=20", "--batch-size=8", "--digits=200"),
    rounds=1,
    large={"B7": ("small", 16), "L2": ("small", 16)},
    large_steps=1,
    photographs=8,
    loading=(32, 4, 4),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Something to measure, within so many seconds."""

    title: str
    seconds: float
    rows: Callable[[Device, Sizes, Path], Iterable[Row]]


# ---- the parts ---------------------------------------------------------------------------------------------


def device_there(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    if device.gpu:
        require_gpus(1)
    name, chip = torch.cuda.get_device_name(0) if device.gpu else "CPU", device.chip
    about = f"peak {chip.peak / 1e12:.3g} TFLOP/s, as nst plan knows it" if chip else "nst plan does not know its peak"
    yield Row("device", name, about, numbers={"chip": chip.name if chip else None, "memory": device.memory})


def same_bits(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """By the commands that users type."""
    common = ["experiment=digits_demo", "eval=clean", f"data.root={folder / 'data'}", *sizes.bits]
    dispatch(["shard", *common])

    def trained(name: str, *trainer: str) -> dict[str, torch.Tensor]:
        dispatch(["train", *common, *trainer, f"run_dir={folder / name}"])
        return load_file(folder / name / "checkpoints" / "trained.safetensors")

    one = trained("one", f"trainer={device.name}")
    yield _equal("two trainings of one seed", one, trained("two", f"trainer={device.name}"))
    ddp = ("trainer=gpu_ddp", "trainer.devices=1") if device.gpu else ("trainer=cpu", "trainer.strategy=ddp")
    yield _equal("one rank of gpu_ddp, and gpu", one, trained("ddp", *ddp))


def _equal(what: str, one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> Row:
    hashes = [_digest(weights) for weights in (one, other)]
    apart = max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
    said = f"equal, sha256 {hashes[0][:12]}" if hashes[0] == hashes[1] else f"differ by up to {apart:.2g}"
    return Row("bits", what, said, "equal", {"sha256": hashes, "largest_difference": apart})


def _digest(weights: dict[str, torch.Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(weights):
        whole.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return whole.hexdigest()


def steps(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    options = train_step.parse([*sizes.step, "--device", device.name])
    batch = train_step.ready_batch(options)
    contenders = {
        "ours": train_step.lightning_loop(options, batch, folder, "trainer.deterministic=false"),
        "hand-written": train_step.hand_written_loop(options, batch),
        "timm": train_step.timm_loop(options, batch),
        "ours as configured": train_step.lightning_loop(options, batch, folder),
    }
    rows = [Comparison("ours", "hand-written", 0.97), Comparison("ours", "timm", 1.0),
            Comparison("ours as configured", "hand-written")]  # fmt: skip
    measured = harness.alternate(contenders, sizes.rounds)
    yield from _compared("step", Report("step", "images/s", measured, rows, {}))
    rate = statistics.median(measured["ours as configured"].rates("wall"))
    yield _rate("step", "", device, options.network, options.image_size, rate)


def _compared(part: str, report: Report) -> Iterator[Row]:
    for row in report.comparisons:
        ratio = harness.ratio(report, row)
        rates = [statistics.median(report.measured[side].rates("wall")) for side in (row.ours, row.peer)]
        said = "{:.2f} [{:.2f} .. {:.2f}]".format(*ratio.values()) + " ({:,.1f} and {:,.1f} images/s)".format(*rates)
        aim = f">= {row.target:g}" if row.target else ""
        yield Row(part, f"{row.ours} / {row.peer}", said, aim, {"ratio": ratio, "images_per_second": rates})


def _rate(
    part: str, what: str, device: Device, network: str, px: int, rate: float, *, work: str = "train",
    remat: bool = False, memory: float | None = None,
) -> Row:  # fmt: skip
    """Images a second as a row, with its share of the peak, and the calibration where a GPU gave it."""
    networks = labeling.NETWORKS if work == "label" else train_step.NETWORKS
    cost = measure(networks[network], train_step.CLASSES, px)
    flops = cost.inference_flops if work == "label" else cost.training_flops(remat=remat)
    share, chip = device.share(rate * flops), device.chip
    of_peak = "share of the peak not known" if share is None else f"{share:.2%} of the peak"
    gib = f", {memory:.2f} GiB an image" if memory is not None else f", GiB an image {NOT_MEASURED}"
    said = f"{rate:,.1f} images/s, {of_peak}{gib if what else ''}"
    numbers = {"images_per_second": rate, "utilization": share, "gib_per_image": memory}
    known = device.gpu and chip is not None and share is not None
    row = asdict(Measurement(chip.name, network, px, work, remat, share)) if known and chip and share else None
    return Row(part, what or f"{network} at {px} px, {work}", said, numbers=numbers, calibration=row)


def labels(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    options = labeling.parse([*sizes.label, "--device", device.name, "--rounds", str(sizes.rounds)])
    report = labeling.compare(options)
    yield from _compared("labeling", report)
    if not device.gpu:
        yield Row("labeling", "ours / bare bf16 forward", NOT_MEASURED, ">= 0.95")
    yield Row("labeling", "classes", report.facts["agreement"])
    rate = statistics.median(report.measured["ours"].rates("wall"))
    network = options.network
    yield _rate("labeling", "", device, network, options.image_size, rate, work="label")


def large(letters: str) -> Callable[[Device, Sizes, Path], Iterator[Row]]:
    """B7 or L2, with and without rematerialisation."""

    def rows(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
        network, px = sizes.large[letters]
        for remat in (False, True):
            images = _images_that_fit(device, network, px, remat)
            half, whole = (_once(device, sizes, network, px, count, remat, folder) for count in (images // 2, images))
            peaks = (half[1], whole[1])
            gib = None if None in peaks else (peaks[1] - peaks[0]) / (images - images // 2) / GIB
            what = f"{letters} at {px} px, {'remat' if remat else 'no remat'}, {images} images"
            yield _rate(letters, what, device, network, px, whole[0], remat=remat, memory=gib)

    return rows


def _images_that_fit(device: Device, network: str, px: int, remat: bool) -> int:
    """A power of two, 8 to 128, by the plan's count of activations."""
    if device.memory is None:
        return 8
    cost = measure(train_step.NETWORKS[network], train_step.CLASSES, px)
    training = PhaseCost(1, "train", network, cost, Recipe(), steps=1)
    each = budget.activation_bytes(training, Numerics.of("bf16-mixed"), compiled=False, remat=remat)
    return next((count for count in (128, 64, 32, 16) if count * each < ROOM * device.memory), 8)


def _once(
    device: Device, sizes: Sizes, network: str, px: int, images: int, remat: bool, folder: Path
) -> tuple[float, int | None]:
    """Images a second and the most memory of a short training, a quarter of whose images are labeled."""
    options = train_step.parse(
        [f"--network={network}", f"--image-size={px}", f"--labeled={images // 4}", "--ratio=3",
         f"--steps={sizes.large_steps}", f"--device={device.name}", *(["--remat"] if remat else [])]
    )  # fmt: skip
    device.forget()
    turn = train_step.lightning_loop(options, train_step.ready_batch(options), folder)()
    return turn.items / turn.wall_s, device.peak_bytes()


def loading(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    px, batch, count = sizes.loading
    cores, seen = len(os.sched_getaffinity(0)), 0
    began = time.perf_counter()
    for number, pictures in enumerate(_loader(folder, sizes, batch, count, cores)):
        if number == count // 4:  # the loaders have started
            began, seen = time.perf_counter(), 0
        seen += len(pictures["images"])
    rate = (seen - batch) / (time.perf_counter() - began)
    numbers = {"images_per_second": rate, "cores": cores, "image_size": px}
    said = f"{rate:,.0f} images/s, {rate / cores:,.0f} a core"
    yield Row("loader", f"training views of {px} px, {cores} loaders", said, numbers=numbers)


def _loader(folder: Path, sizes: Sizes, batch: int, count: int, workers: int) -> Iterable[Batch]:
    # beside the parts' folders: made once
    shards = photographs.shard_set(folder.parent, sizes.photographs, samples_per_shard=max(1, sizes.photographs // 8))
    view = training_view("randaugment", sizes.loading[0], Pictures(), Noise(dropout=0.5))
    return JointDataModule(
        LabeledSamples(shards, view, seed=0), None, None, labeled_batch_size=batch, unlabeled_ratio=0,
        total_steps=count, segment_steps=count, loader=LoaderOptions(workers),
    ).train_dataloader()  # fmt: skip


def settings(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Supervised steps from the real loader."""
    loop = _real_loop(device, sizes, folder)
    contenders = {f"trainer.deterministic={value}": loop(value, False) for value in ("warn", "false")}
    measured = harness.alternate(contenders, sizes.rounds)
    warn, fast = contenders
    yield from _compared("settings", Report("settings", "images/s", measured, [Comparison(warn, fast)], {}))


def compiled(device: Device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    if not device.gpu:
        yield Row("compile", "trainer.compile=true / false", NOT_MEASURED)
        return
    loop = _real_loop(device, sizes, folder)
    names = {"trainer.compile=true": loop("warn", True), "trainer.compile=false": loop("warn", False)}
    measured = harness.alternate(names, sizes.rounds)
    yield from _compared("compile", Report("compile", "images/s", measured, [Comparison(*names)], {}))


def _real_loop(device: Device, sizes: Sizes, folder: Path) -> Callable[[str, bool], Callable[[], harness.Timed]]:
    px, batch = sizes.loading[:2]
    given = [*sizes.step, f"--image-size={px}", f"--labeled={batch}", "--ratio=0", f"--device={device.name}"]
    workers = len(os.sched_getaffinity(0))

    def loop(deterministic: str, compile: bool) -> Callable[[], harness.Timed]:
        return train_step.lightning_loop(
            train_step.parse(given), {}, folder, f"trainer.deterministic={deterministic}", compile=compile,
            batches=lambda count: _loader(folder, sizes, batch, count, workers),
        )  # fmt: skip

    return loop


# the most important first: where the time runs out, the last ones are not measured
PARTS = {
    "device": Part("the card", 30, device_there),
    "bits": Part("equal bits", 90, same_bits),
    "step": Part("training step", 60, steps),
    "labeling": Part("labeling", 60, labels),
    "B7": Part("B7 at 600 px", 70, large("B7")),
    "L2": Part("L2 at 475 px", 90, large("L2")),
    "loader": Part("the loader's ceiling", 60, loading),
    "settings": Part("deterministic kernels", 60, settings),
    "compile": Part("trainer.compile", 150, compiled),
}
