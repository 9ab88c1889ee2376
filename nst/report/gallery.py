"""Sample pictures for the page: labels that the teacher is sure of, barely keeps, rejects, and mistakes.

The choice is by confidence alone, never by looks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nst.data.images import BadImage, decode, encode_png, image_extension
from nst.data.tars import TarReader
from nst.report.labeled import UNKNOWN, Labeled

SHOWN_PX = 96  # smallest side of a picture on the page, for pictures that are smaller
LARGEST_PX = 192


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery: data URI, key, what the network says and how sure, what is right (None: unknown).

    Args:
        before: what an earlier network said.
        caption: what was done to the picture, or its name.
        others: what the network says, too, less sure.
    """

    image: str
    key: str
    says: str
    confidence: float
    truth: str | None = None
    before: str | None = None
    caption: str = ""
    others: str = ""

    @property
    def right(self) -> bool | None:
        return None if self.truth is None else self.truth == self.says


def choose(labeled: Labeled, among: np.ndarray, count: int, *, most_confident: bool) -> np.ndarray:
    """Rows (<= count, at least 1) of the most or least confident images among a mask (N,), the classes taking turns."""
    rows = np.flatnonzero(among)
    score = labeled.confidence[rows] * (-1 if most_confident else 1)
    rows = rows[np.lexsort((labeled.key[rows].astype(str), score, labeled.label[rows]))]
    classes, start, sizes = np.unique(labeled.label[rows], return_index=True, return_counts=True)
    if len(classes) > count:  # a few classes, evenly over the list, with three pictures each
        kept = classes[np.linspace(0, len(classes) - 1, max(1, count // 3)).astype(int)]
        return choose(labeled, among & np.isin(labeled.label, kept), count, most_confident=most_confident)
    turn = np.arange(len(rows)) - np.repeat(start, sizes)
    chosen = rows[np.argsort(turn, kind="stable")[:count]]
    return chosen[np.argsort(labeled.label[chosen], kind="stable")]


def surest(labeled: Labeled, among: np.ndarray, count: int) -> np.ndarray:
    """Rows (<= count) of the most confident images among a mask (N,), whatever their classes."""
    rows = np.flatnonzero(among)
    return rows[np.lexsort((labeled.key[rows].astype(str), -labeled.confidence[rows]))[:count]]


def images_named(folder: Path, keys: Iterable[str], shards: Iterable[str] | None = None) -> dict[str, str]:
    """key → data URI of the images of these keys; those that are not there any more are left out.

    Args:
        shards: where they are looked for; None: in all of the folder.
    """
    missing = set(keys)
    found: dict[str, str] = {}
    paths = sorted(folder.glob("*.tar")) if shards is None else [folder / f"{name}.tar" for name in sorted(set(shards))]
    for path in paths:
        if not missing or not path.exists():
            continue
        reader = TarReader(path)
        for index, key in enumerate(reader.keys):
            # keys of a set whose tars count alike begin with the tar's name
            for name in missing & {key, f"{path.stem}/{key}"}:
                _, content = reader.read(index)
                extension = image_extension(content)
                if extension and (uri := data_uri(content[extension])):
                    found[name] = uri
        reader.close()
        missing -= found.keys()
    return found


def data_uri(encoded: bytes) -> str | None:
    """An image for the page: a small one enlarged without blur, a large one reduced; None where it is damaged."""
    try:
        pixels = decode(encoded)
    except BadImage:
        return None
    factor = -(-SHOWN_PX // max(pixels.shape[:2]))
    if factor > 1:
        kind, data = "png", encode_png(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    else:
        picture = Image.fromarray(pixels)
        picture.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        kind, data = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def pictures(labeled: Labeled, rows: np.ndarray, folder: Path, before: np.ndarray | None = None) -> list[Picture]:
    """Pictures of the chosen rows; `before` (N,) are labels that an earlier network gave."""
    classes = labeled.classes
    images = images_named(folder, labeled.key[rows], labeled.shard[rows])
    return [
        Picture(
            image=images[labeled.key[row]],
            key=labeled.key[row],
            says=classes[labeled.label[row]],
            confidence=float(labeled.confidence[row]),
            truth=None if labeled.truth[row] == UNKNOWN else classes[labeled.truth[row]],
            before=None if before is None else classes[before[row]],
        )
        for row in rows
        if labeled.key[row] in images
    ]


def mistaken(mistakes: Sequence[Mapping[str, Any]], classes: Sequence[str], folder: Path) -> list[Picture]:
    """Pictures of an evaluation's `mistakes` (confidence, key, label, predicted)."""
    images = images_named(folder, (mistake["key"] for mistake in mistakes))
    return [
        Picture(
            image=images[mistake["key"]],
            key=mistake["key"],
            says=classes[mistake["predicted"]],
            confidence=mistake["confidence"],
            truth=classes[mistake["label"]],
        )
        for mistake in mistakes
        if mistake["key"] in images
    ]
