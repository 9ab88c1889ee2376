"""Shard sets: what is written is read back, by us and by webdataset, and every kind of damage is told."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import add_file, ended_process, noise

from nst.atomic import sha256_file, write_json
from nst.cli import dispatch
from nst.data.hashes import hash_shards
from nst.data.images import decode, encode_png
from nst.data.shards import ShardSet, TarReader, index_tars, verify, write_shards
from nst.data.source import Sample
from nst.documents import read_json
from nst.errors import NstError, UsageError
from nst.leftovers import temporary
from nst.report.gallery import images_named

CLASSES = ("cat", "dog", "emu")


def pixels(number: int) -> np.ndarray:
    return noise(6, 5, number)


def make_samples(count: int) -> list[Sample]:
    return [Sample(f"s-{i:03d}", encode_png(pixels(i)), "png", i % 3) for i in range(count)]


def write(folder: Path, count: int = 7, *, labeled: bool = True, max_bytes: int = 1 << 20) -> ShardSet:
    return write_shards(
        folder,
        "train",
        make_samples(count),
        classes=CLASSES,
        labeled=labeled,
        name="test",
        split="train",
        seed=1,
        samples_per_shard=3,
        max_bytes=max_bytes,
    )


def rehash(folder: Path) -> None:
    """Makes the index agree with the changed bytes, so that only the content can give them away."""
    index = read_json(folder / "index.json")
    for shard in index["shards"]:
        path = folder / shard["name"]
        shard["bytes"], shard["sha256"] = path.stat().st_size, sha256_file(path)
    write_json(folder / "index.json", index)


def test_round_trip_keeps_order_bytes_and_labels(tmp_path: Path) -> None:
    shards = write(tmp_path)
    assert [(s.name, s.samples) for s in shards.shards] == [
        ("train-000000.tar", 3), ("train-000001.tar", 3), ("train-000002.tar", 1),
    ]  # fmt: skip
    assert (shards.samples, shards.classes, shards.labeled) == (7, CLASSES, True)
    assert shards.label_counts == (3, 2, 2)
    found = [sample for i in range(3) for sample in TarReader(shards.path(i))]
    assert found == [(s.key, {"png": s.image, "cls": str(s.label).encode()}) for s in make_samples(7)]
    assert ShardSet.open(tmp_path) == shards
    assert verify(tmp_path)["label_counts"] == [3, 2, 2]


def test_unlabeled_shards_hold_no_labels(tmp_path: Path) -> None:
    shards = write(tmp_path, labeled=False)
    assert {name for i in range(3) for _, content in TarReader(shards.path(i)) for name in content} == {"png"}
    assert (shards.labeled, shards.label_counts) == (False, ())
    assert verify(tmp_path)["samples"] == 7


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        shards = write(tmp_path)
        urls = [str(shards.path(i)) for i in range(3)]
        found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [s.key for s in make_samples(7)]
    assert [sample["cls"] for sample in found] == [i % 3 for i in range(7)]
    assert all(np.array_equal(sample["png"], pixels(i)) for i, sample in enumerate(found))


def test_equal_input_gives_equal_bytes_and_digest(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    names = sorted(path.name for path in first.folder.iterdir())
    assert [(first.folder / n).read_bytes() for n in names] == [(second.folder / n).read_bytes() for n in names]
    assert first.digest == second.digest
    assert write(tmp_path / "c", 6).digest != first.digest


def test_a_shard_ends_at_max_bytes(tmp_path: Path) -> None:
    size = max(len(sample.image) for sample in make_samples(7))
    assert [s.samples for s in write(tmp_path, max_bytes=2 * size).shards] == [2, 2, 2, 1]


def test_leftovers_of_a_killed_attempt_disappear(tmp_path: Path) -> None:
    clean = write(tmp_path / "clean")
    dirty = tmp_path / "dirty"
    dirty.mkdir()
    half = temporary(dirty / "train-000001.tar")
    half = half.with_name(half.name.replace(f"tmp-{os.getpid()}", f"tmp-{ended_process()}"))
    others = [dirty / name for name in ("train-000009.tar", "mine.txt", ".mine.tmp-77-1")]
    for path in (dirty / "train-000000.tar", half, *others):
        path.write_bytes(b"half")
    write(dirty)
    assert not half.exists()
    for path in others:  # nothing says that they are nst's
        assert path.read_bytes() == b"half"
        path.unlink()
    assert {p.name: p.read_bytes() for p in dirty.iterdir()} == {p.name: p.read_bytes() for p in clean.folder.iterdir()}


def test_a_failed_write_leaves_no_index(tmp_path: Path) -> None:
    write(tmp_path)
    samples = [*make_samples(5), Sample("s-001", b"x", "png", 0)]
    with pytest.raises(NstError, match=r"used twice[\s\S]*s-001"):
        write_shards(tmp_path, "train", samples, classes=CLASSES, labeled=True, name="x", samples_per_shard=3)
    with pytest.raises(NstError, match=r"no index\.json"):
        ShardSet.open(tmp_path)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample("a.b", b"x", "png", 0), "not a WebDataset key"),
        (Sample("a/b", b"x", "png", 0), "not a WebDataset key"),
        (Sample("n" * 91, b"x", "png", 0), "not a WebDataset key"),
        (Sample("a", b"x", "png", 3), "out of range"),
        (Sample("a", b"x", "png", None), "out of range"),
    ],
)
def test_samples_that_no_reader_could_use_are_refused(tmp_path: Path, sample: Sample, message: str) -> None:
    with pytest.raises(NstError, match=message):
        write_shards(tmp_path, "x", [sample], classes=CLASSES, labeled=True, name="x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write_is_told(tmp_path: Path) -> None:
    with pytest.raises(NstError, match="no samples"):
        write_shards(tmp_path / "new", "x", [], classes=CLASSES, labeled=True, name="x")


def test_open_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NstError, match="no such shard folder"):
        ShardSet.open(tmp_path / "none")
    with pytest.raises(NstError, match="no tars"):
        ShardSet.open(tmp_path)
    shards = write(tmp_path)
    shards.path(0).unlink()
    os.truncate(shards.path(1), 100)
    with pytest.raises(NstError, match=r"000000\.tar: missing\n.*000001\.tar: 100 bytes"):
        ShardSet.open(tmp_path)
    index = tmp_path / "index.json"
    write_json(index, {**read_json(index), "shards": []})
    with pytest.raises(NstError, match="empty shard set"):
        ShardSet.open(tmp_path)
    index.write_text("{")
    with pytest.raises(NstError, match=r"index\.json is damaged"):
        ShardSet.open(tmp_path)
    index.unlink()
    with pytest.raises(NstError, match=r"2 tars[\s\S]*nst shard shard.index="):
        ShardSet.open(tmp_path)


# ---- TarReader


def test_reader_survives_pickling_and_a_fork(tmp_path: Path) -> None:
    reader = TarReader(write(tmp_path).path(0))
    expected = reader.read(2)
    assert pickle.loads(pickle.dumps(reader)).read(2) == expected
    child = os.fork()
    if child == 0:
        os._exit(0 if all(reader.read(i) == reader.read(i) for i in (2, 0, 1)) else 1)
    assert [reader.read(2) for _ in range(50)] == [expected] * 50
    assert os.waitpid(child, 0)[1] == 0
    reader.close()
    assert reader.read(2) == expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_format_are_grouped_as_webdataset_does(tmp_path: Path, form: int) -> None:
    import webdataset

    long = "d" * 60 + "/" + "n" * (80 if form == tarfile.USTAR_FORMAT else 150)
    names = [
        "./a/x.jpg",
        "a/x.seg.PNG",
        f"{long}.jpg",
        f"{long}.txt",
        "b.json",
        "__meta__/x.json",
        "nodot",
        "ü.jpg",
    ]
    if form == tarfile.USTAR_FORMAT:
        names[0] = "a/x.jpg"
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as archive:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in names:
            add_file(archive, name.removeprefix("./"), name.encode() * 100)
    reader = TarReader(path)
    theirs = [
        (sample["__key__"], {name: data for name, data in sample.items() if not name.startswith("__")})
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert list(reader) == theirs
    assert reader.keys == ["a/x", long, "b", "ü"]
    assert reader.extensions(0) == ("jpg", "seg.png")
    assert not reader.truncated


def test_a_cut_tar_lists_its_whole_samples_wherever_it_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path).path(0)
    data, whole = path.read_bytes(), list(TarReader(path))
    cut = tmp_path / "cut.tar"
    end = len(data.rstrip(b"\0"))
    for length in [*range(0, end, 97), *range(0, end, 512)]:
        cut.write_bytes(data[:length])
        reader = TarReader(cut)
        assert reader.truncated
        assert list(reader) == whole[: len(reader)]
        assert len(reader) == sum(offset + size <= length for offset, size in _ends(path))


def test_zeros_from_the_middle_on_are_no_end(tmp_path: Path) -> None:
    path = write(tmp_path, 60, max_bytes=1 << 30).path(0)
    with tarfile.open(path, "w") as archive:
        for i in range(60):
            add_file(archive, f"s-{i:03d}.png", noise(20, 20, i).tobytes())
    data = path.read_bytes()
    assert not TarReader(path).truncated
    for begin in range(30 * 2048, 45 * 2048, 512):
        path.write_bytes(data[:begin] + bytes(len(data) - begin))
        assert TarReader(path).truncated
        assert len(TarReader(path)) < 60


@pytest.mark.parametrize("behind", [b"x", b"a second tar", bytes(2 << 20) + b"x", bytes(2 << 20)])
def test_what_follows_the_end_mark_is_not_lost_in_silence(tmp_path: Path, behind: bytes) -> None:
    path = write(tmp_path).path(0)
    with open(path, "ab") as file:
        file.write(path.read_bytes() if behind == b"a second tar" else behind)
    assert TarReader(path).truncated
    with pytest.raises(NstError, match=r"000000\.tar: cut short after 3 whole samples"):
        index_tars(tmp_path)


@pytest.mark.parametrize("record", [512, 10240, 65536, 1 << 20])
def test_a_tar_padded_to_whole_records_is_whole(tmp_path: Path, record: int) -> None:
    path = write(tmp_path).path(0)
    data = path.read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512)
    path.write_bytes(data + bytes(1024) + bytes(-(len(data) + 1024) % record))
    assert not TarReader(path).truncated


def _ends(path: Path) -> list[tuple[int, int]]:
    with tarfile.open(path) as archive:
        return [(m.offset_data, m.size) for m in archive if m.name.endswith(".png")]


def test_a_file_that_shrinks_or_is_no_tar_is_told(tmp_path: Path) -> None:
    path = write(tmp_path).path(0)
    reader = TarReader(path)
    data = bytearray(path.read_bytes())
    os.truncate(path, 600)
    with pytest.raises(NstError, match="become shorter"):
        reader.read(1)
    path.write_bytes(b"plain text " * 100)
    with pytest.raises(NstError, match="not a tar"):
        TarReader(path)
    path.write_bytes(b"\x1f\x8b" + bytes(data))
    with pytest.raises(NstError, match="compressed"):
        TarReader(path)
    data[1024 + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(NstError, match="damaged at byte 1024"):
        TarReader(path)
    with pytest.raises(NstError, match="cannot open"):
        TarReader(tmp_path / "none.tar")


# ---- verify, index_tars


def test_verify_finds_a_flipped_byte_in_an_image(tmp_path: Path) -> None:
    path = write(tmp_path).path(1)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 30] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(NstError, match=r"000001\.tar: sha256 differs"):
        verify(tmp_path)
    rehash(tmp_path)
    with pytest.raises(NstError, match=r"000001\.tar: s-003\.png"):
        verify(tmp_path)


def test_verify_finds_a_cut_shard_and_a_missing_one(tmp_path: Path) -> None:
    shards = write(tmp_path)
    os.truncate(shards.path(0), 3000)
    shards.path(2).unlink()
    with pytest.raises(NstError, match=r"000002\.tar: missing[\s\S]*000000\.tar: 1 whole samples \(cut short\), 3"):
        verify(tmp_path)


def test_verify_finds_keys_used_twice_and_labels_out_of_range(tmp_path: Path) -> None:
    shards = write(tmp_path)
    with tarfile.open(shards.path(2), "w") as archive:
        add_file(archive, "s-001.cls", b"7")
        add_file(archive, "s-001.png", make_samples(1)[0].image)
    rehash(tmp_path)
    with pytest.raises(NstError, match=r"s-001: label 7[\s\S]*key s-001 in train-000000\.tar and train-000002\.tar"):
        verify(tmp_path)


def test_verify_compares_label_counts_with_the_index(tmp_path: Path) -> None:
    shards = write(tmp_path)
    with tarfile.open(shards.path(2), "w") as archive:
        add_file(archive, "s-006.cls", b"1")
        add_file(archive, "s-006.png", make_samples(1)[0].image)
    rehash(tmp_path)
    with pytest.raises(NstError, match="labels per class"):
        verify(tmp_path)


def foreign_tar(path: Path, keys: list[str], *, labels: list[int] | None = None) -> None:
    with tarfile.open(path, "w") as archive:
        for i, key in enumerate(keys):
            if labels is not None and i < len(labels):
                add_file(archive, f"{key}.cls", str(labels[i]).encode())
            add_file(archive, f"{key}.jpg", make_samples(1)[0].image)
            add_file(archive, f"{key}.json", b"{}")


def test_tars_of_img2dataset_are_indexed_where_they_lie(tmp_path: Path) -> None:
    foreign_tar(tmp_path / "00000.tar", ["000000000", "000000001"])
    foreign_tar(tmp_path / "00001.tar", ["000010000"])
    shards = index_tars(tmp_path)
    assert (shards.samples, shards.labeled, shards.classes) == (3, False, ())
    assert verify(tmp_path)["samples"] == 3
    key, content = TarReader(shards.path(1)).read(0)
    assert key == "000010000"
    assert decode(content["jpg"]).shape == (6, 5, 3)


def test_labels_of_foreign_tars_are_used_when_all_have_one(tmp_path: Path) -> None:
    foreign_tar(tmp_path / "a.tar", ["x", "y"], labels=[2, 0])
    assert index_tars(tmp_path).label_counts == (1, 0, 1)
    assert index_tars(tmp_path, CLASSES).classes == CLASSES
    with pytest.raises(NstError, match="out of range"):
        index_tars(tmp_path, CLASSES[:2])


def img2dataset(path: Path, start: int, count: int = 3) -> None:
    """A download whose keys count from 0, of pictures of its own."""
    with tarfile.open(path, "w") as archive:
        for i in range(count):
            add_file(archive, f"{i:09d}.jpg", encode_png(pixels(start + i)))
            add_file(archive, f"{i:09d}.json", b"{}")


def test_two_downloads_that_count_alike_are_one_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hydra's own logging disables the loggers that it finds, if a test before this one has used it
    monkeypatch.setattr(logging.getLogger("nst.data.indexing"), "disabled", False)
    img2dataset(tmp_path / "cc3m-00000.tar", 0)
    img2dataset(tmp_path / "cc12m-00000.tar", 100)
    img2dataset(tmp_path / "cc12m-00001.tar", 200, 2)
    with caplog.at_level(logging.WARNING, logger="nst.data.indexing"):
        shards = index_tars(tmp_path)
    assert "3 keys stand for other pictures" in caplog.text
    keys = [key for place in range(3) for key in shards.reader(place).keys]
    assert keys == [f"{name}/{i:09d}" for name, count in (("cc12m-00000", 3), ("cc12m-00001", 2), ("cc3m-00000", 3))
                    for i in range(count)]  # fmt: skip
    assert verify(tmp_path)["samples"] == 8
    assert ShardSet.open(tmp_path) == shards
    assert [hashed.keys for hashed in hash_shards(shards, tmp_path / "kept", workers=1)][2] == keys[5:]
    assert images_named(tmp_path, keys, ["cc3m-00000"]).keys() == {keys[5], keys[6], keys[7]}
    assert images_named(tmp_path, [keys[0], keys[7]]).keys() == {keys[0], keys[7]}
    (tmp_path / "cc12m-00000.tar").unlink()
    (tmp_path / "cc12m-00001.tar").unlink()
    alone = index_tars(tmp_path)
    assert alone.reader(0).keys == [f"{i:09d}" for i in range(3)]
    assert alone.digest != replace(alone, shards=(replace(alone.shards[0], prefix="x"),)).digest


def test_the_same_tar_twice_is_told_and_not_taken_for_two_downloads(tmp_path: Path) -> None:
    img2dataset(tmp_path / "a.tar", 0)
    shutil.copy(tmp_path / "a.tar", tmp_path / "b.tar")
    with pytest.raises(NstError, match=r"key 000000000 in a\.tar and b\.tar[\s\S]*next:  remove one of the tars"):
        index_tars(tmp_path)


def test_an_index_names_no_prefix_that_leads_out(tmp_path: Path) -> None:
    write(tmp_path)
    index = read_json(tmp_path / "index.json")
    index["shards"][0]["prefix"] = "../x"
    write_json(tmp_path / "index.json", index)
    with pytest.raises(NstError, match="does not lie beside it"):
        ShardSet.open(tmp_path)


def test_tars_in_folders_below_are_linked_beside_the_index(tmp_path: Path) -> None:
    for part in (0, 1):
        (tmp_path / f"part{part}").mkdir()
        img2dataset(tmp_path / f"part{part}" / "00000.tar", 100 * part)
    shards = index_tars(tmp_path)
    assert [shard.name for shard in shards.shards] == ["part0-00000.tar", "part1-00000.tar"]
    assert verify(tmp_path)["samples"] == 6
    assert index_tars(tmp_path).digest == shards.digest
    (tmp_path / "part1" / "index.json").write_text("{}")
    with pytest.raises(NstError, match=r"shard sets of their own[\s\S]*shard\.index=.*part1"):
        index_tars(tmp_path)


def test_the_picture_of_a_sample_may_have_a_name_before_its_suffix(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(3):
            add_file(archive, f"sample{i}.input.png", encode_png(pixels(i)))
            add_file(archive, f"sample{i}.outputs.txt", b"daisy")
    assert index_tars(tmp_path).samples == 3
    assert verify(tmp_path)["samples"] == 3
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(3):
            add_file(archive, f"photo.{i}.v2.jpg", encode_png(pixels(i)))
    told = r"1 sample without an image, first photo, with 3 pictures: 0\.v2\.jpg[\s\S]*shard\.index=null data=tar"
    with pytest.raises(NstError, match=told):
        index_tars(tmp_path)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_link_in_a_tar_is_the_file_that_it_names(tmp_path: Path, form: int) -> None:
    long = "d" * 60 + "/" + "n" * 120
    files = {"a/0.png": encode_png(pixels(0)), f"{long}.png": encode_png(pixels(1))}
    links = {"a/1.png": ("0.png", tarfile.SYMTYPE), "a/2.png": ("a/0.png", tarfile.LNKTYPE),
             "b/3.png": (f"../{long}.png", tarfile.SYMTYPE), "b/4.png": (f"{long}.png", tarfile.LNKTYPE),
             "b/5.png": ("3.png", tarfile.SYMTYPE), "b/6.png": ("6.png", tarfile.SYMTYPE),
             "b/7.png": ("/etc/hostname", tarfile.SYMTYPE)}  # fmt: skip
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files.items():
            add_file(archive, name, data)
        for name, (target, kind) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    reader = TarReader(path)
    found = {key: content["png"] for key, content in reader}
    assert found == {"a/0": files["a/0.png"], long: files[f"{long}.png"], "a/1": files["a/0.png"],
                     "a/2": files["a/0.png"], **{f"b/{i}": files[f"{long}.png"] for i in (3, 4, 5)}}  # fmt: skip
    assert reader.links == 2
    with pytest.raises(NstError, match=r"2 links[\s\S]*--dereference"):
        index_tars(tmp_path)


def test_foreign_tars_that_would_fail_in_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NstError, match="no tars"):
        index_tars(tmp_path)
    foreign_tar(tmp_path / "a.tar", ["x", "y"], labels=[2])
    foreign_tar(tmp_path / "b.tar", ["y", "z"])
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        add_file(archive, "w.txt", b"no image")
    os.truncate(tmp_path / "b.tar", 3000)
    with pytest.raises(NstError) as caught:
        index_tars(tmp_path)
    assert caught.value.next is not None
    for words in ("download again those that are not whole", "remove one of the tars", "leave out such samples"):
        assert words in caught.value.next
    for words in ("b.tar: cut short", "key y in a.tar and b.tar", "c.tar: 1 sample without", "have no .cls"):
        assert words in str(caught.value)
    assert not (tmp_path / "index.json").exists()


# ---- class names of tars from elsewhere


def test_a_text_file_names_the_classes_of_tars_from_elsewhere(tmp_path: Path) -> None:
    made = write(tmp_path / "tars")
    (tmp_path / "tars" / "index.json").unlink()
    names = tmp_path / "names.txt"
    names.write_text(
        "\ufeffgreat white shark\nhen\u2028bird\n" + "".join(f"class {i}\n" for i in range(len(CLASSES) - 2))
    )
    options = ["shard", f"shard.index={tmp_path / 'tars'}"]
    dispatch([*options, f"shard.classes={names}"])
    found = ShardSet.open(tmp_path / "tars")
    assert found.classes[:2] == ("great white shark", "hen\u2028bird")
    assert found.label_counts == made.label_counts
    dispatch(options)
    assert ShardSet.open(tmp_path / "tars").classes[:2] == ("0", "1"), "by the command that names none"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("only one\n", r"labels are out of range[\s\S]*every label in shard\.classes"),
        ("", "line 1 is empty"),
        ("a\r\na\r\nb\n", "line 2 names 'a' again"),
        ("a\n\nb\n", "line 2 is empty"),
        (None, r"cannot read .*names\.txt"),
    ],
)
def test_a_file_that_does_not_name_the_classes_is_refused(tmp_path: Path, text: str | None, says: str) -> None:
    write(tmp_path / "tars")
    before = (tmp_path / "tars" / "index.json").read_bytes()
    if text is not None:
        (tmp_path / "names.txt").write_text(text)
    with pytest.raises(NstError, match=says):
        dispatch(["shard", f"shard.index={tmp_path / 'tars'}", f"shard.classes={tmp_path / 'names.txt'}"])
    assert (tmp_path / "tars" / "index.json").read_bytes() == before


def test_tars_without_labels_have_no_classes_to_be_named(tmp_path: Path) -> None:
    write(tmp_path / "tars", labeled=False)
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(NstError, match="no labels that could be named"):
        dispatch(["shard", f"shard.index={tmp_path / 'tars'}", f"shard.classes={tmp_path / 'names.txt'}"])


def test_class_names_are_of_tars_that_are_indexed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"shard\.classes .*\n.*no shard\.index"):
        dispatch(["shard", "data=digits", f"data.root={tmp_path}", f"shard.classes={tmp_path}/names.txt"])
