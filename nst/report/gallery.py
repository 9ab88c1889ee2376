"""Sample pictures for the page: what the teacher is sure of, what it barely keeps, what it rejects, what goes wrong.

Pictures are chosen from the first shards only, up to SCANNED_ROWS predictions, so a report of 300M images takes no
longer than one of 300k; within these, choice is by confidence alone, never by looks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nst.data import selected
from nst.data.images import BadImage, decode, encode_png, image_extension
from nst.data.predictions import noted_footers, parquet_name, read_footer, read_table
from nst.data.tars import TarReader
from nst.documents import damaged, read_json

SCANNED_ROWS = 200_000
SHOWN_PX = 96  # smallest side of a picture on the page, for pictures that are smaller
LARGEST_PX = 192
UNKNOWN = -1


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery: data URI, key, what the network says and how sure, what is right (None: unknown).

    Args:
        before: what an earlier network said.
        caption: what was done to the picture.
    """

    image: str
    key: str
    says: str
    confidence: float
    truth: str | None = None
    before: str | None = None
    caption: str = ""

    @property
    def right(self) -> bool | None:
        return None if self.truth is None else self.truth == self.says


@dataclass(frozen=True)
class Labeled:
    """Predictions for N images: place (shard, index), key, label, confidence, copies (0: rejected), true label."""

    classes: Sequence[str]
    shard: np.ndarray  # (N,) str, file name without ending
    index: np.ndarray
    key: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    copies: np.ndarray
    truth: np.ndarray  # (N,) UNKNOWN where not known
    complete: bool  # all shards were read

    def __len__(self) -> int:
        return len(self.key)


def read_labeled(predictions: Path, selection: Path, truth: Path, limit: int = SCANNED_ROWS) -> Labeled | None:
    """The predictions of the first shards, at least `limit` where there are as many; None where there are none."""
    paths = sorted(predictions.glob("*.parquet"))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("shard", "index", "key", "label", "confidence")}
    copies: list[np.ndarray] = []
    noted = noted_footers(predictions) if (predictions / "predictions.json").exists() else {}
    chosen = _selected_shards(selection)
    rows = 0
    for number, path in enumerate(paths):
        if rows >= limit:
            paths = paths[:number]
            break
        table = read_table(path, ["index", "key", "label", "confidence"], footer=noted.get(path.name))
        found = {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
        found["shard"] = np.full(len(table), path.stem, dtype=object)
        for name, parts in columns.items():
            parts.append(found[name])
        copies.append(_copies(chosen.get(path.name), found["index"]))
        rows += len(table)
    if not rows:
        return None
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    complete = len(paths) == len(list(predictions.glob("*.parquet")))
    truths = _truths(truth, joined["key"])
    classes = list(read_footer(paths[0]).classes)
    return Labeled(classes, **joined, copies=np.concatenate(copies), truth=truths, complete=complete)


def _selected_shards(folder: Path) -> dict[str, Callable[[], pa.Table]]:
    """What reads the selected images of each shard, by the name of its file of predictions."""
    path = folder / "selection.json"
    summary = read_json(path) if path.exists() else {"shards": []}
    return {
        parquet_name(shard["name"]): partial(selected.read, folder, summary, shard, ["index", "copies"])
        for shard in summary["shards"]
    }


def _copies(read: Callable[[], pa.Table] | None, index: np.ndarray) -> np.ndarray:
    """Copies (N,) of each image of a shard in the selection; 0 where it was not selected."""
    if read is None:
        return np.zeros(len(index), np.int64)
    table = read()
    found = dict(zip(table["index"].to_pylist(), table["copies"].to_pylist(), strict=True))
    return np.array([found.get(place, 0) for place in index.tolist()], np.int64)


def _truths(path: Path, keys: np.ndarray) -> np.ndarray:
    if not path.exists():
        return np.full(len(keys), UNKNOWN)
    try:
        table = pq.read_table(path, filters=[("key", "in", keys.tolist())], page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        away = f"make it again, as the unlabeled shards; or mv {path} away, and the report does without it"
        raise damaged(path, error, away) from error
    known = dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))
    return np.array([known.get(key, UNKNOWN) for key in keys.tolist()])


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


def images_at(folder: Path, places: Iterable[tuple[str, int, str]]) -> dict[str, str]:
    """key → data URI of the images at (shard, index, key); those that are not there any more are left out.

    The index leaves out images that were excluded from the set, so it is a lower bound of the place in the tar.
    """
    wanted: dict[str, list[tuple[int, str]]] = {}
    for shard, index, key in places:
        wanted.setdefault(shard, []).append((int(index), key))
    found: dict[str, str] = {}
    for shard, members in wanted.items():
        path = folder / f"{shard}.tar"
        if not path.exists():
            continue
        # keys of a set whose tars count alike begin with the tar's name
        prefix = shard if all(key.startswith(f"{shard}/") for _, key in members) else ""
        reader = TarReader(path, prefix=prefix)
        here = [(reader.keys.index(key, index), key) for index, key in members if key in reader.keys[index:]]
        found.update(_images(reader, here))
    return found


def images_named(folder: Path, keys: Iterable[str]) -> dict[str, str]:
    """key → data URI of the images of these keys, looked for in all shards of a folder."""
    missing = set(keys)
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.tar")):
        if not missing:
            break
        reader = TarReader(path)
        here = [(index, name) for index, key in enumerate(reader.keys)
                for name in (key, f"{path.stem}/{key}") if name in missing]  # fmt: skip
        found.update(_images(reader, here))
        missing -= found.keys()
    return found


def _images(reader: TarReader, members: Sequence[tuple[int, str]]) -> dict[str, str]:
    found = {}
    for index, key in members:
        _, content = reader.read(index)
        extension = image_extension(content)
        uri = data_uri(content[extension]) if extension else None
        if uri:
            found[key] = uri
    reader.close()
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
    images = images_at(folder, zip(labeled.shard[rows], labeled.index[rows], labeled.key[rows], strict=True))
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
