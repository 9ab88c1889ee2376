"""Joint batches: labeled first, exact by step, static in shape, and honest about samples that cannot be decoded."""

import ctypes
import io
import os
import pickle
import platform
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from helpers import noise
from torch.utils.data import Dataset

from nst.data.batches import Images, LabeledSamples, TrainingBatches, UnlabeledSamples
from nst.data.datamodule import Loader, _Steps, evaluation_loader
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.image_stack import ImageStack, images_to_tensor
from nst.data.images import decode
from nst.data.joint import joint_order, take_apart
from nst.data.shards import ShardSet, index_tars, write_shards
from nst.data.shared_memory import LoaderOptions
from nst.data.source import Sample
from nst.data.sources import open_source
from nst.data.transforms import Augment
from nst.data.views import clean_view, training_view
from nst.errors import NstError
from nst.machine import keep_freed_memory
from nst.settings.data import Pictures
from nst.settings.network import Noise, RandAugmentOptions
from nst.training.fitting import validation_batch_size
from tests.forked import ROOT

PICTURES = Pictures(small=True, flip=False, pad=2)


def joint(digits: Path, **options: int) -> TrainingBatches:
    noisy = training_view("randaugment", 12, PICTURES, Noise(dropout=0.5, randaugment=RandAugmentOptions(magnitude=9)))
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


def test_batches_can_be_pickled_for_workers_that_are_spawned(digits: Path):
    batches = joint(digits)
    expected = [batches[step] for step in range(2)]
    pickled = pickle.loads(pickle.dumps(batches))
    assert all(equal(pickled[step], expected[step]) for step in range(2))


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


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_group_of_the_joint_batch_has_labeled_images_first_and_can_be_taken_apart(groups: int):
    order = torch.tensor(joint_order(8, 16, groups))
    for group in order.unflatten(0, (groups, -1)).tolist():
        assert [number < 8 for number in group] == [True] * (8 // groups) + [False] * (16 // groups)
    labeled, unlabeled = take_apart(order, 8, groups)
    assert labeled.tolist() == list(range(8))
    assert unlabeled.tolist() == list(range(8, 24))


def test_groups_that_cannot_be_equal_are_an_error():
    with pytest.raises(ValueError, match="8 labeled and 12 unlabeled images do not make 8 equal groups"):
        joint_order(8, 12, 8)


def test_groups_change_where_images_lie_and_not_which(digits: Path):
    def batches(groups: int) -> TrainingBatches:
        labeled = LabeledSamples(ShardSet.open(digits / "labeled"), clean_view(12, PICTURES), 0)
        unlabeled = UnlabeledSamples(ShardSet.open(digits / "unlabeled"), clean_view(12, PICTURES), 0)
        return TrainingBatches(labeled, unlabeled, labeled_batch_size=4, unlabeled_batch_size=8, groups=groups)

    plain, grouped = batches(1)[3], batches(4)[3]
    for one, other in zip(take_apart(plain["images"], 4), take_apart(grouped["images"], 4, 4), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(plain["labels"], grouped["labels"])


def test_evaluation_reads_every_sample_once_and_pads_the_last_batch_of_a_shard(digits: Path):
    shards = ShardSet.open(digits / "unlabeled")
    batches = EvaluationBatches(shards, clean_view(12, PICTURES), batch_size=32)
    assert len(batches) == 9  # three shards of 80 make 3 + 3 + 3 batches
    keys = [shards.reader(number).keys for number in range(3)]
    assert len({key for own in keys for key in own}) == 240
    for number in range(len(batches)):
        batch, (shard, part) = batches[number], divmod(number, 3)
        assert batch["images"].shape == (32, 3, 12, 12)
        assert batch["index"].tolist() == list(range(80))[32 * part : 32 * part + 32]
        assert batch["keys"] == [keys[shard][index] for index in batch["index"]]


@pytest.mark.parametrize(("set_name", "size"), [("labeled", 50), ("unlabeled", 80)])
def test_validation_of_a_small_set_computes_no_padding(digits: Path, set_name: str, size: int):
    shards = ShardSet.open(digits / set_name)
    batches = EvaluationBatches(shards, clean_view(12, PICTURES), batch_size=validation_batch_size(shards))
    assert len(batches) == len(shards.shards)
    assert all(batches[number]["valid"].tolist() == [True] * size for number in range(len(batches)))


def test_evaluation_marks_bad_images_invalid(tmp_path: Path):
    shards = damaged(tmp_path, {2: b"", 9: b"x"})
    batch = EvaluationBatches(shards, clean_view(8, PICTURES), batch_size=16)[0]
    assert int(batch["valid"].sum()) == 10
    assert len(batch["bad"]) == 2
    assert batch["labels"][batch["valid"]].min() >= 0
    assert batch["labels"][:10].tolist() == batch["true_labels"].tolist()
    assert batch["valid"].tolist() == [True] * 10 + [False] * 6  # the valid ones come first


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


class Observed(Dataset):
    """What a batch's memory is like in the process that makes it."""

    def __init__(self, batches: TrainingBatches):
        self.batches, self.nbytes = batches, batches.nbytes

    def __getitem__(self, step: int) -> dict:
        batch = self.batches[step]
        return {"shared": batch["images"].is_shared() and batch["clean_images"].is_shared()}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_images_are_made_in_the_memory_that_they_travel_in(digits: Path, workers: int):
    seen = list(Loader(Observed(joint(digits)), _Steps(0, 2), LoaderOptions(workers=workers)))
    assert [batch["shared"] for batch in seen] == [workers == 1] * 2


def test_images_lie_where_they_were_put():
    images = [np.full((2, 3, 3), number, np.uint8) for number in range(4)]
    stack = ImageStack(4)
    for place in (2, 0, 3, 1):
        stack.put(place, images[place])
    assert stack.tensor().shape == (4, 3, 2, 3)
    assert stack.tensor()[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert torch.equal(stack.tensor(), images_to_tensor(images))


def test_captions_beside_the_images_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = next(iter(open_source("digits"))).image
    with tarfile.open(tmp_path / "set-000000.tar", "w") as tar:
        for name, content in (("0.png", image), ("0.txt", b"a caption"), ("0.json", b"{}"), ("0.cls", b"3")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    shards, read, sizes = index_tars(tmp_path), os.pread, []
    monkeypatch.setattr(os, "pread", lambda *arguments: sizes.append(arguments[1]) or read(*arguments))
    key, pixels, label = Images(shards).read(0, 0)
    assert (key, pixels.shape, label) == ("0", (8, 8, 3), 3)
    assert sorted(sizes) == sorted([len(image), 1])


class Faults(Dataset):
    """Pages of memory that a worker is given for every picture, once it has seen some."""

    nbytes = 0

    def __getitem__(self, number: int) -> dict:
        def faults() -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        pictures = [noise(300 + 17 * size, 450 - 13 * size) for size in range(8)]
        files = [simplejpeg.encode_jpeg(pixels, colorspace="RGB") for pixels in pictures]
        del pictures
        view, rng = Augment(224), np.random.default_rng(0)
        counts = []
        for turn in range(80):
            start = faults()
            view(decode(files[5 * turn % 8]), rng)
            counts.append(faults() - start)
        return {"pages": sum(counts[40:]) / 40}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the option is glibc's")
def test_a_worker_keeps_the_memory_of_a_picture_for_the_next():
    glibc = ctypes.CDLL(None)
    for option, value in ((-4, 65536), (-1, 128 * 1024), (-3, 128 * 1024)):
        glibc.mallopt(option, value)  # as glibc starts; a process that freed something large keeps more anyway
    try:
        (seen,) = Loader(Faults(), _Steps(0, 1), LoaderOptions(workers=1))
    finally:
        keep_freed_memory()
    assert seen["pages"] < 5  # else a hundred and more: cleared anew for every picture


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the option is glibc's")
def test_a_training_keeps_the_memory_of_a_step_for_the_next():
    program = """
import resource
from nst.cli import module_of
module_of("train")
import torch
def step():
    return [torch.ones(2**24) for _ in range(3)]  # 64 MB each, which glibc never keeps by itself
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(done.stdout) < 1000  # else 49,152 a step
