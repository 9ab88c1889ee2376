"""The LightningModule of teacher and student alike (Algorithm 1, steps 1 and 3).

A teacher is a student of generation 0: the same module without unlabeled images. `training_step` is the equation
    loss = CE(labeled) + unlabeled_ratio * CE(unlabeled, teacher's distribution)
over one joint forward, so that BatchNorm sees labeled and unlabeled images together.

All randomness of a step (dropout, stochastic depth) is seeded by (seed, step, rank), and nothing is read back from the
device but every `log_every` steps. A resumed run needs no generator state and repeats the killed run bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from nst.data.batches import Batch
from nst.data.joint import micro_batch, part_of, take_apart
from nst.data.parts import parts_of
from nst.data.stream import generator
from nst.metrics import ValidationSums, topk_correct
from nst.models.efficientnet import normalize
from nst.models.in_parts import in_parts
from nst.models.networks import Network
from nst.settings.learning import Recipe, Teaching
from nst.settings.network import Noise
from nst.training.compiling import compiled
from nst.training.ema import Ema
from nst.training.gathering import reduced
from nst.training.hardware import Hardware, Machine
from nst.training.losses import joint_loss, labeled_loss, sharpen, soft_targets, unlabeled_loss
from nst.training.noised_sides import masks
from nst.training.optim import build_optimizer, on_device, parameter_groups, set_learning_rate
from nst.training.phases import Schedule
from nst.training.step_sums import NOTHING_SUMMED, TRAIN_METRICS, means_of


class Classifier(pl.LightningModule):
    """Learns from labeled and pseudo-labeled images; evaluates its moving average.

    Args:
        network: the network to train, on the CPU; moved by the trainer.
        recipe: see `Recipe`.
        noise: rates and sides of dropout and stochastic depth. Augmentation happened in the loader.
        schedule: learning rate by step.
        machine: where it runs; None: a CPU. It says whether the network is compiled, how the batch is divided into
            groups (`nst.data.joint`) and micro-batches, and how a step's numbers get to the device.
        labels: form and temperature of the pseudo-labels.
        teacher: frozen network that labels within the step ("online"); None reads the batch's stored targets.
        seed: seed of the run.
        first_step: steps of earlier phases, added to the steps in the log.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        noise: Noise,
        schedule: Schedule,
        machine: Machine | None = None,
        *,
        labels: Teaching | None = None,
        teacher: nn.Module | None = None,
        seed: int = 0,
        first_step: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.ema = Ema(network, cap=recipe.ema_decay)
        self.recipe, self.noise, self.schedule = recipe, noise, schedule
        machine = Hardware() if machine is None else machine
        self.labels, self.seed = labels or Teaching(), seed
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self.first_step, self.validated_step = first_step, -1
        self.groups, self.device_numbers = machine.groups, machine.device_numbers
        self.accumulate, self.keep_apart = machine.accumulate, machine.keep_apart
        # not a submodule: the same parameters must not appear twice in a checkpoint
        self._forward = (compiled(network) if machine.compile else network,)
        self.draws_first = machine.compile  # compiled code would draw other noise
        self.num_classes = network.num_classes
        self.evaluation = ValidationSums(self.num_classes)
        # of a step's scalars since the last log, in the order of TRAIN_METRICS; not a buffer, which DDP would make
        # equal to rank 0's before every forward
        self.sums = torch.zeros(len(TRAIN_METRICS))
        self.summed_steps = self.images_seen = 0
        self.since = time.perf_counter()
        self.bad_samples: set[str] = set()
        self.latest: dict[str, float] = {}
        self.stopped_sums = NOTHING_SUMMED
        # DDP need not send round what no gradient reaches; the average follows from the weights on every rank
        names = [name for name, _ in (*self.named_parameters(), *self.named_buffers())]
        self._ddp_params_and_buffers_to_ignore = [name for name in names if name.startswith(("ema.", "teacher."))]
        if recipe.frozen_blocks:
            network.freeze_blocks(recipe.frozen_blocks)

    def train(self, mode: bool = True) -> Classifier:
        """Train or eval mode, from which the teacher is exempt: it is never noised."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    # ---- learning

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.accumulate > 1 or self.draws_first:
            return self.accumulated(batch)
        scalars = self.scalars(batch)
        self.note(*scalars)
        return scalars[0]

    def accumulated(self, batch: Batch) -> Tensor:
        """The last micro-batch's part of the loss; the others' have had their backward pass and left gradients.

        DDP, whose forward this is, sends nothing round before it has returned: one exchange a step. Noise is drawn
        for the whole batch, so that an image gets what it would get in the undivided one.
        """
        parts, images = self.accumulate, batch["images"]
        draws = self.network.draw_noise(len(images), images.device)
        cut = partial(part_of, labeled=len(batch["labels"]), parts=parts, groups=self.groups)
        whole = torch.zeros(len(TRAIN_METRICS) - 1, device=images.device)
        for number in range(parts):
            self.network.use_noise([cut(drawn, number=number) for drawn in draws])
            micro = micro_batch(batch, number, parts, self.groups)
            if number:
                self.keep_apart([*self.gradients(), *(value for value in micro.values() if isinstance(value, Tensor))])
            scalars = self.scalars(micro)
            loss, whole = scalars[0] / parts, whole + torch.stack([one.detach().float() for one in scalars]) / parts
            if number < parts - 1:
                with torch.autocast(images.device.type, enabled=False):
                    loss.backward()
        self.note(*whole)
        return loss

    def scalars(self, batch: Batch) -> tuple[Tensor, ...]:
        """Of a batch, what `note` adds up: its loss first."""
        labels = batch["labels"]
        logits = self.noised_forward(batch["images"], labeled=len(labels))
        labeled, unlabeled = take_apart(logits, len(labels), self.groups)

        smoothing = self.recipe.label_smoothing
        loss = supervised = labeled_loss(labeled, labels, smoothing)
        pseudo = torch.zeros_like(supervised)
        if len(unlabeled):
            pseudo = unlabeled_loss(unlabeled, self.pseudo_labels(batch), smoothing)
            loss = joint_loss(supervised, pseudo, self.recipe.unlabeled_ratio, average=self.recipe.loss_average)

        return loss * self.recipe.loss_scale, supervised, pseudo, 100 * topk_correct(labeled, labels, 1).float().mean()

    def noised_forward(self, images: Tensor, labeled: int) -> Tensor:
        """Logits (B + U, C) of the joint batch, each side with its own noise."""
        unlabeled = len(images) - labeled
        self.network.set_noise(*masks(self.noise, labeled, unlabeled, images.device, groups=self.groups))
        return self._forward[0](normalize(images))

    def pseudo_labels(self, batch: Batch) -> Tensor:
        """Targets of the unlabeled images: (U, C) soft, or (U,) hard."""
        if self.teacher is None:
            stored = batch["targets"]
            return sharpen(stored, self.labels.temperature) if stored.ndim == 2 else stored
        with torch.no_grad():
            logits = self.teacher(normalize(batch["clean_images"]))
        return soft_targets(logits, self.labels.temperature) if self.labels.targets == "soft" else logits.argmax(dim=1)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        step = self.trainer.global_step
        torch.manual_seed(int(generator(self.seed, "noise", step, self.global_rank).integers(2**63)))
        optimizer = self.optimizers()
        set_learning_rate(optimizer.optimizer, self.schedule.learning_rate(step))  # type: ignore[union-attr]
        optimizer.optimizer.zero_grad()  # type: ignore[union-attr]
        self.bad_samples.update(batch["bad"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.network, self.recipe.weight_decay)
        rate, options = self.schedule.base_rate, self.recipe.optimizer
        optimizer = build_optimizer(options.name, groups, rate, options.more, tensor_rate=self.device_numbers)
        for group in optimizer.param_groups:
            group["lr"] = self.number(rate)
        # averaged inside the optimiser's step: where the step is one compiled graph, the average is part of it
        optimizer.register_step_post_hook(lambda *_: self.ema.update(self.network, self.number(self.global_step + 1)))
        return optimizer

    def number(self, value: float) -> float | Tensor:
        """A number of this step, in the form that this hardware takes it."""
        return on_device(value, self.device) if self.device_numbers else value

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Nothing: by then, micro-batches have left gradients. `on_train_batch_start` drops those of the last step."""

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.gradients())))
        self.sums[-1] += norm.detach()  # gradient_norm
        if self.recipe.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.recipe.gradient_clip, norm)

    # ---- what is seen of it

    def note(self, *values: Tensor) -> None:
        """Adds up a step's scalars on the device, in the order of TRAIN_METRICS."""
        self.sums[: len(values)] += torch.stack([value.detach().float() for value in values])
        self.summed_steps += 1

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.images_seen += len(batch["images"]) * self.trainer.world_size
        if self.reads_metrics():
            self.publish()

    def reads_metrics(self) -> bool:
        """Whether the sums are read after this step: every `log_every` steps and at the end of a segment."""
        return self.trainer.global_step % self.recipe.log_every == 0 or self.trainer.is_last_batch

    def publish(self) -> None:
        """Reads the sums once and logs their means over the steps since the last time.

        Raises:
            NstError: the loss is not finite.
        """
        sums, step = self._summed().tolist(), self.trainer.global_step
        elapsed = time.perf_counter() - self.since
        means = means_of(sums, steps=self.summed_steps, until=step)
        rates = {
            "images_per_second": self.images_seen / elapsed,
            "step_time_ms": 1000 * elapsed / self.summed_steps,
        }
        means["learning_rate"] = self.schedule.learning_rate(step - 1)
        self.log_metrics({f"train/{name}": value for name, value in {**means, **rates}.items()}, step)
        self.start_sums()

    def _summed(self) -> Tensor:
        """The sums (M,), their mean over ranks. All ranks must ask."""
        if self.trainer.world_size == 1:
            return self.sums
        return self.trainer.strategy.reduce(self.sums.clone(), reduce_op="mean")

    def start_sums(self, begun: Mapping[str, Any] = NOTHING_SUMMED) -> None:
        """Sums of zero, or those with which a run was stopped between two reads."""
        self.sums = parts_of(self.trainer).state(torch.tensor(begun["sums"]))
        self.summed_steps, self.images_seen = begun["steps"], begun["images"]
        self.since = time.perf_counter() - begun["seconds"]

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.latest.update(metrics)
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.first_step + step)

    def on_train_start(self) -> None:
        self.start_sums(self.stopped_sums)
        self.stopped_sums = NOTHING_SUMMED

    # ---- evaluation, on the moving average

    def on_validation_epoch_start(self) -> None:
        self.evaluation = ValidationSums(self.num_classes).moved(parts_of(self.trainer).state)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = in_parts(self.ema, normalize(batch["images"]))
        self.evaluation.update(logits, batch["labels"], batch["valid"])

    def on_validation_epoch_end(self) -> None:
        scores = reduced(self.evaluation, self.trainer).compute()
        scores.pop("samples")
        self.log_metrics({f"validation/{name}": value for name, value in scores.items()}, self.trainer.global_step)
        self.validated_step = self.trainer.global_step
        self.since = time.perf_counter()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("teacher.")]:
            del state[name]  # the teacher has a file of its own
        checkpoint["bad_samples"] = sorted(self.bad_samples)
        checkpoint["latest"] = {"metrics": self.latest, "validated_step": self.validated_step}
        if self.summed_steps:
            checkpoint["sums"] = {
                "sums": self._summed().tolist(),
                "steps": self.summed_steps,
                "images": self.images_seen,
                "seconds": time.perf_counter() - self.since,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.teacher is not None:
            teacher = {f"teacher.{name}": value for name, value in self.teacher.state_dict().items()}
            checkpoint["state_dict"].update(teacher)
        self.bad_samples.update(checkpoint["bad_samples"])
        self.latest.update(checkpoint["latest"]["metrics"])
        self.validated_step = checkpoint["latest"]["validated_step"]
        self.stopped_sums = checkpoint.get("sums", NOTHING_SUMMED)
