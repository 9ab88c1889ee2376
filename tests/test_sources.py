"""Keys, classes, splits and bytes of every source that can be had without a download."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import add_file

from nst.data import sources
from nst.data.images import decode, encode_png
from nst.data.layout import is_image, unique_keys
from nst.data.source import Source
from nst.data.sources import open_source
from nst.errors import NstError


def png(value: int) -> bytes:
    return encode_png(np.full((4, 4, 3), value % 256, dtype=np.uint8))


def write_files(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def write_tar(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for number, name in enumerate(names):
            add_file(archive, name, png(number))
    return path


SPLIT = ["train/dog/1.png", "train/cat/1.png", "train/cat/2.png", "test/dog/1.png", "test/cat/9.png"]


def summary(source: Source) -> set[tuple[str, int | None, str | None]]:
    return {(entry.key, entry.label, entry.split) for entry in source.entries}


def test_digits_are_scikit_learns_in_grey_levels() -> None:
    from sklearn.datasets import load_digits

    source = open_source("digits")
    samples = list(source)
    assert len(samples) == 1797
    assert samples[3].key == "digits-0003"
    for i in (0, 900, 1796):
        pixels = decode(samples[i].image)[:, :, 0].astype(float)
        assert np.abs(pixels * 16 / 255 - load_digits().images[i]).max() < 0.05
    assert [sample.label for sample in samples] == load_digits().target.tolist()
    assert max(decode(sample.image).max() for sample in samples[:20]) == 255


def test_class_folders_are_sorted_by_name_and_files_kept_byte_for_byte(tmp_path: Path) -> None:
    write_files(tmp_path, ["zebra/a.png", "ant/b.JPEG", "ant/.hidden.png", "ant/notes.txt", ".git/x.png"])
    source = open_source("folder", root=tmp_path)
    assert source.classes == ("ant", "zebra")
    assert summary(source) == {("ant-b", 0, None), ("zebra-a", 1, None)}
    assert {entry.extension for entry in source.entries} == {"jpg", "png"}
    assert [sample.image for sample in source] == [(tmp_path / "ant/b.JPEG").read_bytes(), png(0)]


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
def test_split_folders_are_the_same_in_a_folder_and_in_archives(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        write_files(tmp_path, SPLIT)
        source = open_source("folder", root=tmp_path)
    else:
        path = write_tar(tmp_path / f"pets.{kind}", [f"./pets/{name}" for name in SPLIT])
        source = open_source("tar", root=path)
    expected = {("train-dog-1", 1, "train"), ("train-cat-1", 0, "train"), ("train-cat-2", 0, "train"),
                ("test-dog-1", 1, "test"), ("test-cat-9", 0, "test")}  # fmt: skip
    assert summary(source) == expected
    images = {sample.key: sample.image for sample in source}
    assert images == {name[:-4].replace("/", "-"): png(i) for i, name in enumerate(SPLIT)}


def test_several_archives_are_the_splits_they_are_named_after(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{s}.tar.gz", ["cat/1.png", "dog/1.png"]) for s in ("train", "test")]
    source = open_source("tar", root=paths)
    assert {(entry.key, entry.split) for entry in source.entries} == {
        ("train-cat-1", "train"), ("train-dog-1", "train"), ("test-cat-1", "test"), ("test-dog-1", "test"),
    }  # fmt: skip


def test_an_archive_larger_than_memory_goes_to_disk_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "x.tgz", SPLIT)
    expected = list(open_source("tar", root=path))
    monkeypatch.setattr("nst.data.archives.MEMORY_BYTES", 1024)
    assert list(open_source("tar", root=path)) == expected


@pytest.mark.parametrize(
    "names", [["1.png", "2.png"], ["a/b/1.png", "a/c/2.png"], ["unlabeled/a/1.png", "unlabeled/b/2.png"]]
)
def test_flat_nested_and_unlabeled_folders_have_no_classes(tmp_path: Path, names: list[str]) -> None:
    write_files(tmp_path, names)
    source = open_source("folder", root=tmp_path)
    assert source.classes == ()
    assert [sample.label for sample in source] == [None, None]


def test_labels_can_be_asked_for_and_refused(tmp_path: Path) -> None:
    write_files(tmp_path, ["00000/1.png", "00001/2.png"])
    assert open_source("folder", root=tmp_path).classes == ("00000", "00001")
    assert open_source("folder", root=tmp_path, labeled=False).classes == ()
    write_files(tmp_path, ["3.png"])
    with pytest.raises(NstError, match=r"outside the class folders[\s\S]*3\.png"):
        _ = open_source("folder", root=tmp_path, labeled=True).entries


def test_keys_stay_unique_valid_and_independent_of_order() -> None:
    names = [
        "a-b/c.png",
        "a/b-c.png",
        "a/x.y.png",
        "a/x_y.png",
        "é/1.png",
        "a/1.jpg",
        "a/1.png",
        "d/" + "n" * 200 + ".png",
    ]
    keys = dict(zip(names, unique_keys(names, names), strict=True))
    assert len(set(keys.values())) == len(names)
    assert keys["a/x_y.png"].startswith("a-x_y")
    assert all(key.isascii() and len(key) < 96 and not set(key) & set("./ ") for key in keys.values())
    assert dict(zip(names[::-1], unique_keys(names[::-1], names[::-1]), strict=True)) == keys
    with pytest.raises(NstError, match="listed twice"):
        unique_keys(["a/1.png", "a/1.png"], ["a/1.png", "a/1.png"])


def test_the_digest_follows_names_and_sizes(tmp_path: Path) -> None:
    write_files(tmp_path, SPLIT)
    before = open_source("folder", root=tmp_path).digest
    assert open_source("folder", root=tmp_path).digest == before
    (tmp_path / SPLIT[0]).write_bytes(b"other")
    assert open_source("folder", root=tmp_path).digest != before


@pytest.mark.parametrize("kind", ["cut", "cut-gz", "damaged", "zeros", "zeros-gz"])
def test_a_broken_archive_is_named(tmp_path: Path, kind: str) -> None:
    names = [f"train/{i}.jpg" for i in range(40)]
    path = write_tar(tmp_path / ("x.tar.gz" if kind == "cut-gz" else "x.tar"), names)
    data = bytearray(path.read_bytes())
    if kind == "damaged":
        data[1024 + 10] ^= 0xFF  # in the second member's header
    elif kind.startswith("zeros"):
        data[20 * 1024 :] = bytes(len(data) - 20 * 1024)
    else:
        del data[len(data) // 2 if kind == "cut-gz" else 1400 :]
    path.write_bytes(gzip.compress(data) if kind == "zeros-gz" else data)
    with pytest.raises(NstError, match=r"x\.tar.* is not a whole tar"):
        _ = open_source("tar", root=path).entries


def test_torchvision_arrays_become_png_with_their_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torchvision

    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, (n, 3, 6, 6), dtype=np.uint8)
        for name, n in (("train", 3), ("test", 2), ("unlabeled", 4))
    }

    def stl10(root: str, split: str, download: bool) -> Any:
        assert not download
        labels = np.full(4, -1) if split == "unlabeled" else np.arange(len(arrays[split]))
        return SimpleNamespace(data=arrays[split], labels=labels, classes=["bird", "car", "cat"])

    monkeypatch.setattr(torchvision.datasets, "STL10", stl10)
    source = open_source("stl10", root=tmp_path)
    assert source.classes == ("bird", "car", "cat")
    assert [(e.key, e.label, e.split) for e in source.entries][2:6] == [
        ("train-000002", 2, "train"), ("test-000000", 0, "test"), ("test-000001", 1, "test"),
        ("unlabeled-000000", None, "unlabeled"),
    ]  # fmt: skip
    for i, pixels in enumerate(np.concatenate([arrays["train"], arrays["test"], arrays["unlabeled"]])):
        assert np.array_equal(decode(source.read(i)), pixels.transpose(1, 2, 0))


def test_imagenet_must_be_whole_and_is_read_by_wnid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, [f"{s}/{w}/{w}_1.JPEG" for s in ("train", "val") for w in ("n01443537", "n01440764")])
    with pytest.raises(NstError, match="not the whole of ImageNet"):
        _ = open_source("imagenet", root=tmp_path).entries
    monkeypatch.setattr(sources, "IMAGENET_IMAGES", {"train": 2, "val": 2})
    monkeypatch.setattr(sources, "IMAGENET_CLASSES", 2)
    source = open_source("imagenet", root=tmp_path)
    assert source.classes == ("n01440764", "n01443537")
    assert ("val-n01443537-n01443537_1", 1, "val") in summary(source)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {}, "did you mean 'cifar10'"),
        ("folder", {}, r"needs root[\s\S]*data\.source\.root="),
        ("folder", {"root": "/no/such/folder"}, "no such folder"),
        ("tar", {"root": "/no/such.tar"}, "cannot read"),
        ("digits", {"root": "x"}, "no option root"),
        ("imagenet", {"download": True}, "cannot be downloaded"),
    ],
)
def test_mistakes_are_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NstError, match=message):
        open_source(name, **options)


def test_unlabeled_beside_class_folders_is_no_class(tmp_path: Path) -> None:
    write_files(tmp_path, ["cat/1.png", "dog/1.png", "unlabeled/1.png", "unlabeled/deep/2.png"])
    source = open_source("folder", root=tmp_path)
    assert source.classes == ("cat", "dog")
    found = {entry.key: (entry.label, entry.split) for entry in source.entries}
    assert found == {
        "cat-1": (0, None),
        "dog-1": (1, None),
        "unlabeled-1": (None, "unlabeled"),
        "unlabeled-deep-2": (None, "unlabeled"),
    }


def test_missing_data_is_told_with_the_option_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(NstError, match=r"data\.source\.download=true"):
        _ = open_source("cifar10", root=tmp_path).entries
    (tmp_path / "empty").mkdir()
    with pytest.raises(NstError, match="holds no images"):
        _ = open_source("folder", root=tmp_path / "empty").entries


def test_classes_that_only_the_test_split_has_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, [*SPLIT, "test/emu/1.png"])
    with pytest.raises(NstError, match="emu"):
        _ = open_source("folder", root=tmp_path).entries


def test_reading_data_does_not_import_torch() -> None:
    code = "import sys, nst.data.shards, nst.stages.shard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_system_files_are_no_images() -> None:
    assert [is_image(n) for n in ("a/b.jpg", "a/._b.jpg", "__MACOSX/b.jpg", "a/b.txt", "jpg")] == [True] + [False] * 4
