"""What a training step and a whole stage cost on a cluster: work, memory of a core, traffic, time.

Hours follow from a utilisation, the share of the peak that real training reaches, and from what loaders deliver: the
slower of both binds (`nst.plan.rates`). Everything else here is counted. Memory of activations is counted by one of
two laws. Compiled (TPU), a kernel gives a convolution's output as it is stored, and BatchNorm, activation and gate are
computed again where they are needed. Not compiled (GPU, CPU), what autograd saves is kept. Against the TPU compiler on
B0, B3 and L2 the first is within a fifth per image; `plan.compile` asks the compiler itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from nst.errors import UsageError
from nst.plan.chips import Cluster
from nst.plan.layer_costs import NetworkCost
from nst.settings.learning import Recipe
from nst.training.optim import build_optimizer
from nst.training.tensor_rate import prime

# s in which the TPU compiler made a train step on two cores (docs/speed.md). A TPU's host has many more; how much
# faster it is there has not been measured
COMPILE_S = {"efficientnet_b0": 192, "efficientnet_l2": 1463}
COMPILE_S_A_BLOCK = 16  # of other networks: as of L2's 88 blocks
FLOAT32 = 4  # bytes; of weights, their averages, optimiser state, and what BatchNorm computes in


@dataclass(frozen=True)
class Numerics:
    """In how many bytes a step computes.

    Args:
        activation: of a stored activation: 2 under bf16 or fp16 autocast, else 4.
        gradient: of a weight's gradient on its way between devices.
    """

    activation: int = FLOAT32
    gradient: int = FLOAT32

    @classmethod
    def of(cls, precision: str, gradient_dtype: str = "float32") -> Numerics:
        """From the trainer's `precision` and, on XLA, `gradient_dtype`."""
        mixed = str(precision).endswith("16-mixed")
        return cls(2 if mixed else FLOAT32, 2 if mixed and gradient_dtype == "bfloat16" else FLOAT32)


@dataclass(frozen=True)
class PhaseCost:
    """One training phase of one generation, as far as it costs something.

    Args:
        cost: the network at the phase's image size.
        teacher: an online teacher at its own image size; None: labels are read.
        teacher_looks: how often it looks at an image.
        accumulate: micro-batches that a core makes of its images.
        augment: of labeled and unlabeled images, as `Side` has it.
    """

    generation: int
    stage: str  # train | finetune
    model: str
    cost: NetworkCost
    recipe: Recipe
    steps: int
    remat: bool = False
    teacher: NetworkCost | None = None
    teacher_looks: int = 1
    accumulate: int = 1
    augment: tuple[str, str] = ("randaugment", "randaugment")

    @property
    def batch(self) -> int:
        """Images of a step, labeled and unlabeled."""
        return self.recipe.labeled_batch_size * (1 + self.recipe.unlabeled_ratio)

    @property
    def unlabeled(self) -> int:
        return self.recipe.labeled_batch_size * self.recipe.unlabeled_ratio

    @property
    def flops(self) -> int:
        """Of a step, on all cores together."""
        own = self.batch * self.cost.training_flops(self.recipe.frozen_blocks, remat=self.remat)
        looks = self.unlabeled * self.teacher_looks
        return own + (looks * self.teacher.inference_flops if self.teacher else 0)


@dataclass(frozen=True)
class Memory:
    """Bytes on one core during a training step."""

    parameters: int
    optimizer: int
    ema: int
    gradients: int
    activations: int
    batch: int
    teacher: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Step:
    """One training step on a cluster.

    Args:
        computing, preparing: s that the cores and the loaders need; they overlap, and the longer one binds.
    """

    images: int
    images_per_core: int
    flops: int
    flops_per_core: int
    all_reduce_bytes: int
    computing: float
    preparing: float
    seconds: float
    images_per_second: float
    images_per_second_and_host: float


def images_per_core(training: PhaseCost, cluster: Cluster) -> int:
    """Images of a step on each core.

    Raises:
        NstError: the labeled batch cannot be divided evenly.
    """
    size, replicas, accumulate = training.recipe.labeled_batch_size, cluster.replicas, training.accumulate
    parts = replicas * accumulate
    if size % parts:
        times = f", trainer.accumulate={accumulate}" if accumulate > 1 else ""
        raise UsageError(
            f"the labeled batch does not divide by the number of cores{times and ' and micro-batches'}",
            got=f"labeled_batch_size={size} on {replicas} cores of {cluster.name}{times}",
            valid=f"a multiple of {parts}",
            next=f"student.labeled_batch_size={-(-size // parts) * parts}, or another plan.hardware",
        )
    return training.batch // replicas


def step(training: PhaseCost, cluster: Cluster, numerics: Numerics, utilization: float, preparing: float = 0.0) -> Step:
    """A step whose images take the loaders `preparing` s. Raises NstError if the batch does not divide by the cores."""
    computing = seconds(training.flops, cluster, utilization)
    time = max(computing, preparing)
    rate = training.batch / time
    return Step(
        images=training.batch,
        images_per_core=images_per_core(training, cluster),
        flops=training.flops,
        flops_per_core=training.flops // cluster.replicas,
        all_reduce_bytes=all_reduce_bytes(training, numerics) if cluster.replicas > 1 else 0,
        computing=computing,
        preparing=preparing,
        seconds=time,
        images_per_second=rate,
        images_per_second_and_host=rate / cluster.hosts,
    )


def seconds(flops: float, cluster: Cluster, utilization: float) -> float:
    """Time of that work on all cores at a share of their peak."""
    return flops / (utilization * cluster.peak)


def compile_seconds(training: PhaseCost) -> float:
    """Until the first step of every start on a TPU, whose compiled programs no later process can use."""
    blocks = sum(part.block for part in training.cost.parts)
    return COMPILE_S.get(training.model, COMPILE_S_A_BLOCK * blocks)


def trainable(training: PhaseCost) -> int:
    """Parameters that learn."""
    return sum(part.parameters for part in training.cost.learning(training.recipe.frozen_blocks))


def all_reduce_bytes(training: PhaseCost, numerics: Numerics) -> int:
    """What every core adds to the others' in a step: gradients, and BatchNorm's sums forward and backward."""
    learning = training.cost.learning(training.recipe.frozen_blocks)
    statistics = sum(part.statistics for part in learning)
    return trainable(training) * numerics.gradient + 2 * statistics * FLOAT32


def memory(training: PhaseCost, cluster: Cluster, numerics: Numerics, *, remat: bool) -> Memory:
    """Of one core; every core holds all weights.

    Args:
        remat: keep only what enters each block, and compute the rest again.
    """
    cost, images = training.cost, images_per_core(training, cluster)
    targets = 0 if training.teacher else FLOAT32 * cost.num_classes
    clean = 3 * training.teacher.image_size**2 if training.teacher else 0
    share = training.unlabeled / training.batch
    of_image = activation_bytes(training, numerics, compiled=cluster.chip.tpu, remat=remat)
    return Memory(
        parameters=cost.parameters * FLOAT32,
        optimizer=trainable(training) * optimizer_slots(training.recipe) * FLOAT32,
        ema=(cost.parameters + cost.statistics) * FLOAT32,
        gradients=trainable(training) * FLOAT32,
        activations=images // training.accumulate * of_image,
        batch=round(images * (3 * cost.image_size**2 + share * (targets + clean))),
        teacher=training.teacher.parameters * FLOAT32 if training.teacher else 0,
    )


def accumulate_that_fits(training: PhaseCost, cluster: Cluster, numerics: Numerics, *, remat: bool) -> int | None:
    """The fewest micro-batches with which a step fits into a core's memory, whatever is configured; None: none do."""
    share = training.recipe.labeled_batch_size // cluster.replicas
    for parts in (parts for parts in range(1, share + 1) if share % parts == 0):
        if fits(replace(training, accumulate=parts), cluster, numerics, remat=remat):
            return parts
    return None


def fits(training: PhaseCost, cluster: Cluster, numerics: Numerics, *, remat: bool) -> bool:
    """Whether a step's memory is there; a host's own is not counted."""
    has = cluster.chip.memory
    return has is None or memory(training, cluster, numerics, remat=remat).total <= has


def cure(training: PhaseCost, cluster: Cluster, numerics: Numerics) -> str | None:
    """Options with which a step fits that does not as configured; None: it does."""
    if fits(training, cluster, numerics, remat=training.remat):
        return None
    cures = ["model.remat=true"] if fits(training, cluster, numerics, remat=True) else []
    for remat in dict.fromkeys((training.remat, True)):
        parts = accumulate_that_fits(training, cluster, numerics, remat=remat)
        if parts is not None and not (remat > training.remat and cures):
            cures.append(f"{'model.remat=true ' if remat > training.remat else ''}trainer.accumulate={parts}")
    return " or ".join(cures) or "more cores or a smaller student.labeled_batch_size"


def optimizer_slots(recipe: Recipe) -> int:
    """Numbers that the optimiser keeps for every weight: asked of a real one, over a single weight."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(recipe.optimizer.name, [{"params": [weight]}], 0.1, recipe.optimizer.more)
    prime(optimizer)
    return sum(value.numel() for name, value in optimizer.state[weight].items() if name != "step")


def activation_bytes(training: PhaseCost, numerics: Numerics, *, compiled: bool, remat: bool) -> int:
    """Of one image, at the moment of the step when most is alive."""
    parts = training.cost.learning(training.recipe.frozen_blocks)
    inner = [part for part in parts if part.block]
    outer = [part for part in parts if not part.block]
    if compiled:
        # what enters a block is a sum in float32; in the block that is worked on, values and gradients are too
        kept = FLOAT32 * sum(part.inputs for part in inner)
        kept += numerics.activation * sum(part.outputs for part in (outer if remat else parts))
        return kept + 2 * FLOAT32 * max(part.outputs for part in parts)
    if not remat:
        return numerics.activation * sum(part.saved for part in parts)
    kept = sum(part.inputs for part in inner) + sum(part.saved for part in outer)
    return numerics.activation * (kept + 2 * max((part.saved for part in inner), default=0))
