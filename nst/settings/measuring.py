"""The groups `eval` and `logger`: what is measured of a network, and where numbers are logged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nst.kinds import choice, either, flag, listed, null, number, text, whole
from nst.settings.common import BATCH, COUNT, PLACE, SEED, SIZE
from nst.settings.fields import Group, option


@dataclass(frozen=True)
class EvalOptions(Group, at="eval"):
    """What is measured on clean images."""

    batch_size: int = option(BATCH, 256, "images per forward")
    image_size: int | None = option(null(SIZE), None, "px; null: the network's own test size")
    views: str = option(
        choice("one", "all"), "one",
        "all: the mean over a picture mirrored and turned, as data.pictures.flip and .turn allow",
    )  # fmt: skip
    confusion: bool = option(flag(), True, "keep the confusion matrix in the result (up to 1,000 classes)")


@dataclass(frozen=True)
class AttackOptions(Group, at="eval.attacks"):
    """One attack; numbers in 1/255."""

    epsilons: Sequence[float] = option(listed(number(0, 255), least=1), help="largest changes of a pixel")
    steps: int = option(whole(1, 10_000), 1, "gradients taken; a single step from the picture itself is FGSM")
    step_size: float | None = option(null(number(0, 255, above=True)), None, "null: max(epsilon / steps, 1)")
    random_start: bool = option(flag(), False, "from a random point within epsilon")


FOLDER = "of {} as published; null: not evaluated"


@dataclass(frozen=True)
class RobustnessSettings(Group, at="eval"):
    """Corruptions, perturbation sequences, attacks and released sets, and their conditions."""

    corruptions: str | Sequence[str] | None = option(
        null(either(text(100), listed(text(100)))), None,
        "made on the fly: benchmark (15), all (19), a list of names; null: none",
    )  # fmt: skip
    severities: Sequence[int] = option(listed(whole(1, 5), least=1), (1, 2, 3, 4, 5), "of corruptions, 1 to 5")
    perturbations: str | Sequence[str] | None = option(
        null(either(text(100), listed(text(100)))), None,
        "sequences made on the fly: benchmark (10), all (14), a list of names; null: none",
    )  # fmt: skip
    difficulties: Sequence[int] = option(
        listed(whole(1, 3), least=1), (1,), "of sequences, 1 to 3; 1 gives the headline numbers"
    )
    attacks: Mapping[str, Mapping[str, Any] | None] | None = option(
        AttackOptions, None,
        "by name. null: none; fgsm: null: not that one; +eval.attacks.pgd_40={...}: one more",
        entries=True, nullable=True,
    )  # fmt: skip
    side: int | None = option(
        null(SIZE), None, "px of the images that are corrupted and perturbed; null: the image size of the evaluation"
    )
    jpeg_quality: int | str | None = option(
        null(either(whole(1, 100), choice("auto"))), "auto",
        "of a last JPEG step; auto: 85 at 224 and 299 px, as in the released files, else none",
    )  # fmt: skip
    frost_folder: str | None = option(PLACE, None, "of frost photographs; null: procedural frost")
    imagenet_val: str | None = option(PLACE, None, FOLDER.format("the validation set"))
    imagenet_a: str | None = option(PLACE, None, FOLDER.format("ImageNet-A"))
    imagenet_r: str | None = option(PLACE, None, FOLDER.format("ImageNet-R"))
    imagenet_v2: str | None = option(PLACE, None, FOLDER.format("ImageNet-V2"))
    imagenet_sketch: str | None = option(PLACE, None, FOLDER.format("ImageNet-Sketch"))
    imagenet_real: str | None = option(PLACE, None, "of validation images, flat or not; null: not evaluated")
    imagenet_c: str | None = option(PLACE, None, FOLDER.format("ImageNet-C"))
    imagenet_c_299: str | None = option(PLACE, None, FOLDER.format("ImageNet-C at 299 px"))
    imagenet_p: str | None = option(PLACE, None, FOLDER.format("ImageNet-P"))
    imagenet_p_299: str | None = option(PLACE, None, FOLDER.format("ImageNet-P at 299 px"))
    cifar_c: str | None = option(PLACE, None, FOLDER.format("CIFAR-10-C or CIFAR-100-C"))
    cifar_p: str | None = option(PLACE, None, FOLDER.format("CIFAR-10-P"))
    real_labels: str | None = option(PLACE, None, "the authors' real.json; null: timm's copy")
    resize_to: int | None = option(
        null(SIZE), None,
        "px at which released corruptions and sequences are shown; null: as stored (224, 299 or 32)",
    )  # fmt: skip
    max_images: int | None = option(null(COUNT), None, "of each set, every class in proportion; null: all")
    max_clips: int | None = option(null(COUNT), None, "the same of sequences; null: max_images")
    seed: int = option(
        SEED, 0,
        "of the subset and of everything drawn; the same for all networks that are to be compared",
    )  # fmt: skip
    baseline: str | None = option(PLACE, None, "run whose own robustness results ours are divided by")
    every: int | None = option(
        null(COUNT), None, "steps between two of these evaluations within a training; null: none"
    )


@dataclass(frozen=True)
class Evaluation:
    """All that is measured; `robustness` is None where eval=clean asks for nothing else."""

    clean: EvalOptions
    robustness: RobustnessSettings | None = None


@dataclass(frozen=True)
class WandbOptions(Group, at="logger.wandb"):
    """A W&B run per training."""

    project: str = option(text(128), "nst")
    entity: str | None = option(null(text(128)), None, "user or team; null: the account's own")
    mode: str = option(
        choice("auto", "online", "offline", "disabled"), "auto", "auto: online for who is logged in, else offline"
    )
    group: str | None = option(null(text(128)), follows="${name}", help="under which W&B shows runs together")
    tags: Sequence[str] = option(listed(text(64)), ())

    @property
    def resolved_mode(self) -> str:
        """W&B's own: whether a run is written online, and not only on this machine."""
        if self.mode != "auto":
            return self.mode
        import wandb  # as everywhere here where it is needed: a training without W&B does not wait for it

        return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


@dataclass(frozen=True)
class LoggerOptions(Group, at="logger"):
    """Where a training's numbers go."""

    table: bool = option(flag(), True, "metrics.csv in the run directory")
    wandb: WandbOptions | None = option(WandbOptions, None, "null: no W&B run", nullable=True)
