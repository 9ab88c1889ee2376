"""What the student reads: every selected image as often as it was selected, with its own teacher's labels."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import CLASSES, finish, metadata, select_from, three_shards, write_random_predictions

from nst.data import selected
from nst.data.prediction_files import write_predictions
from nst.data.predictions import Predictions, parquet_name
from nst.data.pseudo_labels import PseudoLabels
from nst.errors import NstError


@pytest.fixture
def folders(tmp_path):
    """predictions, selection and what was written into the first."""
    written = three_shards(tmp_path / "p")
    select_from(tmp_path / "p", tmp_path / "s", images_per_class=40, min_confidence=0.5)
    return tmp_path / "p", tmp_path / "s", written


def test_entries_repeat_every_image_by_its_copies(folders):
    predictions, selection, _ = folders
    labels = PseudoLabels(selection, predictions)
    assert labels.shards == [f"unlabeled-{n:06d}.tar" for n in range(3)]
    assert len(labels) == sum(labels.counts) == 40 * len(CLASSES)
    for name, count in zip(labels.shards, labels.counts, strict=True):
        entries = labels.entries(name)
        entry = next(shard for shard in labels.summary["shards"] if shard["name"] == name)
        table = selected.read(selection, labels.summary, entry, selected.SCHEMA.names).to_pylist()
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
    write_random_predictions(tmp_path / "p", count=90, scale=0.1, keep=0.0, classes=classes)
    finish(tmp_path / "p")
    select_from(tmp_path / "p", tmp_path / "s", min_confidence=0.0, images_per_class=1, allow_empty_classes=True)
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
    select_from(tmp_path / "p", tmp_path / "s", images_per_class=40)
    with pytest.raises(NstError, match=r"label\.keep=0\.8"):
        PseudoLabels(tmp_path / "s", tmp_path / "p")
    assert len(PseudoLabels(tmp_path / "s", tmp_path / "p", targets="hard")) == 160
    select_from(tmp_path / "p", tmp_path / "strict", images_per_class=40, min_confidence=0.8)
    assert len(PseudoLabels(tmp_path / "strict", tmp_path / "p")) == 160


def test_other_teachers_labels_are_used_only_to_reassign(folders, tmp_path):
    _, selection, _ = folders
    better = {}
    for n in range(3):
        arrays = write_random_predictions(tmp_path / "q", n, seed=9 + n, keep=0, teacher_sha256="b" * 64)
        better[metadata(n).shard_name] = arrays
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
    finish(predictions)
    with pytest.raises(NstError, match="made from other predictions"):
        PseudoLabels(selection, predictions)
    # whoever reassigns brings other predictions on purpose; they must still be of the same images
    labels = PseudoLabels(selection, predictions, reassign=True)
    labels.entries("unlabeled-000000.tar")
    with pytest.raises(NstError, match="name different images"):
        labels.entries(name)


def test_unfinished_selection_is_refused(folders):
    predictions, selection, _ = folders
    with pytest.raises(NstError, match="is not in"):
        PseudoLabels(selection, predictions).entries("nothing.tar")
    (selection / "selection.json").unlink()
    with pytest.raises(NstError, match="not a finished selection"):
        PseudoLabels(selection, predictions)
