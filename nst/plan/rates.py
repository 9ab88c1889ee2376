"""How fast networks compute and images are prepared: measured where it is, else a stated assumption.

`measured.json` holds what `bin/bench gpu --json` has found, a row for each chip, network and kind of work; the option
`plan.measured` names such a file of one's own, whose rows go first. Chips that it does not know:

- TPU: 5 % of the peak for every network, since the paper's 3.5 days for L2 imply 4.8 %.
- CPU: 30 % of the peak. A training step of the small network at 32 px reached 34 % on two cores (docs/speed.md).
- GPU [O]: memory binds, as in all networks of depthwise convolutions. A step moves what autograd keeps 24 times: it is
  written and read about twelve times, forward and backward, at half of the card's bandwidth. So the share of the peak
  grows with the work that a network does on every byte it keeps: on an H100 0.7 % for B0, 3.6 % for L2. Not measured.

A loader's cost is per image, per byte of its file and per pixel of its view, in seconds of one core, fitted to
`bin/bench input` at 32 to 600 px. Hosts give all their cores to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nst.documents import read_json
from nst.errors import NstError, UsageError
from nst.plan.budget import Numerics, PhaseCost
from nst.plan.chips import Chip
from nst.plan.dataset_size import DatasetSize
from nst.plan.layer_costs import NetworkCost

MEASURED = Path(__file__).with_name("measured.json")
WRITTEN_BY = "bin/bench gpu --json <file> writes one"
TPU, CPU = 0.05, 0.3  # shares of the peak
PASSES = 24  # times that a step could move what is kept at the card's full bandwidth
# s of one core: 608 training views of 224 px a second from JPEGs of 107 kB
PER_IMAGE, PER_BYTE, PER_PIXEL, RANDAUGMENT_PER_PIXEL = 0.33e-3, 8.2e-9, 4.5e-9, 4.2e-9


@dataclass(frozen=True)
class Measurement:
    """A row of the calibration.

    Args:
        chip: as in `nst.plan.chips.CHIPS`.
        work: train | label.
        utilization: share of the chip's peak, of work as `NetworkCost` counts it.
    """

    chip: str
    network: str
    image_size: int
    work: str
    remat: bool
    utilization: float


@dataclass(frozen=True)
class Share:
    """Of the peak that computing reaches, and how it is known."""

    value: float
    source: str


@dataclass(frozen=True)
class Rates:
    """What is known of speed.

    Args:
        stated: a share of the peak for everything, by the one who plans; None: measured, else assumed.
        measured: the first of several rows that fit alike is taken.
    """

    stated: float | None = None
    measured: tuple[Measurement, ...] = ()

    def share(self, model: str, cost: NetworkCost, chip: Chip, numerics: Numerics, *, work: str, remat: bool) -> Share:
        """Of the peak in one kind of work of a network."""
        if self.stated is not None:
            return Share(self.stated, "as plan.utilization says")
        rows = [row for row in self.measured if (row.chip, row.network, row.work) == (chip.name, model, work)]
        if rows:
            row = min(rows, key=lambda row: (abs(row.image_size - cost.image_size), row.remat != remat))
            return Share(row.utilization, f"measured on {chip.name} with {row.network} at {row.image_size} px")
        return assumed(cost, chip, numerics)


def assumed(cost: NetworkCost, chip: Chip, numerics: Numerics) -> Share:
    """Where nothing is measured; see the module."""
    if chip.tpu:
        return Share(TPU, "assumed of every network: the paper's L2 on TPU v3")
    if chip.bandwidth is None:
        return Share(CPU, "assumed of every network: the small one on two cores")
    kept = numerics.activation * sum(part.saved for part in cost.parts)
    share = cost.training_flops() / (PASSES * kept) * chip.bandwidth / chip.peak
    return Share(min(share, 1.0), f"assumed: what a step keeps crosses the memory {PASSES} times")


def read_measurements(path: Path | str | None = None) -> tuple[Measurement, ...]:
    """Rows of a file of the user's, then nst's own.

    Raises:
        NstError: the file is missing, or was not written by `bin/bench gpu --json`.
    """
    if path is not None and Path(path).is_dir():
        raise UsageError("plan.measured is a folder", got=path, valid="a file", next=WRITTEN_BY)
    files = [MEASURED] if path is None else [Path(path), MEASURED]
    found = {file: read_json(file, sealed=False, next=WRITTEN_BY).get("calibration") for file in files}
    return tuple(row for file, rows in found.items() for row in _rows(file, rows))


def _rows(file: Path, found: Any) -> Iterable[Measurement]:
    types = {"int": int, "bool": bool, "float": float}
    kinds = {entry.name: types.get(str(entry.type), str) for entry in fields(Measurement)}
    rows: list[Any] = found if isinstance(found, list) else [found]
    for row in rows:
        known = isinstance(row, dict) and {name: type(value) for name, value in row.items()} == kinds
        if not known or not 0 < row["utilization"] <= 1:
            raise NstError(
                f"plan.measured={file} has no calibration that can be read",
                got=row,
                valid=f"rows with {', '.join(kinds)}",
                next=WRITTEN_BY,
            )
        yield Measurement(**row)


def view_seconds(image_size: int, file_bytes: float, augment: str = "none") -> float:
    """Of one core, for a view of `image_size` px of an image file."""
    pixel = PER_PIXEL + (RANDAUGMENT_PER_PIXEL if augment == "randaugment" else 0)
    return PER_IMAGE + PER_BYTE * file_bytes + pixel * image_size**2


def step_views_seconds(training: PhaseCost, images: DatasetSize) -> float:
    """Of one core, for the views of a training step; an online teacher looks at clean ones too."""
    size, (labeled, unlabeled) = training.cost.image_size, training.augment
    clean = PER_PIXEL * training.teacher.image_size**2 if training.teacher else 0
    return training.recipe.labeled_batch_size * view_seconds(size, images.labeled_bytes, labeled) + (
        training.unlabeled * (view_seconds(size, images.unlabeled_bytes, unlabeled) + clean)
    )
