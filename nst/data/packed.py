"""Reading a packed selection: what the student learns from an image lies beside it in the shard.

Packed shards are a shard set like any other, so a better teacher labels them by `nst label` as it labels any. Its
predictions then replace what lies in the shards (`reassign`); no image is touched.
"""

from __future__ import annotations

import io
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from nst.data.index_files import read_index
from nst.data.predictions import Predictions
from nst.data.pseudo_labels import PseudoLabels, PseudoLabelShard, joined, kept_probs, renormalized
from nst.data.shard_set import ShardSet
from nst.errors import NstError

SOURCE = "selection"  # what index.json names as the source of packed shards
FIELDS = ("cls", "npy")


def packed_from(shards: ShardSet) -> dict[str, Any] | None:
    """What the index of packed shards says about teacher, selection and targets; None of any other shards."""
    source = read_index(shards.folder, shards.remote).get("source") or {}
    return source if source.get("name") == SOURCE else None


def labeled_anew(folder: Path | str) -> str:
    """How packed shards get labels of another teacher, whose labels of the unlabeled images stay."""
    return (
        f"nst label data.unlabeled={quote(str(folder))} teacher.predictions=<folder>, then this with"
        " teacher.reassign=true and that teacher.predictions=<folder>"
    )


class PackedLabels:
    """Labels (and distributions) of packed shards, shard by shard.

    Args:
        about: as `packed_from` gives it.
        predictions: of another teacher for the packed shards, whose labels replace those in them; None: those are used.
        targets: "soft" or "hard".

    Raises:
        NstError: soft targets that were not packed, or predictions of other shards or classes.
    """

    def __init__(
        self, shards: ShardSet, about: dict[str, Any], predictions: Path | str | None = None, *, targets: str = "soft"
    ) -> None:
        self.shards, self.targets, self.summary = shards, targets, about
        self.folder: Path | str = shards.folder
        self.classes = list(shards.classes)
        self.counts = [shard.samples for shard in shards.shards]  # entries per shard
        self.numbers = {shard.name: number for number, shard in enumerate(shards.shards)}
        self.predictions = None if predictions is None else Predictions.open(predictions)
        if self.predictions is not None:
            self._check(self.predictions)
        elif targets == "soft" and about["targets"] != "soft":
            raise NstError(
                f"soft targets were not packed into {self.folder}",
                got=f"shards with {about['targets']} targets",
                next="train on them: teacher.targets=hard, or pack again with teacher.targets=soft",
            )

    def _check(self, predictions: Predictions) -> None:
        predictions.require(classes=self.classes)
        for shard in self.shards.shards:
            known = predictions.shards.get(shard.name)
            if known is None or known.identity != shard.identity:
                differs = "has another content, or other images of it are excluded" if known else "is not among them"
                raise NstError(
                    f"the predictions in {predictions.folder} are of other shards than {self.folder}",
                    got=f"{shard.name} {differs}",
                    next=labeled_anew(self.folder),
                )

    def entries(self, shard_name: str) -> PseudoLabelShard:
        """All entries of one shard; each is an image of its own.

        Raises:
            NstError: an entry has no whole label or distribution, or was not predicted.
        """
        keys, label, probs = self._read(shard_name)
        row = np.arange(len(keys))
        index, key = row.astype(np.uint32), np.array(keys, object)
        if self.predictions is not None:
            found = joined(self.predictions, shard_name, index, key, what=f"the packed shards {self.folder}")
            label = found["label"]
            probs = kept_probs(self.predictions, shard_name, found) if self.targets == "soft" else None
        return PseudoLabelShard(
            index=index,
            copy=np.zeros(len(row), np.uint32),
            key=key,
            label=label,
            row=row,
            distributions=None if probs is None else renormalized(probs),
        )

    def _read(self, shard_name: str) -> tuple[list[str], np.ndarray, np.ndarray | None]:
        """Keys, labels (N,) and, where they are wanted from here, probabilities (N, C) float16."""
        soft = self.targets == "soft" and self.predictions is None
        reader = self.shards.reader(self.numbers[shard_name])
        label = np.zeros(len(reader), np.uint16)
        probs = np.zeros((len(reader), len(self.classes)), np.float16) if soft else None
        for row in range(len(reader)):
            key, files = reader.read(row, only=FIELDS if soft else FIELDS[:1])
            try:
                label[row] = _class_number(files["cls"], len(self.classes))
                if probs is not None:
                    probs[row] = np.load(io.BytesIO(files["npy"]), allow_pickle=False)
            except (KeyError, ValueError) as error:
                raise NstError(
                    f"{key} of {shard_name} in {self.folder} has no whole label",
                    got=repr(error),
                    valid=".cls, and .npy with a probability per class",
                    next=f"nst shard --verify shard.output={quote(str(self.folder))} shows what is damaged; then pack"
                    " again, into another shard.output=<folder>",
                ) from error
        reader.close()
        return reader.keys, label, probs


# where a student's entries come from: a selection beside its shards, or shards that were packed with it
StudentLabels = PseudoLabels | PackedLabels


def _class_number(text: bytes, classes: int) -> int:
    number = int(text)
    if not 0 <= number < classes:
        raise ValueError(f"class {number} of {classes}")
    return number
