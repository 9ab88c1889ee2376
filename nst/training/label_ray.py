"""Labeling on a Ray cluster: one task per shard; machines may come and go (paper section 4.1 labels 300M images).

    label.engine=ray      every task writes its shard's file itself, into a folder that all machines see

A task has no state but its shard. When its worker or machine dies, Ray starts it again elsewhere; files appear whole
or not at all and are the same whoever writes them. So nothing is lost or labeled twice.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nst.data.batches import Batch
from nst.data.datamodule import evaluation_loader
from nst.data.parts import on_the_way
from nst.data.shard_set import ShardInfo, ShardSet
from nst.data.shared_memory import LoaderOptions
from nst.data.transfer import is_remote
from nst.errors import NstError
from nst.progress import Bar, say
from nst.settings.stages import RayOptions
from nst.training.ensemble import Ensemble
from nst.training.hardware import Hardware, Value
from nst.training.label_engines import (
    ShardsToLabel,
    computes_bf16,
    shard_batches,
    torch_labeler,
    torch_precision,
)
from nst.training.labeler import Labeler, MeanLabeler, ShardCollector

TASKS_AHEAD = 2000  # handed to Ray at a time: enough for its autoscaler to see what is wanted


@dataclass(frozen=True)
class RayEngine(RayOptions):
    """A task per shard on a Ray cluster.

    Args:
        accelerator, channels_last: as in `Hardware`; the machine that has the command needs no GPU itself.
        workers, prefetch: of a task on a GPU, see `LoaderOptions`; on a CPU the tasks are the parallelism.

    Raises:
        NstError: Ray is not installed.
    """

    accelerator: str = "cpu"
    channels_last: bool = True
    workers: int = 1
    prefetch: int = 4
    collective = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _import_ray()

    @property
    def loader(self) -> LoaderOptions:
        return LoaderOptions(self.workers if self.accelerator == "gpu" else 0, self.prefetch)

    @property
    def cores(self) -> int:
        return 1 + self.loader.workers if self.cpus is None else self.cpus

    @property
    def resources(self) -> dict[str, Any]:
        gpus = int(self.accelerator == "gpu") if self.gpus is None else self.gpus
        return {"num_cpus": self.cores, "num_gpus": gpus}

    def precision(self, wanted: str) -> str:
        """ "auto" is answered by a machine that would label."""
        if torch_precision(wanted, self.accelerator) == wanted:
            return wanted
        ray = self._connected()
        probe = ray.remote(**self.resources)(computes_bf16)
        return "bf16-true" if ray.get(probe.remote(self.accelerator)) else "32-true"

    def batch_size(self, wanted: int) -> int:
        return wanted

    def agreed(self, value: Value) -> Value:
        return value

    def label(self, job: ShardsToLabel, numbers: Sequence[int]) -> None:
        """Labels these shards.

        Raises:
            NstError: a task's mistake, or a shard whose workers died once too often.
        """
        ray = self._connected()
        done = job.unlabeled.samples - sum(job.unlabeled.shards[number].samples for number in numbers)
        # max_calls: a worker that keeps its process for the next shard keeps its network too
        task = ray.remote(**self.resources, max_retries=self.retries, max_calls=0)(label_shard)
        with Bar(job.name, job.unlabeled.samples, start=done) as bar:
            for shard in self._finished(ray, task, [_job_of(job, number) for number in numbers]):
                bar.update(bar.step + shard.samples)

    def _finished(self, ray: Any, task: Any, jobs: Sequence[ShardsToLabel]) -> Iterator[ShardInfo]:
        """Runs all tasks; yields the shards as they are finished."""
        waiting: dict[Any, ShardInfo] = {}
        left = iter(jobs)
        try:
            while True:
                for job in left:
                    waiting[task.remote(job, self)] = job.unlabeled.shards[0]
                    if len(waiting) >= TASKS_AHEAD:
                        break
                if not waiting:
                    return
                (reference,), _ = ray.wait(list(waiting), num_returns=1)
                shard = waiting.pop(reference)
                if (mistake := self._answer(ray, reference, shard)) is not None:
                    raise mistake
                yield shard
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def _answer(self, ray: Any, reference: Any, shard: ShardInfo) -> NstError | None:
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise  # a fault in the code, with its traceback
        except ray.exceptions.RayError as error:
            return NstError(
                f"shard {shard.name} could not be labeled: its workers died {self.retries + 1} times",
                got=str(error).strip().splitlines()[0],
                valid=f"label.ray.retries={self.retries}",
                next="see why: memory, preemption; the same command continues with the shards that are missing",
            )

    def _connected(self) -> Any:
        ray = _import_ray()
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except Exception as error:  # Ray raises plain ones, too
                raise NstError(
                    "there is no Ray cluster to label on",
                    got=str(error).strip().splitlines()[0],
                    valid="label.ray.address=<host:port>, or null for this machine's own",
                    next="ray start --head, or see ray status",
                ) from error
            total = ray.cluster_resources()
            say(f"Ray: {total.get('CPU', 0):g} cores, {total.get('GPU', 0):g} GPUs")
            if not self.fits(ray.nodes()):
                # no mistake where the cluster grows by itself; where it does not, Ray would wait without a word
                say(
                    f"Ray waits for a machine of {self.cores} cores and {self.resources['num_gpus']} GPUs, which the "
                    "cluster does not have yet; label.ray.cpus and label.ray.gpus set what a task takes"
                )
        return ray

    def fits(self, nodes: Sequence[Mapping[str, Any]]) -> bool:
        """Whether one of these machines (`ray.nodes()`) is large enough for a task."""
        wanted = {"CPU": self.cores, "GPU": self.resources["num_gpus"]}
        return any(
            node["Alive"] and all(node["Resources"].get(name, 0) >= least for name, least in wanted.items())
            for node in nodes
        )


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise NstError(
            "label.engine=ray needs Ray",
            got=error,
            next="install the extra: NST_EXTRAS=ray bin/install, on all machines of the cluster",
        ) from error
    return ray


def _job_of(job: ShardsToLabel, number: int) -> ShardsToLabel:
    """The part of a job that one task needs: a set of one shard, and paths that hold in another working directory."""
    shards = job.unlabeled
    assert isinstance(shards, ShardSet)
    folder, place = (at if is_remote(at) else Path(at).absolute() for at in (shards.folder, shards.place))
    one = replace(shards, shards=(shards.shards[number],), folder=folder).at(place)
    return replace(job, teacher=job.teacher.absolute(), folder=job.folder.absolute(), unlabeled=one)


def label_shard(job: ShardsToLabel, engine: RayEngine) -> NstError | None:
    """Labels a set of one shard; the task. A mistake is returned: Ray would wrap one that is raised."""
    try:
        torch.set_num_threads(engine.cores)
        changed = tuple(member.weights.stat().st_mtime_ns for member in job.teacher.members)
        labeler, device = _labeler(job.teacher, changed, job.precision, engine.accelerator, engine.channels_last)
        batches = job.batches()
        loader = evaluation_loader(batches, engine.loader, pin_memory=device.type == "cuda")
        with torch.inference_mode(), ShardCollector(shard_batches(batches), job.write, lambda _: None) as collector:
            for number, batch in enumerate(loader):
                images, valid = (batch[name].to(device, non_blocking=True) for name in ("images", "valid"))
                moved: Batch = {**batch, "images": images, "valid": valid}
                collector.add(batch, on_the_way(labeler.predict_step(moved, number)))
    except NstError as error:
        return error
    return None


@functools.lru_cache(maxsize=1)
def _labeler(
    teacher: Ensemble, changed_ns: tuple[int, ...], precision: str, accelerator: str, channels_last: bool
) -> tuple[Labeler | MeanLabeler, torch.device]:
    """The network on this worker's device; kept for the next shard."""
    hardware = Hardware(accelerator=accelerator, channels_last=channels_last)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    one = functools.partial(torch_labeler, precision=precision, place=hardware.place)
    return teacher.asking(one, MeanLabeler).to(device), device
