"""What several tests make or read: golden data, pictures, archives, predictions."""

from __future__ import annotations

import csv
import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from nst.checking import is_known, leaves
from nst.data.prediction_files import write_predictions
from nst.data.predictions import PredictionMetadata, finish_predictions, parquet_name
from nst.refused import typed
from nst.stage_table import STAGES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nst.robustness.attacks import Attack
    from nst.robustness.image_sets import ImageSet

_GOLDEN = Path(__file__).parent / "golden"

# ---- golden data -----------------------------------------------------------------------------------------


def golden_rows(name: str) -> list[dict[str, str]]:
    """Rows of a table in tests/golden by column."""
    with open(_GOLDEN / name, newline="") as file:
        return list(csv.DictReader(file))


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """Arrays of a file in tests/golden by key."""
    with np.load(_GOLDEN / name) as file:
        return dict(file)


def golden_tensors(name: str) -> dict[str, Tensor]:
    import torch  # here, because most tests of the data need none of it

    return {key: torch.as_tensor(array) for key, array in golden_arrays(name).items()}


# ---- pictures and archives -------------------------------------------------------------------------------


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random pixels (H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    """File of an image in Pillow's format `kind`."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


class SetSample(NamedTuple):
    """One image or clip of a set: key, pixels, and label: int or (M,)."""

    key: str
    image: np.ndarray
    label: int | np.ndarray


def samples(images: ImageSet, bad: list[str]) -> Iterator[SetSample]:
    """All samples that can be read, in order; the others are told in `bad`."""
    from nst.data.images import BadImage  # here: tests/test_extending.py imports a copy of nst

    for number, (key, label) in enumerate(zip(images.keys, images.labels, strict=True)):
        try:
            yield SetSample(key, images[number], label if label.ndim else int(label))
        except BadImage as error:
            bad.append(str(error))


# ---- processes and folders ---------------------------------------------------------------------------------


def ended_process() -> int:
    """The number of a process of this machine that has ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


# ---- predictions -----------------------------------------------------------------------------------------

CLASSES = ["ant", "bee", "cat", "dog"]


def metadata(number: int = 0, **changes: Any) -> PredictionMetadata:
    name = f"unlabeled-{number:06d}.tar"
    values = {"teacher_sha256": "a" * 64, "classes": CLASSES, "image_size": 64, "shard_name": name}
    return PredictionMetadata(**{**values, "shard_sha256": f"{number:064d}", **changes})


def write_random_predictions(
    folder: Path,
    number: int = 0,
    *,
    count: int = 50,
    scale: float = 2.0,
    keep: float = 0.3,
    seed: int | None = None,
    **changes: Any,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """A shard of random predictions, of which every third sample could not be decoded; returns its arrays."""
    about = metadata(number, **changes)
    rng = np.random.default_rng(number if seed is None else seed)
    index = np.delete(np.arange(count), np.arange(0, count, 3))
    keys = [f"{number}-{i}" for i in index]
    odds = np.exp(rng.normal(size=(len(index), len(about.classes))) * scale)
    probs = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    path = folder / parquet_name(about.shard_name)
    write_predictions(path, index=index, keys=keys, probs=probs, metadata=about, keep=keep)
    return index, keys, probs


def finish(folder: Path) -> Path:
    """Marks a folder of predictions as complete."""
    finish_predictions(folder, {})
    return folder


def three_shards(folder: Path, **changes: Any) -> dict[str, tuple[np.ndarray, list[str], np.ndarray]]:
    """A complete folder of random predictions: what was written, by shard."""
    written = {metadata(n).shard_name: write_random_predictions(folder, n, **changes) for n in range(3)}
    finish(folder)
    return written


def select_from(predictions, output, *, unlabeled="nowhere", labeled="nowhere", validation=None, seed=0, **options):
    """What `nst select` does with these predictions; `options` are of the group `select`."""
    from nst.settings.data import DataOptions, RemoteOptions, SourceOptions
    from nst.settings.job import SelectJob
    from nst.settings.learning import TeacherOptions
    from nst.settings.stages import SelectOptions
    from nst.stages import select

    data = {"name": "made", "root": "nowhere", "test": None, "source": SourceOptions(name="folder")}
    job = SelectJob(
        stage="select", name="select", seed=seed, overwrite=False, config={}, title="select",
        select=SelectOptions(**options), teacher=TeacherOptions(predictions=str(predictions)), remote=RemoteOptions(),
        data=DataOptions(unlabeled=str(unlabeled), labeled=str(labeled), validation=validation, **data),
    )  # fmt: skip
    return select.run(job, Path(output))


def apply_op(
    image: np.ndarray,
    name: str,
    magnitude: float,
    *,
    variant: str = "official",
    sign: int = +1,
    center: tuple[int, int] | None = None,
    translate_const: float = 100.0,
    cutout_const: float = 40.0,
) -> np.ndarray:
    """One operation of RandAugment with its randomness pinned: its sign, and row and column of a cutout's centre."""
    from nst.data import randaugment  # here: tests/test_extending.py imports a copy of nst
    from nst.data.operations import cutout_at

    step = randaugment._table(variant, magnitude, translate_const, cutout_const)[randaugment.OPERATIONS.index(name)]
    if name == "Cutout" and center is not None:
        return cutout_at(image, *center, int(step.argument))
    return step.operation(image, step.argument * sign if step.signed else step.argument)


def attack(
    network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, method: Attack | None = None,
    *, start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Adversarial images of an attack by itself, by default FGSM: see `nst.robustness.attacks.search`."""
    from nst.robustness import attacks

    with attacks.attackable(network, images.device):
        # copies: what was made in inference mode cannot take part in a gradient
        return attacks.search(network, images.clone(), labels.clone(), epsilon, method or attacks.Attack(), start)


def require_names(stage: str, inputs: Mapping[str, Any], folder: str = "") -> None:
    """Asserts that all a run depends on is told by options that can be typed, or in words."""
    for name, _ in leaves(inputs):
        told = typed(stage, name.removesuffix(".digest")).replace("*", folder)
        assert " " in told or is_known(told) or told in STAGES[stage].short, (stage, name, told)
