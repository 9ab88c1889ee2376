"""Evaluation images leave the unlabeled set: found as exact copies and as look-alikes, and by no stage seen again."""

from __future__ import annotations

import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import add_file, encode, finish, select_from
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from nst.atomic import sha256_file
from nst.cli import dispatch
from nst.config import compose_config, job_from
from nst.data import hashes as hashing
from nst.data.batches import UnlabeledSamples
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.exclusion import ALIKE, SAME, exclude
from nst.data.hashes import hash_shards, look_hash, pixel_hash
from nst.data.images import decode
from nst.data.lookalikes import LARGEST_DISTANCE, Lookalikes
from nst.data.packed import PackedLabels
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import PredictionMetadata
from nst.data.remote import Remote
from nst.data.shards import ShardSet, index_tars, verify, write_shards
from nst.data.source import Sample
from nst.data.views import clean_view
from nst.documents import read_json
from nst.errors import NstError
from nst.flags import flags_as_options
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.efficientnet import Architecture, build
from nst.settings.data import Pictures
from nst.settings.job import ShardJob
from nst.sharing import take_lock
from nst.stages.exclude import evaluation_sets
from nst.training.teachers import Teacher, pseudo_labels


def picture(number: int, height: int = 150, width: int = 200) -> np.ndarray:
    """Random blobs of colour (H, W, 3) uint8: like a photograph, most of it is in the low frequencies."""
    rng = np.random.default_rng(number)
    pixels = sum(
        cv2.resize(rng.normal(0, 60 / size, (size, size, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        * size**0.5
        for size in (2, 4, 8, 16, 32)
    )
    return np.clip(128 + np.asarray(pixels), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray | Image.Image, quality: int = 90) -> bytes:
    return encode(image, "JPEG", quality=quality)


def image(number: int) -> Image.Image:
    return Image.fromarray(picture(number))


# ---- hashes


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("quality", lambda it: Image.open(_file(jpeg(it, 40)))),
        ("half the size", lambda it: it.resize((100, 75))),
        ("squeezed to a square", lambda it: it.resize((256, 256))),
        ("twice the size", lambda it: it.resize((400, 300))),
        ("brighter", lambda it: ImageEnhance.Brightness(it).enhance(1.15)),
        ("less contrast", lambda it: ImageEnhance.Contrast(it).enhance(0.7)),
        ("grey", lambda it: it.convert("L").convert("RGB")),
    ],
)
def test_copies_look_alike(name: str, change: Any):
    apart = []
    for number in range(20):
        copy = np.asarray(change(image(number)))
        apart.append(int(look_hash(picture(number)) ^ look_hash(copy)).bit_count())
        assert pixel_hash(copy) != pixel_hash(picture(number))
    assert np.mean(np.array(apart) <= 4) >= 0.9, apart


def _file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_different_pictures_do_not_look_alike():
    looks = np.array([look_hash(picture(number)) for number in range(300)], np.uint64)
    apart = np.bitwise_count(looks[:, None] ^ looks[None, :])[np.triu_indices(300, 1)]
    assert apart.min() > 4
    assert 28 < apart.mean() < 36


def test_the_pixel_hash_knows_size_and_every_pixel():
    one = picture(0)
    assert pixel_hash(one) == pixel_hash(one.copy())
    assert pixel_hash(one) != pixel_hash(one.reshape(200, 150, 3))
    other = one.copy()
    other[7, 5, 1] ^= 1
    assert pixel_hash(one) != pixel_hash(other)


def test_a_plain_picture_has_a_hash_of_its_own_kind():
    assert {look_hash(np.full((50, 50, 3), value, np.uint8)) for value in (0, 1, 77, 128, 255)} == {0}


# ---- the search


@settings(max_examples=40, deadline=None)
@given(st.integers(0, LARGEST_DISTANCE), st.integers(0, 2**32 - 1), st.booleans())
def test_the_search_finds_exactly_what_comparing_all_with_all_finds(distance: int, seed: int, crowded: bool):
    rng = np.random.default_rng(seed)
    known = rng.integers(0, 2**63, 40, dtype=np.uint64)
    if crowded:  # many share parts, and some are equal
        known &= np.uint64(0xFFFF0000FFFF0000)
        known[:5] = known[5]
    queries = known[rng.integers(0, 40, 60)]
    for query in range(60):
        for bit in rng.choice(64, int(rng.integers(0, 14)), replace=False):
            queries[query] ^= np.uint64(1) << np.uint64(bit)
    number, apart = Lookalikes(known, distance).nearest(queries)
    table = np.bitwise_count(queries[:, None] ^ known[None, :]).astype(int)
    near = table.min(axis=1) <= distance
    np.testing.assert_array_equal(number, np.where(near, table.argmin(axis=1), -1))
    np.testing.assert_array_equal(apart, np.where(near, table.min(axis=1), -1))


def test_distances_out_of_range_are_told():
    with pytest.raises(NstError, match="0 to 11"):
        Lookalikes(np.zeros(1, np.uint64), 12)


# ---- excluding


def evaluation(folder: Path, numbers: range = range(5)) -> ShardSet:
    samples = [Sample(f"val-{number}", jpeg(picture(number)), "jpg", 0) for number in numbers]
    return write_shards(folder, "test", samples, classes=("a", "b"), labeled=True, name="evaluation")


def img2dataset(folder: Path) -> ShardSet:
    """Shards as img2dataset writes them. Failed downloads are absent from tars, captions are inside."""
    content = {
        "00000": {"000000000": jpeg(picture(100)), "000000002": jpeg(picture(1)), "000000003": jpeg(picture(101))},
        "00001": {"000010000": jpeg(image(2).resize((120, 90)), 70), "000010004": jpeg(picture(102))},
        "00002": {"000020000": jpeg(picture(3))},
    }
    folder.mkdir(parents=True)
    for name, samples in content.items():
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for key, data in samples.items():
                add_file(archive, f"{key}.jpg", data)
                add_file(archive, f"{key}.txt", "a caption with ünicode".encode())
                add_file(archive, f"{key}.json", json.dumps({"key": key, "status": "success"}).encode())
        (folder / f"{name}.parquet").write_bytes(b"PAR1")
        (folder / f"{name}_stats.json").write_text('{"failed_to_download": 2}')
    return index_tars(folder)


def keys(shards: ShardSet) -> list[str]:
    return [key for position in range(len(shards.shards)) for key in shards.reader(position).keys]


def test_copies_and_look_alikes_of_evaluation_images_are_excluded_and_reported(tmp_path: Path):
    shards, known = img2dataset(tmp_path / "web"), evaluation(tmp_path / "test")
    tars = {path.name: path.read_bytes() for path in (tmp_path / "web").glob("*.tar")}
    report = exclude(shards, [known], tmp_path / "web", workers=1)
    pruned = ShardSet.open(tmp_path / "web")
    assert keys(pruned) == ["000000000", "000000003", "000010004"]
    assert (pruned.samples, pruned.excluded) == (3, 2), "a shard without an image left is not in the index"
    names = ("shard", "position", "key", "matched_key", "reason")
    assert [tuple(row[name] for name in names) for row in report["images"]] == [
        ("00000.tar", 1, "000000002", "val-1", SAME),
        ("00001.tar", 0, "000010000", "val-2", ALIKE),
        ("00002.tar", 0, "000020000", "val-3", SAME),
    ]  # fmt: skip
    assert report["images"][0]["distance"] == 0 <= report["images"][1]["distance"] <= 4
    assert report["images"][0]["matched_set"] == str(tmp_path / "test")
    assert (report["before"], report["excluded"], report["same_pixels"], report["look_alike"]) == (6, 3, 2, 1)
    assert read_json(tmp_path / "web" / "excluded.json") == report
    assert {path.name: path.read_bytes() for path in (tmp_path / "web").glob("*.tar")} == tars
    assert verify(tmp_path / "web")["excluded"] == 2


def test_the_digest_changes_with_what_is_excluded(tmp_path: Path):
    before, known = img2dataset(tmp_path / "web"), evaluation(tmp_path / "test")
    exclude(before, [known], tmp_path / "web", workers=1)
    pruned = ShardSet.open(tmp_path / "web")
    assert pruned.digest != before.digest
    assert pruned.whole_digest == before.digest


def test_without_a_distance_only_the_same_pixels_are_excluded(tmp_path: Path):
    shards, known = img2dataset(tmp_path / "web"), evaluation(tmp_path / "test")
    report = exclude(shards, [known], tmp_path / "web", distance=None, workers=1)
    assert [row["key"] for row in report["images"]] == ["000000002", "000020000"]


def test_no_stage_reads_an_excluded_image(tmp_path: Path):
    shards, known = img2dataset(tmp_path / "web"), evaluation(tmp_path / "test")
    exclude(shards, [known], tmp_path / "web", workers=1)
    pruned = ShardSet.open(tmp_path / "web")
    batches = EvaluationBatches(pruned, clean_view(32, Pictures()), batch_size=4)
    read = [batches[number] for number in range(len(batches))]
    assert [key for batch in read for key in batch["keys"]] == ["000000000", "000000003", "000010004"]
    assert [batch["bad"] for batch in read] == [[], []]


def test_excluding_again_adds_and_hashes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = img2dataset(tmp_path / "web")
    exclude(shards, [evaluation(tmp_path / "one", range(1, 2))], tmp_path / "web", workers=1)
    two = evaluation(tmp_path / "two", range(2, 4))
    decoded: list[int] = []
    monkeypatch.setattr(hashing, "decode", lambda data: decoded.append(len(data)) or decode(data))
    report = exclude(ShardSet.open(tmp_path / "web"), [two], tmp_path / "web", workers=1)
    assert len(decoded) == 2, "the evaluation images alone"
    assert (report["excluded"], report["excluded_earlier"]) == (2, 1)
    assert [row["key"] for row in report["images"]] == ["000000002", "000010000", "000020000"]
    assert keys(ShardSet.open(tmp_path / "web")) == ["000000000", "000000003", "000010004"]
    again = exclude(ShardSet.open(tmp_path / "web"), [two], tmp_path / "web", workers=1)
    assert again["excluded"] == 0
    assert len(again["images"]) == 3


def test_kept_hashes_of_a_shard_that_changed_are_made_anew(tmp_path: Path):
    shards = img2dataset(tmp_path / "web")
    list(hash_shards(shards, tmp_path / "kept", workers=1))
    with tarfile.open(tmp_path / "web" / "00002.tar", "w") as archive:
        add_file(archive, "000020009.jpg", jpeg(picture(4)))
    found = list(hash_shards(index_tars(tmp_path / "web"), tmp_path / "kept", workers=1))
    assert found[2].keys == ["000020009"]


def test_indexing_again_keeps_what_is_excluded_while_the_shard_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    shards, known = img2dataset(tmp_path / "web"), evaluation(tmp_path / "test")
    exclude(shards, [known], tmp_path / "web", workers=1)
    (tmp_path / "web" / "00002.tar").unlink()
    assert keys(index_tars(tmp_path / "web")) == ["000000000", "000000003", "000010004"]
    with tarfile.open(tmp_path / "web" / "00001.tar", "w") as archive:
        add_file(archive, "000010000.jpg", jpeg(picture(2)))
    assert keys(index_tars(tmp_path / "web"))[-1] == "000010000"
    assert "1 shards from which images were excluded are gone or have changed" in caplog.text


def test_indexing_again_brings_no_shard_back_that_lost_all_images(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    web, known = tmp_path / "web", evaluation(tmp_path / "test")
    exclude(img2dataset(web), [known], web, workers=1)
    with tarfile.open(web / "00003.tar", "w") as archive:  # another one has come
        add_file(archive, "000030000.jpg", jpeg(picture(103)))
    left = ["000000000", "000000003", "000010004", "000030000"]
    assert keys(index_tars(web)) == left
    exclude(ShardSet.open(web), [evaluation(tmp_path / "more", range(103, 104))], web, workers=1)
    assert keys(index_tars(web)) == left[:-1], "nor after another exclusion, which empties another one"
    assert [row["name"] for row in json.loads((web / "excluded.json").read_text())["emptied"]] == [
        "00002.tar", "00003.tar",
    ]  # fmt: skip
    assert not caplog.records
    with tarfile.open(web / "00002.tar", "w") as archive:  # the same name, another content
        add_file(archive, "000020001.jpg", jpeg(picture(4)))
    assert keys(index_tars(web)) == [*left[:-1], "000020001"]
    assert "1 shards from which images were excluded are gone or have changed" in caplog.text
    exclude(ShardSet.open(web), [known], web, workers=1)
    assert keys(index_tars(web)) == left[:-1]


def test_hashes_are_computed_only_a_few_shards_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    samples = [Sample(f"u-{number}", jpeg(picture(number, 30, 40)), "jpg", None) for number in range(20)]
    shards = write_shards(tmp_path, "u", samples, classes=(), labeled=False, name="u", samples_per_shard=1)
    submitted: list[str] = []

    class Threads(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: Any) -> None:
            super().__init__(workers)

        def submit(self, function: Any, /, one: ShardSet, *rest: Any) -> Any:
            submitted.append(one.shards[0].name)
            return super().submit(function, one, *rest)

    monkeypatch.setattr(hashing, "ProcessPoolExecutor", Threads)
    found: list[str] = []
    for number, hashes in enumerate(hash_shards(shards, workers=2)):
        assert len(submitted) <= number + 5
        found += hashes.keys
    assert found == [sample.key for sample in samples]


# ---- labels made before


def label(shards: ShardSet, folder: Path, teacher: str) -> Path:
    """Predictions as `nst label` writes them, over two classes."""
    files = PredictionFiles(folder, PredictionMetadata(teacher, ("a", "b"), 32, "", ""), 0.0)
    for number, shard in enumerate(shards.shards):
        found = shards.reader(number).keys
        probs = np.tile(np.array([0.9, 0.1], np.float32), (len(found), 1))
        files.write(shard, np.arange(len(found)), found, probs, [])
    return finish(folder)


@pytest.fixture
def labeled(tmp_path: Path) -> Teacher:
    """An online teacher that has labeled <tmp_path>/web, of which nothing was excluded, and selected all of it."""
    architecture = Architecture(0.25, 0.25, train_size=12, test_size=12, small_images=True, name="small")
    weights = tmp_path / "teacher.safetensors"
    info = NetworkInfo(architecture, ("a", "b"), image_size=12, train_size=12)
    save_network(weights, build(architecture, 2).state_dict(), info)
    predictions = label(img2dataset(tmp_path / "web"), tmp_path / "predictions", sha256_file(weights))
    select_from(predictions, tmp_path / "selection", images_per_class=6, allow_empty_classes=True)
    return Teacher(weights=weights, predictions=predictions, selection=tmp_path / "selection")


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_what_was_labeled_before_an_exclusion_is_refused(tmp_path: Path, labeled: Teacher, mode: str):
    web, teacher = tmp_path / "web", replace(labeled, mode=mode)
    whole = ShardSet.open(web)
    assert pseudo_labels(teacher, whole) is not None
    exclude(whole, [evaluation(tmp_path / "test", range(1, 2))], web, workers=1)
    pruned = ShardSet.open(web)
    assert [shard.sha256 for shard in pruned.shards] == [shard.sha256 for shard in whole.shards]
    with pytest.raises(NstError, match=r"made of other shards\n  got:   the same shards with other images excluded"):
        pseudo_labels(teacher, pruned)
    options = {"images_per_class": 6, "allow_empty_classes": True, "unlabeled": web}
    with pytest.raises(NstError, match=r"predictions in .* are of other shards\n  got:   the same shards with other"):
        select_from(labeled.predictions, tmp_path / "selection", **options)
    label(pruned, tmp_path / "again", sha256_file(labeled.weights))
    select_from(tmp_path / "again", tmp_path / "new", **options)
    teacher = replace(teacher, predictions=tmp_path / "again", selection=tmp_path / "new")
    found = pseudo_labels(teacher, pruned)
    assert found is not None
    assert {key for shard in pruned.shards for key in found.entries(shard.name).key} == set(keys(pruned))
    exclude(pruned, [evaluation(tmp_path / "more", range(100, 101))], web, workers=1)
    with pytest.raises(NstError, match="made of other shards"):
        pseudo_labels(teacher, ShardSet.open(web))


def test_predictions_of_packed_shards_are_refused_after_an_exclusion(tmp_path: Path, labeled: Teacher):
    whole = replace(ShardSet.open(tmp_path / "web"), classes=("a", "b"))
    assert PackedLabels(whole, {"targets": "soft"}, labeled.predictions).counts == [3, 2, 1]
    pruned = replace(whole, shards=(replace(whole.shards[0], excluded=(2,), samples=2), *whole.shards[1:]))
    with pytest.raises(
        NstError, match=r"are of other shards than .*\n  got:   00000\.tar has another content, or other"
    ):
        PackedLabels(pruned, {"targets": "soft"}, labeled.predictions)


def test_nst_select_looks_at_the_shards_that_data_unlabeled_names(tmp_path: Path, labeled: Teacher):
    web = tmp_path / "web"
    (tmp_path / "predictions" / "DONE").touch()
    options = [f"teacher.predictions={tmp_path / 'predictions'}",
               f"teacher.selection={tmp_path / 'new'}", f"data.unlabeled={web}", "select.allow_empty_classes=true",
               "select.images_per_class=6"]  # fmt: skip
    assert dispatch(["select", *options]) == 0
    exclude(ShardSet.open(web), [evaluation(tmp_path / "test", range(1, 2))], web, workers=1)
    with pytest.raises(NstError, match="are of other shards"):
        dispatch(["select", *options])


def test_an_image_in_the_place_of_a_selected_one_is_refused_with_an_online_teacher_too(
    tmp_path: Path, labeled: Teacher
):
    whole, view = ShardSet.open(tmp_path / "web"), clean_view(12, Pictures())
    labels = pseudo_labels(replace(labeled, mode="online"), whole)
    moved = replace(whole, shards=(replace(whole.shards[0], excluded=(0,), samples=2), *whole.shards[1:]))
    samples = UnlabeledSamples(moved, view, 0, labels, clean_view=view)
    with pytest.raises(NstError, match=r"is not what was labeled\n  got:   000000002 at 0\n  valid: 000000000 at 0"):
        samples.sample(0, 0, 0, [])
    assert "clean_image" in UnlabeledSamples(whole, view, 0, labels, clean_view=view).sample(0, 0, 0, [])


def test_processes_find_what_one_finds(tmp_path: Path):
    shards = img2dataset(tmp_path / "web")
    alone = list(hash_shards(shards, workers=1))
    together = list(hash_shards(shards, tmp_path / "kept", workers=2))
    for one, other in zip(alone, together, strict=True):
        assert one.keys == other.keys
        np.testing.assert_array_equal(one.looks, other.looks)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_undecodable_images_stay_and_labels_are_counted_anew(tmp_path: Path):
    samples = [Sample(f"u-{number}", jpeg(picture(number)), "jpg", number % 2) for number in range(4)]
    samples.append(Sample("u-bad", b"no picture", "jpg", 1))
    shards = write_shards(tmp_path / "set", "x", samples, classes=("a", "b"), labeled=True, name="x")
    assert shards.label_counts == (2, 3)
    exclude(shards, [evaluation(tmp_path / "test", range(1, 3))], tmp_path / "set", workers=1)
    pruned = ShardSet.open(tmp_path / "set")
    assert (keys(pruned), pruned.label_counts) == (["u-0", "u-3", "u-bad"], (1, 2))


def test_a_set_that_cannot_be_written_to_gets_its_index_elsewhere(tmp_path: Path):
    shards, known = img2dataset(tmp_path / "web"), evaluation(tmp_path / "test")
    index = (tmp_path / "web" / "index.json").read_bytes()
    place = f"file://{tmp_path / 'web'}"
    there = ShardSet.open(place, Remote(cache=str(tmp_path / "cache"), wait_s=0.01))
    exclude(there, [known], tmp_path / "pruned", workers=1)
    assert (tmp_path / "web" / "index.json").read_bytes() == index
    with pytest.raises(NstError, match=r"names a place outside[\s\S]*file://[\s\S]*remote\.shards_at="):
        ShardSet.open(tmp_path / "pruned", there.remote)
    named = replace(there.remote, shards_at=place)
    pruned = ShardSet.open(tmp_path / "pruned", named)
    assert pruned.place == place
    assert keys(pruned) == ["000000000", "000000003", "000010004"]
    more = exclude(there, [evaluation(tmp_path / "more", range(100, 101))], tmp_path / "pruned", workers=1)
    assert more["excluded_earlier"] == 2, "the index in the folder goes on from where it was"
    assert keys(ShardSet.open(tmp_path / "pruned", named)) == ["000000003", "000010004"]
    with pytest.raises(NstError, match="holds another shard set"):
        exclude(known, [shards], tmp_path / "pruned", workers=1)


def test_a_set_of_nothing_but_evaluation_images_is_not_emptied(tmp_path: Path):
    known = evaluation(tmp_path / "test")
    shutil.copytree(tmp_path / "test", tmp_path / "copy")
    with pytest.raises(NstError, match=r"all images of .* are evaluation images"):
        exclude(ShardSet.open(tmp_path / "copy"), [known], tmp_path / "copy", workers=1)
    assert ShardSet.open(tmp_path / "copy").samples == 5
    assert not (tmp_path / "copy" / "excluded.json").exists()


def one_pixel_off(shown: np.ndarray) -> np.ndarray:
    changed = decode(jpeg(shown))
    changed[0, 0] ^= 1
    return changed


@pytest.mark.parametrize(
    ("change", "distance", "advice"),
    [
        (lambda shown: jpeg(shown), 4, "add other unlabeled pictures"),
        (lambda shown: jpeg(shown), 0, "add other unlabeled pictures"),
        (lambda shown: encode(one_pixel_off(shown), "PNG"), 0, "shard.exclude_distance=null"),
        (lambda shown: jpeg(Image.fromarray(shown).resize((40, 31)), 30), LARGEST_DISTANCE, "shard.exclude_distance=0"),
    ],
)
def test_where_nothing_would_be_left_what_is_advised_leaves_something(
    tmp_path: Path, change: Any, distance: int, advice: str
):
    known = evaluation(tmp_path / "test")
    samples = [Sample(f"web-{number}", change(picture(number)), "jpg", None) for number in range(5)]
    shards = write_shards(tmp_path / "web", "unlabeled", samples, classes=(), labeled=False, name="web")
    with pytest.raises(NstError, match=r"all images of .* are evaluation images") as caught:
        exclude(shards, [known], tmp_path / "web", distance=distance, workers=1)
    assert advice in (caught.value.next or "")
    if "=" in advice:
        value = advice.partition("=")[2]
        exclude(shards, [known], tmp_path / "web", distance=None if value == "null" else int(value), workers=1)
        assert ShardSet.open(tmp_path / "web").samples


def test_two_exclusions_at_once_are_refused(tmp_path: Path):
    shards, known = img2dataset(tmp_path / "web"), evaluation(tmp_path / "test")
    with (
        take_lock(tmp_path / "web"),
        pytest.raises(NstError, match=rf"another process is working in {tmp_path / 'web'}"),
    ):
        exclude(shards, [known], tmp_path / "web", workers=1)
    assert ShardSet.open(tmp_path / "web") == shards


# ---- the command


def test_exclude_alone_means_test_and_where_there_is_one_validation(tmp_path: Path):
    options = ["stage=shard", f"data.root='{tmp_path}'", "shard.exclude=true"]
    job = job_from(ShardJob, compose_config(options))
    assert evaluation_sets(job) == [f"{tmp_path}/test"]
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "index.json").write_text("{}")
    assert evaluation_sets(job) == [f"{tmp_path}/test", f"{tmp_path}/validation"]
    job = job_from(ShardJob, compose_config([*options[:2], "shard.exclude=elsewhere"]))
    assert evaluation_sets(job) == ["elsewhere"]


def test_flags_take_the_value_behind_them():
    assert flags_as_options("shard", ["--exclude", "datasets/x/test", "data=digits"]) == [
        "shard.exclude=datasets/x/test", "data=digits",
    ]  # fmt: skip
    assert flags_as_options("shard", ["--exclude=a/b=c", "d"]) == ["shard.exclude=a/b=c", "d"]
    assert flags_as_options("shard", ["--verify", "data=digits"]) == ["shard.verify=true", "data=digits"]
    assert flags_as_options("shard", ["--exclude", "--verify", "~data.x"]) == [
        "shard.exclude=true", "shard.verify=true", "~data.x",
    ]  # fmt: skip


def test_index_and_exclude_in_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    img2dataset(tmp_path / "web")
    (tmp_path / "web" / "index.json").unlink()
    evaluation(tmp_path / "test")
    options = ["shard.workers=1", f"shard.index={tmp_path / 'web'}"]
    assert dispatch(["shard", "--exclude", str(tmp_path / "test"), *options]) == 0
    out = capsys.readouterr().out
    assert "index.json for 3 tars, 6 images" in out
    assert "3 of 6 images excluded (50.000%): 2 with the pixels of an evaluation image, 1 that look like one" in out
    assert "000010000 = val-2 (looks alike" in out
    assert keys(ShardSet.open(tmp_path / "web")) == ["000000000", "000000003", "000010004"]


def test_exclude_alone_takes_the_test_set_out_of_the_unlabeled_set(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "digits"
    shutil.copytree(digits, root)
    test, unlabeled = ShardSet.open(root / "test"), ShardSet.open(root / "unlabeled")
    # the unlabeled set holds what is also a test image
    twice = [Sample(f"again-{number}", test.reader(0).read(number)[1]["png"], "png", None) for number in range(3)]
    others = [Sample(key, fields["png"], "png", None) for key, fields in unlabeled.reader(0)]
    shutil.rmtree(root / "unlabeled")
    write_shards(root / "unlabeled", "unlabeled", [*twice, *others], classes=(), labeled=False, name="x")
    options = ["shard.workers=1", f"data.root={root}", "shard.exclude_distance=null"]
    assert dispatch(["shard", "--exclude", *options]) == 0
    left = keys(ShardSet.open(root / "unlabeled"))
    assert len(left) == 80
    assert not [key for key in left if key.startswith("again")]
    assert "3 of 83 images excluded" in capsys.readouterr().out
    assert dispatch(["shard", "--verify", *options]) == 0
    assert "80 images in 1 shard, as index.json lists them, 3 excluded ones left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exclude", "data.test=null"], r"data\.test names no shards\n  got:   null[\s\S]*next:  data\.test="),
        (["--exclude=x", "data.unlabeled=null"], r"data\.unlabeled names no shards"),
        (["shard.exclude=3"], r"no such shard folder: 3\n"),
        (["shard.exclude=[null]"], r"shard\.exclude cannot be \[None\]"),
    ],
)
def test_excluding_without_shards_is_refused_before_anything_is_indexed(
    tmp_path: Path, options: list[str], message: str
):
    img2dataset(tmp_path / "web")
    (tmp_path / "web" / "index.json").unlink()
    more = [] if "data.unlabeled=null" in options else [f"shard.index={tmp_path / 'web'}"]
    with pytest.raises(NstError, match=message):
        dispatch(["shard", *options, *more])
    assert not (tmp_path / "web" / "index.json").exists()


def test_a_finished_nst_shard_is_still_recognised_after_excluding(tmp_path: Path, digits: Path):
    from conftest import TINY

    root = tmp_path / "digits"
    options = [option for option in TINY if option.startswith(("experiment", "data", "shard"))]
    assert dispatch(["shard", *options, f"data.root={root}"]) == 0
    before = ShardSet.open(root / "unlabeled").samples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "look_hash", lambda pixels: int(pixels.sum()) % 211)
        dispatch(["shard", "--exclude", *options, f"data.root={root}", "shard.workers=1", "shard.exclude_distance=0"])
    left = ShardSet.open(root / "unlabeled").samples
    assert left < before
    assert dispatch(["shard", *options, f"data.root={root}"]) == 0
    assert ShardSet.open(root / "unlabeled").samples == left
