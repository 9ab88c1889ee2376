"""A network's answers to pictures as tables for people: predictions.csv and .parquet, unsure.csv, unreadable.csv.

They are made of the files that labeling writes, a part after the other, so no number of pictures fills the memory.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nst.atomic import atomic_path
from nst.by_hand import TABLES
from nst.data.asked import answered
from nst.data.inputs import Inputs, NumberedPictures, written_name
from nst.data.parquet_files import read_table
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import parquet_name
from nst.data.shard_set import ShardInfo


@dataclass(frozen=True)
class Answers:
    """Of the N pictures of a part.

    Args:
        shard: number of the part.
        index: (N,) places in it.
        paths: as they are told.
        labels, confidences: (N, top), the most probable class first.
    """

    shard: int
    index: np.ndarray
    paths: Sequence[str]
    labels: np.ndarray
    confidences: np.ndarray

    def where(self, mask: np.ndarray) -> Answers:
        """Those of a mask (N,)."""
        paths = [path for path, kept in zip(self.paths, mask.tolist(), strict=True) if kept]
        return Answers(self.shard, self.index[mask], paths, self.labels[mask], self.confidences[mask])


def read_answers(files: PredictionFiles, inputs: Inputs, top: int) -> Iterator[Answers]:
    """The answers to the pictures of every part, in their order, `top` classes of each."""
    if isinstance(inputs, NumberedPictures):
        yield from _of_listing(files, inputs, top)
    else:
        for number, shard in enumerate(inputs.shards):
            index, keys, labels, confidences = _read(files, shard, top)
            yield Answers(number, index, inputs.names(number, index, keys), labels, confidences)


def _of_listing(files: PredictionFiles, inputs: NumberedPictures, top: int) -> Iterator[Answers]:
    """They lie in parts that were asked at several times: all are put into the order of the listing first."""
    found, width = answered(files, inputs), min(top, len(files.metadata.classes))
    labels, confidences = np.full((inputs.samples, width), -1, np.int32), np.zeros((inputs.samples, width), np.float32)
    for part, shard in enumerate(found.parts):
        index, _, own, sure = _read(files, shard, top)
        row_of = np.full(shard.samples, -1, np.int64)
        row_of[index] = np.arange(len(index))
        numbers = np.flatnonzero(found.part == part)
        rows = row_of[found.place[numbers]]
        numbers, rows = numbers[rows >= 0], rows[rows >= 0]
        labels[numbers], confidences[numbers] = own[rows], sure[rows]
    starts = np.cumsum([0, *inputs.sizes])
    for part, (start, end) in enumerate(pairwise(starts.tolist())):
        index = np.flatnonzero(labels[start:end, 0] >= 0)
        rows = index + start
        yield Answers(part, index, inputs.names(part, index, ()), labels[rows], confidences[rows])


def _read(files: PredictionFiles, shard: ShardInfo, top: int) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Of the N pictures of a file: places (N,), keys, labels and confidences (N, top), the surest class first."""
    table = read_table(files.folder / parquet_name(shard.name))
    first, sure = table["label"].to_numpy().astype(np.int64), table["confidence"].to_numpy()
    classes = len(files.metadata.classes)
    probs = table["probs"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, classes)
    # the first class and its confidence are float32, the others were rounded to float16
    ranked = probs.astype(np.float32)
    np.put_along_axis(ranked, first[:, None], 2.0, axis=1)
    labels = np.argsort(-ranked, axis=1, kind="stable")[:, :top]
    confidences = np.take_along_axis(ranked, labels, axis=1)
    confidences[:, 0] = sure
    return table["index"].to_numpy(), table["key"].to_pylist(), labels, confidences


def unreadable(files: PredictionFiles, inputs: Inputs) -> Iterator[tuple[str, str]]:
    """Path and reason of every file without an answer."""
    if isinstance(inputs, NumberedPictures):
        found = answered(files, inputs)
        reasons = {
            (part, int(index)): reason
            for part, shard in enumerate(found.parts)
            for index, _, reason in (told.partition(": ") for told in files.bad_samples(shard))
        }
        for name, part, place in zip(inputs.listed, found.part.tolist(), found.place.tolist(), strict=True):
            if (part, place) in reasons:
                yield name, reasons[part, place]
    else:
        for number, shard in enumerate(inputs.shards):
            for told in files.bad_samples(shard):
                yield inputs.unreadable(number, told)
    yield from inputs.passed


def write_tables(
    folder: Path, files: PredictionFiles, inputs: Inputs, *, top: int, min_confidence: float
) -> dict[str, Any]:
    """Writes all tables; returns counts of pictures: predicted, unsure, unreadable, and by_class of the predicted."""
    classes = list(files.metadata.classes)
    counts, unsure = np.zeros(len(classes), np.int64), 0
    with ExitStack() as stack:
        paths = {name: stack.enter_context(atomic_path(folder / name)) for name in TABLES}
        sure_rows, unsure_rows, bad_rows = (
            csv.writer(stack.enter_context(open(paths[name], "w", newline="", encoding="utf-8")), lineterminator="\n")
            for name in TABLES
            if name.endswith(".csv")
        )
        names = columns(min(top, len(classes)))
        schema = pa.schema([(name, pa.float32() if "confidence" in name else pa.string()) for name in names])
        parquet = stack.enter_context(pq.ParquetWriter(paths["predictions.parquet"], schema, compression="zstd"))
        sure_rows.writerow(names)
        unsure_rows.writerow(names)
        bad_rows.writerow(["path", "reason"])
        for answers in read_answers(files, inputs, top):
            # compared in double, as the selection compares min_confidence
            mask = answers.confidences[:, 0].astype(np.float64) >= min_confidence
            kept = answers.where(mask)
            counts += np.bincount(kept.labels[:, 0], minlength=len(classes))
            unsure += int((~mask).sum())
            sure_rows.writerows(_rows(kept, classes))
            unsure_rows.writerows(_rows(answers.where(~mask), classes))
            parquet.write_table(_table(kept, classes, schema))
        bad = 0
        for path, reason in unreadable(files, inputs):
            bad_rows.writerow([written_name(path), reason])
            bad += 1
    by_class = {name: int(count) for name, count in zip(classes, counts, strict=True)}
    return {"predicted": int(counts.sum()), "unsure": unsure, "unreadable": bad, "by_class": by_class}


def columns(top: int) -> list[str]:
    """path, class, confidence, class_2, confidence_2, ..."""
    more = [name for place in range(2, top + 1) for name in (f"class_{place}", f"confidence_{place}")]
    return ["path", "class", "confidence", *more]


def _rows(answers: Answers, classes: Sequence[str]) -> Iterator[list[str]]:
    for path, labels, confidences in zip(
        answers.paths, answers.labels.tolist(), answers.confidences.tolist(), strict=True
    ):
        row = [written_name(path)]
        for label, confidence in zip(labels, confidences, strict=True):
            row += [classes[label], f"{confidence:.4f}"]
        yield row


def _table(answers: Answers, classes: Sequence[str], schema: pa.Schema) -> pa.Table:
    names = pa.array(classes, pa.string())
    found: list[Any] = [pa.array([written_name(path) for path in answers.paths], pa.string())]
    for place in range((len(schema) - 1) // 2):
        found += [names.take(pa.array(answers.labels[:, place])), pa.array(answers.confidences[:, place], pa.float32())]
    return pa.Table.from_arrays(found, schema=schema)
