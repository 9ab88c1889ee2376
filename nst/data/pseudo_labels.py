"""The student's view of unlabeled images: a selection joined with predictions, shard by shard.

Paper section 2.1 (soft and hard pseudo-labels) and 3.1 (filtering and balancing).

The selection (nst/data/selected.py) holds no distributions, they stay in the predictions and are joined by position and
key here. So a selection is small, one folder of predictions serves many selections, and another teacher's labels can be
put under the same images (`reassign`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nst.data import selected
from nst.data.predictions import FORMAT, Predictions
from nst.documents import read_json
from nst.errors import NstError, nearest
from nst.untrusted import require_file_name


@dataclass(frozen=True)
class SelectedImages:
    """The selected images (R,) of one shard, each once."""

    index: np.ndarray  # uint32, position in the shard, increasing
    key: np.ndarray  # str
    label: np.ndarray  # uint16
    copies: np.ndarray  # uint32, > 0
    probs: np.ndarray | None  # (R, C) float16 as stored; None with hard targets


@dataclass(frozen=True)
class PseudoLabelShard:
    """The student's entries (M,) of one shard: a selected image appears `copies` times, as copy 0, 1, ...

    Distributions are held once per image, (R, C) with R <= M: a rare class may need thousands of copies.
    """

    index: np.ndarray  # (M,) uint32, position in the shard, not decreasing
    copy: np.ndarray  # (M,) uint32
    key: np.ndarray  # (M,) str
    label: np.ndarray  # (M,) uint16
    row: np.ndarray  # (M,) row of `distributions`
    distributions: np.ndarray | None  # (R, C) float32, rows sum to 1; None with hard targets

    def __len__(self) -> int:
        return len(self.index)

    @property
    def probs(self) -> np.ndarray | None:
        """Soft targets (M, C) float32, repeated for the copies; None with hard targets."""
        return None if self.distributions is None else self.distributions[self.row]

    def target(self, entry: int) -> np.ndarray | int:
        """Soft: distribution (C,) float32, hard: class number, of one entry."""
        if self.distributions is None:
            return int(self.label[entry])
        return self.distributions[self.row[entry]]


class PseudoLabels:
    """A selection joined with predictions, shard by shard: what the student learns from unlabeled images.

    Args:
        selection: folder written by `nst select`.
        predictions: folder written by `nst label`; may be None for hard targets of the selecting teacher.
        targets: 'soft' (the distribution) or 'hard' (its argmax).
        reassign: the predictions are by another teacher than the one that selected, and its labels replace the
            selecting teacher's ([C]'s "reassign"; [P] filters once with B0 and so needs it too).

    Raises:
        NstError: the selection is unfinished, teachers or classes differ, or probabilities were not stored.
    """

    def __init__(
        self,
        selection: Path | str,
        predictions: Path | str | None,
        *,
        targets: str = "soft",
        reassign: bool = False,
    ) -> None:
        self.folder: Path | str = Path(selection)
        self.targets, self.reassign = targets, reassign
        self.summary = _read_selection(Path(selection))
        self.classes: list[str] = self.summary["classes"]
        summary = Path(selection) / "selection.json"
        self.shards: list[str] = [require_file_name(shard["name"], summary) for shard in self.summary["shards"]]
        self._entries: dict[str, dict[str, Any]] = {shard["name"]: shard for shard in self.summary["shards"]}
        self.counts: list[int] = [shard["copies"] for shard in self.summary["shards"]]  # entries per shard
        self.predictions = self._open_predictions(predictions)

    def __len__(self) -> int:
        return sum(self.counts)

    def entries(self, shard_name: str) -> PseudoLabelShard:
        """All entries of one shard, in shard order.

        Raises:
            NstError: the shard is not in the selection, or its predictions do not match or were not stored.
        """
        images = self.images(shard_name)
        row = np.repeat(np.arange(len(images.index)), images.copies)
        first_entry = np.cumsum(images.copies) - images.copies
        return PseudoLabelShard(
            index=images.index[row],
            copy=(np.arange(len(row)) - first_entry[row]).astype(np.uint32),
            key=images.key[row],
            label=images.label[row],
            row=row,
            distributions=None if images.probs is None else renormalized(images.probs),
        )

    def images(self, shard_name: str) -> SelectedImages:
        """The selected images of one shard; raises as `entries`."""
        columns = ["index", "key", "label", "copies"]
        table = self._read(shard_name, columns)
        index, key, label, copies = (table[name].to_numpy() for name in columns)
        probs = None
        if self.predictions is not None:
            label, probs = self._join(shard_name, index, key, label)
        return SelectedImages(index, key, label, copies, probs)

    def copies(self, shard_name: str) -> np.ndarray:
        """Of every selected image of one shard, as `images` has it."""
        return self._read(shard_name, ["copies"])["copies"].to_numpy()

    def _read(self, shard_name: str, columns: list[str]) -> pa.Table:
        if shard_name not in self._entries:
            raise NstError(f"shard {shard_name!r} is not in {self.folder}{nearest(shard_name, self.shards)}")
        return selected.read(Path(self.folder), self.summary, self._entries[shard_name], columns)

    def _open_predictions(self, folder: Path | str | None) -> Predictions | None:
        if self.targets == "hard" and not self.reassign:
            return None
        if folder is None:
            raise NstError(
                "soft targets and reassign need the teacher's predictions",
                next="teacher.predictions=<folder of its labels>",
            )
        predictions = Predictions.open(folder)
        predictions.require(classes=self.classes)
        if self.reassign:
            return predictions
        if predictions.teacher != self.summary["teacher"]:
            raise NstError(
                f"the selection {self.folder} is of another teacher than the predictions in {folder}",
                got=f"checkpoint sha256 {self.summary['teacher']}",
                valid=f"checkpoint sha256 {predictions.teacher}",
                next="this without teacher.predictions and teacher.selection, for those in teacher.run; or"
                " teacher.reassign=true, which keeps the selection",
            )
        if predictions.digest != self.summary["predictions"]:
            raise NstError(
                f"the selection {self.folder} was made from other predictions than {folder} holds now",
                got="the images were labeled again since",
                next="select again: nst select overwrite=true",
            )
        lowest = min((c["lowest_confidence"] for c in self.summary["per_class"] if c["selected"]), default=1.0)
        if lowest < predictions.keep:
            raise _not_kept(folder, predictions.keep, f"selected images of confidence {lowest:.4f}")
        return predictions

    def _join(
        self, shard_name: str, index: np.ndarray, key: np.ndarray, label: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels (R,) and, for soft targets, the stored probabilities (R, C) of the selected rows."""
        assert self.predictions is not None
        found = joined(self.predictions, shard_name, index, key, what=f"the selection {self.folder}")
        if self.reassign:
            label = found["label"]
        return label, kept_probs(self.predictions, shard_name, found) if self.targets == "soft" else None


def joined(
    predictions: Predictions, shard_name: str, index: np.ndarray, key: np.ndarray, *, what: str
) -> dict[str, np.ndarray]:
    """The predictions of these images (R,) of one shard, by position and key.

    Raises:
        NstError: one of them was not predicted.
    """
    found = predictions.read(shard_name)
    at = np.searchsorted(found["index"], index)
    inside = at < len(found["index"])
    same = np.zeros(len(index), bool)
    same[inside] = (found["index"][at[inside]] == index[inside]) & (found["key"][at[inside]] == key[inside])
    if not same.all():
        raise NstError(
            f"{what} and predictions {predictions.folder} name different images",
            got=f"sample {index[~same][0]} ({key[~same][0]}) of {shard_name} is selected, not predicted",
            next="select again from these predictions: nst select overwrite=true",
        )
    return {name: column[at] for name, column in found.items()}


def kept_probs(predictions: Predictions, shard_name: str, found: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities (R, C) float16 as stored; NstError where some were not."""
    missing = np.isnan(found["probs"][:, 0])
    if missing.any():
        what = f"{int(missing.sum())} selected images of {shard_name}"
        raise _not_kept(predictions.folder, predictions.keep, what)
    return found["probs"]


def renormalized(probs: np.ndarray) -> np.ndarray:
    """Stored probabilities (R, C) float16 as distributions float32.

    float16 keeps 11 bits: a thousand rounded probabilities sum to 1 only within a few 1e-4.
    """
    wide = probs.astype(np.float32)
    return wide / wide.sum(axis=1, keepdims=True)


def _not_kept(folder: Path | str, keep: float, got: str) -> NstError:
    return NstError(
        f"soft targets were not stored for all selected images in {folder}",
        got=got,
        valid=f"confidence of at least label.keep={keep:g}",
        next="nst label label.keep=0 overwrite=true, then nst select overwrite=true; or train on hard targets:"
        " teacher.targets=hard",
    )


def _read_selection(folder: Path) -> dict[str, Any]:
    path = folder / "selection.json"
    if not path.exists():
        raise NstError(f"{folder} is not a finished selection: it has no selection.json", next="nst select")
    summary = read_json(path)
    if summary.get("format") != FORMAT:
        raise NstError(
            f"{path} has another format",
            got=summary.get("format"),
            valid=FORMAT,
            next="nst select teacher.selection=<folder>, then this with that teacher.selection=<folder>",
        )
    return summary
