"""Tickets are SplitMix64's numbers, and hashes of keys XXH3's: what decides a selection can be computed elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.data.predictions import key_hashes
from nst.data.selection import APART, tickets


def splitmix64(state: int):
    """The generator in whole numbers, after its authors' C."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        yield mixed ^ (mixed >> 31)


def test_seeds_count_the_published_numbers_of_a_generator():
    # Vigna's splitmix64.c, begun at 1234567
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    state = np.array([1234567], np.uint64)
    assert [int(tickets(state, seed)[0]) for seed in range(4)] == published
    assert state[0] == 1234567  # what is asked about is not changed


@settings(max_examples=60, deadline=None)
@given(hashes=st.lists(st.integers(0, 2**64 - 1), max_size=30), seed=st.integers(0, 50))
def test_tickets_are_splitmix64(hashes, seed):
    generators = [splitmix64(each) for each in hashes]
    expected = [[next(each) for each in generators] for _ in range(seed + 1)][seed]
    assert tickets(np.array(hashes, np.uint64), seed).tolist() == expected


@pytest.mark.parametrize("keys", [[], ["", "a", "image000001", "日本", "x" * 300]])
def test_hashes_of_keys_are_xxh3(keys):
    found = key_hashes(keys)
    assert found.dtype == np.uint64
    assert found.tolist() == [xxhash.xxh3_64_intdigest(key.encode()) for key in keys]


def test_the_hash_of_a_key_stays_what_it_was():
    """Selections made today must be the same tomorrow. Vectors of XXH3: of nothing, and of one letter."""
    assert [hex(each) for each in key_hashes(["", "a"]).tolist()] == ["0x2d06800538d394c2", "0xe6c632b61e964e1f"]


@pytest.mark.parametrize("other", [1, 7, APART])
def test_draws_of_two_seeds_have_nothing_to_do_with_each_other(other):
    hashes = key_hashes([f"{number:012d}" for number in range(100_000)])
    first, second = (tickets(hashes, seed) / 2.0**64 for seed in (0, other))
    for draw in (first, second):
        assert draw.mean() == pytest.approx(0.5, abs=5 * 0.289 / 316)
        counts = np.bincount((draw * 64).astype(int), minlength=64)
        assert ((counts - 100_000 / 64) ** 2 / (100_000 / 64)).sum() < 130  # chi square of 63 degrees, six deviations
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 316
