"""Training step; peers: a hand-written loop, timm's parts.

    bin/bench train_step                                          # small-image B0, 32 + 96 images at 32 px
    bin/bench train_step --network efficientnet_b0 --image-size 224 --labeled 64 --device gpu
    bin/bench train_step --compile                                # trainer.compile=true beside false

All train the same network (EfficientNet, channels_last), each in a process of its own, on batches that lie ready in
memory, so that no loader is measured: fp32 on a CPU, bf16 autocast on a GPU.

ours          the Classifier through the real Trainer with its metrics table, as `nst train trainer=<device>` runs it
              (on a GPU with trainer.deterministic=warn; the peers take whatever kernels are the fastest)
hand-written  a bare loop: the same joint loss, TensorFlow's RMSProp, EMA and learning rate per step; no metrics
timm          a supervised step on as many images, of timm's own parts: create_optimizer_v2("rmsproptf"), ModelEmaV3,
              LabelSmoothingCrossEntropy. timm's train.py is a script outside its package: this is its loop written
              again, without soft targets, with images that are normalised beforehand (its prefetcher does that).

With --compile there are no peers: ours compiled and ours eager, on a CPU per core used. Compiling is told by itself,
and how many images it takes until that is won back.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.optim.rmsprop_tf import RMSpropTF
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from benchmarks import harness
from benchmarks.harness import Comparison, Report, Stopwatch, Timed
from nst.data.batches import Batch
from nst.machine import keep_freed_memory
from nst.models.efficientnet import ARCHITECTURES, Architecture, EfficientNet, build, normalize
from nst.settings.learning import Recipe
from nst.settings.network import Noise
from nst.training.classifier import Classifier
from nst.training.ema import decay_at
from nst.training.loggers import MetricsTable
from nst.training.optim import parameter_groups
from nst.training.phases import Schedule

SMALL = Architecture(1.0, 1.0, train_size=32, test_size=32, small_images=True, name="small")
NETWORKS = {"small": SMALL, **ARCHITECTURES}
CLASSES = 10
WARM_UP_STEPS = 2
RATE, DECAY, SMOOTHING = 0.002, 1e-5, 0.1


def main(argv: list[str]) -> None:
    options = parse(argv)
    harness.warn_if_busy()
    images = f"{options.labeled} + {options.labeled * options.ratio} images at {options.image_size} px"
    precision = "bf16 autocast" if options.device == "gpu" else "fp32"
    facts = {"step": f"{options.network}, {images}, {precision}, channels_last"}
    if options.compile:
        harness.report(compiled_and_eager(options, ready_batch(options), facts), options.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            "ours": harness.Apart(as_nst_train, options, Path(folder)),
            "hand-written": harness.Apart(peer, hand_written_loop, options),
            "timm": harness.Apart(peer, timm_loop, options),
        }
        measured = harness.alternate(contenders, options.rounds)
    comparisons = [Comparison("ours", "hand-written", 0.97), Comparison("ours", "timm", 1.0)]
    harness.report(Report("train_step", "images/s", measured, comparisons, vars(options), facts=facts), options.json)


def compiled_and_eager(options: argparse.Namespace, batch: Batch, facts: Mapping[str, Any]) -> Report:
    """`trainer.compile=true` beside false: their steps, and what the first turn of each took with compiling."""
    clock = "cpu" if options.device == "cpu" else "wall"
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            name: lightning_loop(options, batch, Path(folder), compile=name == "compiled")
            for name in ("compiled", "eager")
        }
        first = {name: harness.in_full(turn, clock) for name, turn in contenders.items()}
        measured = harness.alternate(contenders, options.rounds, warm_up=False)
    compiling = first["compiled"] - first["eager"]
    compiled, eager = (statistics.median(measured[name].rates(clock)) for name in contenders)
    saved = 1 / eager - 1 / compiled  # s an image
    back = f"won back after {compiling / saved:,.0f} images" if saved > 0 else "never won back"
    facts = {**facts, "compiling": f"{compiling:.0f} s ({clock}), {back}"}
    comparisons = [Comparison("compiled", "eager")]
    return Report("train_step", "images/s", measured, comparisons, vars(options), clock, facts)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = harness.parser("train_step", __doc__)
    parser.add_argument("--steps", type=int, default=8, help="timed steps in a round (default: %(default)s)")
    parser.add_argument("--network", default="small", choices=NETWORKS)
    parser.add_argument("--image-size", type=int, default=32, help="px (default: %(default)s)")
    parser.add_argument("--labeled", type=int, default=32, help="labeled images of a batch (default: %(default)s)")
    parser.add_argument("--ratio", type=int, default=3, help="unlabeled images per labeled one (default: %(default)s)")
    default = "gpu" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=("cpu", "gpu"), help="default here: %(default)s")
    parser.add_argument("--remat", action="store_true", help="ours computes activations again, as model.remat=true")
    parser.add_argument("--compile", action="store_true", help="ours with trainer.compile=true beside false")
    return parser.parse_args(argv)


def ready_batch(options: argparse.Namespace) -> Batch:
    """A joint batch as the loader makes it, already on the device."""
    rng = torch.Generator().manual_seed(0)
    unlabeled = options.labeled * options.ratio
    shape = (options.labeled + unlabeled, options.image_size, options.image_size, 3)
    batch: Batch = {
        "images": torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8).permute(0, 3, 1, 2),
        "labels": torch.randint(0, CLASSES, (options.labeled,), generator=rng),
        "targets": torch.rand(unlabeled, CLASSES, generator=rng).softmax(dim=1),
    }
    return {name: value.to(device(options)) for name, value in batch.items()} | {"bad": []}


def device(options: argparse.Namespace) -> torch.device:
    return torch.device("cuda" if options.device == "gpu" else "cpu")


def new_network(options: argparse.Namespace) -> EfficientNet:
    torch.manual_seed(0)
    network = build(NETWORKS[options.network], CLASSES, stochastic_depth=0.2)
    return network.to(memory_format=torch.channels_last)


def autocast(options: argparse.Namespace) -> Any:
    if options.device == "cpu":
        return contextlib.nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


def images_per_round(options: argparse.Namespace) -> int:
    return options.steps * options.labeled * (1 + options.ratio)


def as_nst_train(options: argparse.Namespace, folder: Path) -> Callable[[], Timed]:
    """Ours, in a process as the command line starts it."""
    keep_freed_memory()
    return lightning_loop(options, ready_batch(options), folder)


def peer(loop_of: Callable[[argparse.Namespace, Batch], Callable[[], Timed]], options: argparse.Namespace) -> Any:
    return loop_of(options, ready_batch(options))


# ---- ours ------------------------------------------------------------------------------------------------


def lightning_loop(
    options: argparse.Namespace,
    batch: Batch,
    folder: Path,
    *settings: str,
    compile: bool = False,
    batches: Callable[[int], Iterable[Batch]] | None = None,
) -> Callable[[], Timed]:
    """Each turn is a short fit; what Lightning prepares before its first steps is not counted.

    Args:
        settings: further options of `nst train`.
        batches: a loader of so many; None: `batch` again and again.
    """
    hardware = harness.hardware(options.device, f"trainer.compile={str(compile).lower()}", *settings)
    recipe = Recipe(labeled_batch_size=options.labeled, unlabeled_ratio=options.ratio)
    schedule = Schedule(RATE, steps_per_epoch=100)
    network = new_network(options)
    network.set_grad_checkpointing(options.remat)
    module = Classifier(hardware.place(network), recipe, Noise(dropout=0.2), schedule, hardware)

    def turn() -> Timed:
        clock = StepClock(options.steps, Stopwatch(images_per_round(options), device(options)))
        trainer = hardware.trainer(
            folder, callbacks=[clock], loggers=[MetricsTable(folder / "metrics.csv")], max_epochs=1
        )
        steps = WARM_UP_STEPS + options.steps
        trainer.fit(module, batches(steps) if batches else Ready(batch, steps))
        return clock.stopwatch.timed()

    return turn


class Ready:
    """A loader whose batches are there already."""

    def __init__(self, batch: Batch, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.steps):
            yield self.batch


class StepClock(pl.Callback):
    """Times the steps after the warm-up, whole: from the end of a step to the end of the last."""

    def __init__(self, steps: int, stopwatch: Stopwatch) -> None:
        self.last, self.stopwatch = WARM_UP_STEPS + steps - 1, stopwatch

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == WARM_UP_STEPS - 1:
            self.stopwatch.start()
        elif batch_idx == self.last:
            self.stopwatch.stop()


# ---- peers -----------------------------------------------------------------------------------------------


def loop(options: argparse.Namespace, step: Callable[[int], Any]) -> Callable[[], Timed]:
    """A bare loop over `step(number)`, timed as ours."""
    done = 0

    def turn() -> Timed:
        nonlocal done
        stopwatch = Stopwatch(images_per_round(options), device(options))
        # not what the last turn of ours has left behind for the whole process
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        for number in range(WARM_UP_STEPS + options.steps):
            if number == WARM_UP_STEPS:
                stopwatch.start()
            done += 1
            step(done)
        stopwatch.stop()
        return stopwatch.timed()

    return turn


def hand_written_loop(options: argparse.Namespace, batch: Batch) -> Callable[[], Timed]:
    network = new_network(options).to(device(options)).train()
    average = new_network(options).to(device(options)).eval().requires_grad_(False)
    schedule = Schedule(RATE, steps_per_epoch=100)
    optimizer = RMSpropTF(parameter_groups(network, DECAY), RATE, alpha=0.9, eps=1e-3, momentum=0.9)
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    averages, values = ([pair[side] for pair in pairs if pair[0].is_floating_point()] for side in (0, 1))
    images, labels, targets = batch["images"], batch["labels"], batch["targets"]

    def step(number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(number)
        with autocast(options):
            logits = network(normalize(images)).float()
        supervised = cross_entropy(logits[: len(labels)], labels, label_smoothing=SMOOTHING)
        pseudo = -(targets * log_softmax(logits[len(labels) :], dim=1)).sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        (supervised + options.ratio * pseudo).backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, values, 1 - decay_at(float(number)))

    return loop(options, step)


def timm_loop(options: argparse.Namespace, batch: Batch) -> Callable[[], Timed]:
    network = new_network(options).to(device(options)).train()
    optimizer = create_optimizer_v2(
        network, "rmsproptf", lr=RATE, weight_decay=DECAY, momentum=0.9, alpha=0.9, eps=1e-3
    )
    average = ModelEmaV3(network, decay=0.9999)
    criterion = LabelSmoothingCrossEntropy(SMOOTHING)
    images = normalize(batch["images"]).contiguous(memory_format=torch.channels_last)
    labels = torch.cat([batch["labels"], batch["targets"].argmax(dim=1)])
    losses: list[Tensor] = []

    def step(number: int) -> None:
        with autocast(options):
            loss = criterion(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(network, step=number)
        losses.append(loss.detach())

    return loop(options, step)
