"""Shards to batches; peers: timm, torchvision, bare decode.

    bin/bench input                                   # 1,000 generated photographs, 224 px
    bin/bench input --shards datasets/imagenet/labeled --images 2000

All read the same JPEG shards and do the same work: decode, random-resized crop (bicubic), flip, RandAugment of two
operations at magnitude 27, batches of uint8; normalising happens on the device and is nobody's here. Rates are per
CPU second of the loader's worker and of the process that takes the batches, so that other work on the machine counts
little. timm's RandAugment applies each operation with probability 0.5 unless told; ours applies both always, as the
paper's code does, so there is a row for timm doing as much. The bare decode has the files in memory and does nothing
else, in one process, by simplejpeg.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before NumPy is loaded

import cv2
import numpy as np
import simplejpeg
import torch
import webdataset
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from benchmarks import harness, photographs
from benchmarks.harness import Comparison, Report
from nst.data.batches import LabeledSamples
from nst.data.datamodule import JointDataModule, quiet_worker
from nst.data.shard_set import ShardSet
from nst.data.shared_memory import LoaderOptions
from nst.data.views import training_view
from nst.settings.data import Pictures
from nst.settings.network import Noise, RandAugmentOptions

MAGNITUDE, NUM_OPS = 27, 2
OURS, OURS_PLAIN = "ours", "ours without RandAugment"
BARE = "bare decode"


def main(argv: list[str]) -> None:
    options = parse(argv)
    harness.warn_if_busy()
    warnings.filterwarnings("ignore")  # the peers' own, about shard counts and deprecations
    logging.getLogger("timm").setLevel(logging.ERROR)  # it misses an info file that it does not need
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        shards = ShardSet.open(options.shards) if options.shards else photographs.shard_set(folder, options.images)
        contenders, facts = everyone(shards, options)
        measured = harness.alternate(contenders, options.rounds)
    comparisons = [Comparison(OURS, peer, 2.0 if peer.startswith("timm") else None) for peer in peers(options)]
    comparisons += [Comparison(OURS_PLAIN, BARE, 0.6), Comparison(OURS_PLAIN, "timm without RandAugment")]
    harness.report(
        Report("input", "images/s", measured, comparisons, vars(options), clock="cpu", facts=facts), options.json
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = harness.parser("input", __doc__)
    parser.add_argument("--images", type=int, default=1000, help="images read in a round (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="px (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of each (default: %(default)s)")
    parser.add_argument("--shards", type=Path, help="a labeled shard set of JPEGs instead of generated photographs")
    parser.add_argument("--data", type=Path, help="keep the generated shards in this folder and use them again")
    return parser.parse_args(argv)


def peers(options: argparse.Namespace) -> list[str]:
    return ["timm", "timm, both operations always", "torchvision v2 on PIL", "torchvision v2 on tensors"]


def everyone(shards: ShardSet, options: argparse.Namespace) -> tuple[dict[str, Callable[[], int]], dict[str, Any]]:
    """The contenders by name, each reading `options.images` images (in whole batches), and facts of the data."""
    work = functools.partial(_counted, options.images)
    files = list(encoded(shards, options.images))
    augment = f"rand-m{MAGNITUDE}-n{NUM_OPS}"
    contenders = {
        OURS: work(lambda: ours(shards, options, "randaugment")),
        "timm": work(lambda: timm(shards, options, augment)),
        "timm, both operations always": work(lambda: timm(shards, options, f"{augment}-p1.0")),
        "torchvision v2 on PIL": work(lambda: torchvision_pil(shards, options)),
        "torchvision v2 on tensors": work(lambda: torchvision_tensors(shards, options)),
        OURS_PLAIN: work(lambda: ours(shards, options, "standard")),
        "timm without RandAugment": work(lambda: timm(shards, options, None)),
        BARE: lambda: sum(simplejpeg.decode_jpeg(data, "RGB") is not None for data in files),
    }
    size = f"{len(files)} JPEGs of {np.mean([len(data) for data in files]) / 1000:.0f} kB"
    about = f"{size}, views of {options.image_size} px, batches of {options.batch_size}, {options.workers} worker(s)"
    return contenders, {"data": about}


def _counted(images: int, loader: Callable[[], Iterable[Any]]) -> Callable[[], int]:
    def once() -> int:
        count = 0
        for batch in loader():
            pixels = batch["images"] if isinstance(batch, dict) else batch[0]
            assert pixels.dtype == torch.uint8
            assert pixels.shape[1] == 3
            count += len(pixels)
            if count >= images:
                break
        return count

    return once


def encoded(shards: ShardSet, count: int) -> Iterator[bytes]:
    """The files of the first `count` images."""
    paths = [str(shards.path(number)) for number in range(len(shards.shards))]
    stream = iter(webdataset.WebDataset(paths, shardshuffle=False))
    for _, sample in zip(range(count), stream, strict=False):
        yield sample["jpg"]


# ---- the contenders --------------------------------------------------------------------------------------


def ours(shards: ShardSet, options: argparse.Namespace, kind: str) -> Iterable[Any]:
    """The loader that training uses."""
    strength = RandAugmentOptions(num_ops=NUM_OPS, magnitude=MAGNITUDE)
    view = training_view(kind, options.image_size, Pictures(), Noise(dropout=0.5, randaugment=strength))
    steps = max(1, options.images // options.batch_size)
    return JointDataModule(
        LabeledSamples(shards, view, seed=0),
        None,
        None,
        labeled_batch_size=options.batch_size,
        unlabeled_ratio=0,
        total_steps=steps,
        segment_steps=steps,
        loader=LoaderOptions(options.workers),
    ).train_dataloader()


def timm(shards: ShardSet, options: argparse.Namespace, auto_augment: str | None) -> Iterable[Any]:
    """create_loader's DataLoader: its prefetcher, which normalises, is left out."""
    first, last = shards.shards[0].name.removesuffix(".tar"), shards.shards[-1].name.removesuffix(".tar")
    digits = len(first) - len(first.rstrip("0123456789"))
    split = f"{first[:-digits]}{{{first[-digits:]}..{last[-digits:]}}}.tar|{shards.samples}"
    root = str(Path(shards.path(0)).parent)
    dataset = create_dataset(
        f"wds/{Path(root).name}", root, split=split, is_training=True, batch_size=options.batch_size
    )
    loader = create_loader(
        dataset,
        input_size=(3, options.image_size, options.image_size),
        batch_size=options.batch_size,
        is_training=True,
        color_jitter=0.0,
        auto_augment=auto_augment,
        interpolation="bicubic",
        num_workers=options.workers,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    return loader.loader


def torchvision_pil(shards: ShardSet, options: argparse.Namespace) -> Iterable[Any]:
    return torchvision(shards, options, lambda dataset: dataset.decode("pil"), [v2.PILToTensor()])


def torchvision_tensors(shards: ShardSet, options: argparse.Namespace) -> Iterable[Any]:
    def decoded(data: bytes) -> torch.Tensor:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)

    return torchvision(shards, options, lambda dataset: dataset.map_dict(jpg=decoded, cls=int), [])


def torchvision(
    shards: ShardSet, options: argparse.Namespace, decode: Callable[[Any], Any], last: list[Any]
) -> Iterable[Any]:
    """torchvision's transforms in a DataLoader over webdataset."""
    size, grey = options.image_size, [128] * 3
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(NUM_OPS, MAGNITUDE, fill=grey),
            *last,
        ]
    )
    paths = [str(shards.path(number)) for number in range(len(shards.shards))]
    dataset = decode(webdataset.WebDataset(paths, shardshuffle=100, nodesplitter=None).shuffle(1000))
    dataset = dataset.to_tuple("jpg", "cls").map_tuple(transform, _same)
    return DataLoader(dataset, options.batch_size, num_workers=options.workers, worker_init_fn=quiet_worker)


def _same(label: Any) -> Any:
    return label
