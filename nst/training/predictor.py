"""A trained network for Python programs: pictures in, names of classes with their probabilities out (docs/predict.md).

The answers are those of `nst predict` in float32: same view, same network, same classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image

from nst.data.batches import Batch
from nst.data.image_stack import images_to_tensor
from nst.data.images import BadImage, decode, from_pillow
from nst.data.inputs import Inputs, open_inputs
from nst.errors import NstError
from nst.models.located import locate_ours
from nst.training.calibration import at_own_temperature
from nst.training.ensemble import Ensemble, ensemble_asked
from nst.training.hardware import Hardware
from nst.training.label_engines import torch_labeler
from nst.training.labeler import Labeler, MeanLabeler

# a path of a file, folder or archive; pixels of uint8, see VALID; a whole image file in memory, or open
Asked: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor | bytes | BinaryIO"
ONE = (str, os.PathLike, Image.Image, np.ndarray, torch.Tensor, bytes)
Read = Callable[[], tuple[str | None, np.ndarray]]  # path, if it has one, and pixels (H, W, 3) uint8
COLOURS = (1, 3, 4)  # grey, RGB, RGBA
VALID = (
    "a path, a PIL image, an image file (bytes, or open for reading bytes), a NumPy array of uint8, (H, W), (H, W, 1),"
    " (H, W, 3) or (H, W, 4) for RGBA, or a tensor of uint8, these or (1, 3 or 4, H, W)"
)


@dataclass(frozen=True)
class Prediction:
    """What the network says of one picture.

    Args:
        class_name: the most probable class.
        confidence: its probability.
        probabilities: (C,) float32 of all classes, in the order of `classes`.
        path: of the picture; None where it came as pixels.
    """

    class_name: str
    confidence: float
    probabilities: np.ndarray
    classes: tuple[str, ...]
    path: str | None = None

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, the first one first."""
        ranked = np.argsort(-self.probabilities, kind="stable")[:count].tolist()
        return [(self.classes[label], float(self.probabilities[label])) for label in ranked]


class Predictor:
    """One network or several; `nst.load` makes it.

    Attributes:
        classes: their names, in the order of the probabilities.
        image_size: px of the view that the network gets of a picture.
    """

    def __init__(self, network: Ensemble, labeler: Labeler | MeanLabeler, device: torch.device) -> None:
        self.network, self.labeler, self.device = network, labeler, device
        self.classes, self.image_size = network.classes, network.image_size

    @classmethod
    def load(cls, run: Any, *, device: str = "auto", views: str = "one", calibrated: bool = False) -> Predictor:
        """As `nst.load`."""
        sources = _sources(run)
        network = ensemble_asked([locate_ours(os.fspath(source)) for source in sources], views)
        if calibrated:
            network = at_own_temperature(network)
        place = _device(device)
        hardware = Hardware(accelerator="gpu" if place.type == "cuda" else "cpu")
        one = partial(torch_labeler, precision="32-true", place=hardware.place)
        return cls(network, network.asking(one, MeanLabeler).to(place), place)

    def predict(self, pictures: Asked | Iterable[Asked], *, batch_size: int = 32) -> list[Prediction]:
        """What the network says, in the order of the pictures; those of a folder or archive by their names.

        Args:
            pictures: one or several; a folder, tar, zip, shard set or list.csv stands for all in it.
            batch_size: pictures per forward.

        Raises:
            NstError: nothing at a path, or a picture that cannot be read. `nst predict` passes over these and says why.
        """
        several = [pictures] if isinstance(pictures, ONE) or hasattr(pictures, "read") else pictures
        if isinstance(several, Mapping) or not isinstance(several, Iterable):  # keys are no pictures
            raise NstError(
                "this is no picture, nor several", got=type(several).__name__, valid=f"{VALID}; or several of these"
            )
        found: list[Prediction] = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            waiting = _opened(several)
            while part := list(islice(waiting, batch_size)):
                found += self._answers(list(pool.map(self._seen, part)))
        return found

    def _seen(self, read: Read) -> tuple[str | None, np.ndarray]:
        path, pixels = read()
        return path, self.network.view(pixels)

    @torch.inference_mode()
    def _answers(self, part: Sequence[tuple[str | None, np.ndarray]]) -> Iterator[Prediction]:
        images = images_to_tensor([seen for _, seen in part]).to(self.device)
        valid = torch.ones(len(part), dtype=torch.bool, device=self.device)
        batch = Batch(images=images, valid=valid, labels=torch.full((len(part),), -1), bad=[])
        probabilities = self.labeler.predict_step(batch, 0).cpu().numpy()
        for (path, _), row in zip(part, probabilities, strict=True):
            label = int(row.argmax())
            yield Prediction(self.classes[label], float(row[label]), row, self.classes, path)


def _sources(run: Any) -> list[str | os.PathLike[str]]:
    """The runs or network files that are named."""
    sources = [run] if isinstance(run, str | os.PathLike) else list(run) if isinstance(run, Iterable) else []
    if not sources or not all(isinstance(source, str | os.PathLike) for source in sources):
        raise NstError(
            "nst.load needs a network",
            got=f"{type(run).__name__}: {run!r}"[:80],
            valid="the path of a run directory or network file, or a list of several",
        )
    return sources


def _opened(pictures: Iterable[Any]) -> Iterator[Read]:
    """What reads each picture."""
    for picture in pictures:
        if isinstance(picture, str | os.PathLike):
            yield from _at(os.fspath(picture))
        elif hasattr(picture, "read"):  # here, one after the other: it may be given twice
            yield partial(_in_memory, _file_read(picture))
        else:
            yield partial(_in_memory, picture)


def _at(place: str) -> Iterator[Read]:
    inputs = open_inputs(place)
    for shard, size in enumerate(inputs.sizes):
        yield from (partial(_decoded, inputs, shard, index) for index in range(size))


def _decoded(inputs: Inputs, shard: int, index: int) -> tuple[str, np.ndarray]:
    try:
        key, pixels, _ = inputs.read(shard, index)
    except BadImage as error:
        name = inputs.names(shard, np.array([index]), [f"picture {index}"])[0]
        raise _unreadable(name, error) from error
    return inputs.names(shard, np.array([index]), [key])[0], pixels


def _file_read(file: Any) -> bytes:
    """The bytes of an open file from its beginning, as PIL reads it."""
    if getattr(file, "seekable", lambda: False)():
        file.seek(0)
    if not isinstance(data := file.read(), bytes):
        raise NstError(
            "this is no picture", got=f"{type(file).__name__}, opened as text", valid=VALID, next="open(..., 'rb')"
        )
    return data


def _in_memory(picture: Any) -> tuple[None, np.ndarray]:
    if isinstance(picture, bytes | Image.Image):
        try:
            return None, decode(picture) if isinstance(picture, bytes) else from_pillow(picture)
        except BadImage as error:
            what = "an image file in memory" if isinstance(picture, bytes) else "a PIL image"
            raise _unreadable(what, error) from error
    if isinstance(picture, torch.Tensor):
        return None, _coloured(_channels_last(picture.detach().cpu().numpy()), "tensor")
    if not isinstance(picture, np.ndarray):
        raise NstError("this is no picture", got=type(picture).__name__, valid=VALID)
    return None, _coloured(picture, "array")


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """Pixels (C, H, W) as (H, W, C); others, and those that could be either, as they are."""
    first = pixels.ndim == 3 and pixels.shape[0] in COLOURS
    if first and pixels.shape[2] in COLOURS:
        raise NstError(
            "this tensor has its channels first or last", got=f"{pixels.shape} {pixels.dtype}", valid=VALID,
            next="as an array, whose channels are last: tensor.numpy(), or tensor.permute(1, 2, 0).numpy()",
        )  # fmt: skip
    return pixels.transpose(1, 2, 0) if first else pixels


def _coloured(pixels: np.ndarray, kind: str) -> np.ndarray:
    """Pixels (H, W), or (H, W, C) of COLOURS, as (H, W, 3); what is transparent is on white.

    Raises:
        NstError: others.
    """
    grey = pixels if pixels.ndim == 2 else pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else None
    if pixels.dtype != np.uint8 or (grey is None and (pixels.ndim != 3 or pixels.shape[2] not in COLOURS)):
        several = "of several pictures: predict(list(pictures))" if pixels.ndim == 4 else None
        raise NstError(f"this {kind} is no picture", got=f"{pixels.shape} {pixels.dtype}", valid=VALID, next=several)
    if grey is not None:
        return np.repeat(grey[:, :, None], 3, axis=2)
    return pixels if pixels.shape[2] == 3 else from_pillow(Image.fromarray(np.ascontiguousarray(pixels)))


def _unreadable(what: str, reason: object) -> NstError:
    return NstError(
        f"{what} cannot be read", got=reason, next="leave it out; `nst predict` passes over such files and lists them"
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise NstError("there is no such device", got=name, valid="auto, cpu, cuda, cuda:1") from error
