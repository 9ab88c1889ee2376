"""Keys, classes, splits and bytes of every source that can be had without a download."""

from __future__ import annotations

import gzip
import inspect
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import add_file, encode
from PIL import Image

from nst.data import files, sources
from nst.data.images import decode, encode_png
from nst.data.layout import is_image, unique_keys
from nst.data.shards import ShardSet, write_shards
from nst.data.source import Source
from nst.data.sources import open_source
from nst.data.torchvision_sets import FILE_SETS
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


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_names_with_two_underscores_are_names_and_no_metadata(tmp_path: Path, kind: str) -> None:
    """What begins so in a tar is metadata to WebDataset; only macOS's own folder is passed over."""
    names = ["__init__/a.png", "_init__/a.png", "__init__/__b__.png", "cat/__init__.png", "__cat/__MACOSX.png"]
    hidden = ["__MACOSX/cat/1.png", "cat/__MACOSX/2.png"]
    place = tmp_path / f"pets.{kind}"
    if kind == "folder":
        write_files(place, names + hidden)
    elif kind == "tar":
        write_tar(place, names + hidden)
    else:
        with zipfile.ZipFile(place, "w") as archive:
            for number, name in enumerate(names + hidden):
                archive.writestr(name, png(number))
    source = open_source("folder" if kind == "folder" else "tar", root=place)
    assert source.classes == ("__cat", "__init__", "_init__", "cat")
    classes = {sample.image: source.classes[sample.label or 0] for sample in source}
    assert classes == {png(number): name.partition("/")[0] for number, name in enumerate(names)}
    write_shards(tmp_path / "set", "labeled", list(source), classes=source.classes, labeled=True, name="x")
    kept = list(ShardSet.open(tmp_path / "set").reader(0))
    assert len(kept) == len(names)
    assert not [key for key, _ in kept if key.startswith("__")]
    assert {fields["png"]: source.classes[int(fields["cls"])] for _, fields in kept} == classes


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


@pytest.mark.parametrize("names", [["1.png", "2.png"], ["unlabeled/a/1.png", "unlabeled/b/2.png"]])
def test_flat_nested_and_unlabeled_folders_have_no_classes(tmp_path: Path, names: list[str]) -> None:
    write_files(tmp_path, names)
    source = open_source("folder", root=tmp_path)
    assert source.classes == ()
    assert [sample.label for sample in source] == [None, None]


TREE = ["train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/2.png", "unlabeled/3.png"]
PLAIN = ["cat/1.png", "dog/1.png"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*TREE, "backup/cat/9.png"], r"beside test/, train/, unlabeled/[\s\S]*ignore=backup$"),
        ([*TREE, "overview.png"], r"belong to no part[\s\S]*ignore=overview\.png$"),
        ([*TREE, "a b/1.png", "c/1.png"], r"ignore='\[a b,c\]'$"),
        ([*PLAIN, "test/cat/2.png"], r"beside test/ belong to no part[\s\S]*got:   cat, dog"),
        (
            [*PLAIN, "3.png"],
            r"1 picture lies beside the folders cat/, dog/[\s\S]*ignore=3\.png; or data\.source\.labeled",
        ),
        (["train/cat/1.png", "train/2.png", "test/cat/1.png"], r"lies beside the folders train/cat/"),
        (["train/cat.0.png", "train/dog.0.png"], r"in train/ have no class folders[\s\S]*data=csv"),
        ([*TREE[:2], "test/1.png", "test/2.png"], r"in test/ have no class folders[\s\S]*ignore=test"),
        (["a/b/1.png", "a/c/2.png"], r"all pictures lie in one folder, a/[\s\S]*data\.source\.root=<the folder>/a"),
        (["in/train/cat/1.png", "in/train/dog/1.png", "old/cat/1.png"], r"in/train/ would lie inside a class"),
        (
            ["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"],
            r"cat/test/, cat/train/, dog/train/ would lie inside",
        ),
        (
            [f"{part}/{name}/1.png" for part in ("Foto A", "Foto B") for name in ("cat", "dog")] + ["mixed/1.png"],
            r"Foto A/, Foto B/ hold folders of the same names[\s\S]*classes would be Foto A, Foto B, mixed"
            r"[\s\S]*data\.source\.labeled=true",
        ),
        (["dev/1.png", "cat/1.png"], r"a class would be called dev"),
        (["train/cat/1.png", "train/dog/1.png", "val/emu/1.png"], r"only in the val split[\s\S]*ignore='\*/emu'"),
    ],
)
def test_an_arrangement_that_can_be_read_in_two_ways_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    write_files(tmp_path / "p", names)
    with pytest.raises(NstError, match=message):
        _ = open_source("folder", root=tmp_path / "p").entries
    if not names[0].startswith("a/"):  # an archive is wrapped in a folder more often than not
        write_tar(tmp_path / "p.tar", names)
        with pytest.raises(NstError, match=message):
            _ = open_source("tar", root=tmp_path / "p.tar").entries


def test_what_is_to_be_left_out_is_and_is_told(tmp_path: Path) -> None:
    write_files(tmp_path / "p", [*TREE, "backup/cat/9.png", "overview.png", "test/emu/1.png"])
    write_tar(tmp_path / "p.tar", [*TREE, "backup/cat/9.png", "overview.png", "test/emu/1.png"])
    for name, root in (("folder", "p"), ("tar", "p.tar")):
        source = open_source(name, root=tmp_path / root, ignore=["backup", "*.PNG", "over*", "test/emu/"])
        assert [entry.split for entry in sorted(source.entries, key=lambda entry: entry.key)] == [
            "test", "test", "train", "train", "unlabeled",
        ]  # fmt: skip
        assert [note for note in source.notes if "left out by data.source.ignore" in note]


def test_a_picture_and_a_table_are_no_archives(tmp_path: Path) -> None:
    """And the options that are named instead do."""
    write_files(tmp_path / "my p", SPLIT)
    (tmp_path / "list.csv").write_text("file,label\nmy p/test/cat/9.png,cat\n")
    for name in ("folder", "tar"):
        with pytest.raises(NstError, match="is a picture") as caught:
            open_source(name, root=tmp_path / "my p" / "train" / "dog" / "1.png")
        (option,) = [word for word in shlex.split(str(caught.value.next)) if word.startswith("data.source.root=")]
        assert len(open_source("folder", root=option.partition("=")[2])) == 1
        with pytest.raises(NstError, match=r"is a table[\s\S]*data=csv") as caught:
            open_source(name, root=tmp_path / "list.csv")
        assert open_source("csv", root=shlex.split(str(caught.value.next))[1].partition("=")[2]).classes == ("cat",)


def test_a_name_that_leaves_nothing_out_is_told(tmp_path: Path) -> None:
    write_files(tmp_path / "p", [*TREE, "overview.png"])
    write_tar(tmp_path / "p.tar", [*TREE, "overview.png"])
    for name, root in (("folder", "p"), ("tar", "p.tar")):
        source = open_source(name, root=tmp_path / root, ignore=["overview.png", "emu", "*.xyz"])
        assert [note for note in source.notes if "nothing is called" in note] == [
            "data.source.ignore: nothing is called emu; deeper in: */emu",
            "data.source.ignore: nothing is called *.xyz",
        ]


def option_of(error: NstError) -> list[str]:
    """The values of `data.source.ignore` that an error advises."""
    (value,) = [
        word.partition("=")[2] for word in shlex.split(str(error.next)) if word.startswith("data.source.ignore=")
    ]
    return value.strip("[]").split(",")


@pytest.mark.parametrize(
    "names",
    [
        ["train/train/1.png", "train/dog/1.png", "train/cat/1.png"],
        ["train/Test/1.png", "train/dog/1.png", "train/cat/1.png"],
        ["dev/1.png", "dog/1.png", "cat/1.png"],
        ["train/dev/1.png", "train/dog/1.png", "train/cat/1.png"],
    ],
)
def test_a_class_that_is_called_like_a_part_is_left_out_by_the_option_that_is_named(
    tmp_path: Path, names: list[str]
) -> None:
    write_files(tmp_path / "p", names)
    write_tar(tmp_path / "p.tar", names)
    for name, root in (("folder", "p"), ("tar", "p.tar")):
        with pytest.raises(NstError, match="a class would be called") as caught:
            _ = open_source(name, root=tmp_path / root).classes
        assert open_source(name, root=tmp_path / root, ignore=option_of(caught.value)).classes == ("cat", "dog")


@pytest.mark.parametrize("wrap", ["", "flowers/", "a/b/"])
def test_splits_of_other_names_and_inside_other_folders_are_splits(tmp_path: Path, wrap: str) -> None:
    names = [
        "Training/cat/1.png",
        "Training/dog/1.png",
        "Testing/cat/2.png",
        "validation/dog/3.png",
        "Unlabelled/4.png",
    ]
    write_files(tmp_path, [wrap + name for name in names])
    source = open_source("folder", root=tmp_path)
    assert source.classes == ("cat", "dog")
    assert {entry.split for entry in source.entries} == {"train", "test", "val", "unlabeled"}
    assert any(wrap.rstrip("/") in note for note in source.notes) == bool(wrap)


@pytest.mark.parametrize(
    ("train", "test", "unlabeled"),
    [("Trainingsdaten", "Testdaten", "unsortiert"), ("entraînement", "test", "non_étiqueté"),
     ("Entrenamiento", "Validación", "sin_etiquetar")],
)  # fmt: skip
def test_parts_are_known_in_other_languages(tmp_path: Path, train: str, test: str, unlabeled: str) -> None:
    names = [f"{part}/{name}/1.png" for part in (train, test) for name in ("cat", "dog")]
    for form in ("NFC", "NFD"):  # as macOS writes accents
        folder = tmp_path / form
        write_files(folder, [unicodedata.normalize(form, name) for name in (*names, f"{unlabeled}/2.png")])
        source = open_source("folder", root=folder)
        assert source.classes == ("cat", "dog")
        assert [entry.split for entry in source.entries].count("train") == 2
        assert [entry.split for entry in source.entries].count("unlabeled") == 1


def test_folders_of_the_same_names_inside_classes_are_read_where_they_are_said_to_be_classes(tmp_path: Path) -> None:
    """And where they are one of many, or most pictures lie beside them."""
    names = [f"{kind}/{side}/1.png" for kind in ("cat", "dog") for side in ("left", "right")]
    write_files(tmp_path / "asked", names)
    assert open_source("folder", root=tmp_path / "asked", labeled=True).classes == ("cat", "dog")
    beside = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(3)]
    write_files(tmp_path / "beside", [*names, *beside])
    assert open_source("folder", root=tmp_path / "beside").classes == ("cat", "dog")
    write_files(tmp_path / "many", [f"{kind}/{side}/1.png" for kind in range(21) for side in ("left", "right")])
    assert len(open_source("folder", root=tmp_path / "many").classes) == 21


def test_a_test_folder_of_one_class_is_used(tmp_path: Path) -> None:
    write_files(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/cat/2.png"])
    assert ("test-cat-2", 0, "test") in summary(open_source("folder", root=tmp_path))


@pytest.mark.parametrize("empty", ["train/lily", "train/lily/deep"])
def test_a_class_without_a_picture_is_refused(tmp_path: Path, empty: str) -> None:
    write_files(tmp_path, TREE)
    (tmp_path / "test" / "lily").mkdir()  # only missing in the test: no fault
    assert open_source("folder", root=tmp_path).classes == ("cat", "dog")
    (tmp_path / empty).mkdir(parents=True)
    (tmp_path / empty / "1.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with pytest.raises(NstError, match=r"without a picture[\s\S]*train/lily[\s\S]*ignore=train/lily$"):
        _ = open_source("folder", root=tmp_path).entries
    source = open_source("folder", root=tmp_path, ignore=["train/lily"])
    assert len(source.entries) == 5


def test_pictures_of_other_suffixes_are_known_by_their_first_bytes_and_the_rest_is_told(tmp_path: Path) -> None:
    write_files(tmp_path, PLAIN)
    jpeg = encode(Image.new("RGB", (4, 4)), "JPEG")
    grey, heic = encode(Image.new("L", (4, 4)), "PPM"), b"\0\0\0\x18ftypheic"
    for name, data in (("cat/2.jfif", jpeg), ("cat/3", jpeg), ("dog/4.pgm", grey), ("dog/5.raw", b"no picture"),
                       ("dog/6.txt", jpeg), ("dog/7.heic", heic)):  # fmt: skip
        (tmp_path / name).write_bytes(data)
    with tarfile.open(tmp_path.with_suffix(".tar"), "w") as archive:
        archive.add(tmp_path, ".")
    for name, root in (("folder", tmp_path), ("tar", tmp_path.with_suffix(".tar"))):
        source = open_source(name, root=root)
        found = {entry.key: (entry.label, entry.extension) for entry in source.entries}
        expected = {"2": (0, "jpg"), "3": (0, "jpg"), "4": (1, "ppm")} | ({"6": (1, "jpg")} if name == "tar" else {})
        assert {key.split("-")[1]: value for key, value in found.items() if value[1] != "png"} == expected
        assert any("no picture (.raw): dog/5.raw" in note for note in source.notes)
        assert any("dog/7.heic" in note for note in source.notes)


def test_links_are_followed_to_each_folder_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "p", tmp_path / "elsewhere"
    write_files(root, PLAIN)
    write_files(elsewhere, ["9.png"])
    (root / "emu").symlink_to(elsewhere)
    (root / "dog" / "one.png").symlink_to(elsewhere / "9.png")
    (root / "cat" / "up").symlink_to("..")
    (root / "cat" / "further").symlink_to(tmp_path)
    (root / "dog" / "up").symlink_to(root)
    (root / "dog" / "cats").symlink_to("../cat")
    (elsewhere / "loop").symlink_to(".")
    (root / "dog" / "itself").symlink_to("itself")
    source = open_source("folder", root=root)
    assert {key for key, _, _ in summary(source)} == {"cat-1", "dog-1", "dog-one", "emu-9"}
    assert source.classes == ("cat", "dog", "emu")
    assert [note.partition(":")[0] for note in source.notes] == [
        "4 passed over, a link to a folder above it",
        "1 passed over, a link to a folder that is read already",
        "1 passed over, no picture (no suffix)",
    ]
    (root / "cat" / "gone.png").symlink_to("nowhere")
    with pytest.raises(NstError, match=r"cat-gone cannot be read[\s\S]*leads nowhere[\s\S]*check_images=true"):
        list(open_source("folder", root=root))


def test_links_in_a_tar_are_the_files_that_they_name(tmp_path: Path) -> None:
    write_files(tmp_path / "p", PLAIN)
    (tmp_path / "p/cat/hard.png").hardlink_to(tmp_path / "p/dog/1.png")
    (tmp_path / "p/cat/soft.png").symlink_to("../dog/1.png")
    (tmp_path / "p/cat/twice.png").symlink_to("soft.png")
    (tmp_path / "p/cat/round.png").symlink_to("round.png")
    (tmp_path / "p/cat/out.png").symlink_to("/etc/hostname")
    path = tmp_path / "p.tar"
    subprocess.run(["tar", "cf", path, "-C", tmp_path / "p", "."], check=True)
    source = open_source("tar", root=path)
    images = {sample.key: sample.image for sample in source}
    assert images.keys() == {"cat-1", "cat-hard", "cat-soft", "cat-twice", "dog-1"}
    assert {images[f"cat-{name}"] for name in ("hard", "soft", "twice")} == {png(1)}
    assert any(note.startswith("2 passed over, a link to what the archive does not hold") for note in source.notes)


@pytest.mark.parametrize(
    ("raw", "told"),
    [("Rivière", "Rivière"), ("河", "河"), (b"Rivi\x8are", "Rivière")],  # the last in the code page of DOS
)
def test_names_in_a_zip_are_utf_8_where_they_can_be_also_without_the_mark(
    tmp_path: Path, raw: str | bytes, told: str
) -> None:
    """As `zip -r` on Linux and the Finder of macOS write them."""
    name = raw.encode() if isinstance(raw, str) else raw
    stands_for = "_" * len(name)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr(f"train/{stands_for}/1.png", png(1))
        archive.writestr("train/b/1.png", png(2))
    path = tmp_path / "p.zip"
    path.write_bytes(path.read_bytes().replace(stands_for.encode(), name))
    source = open_source("folder", root=path)
    assert set(source.classes) == {told, "b"}
    assert sorted(sample.image for sample in source) == sorted([png(1), png(2)])


def test_a_zip_is_read_like_a_tar(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(SPLIT):
            archive.writestr(f"pets/{name}", png(number))
        archive.writestr("__MACOSX/pets/._1.png", b"")
    for name in ("tar", "folder"):  # a folder's source takes an archive, too
        source = open_source(name, root=tmp_path / "p.zip")
        assert {sample.key: sample.image for sample in source} == {
            name[:-4].replace("/", "-"): png(i) for i, name in enumerate(SPLIT)}  # fmt: skip
    (tmp_path / "itself.zip").write_bytes(b"#!/bin/sh\n" + (tmp_path / "p.zip").read_bytes())  # unpacks itself
    assert len(list(open_source("tar", root=tmp_path / "itself.zip"))) == len(SPLIT)
    with tarfile.open(tmp_path / "of_zips.tar", "w") as tar:  # it ends as a zip does
        tar.add(tmp_path / "p.zip", "notes/p.zip")
        tar.add(Path(__file__), "notes/x.txt")
    with pytest.raises(NstError, match=r"no picture \(\.zip\)"):
        list(open_source("tar", root=tmp_path / "of_zips.tar"))
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    with pytest.raises(NstError) as refused:
        list(open_source("tar", root=tmp_path / "empty.zip"))
    assert "whole" not in str(refused.value)
    data = bytearray((tmp_path / "p.zip").read_bytes())
    data[data.index(b"IHDR") if b"IHDR" in data else 60] ^= 0xFF
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(NstError, match=r"cannot read pets/train/dog/1\.png|not a whole zip"):
        list(open_source("tar", root=tmp_path / "p.zip"))
    (tmp_path / "p.zip").write_bytes(data[:-30])
    with pytest.raises(NstError, match="not a whole zip"):
        _ = open_source("tar", root=tmp_path / "p.zip").entries


def test_names_that_are_not_utf_8_are_told_for_classes_and_made_safe_for_files(tmp_path: Path) -> None:
    write_files(tmp_path, PLAIN)
    (tmp_path / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(png(5))
    assert len(list(open_source("folder", root=tmp_path))) == 3
    (tmp_path / "cat").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(NstError, match=r"class folder caf\\xe9 is not UTF-8[\s\S]*mv \$'caf\\xe9' 'caf.'") as caught:
        _ = open_source("folder", root=tmp_path).entries
    str(caught.value).encode()


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


@pytest.mark.parametrize("kept_bytes", [1, 1 << 30])
def test_the_digest_follows_names_and_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "KEPT_BYTES", kept_bytes)
    root = tmp_path / "p"
    write_files(root, SPLIT)
    before = open_source("folder", root=root).digest
    assert open_source("folder", root=root).digest == before
    data = (root / SPLIT[0]).read_bytes()
    (root / SPLIT[0]).write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
    assert open_source("folder", root=root).digest != before, "the same size, another content"
    shutil.copytree(root, tmp_path / "copy")
    assert open_source("folder", root=tmp_path / "copy").digest == open_source("folder", root=root).digest
    (root / SPLIT[0]).write_bytes(data)
    assert open_source("folder", root=root).digest == before
    (root / SPLIT[0]).rename(root / "train/dog/7.png")
    assert open_source("folder", root=root).digest != before


def test_what_was_hashed_is_not_read_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "KEPT_BYTES", 1)
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    read: list[str] = []
    hash_file = files._hash_file
    monkeypatch.setattr(files, "_hash_file", lambda path: (read.append(path.name), hash_file(path))[1])
    write_files(tmp_path / "p", SPLIT)
    first = open_source("folder", root=tmp_path / "p").digest
    assert len(read) == len(SPLIT)
    assert open_source("folder", root=tmp_path / "p").digest == first
    assert len(read) == len(SPLIT)
    path = tmp_path / "p" / SPLIT[1]
    os.utime(path, ns=(1, path.stat().st_mtime_ns))  # as a copy that keeps the time: the inode's time tells
    assert open_source("folder", root=tmp_path / "p").digest == first
    assert len(read) == len(SPLIT) + 1
    kept = next((tmp_path / "cache").rglob("*.parquet"))
    kept.write_bytes(b"damaged")
    assert open_source("folder", root=tmp_path / "p").digest == first


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


@pytest.mark.parametrize("name", sorted(FILE_SETS))
def test_torchvision_has_every_set_of_files_and_its_splits(name: str) -> None:
    import torchvision

    class_name, splits = FILE_SETS[name]
    parameters = inspect.signature(getattr(torchvision.datasets, class_name)).parameters
    assert {"root", "download"} <= parameters.keys()
    assert ("split" in parameters) == (splits is not None)


def fake_set(attribute: str, classes: list[Any]) -> Callable[..., Any]:
    """As torchvision keeps the paths and labels of a set of files."""

    def load(root: str, download: bool, split: str = "all") -> Any:
        files = [(Path(root) / f"part-{split}" / f"{i}.png", i % 2) for i in range(4)]
        if attribute.endswith("samples"):
            return SimpleNamespace(**{attribute: files, "classes": classes})
        return SimpleNamespace(**{attribute: [file for file, _ in files], "_labels": [label for _, label in files],
                                  "classes": classes})  # fmt: skip

    return load


@pytest.mark.parametrize(
    ("name", "attribute"),
    [("eurosat", "samples"), ("flowers102", "_image_files"), ("oxford_pets", "_images"), ("gtsrb", "_samples")],
)
def test_sets_of_files_are_read_as_they_are_with_their_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, attribute: str
) -> None:
    import torchvision

    class_name, splits = FILE_SETS[name]
    theirs = list((splits or {"": "all"}).values())
    for split in theirs:
        write_files(tmp_path / "held", [f"part-{split}/{i}.png" for i in range(4)])
    classes = [] if name == "gtsrb" else [("cat", "feline"), "dog"]
    monkeypatch.setattr(torchvision.datasets, class_name, fake_set(attribute, classes))
    source = open_source(name, root=tmp_path / "held")
    assert source.classes == (("0", "1") if name == "gtsrb" else ("cat", "dog"))
    assert [entry.label for entry in source.entries] == [0, 1, 0, 1] * len(theirs)
    assert [entry.split for entry in source.entries] == [split for split in splits or [None] for _ in range(4)]
    assert [sample.image for sample in source] == [png(i) for i in range(4)] * len(theirs)
    before = source.digest
    (tmp_path / "held" / f"part-{theirs[0]}" / "0.png").write_bytes(png(77))
    assert open_source(name, root=tmp_path / "held").digest != before


def test_a_set_of_files_may_be_an_archive_or_folder_of_ones_own(tmp_path: Path) -> None:
    write_files(tmp_path / "p", SPLIT)
    write_tar(tmp_path / "p.tar", SPLIT)
    for root in ("p", "p.tar"):
        source = open_source("eurosat", root=tmp_path / root)
        assert source.classes == ("cat", "dog")
        assert {entry.split for entry in source.entries} == {"train", "test"}
    with pytest.raises(NstError, match=r"eurosat is not in [\s\S]*data\.source\.download=true"):
        open_source("eurosat", root=tmp_path / "none")


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
        ("folder", {}, r"option 'data\.source\.root' needs a value[\s\S]*data\.source\.root=<"),
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
