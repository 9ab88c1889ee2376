"""The order of samples: a pure function of (seed, name, position) in which every sample comes once a pass; read by real
loader processes from real shards, by any number of them, from any step on, and in any division over ranks."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.data import batches as batching
from nst.data.batches import LabeledSamples, TrainingBatches, UnlabeledSamples
from nst.data.datamodule import Loader, _Steps
from nst.data.images import decode, encode_png
from nst.data.shards import ShardSet, write_shards
from nst.data.shared_memory import LoaderOptions
from nst.data.source import Sample
from nst.data.stream import Stream, generator
from nst.data.views import clean_view
from nst.errors import NstError
from nst.settings.data import Pictures

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


# ---- lanes


def rows_of(one: Stream, steps: range, batch: int, world_size: int = 1) -> list[list[tuple[int, int, int]]]:
    """The entries of each step, those of its ranks one behind the other."""
    share = batch // world_size
    return [
        [entry for rank in range(world_size) for entry in one.batch(step, share, rank=rank, world_size=world_size)]
        for step in steps
    ]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    lanes=st.integers(1, 9),
    share=st.integers(1, 5),
    window=st.integers(1, 4),
)
def test_lanes_bring_every_sample_once_in_every_pass(sizes: list[int], lanes: int, share: int, window: int):
    """Shards of any sizes, fewer shards than lanes, fewer samples than lanes, passes that end within a batch."""
    one = Stream(sizes, seed=5, name="x", lanes=lanes, window_shards=window)
    steps = -(-3 * one.length // (lanes * share))
    seen = Counter(entry for step in rows_of(one, range(steps), lanes * share) for entry in step)
    whole = {(number, shard, row) for number in range(3) for shard, size in enumerate(sizes) for row in range(size)}
    assert whole <= set(seen)
    assert all(number >= 3 for number, _, _ in set(seen) - whole)
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_lanes_give_the_same_rows_to_any_number_of_ranks_from_any_step_on(world_size: int):
    sizes = [7, 0, 13, 1, 30, 5, 9, 9]
    whole = rows_of(Stream(sizes, seed=0, name="x", lanes=4), range(20), 16)
    late = Stream(sizes, seed=0, name="x", lanes=4)
    assert rows_of(late, range(11, 20), 16, world_size) == whole[11:]


def test_a_rank_reads_the_shards_of_its_lanes_and_others_read_those_of_theirs():
    """Of 64 shards each of 8 ranks reads an eighth, and one more at each of its two cuts; with one lane, all."""
    sizes = [40 + shard % 5 for shard in range(64)]
    steps = sum(sizes) // 16

    def readers(lanes: int) -> np.ndarray:
        one, seen = Stream(sizes, seed=0, name="x", lanes=lanes), np.zeros((8, 64), bool)
        for rank in range(8):
            for step in range(steps):
                seen[rank, one.batch(step, 2, rank=rank, world_size=8).shards] = True
        return seen

    assert readers(1).sum(1).min() > 60
    assert readers(8).sum(1).max() <= 64 // 8 + 2
    assert readers(8).sum() <= 64 + 7
    assert readers(8).sum(0).max() <= 2


def test_lanes_do_not_change_which_images_a_batch_can_have_but_all_their_orders_differ():
    sizes = [50] * 32
    orders = [tuple(Stream(sizes, seed=0, name="x", lanes=lanes).batch(0, 32)) for lanes in (1, 2, 4, 8)]
    assert len(set(orders)) == 4
    for lanes in (1, 2, 4, 8):
        assert len(set(Stream(sizes, seed=0, name="x", lanes=lanes).batch(0, 64).shards.tolist())) >= 15


def test_one_lane_is_the_order_it_has_always_been():
    """The sha256 of runs from before lanes depend on it: these entries were drawn by the code without."""
    found = Stream([7, 0, 13, 1, 30, 5], seed=0, name="labeled", window_shards=2).entries(50, 62)
    assert list(found) == [
        (0, 2, 12),
        (0, 2, 10),
        (0, 2, 3),
        (0, 2, 0),
        (0, 2, 7),
        (0, 3, 0),
        (1, 2, 7),
        (1, 2, 11),
        (1, 2, 4),
        (1, 2, 1),
        (1, 2, 0),
        (1, 2, 5),
    ]


def test_rows_that_do_not_divide_by_the_lanes_are_refused():
    with pytest.raises(ValueError, match="6 rows do not divide by 4 lanes"):
        Stream([40], seed=0, name="x", lanes=4).batch(0, 3, rank=0, world_size=2)


def test_an_empty_set_is_refused():
    with pytest.raises(NstError, match="labeled set has no samples"):
        Stream([0, 0], seed=0, name="labeled")


def test_generators_are_equal_for_equal_keys_and_independent_otherwise():
    draws = generator(0, "labeled", 1, "key").random(1000)
    np.testing.assert_array_equal(draws, generator(0, "labeled", 1, "key").random(1000))
    others = [generator(0, "labeled", 2, "key"), generator(1, "labeled", 1, "key"), generator(0, "labeled", 1, "kez")]
    for other in others:
        assert abs(np.corrcoef(draws, other.random(1000))[0, 1]) < 0.15


# ---- read from shards


LABELED, UNLABELED, BATCH = 36, 84, 12  # three and seven steps a pass, at equal batch sizes


def numbered(folder: Path, count: int, *, labeled: bool) -> ShardSet:
    """Images whose colour is their number, so that a batch tells which images are in it."""
    samples = [
        Sample(f"s{number}", encode_png(np.full((8, 8, 3), number, np.uint8)), "png", number % 2)
        for number in range(count)
    ]
    return write_shards(
        folder, "x", samples, classes=("a", "b"), labeled=labeled, name="numbered", samples_per_shard=10
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSet, ShardSet]:
    root = tmp_path_factory.mktemp("numbered")
    return numbered(root / "labeled", LABELED, labeled=True), numbered(root / "unlabeled", UNLABELED, labeled=False)


def part(sets: tuple[ShardSet, ShardSet], seed: int, rank: int, world_size: int, lanes: int = 1) -> TrainingBatches:
    view = clean_view(8, Pictures(small=True))
    share = BATCH // world_size
    return TrainingBatches(
        LabeledSamples(sets[0], view, seed, lanes),
        UnlabeledSamples(sets[1], view, seed, lanes=lanes),
        labeled_batch_size=share,
        unlabeled_batch_size=share,
        rank=rank,
        world_size=world_size,
    )


def read(
    sets: tuple[ShardSet, ShardSet],
    start: int,
    stop: int,
    *,
    world_size: int = 1,
    workers: int = 0,
    seed: int = 0,
    lanes: int = 1,
) -> list[tuple[list[int], list[int]]]:
    """Numbers of the labeled and unlabeled images of each step, over all ranks, as loaders bring them."""
    options = LoaderOptions(workers=workers, prefetch=2)
    parts = [part(sets, seed, rank, world_size, lanes) for rank in range(world_size)]
    loaders = [Loader(batches, _Steps(start, stop), options) for batches in parts]
    steps = []
    for batches in zip(*loaders, strict=True):
        colours = [batch["images"][:, 0, 0, 0].tolist() for batch in batches]
        share = BATCH // world_size
        steps.append(([n for rank in colours for n in rank[:share]], [n for rank in colours for n in rank[share:]]))
    return steps


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_loader_processes_reads_the_same_order(sets: tuple[ShardSet, ShardSet], workers: int):
    assert read(sets, 0, 9, workers=workers) == read(sets, 0, 9)


def test_loader_processes_bring_every_image_once_a_pass(sets: tuple[ShardSet, ShardSet]):
    steps = read(sets, 0, 21, workers=2)
    assert Counter(n for labeled, _ in steps for n in labeled) == Counter(7 * list(range(LABELED)))
    assert Counter(n for _, unlabeled in steps for n in unlabeled) == Counter(3 * list(range(UNLABELED)))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 1), (2, 3)])
def test_another_number_of_ranks_goes_on_with_the_pass_without_repeating_or_losing_an_image(
    sets: tuple[ShardSet, ShardSet], before: int, after: int
):
    """Stopped after two of seven steps, continued by other ranks with other numbers of loader processes."""
    steps = [
        *read(sets, 0, 2, world_size=before, workers=1),
        *read(sets, 2, 7, world_size=after, workers=2),
    ]
    assert Counter(n for _, unlabeled in steps for n in unlabeled) == Counter(range(UNLABELED))
    assert Counter(n for labeled, _ in steps[:3] for n in labeled) == Counter(range(LABELED))
    assert steps == read(sets, 0, 7)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 6)])
def test_lanes_are_continued_by_other_ranks_without_repeating_or_losing_an_image(
    sets: tuple[ShardSet, ShardSet], before: int, after: int
):
    steps = [
        *read(sets, 0, 2, world_size=before, workers=1, lanes=3),
        *read(sets, 2, 7, world_size=after, workers=1, lanes=3),
    ]
    assert Counter(n for _, unlabeled in steps for n in unlabeled) == Counter(range(UNLABELED))
    assert Counter(n for labeled, _ in steps[:3] for n in labeled) == Counter(range(LABELED))
    assert steps == read(sets, 0, 7, lanes=3)
    assert steps != read(sets, 0, 7)


def test_a_selection_with_copies_is_dealt_into_lanes_by_its_entries(sets: tuple[ShardSet, ShardSet]):
    """Copies count: a shard of few images with many copies fills a lane as one of many images does."""
    counts = [3, 0, 40, 1, 1, 1, 1, 1, 0]
    labels = SimpleNamespace(counts=counts)
    samples = UnlabeledSamples(sets[1], clean_view(8, Pictures(small=True)), 0, cast(Any, labels), lanes=4)
    entries = [entry for step in range(12) for entry in samples.stream.batch(step, 4)]
    assert Counter((shard, row) for _, shard, row in entries) == Counter(
        (shard, row) for shard, count in enumerate(counts) for row in range(count)
    )


def test_another_seed_is_another_order(sets: tuple[ShardSet, ShardSet]):
    assert read(sets, 0, 3) != read(sets, 0, 3, seed=1)


def test_continuing_in_the_middle_of_a_pass_decodes_nothing_before_it(
    sets: tuple[ShardSet, ShardSet], monkeypatch: pytest.MonkeyPatch
):
    decoded: list[int] = []

    def noting(data: bytes) -> np.ndarray:
        decoded.append(int(decode(data)[0, 0, 0]))
        return decode(data)

    whole = read(sets, 0, 6)
    monkeypatch.setattr(batching, "decode", noting)
    assert read(sets, 5, 6) == whole[5:]
    labeled, unlabeled = whole[5]
    assert decoded == [*labeled, *unlabeled]
