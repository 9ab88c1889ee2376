"""How often pseudo-labels are right, before a selection and after it, where the true classes are known.

Rows and truth are joined by key in DuckDB, which spills to the disk what does not fit into its memory.
"""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from nst.data.selection import REPORT_BINS
from nst.errors import NstError
from nst.written import FOLDER, note


@contextlib.contextmanager
def open_database(output: Path, memory_limit: str, threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that spills into the output folder.

    Raises:
        NstError: memory, disk or the form of `memory_limit` do not suffice for what is done inside the block.
    """
    spill = output / ".spill"
    note(spill, kind=FOLDER)
    shutil.rmtree(spill, ignore_errors=True)  # of a killed run
    settings: dict[str, Any] = {
        "memory_limit": memory_limit,
        "temp_directory": str(spill),
        "preserve_insertion_order": False,
    }
    if threads is not None:
        settings["threads"] = threads
    try:
        with duckdb.connect(config=settings) as database:
            yield database
    except (duckdb.OutOfMemoryException, duckdb.IOException, duckdb.ParserException) as error:
        raise NstError(
            "the comparison with the true classes gave up",
            got=str(error).splitlines()[0],
            valid=f"select.memory_limit={memory_limit} and free disk space in {spill.parent} to spill to",
            next="raise select.memory_limit=..., or make room on the disk",
        ) from error
    except duckdb.Error as error:
        raise NstError(
            "the true classes cannot be compared",
            got=str(error).splitlines()[0],
            next="make truth.parquet again, as the unlabeled shards; or move it away, and nothing is compared",
        ) from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def accuracy(
    database: duckdb.DuckDBPyConnection, predictions: Path, output: Path, truth: Path, classes: Sequence[str]
) -> dict[str, Any]:
    """Share of right pseudo-labels before and after selection (copies count), per class and bin.

    Args:
        predictions, output: folders of predictions and of the selection made from them.
        truth: Parquet (key, label) with the true classes.
    """
    report = {}
    for name, folder, columns in (("before", predictions, "*, 1 AS copies"), ("after", output, "*")):
        rows = database.execute(
            f"""SELECT labeled.label, sum(copies) AS images,
                       least(floor(confidence::DOUBLE * {REPORT_BINS}), {REPORT_BINS - 1})::INTEGER AS bin,
                       coalesce(sum(copies) FILTER (labeled.label = truth.label), 0) AS right
                FROM (SELECT {columns} FROM read_parquet($files, hive_partitioning=false)) AS labeled
                JOIN read_parquet($truth, hive_partitioning=false) AS truth USING (key) GROUP BY ALL""",
            {"files": f"{glob.escape(str(folder))}/*.parquet", "truth": glob.escape(str(truth))},
        ).fetchnumpy()
        counts = np.zeros((2, len(classes), REPORT_BINS))
        counts[0, rows["label"], rows["bin"]] = rows["images"]
        counts[1, rows["label"], rows["bin"]] = rows["right"]
        report[name] = _ratios(*counts)
    return report


def _ratios(images: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    def ratio(axis: int | None) -> list[float | None]:
        parts, whole = np.atleast_1d(right.sum(axis=axis)), np.atleast_1d(images.sum(axis=axis))
        return [float(part / all) if all else None for part, all in zip(parts, whole, strict=True)]

    return {
        "images": int(images.sum()),
        "accuracy": ratio(None)[0],
        "per_class": ratio(1),
        "per_confidence_bin": ratio(0),
    }
