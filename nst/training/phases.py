"""The phases of a training, before anything is loaded that trains.

There are two at most: training at the training size, then FixRes fine-tuning (METHOD) on labeled images without
augmentation at the larger size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nst.models.architectures import AnyArchitecture, require_size
from nst.settings.learning import Recipe, StudentOptions
from nst.settings.network import Noise
from nst.training.recipe import Length, finetuning
from nst.training.schedule import Schedule, schedule_for


@dataclass(frozen=True)
class Phase:
    """One fit: its recipe, noise, length and image sizes, and the name under which its network is kept."""

    name: str  # trained | finetuned
    recipe: Recipe
    noise: Noise
    length: Length
    image_size: int
    test_size: int
    first_step: int = 0

    @property
    def schedule(self) -> Schedule:
        """Raises NstError: warm-up, length and kind make no schedule."""
        return schedule_for(self.recipe, self.length)


def phases(model: AnyArchitecture, student: StudentOptions, noise: Noise, labeled_samples: int) -> list[Phase]:
    """Training, and FixRes fine-tuning where it is asked for."""
    finetune, length = student.finetune, Length.of(student, labeled_samples)
    # a network that will be fine-tuned is judged at its training size before, at the larger one after
    size = model.train_size if finetune.epochs else model.test_size
    first = Phase("trained", student, noise, length, model.train_size, size)
    if not finetune.epochs:
        return [first]
    recipe, larger = finetuning(finetune, student), finetune.image_size or model.test_size
    require_size(model, larger)
    quiet = replace(noise, labeled=replace(noise.labeled, augment="none"))
    return [first, Phase("finetuned", recipe, quiet, Length.of(recipe, labeled_samples), larger, larger, length.steps)]
