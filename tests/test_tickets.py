"""Tickets are md5, whatever keys look like, and the same ones that DuckDB and hashlib compute."""

from __future__ import annotations

import hashlib

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.data import tickets as module
from nst.data.tickets import tickets


def by_hashlib(keys: list[str], seed: int) -> list[int]:
    return [int.from_bytes(hashlib.md5(f"{seed}:{key}".encode()).digest()[:8], "little") for key in keys]


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(st.text(max_size=70), max_size=30), seed=st.integers(0, 2**40))
def test_tickets_are_the_first_half_of_md5(keys, seed):
    keys = [key.encode("utf-8", "ignore").decode() for key in keys]  # no lone surrogates
    assert tickets(pa.array(keys, pa.string()), seed).tolist() == by_hashlib(keys, seed)


@pytest.mark.parametrize("length", [0, 1, 52, 53, 54, 63, 64, 200])
def test_keys_of_any_length(length):
    keys = ["x" * length, "y" * length]
    assert tickets(pa.array(keys), 0).tolist() == by_hashlib(keys, 0)  # "0:" and 53 bytes fill a block of md5


def test_slices_chunks_and_blocks_are_seams_that_do_not_show(monkeypatch):
    keys = [f"image{number}" for number in range(1000)]
    whole = tickets(pa.array(keys), 3)
    monkeypatch.setattr(module, "BLOCK", 7)
    np.testing.assert_array_equal(tickets(pa.array(keys), 3), whole)
    np.testing.assert_array_equal(tickets(pa.array(keys).slice(5, 300), 3), whole[5:305])
    chunked = pa.chunked_array([keys[:10], [], keys[10:]], pa.string())
    np.testing.assert_array_equal(tickets(chunked, 3), whole)


def test_tickets_can_be_checked_in_sql():
    keys = [f"{number:012d}" for number in range(50)]
    query = "SELECT md5_number_upper('7:' || unnest($keys)) AS ticket"
    theirs = duckdb.sql(query, params={"keys": keys}).fetchnumpy()["ticket"]
    np.testing.assert_array_equal(tickets(pa.array(keys), 7), theirs)
