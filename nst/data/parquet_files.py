"""Parquet files of predictions and selections: their footers as identities, and rows that are what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nst.documents import damaged


def footer_digest(path: Path) -> str:
    """sha256 of a Parquet file's footer. The whole one, not a fixed tail: a long class list would push the rest out."""
    return hashlib.sha256(raw_footer(path)[:-8]).hexdigest()


def raw_footer(path: Path) -> bytes:
    """A Parquet file's footer, its length and the mark at the end."""
    with open(path, "rb", buffering=0) as file:
        end = file.seek(0, 2)
        file.seek(max(end - 2**16, 0))
        tail = file.read()
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > len(tail):
            file.seek(-length, 2)
            tail = file.read()
    return tail[-length:]


def read_table(
    path: Path, columns: list[str] | None = None, *, footer: str | None = None, row_group: int | None = None
) -> pa.Table:
    """Rows of one Parquet file of predictions or of a selection; its pages are compared with their checksums.

    Args:
        footer: digest of its footer, as noted when it was written.
        row_group: number of the one to be read; None: all.

    Raises:
        NstError: it cannot be read, or is not what was written.
    """
    try:
        if footer is not None and footer_digest(path) != footer:
            raise damaged(path, "its footer is not what was written")
        # not pq.read_table: it takes a folder named noise=full for a partition and adds a column
        # few columns of a small file are read sooner by this thread than by others that it waits for
        # opened here: pq takes a seventh of the time of a small file to find out what kind of path it is
        with (
            pa.OSFile(str(path)) as source,
            pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False) as file,
        ):
            groups = [*range(file.num_row_groups)] if row_group is None else [row_group]
            return file.read_row_groups(groups, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from error
