"""Prediction files: what is written reads back, and labels of two teachers or class lists do not mix."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import CLASSES, finish, metadata, three_shards, write_random_predictions
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.data.prediction_files import write_predictions
from nst.data.predictions import Predictions, key_hashes, parquet_name
from nst.errors import NstError


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
    index, keys, probs = write_random_predictions(folder, 4, count=count, keep=keep, seed=seed, classes=names)
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
    assert predictions.shards["unlabeled-000004.tar"].samples == predictions.samples == len(index)
    hashes = pq.read_table(predictions.shards["unlabeled-000004.tar"].path)["key_hash"].to_numpy()
    np.testing.assert_array_equal(hashes, key_hashes(keys))


def test_confidence_is_not_rounded_to_float16(tmp_path):
    probs = np.array([[0.3001, 0.2999, 0.2, 0.2]], np.float32)  # equal in float16
    about = metadata()
    path = tmp_path / parquet_name(about.shard_name)
    write_predictions(path, index=np.array([0]), keys=["k"], probs=probs, metadata=about, keep=0.3)
    found = Predictions.open(finish(tmp_path)).read(about.shard_name)
    assert found["confidence"][0] == probs[0, 0]
    assert found["confidence"][0] != np.float32(found["probs"][0, 0])


def test_files_name_teacher_classes_and_shard(tmp_path):
    write_random_predictions(tmp_path, 7, extra={"targets": "soft"})
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
    write_random_predictions(tmp_path)
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
    write_random_predictions(tmp_path, 0)
    write_random_predictions(tmp_path, 1, **change)
    with pytest.raises(NstError, match=says):
        Predictions.open(finish(tmp_path))


def test_a_copied_file_would_count_images_twice_and_is_refused(tmp_path):
    write_random_predictions(tmp_path, 0)
    (tmp_path / "copy.parquet").write_bytes((tmp_path / "unlabeled-000000.parquet").read_bytes())
    with pytest.raises(NstError, match="both in"):
        Predictions.open(finish(tmp_path))


def test_many_shards_share_one_class_list(tmp_path):
    three_shards(tmp_path)
    shards = Predictions.open(tmp_path).shards.values()
    assert len({id(shard.classes) for shard in shards}) == 1


def test_damaged_file_is_named(tmp_path):
    write_random_predictions(tmp_path, 0)
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
