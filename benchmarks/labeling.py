"""Pseudo-labeling; peer: the bare forward of the same network.

    bin/bench labeling                                    # B0 at 224 px, 1,000 classes
    bin/bench labeling --network efficientnet_b7 --image-size 600 --batch-size 8

ours          the whole path of `nst label` behind the loader: normalising, the folded network in the precision that
              label.precision=auto finds, the doubtful answers again in float32, softmax, Parquet files on the disk
bare forward  the network as it was trained, channels_last, on images normalised beforehand; nothing is kept

Batches lie ready in memory; the weights are random, which does not matter to speed. How many classes agree with float32
is counted with a small network that has learned scikit-learn's digits, on those that pass the filter of 0.3.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Comparison, Report, Stopwatch, Timed
from nst.data.batches import Batch
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import PredictionMetadata
from nst.data.shard_set import ShardInfo
from nst.models.checkpoints import NetworkInfo, load_network, save_network
from nst.models.efficientnet import ARCHITECTURES, Architecture, EfficientNet, build, normalize
from nst.training.ensemble import Ensemble
from nst.training.label_engines import torch_labeler, torch_precision
from nst.training.labeler import ShardByShard, ShardCollector

MINIMUM = 0.3
DIGITS_PX, DIGITS_STEPS = 12, 40
SMALL = Architecture(0.25, 0.25, train_size=DIGITS_PX, test_size=DIGITS_PX, small_images=True, name="small")
NETWORKS = {"small": SMALL, **ARCHITECTURES}


def main(argv: list[str]) -> None:
    options = parse(argv)
    harness.warn_if_busy()
    harness.report(compare(options), options.json)


def compare(options: argparse.Namespace) -> Report:
    """Ours and the bare forwards in turn, and how classes agree."""
    precision = torch_precision(options.precision, options.device)
    batches = ready_batches(options)
    with tempfile.TemporaryDirectory() as folder:
        teacher = random_teacher(options, Path(folder) / "teacher.safetensors")
        network, info = load_network(teacher)
        contenders: dict[str, Callable[[], Any]] = {
            "ours": ours(options, teacher, info, precision, batches, Path(folder)),
            "bare fp32 forward": bare_forward(options, network, batches, torch.float32),
        }
        comparisons = [Comparison("ours", "bare fp32 forward", 1.5 if precision == "bf16-true" else None)]
        if options.device == "gpu":
            contenders["bare bf16 forward"] = bare_forward(options, network, batches, torch.bfloat16)
            comparisons.append(Comparison("ours", "bare bf16 forward", 0.95))
        measured = harness.alternate(contenders, options.rounds)
        facts = {
            "labeling": f"{options.network}, {options.image_size} px, batches of {options.batch_size}, {precision}",
            "agreement": agreement(options, precision, Path(folder) / "digits.safetensors"),
        }
    return Report("labeling", "images/s", measured, comparisons, vars(options), facts=facts)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = harness.parser("labeling", __doc__)
    parser.add_argument("--network", default="efficientnet_b0", choices=NETWORKS)
    parser.add_argument("--image-size", type=int, default=224, help="px (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="in a round (default: %(default)s)")
    parser.add_argument("--per-shard", type=int, default=2, help="batches of a shard (default: %(default)s)")
    parser.add_argument("--digits", type=int, default=1797, help="to count agreement on (default: %(default)s)")
    parser.add_argument("--keep", type=float, default=0.3, help="as label.keep (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="as label.precision (default: %(default)s)")
    default = "gpu" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=("cpu", "gpu"), help="default here: %(default)s")
    return parser.parse_args(argv)


def ready_batches(options: argparse.Namespace) -> list[Batch]:
    """Batches as the loader makes them, of random pixels; pinned where a GPU reads them."""
    rng, count = torch.Generator().manual_seed(0), options.batch_size
    batches: list[Batch] = []
    for number in range(options.batches):
        pixels = torch.randint(0, 256, (count, options.image_size, options.image_size, 3), generator=rng)
        images = pixels.byte().permute(0, 3, 1, 2)
        first = number % options.per_shard * count
        batches.append(
            {
                "images": images.pin_memory() if options.device == "gpu" else images,
                "valid": torch.ones(count, dtype=torch.bool),
                "index": np.arange(first, first + count),
                "keys": [f"{number}-{row}" for row in range(count)],
                "bad": [],
            }
        )
    return batches


def random_teacher(options: argparse.Namespace, path: Path) -> Path:
    torch.manual_seed(0)
    return save(build(NETWORKS[options.network], options.classes), options.image_size, path)


def save(network: EfficientNet, size: int, path: Path) -> Path:
    info = NetworkInfo(network.architecture, tuple(map(str, range(network.num_classes))), size, size)
    save_network(path, network.state_dict(), info)
    return path


# ---- the contenders ----------------------------------------------------------------------------------------


class Timing:
    """A loader over ready batches that starts the watch when the first one is asked for."""

    def __init__(self, batches: list[Batch], watch: Stopwatch) -> None:
        self.batches, self.watch = batches, watch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        self.watch.start()
        yield from self.batches


def ours(
    options: argparse.Namespace, teacher: Path, info: NetworkInfo, precision: str, batches: list[Batch], folder: Path
) -> Callable[[], Timed]:
    """Each turn is one `predict` as LightningEngine calls it; what Lightning prepares before is not counted."""
    hardware = replace(harness.hardware(options.device), precision="32-true")
    labeler = torch_labeler(Ensemble.of([teacher]).members[0], precision, hardware.place)
    files = PredictionFiles(
        folder / "predictions", PredictionMetadata("0" * 64, info.classes, 224, "", ""), options.keep
    )
    per_shard = options.per_shard
    counts = [min(per_shard, len(batches) - start) for start in range(0, len(batches), per_shard)]
    shards = [
        (ShardInfo(f"shard-{number:06d}.tar", count * options.batch_size, 0, ""), count)
        for number, count in enumerate(counts)
    ]

    def turn() -> Timed:
        watch = Stopwatch(len(batches) * options.batch_size, labeler.device)
        with ShardCollector(shards, files.write, lambda _: None) as collector:
            trainer = hardware.trainer(folder, callbacks=[ShardByShard(collector)])
            trainer.predict(labeler, Timing(batches, watch), return_predictions=False)
        watch.stop()
        return watch.timed()

    return turn


def bare_forward(
    options: argparse.Namespace, network: EfficientNet, batches: list[Batch], dtype: torch.dtype
) -> Callable[[], int]:
    device = torch.device("cuda" if options.device == "gpu" else "cpu")
    placed = harness.hardware(options.device).place(copy.deepcopy(network)).to(device, dtype).requires_grad_(False)
    images = [normalize(batch["images"]).to(device, dtype, memory_format=torch.channels_last) for batch in batches]

    @torch.inference_mode()
    def turn() -> int:
        for batch in images:
            placed(batch)
        if options.device == "gpu":
            torch.cuda.synchronize()
        return len(images) * options.batch_size

    return turn


# ---- precision ---------------------------------------------------------------------------------------------


def agreement(options: argparse.Namespace, precision: str, path: Path) -> str:
    """Classes as `nst label` finds them against those of the float32 network that was trained."""
    images, labels = digits(options.digits)
    network = trained(images, labels)
    teacher = Ensemble.of([save(network, DIGITS_PX, path)]).members[0]
    labeler = torch_labeler(teacher, precision, harness.hardware(options.device).place)
    device = torch.device("cuda" if options.device == "gpu" else "cpu")
    labeler.to(device)
    same = confident = 0
    with torch.inference_mode():
        for part in images.split(256):
            exact = network(normalize(part)).softmax(dim=1)
            valid = torch.ones(len(part), dtype=torch.bool)
            found = labeler.predict_step({"images": part.to(device), "valid": valid.to(device)}, 0).cpu()
            passed = exact.amax(dim=1) >= MINIMUM
            same += int((found.argmax(dim=1) == exact.argmax(dim=1))[passed].sum())
            confident += int(passed.sum())
    return f"{same} of {confident} confident digits ({same / confident:.2%}) get the class of float32"


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) 0 to 255 and labels (N,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images * (255 / 16)).float()[:count, None].expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(small, DIGITS_PX, mode="bilinear")
    return images.contiguous(memory_format=torch.channels_last), torch.from_numpy(bunch.target)[:count]


def trained(images: Tensor, labels: Tensor) -> EfficientNet:
    """A network that has learned them a little: some of its answers are sure, some are not."""
    torch.manual_seed(0)
    network = build(SMALL, 10, dropout=0.0, stochastic_depth=0.0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.2
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(DIGITS_STEPS):
        rows = torch.randint(0, len(images), (48,))
        torch.nn.functional.cross_entropy(network(normalize(images[rows])), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()
