"""Where a student's labels come from: its teacher, the teacher's predictions, and the selection made from them.

Nothing is taken on trust. Weights, predictions, selection and shards are compared by hash before a student starts,
because a student of mixed-up labels trains without complaint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst.advice import leave_out
from nst.atomic import known_sha256
from nst.data.packed import PackedLabels, StudentLabels, labeled_anew, packed_from
from nst.data.pseudo_labels import PseudoLabels
from nst.data.shard_set import ShardSet
from nst.errors import NstError, UsageError
from nst.models.network_info import read_info
from nst.settings.data import Pictures
from nst.settings.learning import Teaching
from nst.shown import as_typed
from nst.training.ensemble import Ensemble, shown_to, teachers

LOOKS = {"views": "one", "noised": "false", "image_size": "null"}  # how pictures are looked at by default, as typed


@dataclass(frozen=True, kw_only=True)
class Teacher(Teaching):
    """How the unlabeled images get their labels, and from which files.

    Args:
        weights: the teacher's network file.
        others: those of more teachers: the labels are the mean of what all say.
        predictions, selection: folders of `nst label` and `nst select`. An online teacher without a selection sees
            every unlabeled image once a pass.
        typed: the command line says of which kind pictures are, for all teachers.
    """

    weights: Path
    others: tuple[Path, ...] = ()
    predictions: Path | None = None
    selection: Path | None = None
    typed: bool = False

    def asked(self, pictures: Pictures) -> Ensemble:
        """The teachers, each shown pictures at its own test size, or at the one that was asked for."""
        return teachers([self.weights, *self.others], self, self.shown(pictures))

    def shown(self, pictures: Pictures) -> list[Pictures]:
        """The kind of pictures that each teacher is shown, where their student is shown these."""
        return shown_to([self.weights, *self.others], pictures, typed=self.typed)

    @property
    def digest(self) -> str:
        """sha256 of the network file; of several, joined by `+`."""
        return "+".join(map(known_sha256, (self.weights, *self.others)))


def pseudo_labels(teacher: Teacher, shards: ShardSet) -> StudentLabels | None:
    """The selection this teacher's student learns from, after a look that all belongs together.

    Raises:
        NstError: predictions of other shards, of another teacher, or of other classes.
    """
    if (about := packed_from(shards)) is not None:
        return _packed_labels(teacher, shards, about)
    if teacher.selection is None or (teacher.mode == "online" and not teacher.selection.exists()):
        if teacher.mode == "offline":
            raise NstError(
                "an offline teacher needs a selection",
                next="nst label teacher.predictions=<labels>, nst select teacher.predictions=<labels>"
                " teacher.selection=<selection>, then this with both; or teacher=online",
            )
        return None
    online = teacher.mode == "online"
    if not online and teacher.predictions is not None:
        _require_a_step(teacher.selection, teacher.predictions)
    labels = PseudoLabels(
        teacher.selection,
        None if online else teacher.predictions,
        targets="hard" if online else teacher.targets,
        reassign=teacher.reassign and not online,
    )
    _check_same_shards(labels, shards, teacher.selection)
    _check_same_teacher(labels, teacher)
    if not len(labels):
        raise NstError(
            f"the selection {teacher.selection} is empty",
            next="nst select select.min_confidence=<lower> overwrite=true, then this again",
        )
    return labels


def _require_a_step(selection: Path, predictions: Path) -> None:
    """Raises NstError where neither of the two steps before a student was taken; what lacks one says so itself."""
    if not (selection / "selection.json").exists() and not (predictions / "predictions.json").exists():
        raise NstError(
            f"there is no selection in {selection}, and no labels to select from in {predictions}",
            next="nst label, then nst select, then this again",
        )


def _packed_labels(teacher: Teacher, shards: ShardSet, about: dict[str, Any]) -> PackedLabels | None:
    """Labels that lie in the shards, or, where this teacher reassigns, its predictions for them."""
    if teacher.mode == "online":
        return None
    if teacher.reassign and teacher.predictions is None:
        raise NstError("reassign needs this teacher's predictions", next=labeled_anew(shards.folder))
    _require_no_look(teacher)
    labels = PackedLabels(shards, about, teacher.predictions if teacher.reassign else None, targets=teacher.targets)
    _check_same_teacher(labels, teacher)
    return labels


def _require_no_look(teacher: Teacher) -> None:
    """Raises UsageError where options say how the teacher should look at pictures whose labels are made."""
    idle = {name: getattr(teacher, name) for name in LOOKS if getattr(teacher, name) != getattr(Teaching(), name)}
    if idle and not teacher.reassign:
        raise UsageError(
            "the packed shards hold labels that are made: how a teacher looks at pictures changes nothing",
            got=" ".join(f"teacher.{name}={as_typed(value)}" for name, value in idle.items()),
            next=" ".join(f"teacher.{name}={LOOKS[name]}" for name in idle),
        )


def _check_same_shards(labels: PseudoLabels, shards: ShardSet, selection: Path) -> None:
    made_of = [(shard["name"], shard["sha256"], shard.get("excluded")) for shard in labels.summary["shards"]]
    if difference := shards.difference(made_of):
        raise NstError(
            f"the selection {selection} was made of other shards",
            got=difference,
            valid=f"the {len(shards.shards)} shards of {shards.folder}",
            next="point data.unlabeled at the shards that were labeled, or label and select again: overwrite=true",
        )


def _check_same_teacher(labels: StudentLabels, teacher: Teacher) -> None:
    """An online teacher, or one that reassigns, may learn from another's selection; classes must agree always."""
    classes, digest = read_info(teacher.weights).classes, teacher.digest
    if tuple(labels.classes) != tuple(classes):
        raise NstError(
            f"the selection {labels.folder} has other classes than its teacher",
            got=f"{len(labels.classes)} classes: {', '.join(labels.classes[:4])} ...",
            valid=f"the {len(classes)} classes of {teacher.weights}, in the same order",
            next="nst label overwrite=true and nst select overwrite=true, then this again",
        )
    if teacher.mode == "offline" and not teacher.reassign and labels.summary["teacher"] != digest:
        leave_out("teacher.predictions")  # another's, as the selection is: neither is to be made anew
        leave_out("teacher.selection")
        raise NstError(
            f"the selection {labels.folder} is of another teacher",
            got=labels.summary["teacher"][:12],
            valid=digest[:12],
            next=labeled_anew(labels.folder)
            if isinstance(labels, PackedLabels)
            else "nst label, then nst select; then this without teacher.predictions and teacher.selection; or"
            " teacher.reassign=true, which keeps the selection",
        )
    if labels.predictions is not None and labels.predictions.teacher != digest:
        leave_out("teacher.predictions")
        raise NstError(
            f"predictions in {labels.predictions.folder} are by another teacher",
            got=labels.predictions.teacher[:12],
            valid=digest[:12],
            next="nst label; then this without teacher.predictions",
        )
