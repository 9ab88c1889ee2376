"""Joint batches: labeled first, exact by step, static in shape, and honest about samples that cannot be decoded."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nst.data.batches import EvaluationBatches, LabeledSamples, TrainingBatches, UnlabeledSamples
from nst.data.datamodule import Loader, LoaderOptions, _Steps, evaluation_loader
from nst.data.shard_set import ShardSet, write_shards
from nst.data.sources import Sample, open_source
from nst.data.views import Augmentation, Pictures, clean_view, training_view
from nst.errors import NstError

PICTURES = Pictures(small=True, flip=False, pad=2)


def joint(digits: Path, **options: int) -> TrainingBatches:
    noisy = training_view("randaugment", 12, PICTURES, Augmentation(magnitude=9))
    labeled = LabeledSamples(ShardSet.open(digits / "labeled"), noisy, seed=0)
    unlabeled = UnlabeledSamples(
        ShardSet.open(digits / "unlabeled"), noisy, seed=0, clean_view=clean_view(16, PICTURES)
    )
    return TrainingBatches(labeled, unlabeled, labeled_batch_size=4, unlabeled_batch_size=12, **options)


def damaged(tmp_path: Path, bad: dict[int, bytes], count: int = 12) -> ShardSet:
    """Digits of which some are replaced by bytes that are no image."""
    samples = []
    for position, sample in zip(range(count), open_source("digits"), strict=False):
        image = bad.get(position, sample.image)
        samples.append(Sample(sample.key, image, sample.extension, sample.label))
    classes = [str(number) for number in range(10)]
    return write_shards(tmp_path, "labeled", samples, classes=classes, labeled=True, name="damaged")


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def test_joint_batch_has_labeled_images_first_and_a_clean_view_beside_the_noisy_one(digits: Path):
    batch = joint(digits)[0]
    assert batch["images"].shape == (16, 3, 12, 12)
    assert batch["images"].dtype == torch.uint8
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert batch["labels"].shape == (4,)
    assert batch["clean_images"].shape == (12, 3, 16, 16)
    assert batch["bad"] == []


def test_a_step_is_the_same_batch_in_any_process_and_order(digits: Path):
    one, other = joint(digits), joint(digits)
    batches = [one[step] for step in range(5)]
    assert all(equal(other[step], batches[step]) for step in (3, 0, 4, 1))
    assert not torch.equal(batches[0]["images"], batches[1]["images"])


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_never_change_what_is_read(digits: Path, workers: int):
    batches = joint(digits)
    expected = [batches[step] for step in range(2, 9)]
    read = list(Loader(batches, _Steps(2, 9), LoaderOptions(workers=workers, prefetch=2)))
    assert len(read) == 7
    assert all(equal(one, other) for one, other in zip(read, expected, strict=True))


def test_ranks_together_read_the_global_batch(digits: Path):
    whole = joint(digits)[3]
    parts = []
    for rank in range(2):
        batches = joint(digits, rank=rank, world_size=2)
        batches.sides = [(samples, size // 2) for samples, size in batches.sides]
        parts.append(batches[3])
    assert torch.equal(torch.cat([part["labels"] for part in parts]), whole["labels"])
    assert torch.equal(torch.cat([part["images"][:2] for part in parts]), whole["images"][:4])
    assert torch.equal(torch.cat([part["images"][2:] for part in parts]), whole["images"][4:])


def test_the_same_image_is_noised_differently_in_every_pass(digits: Path):
    samples = joint(digits).sides[0][0]
    views = [samples.sample(number, 0, 7, [])["image"] for number in range(6)]
    assert len({view.tobytes() for view in views}) > 3


def test_a_bad_sample_is_replaced_by_the_next_good_one_and_named(tmp_path: Path):
    shards = damaged(tmp_path, {3: b"", 4: b"not a picture"})
    samples = LabeledSamples(shards, clean_view(8, PICTURES), seed=0)
    bad: list[str] = []
    replaced = samples.sample(0, 0, 3, bad)
    good = samples.sample(0, 0, 5, [])
    np.testing.assert_array_equal(replaced["image"], good["image"])
    assert replaced["label"] == good["label"]
    assert [name.split(":")[0] for name in bad] == ["digits-0003", "digits-0004"]


def test_a_shard_without_a_single_good_image_is_an_error_that_names_it(tmp_path: Path):
    shards = damaged(tmp_path, dict.fromkeys(range(12), b"text"))
    with pytest.raises(NstError, match=r"no image of shard .*labeled-000000.tar can be decoded"):
        LabeledSamples(shards, clean_view(8, PICTURES), seed=0).sample(0, 0, 0, [])


def test_a_mistake_found_by_a_worker_arrives_as_it_was_said(tmp_path: Path):
    shards = damaged(tmp_path, dict.fromkeys(range(12), b"text"))
    samples = LabeledSamples(shards, clean_view(8, PICTURES), seed=0)
    batches = TrainingBatches(samples, None, labeled_batch_size=2, unlabeled_batch_size=0)
    with pytest.raises(NstError) as caught:
        list(Loader(batches, _Steps(0, 2), LoaderOptions(workers=1)))
    assert "Traceback" not in str(caught.value)
    assert "nst shard --verify" in str(caught.value)


def test_evaluation_reads_every_sample_once_and_pads_the_last_batch_of_a_shard(digits: Path):
    shards = ShardSet.open(digits / "unlabeled")
    batches = EvaluationBatches(shards, clean_view(12, PICTURES), batch_size=32)
    assert len(batches) == 9  # three shards of 80 make 3 + 3 + 3 batches
    keys, places = [], []
    for batch in (batches[number] for number in range(len(batches))):
        assert batch["images"].shape == (32, 3, 12, 12)
        assert len(set(batch["shard"][batch["valid"]].tolist())) == 1
        keys += batch["keys"]
        places += list(
            zip(batch["shard"][batch["valid"]].tolist(), batch["index"][batch["valid"]].tolist(), strict=True)
        )
    assert len(set(keys)) == 240
    assert places == [(shard, index) for shard in range(3) for index in range(80)]


def test_evaluation_marks_bad_images_invalid(tmp_path: Path):
    shards = damaged(tmp_path, {2: b"", 9: b"x"})
    batch = EvaluationBatches(shards, clean_view(8, PICTURES), batch_size=16)[0]
    assert int(batch["valid"].sum()) == 10
    assert len(batch["bad"]) == 2
    assert batch["labels"][batch["valid"]].min() >= 0


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_rank_evaluates_the_same_number_of_batches(digits: Path, world_size: int):
    batches = EvaluationBatches(ShardSet.open(digits / "unlabeled"), clean_view(12, PICTURES), batch_size=32)
    loaders = [
        evaluation_loader(batches, LoaderOptions(workers=0), rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(list(loader)) for loader in loaders}) == 1
    keys = [key for loader in loaders for batch in loader for key in batch["keys"]]
    assert len(keys) == len(set(keys)) == 240


def test_a_shard_cut_short_counts_its_missing_samples_as_bad(digits: Path, tmp_path: Path):
    folder = tmp_path / "cut"
    shutil.copytree(digits / "test", folder)
    shards = ShardSet.open(folder)
    path = shards.path(0)
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size // 2)
    batch = EvaluationBatches(shards, clean_view(12, PICTURES), batch_size=100)[0]
    assert int(batch["valid"].sum()) > 0
    assert int(batch["valid"].sum()) + len(batch["bad"]) == shards.shards[0].samples
