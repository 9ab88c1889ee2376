"""What computes the pseudo-labels: Lightning's processes, each its slice of the shards, or a Ray cluster.

Both make every shard's file by itself and from the same batches, so a file's bytes depend neither on the engine nor on
who else was labeling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from nst.data.datamodule import evaluation_loader
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.inputs import Readable
from nst.data.parts import parts_of
from nst.data.shard_set import ShardInfo, ShardSet
from nst.errors import UsageError
from nst.models.checkpoints import load_network
from nst.models.folding import labeling_network
from nst.progress import Bar
from nst.training.callbacks import StopWhenTold
from nst.training.ensemble import Ensemble, Member
from nst.training.hardware import Hardware, Machine, Value
from nst.training.labeler import Labeler, MeanLabeler, ShardByShard, ShardCollector, WriteShard
from nst.training.noised_teacher import NoisedLabeler, network_to_noise

Place = Callable[[nn.Module], nn.Module]
PRECISIONS = {"32-true": torch.float32, "bf16-true": torch.bfloat16}


@dataclass(frozen=True)
class ShardsToLabel:
    """Shards to label, by whom and how.

    Args:
        teacher: its network, or several.
        folder: where the files go.
        precision: as the engine's `precision` resolved it.
        write: writes the file of one shard.
        name: of the stage, for the progress bar.
    """

    teacher: Ensemble
    folder: Path
    unlabeled: ShardSet | Readable
    batch_size: int
    precision: str
    write: WriteShard
    name: str = "label"

    def batches(self, only: Sequence[int] | None = None) -> EvaluationBatches:
        """The images of these shards, or of all."""
        return EvaluationBatches(self.unlabeled, self.teacher.view, batch_size=self.batch_size, only=only)


def computes_bf16(accelerator: str) -> bool:
    """Whether this machine multiplies bf16 in hardware; where it does not, bf16 is slower than float32."""
    if accelerator == "gpu":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def torch_precision(wanted: str, accelerator: str) -> str:
    """`label.precision` on a CPU or GPU."""
    if wanted != "auto":
        return wanted
    return "bf16-true" if computes_bf16(accelerator) else "32-true"


def torch_labeler(teacher: Member, precision: str, place: Place) -> Labeler:
    """A teacher as it labels on a CPU or GPU: BatchNorm folded, weights in this precision; in float32 if noised.

    Args:
        place: brings a network into the memory format of the hardware.
    """
    if teacher.noise is not None:
        return NoisedLabeler(place(network_to_noise(teacher)))
    network, dtype = load_network(teacher.weights)[0], PRECISIONS[precision]
    exact = place(labeling_network(network))
    if dtype == torch.float32:
        return Labeler(exact, temperature=teacher.temperature)
    return Labeler(place(labeling_network(network, dtype)), exact, teacher.temperature)


@dataclass(frozen=True)
class LightningEngine:
    """Lightning's predict loop on the `trainer`'s hardware: every process labels each world_size-th shard."""

    hardware: Machine
    collective = True  # all processes of a distributed job take part; of Ray only one has the command

    def precision(self, wanted: str) -> str:
        """What `label.precision` means here. XLA labels as it trains, and fuses BatchNorm itself."""
        if isinstance(self.hardware, Hardware):
            return torch_precision(wanted, self.hardware.accelerator)
        if wanted not in ("auto", self.hardware.precision):
            raise UsageError(
                "XLA labels in the trainer's precision",
                got=f"label.precision={wanted}, trainer.precision={self.hardware.precision}",
                valid="label.precision=auto",
                next=f"trainer.precision={wanted}",
            )
        return str(self.hardware.precision)

    def batch_size(self, wanted: int) -> int:
        """The next size that divides by the devices of a process."""
        return self.hardware.whole(wanted)

    def agreed(self, value: Value) -> Value:
        """See `Machine`."""
        return self.hardware.agreed(value)

    def label(self, job: ShardsToLabel, numbers: Sequence[int]) -> None:
        """Labels these shards of the job and writes a file for each."""
        hardware = self.hardware
        if isinstance(hardware, Hardware):
            hardware = replace(hardware, precision="32-true")  # the network's types are its own
            labeler = job.teacher.asking(lambda one: torch_labeler(one, job.precision, hardware.place), MeanLabeler)
        else:
            labeler = job.teacher.asking(
                lambda one: Labeler(hardware.place(load_network(one.weights)[0]), temperature=one.temperature),
                MeanLabeler,
            )
        trainer = hardware.trainer(job.folder)
        trainer.strategy.barrier("shards listed")  # before any of them is written
        rank, world_size = parts_of(trainer).place()
        parts = [job.batches(numbers[part::world_size]) for part in range(world_size)]
        own = parts[rank]
        # as many steps on every rank, empty ones at the end: under SPMD all take part in each
        rounds = max(len(part) for part in parts)
        loader = evaluation_loader(own, hardware.loader, rounds=rounds, pin_memory=hardware.pin_memory)
        # the bar counts this rank's images; the others are about as far
        done = job.unlabeled.samples - sum(own.sizes)
        with (
            Bar(job.name, job.unlabeled.samples, start=done, quiet=rank > 0) as bar,
            ShardCollector(shard_batches(own), job.write, lambda images: bar.update(bar.step + images)) as collector,
        ):
            trainer = hardware.trainer(job.folder, callbacks=[ShardByShard(collector), StopWhenTold()])
            trainer.predict(labeler, loader, return_predictions=False)
        trainer.strategy.barrier("labeled")


def shard_batches(batches: EvaluationBatches) -> list[tuple[ShardInfo, int]]:
    """The shards that these batches go through, and the number of batches of each."""
    return [
        (batches.shards[number], -(-size // batches.batch_size))
        for number, size in zip(batches.numbers, batches.sizes, strict=True)
    ]
