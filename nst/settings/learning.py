"""The groups `teacher` and `student`: whose labels, and how a network learns (METHOD, Optimiser, Schedule and Loss)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nst.kinds import choice, either, flag, listed, null, number, text, whole
from nst.settings.common import BATCH, COUNT, NETWORK, NETWORKS, PLACE, POSITIVE, RATE, SIZE, SOME
from nst.settings.fields import Group, option, part


@dataclass(frozen=True)
class Teaching(Group, at="teacher"):
    """How the unlabeled images get their labels."""

    mode: str = option(
        choice("offline", "online"), "offline",
        "online: labels are computed within the student's step, on a second, clean view",
    )  # fmt: skip
    targets: str = option(choice("soft", "hard"), "soft", "the full distribution, or the most probable class only")
    temperature: float = option(POSITIVE, 1.0, "softens (above 1) or sharpens (below 1) the distribution")
    image_size: int | None = option(null(SIZE), None, "px of the clean view; null: the teacher's own test size")
    views: str = option(
        choice("one", "all"), "one",
        "all: the mean over a picture mirrored and turned, as data.pictures.flip and .turn allow",
    )  # fmt: skip
    noised: bool = option(
        flag(), False, "labels are made under the noise of the teacher's own training: the ablation, not the method"
    )
    reassign: bool = option(
        flag(),
        False,
        "true keeps another teacher's selection and gives its images this teacher's labels, as the released code",
    )


@dataclass(frozen=True)
class TeacherOptions(Teaching, at="teacher"):
    """The teacher, and where its predictions lie."""

    run: str | Sequence[str] | None = option(
        NETWORKS, None,
        "run directory of the teacher; a list: the mean of their probabilities; null trains on labels alone",
    )  # fmt: skip
    checkpoint: str | None = option(NETWORK, None, "its weights; null: the final ones of teacher.run")
    predictions: str | None = option(PLACE, None, "folder of nst label; null: predictions/ in teacher.run")
    selection: str | None = option(PLACE, None, "folder of nst select; null: selection/ in teacher.run")
    student: str | None = option(
        null(text(200)), None, "recipe by which iterate trains the teacher; null: the student's own"
    )


LABELS = ("predictions", "selection")  # folders of what a teacher says, in its run directory unless options say where


def only_run(run: str | Sequence[str] | None) -> str | None:
    """The run that `teacher.run` names; None where it names none, or several, which have no folder in common."""
    if run is None or isinstance(run, str):
        return run
    return run[0] if len(run) == 1 else None


@dataclass(frozen=True)
class OptimizerOptions(Group, at="student.optimizer"):
    """The optimiser."""

    name: str = option(choice("rmsprop", "adamw", "sgd"), "rmsprop")
    rate_per_256: float = option(
        number(0, 1e12, above=True), 0.016, "learning rate for 256 labeled images, scaled linearly with the batch"
    )
    more: Mapping[str, Any] = option(
        either(flag(), number(-1e9, 1e9), listed(number(-1e9, 1e9))), {},
        "torch's and timm's own options, by their names", rest=True,
    )  # fmt: skip


# options of torch's and timm's optimisers that are said elsewhere, and there
ELSEWHERE = {"lr": "student.optimizer.rate_per_256=...", "weight_decay": "student.weight_decay=..."}


@dataclass(frozen=True)
class ScheduleOptions(Group, at="student.schedule"):
    """The learning rate over a training; see `nst.training.phases.Schedule`."""

    kind: str = option(choice("exponential", "cosine", "constant"), "exponential")
    warmup_epochs: float = option(number(0, 1e9), 5, "linear warm-up")
    decay_rate: float = option(SOME, 0.97, "factor of an exponential decay")
    decay_epochs: float = option(POSITIVE, 2.4, "epochs of the labeled set from one decay to the next")
    final_rate_per_256: float | None = option(
        null(POSITIVE), None, "instead of decay_epochs: the rate at the end of an exponential decay"
    )
    staircase: bool = option(flag(), True, "decay at once, not little by little", listed=False)


@dataclass(frozen=True)
class Finetune(Group, at="student.finetune"):
    """FixRes fine-tuning: labeled images without augmentation at a larger size, shallow layers frozen."""

    epochs: float = option(number(0, 1e6), 0, "0 is off")
    image_size: int | None = option(null(SIZE), follows="${model.test_size}", help="px; null: the network's test size")
    frozen_blocks: int = option(whole(0, 10000), 0, "stem and this many first blocks do not learn")
    rate_per_256: float = option(
        number(0, 1e12, above=True),
        0.0005,
        "constant learning rate for 256 labeled images; the default is our own choice",
    )
    labeled_batch_size: int = option(BATCH, follows="${student.labeled_batch_size}", help="labeled images per step")


@dataclass(frozen=True)
class Recipe(Group, at="student"):
    """How a network learns. Defaults are the paper's ([C] where they differ).

    A teacher is a student of generation 0, so both follow the same recipe; the teacher merely has no unlabeled images.
    """

    labeled_batch_size: int = option(BATCH, 2048, "labeled images per step, over all devices")
    unlabeled_ratio: int = option(whole(0, 1000), 3, "unlabeled images per labeled one")
    epochs: float = option(POSITIVE, 350, "passes over the labeled set")
    steps: int | None = option(null(COUNT), None, "overrides epochs")
    optimizer: OptimizerOptions = part(OptimizerOptions)
    schedule: ScheduleOptions = part(ScheduleOptions)
    weight_decay: float = option(number(0, 1000), 1e-5)
    label_smoothing: float = option(RATE, 0.1)
    loss_average: str = option(
        choice("sum", "joint"), "sum",
        "sum, the released code's: labeled mean + ratio x unlabeled mean; joint, the paper's: divided by 1 + ratio",
    )  # fmt: skip
    loss_scale: float = option(
        number(0, 1e6, above=True), 1.0, "multiplies the loss: of a control by 1 + ratio where its student's is a sum"
    )
    ema_decay: float = option(RATE, 0.9999, "cap of the weights' moving average")
    batchnorm_momentum: float = option(
        SOME, 0.01, "weight of the newest batch in BatchNorm's statistics: TensorFlow's 0.99"
    )
    gradient_clip: float | None = option(null(POSITIVE), None, "largest gradient norm; null clips nothing")
    frozen_blocks: int = option(whole(0, 10000), 0, "stem and this many first blocks do not learn", listed=False)
    validate_every: int | None = option(null(COUNT), None, "steps; null validates at the end")
    checkpoint_every: int = option(COUNT, 1000, "steps, at most")
    log_every: int = option(COUNT, 10, "steps")


@dataclass(frozen=True)
class StudentOptions(Recipe, at="student"):
    """A recipe, where it starts, and the fine-tuning after it."""

    start: str = option(
        choice("pretrained", "teacher", "nothing"), "pretrained",
        "where a student begins: at model.pretrained, as its teacher did; at its teacher's weights; or fresh",
    )  # fmt: skip
    finetune: Finetune = option(Finetune, help="FixRes, after the training")
