"""Batches as pure functions of their number: `batches[step]` is the joint batch of that training step.

The joint batch holds labeled images first, pseudo-labeled ones after them (METHOD, Loss), so that one forward
sees both. Shapes never change from step to step; evaluation pads its last batch and marks the padding invalid.

A sample that cannot be decoded is replaced by the next one of its shard that can, and reported in the batch under
"bad", so shapes stay static and nothing is lost silently.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import Any, Protocol, Required, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nst.data.image_stack import ImageStack
from nst.data.images import IMAGE_EXTENSIONS, BadImage, decode, image_extension
from nst.data.joint import joint_order
from nst.data.packed import StudentLabels
from nst.data.pseudo_labels import PseudoLabelShard
from nst.data.shards import ShardSet, TarReader
from nst.data.stream import WINDOW_SHARDS, Stream, generator
from nst.errors import NstError

View = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Batch(TypedDict, total=False):
    """What a loader hands to a step: B rows, tensors of them as the network takes them; and what is said of its real
    rows, V of them, for the host."""

    images: Required[Tensor]  # (B, 3, H, W) uint8; a joint batch has its unlabeled images behind: (B + U, 3, H, W)
    labels: Required[Tensor]  # (B,) int64, -1 of padding
    bad: Required[list[str]]  # what could not be decoded
    # of a joint batch
    targets: Tensor  # (U, C) distributions, or (U,) classes
    clean_images: Tensor  # (U, 3, h, w) uint8, for a teacher in the step
    # of an evaluation
    valid: Tensor  # (B,) bool, false of padding
    keys: list[str]  # V
    index: np.ndarray  # (V,) numbers of the samples, in their shard or in all
    true_labels: np.ndarray  # (V,)
    place: Tensor  # (B,) as index, on the device
    cells: Tensor  # (B, ...) in which cells of a table the samples count


_OPEN_SHARDS = 32
_KEPT_ENTRIES = 2 * WINDOW_SHARDS  # as many shards as a window of the stream mixes, and the next window's
_READ = (*IMAGE_EXTENSIONS, "cls")  # of a sample's files; captions and the like stay on the disk


class Batches(Protocol):
    """Batches by number; those behind the last one are all padding."""

    @property
    def nbytes(self) -> int:
        """Bytes of a batch's tensors."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> Batch: ...


class Images:
    """Decoded images of a shard set by (shard, index); tars are opened on first use in each process."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self._readers: OrderedDict[int, TarReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "_readers": OrderedDict()}

    def reader(self, shard: int) -> TarReader:
        if shard not in self._readers:
            self._readers[shard] = self.shards.reader(shard)
            if len(self._readers) > _OPEN_SHARDS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(shard)
        return self._readers[shard]

    def read(self, shard: int, index: int) -> tuple[str, np.ndarray, int | None]:
        """Key, image (H, W, 3) uint8 and label of one sample.

        Raises:
            BadImage: the sample is missing (shard cut short), has no image, or does not decode.
        """
        reader = self.reader(shard)
        if index >= len(reader):
            raise BadImage(f"{self.shards.shards[shard].name}#{index}: missing, the shard is cut short")
        key, fields = reader.read(index, only=_READ)
        extension = image_extension(fields)
        if extension is None:
            raise BadImage(f"{key}: no image among its fields {sorted(reader.extensions(index))}")
        try:
            image = decode(fields[extension])
            label = int(fields["cls"]) if "cls" in fields else None
        except ValueError as error:
            raise BadImage(f"{key}: {error}") from error
        return key, image, label

    def read_or_next(self, shard: int, index: int, bad: list[str]) -> tuple[str, np.ndarray, int | None, int]:
        """Like `read`, but walks on from bad samples, whose names are appended to `bad`; also returns the index."""
        size = self.shards.shards[shard].samples
        for offset in range(size):
            try:
                candidate = (index + offset) % size
                return *self.read(shard, candidate), candidate
            except BadImage as error:
                bad.append(str(error))
        raise NstError(
            f"no image of shard {self.shards.path(shard)} can be decoded",
            got=bad[-1],
            next=f"nst shard --verify shard.output={quote(str(self.shards.folder))}",
        )


@dataclass
class LabeledSamples:
    """Noised view and label of labeled images.

    Args:
        lanes: see `Stream`.
    """

    shards: ShardSet
    view: View
    seed: int
    lanes: int = 1

    def __post_init__(self) -> None:
        self.images = Images(self.shards)
        sizes = [shard.samples for shard in self.shards.shards]
        self.stream = Stream(sizes, seed=self.seed, name="labeled", lanes=self.lanes)

    @property
    def nbytes(self) -> int:
        """Bytes of a sample."""
        return seen_bytes(self.view) + 8

    def sample(self, pass_number: int, shard: int, row: int, bad: list[str]) -> dict[str, np.ndarray]:
        key, image, label, _ = self.images.read_or_next(shard, row, bad)
        if label is None or not 0 <= label < len(self.shards.classes):
            raise NstError(
                f"sample {key} of {self.shards.folder} has no usable label",
                got=label,
                valid=f"<key>.cls with 0 ... {len(self.shards.classes) - 1}",
                next=f"nst shard --verify shard.output={quote(str(self.shards.folder))}",
            )
        rng = generator(self.seed, "labeled", pass_number, key)
        return {"image": self.view(image, rng), "label": np.asarray(label, dtype=np.int64)}


@dataclass
class UnlabeledSamples:
    """Noised view of unlabeled images with the teacher's stored target, or a clean view for a teacher in the step.

    Args:
        pseudo_labels: selected rows with copies and probabilities; None shows every image once a pass.
        clean_view: the view of an online teacher, which then makes the targets in the step.
        lanes: see `Stream`.
    """

    shards: ShardSet
    view: View
    seed: int
    pseudo_labels: StudentLabels | None = None
    clean_view: View | None = None
    lanes: int = 1

    def __post_init__(self) -> None:
        self.images = Images(self.shards)
        sizes = self.pseudo_labels.counts if self.pseudo_labels else [shard.samples for shard in self.shards.shards]
        self.stream = Stream(sizes, seed=self.seed, name="unlabeled", lanes=self.lanes)
        self._entries: OrderedDict[int, PseudoLabelShard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_entries": OrderedDict()}

    @property
    def nbytes(self) -> int:
        """Bytes of a sample, with a soft target where one is stored."""
        target = 4 * len(self.pseudo_labels.classes) if self.pseudo_labels and not self.clean_view else 0
        return seen_bytes(self.view) + (seen_bytes(self.clean_view) if self.clean_view else target)

    def entries(self, shard: int) -> PseudoLabelShard:
        """The selected rows of a shard; those used last are kept."""
        assert self.pseudo_labels is not None
        if shard not in self._entries:
            self._entries[shard] = self.pseudo_labels.entries(self.shards.shards[shard].name)
            if len(self._entries) > _KEPT_ENTRIES:
                self._entries.popitem(last=False)
        self._entries.move_to_end(shard)
        return self._entries[shard]

    def sample(self, pass_number: int, shard: int, row: int, bad: list[str]) -> dict[str, np.ndarray]:
        index, copy, entry = row, 0, None
        if self.pseudo_labels is not None:
            entry = self.entries(shard)
            index, copy = int(entry.index[row]), int(entry.copy[row])
        key, image, _, found = self.images.read_or_next(shard, index, bad)
        rng = generator(self.seed, "unlabeled", pass_number, key, copy)
        sample = {"image": self.view(image, rng)}
        # not the image that was labeled (it no longer decodes, or the shard changed): it must not get the label. A
        # teacher in the step labels what stands in for an undecodable image, but the shard must be the selection's
        if entry is not None and key != entry.key[row] and (self.clean_view is None or found == index):
            raise NstError(
                f"a selected image of {self.shards.path(shard)} is not what was labeled",
                got=bad[-1] if found != index else f"{key} at {index}",
                valid=f"{entry.key[row]} at {index}",
                next="restore the shard, or label and select again",
            )
        if self.clean_view is not None:
            sample["clean_image"] = self.clean_view(image, rng)
        elif entry is not None:
            sample["target"] = np.asarray(entry.target(row))
        return sample


class TrainingBatches(Dataset):
    """`batches[step]` → the joint batch of this rank at that step.

    Keys: "images" uint8 (B + U, 3, H, W), labeled first; "labels" int64 (B,); "targets" float32 (U, C) or int64
    (U,); "clean_images" uint8 (U, 3, h, w); "bad": names of samples that had to be replaced.

    Args:
        groups: "images" is laid out in this many equal parts, labeled first in each (`nst.data.joint`).
    """

    def __init__(
        self,
        labeled: LabeledSamples,
        unlabeled: UnlabeledSamples | None,
        *,
        labeled_batch_size: int,
        unlabeled_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        groups: int = 1,
    ) -> None:
        self.sides: list[tuple[LabeledSamples | UnlabeledSamples, int]] = [(labeled, labeled_batch_size)]
        if unlabeled is not None and unlabeled_batch_size:
            self.sides.append((unlabeled, unlabeled_batch_size))
        self.rank, self.world_size, self.groups = rank, world_size, groups

    @property
    def nbytes(self) -> int:
        return sum(size * samples.nbytes for samples, size in self.sides)

    def __getitem__(self, step: int) -> Batch:
        bad: list[str] = []
        sizes = [size for _, size in self.sides]
        order = joint_order(sizes[0], sum(sizes[1:]), self.groups)
        images, clean = ImageStack(len(order)), ImageStack(sum(sizes[1:]))
        collected: dict[str, list[np.ndarray]] = {}
        places = iter(np.argsort(order).tolist())
        for samples, size in self.sides:
            entries = samples.stream.batch(step, size, rank=self.rank, world_size=self.world_size)
            for row, entry in enumerate(entries):
                sample = samples.sample(*entry, bad)
                images.put(next(places), sample.pop("image"))
                if "clean_image" in sample:
                    clean.put(row, sample.pop("clean_image"))
                for name, value in sample.items():
                    collected.setdefault(name, []).append(value)
        labels = torch.from_numpy(np.stack(collected["label"]))
        batch: Batch = {"images": images.tensor(), "labels": labels, "bad": bad}
        if "target" in collected:
            batch["targets"] = torch.from_numpy(np.stack(collected["target"]))
        if clean.pixels is not None:
            batch["clean_images"] = clean.tensor()
        return batch


def seen_bytes(view: View) -> int:
    return blank_seen(view).nbytes


def blank_seen(view: View) -> np.ndarray:
    """What a view makes of a black picture (h, w, 3): as large as of any."""
    return view(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0))
