"""What is told of a selection before a student trains on it, against what turns out to be true."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import encode, noise, select_from

from nst.cli import run_stage
from nst.data import forecast
from nst.data.forecast import ValidationAnswers, how_right
from nst.data.prediction_files import write_predictions
from nst.data.predictions import PredictionMetadata, Predictions, finish_predictions, parquet_name
from nst.data.shards import write_shards
from nst.data.source import Sample
from nst.errors import NstError

CLASSES = 4
PRECISION = np.array([0.95, 0.9, 0.6, 0.75])  # of a teacher's sure answers, by the class that it says
NAMES = [f"class {c}" for c in range(CLASSES)]


def world(count, rng, frequency):
    """Answers of a teacher to `count` pictures, right as often as its class and confidence say."""
    label = rng.choice(CLASSES, count, p=frequency)
    confidence = rng.uniform(0.3, 1, count).astype(np.float32)
    right = rng.random(count) < PRECISION[label] - 0.5 * (1 - confidence)
    return ValidationAnswers(label, confidence, np.where(right, label, (label + 1) % CLASSES))


def test_intervals_hold_what_turns_out_to_be_right():
    """Over 300 validation sets: the mean is right, and 95 % intervals hold it about 95 times in 100."""
    rng = np.random.default_rng(0)
    lowest, copies = np.full(CLASSES, 0.7), np.array([100, 100, 100, 100])
    confidence = (1 + 0.7) / 2
    truth = float((PRECISION - 0.5 * (1 - confidence)).mean())
    for pictures in (60, 400):
        found = [how_right(world(pictures, rng, [0.4, 0.3, 0.2, 0.1]), lowest, copies)[0] for _ in range(300)]
        assert np.mean([right.share for right in found]) == pytest.approx(truth, abs=0.02)
        held = np.mean([right.low <= truth <= right.high for right in found])
        assert 0.9 <= held <= 0.995, pictures
        assert all(0 <= right.low <= right.share <= right.high <= 1 for right in found)


def test_only_pictures_that_would_be_selected_count():
    answers = ValidationAnswers(
        np.array([0, 0, 1, 1]), np.array([0.9, 0.5, 0.9, 0.6], np.float32), np.array([0, 1, 0, 1])
    )
    right, per_class = how_right(answers, np.array([0.8, 0.8]), np.array([10, 10]))
    assert right is not None
    assert right.pictures == 2
    np.testing.assert_array_equal(per_class, [[1, 1], [0, 1]])
    assert how_right(answers, np.array([0.95, 0.95]), np.array([10, 10]))[0] is None
    assert how_right(answers, np.array([np.inf, np.inf]), np.array([0, 0]))[0] is None


def test_classes_weigh_as_the_selection_shows_them():
    answers = ValidationAnswers(np.repeat([0, 1], 200), np.full(400, 0.9, np.float32), np.repeat([0, 0], 200))
    for copies, share in (([100, 0], 1.0), ([0, 100], 0.0), ([50, 50], 0.5)):
        right, _ = how_right(answers, np.array([0.5, 0.5]), np.array(copies))
        assert right is not None
        assert right.share == pytest.approx(share, abs=0.01)


def told(answers, *, selected=(100, 100, 100, 100), said=(100, 100, 100, 100), labeled=(10, 10, 10, 10)):
    per_class = [
        {"lowest_confidence": 0.3 if copies else None, "copies_total": copies, "labeled": count}
        for copies, count in zip(selected, said, strict=True)
    ]
    return forecast.forecast(NAMES, per_class, labeled, answers)


def test_a_right_and_even_selection_is_not_warned_of():
    label = np.arange(200) % CLASSES
    found = told(ValidationAnswers(label, np.full(200, 0.9, np.float32), label))
    assert forecast.warnings(found, 0.3) == []
    assert "100 % right (95 % interval 9" in forecast.summary(found)
    assert forecast.table(NAMES, found).splitlines()[1].split() == [
        "class",
        "0",
        "25.0",
        "25.0",
        "25.0",
        "50",
        "of",
        "50",
    ]


def test_wrong_uneven_and_missing_are_told_apart():
    label = np.arange(200) % CLASSES
    truth = np.where(np.arange(200) % 10 < 3, (label + 1) % CLASSES, label)
    wrong = ValidationAnswers(label, np.full(200, 0.9, np.float32), truth)
    assert "are too often wrong: 70 % right" in forecast.warnings(told(wrong), 0.3)[0]
    assert forecast.warnings(told(wrong), 0.3)[0].endswith(": more labels, or select.min_confidence=0.9 overwrite=true")
    assert forecast.warnings(told(wrong), 0.9)[0].endswith(": more labels"), "it was followed already"
    few = ValidationAnswers(label[3:13], wrong.confidence[3:13], truth[3:13])
    assert "may well be too often wrong" in forecast.warnings(told(few), 0.3)[0]
    uneven = forecast.warnings(told(None, said=(700, 100, 100, 100)), 0.3)
    assert len(uneven) == 1
    assert "45 % of its entries" in uneven[0]
    missing = forecast.warnings(told(None, selected=(100, 100, 100, 0)), 0.3)
    assert [line for line in missing if "1 of the classes: 'class 3'" in line]


def test_without_validation_pictures_nothing_is_claimed():
    found = told(None, labeled=None)
    assert (found["right"], found["per_class"]) == (None, [[0, 0]] * CLASSES)
    assert "unknown without validation pictures (data.validation_samples=10" in forecast.summary(found)


def test_tables_are_narrow_and_show_what_moves_most():
    classes = [f"a class with quite a long name {c}" for c in range(60)]
    said = np.full(60, 100)
    said[37] = 9000
    per_class = [{"lowest_confidence": 0.3, "copies_total": 10, "labeled": int(count)} for count in said]
    lines = forecast.table(classes, forecast.forecast(classes, per_class, None, None)).splitlines()
    assert len(lines) == 1 + forecast.SHOWN_CLASSES
    assert max(map(len, lines)) < 80
    assert lines[1].split()[-4:] == ["–", "60.4", "1.7", "–"]


def labeled_by(folder, shards, label, confidence, *, teacher="t" * 64):
    """Predictions of shards, as `nst label` leaves them."""
    at = 0
    for shard in shards.shards:
        rows = np.arange(at, at + shard.samples)
        probs = np.full((len(rows), CLASSES), 0.0, np.float32)
        probs[:] = ((1 - confidence[rows]) / (CLASSES - 1))[:, None]
        probs[np.arange(len(rows)), label[rows]] = confidence[rows]
        write_predictions(
            folder / parquet_name(shard.name), index=np.arange(len(rows)), keys=[f"{i:06d}" for i in rows],
            probs=probs, metadata=PredictionMetadata(teacher, NAMES, 8, shard.name, shard.sha256), keep=0.0,
        )  # fmt: skip
        at += shard.samples
    finish_predictions(folder, {"images": at})
    (folder / "DONE").touch()


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(1)
    answers = world(120, rng, np.full(CLASSES, 1 / CLASSES))
    image = encode(noise(4, 4), "PNG")
    samples = [Sample(f"{i:06d}", image, "png", int(truth)) for i, truth in enumerate(answers.truth)]
    written = write_shards(
        tmp_path / "validation", "v", samples, classes=NAMES, labeled=True, name="v", samples_per_shard=50
    )
    return written, answers


def test_select_reads_the_true_classes_of_the_validation_pictures(tmp_path, shards):
    validation, answers = shards
    labeled_by(tmp_path / "p", validation, answers.label, answers.confidence)
    labeled_by(tmp_path / "p" / "validation", validation, answers.label, answers.confidence)
    options = {"images_per_class": 12, "validation": str(tmp_path / "validation")}
    found = select_from(tmp_path / "p", tmp_path / "s", **options)["forecast"]
    read = ValidationAnswers.of(Predictions.open(tmp_path / "p" / "validation"), validation)
    np.testing.assert_array_equal(read.truth, answers.truth)
    np.testing.assert_array_equal(read.label, answers.label)
    assert found["validation_pictures"] == 120
    assert found["right"]["pictures"] == 48  # the same pictures were selected: 12 of each class
    assert select_from(tmp_path / "p", tmp_path / "none", images_per_class=12)["forecast"]["right"] is None
    labeled_by(tmp_path / "q", validation, answers.label, answers.confidence)
    labeled_by(tmp_path / "q" / "validation", validation, answers.label, answers.confidence, teacher="u" * 64)
    with pytest.raises(NstError, match="by another teacher"):
        select_from(tmp_path / "q", tmp_path / "other", **options)


@pytest.mark.parametrize("wrong", [0.6, 0])
def test_the_command_warns_of_labels_that_are_too_often_wrong(tmp_path, shards, capsys, wrong):
    validation, answers = shards
    label = np.where(np.arange(120) % 10 < 10 * wrong, (answers.truth + 1) % CLASSES, answers.truth)
    for folder in (tmp_path / "p", tmp_path / "p" / "validation"):
        labeled_by(folder, validation, label, answers.confidence)
    run_stage("select", [
        f"teacher.predictions={tmp_path / 'p'}", f"teacher.selection={tmp_path / 's'}", f"data.root={tmp_path}",
        f"data.labeled={tmp_path / 'validation'}", f"data.unlabeled={tmp_path / 'validation'}",
        "select.images_per_class=12",
    ])  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    found = re.search(r"warning: the selected labels are too often wrong: (\d+) % right", said)
    if wrong:
        assert found, said
        assert int(found[1]) < 60
    else:
        assert not found, said


def test_prior_labeled_keeps_the_proportions_of_the_labels(tmp_path, shards):
    validation, answers = shards
    labeled_by(tmp_path / "p", validation, answers.label, answers.confidence)
    counts = np.array(validation.label_counts)
    options = {"prior": "labeled", "labeled": tmp_path / "validation", "allow_empty_classes": True}
    for per_class in (1000, None):
        result = select_from(tmp_path / "p", tmp_path / f"{per_class}", images_per_class=per_class, **options)
        total = CLASSES * per_class if per_class else 120
        selected = np.array(result["forecast"]["shares"]["selected"])
        assert result["totals"]["copies"] == pytest.approx(total, abs=CLASSES / 2)
        np.testing.assert_allclose(selected, counts / counts.sum(), atol=1.5 / total)
    with pytest.raises(NstError, match=r"select\.prior=labeled needs the labeled images(.|\n)*data\.labeled="):
        select_from(tmp_path / "p", tmp_path / "x", prior="labeled")
