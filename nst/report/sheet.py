"""The contact sheet of `nst predict`: pictures by class and confidence, on one page that opens offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nst.data.answered import Answers
from nst.data.inputs import Inputs
from nst.report.gallery import Picture, data_uri
from nst.report.page import Gallery, Page, Section, Table, number, render
from nst.shown import count_of, short, shown

FIRST = ("labels", "confidences")
WORTH_TELLING = 0.05  # share of another class, below its picture


@dataclass(frozen=True)
class Told:
    """What was said of N pictures: labels and confidences (N,); the n-th to be shown, None if it cannot be."""

    classes: Sequence[str]
    labels: np.ndarray
    confidences: np.ndarray
    picture: Callable[[int], Picture | None]


def told_of(answers: Iterable[Answers], inputs: Inputs, classes: Sequence[str]) -> Told:
    """What was said of all pictures."""
    found = list(answers)
    starts = np.cumsum([0, *(len(part.paths) for part in found)])

    def picture(row: int) -> Picture | None:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        part, place = found[number], row - int(starts[number])
        image = data_uri(inputs.data(part.shard, int(part.index[place])))
        if image is None:
            return None
        said = zip(part.labels[place].tolist(), part.confidences[place].tolist(), strict=True)
        (first, sure), *others = ((classes[label], share) for label, share in said)
        path = part.paths[place]
        told = [f"{short(name)} {100 * share:.0f}\u00a0%" for name, share in others if share >= WORTH_TELLING]
        return Picture(image, path, first, sure, caption=path.rpartition("/")[2], others=" · ".join(told))

    labels, confidences = (np.concatenate([getattr(part, name)[:, 0] for part in found]) for name in FIRST)
    return Told(classes, labels, confidences, picture)


def sheet(
    told: Told, counts: Mapping[str, int], *, count: int, min_confidence: float, facts: Mapping[str, str],
    command: str | None, title: str,
) -> str:  # fmt: skip
    """The page, with about `count` pictures.

    Args:
        counts: of pictures: predicted, unsure, unreadable.
    """
    sure = told.confidences.astype(np.float64) >= min_confidence
    shares = shared_out(np.bincount(told.labels, minlength=len(told.classes)), count)
    sections = [
        Section("Classes", "How many pictures of each, and how sure the network is.", blocks=[_classes(told, sure)])
    ]
    for label in np.argsort(-np.bincount(told.labels, minlength=len(told.classes)), kind="stable").tolist():
        rows = ranked(told, label)
        if shares[label]:
            sections.append(_section(told, label, rows, spread(rows, shares[label]), sure))
    numbers = [
        (number(counts["predicted"]), "pictures", "with an answer"),
        (number(counts["unsure"]), "unsure", f"below {min_confidence:g}: unsure.csv" if counts["unsure"] else ""),
        (number(counts["unreadable"]), "unreadable", "unreadable.csv says why" if counts["unreadable"] else ""),
    ]
    summary = "What the network says of each picture, and how sure it is; of every class the surest ones come first."
    return render(Page(title, summary, numbers, sections, facts, command, {}, kind="contact sheet"))


def shared_out(sizes: np.ndarray, count: int) -> list[int]:
    """How many of each class are shown: as many of each, and all of a small one."""
    shares, left = [0] * len(sizes), count
    for turn, label in enumerate(np.argsort(sizes, kind="stable").tolist()):
        shares[label] = min(int(sizes[label]), max(left // (len(sizes) - turn), int(left > 0)))
        left -= shares[label]
    return shares


def ranked(told: Told, label: int) -> np.ndarray:
    """Rows of a class, the surest first."""
    rows = np.flatnonzero(told.labels == label)
    return rows[np.argsort(-told.confidences[rows], kind="stable")]


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, evenly from the first to the last."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]


def _section(told: Told, label: int, rows: np.ndarray, chosen: np.ndarray, sure: np.ndarray) -> Section:
    pictures = [picture for row in chosen.tolist() if (picture := told.picture(row)) is not None]
    text = count_of(len(rows), "picture")
    text += "" if len(chosen) == len(rows) else f", {len(chosen)} of them, evenly from the surest to the least sure"
    unsure = int((~sure[rows]).sum())
    return Section(
        shown(told.classes[label]),
        "",
        blocks=[Gallery("", f"{text}{f'; {number(unsure)} unsure' if unsure else ''}.", pictures)],
    )


def _classes(told: Told, sure: np.ndarray) -> Table:
    rows: list[list[Any]] = []
    for label, name in enumerate(told.classes):
        own = np.sort(told.confidences[told.labels == label])
        middle = f"{100 * np.median(own):.0f}" if len(own) else "–"
        low = f"{100 * own[0]:.0f}" if len(own) else "–"
        rows.append([name, number(len(own)), number(int(sure[told.labels == label].sum())), middle, low])
    rows.sort(key=lambda row: -int(row[1].replace(",", "")))
    columns = ["class", "pictures", "sure", "median confidence %", "lowest %"]
    return Table(columns, rows, texts=1)
