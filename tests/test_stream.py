"""The order of samples: a pure function of (seed, name, position) in which every sample comes once a pass."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.data.stream import Stream, generator
from nst.errors import NstError

SIZES = [7, 0, 13, 1, 30, 5]


def stream(seed: int = 0, name: str = "labeled", window: int = 2) -> Stream:
    return Stream(SIZES, seed=seed, name=name, window_shards=window)


def test_every_sample_comes_once_in_every_pass():
    total = sum(SIZES)
    for number in range(3):
        entries = stream().entries(number * total, (number + 1) * total)
        assert set(entries.passes.tolist()) == {number}
        found = Counter((shard, row) for _, shard, row in entries)
        assert found == Counter((shard, row) for shard, size in enumerate(SIZES) for row in range(size))


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 300), length=st.integers(1, 120), window=st.integers(1, 8))
def test_any_slice_is_the_same_as_part_of_the_whole(start: int, length: int, window: int):
    whole = list(Stream(SIZES, seed=3, name="x", window_shards=window).entries(0, 420))
    part = list(Stream(SIZES, seed=3, name="x", window_shards=window).entries(start, start + length))
    assert part == whole[start : start + length]


def test_reading_back_and_forth_changes_nothing():
    one = stream()
    forward = [list(one.batch(step, 8)) for step in range(40)]
    assert [list(one.batch(step, 8)) for step in reversed(range(40))] == forward[::-1]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_the_global_batch_without_gap_or_overlap(world_size: int):
    one = stream()
    for step in range(6):
        parts = [list(one.batch(step, 16 // world_size, rank=r, world_size=world_size)) for r in range(world_size)]
        assert [entry for part in parts for entry in part] == list(one.batch(step, 16))


def test_changing_the_world_size_between_steps_neither_repeats_nor_loses_a_sample():
    one, seen = stream(), []
    for step in range(7):
        world_size = 1 if step < 3 else 4
        for rank in range(world_size):
            seen += list(one.batch(step, 8 // world_size, rank=rank, world_size=world_size))
    assert seen[:56] == list(one.entries(0, 56))
    assert len(set(seen)) == 56


def test_order_differs_by_seed_name_and_pass():
    total = sum(SIZES)
    base = [entry[1:] for entry in stream().entries(0, total)]
    assert base != [entry[1:] for entry in stream(seed=1).entries(0, total)]
    assert base != [entry[1:] for entry in stream(name="unlabeled").entries(0, total)]
    assert base != [entry[1:] for entry in stream().entries(total, 2 * total)]
    assert base != sorted(base)


def test_only_the_shards_of_one_window_are_mixed():
    sizes = [10] * 12
    entries = Stream(sizes, seed=0, name="x", window_shards=3).entries(0, 120)
    for begin in range(0, 120, 30):
        assert len(set(entries.shards[begin : begin + 30].tolist())) == 3


def test_small_sets_are_shuffled_completely():
    rows = Stream([500, 500], seed=0, name="x").entries(0, 1000)
    first_half = rows.shards[:500]
    assert 200 < int((first_half == 0).sum()) < 300


def test_an_empty_set_is_refused():
    with pytest.raises(NstError, match="labeled set has no samples"):
        Stream([0, 0], seed=0, name="labeled")


def test_generators_are_equal_for_equal_keys_and_independent_otherwise():
    draws = generator(0, "labeled", 1, "key").random(1000)
    np.testing.assert_array_equal(draws, generator(0, "labeled", 1, "key").random(1000))
    others = [generator(0, "labeled", 2, "key"), generator(1, "labeled", 1, "key"), generator(0, "labeled", 1, "kez")]
    for other in others:
        assert abs(np.corrcoef(draws, other.random(1000))[0, 1]) < 0.15
