"""Prediction and selection files: what is written reads back, and nothing is mixed up."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.data.pseudo_labels import (
    PredictionMetadata,
    Predictions,
    PseudoLabels,
    parquet_name,
    write_predictions,
)
from nst.errors import NstError
from nst.stages import select

CLASSES = ["ant", "bee", "cat", "dog"]


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def metadata(number=0, **changes):
    name = f"unlabeled-{number:06d}.tar"
    values = {"teacher_sha256": "a" * 64, "classes": CLASSES, "image_size": 64, "shard_name": name}
    return PredictionMetadata(**{**values, "shard_sha256": f"{number:064d}", **changes})


def write(folder, number=0, *, count=50, scale=2.0, keep=0.3, seed=None, **changes):
    """A shard of random predictions, of which every third sample could not be decoded; returns its arrays."""
    about = metadata(number, **changes)
    rng = np.random.default_rng(number if seed is None else seed)
    index = np.delete(np.arange(count), np.arange(0, count, 3))
    keys = [f"{number}-{i}" for i in index]
    probs = softmax(rng.normal(size=(len(index), len(about.classes))) * scale)
    path = folder / parquet_name(about.shard_name)
    write_predictions(path, index=index, keys=keys, probs=probs, metadata=about, keep=keep)
    return index, keys, probs


def finish(folder):
    (folder / "predictions.json").write_text("{}")
    return folder


def three_shards(folder, **changes):
    written = {metadata(n).shard_name: write(folder, n, **changes) for n in range(3)}
    finish(folder)
    return written


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    count=st.integers(0, 12),
    keep=st.sampled_from([0.0, 0.5, 1.1]),
    classes=st.integers(1, 9),
)
def test_predictions_read_back_as_written(tmp_path_factory, seed, count, keep, classes):
    folder = tmp_path_factory.mktemp("predictions")
    names = [f"c{i}" for i in range(classes)]
    index, keys, probs = write(folder, 4, count=count, keep=keep, seed=seed, classes=names)
    predictions = Predictions.open(finish(folder))
    found = predictions.read("unlabeled-000004.tar")
    np.testing.assert_array_equal(found["index"], index)
    assert found["key"].tolist() == keys
    np.testing.assert_array_equal(found["label"], probs.argmax(axis=1))
    np.testing.assert_array_equal(found["confidence"], probs.max(axis=1))
    kept = probs.max(axis=1) >= keep
    np.testing.assert_array_equal(found["probs"][kept], probs[kept].astype(np.float16))
    assert np.isnan(found["probs"][~kept]).all()
    types = {name: found[name].dtype for name in ("index", "label", "confidence", "probs")}
    assert types == {"index": np.uint32, "label": np.uint16, "confidence": np.float32, "probs": np.float16}
    assert predictions.shards["unlabeled-000004.tar"].samples == len(index)


def test_confidence_is_not_rounded_to_float16(tmp_path):
    probs = np.array([[0.3001, 0.2999, 0.2, 0.2]], np.float32)  # equal in float16
    about = metadata()
    path = tmp_path / parquet_name(about.shard_name)
    write_predictions(path, index=np.array([0]), keys=["k"], probs=probs, metadata=about, keep=0.3)
    found = Predictions.open(finish(tmp_path)).read(about.shard_name)
    assert found["confidence"][0] == probs[0, 0]
    assert found["confidence"][0] != np.float32(found["probs"][0, 0])


def test_files_name_teacher_classes_and_shard(tmp_path):
    write(tmp_path, 7, extra={"targets": "soft"})
    footer = json.loads(pq.read_metadata(tmp_path / "unlabeled-000007.parquet").metadata[b"nst"])
    assert footer["teacher"] == "a" * 64
    assert footer["classes"] == CLASSES
    assert footer["shard"] == {"name": "unlabeled-000007.tar", "sha256": f"{7:064d}"}
    assert (footer["image_size"], footer["keep"], footer["config"]) == (64, 0.3, {"targets": "soft"})


def test_digest_follows_the_rows_even_those_not_visible_in_statistics(tmp_path):
    digests = set()
    about = metadata()
    for change in (0.0, 1e-2):  # moves between two classes that are neither first nor confident
        probs = np.array([[0.9, 0.06 - change, 0.02 + change, 0.02]], np.float32)
        path = tmp_path / str(change) / parquet_name(about.shard_name)
        for _ in range(2):
            write_predictions(path, index=np.array([0]), keys=["k"], probs=probs, metadata=about, keep=0.3)
            digests.add(Predictions.open(finish(path.parent)).shards[about.shard_name].digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([np.nan, 0.5, 0.3, 0.2], "not a probability distribution"),
        ([2.0, -1.0, 0.0, 0.0], "smallest -1"),
        ([3.0, 1.5, 0.2, 0.1], "sum 4.8"),  # logits
        ([0.5, 0.5], "2 probabilities per image, 4 classes"),
    ],
)
def test_what_is_no_distribution_is_refused(tmp_path, row, says):
    path = tmp_path / "x.parquet"
    with pytest.raises(NstError, match=says):
        write_predictions(path, index=np.array([5]), keys=["k"], probs=np.array([row]), metadata=metadata(), keep=0.3)
    assert list(tmp_path.iterdir()) == []


def test_index_must_increase(tmp_path):
    probs = np.full((2, 4), 0.25)
    for index in ([1, 1], [2, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="increasing"):
            write_predictions(
                tmp_path / "x",
                index=np.array(index),
                keys=["a", "b"],
                probs=probs,
                metadata=metadata(),
                keep=0,
            )


def test_unfinished_folder_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(NstError, match=r"1 Parquet files, no predictions\.json(.|\n)*nst label"):
        Predictions.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher_sha256": "b" * 64}, "teacher a{64} in unlabeled-000000.*, b{64} in unlabeled-000001"),
        ({"classes": ["ant", "bee", "cow", "dog"]}, "class 2 is 'cow' instead of 'cat'"),
        ({"classes": CLASSES[:3]}, "3 classes instead of 4"),
    ],
)  # fmt: skip
def test_labels_of_two_teachers_or_class_lists_do_not_mix(tmp_path, change, says):
    write(tmp_path, 0)
    write(tmp_path, 1, **change)
    with pytest.raises(NstError, match=says):
        Predictions.open(finish(tmp_path))


def test_a_copied_file_would_count_images_twice_and_is_refused(tmp_path):
    write(tmp_path, 0)
    (tmp_path / "copy.parquet").write_bytes((tmp_path / "unlabeled-000000.parquet").read_bytes())
    with pytest.raises(NstError, match="both in"):
        Predictions.open(finish(tmp_path))


def test_damaged_file_is_named(tmp_path):
    write(tmp_path, 0)
    path = tmp_path / "unlabeled-000000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NstError, match=r"unlabeled-000000\.parquet is not a predictions file"):
        Predictions.open(finish(tmp_path))


def test_require_names_the_first_difference(tmp_path):
    three_shards(tmp_path)
    predictions = Predictions.open(tmp_path)
    predictions.require(classes=CLASSES, teacher="a" * 64)
    with pytest.raises(NstError, match="class 1 is 'bee' instead of 'elk'"):
        predictions.require(classes=["ant", "elk", "cat", "dog"])
    with pytest.raises(NstError, match=r"(?s)a{64}.*c{64}.*nst label"):
        predictions.require(teacher="c" * 64)
    with pytest.raises(NstError, match=r"did you mean 'unlabeled-000002\.tar'"):
        predictions.read("unlabeled-00002.tar")


@pytest.fixture
def folders(tmp_path):
    """predictions, selection and what was written into the first."""
    written = three_shards(tmp_path / "p")
    select.run(tmp_path / "p", tmp_path / "s", images_per_class=40, min_confidence=0.5)
    return tmp_path / "p", tmp_path / "s", written


def test_entries_repeat_every_image_by_its_copies(folders):
    predictions, selection, _ = folders
    labels = PseudoLabels(selection, predictions)
    assert labels.shards == [f"unlabeled-{n:06d}.tar" for n in range(3)]
    assert len(labels) == sum(labels.counts) == 40 * len(CLASSES)
    for name, count in zip(labels.shards, labels.counts, strict=True):
        entries = labels.entries(name)
        table = pq.read_table(selection / parquet_name(name)).to_pylist()
        expected = [(r["index"], c, r["key"], r["label"]) for r in table for c in range(r["copies"])]
        found = list(zip(entries.index, entries.copy, entries.key, entries.label, strict=True))
        assert found == expected
        assert len(entries) == count == len(expected)


def test_soft_targets_are_the_teachers_distributions_by_key(folders):
    predictions, selection, written = folders
    labels = PseudoLabels(selection, predictions, targets="soft")
    for name in labels.shards:
        _, keys, probs = written[name]
        entries = labels.entries(name)
        theirs = probs[[keys.index(key) for key in entries.key]]
        assert entries.probs.dtype == np.float32
        np.testing.assert_allclose(entries.probs, theirs, atol=6e-4)
        np.testing.assert_allclose(entries.probs.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(entries.target(3), entries.probs[3])
        np.testing.assert_array_equal(entries.label, theirs.argmax(axis=1))


def test_float16_probabilities_are_renormalised(tmp_path):
    classes = [f"c{i}" for i in range(1000)]
    write(tmp_path / "p", count=90, scale=0.1, keep=0.0, classes=classes)
    finish(tmp_path / "p")
    select.run(tmp_path / "p", tmp_path / "s", min_confidence=0.0, images_per_class=1, allow_empty_classes=True)
    stored = Predictions.open(tmp_path / "p").read("unlabeled-000000.tar")["probs"].astype(np.float32)
    assert np.abs(stored.sum(axis=1) - 1).max() > 1e-6  # so there is something to renormalise
    probs = PseudoLabels(tmp_path / "s", tmp_path / "p").entries("unlabeled-000000.tar").probs
    assert np.abs(probs.sum(axis=1, dtype=np.float64) - 1).max() < 1e-6


def test_hard_targets_need_no_predictions(folders):
    _, selection, written = folders
    labels = PseudoLabels(selection, None, targets="hard")
    entries = labels.entries(labels.shards[1])
    _, keys, probs = written[labels.shards[1]]
    assert entries.probs is None
    assert [entries.target(i) for i in range(len(entries))] == [probs[keys.index(k)].argmax() for k in entries.key]
    with pytest.raises(NstError, match="soft targets"):
        PseudoLabels(selection, None, targets="soft")


def test_soft_targets_that_were_not_stored_are_noticed_at_once(tmp_path):
    three_shards(tmp_path / "p", keep=0.8)
    select.run(tmp_path / "p", tmp_path / "s", images_per_class=40)
    with pytest.raises(NstError, match=r"label\.keep=0\.8"):
        PseudoLabels(tmp_path / "s", tmp_path / "p")
    assert len(PseudoLabels(tmp_path / "s", tmp_path / "p", targets="hard")) == 160
    select.run(tmp_path / "p", tmp_path / "strict", images_per_class=40, min_confidence=0.8)
    assert len(PseudoLabels(tmp_path / "strict", tmp_path / "p")) == 160


def test_other_teachers_labels_are_used_only_to_reassign(folders, tmp_path):
    _, selection, _ = folders
    better = {metadata(n).shard_name: write(tmp_path / "q", n, seed=9 + n, keep=0, teacher_sha256="b" * 64)
              for n in range(3)}  # fmt: skip
    finish(tmp_path / "q")
    with pytest.raises(NstError, match="another teacher"):
        PseudoLabels(selection, tmp_path / "q")
    soft = PseudoLabels(selection, tmp_path / "q", reassign=True)
    hard = PseudoLabels(selection, tmp_path / "q", targets="hard", reassign=True)
    for name in soft.shards:
        _, keys, probs = better[name]
        theirs = probs[[keys.index(key) for key in soft.entries(name).key]]
        np.testing.assert_allclose(soft.entries(name).probs, theirs, atol=6e-4)
        np.testing.assert_array_equal(hard.entries(name).label, theirs.argmax(axis=1))
        assert hard.entries(name).probs is None


def test_reassigning_teacher_that_kept_too_little_is_noticed(folders, tmp_path):
    _, selection, _ = folders
    three_shards(tmp_path / "q", keep=1.1, teacher_sha256="b" * 64)
    labels = PseudoLabels(selection, tmp_path / "q", reassign=True)
    with pytest.raises(NstError, match=r"selected images of unlabeled-000000\.tar"):
        labels.entries("unlabeled-000000.tar")


def test_selection_of_images_that_were_relabeled_under_other_keys_is_refused(folders, tmp_path):
    predictions, selection, written = folders
    name = "unlabeled-000001.tar"
    index, keys, probs = written[name]
    renamed = [f"new-{key}" for key in keys]
    write_predictions(
        predictions / parquet_name(name),
        index=index,
        keys=renamed,
        probs=probs,
        metadata=metadata(1),
        keep=0.3,
    )
    labels = PseudoLabels(selection, predictions)
    labels.entries("unlabeled-000000.tar")
    with pytest.raises(NstError, match="name different images"):
        labels.entries(name)


def test_unfinished_selection_is_refused(folders):
    predictions, selection, _ = folders
    with pytest.raises(NstError, match="unknown targets, did you mean 'soft'"):
        PseudoLabels(selection, predictions, targets="sofd")
    with pytest.raises(NstError, match="is not in"):
        PseudoLabels(selection, predictions).entries("nothing.tar")
    (selection / "selection.json").unlink()
    with pytest.raises(NstError, match="not a finished selection"):
        PseudoLabels(selection, predictions)
