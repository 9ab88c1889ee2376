"""The split is exact, disjoint and seeded; the stage skips, starts over and leaves out bad images."""

from __future__ import annotations

import csv
import json
import logging
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import encode, noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nst import cli
from nst.config import compose_config, job_from
from nst.data.images import encode_png
from nst.data.layout import Entry
from nst.data.same_pictures import SamePictures
from nst.data.shards import ShardSet, TarReader, verify
from nst.data.sources import open_source
from nst.data.splits import shares, split
from nst.errors import NstError
from nst.settings.data import Sizes
from nst.settings.job import ShardJob
from nst.stages import shard, shard_table
from tests.sharding import sharded

CLASSES = ("cat", "dog", "emu")


def entries(counts: tuple[int, ...] = (20, 30, 10), of: str | None = None, hidden: int = 0) -> list[Entry]:
    found = [Entry(f"{of}-{c}-{i}", "png", c, of) for c, count in enumerate(counts) for i in range(count)]
    return found + [Entry(f"u-{i}", "png", None, "unlabeled") for i in range(hidden)]


def parts(found: list[Entry], seed: int = 0, **sizes: int | None) -> dict[str, list[str]]:
    chosen = split(found, range(len(found)), CLASSES, Sizes(**sizes), seed)
    return {name: [found[p].key for p in positions] for name, positions in chosen.items()}


def labels(keys: list[str]) -> Counter[str]:
    return Counter(key.split("-")[1] for key in keys)


# ---- split


def test_split_is_exact_stratified_and_disjoint() -> None:
    found = parts(entries(), labeled_per_class=4, test_samples=12)
    assert labels(found["labeled"]) == {"0": 4, "1": 4, "2": 4}
    assert labels(found["test"]) == {"0": 4, "1": 6, "2": 2}
    everything = [key for keys in found.values() for key in keys]
    assert sorted(everything) == sorted(entry.key for entry in entries())
    assert len(found["unlabeled"]) == 60 - 12 - 12


def test_split_follows_the_seed_and_not_the_reading_order() -> None:
    first = parts(entries(), labeled_per_class=4, test_samples=12)
    assert parts(entries()[::-1], labeled_per_class=4, test_samples=12) == first
    other = parts(entries(), seed=1, labeled_per_class=4, test_samples=12)
    assert set(other["labeled"]) != set(first["labeled"])
    assert set(other["test"]) != set(first["test"])


def test_fewer_labels_are_part_of_more_and_the_test_set_stays() -> None:
    few = parts(entries(), labeled_per_class=2, test_samples=12)
    many = parts(entries(), labeled_per_class=5, test_samples=12)
    assert set(few["labeled"]) < set(many["labeled"])
    assert few["test"] == many["test"]


def test_classes_are_mixed_in_every_part() -> None:
    order = labels(parts(entries((200, 200, 200)), test_samples=0)["labeled"][:90])
    assert min(order.values()) > 15  # 30 expected; a class in a row would give 90


def test_a_predefined_test_split_is_used_whole_or_in_part() -> None:
    found = [*entries(of="train"), *entries((4, 4, 4), of="test"), *entries((9, 9, 9), of="val")]
    whole = parts(found, labeled_per_class=1)
    assert len(whole["test"]) == 12
    assert all(key.startswith("test") for key in whole["test"])
    assert labels(whole["validation"]) == {"0": 9, "1": 9, "2": 9}
    assert all(key.startswith("val") for key in whole["validation"])
    assert not any(key.startswith("val") for name in ("labeled", "unlabeled", "test") for key in whole[name])
    assert parts(found, labeled_per_class=1, validation_samples=2) == whole, "as a recipe says that knows of no val"
    assert labels(parts(found, labeled_per_class=1, test_samples=6)["test"]) == {"0": 2, "1": 2, "2": 2}
    only_val = [entry for entry in found if entry.split != "test"]
    assert len(parts(only_val, labeled_per_class=1)["test"]) == 27


def test_validation_is_of_the_labeled_side_and_moves_neither_labels_nor_test() -> None:
    without = parts(entries(), labeled_per_class=4, test_samples=12)
    found = parts(entries(), labeled_per_class=4, test_samples=12, validation_samples=3)
    assert labels(found["validation"]) == {"0": 3, "1": 3, "2": 3}
    assert (found["labeled"], found["test"]) == (without["labeled"], without["test"])
    assert set(found["unlabeled"]) | set(found["validation"]) == set(without["unlabeled"])
    assert not set(found["unlabeled"]) & set(found["validation"])
    assert set(parts(entries(), validation_samples=2)["validation"]) <= set(parts(entries())["labeled"])
    assert labels(parts(entries(), test_samples=0, validation_samples=2)["labeled"]) == {"0": 18, "1": 28, "2": 8}
    other = parts(entries(), seed=1, labeled_per_class=4, test_samples=12, validation_samples=3)
    assert set(other["validation"]) != set(found["validation"])
    assert without["validation"] == []


def test_val_serves_as_the_test_set_and_leaves_validation_to_the_labeled_side() -> None:
    found = parts([*entries(of="train"), *entries((9, 9, 9), of="val")], validation_samples=2)
    assert all(key.startswith("val") for key in found["test"])
    assert all(key.startswith("train") for key in found["validation"])
    assert labels(found["validation"]) == {"0": 2, "1": 2, "2": 2}


def test_extra_and_unlabeled_images_join_the_unlabeled_set() -> None:
    found = [
        *entries(of="train"),
        *entries((5, 0, 0), of="extra"),
        *entries((2, 2, 2), of="test"),
        *entries((), hidden=7),
    ]
    chosen = parts(found)
    assert len(chosen["labeled"]) == 60
    assert len(chosen["unlabeled"]) == 12
    assert len(parts(found, unlabeled_samples=3)["unlabeled"]) == 3
    assert parts(found, unlabeled_samples=0)["unlabeled"] == []


def test_without_a_word_on_the_test_set_a_tenth_of_every_class_is_held_out() -> None:
    chosen = parts(entries((20, 31, 2)))
    assert labels(chosen["test"]) == {"0": 2, "1": 4, "2": 1}
    assert labels(chosen["labeled"]) == {"0": 18, "1": 27, "2": 1}
    assert parts(entries((20, 31, 2)), test_samples=0)["test"] == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
def test_shares_sum_up_stay_in_bounds_and_within_one_of_the_exact_part(counts: list[int], data: Any) -> None:
    total = data.draw(st.integers(0, sum(counts)))
    found = shares(counts, total)
    assert sum(found) == total
    for part, count in zip(found, counts, strict=True):
        assert 0 <= part <= count
        assert abs(part - total * count / sum(counts)) < 1


@pytest.mark.parametrize(
    ("found", "sizes", "message"),
    [
        (
            entries(),
            {"labeled_per_class": 9, "test_samples": 12},
            r"labeled_per_class=9[\s\S]*emu has 8[\s\S]*1 to 8",
        ),
        (entries(), {"test_samples": 61}, "more test images"),
        (
            entries(),
            {"labeled_per_class": 6, "test_samples": 12, "validation_samples": 3},
            r"validation_samples=3[\s\S]*emu has 2[\s\S]*next:  data\.validation_samples=2",
        ),
        (
            entries(),
            {"test_samples": 0, "validation_samples": 10},
            r"emu has 10[\s\S]*0 to 9[\s\S]*data\.validation_samples=3$",  # most are for training
        ),
        (entries((20, 1, 0)), {}, "dog has 1, emu has 0"),
        (entries((20, 1, 0)), {"test_samples": 0}, "got:   emu has 0\n"),
        (entries(of="test"), {}, "no labeled training images"),
        (entries((), hidden=5), {"labeled_per_class": 1}, "no labeled training images"),
    ],
)
def test_a_split_that_cannot_be_made_is_told(found: list[Entry], sizes: dict[str, int], message: str) -> None:
    with pytest.raises(NstError, match=message):
        parts(found, **sizes)


@pytest.mark.parametrize(("kind", "more"), [("folder", []), ("folder", ["data.test_samples=3"]), ("csv", [])])
def test_what_is_advised_where_only_the_test_has_labels_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["file,label,split"]
    for number, name in enumerate(("test/ant/0.png", "test/bee/1.png", "unlabeled/2.png", "unlabeled/3.png")):
        place = tmp_path / "pictures" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode(noise(16, 16, number), "PNG"))
        split, *label, _ = name.split("/")
        lines.append(f"{name},{''.join(label)},{split}")
    (tmp_path / "pictures" / "labels.csv").write_text("\n".join(lines))
    root = "pictures/labels.csv" if kind == "csv" else "pictures"
    command = ["stage=shard", f"data={kind}", "data.root=d", f"data.source.root={root}",
               "data.labeled_per_class=null", *more]  # fmt: skip
    with pytest.raises(NstError, match="no labeled training images") as caught:
        shard.run(job_from(ShardJob, compose_config(command)))
    advice = str(caught.value).partition("next: ")[2]
    helps = [word for word in advice.split() if "=" in word]
    if kind == "csv":
        assert not helps, "a file of labels has no option that forgets them"
        assert "add training pictures with labels" in advice
        return
    assert shard.run(job_from(ShardJob, compose_config([*command, *helps])))["sets"].keys() == {"unlabeled"}


def test_sizes_out_of_range_are_told() -> None:
    with pytest.raises(NstError, match=r"data\.labeled_per_class cannot be 0"):
        Sizes(labeled_per_class=0)


# ---- stage


def jpeg(number: int) -> bytes:
    return encode(noise(16, 16, number), "JPEG")


def pets(root: Path, per_class: int = 10) -> Path:
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            (root / name / f"{i:02d}.jpg").write_bytes(jpeg(c * 100 + i))
    return root


def read_set(folder: Path) -> dict[str, dict[str, bytes]]:
    shards = ShardSet.open(folder)
    return {key: content for i in range(len(shards.shards)) for key, content in TarReader(shards.path(i))}


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob("*/*")) if p.is_file()}


def test_digits_demo_has_50_labels_500_test_images_and_1247_unlabeled(tmp_path: Path) -> None:
    result = sharded("digits", tmp_path)
    assert {name: found["samples"] for name, found in result["sets"].items()} == {
        "labeled": 50, "unlabeled": 1247, "test": 500,
    }  # fmt: skip
    assert result["sets"]["labeled"]["label_counts"] == [5] * 10
    for name in ("labeled", "unlabeled", "test"):
        verify(tmp_path / name)
    truth = pq.read_table(tmp_path / "unlabeled" / "truth.parquet").to_pydict()
    assert truth["key"] == list(read_set(tmp_path / "unlabeled"))
    target = {entry.key: entry.label for entry in open_source("digits").entries}
    assert truth["label"] == [target[key] for key in truth["key"]]


def test_sets_hold_the_files_byte_for_byte_and_no_label_where_unlabeled(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    sharded(root, tmp_path / "out", "data.labeled_per_class=2", "data.test_samples=6", "shard.samples_per_shard=4")
    sets = {name: read_set(tmp_path / "out" / name) for name in ("labeled", "unlabeled", "test")}
    found = {key: content for of in sets.values() for key, content in of.items()}
    assert len(found) == 30 == sum(map(len, sets.values()))
    for key, content in found.items():
        name, number = key.split("-")
        assert content["jpg"] == (root / name / f"{number}.jpg").read_bytes()
        assert content.get("cls", str(CLASSES.index(name)).encode()) == str(CLASSES.index(name)).encode()
    assert {name for content in sets["unlabeled"].values() for name in content} == {"jpg"}
    assert ShardSet.open(tmp_path / "out" / "unlabeled").classes == CLASSES


def test_a_finished_run_is_not_repeated_and_other_options_are_refused(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    first = sharded(root, tmp_path / "out", "data.test_samples=6")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.tar")}
    assert sharded(root, tmp_path / "out", "data.test_samples=6") == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.tar")} == before
    with pytest.raises(NstError, match="test_samples: 6 before, 3 now"):
        sharded(root, tmp_path / "out", "data.test_samples=3")
    next(iter(before)).unlink()
    with pytest.raises(NstError, match="missing"):
        sharded(root, tmp_path / "out", "data.test_samples=6")


def test_a_val_folder_beside_test_becomes_the_validation_set(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        pets(tmp_path / "pets" / part, 4)
    result = sharded(tmp_path / "pets", tmp_path / "out")
    assert {name: found["label_counts"] for name, found in result["sets"].items()} == {
        "labeled": [4, 4, 4], "test": [4, 4, 4], "validation": [4, 4, 4],
    }  # fmt: skip
    shards = ShardSet.open(tmp_path / "out" / "validation")
    assert (shards.labeled, shards.classes, shards.split) == (True, CLASSES, "validation")
    assert all(key.startswith("val-") for key in read_set(tmp_path / "out" / "validation"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("reads", [31, 40, 59])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int) -> None:
    root = pets(tmp_path / "pets")
    options = ["data.labeled_per_class=2", "data.test_samples=6", "shard.samples_per_shard=4"]
    monkeypatch.setattr(shard, "READERS", 1)
    sharded(root, tmp_path / "clean", *options)

    source = open_source("folder", root=root)
    left = reads
    original = source.read

    def read(position: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return original(position)

    source.read = read  # type: ignore[method-assign]
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shard, "open_source", lambda **_: source)
        sharded(root, out, *options)
    (out / "labeled").mkdir(exist_ok=True, parents=True)  # a start that wrote nothing has left nothing
    (out / "labeled" / ".index.json.tmp-1234-5").write_bytes(b"half a file")
    sharded(root, out, *options)
    assert tree(out) == tree(tmp_path / "clean")
    assert (out / "result.json").read_bytes() == (tmp_path / "clean" / "result.json").read_bytes()


def spoil(root: Path) -> set[str]:
    """One image of every bad kind; the keys of them."""
    (root / "cat" / "00.jpg").write_bytes(jpeg(0)[:-20])
    (root / "cat" / "01.jpg").write_bytes(b"")
    (root / "dog" / "00.jpg").write_bytes(b"<html>404</html>")
    (root / "emu" / "00.png").write_bytes(encode_png(np.zeros((64, 64), np.uint8) + 7)[:60])
    return {"cat-00", "cat-01", "dog-00", "emu-00"}


def test_bad_images_are_left_out_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = pets(tmp_path / "pets")
    (root / "emu" / "00.jpg").unlink()
    bad = spoil(root)
    options = ["data.labeled_per_class=8", "data.test_samples=0", "max_bad_fraction=0.2"]
    with caplog.at_level(logging.WARNING):
        result = sharded(root, tmp_path / "out", *options)
    assert result["skipped"]["count"] == 4
    assert {name.split(":")[0] for name in result["skipped"]["names"]} == bad
    assert all(key in caplog.text for key in bad)
    index = json.loads((tmp_path / "out" / "labeled" / "index.json").read_text())
    assert set(index["skipped"]["names"]) == bad
    assert result["sets"]["labeled"]["label_counts"] == [8, 8, 8]  # exact over whole images: cat has only 8
    assert verify(tmp_path / "out" / "unlabeled")["samples"] == 2
    assert not bad & set(read_set(tmp_path / "out" / "unlabeled"))


def test_a_link_that_leads_nowhere_is_a_bad_image_until_it_is_mended(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    (root / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    result = sharded(root, tmp_path / "out", "data.labeled_per_class=8", "max_bad_fraction=0.2")
    assert result["skipped"] == {"count": 1, "names": ["cat-gone: a link that leads nowhere"]}
    with pytest.raises(NstError, match=r"too many pictures[\s\S]*1: mend or remove these links"):
        sharded(root, tmp_path / "none", "max_bad_fraction=0")
    assert open_source("folder", root=root).digest == open_source("folder", root=root).digest
    (root / "cat" / "nowhere.jpg").write_bytes((root / "cat" / "00.jpg").read_bytes())
    other = r"other inputs[\s\S]*data\.source: other content now \(hash \w{8} before, \w{8} now\)"
    with pytest.raises(NstError, match=other):
        sharded(root, tmp_path / "out", "data.labeled_per_class=8", "max_bad_fraction=0.2")


def test_what_was_done_to_pictures_and_passed_over_is_told(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "cat" / "turned.jpg").write_bytes(encode(noise(16, 8), "JPEG", exif=exif.tobytes()))
    (root / "cat" / "clear.png").write_bytes(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 9)), "PNG"))
    (root / "dog" / "dark.png").write_bytes(encode(Image.fromarray(np.full((8, 8), 4000, np.uint16)), "PNG"))
    (root / "dog" / "notes.txt").write_text("a text")
    result = sharded(root, tmp_path / "out", "data.labeled_per_class=4", "data.unlabeled_samples=3")
    told = "\n".join(result["notes"])
    for words in ("1 passed over, no picture (.txt): dog/notes.txt", "1 picture is turned upright",
                  "1 picture is transparent: shown on white", "1 picture has 16 bits of which only the lower 12",
                  "pictures are in none of the sets"):  # fmt: skip
        assert words in told
    assert sharded(root, tmp_path / "out", "data.labeled_per_class=4", "data.unlabeled_samples=3") == result


def test_a_class_with_one_picture_is_refused_with_what_to_do_where_a_test_picture_is_needed(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    (root / "emu" / "more").mkdir()
    for each in sorted((root / "emu").glob("*.jpg"))[1:]:
        each.unlink()
    with pytest.raises(NstError, match=r"emu has 1[\s\S]*next:  add pictures of these classes, or leave") as caught:
        sharded(root, tmp_path / "out", "data.source.ignore=[more]")
    (ignored,) = [word for word in shlex.split(str(caught.value.next)) if word.startswith("data.source.ignore=")]
    without = sharded(root, tmp_path / "without", ignored)  # the advice, followed
    assert "emu" not in without["classes"]
    result = sharded(root, tmp_path / "out", "data.source.ignore=[more]", "data.test_samples=0")
    assert result["sets"]["labeled"]["label_counts"][2] == 1


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("red sqare", "red square"), ("Red Square", "red square"), ("blue disk 12", None), ("kiwi", None)],
)
def test_a_class_with_one_picture_that_is_nearly_called_like_another_may_be_mistyped(typo: str, meant: str | None):
    classes = [typo, "red square", "blue disk 11"]
    found = [Entry(f"{c}-{i}", "png", c, None) for c, count in enumerate((1, 20, 20)) for i in range(count)]
    with pytest.raises(NstError) as caught:
        split(found, range(len(found)), classes, Sizes(), 0)
    assert str(caught.value.got) == f"{typo} has 1" + (f" (did you mean '{meant}'?)" if meant else "")
    assert ("mistyped" in str(caught.value.next)) == bool(meant)


def test_a_class_of_one_line_is_told_with_the_line():
    names = ["SeaLke"] + ["SeaLake"] * 3 + ["River"] * 3
    classes = ("River", "SeaLake", "SeaLke")
    found = [Entry(f"{i}", "png", classes.index(name), None, "", i + 2) for i, name in enumerate(names)]
    with pytest.raises(NstError, match=r"SeaLke has 1 in line 2 \(did you mean 'SeaLake'\?\)\n"):
        split(found, range(len(found)), classes, Sizes(), 0)


def test_two_pictures_with_the_same_pixels_are_told_by_the_ends_of_long_paths():
    names = [f"{part}/{'Fluss' * 30}/DSC_{number}.jpg" for number, part in enumerate(("test", "train"))]
    found = [Entry(name[:80], "jpg", 0, None, name) for name in names]
    parts = {"labeled": [1], "test": [0], "unlabeled": [], "validation": []}
    (line,) = SamePictures.of(found, ["Fluss"], [7, 7], parts).labeled(Path("d"))
    assert "Fluss/DSC_0.jpg = train/" in line
    assert "Fluss/DSC_1.jpg: keep" in line
    assert len(line) < 220


def test_classes_that_differ_in_capital_letters_alone_are_told(tmp_path: Path) -> None:
    for first, name in enumerate(("Cat", "cat", "dog")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "in" / name / f"{name}{number}.png").write_bytes(
                encode(noise(8, 8, 10 * first + number), "PNG")
            )
    notes = sharded(tmp_path / "in", tmp_path / "out")["notes"]
    assert notes == ["Cat, cat differ in capital letters alone, and are different classes"]


def test_pictures_that_are_in_training_and_test_or_of_two_classes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are encoded."""
    monkeypatch.chdir(tmp_path)

    def add(name: str, *seeds: int) -> None:
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            file = tmp_path / "in" / name / f"{name.replace('/', '')}{seed}.png"
            file.write_bytes(encode(noise(8, 8, seed), "PNG", compress_level=len(name) % 10))

    add("train/cat", 0, 1, 2, 3)
    add("train/dog", 3, 10, 11)
    add("test/cat", 0, 10, 20)
    add("test/dog", 30)
    add("unlabeled", 40, 41, 42, 43, 20)
    root, out = tmp_path / "in", tmp_path / "out 1"
    result = sharded(root, out)
    assert result["notes"] == [
        f"2 pictures of test are labeled too, test/cat/testcat0.png = train/cat/traincat0.png, 1 of them under another "
        f"class: keep one of each ({out}/same_pictures.csv)",
        "1 labeled picture is of two classes, train/dog/traindog3.png = train/cat/traincat3.png: keep the right ones "
        f"({out}/same_pictures.csv)",
    ]
    (told,) = result["in_unlabeled"]
    assert told.startswith("1 picture of test is unlabeled too, test/cat/testcat20.png = unlabeled/unlabeled20.png")
    with open(out / "same_pictures.csv", newline="") as file:
        pairs = {(row["set"], row["class"], row["other_set"], row["other_class"]) for row in csv.DictReader(file)}
    assert pairs == {("labeled", "dog", "labeled", "cat"), ("test", "cat", "labeled", "cat"),
                     ("test", "cat", "labeled", "dog"), ("test", "cat", "unlabeled", "")}  # fmt: skip
    with pytest.raises(SystemExit):  # the advice, followed
        cli.main(shlex.split(told.rpartition(": nst ")[2]))
    assert "1 of 5 images excluded" in capsys.readouterr().out
    again = sharded(root, out)
    assert "in_unlabeled" not in again
    assert again["sets"]["unlabeled"]["samples"] == 4
    add("test/cat", 21, 22)
    for name in ("cat0", "cat10", "cat20"):
        (tmp_path / "in" / "test" / "cat" / f"test{name}.png").unlink()
    (tmp_path / "in" / "train" / "cat" / "traincat3.png").unlink()
    sharded(root, out, "overwrite=true")
    assert "notes" not in sharded(root, out)
    assert not (out / "same_pictures.csv").exists()


def test_exclude_at_the_end_of_the_command_that_makes_the_shards_makes_them_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = pets(tmp_path / "pets")
    (root / "unlabeled").mkdir()
    for number, each in enumerate(sorted((root / "cat").glob("*.jpg"))):
        shutil.copy(each, root / "unlabeled" / f"{number}.jpg")
    command = ["shard", "data=folder", f"data.source.root={root}", "data.root=out", "--exclude"]
    for excluded in ("1 of 10 images excluded", "0 of 9 images excluded"):
        with pytest.raises(SystemExit):
            cli.main(command)
        assert excluded in capsys.readouterr().out
    # what would not be made so any more is no more pruned than it is made
    shutil.copy(next(iter((root / "dog").glob("*.jpg"))), root / "unlabeled" / "new.jpg")
    for more, told in (([], "other content now"), (["data.labeled_per_class=2"], "data.labeled_per_class")):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, *more])
        assert ended.value.code == 3
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*command, "overwrite=true"])
    assert " of 11 images excluded" in capsys.readouterr().out
    # shards that were made elsewhere are pruned, and nothing else is made, whatever pictures the recipe names
    command = ["shard", "data=folder", f"data.source.root={root}", "data.root=new", "data.unlabeled=out/unlabeled",
               "--exclude=out/test"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 0
    assert " images excluded" in capsys.readouterr().out
    assert not (tmp_path / "new" / "DONE").exists()


def test_numbers_of_shards_are_told_in_the_singular_too() -> None:
    def told(samples: int, *classes: str) -> str:
        sets = {"labeled": {"samples": 9}, "test": {"samples": samples}}
        return shard_table.summary_line({"sets": sets, "classes": classes, "skipped": {"count": 0}})

    assert told(1, "a", "b") == "9 labeled, 1 test image of 2 classes"
    assert told(2, "a") == "9 labeled, 2 test images of 1 class"
    assert told(2) == "9 labeled, 2 test images"


def test_the_table_of_classes_keeps_within_80_columns() -> None:
    found = {"samples": 9, "label_counts": [1_000_000] * 60}
    result = {
        "classes": [f"{i}" + "x" * 99 for i in range(60)], "skipped": {"count": 0, "names": []},
        "sets": dict.fromkeys(("labeled", "test", "validation", "unlabeled"), found),
    }  # fmt: skip
    told = list(shard_table.lines(result))
    assert len(told) == 43
    assert max(map(len, told)) <= 80
    assert told[-2] == "and 20 more classes"
    assert told[-1].split() == ["(no", "class)", "9"]
    assert len(told[-1]) == told[0].index("unlabeled") + len("unlabeled")


def test_pictures_replaced_under_the_same_names_and_sizes_are_noticed(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            (root / name / f"{i}.bmp").write_bytes(encode(noise(8, 8, i), "BMP"))
    sharded(root, tmp_path / "out", "data.test_samples=0")
    (root / "cat" / "0.bmp").write_bytes(encode(noise(8, 8, 9), "BMP"))
    with pytest.raises(NstError, match=r"other inputs[\s\S]*data\.source: other content now"):
        sharded(root, tmp_path / "out", "data.test_samples=0")


def test_too_many_bad_images_stop_before_anything_is_written(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    spoil(root)
    told = r"cannot be read: 4 of 31[\s\S]*cat-00: JPEG: Premature[\s\S]*1: remove them[\s\S]*max_bad_fraction=0\.13$"
    with pytest.raises(NstError, match=told):
        sharded(root, tmp_path / "out", "data.test_samples=0")
    assert not list((tmp_path / "out").rglob("*.tar"))
    assert not (tmp_path / "out" / "DONE").exists()


def test_unchecked_images_are_taken_as_they_are(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    (root / "cat" / "00.jpg").write_bytes(b"no image")
    sharded(root, tmp_path / "out", "data.test_samples=0", "shard.check_images=false")
    assert read_set(tmp_path / "out" / "labeled")["cat-00"]["jpg"] == b"no image"


def test_images_without_labels_make_one_unlabeled_set(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    root.mkdir()
    for i in range(5):
        (root / f"{i}.jpg").write_bytes(jpeg(i))
    result = sharded(root, tmp_path / "out")
    assert {name: found["samples"] for name, found in result["sets"].items()} == {"unlabeled": 5}
    assert not (tmp_path / "out" / "unlabeled" / "truth.parquet").exists()


def test_shards_from_elsewhere_are_not_replaced(tmp_path: Path) -> None:
    sharded(pets(tmp_path / "pets"), tmp_path / "out", "data.test_samples=0")
    (tmp_path / "copy").mkdir()
    shutil.copytree(tmp_path / "out" / "labeled", tmp_path / "copy" / "labeled")
    with pytest.raises(NstError, match=r"index\.json would be replaced, and nst has not written it"):
        sharded("digits", tmp_path / "copy", "data.test_samples=0")


def test_main_shards_verifies_and_indexes_as_the_configuration_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["stage=shard", "data.source.name=folder", f"+data.source.root='{pets(tmp_path / 'pets')}'"]
    options += [f"data.root='{tmp_path / 'out'}'", "data.labeled_per_class=3", "data.test_samples=6"]
    shard.main(compose_config(options))
    told = capsys.readouterr().out
    assert "9 labeled, 15 unlabeled, 6 test images of 3 classes" in told
    assert [line.split() for line in told.splitlines()[-6:-1]] == [
        ["class", "labeled", "unlabeled", "test"], ["cat", "3", "2"], ["dog", "3", "2"], ["emu", "3", "2"],
        ["(no", "class)", "15"],
    ]  # fmt: skip
    assert (tmp_path / "out" / "config.yaml").exists()
    shard.main(compose_config([*options, "shard.verify=true"]))
    assert capsys.readouterr().out.count("as index.json lists them") == 3
    folder = tmp_path / "out" / "labeled"
    (folder / "index.json").unlink()
    shard.main(compose_config([*options, f"shard.index='{folder}'"]))
    assert ShardSet.open(folder).label_counts == (3, 3, 3)


def test_pictures_of_ones_own_need_nothing_but_their_folder(tmp_path: Path) -> None:
    """Class folders and unlabeled/ beside them, all options at their defaults: three sets, named after the data."""
    root = pets(tmp_path / "pets")
    (root / "unlabeled").mkdir()
    for i in range(7):
        (root / "unlabeled" / f"{i}.jpg").write_bytes(jpeg(900 + i))
    cfg = compose_config(["stage=shard", "name=mine", "data=folder", f"data.source.root='{root}'"])
    assert cfg.data.root == "datasets/folder-None-seed0"  # of the data and not of the run: train finds it again
    cfg.shard.output = str(tmp_path / "out")
    result = shard.run(job_from(ShardJob, cfg))
    assert {name: found["samples"] for name, found in result["sets"].items()} == {
        "labeled": 27, "unlabeled": 7, "test": 3,
    }  # fmt: skip
    assert result["classes"] == list(CLASSES)


def test_sizes_of_the_wrong_kind_are_told(tmp_path: Path) -> None:
    with pytest.raises(NstError, match=r"labeled_per_class cannot be 'abc'[\s\S]*a whole number, 1 to [\d,]+, or null"):
        job_from(ShardJob, compose_config(["data.labeled_per_class=abc", f"data.root='{tmp_path}'"]))


@pytest.mark.parametrize("samples", ["0", "-1", "null"])
def test_shards_that_could_hold_nothing_are_refused_before_a_run_begins(tmp_path: Path, samples: str) -> None:
    with pytest.raises(NstError, match=r"shard\.samples_per_shard cannot be"):
        shard.main(compose_config([f"data.root='{tmp_path / 'out'}'", f"shard.samples_per_shard={samples}"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["selection", "digits"])
def test_a_source_given_as_one_option_is_told_what_it_is_called(tmp_path: Path, source: str) -> None:
    with pytest.raises(NstError, match=r"unknown option 'source', did you mean 'data\.source'"):
        compose_config([f"source={source}"])
    with pytest.raises(NstError, match=rf"data\.source cannot be [\s\S]*next:  data\.source\.name={source}$"):
        compose_config([f"data.source={source}", f"data.root='{tmp_path / 'out'}'"])
    assert not (tmp_path / "out").exists()


def test_progress_sees_every_image_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    def progress(items: Any, description: str, total: int) -> Any:
        for item in items:
            seen[description] += 1
            yield item
        assert seen[description] == total

    monkeypatch.setattr(shard, "track", progress)
    sharded(pets(tmp_path / "pets"), tmp_path / "out", "data.labeled_per_class=2", "data.test_samples=6")
    assert seen == {"checking images": 30, "writing labeled": 6, "writing unlabeled": 18, "writing test": 6}
