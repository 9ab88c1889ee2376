"""The facts that rules look at: trainings, shard sets, disk and logging, as plain values.

What is not known is None, and a rule that needs it says nothing. A configuration can so be judged before there is a
shard, a weight or a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nst.data.shard_set import ShardSet
from nst.models.architectures import AnyArchitecture, Architecture, parameters
from nst.models.timm_architecture import TimmArchitecture
from nst.settings.data import Pictures
from nst.settings.learning import Finetune, Recipe
from nst.settings.network import Noise
from nst.training.phases import Length


@dataclass(frozen=True)
class Advice:
    """What a rule has to say, and the option or command that helps."""

    message: str
    next: str


@dataclass(frozen=True)
class TeacherFacts:
    """The network that labels for a student.

    Args:
        test_size: px at which it was last evaluated, and labels unless `image_size` says another.
    """

    name: str
    parameters: int
    test_size: int
    image_size: int | None = None
    architecture: AnyArchitecture | None = None


@dataclass(frozen=True)
class MemoryFacts:
    """GiB that a step needs of a core, and that this has.

    Args:
        cure: options with which it fits; None: it does.
    """

    hardware: str
    needed: float
    has: float
    cure: str | None


@dataclass(frozen=True)
class TrainingFacts:
    """One training: of a generation, or the only one.

    Args:
        generation: `gen1`, or empty.
        labeled_images: None where there are no shards and the data set is not known by its name.
        parameters: of its network.
        undecayed: names of parameters that are of no normalising layer and that no weight decay reaches.
        batch_norms: whether its network has BatchNorm.
        teacher: None: it learns from labels alone.
        memory: of a step on plan.hardware; None where that is not given.
        own: options that iterate.generations gives this generation.
        stored_size: px of the shorter side of the largest pictures that shards hold; None: as they were.
    """

    generation: str
    architecture: AnyArchitecture
    recipe: Recipe
    finetune: Finetune
    noise: Noise
    pictures: Pictures
    labeled_images: int | None
    parameters: int
    undecayed: tuple[str, ...]
    teacher: TeacherFacts | None = None
    memory: MemoryFacts | None = None
    batch_norms: bool = True
    own: tuple[str, ...] = ()
    stored_size: int | None = None

    @property
    def steps(self) -> int | None:
        if self.recipe.steps is None and self.labeled_images is None:
            return None
        return Length.of(self.recipe, self.labeled_images or 0).steps

    @property
    def warmup_steps(self) -> int | None:
        if self.labeled_images is None:
            return None
        return int(self.recipe.schedule.warmup_epochs * Length.of(self.recipe, self.labeled_images).steps_per_epoch)


@dataclass(frozen=True)
class Comparison:
    """Unlabeled images that were compared with the test images by the content of their files.

    Args:
        same: (key of the unlabeled image, key of the test image) of those that are equal.
    """

    unlabeled: int
    test: int
    same: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Selecting:
    """How labels are kept and balanced. `classes` and `unlabeled` are None where not known."""

    keep: float
    min_confidence: float
    images_per_class: int | None
    offline: bool
    soft: bool
    classes: int | None
    unlabeled: int | None


@dataclass(frozen=True)
class Situation:
    """Everything at once.

    Args:
        selecting: None where nothing will be selected: of a single training, whose selection is made.
        sets: shard sets that are there, by their name in the data group: labeled, test, validation.
        validation_samples: labeled images of every class that validation takes where the source has none of its own.
        teacher_classes: of a teacher that is there; None otherwise.
        noised_teacher: whether labels will be made under noise.
        needed_bytes: that predictions and selections will take, without probabilities where only likely images
            keep theirs; None where not known.
        free_bytes: on the disk of the run directory.
        wandb_mode: as asked for; None without W&B. `wandb_resolved`: what comes of it.
        wandb_environment: what the variable WANDB_MODE says; empty: nothing.
        replaced: option of the command line → (its value, generation → the value that replaces it there).
    """

    trainings: tuple[TrainingFacts, ...]
    selecting: Selecting | None
    sets: Mapping[str, ShardSet] = field(default_factory=dict)
    validation_samples: int = 0
    teacher_classes: tuple[str, ...] | None = None
    comparison: Comparison | None = None
    noised_teacher: bool = False
    needed_bytes: float | None = None
    free_bytes: int | None = None
    wandb_mode: str | None = None
    wandb_resolved: str | None = None
    wandb_environment: str = ""
    replaced: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)


def network_facts(architecture: AnyArchitecture, weight_decay: float) -> tuple[int, tuple[str, ...], bool]:
    """(parameters at two classes, names out of reach of weight decay, but for normalising layers', BatchNorm?)."""
    if isinstance(architecture, Architecture):
        known = list(parameters(architecture, 2))
        undecayed = () if weight_decay else tuple(each.name for each in known if not each.normalising)
        return sum(each.size for each in known), undecayed, True
    return _facts_of_timms(architecture, weight_decay)


def _facts_of_timms(architecture: TimmArchitecture, weight_decay: float) -> tuple[int, tuple[str, ...], bool]:
    """The same of a network that has to be built for it, without memory."""
    import torch  # here: no other network needs it for this

    from nst.models.batch_norm import BatchNorm
    from nst.models.networks import build
    from nst.training.optim import NORMS, parameter_groups

    with torch.device("meta"):
        network = build(architecture, 2)
    decayed = {
        id(parameter)
        for group in parameter_groups(network, weight_decay)
        if group["weight_decay"]
        for parameter in group["params"]
    }
    undecayed = [
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if not isinstance(module, NORMS)
        for name, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in decayed
    ]
    batch_norms = any(isinstance(module, BatchNorm) for module in network.modules())
    return sum(parameter.numel() for parameter in network.parameters()), tuple(undecayed), batch_norms
