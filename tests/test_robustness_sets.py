"""Readers of released sets, on folders, videos and arrays that the tests write as they are published."""

from __future__ import annotations

import io
import itertools
import json
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nst.data.datamodule import evaluation_loader
from nst.data.images import BadImage
from nst.data.shared_memory import LoaderOptions
from nst.data.transforms import CenterView
from nst.errors import NstError
from nst.robustness import sets
from nst.robustness.cifar import cifar_c, cifar_p
from nst.robustness.classes import (
    CIFAR10,
    SUBSETS,
    cifar_positions,
    imagenet_positions,
    imagenet_wnids,
    subset_positions,
    subset_wnids,
)
from nst.robustness.image_sets import ImageSet, stratified
from nst.robustness.padded import ImageSetBatches
from nst.robustness.readers import open_array
from nst.robustness.sets import (
    find_cells,
    imagenet_c,
    imagenet_folders,
    imagenet_p,
    imagenet_real,
    strange_names,
)
from tests.helpers import encode, noise, samples

WNIDS = imagenet_wnids()
CIFAR100 = [str(label) for label in range(100)]


def write(path: Path, size: int = 8, seed: int = 0) -> np.ndarray:
    """A picture as a lossless file, whatever its name; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(size, size, seed)
    path.write_bytes(encode(pixels, "PNG"))
    return pixels


def write_folders(root: Path, folders: Sequence[str], per_folder: int = 2) -> dict[str, np.ndarray]:
    """Pictures in class folders, written in the order given; pixels by key."""
    seeds = itertools.count()
    return {
        f"{folder}-{number}": write(root / folder / f"{number}.JPEG", seed=next(seeds))
        for folder in folders
        for number in range(per_folder)
    }


def same(images: ImageSet, expected: dict[str, np.ndarray]) -> None:
    found = {sample.key: sample.image for sample in samples(images, [])}
    assert found.keys() == expected.keys()
    for key, pixels in expected.items():
        np.testing.assert_array_equal(found[key], pixels)


# ---- classes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "first"), [("imagenet_a", [6, 11, 13]), ("imagenet_r", [1, 2, 4])])
def test_the_lists_of_200_classes_are_the_published_ones(name: str, first: list[int]) -> None:
    positions = subset_positions(name, WNIDS)
    assert positions[:3] == first
    assert positions == sorted(set(positions))
    assert len(positions) == 200
    assert subset_wnids(name) == tuple(WNIDS[position] for position in positions)
    assert len(set(subset_wnids("imagenet_a")) & set(subset_wnids("imagenet_r"))) == 86


def test_a_changed_list_of_classes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUBSETS, "imagenet_a", "0" * 64)
    with pytest.raises(NstError, match="has changed"):
        subset_wnids.__wrapped__("imagenet_a")


def test_classes_are_found_by_name_in_any_order_of_the_network() -> None:
    shuffled = list(np.random.default_rng(0).permutation(WNIDS))
    positions = imagenet_positions(shuffled)
    assert all(shuffled[position] == wnid for wnid, position in positions.items())
    restricted = subset_positions("imagenet_r", shuffled)
    assert [shuffled[position] for position in restricted] == list(subset_wnids("imagenet_r"))
    numbered = sorted(map(str, range(1000)))  # "0", "1", "10", "100" ...: how folders of numbers are sorted
    assert imagenet_positions(numbered)[WNIDS[10]] == 2
    assert imagenet_positions(WNIDS[5:7]) == {WNIDS[5]: 0, WNIDS[6]: 1}


@pytest.mark.parametrize("classes", [["tench", "goldfish"], list(map(str, range(999))), [*WNIDS[:9], "other"]])
def test_other_class_names_are_refused_and_the_expected_ones_named(classes: list[str]) -> None:
    with pytest.raises(NstError, match="n01440764"):
        imagenet_positions(classes)


def test_a_network_of_fewer_classes_cannot_be_restricted_to_200() -> None:
    with pytest.raises(NstError, match="190 of 200 are missing"):
        subset_positions("imagenet_a", subset_wnids("imagenet_a")[:10])


def test_cifars_labels_are_found_by_name_or_number() -> None:
    assert cifar_positions(CIFAR10) == list(range(10))
    assert cifar_positions(CIFAR10[::-1]) == list(range(9, -1, -1))
    assert cifar_positions(sorted(CIFAR100)) == [sorted(CIFAR100).index(str(label)) for label in range(100)]
    assert cifar_positions(list(map(str, range(10)))) == list(range(10))
    with pytest.raises(NstError, match="automobile"):
        cifar_positions([*CIFAR10[:9], "van"])
    with pytest.raises(NstError, match="aquarium_fish"):
        cifar_positions(WNIDS[:100])


# ---- class folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet_val", "imagenet_a", "imagenet_r", "imagenet_sketch"])
def test_partial_copies_keep_the_right_labels(tmp_path: Path, name: str) -> None:
    known = subset_wnids(name) if name in SUBSETS else WNIDS
    folders = [known[150], known[3], known[77]]  # few, and not in order
    expected = write_folders(tmp_path, folders)
    images = imagenet_folders(name, tmp_path, WNIDS)
    same(images, expected)
    assert images.keys == sorted(images.keys)
    assert [WNIDS[sample.label] for sample in samples(images, [])] == sorted(folders * 2)
    reverse = imagenet_folders(name, tmp_path, WNIDS[::-1])
    assert [WNIDS[::-1][label] for label in reverse.labels] == sorted(folders * 2)


def test_imagenet_v2_is_read_in_numeric_order(tmp_path: Path) -> None:
    expected = write_folders(tmp_path, ["999", "2", "10", "0"], per_folder=1)
    images = imagenet_folders("imagenet_v2", tmp_path, WNIDS)
    same(images, expected)
    assert dict(zip(images.keys, images.labels.tolist(), strict=True)) == {"0-0": 0, "10-0": 10, "2-0": 2, "999-0": 999}
    shuffled = imagenet_folders("imagenet_v2", tmp_path, WNIDS[::-1])
    assert dict(zip(shuffled.keys, shuffled.labels.tolist(), strict=True))["2-0"] == 997


def test_the_folder_around_an_unpacked_archive_will_do(tmp_path: Path) -> None:
    folders = [subset_wnids("imagenet_a")[5]]  # a single class folder is not taken for the wrapping
    write_folders(tmp_path / "imagenet-a", folders)
    (tmp_path / "imagenet-a" / "README.txt").write_text("about")
    (tmp_path / "__MACOSX").mkdir()
    outer, inner = (imagenet_folders("imagenet_a", root, WNIDS) for root in (tmp_path, tmp_path / "imagenet-a"))
    assert outer.keys == inner.keys
    assert outer.digest == inner.digest
    assert len(outer) == 2


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("imagenet_a", "tench", "n01498041"),
        ("imagenet_a", WNIDS[0], "200 folders: n01498041"),  # ImageNet's, but not one of the 200
        ("imagenet_v2", WNIDS[0], "1000 folders: 0, 1, 2, 3"),
        ("imagenet_v2", "1000", "did you mean '100'"),
        ("imagenet_sketch", "n99999999", "has no class n99999999"),
    ],
)
def test_a_wrong_folder_is_named_together_with_the_expected_ones(tmp_path, name, folder, said) -> None:
    write_folders(tmp_path, [folder])
    with pytest.raises(NstError, match=said):
        imagenet_folders(name, tmp_path, WNIDS)


def test_a_class_that_the_network_does_not_know_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path, WNIDS[:3])
    assert imagenet_folders("imagenet_val", tmp_path, WNIDS[:3]).labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(NstError, match=f"does not know the class {WNIDS[2]}"):
        imagenet_folders("imagenet_val", tmp_path, WNIDS[:2])


def test_missing_and_empty_folders_and_sets_are_explained(tmp_path: Path) -> None:
    with pytest.raises(NstError, match=r"eval\.imagenet_r: no such folder: "):
        imagenet_folders("imagenet_r", tmp_path / "nowhere", WNIDS)
    with pytest.raises(NstError, match="no images"):
        imagenet_folders("imagenet_r", tmp_path, WNIDS)


# ---- bad files -------------------------------------------------------------------------------------------------


def test_bad_files_are_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    expected = write_folders(tmp_path, WNIDS[:2], per_folder=3)
    good = tmp_path / WNIDS[0] / "1.JPEG"
    good.write_bytes(good.read_bytes()[:40])
    (tmp_path / WNIDS[1] / "0.JPEG").write_bytes(b"")
    (tmp_path / WNIDS[1] / "2.JPEG").unlink()
    (tmp_path / WNIDS[1] / "2.JPEG").symlink_to(tmp_path / "gone")
    images, bad = imagenet_folders("imagenet_val", tmp_path, WNIDS), []
    keys = list(expected)
    assert [sample.key for sample in samples(images, bad)] == [keys[0], keys[2], keys[4]]
    assert [line.split(": ")[0] for line in bad] == [f"imagenet_val/{keys[number]}" for number in (1, 3, 5)]
    with pytest.raises(BadImage, match="imagenet_val/n01440764-1"):
        images[1]


def test_the_first_readable_picture_tells_the_size(tmp_path: Path) -> None:
    write(tmp_path / WNIDS[0] / "b.JPEG", size=29)
    (tmp_path / WNIDS[0] / "a.JPEG").write_bytes(b"no picture")
    assert imagenet_folders("imagenet_val", tmp_path, WNIDS).picture_size() == (29, 29)
    (tmp_path / WNIDS[0] / "b.JPEG").write_bytes(b"")
    with pytest.raises(NstError, match="no image of imagenet_val can be read"):
        imagenet_folders("imagenet_val", tmp_path, WNIDS).picture_size()


# ---- subsets ---------------------------------------------------------------------------------------------------


def test_a_subset_takes_every_class_in_proportion() -> None:
    classes = np.repeat(np.arange(5), [100, 40, 40, 15, 5])
    keys = [f"{label}-{number}" for number, label in enumerate(classes)]
    kept = stratified(keys, classes, 40, seed=0)
    assert Counter(classes[kept].tolist()) == {0: 20, 1: 8, 2: 8, 3: 3, 4: 1}
    assert (np.diff(kept) > 0).all()
    rare = np.repeat(np.arange(41), [60] + [1] * 40)  # four of a hundred: no rare class has a half among them
    assert rare[stratified([f"k{i}" for i in range(100)], rare, 4, seed=0)].tolist() == [0, 0, 0, 0]
    even = np.repeat(np.arange(20), 10)
    few = stratified([f"k{i}" for i in range(200)], even, 7, seed=0)
    assert len(set(even[few])) == 7  # seven classes rather than one
    more = stratified([f"k{i}" for i in range(200)], even, 50, seed=0)
    assert set(Counter(even[more].tolist()).values()) == {2, 3}
    assert set(few) <= set(more)


def test_a_subset_follows_from_seed_and_keys_and_reads_the_same_pixels(tmp_path: Path) -> None:
    expected = write_folders(tmp_path / "fog" / "1", WNIDS[:4], per_folder=5)
    write_folders(tmp_path / "snow" / "3", WNIDS[3::-1], per_folder=5)
    whole = imagenet_c(tmp_path, "fog", 1, WNIDS)
    part = whole.subset(8, seed=3)
    assert len(part) == 8
    assert Counter(part.labels.tolist()) == dict.fromkeys(range(4), 2)
    same(part, {key: expected[key] for key in part.keys})
    assert part.keys == imagenet_c(tmp_path, "snow", 3, WNIDS).subset(8, seed=3).keys
    assert part.keys != whole.subset(8, seed=4).keys
    assert len({part.digest, whole.digest, whole.subset(8, seed=4).digest, whole.subset(9, seed=3).digest}) == 4
    again = whole.subset(12).subset(5)
    same(again, {key: expected[key] for key in again.keys})
    assert whole.subset(None) is whole.subset(20) is whole


def test_the_digest_tells_changed_files_apart(tmp_path: Path) -> None:
    write_folders(tmp_path, WNIDS[:2])
    first = imagenet_folders("imagenet_val", tmp_path, WNIDS).digest
    assert imagenet_folders("imagenet_val", tmp_path, WNIDS).digest == first
    write(tmp_path / WNIDS[0] / "0.JPEG", size=9)
    assert imagenet_folders("imagenet_val", tmp_path, WNIDS).digest != first


# ---- ReaL ------------------------------------------------------------------------------------------------------


@pytest.fixture
def real_json(tmp_path: Path) -> Path:
    labels = [[] for _ in range(50_000)]
    labels[0], labels[2], labels[49_999] = [5], [7, 999, 0], [1, 2]
    path = tmp_path / "real.json"
    path.write_text(json.dumps(labels))
    return path


@pytest.mark.parametrize("folder", ["", "n01440764/"])
def test_real_labels_go_by_an_images_number_and_images_without_any_are_left_out(tmp_path, real_json, folder) -> None:
    root = tmp_path / "val"
    numbers = (50_000, 1, 2, 3)
    pixels = {number: write(root / f"{folder}ILSVRC2012_val_{number:08d}.JPEG", seed=number) for number in numbers}
    images = imagenet_real(root, WNIDS, real_json)
    assert images.keys == [f"ILSVRC2012_val_{number:08d}" for number in (1, 3, 50_000)]
    assert images.labels.tolist() == [[5, -1, -1], [7, 999, 0], [1, 2, -1]]
    np.testing.assert_array_equal(images[1], pixels[3])
    assert imagenet_real(root, WNIDS[::-1], real_json).labels[1].tolist() == [992, 0, 999]
    assert len(images.subset(2)) == 2


def test_timms_copy_of_the_real_labels_is_the_default(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):  # of which the first has no label, as 3,162 others
        write(tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG")
    images = imagenet_real(tmp_path, WNIDS)
    assert images.labels[:, :3].tolist() == [[970, 795, -1], [230, 231, -1], [809, -1, -1]]
    assert (sets._real_labels(None, WNIDS)[:, 0] >= 0).sum() == 46_837


def test_wrong_real_labels_are_explained(tmp_path: Path, real_json: Path) -> None:
    with pytest.raises(NstError, match="no images"):
        imagenet_real(tmp_path, WNIDS, real_json)
    with pytest.raises(NstError, match="does not know the class"):
        imagenet_real(tmp_path, WNIDS[:999], real_json)
    for text in ("[[1], [2]]", "nothing", "[[1000]]", '{"a": 1}'):
        real_json.write_text(text)
        with pytest.raises(NstError, match=r"real\.json"):
            imagenet_real(tmp_path, WNIDS, real_json)


# ---- ImageNet-C ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["", "noise/", "ImageNet-C/"])
@pytest.mark.parametrize("size", [224, 299])
def test_imagenet_c_is_read_grouped_and_flat_as_it_is_stored(tmp_path: Path, group: str, size: int) -> None:
    for severity in (1, 5):
        write(tmp_path / f"{group}gaussian_noise/{severity}/{WNIDS[9]}/ILSVRC2012_val_00000001.JPEG", size, severity)
    first, last = (imagenet_c(tmp_path, "gaussian_noise", severity, WNIDS) for severity in (1, 5))
    assert first.picture_size() == (size, size)
    assert first.keys == last.keys == [f"{WNIDS[9]}-ILSVRC2012_val_00000001"]
    assert first.name == "imagenet_c/gaussian_noise/1"
    assert first.digest != last.digest
    np.testing.assert_array_equal(first[0], noise(size, size, 1))
    np.testing.assert_array_equal(last[0], noise(size, size, 5))
    assert first.labels[0] == 9


def test_what_a_copy_of_imagenet_c_holds_is_found(tmp_path: Path) -> None:
    for place in ("noise/shot_noise/1", "noise/shot_noise/4", "fog/2", "extra/saturate/5", "blur/zoom_blur", "other/1"):
        write(tmp_path / place / WNIDS[0] / "a.JPEG")
    assert find_cells("imagenet_c", tmp_path) == {"shot_noise": (1, 4), "fog": (2,), "saturate": (5,)}
    with pytest.raises(NstError, match="shot_noise: 1, 4; fog: 2"):
        imagenet_c(tmp_path, "fog", 3, WNIDS)
    with pytest.raises(NstError, match="no snow of severity 1"):
        imagenet_c(tmp_path, "snow", 1, WNIDS)


def test_empty_folders_of_a_partial_copy_hold_nothing(tmp_path: Path) -> None:
    write(tmp_path / "fog" / "2" / WNIDS[0] / "a.JPEG")
    (tmp_path / "fog" / "1").mkdir()
    (tmp_path / "fog" / "3" / WNIDS[0]).mkdir(parents=True)
    write(tmp_path / "fog" / "4" / WNIDS[0] / "._a.JPEG")  # macOS's
    assert find_cells("imagenet_c", tmp_path) == {"fog": (2,)}
    for severity in (1, 3, 4):
        with pytest.raises(NstError, match=rf"no fog of severity {severity}(.|\n)*got: +fog: 2"):
            imagenet_c(tmp_path, "fog", severity, WNIDS)
    (tmp_path / "tilt" / WNIDS[0]).mkdir(parents=True)
    (tmp_path / "scale" / WNIDS[0]).mkdir(parents=True)
    (tmp_path / "scale" / WNIDS[0] / "a.mp4").write_bytes(b"")
    assert find_cells("imagenet_p", tmp_path) == {"scale": (1, 2, 3)}
    with pytest.raises(NstError, match=r"imagenet_p: no tilt in(.|\n)*got: +scale"):
        imagenet_p(tmp_path, "tilt", WNIDS)
    assert [name for name in strange_names(tmp_path) if "tilt" in name] == ["tilt/ (no files in folders of classes)"]


def test_folders_of_other_files_are_told_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "tilt" / WNIDS[0]).mkdir(parents=True)
    (tmp_path / "tilt" / WNIDS[0] / "a.avi").write_bytes(b"")
    with pytest.raises(NstError, match=rf"no \.mp4 files in(.|\n)*got: +{WNIDS[0]}/a\.avi\n +valid: \.mp4 files in"):
        imagenet_p(tmp_path, "tilt", WNIDS)
    for name in ("a.mp4", "._a.mp4"):  # of macOS
        (tmp_path / "tilt" / WNIDS[0] / name).write_bytes(b"")
    assert imagenet_p(tmp_path, "tilt", WNIDS).keys == [f"{WNIDS[0]}-a"]


def test_arrays_and_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("fog", "labels"):
        np.save(tmp_path / f"{name}.npy", np.zeros((5, 32, 32, 3), np.uint8))
    assert find_cells("imagenet_c", tmp_path) == {}
    said = r"no fog of severity 1(.|\n)*got: +none of them\n +next: +these are CIFAR-C arrays: eval\.cifar_c="
    with pytest.raises(NstError, match=said):
        imagenet_c(tmp_path, "fog", 1, WNIDS)
    (tmp_path / "folders" / "fog" / "1" / WNIDS[0]).mkdir(parents=True)
    write(tmp_path / "folders" / "fog" / "1" / WNIDS[0] / "a.JPEG")
    assert find_cells("cifar_c", tmp_path / "folders") == {}
    said = r"no file .*fog\.npy\n +got: +none of them\n +next: +these are ImageNet-C's folders: eval\.imagenet_c="
    with pytest.raises(NstError, match=said):
        cifar_c(tmp_path / "folders", "fog", 1, CIFAR10)
    (tmp_path / "p" / "tilt" / WNIDS[0]).mkdir(parents=True)
    (tmp_path / "p" / "tilt" / WNIDS[0] / "a.mp4").write_bytes(b"")
    with pytest.raises(NstError, match=r"no file .*tilt\.npy(.|\n)*these are ImageNet-P's folders: eval\.imagenet_p="):
        cifar_p(tmp_path / "p", "tilt", CIFAR10)


# ---- ImageNet-P ------------------------------------------------------------------------------------------------


def write_clip(path: Path, frames: int, size: int = 64) -> None:
    """A clip in which red rises from frame to frame, and blue is constant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 1, (size, size))
    for frame in range(frames):
        writer.write(np.full((size, size, 3), (40, 0, 5 * frame), np.uint8))  # BGR
    writer.release()


def test_clips_are_read_whole_in_rgb_with_41_frames_of_translate_and_31_of_the_rest(tmp_path: Path) -> None:
    for name, frames in (("weather/snow", 31), ("translate", 41), ("noise/shot_noise_2", 31)):
        write_clip(tmp_path / f"{name}/{WNIDS[4]}/a.mp4", frames)
    found = {"shot_noise": (2,), "snow": (1, 2, 3), "translate": (1, 2, 3)}
    assert find_cells("imagenet_p", tmp_path) == found
    for name, difficulty, frames in (("snow", 3, 31), ("translate", 1, 41), ("shot_noise", 2, 31)):
        clips = imagenet_p(tmp_path, name, WNIDS, difficulty)
        key, clip, label = next(samples(clips, []))
        assert (key, label, clips.frames) == (f"{WNIDS[4]}-a", 4, frames)
        assert clip.shape == (frames, 64, 64, 3)
        np.testing.assert_allclose(clip[:, 32, 32, 0], 5 * np.arange(frames), atol=6)  # a video is not lossless
        np.testing.assert_allclose(clip[:, 32, 32, 2], 40, atol=6)
        assert clips.picture_size() == (64, 64)
    with pytest.raises(NstError, match=r"no shot_noise in .*\n.*translate: 1, 2, 3"):
        imagenet_p(tmp_path, "shot_noise", WNIDS)


def test_broken_and_short_clips_are_reported(tmp_path: Path) -> None:
    for name, frames in (("a", 31), ("b", 30), ("c", 31), ("d", 31)):
        write_clip(tmp_path / f"tilt/{WNIDS[0]}/{name}.mp4", frames)
    broken = tmp_path / f"tilt/{WNIDS[0]}/c.mp4"
    broken.write_bytes(broken.read_bytes()[:500])
    bad: list[str] = []
    clips = imagenet_p(tmp_path, "tilt", WNIDS)
    assert [sample.key[-1] for sample in samples(clips, bad)] == ["a", "d"]
    assert [line.split(": ")[1] for line in bad] == ["30 frames, expected 31", "0 frames, expected 31"]


# ---- CIFAR -----------------------------------------------------------------------------------------------------


def test_cifar_c_is_cut_into_severities(tmp_path: Path) -> None:
    pixels, labels = noise(5 * 4 * 32, 32).reshape(20, 32, 32, 3), np.tile([3, 9, 0, 3], 5)
    np.save(tmp_path / "fog.npy", pixels)
    np.save(tmp_path / "labels.npy", labels)
    assert find_cells("cifar_c", tmp_path) == {"fog": (1, 2, 3, 4, 5)}
    for severity in range(1, 6):
        images = cifar_c(tmp_path, "fog", severity, CIFAR10[::-1])
        assert images.labels.tolist() == [6, 0, 9, 6]
        assert images.keys == ["00000", "00001", "00002", "00003"]
        for number, sample in enumerate(samples(images, [])):
            np.testing.assert_array_equal(sample.image, pixels[4 * (severity - 1) + number])
    part = images.subset(3)
    np.testing.assert_array_equal(part[0], pixels[16 + int(part.keys[0])])


def test_cifar_p_has_clips_and_perhaps_labels(tmp_path: Path) -> None:
    pixels = noise(6 * 16 * 32, 32).reshape(6, 16, 32, 32, 3)
    np.save(tmp_path / "translate.npy", pixels)
    np.save(tmp_path / "shot_noise_3.npy", pixels[:, :7])
    assert find_cells("cifar_p", tmp_path) == {"shot_noise": (3,), "translate": (1, 2, 3)}
    clips = cifar_p(tmp_path, "translate", CIFAR100)
    assert (len(clips), clips.frames, set(clips.labels)) == (6, 16, {-1})
    np.testing.assert_array_equal(clips[4], pixels[4])
    np.save(tmp_path / "labels.npy", np.arange(6) + 90)
    assert cifar_p(tmp_path, "shot_noise", CIFAR100, 3).labels.tolist() == [90, 91, 92, 93, 94, 95]
    with pytest.raises(NstError, match="does not fit a network of 10 classes"):
        cifar_p(tmp_path, "translate", CIFAR10)


def test_wrong_arrays_are_explained(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(20, np.int64))
    with pytest.raises(NstError, match="no file"):
        cifar_c(tmp_path, "fog", 1, CIFAR10)
    for array, said in (
        (np.zeros((20, 32, 32, 3), np.float32), "float32"),
        (np.zeros((20, 3, 32, 32), np.uint8), r"\(20, 3, 32, 32\)"),
        (np.zeros((19, 32, 32, 3), np.uint8), "19 images, 20 labels"),
    ):
        path = tmp_path / f"{said[:3]}.npy"
        np.save(path, array)
        with pytest.raises(NstError, match=said):
            cifar_c(tmp_path, path.stem, 1, CIFAR10)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((20, 32, 32, 3), np.uint8))
    (tmp_path / "snow.npy").write_bytes(buffer.getvalue()[:5000])
    with pytest.raises(NstError, match="copy or download it again"):
        cifar_c(tmp_path, "snow", 1, CIFAR10)
    np.save(tmp_path / "fog.npy", np.zeros((20, 32, 32, 3), np.uint8))
    for labels, said in (
        (np.full(20, "frog"), r"<U4 \(20,\)"),
        (np.tile([0.5, 1.5], 10), r"float64 \(20,\)"),
        (np.zeros(0, np.int64), r"int64 \(0,\)"),
        (np.zeros((20, 1), np.int64), r"int64 \(20, 1\)"),
    ):
        np.save(tmp_path / "labels.npy", labels)
        open_array.cache_clear()
        with pytest.raises(NstError, match=rf"labels\.npy holds no labels\n  got:   {said}\n  valid: whole numbers"):
            cifar_c(tmp_path, "fog", 1, CIFAR10)


# ---- batches ---------------------------------------------------------------------------------------------------


def test_batches_hold_every_good_image_once_and_padding_for_the_rest(tmp_path: Path) -> None:
    expected = write_folders(tmp_path, WNIDS[:2], per_folder=4)
    (tmp_path / WNIDS[0] / "1.JPEG").write_bytes(b"broken")
    images = imagenet_folders("imagenet_val", tmp_path, WNIDS)
    batches = ImageSetBatches(images, CenterView(8, crop="none"), batch_size=3)
    assert len(batches) == 3
    keys, index, bad = [], [], []
    for number in range(4):  # one beyond the last: other ranks may still have one
        batch = batches[number]
        assert batch["images"].shape == (3, 3, 8, 8)
        valid = batch["valid"]
        assert batch["labels"][~valid].tolist() == batch["place"][~valid].tolist() == [-1] * int((~valid).sum())
        assert batch["place"][valid].tolist() == batch["index"].tolist()
        assert batch["labels"][valid].tolist() == batch["true_labels"].tolist()
        for place, key in enumerate(batch["keys"]):
            np.testing.assert_array_equal(batch["images"][place].permute(1, 2, 0), expected[key])
            assert images.labels[batch["index"][place]] == batch["labels"][place]
            np.testing.assert_array_equal(batches.pictures(batch["index"][place])[0], expected[key])
        keys += batch["keys"]
        index += batch["index"].tolist()
        bad += batch["bad"]
    assert keys == [key for key in expected if key != f"{WNIDS[0]}-1"]
    assert index == [0, 2, 3, 4, 5, 6, 7]
    assert [line.split(":")[0] for line in bad] == [f"imagenet_val/{WNIDS[0]}-1"]


def test_batches_keep_clips_whole_and_several_labels(tmp_path: Path) -> None:
    pixels = noise(3 * 5 * 32, 32).reshape(3, 5, 32, 32, 3)
    np.save(tmp_path / "tilt.npy", pixels)
    np.save(tmp_path / "labels.npy", np.array([1, 2, 0]))
    batches = ImageSetBatches(cifar_p(tmp_path, "tilt", CIFAR10), CenterView(32, crop="none"), batch_size=2)
    first, last = batches[0], batches[1]
    assert torch.equal(first["images"].view(2, 5, 3, 32, 32), torch.as_tensor(pixels[:2]).permute(0, 1, 4, 2, 3))
    assert last["images"].shape == (10, 3, 32, 32)
    assert (first["labels"].tolist(), last["labels"].tolist()) == ([1, 2], [0, -1])
    assert last["valid"].tolist() == [True, False]
    several = ImageSet("real", ["a"], np.array([[4, 7, -1]]), lambda _: pixels[0, 0], "")
    batch = ImageSetBatches(several, CenterView(32, crop="none"), batch_size=2)[0]
    assert batch["labels"].tolist() == [[4, 7, -1], [-1, -1, -1]]


def test_sets_of_files_travel_to_loader_workers(tmp_path: Path) -> None:
    expected = write_folders(tmp_path, WNIDS[:2])
    images = pickle.loads(pickle.dumps(imagenet_folders("imagenet_val", tmp_path, WNIDS).subset(3)))
    same(images, {key: expected[key] for key in images.keys})
    np.save(tmp_path / "fog.npy", noise(5 * 32, 32).reshape(5, 32, 32, 3))
    np.save(tmp_path / "labels.npy", np.zeros(5, np.int64))
    one = cifar_c(tmp_path, "fog", 2, CIFAR10)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one))[0], one[0])
    assert len(pickle.dumps(one)) < 5000  # the file's name, not its content


def test_batches_go_through_the_loader_of_every_other_evaluation(tmp_path: Path) -> None:
    write_folders(tmp_path, WNIDS[:3], per_folder=3)
    (tmp_path / WNIDS[1] / "1.JPEG").write_bytes(b"broken")
    images = imagenet_folders("imagenet_val", tmp_path, WNIDS)
    batches = ImageSetBatches(images, CenterView(8, crop="none"), batch_size=2)
    for workers in (0, 1):
        ranks = [evaluation_loader(batches, LoaderOptions(workers), rank=rank, world_size=2) for rank in range(2)]
        seen = [list(loader) for loader in ranks]
        assert [len(found) for found in seen] == [3, 3]
        index = [number for found in seen for batch in found for number in batch["index"].tolist()]
        assert sorted(index) == [0, 1, 2, 3, 5, 6, 7, 8]
        assert len([name for found in seen for batch in found for name in batch["bad"]]) == 1
