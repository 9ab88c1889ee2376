"""The work of a run's stages: images, steps, FLOP, and seconds of preparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nst.data.views import ONCE, Turn
from nst.models.architectures import AnyArchitecture
from nst.plan.budget import PhaseCost
from nst.plan.dataset_size import DatasetSize
from nst.plan.layer_costs import NetworkCost, measure
from nst.plan.rates import step_views_seconds, view_seconds
from nst.training.phases import Phase


@dataclass(frozen=True)
class PlannedGeneration:
    """A network that is trained, and how its successor learns from it.

    Args:
        online: its teacher labels within the step.
        teacher_size: px at which its teacher labels; None: the teacher's own test size.
        teacher_turns: in which its teacher looks at an image.
        trained: False for a finished run, whose training is no part of the plan.
    """

    number: int
    architecture: AnyArchitecture
    phases: Sequence[Phase]
    remat: bool = False
    online: bool = False
    teacher_size: int | None = None
    teacher_turns: tuple[Turn, ...] = ONCE
    targets: str = "soft"
    trained: bool = True
    accumulate: int = 1

    @property
    def name(self) -> str:
        return self.architecture.name or "network"


def trainings_of(
    generation: PlannedGeneration, generations: Sequence[PlannedGeneration], images: DatasetSize
) -> list[PhaseCost]:
    """The phases of a generation, with what each costs."""
    teacher = teacher_cost(generation, generations, images) if generation.online else None
    return [
        PhaseCost(
            generation=generation.number,
            stage="train" if phase.name == "trained" else "finetune",
            model=generation.name,
            cost=measure(generation.architecture, images.classes, phase.image_size),
            recipe=phase.recipe,
            steps=phase.length.steps,
            remat=generation.remat,
            teacher=teacher if phase.recipe.unlabeled_ratio else None,
            teacher_looks=len(generation.teacher_turns),
            accumulate=generation.accumulate,
            augment=_augment(phase),
        )
        for phase in generation.phases
    ]


def _augment(phase: Phase) -> tuple[str, str]:
    """Of labeled and unlabeled images; RandAugment of no operations is crop and flip alone."""
    noise = phase.noise
    labeled, unlabeled = noise.labeled.augment, noise.unlabeled.augment
    if noise.randaugment.num_ops:
        return labeled, unlabeled
    return labeled.replace("randaugment", "standard"), unlabeled.replace("randaugment", "standard")


def teacher_cost(
    student: PlannedGeneration, generations: Sequence[PlannedGeneration], images: DatasetSize
) -> NetworkCost:
    """The generation before as it labels: at the size it was last evaluated at, unless the student says another."""
    teacher = generations[student.number - 1]
    size = student.teacher_size or teacher.phases[-1].test_size
    return measure(teacher.architecture, images.classes, size)


@dataclass(frozen=True)
class Work:
    """What one stage does of one generation.

    Args:
        views: s that one core would need to prepare the images.
    """

    generation: PlannedGeneration
    stage: str
    cost: NetworkCost
    steps: int | None
    images: int
    flops: int
    views: float


def works_of(
    generations: Sequence[PlannedGeneration], trainings: Sequence[PhaseCost], images: DatasetSize
) -> list[Work]:
    """Every stage that computes: training, fine-tuning, and labeling where the next one reads stored labels."""
    works = []
    for generation in generations:
        for training in (entry for entry in trainings if entry.generation == generation.number):
            steps, views = training.steps, step_views_seconds(training, images)
            sums = (steps, steps * training.batch, steps * training.flops, steps * views)
            works.append(Work(generation, training.stage, training.cost, *sums))
        for student in generations[generation.number + 1 : generation.number + 2]:
            if not student.online:
                labeler, count = teacher_cost(student, generations, images), images.unlabeled
                views = count * view_seconds(labeler.image_size, images.unlabeled_bytes)
                flops = count * len(student.teacher_turns) * labeler.inference_flops
                works.append(Work(generation, "label", labeler, None, count, flops, views))
    return works
