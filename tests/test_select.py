"""Selection against the released filter and the paper's words, and its invariances."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import finish, golden_arrays, select_from
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.config import compose_config
from nst.data import cutoffs, prediction_files, predictions, selected, selection, truth
from nst.data.cutoffs import Exact
from nst.data.prediction_files import footer_of
from nst.data.predictions import PredictionMetadata, key_hashes, parquet_name
from nst.data.pseudo_labels import PseudoLabels
from nst.data.selected import SCHEMA
from nst.data.selection import BINS, tickets
from nst.documents import read_json
from nst.errors import NstError
from nst.stages import select

GOLDEN = golden_arrays("balance.npz")
K = 130


def write_folder(folder, label, confidence, *, classes=20, shards=3, keys=None, order=None, teacher="t" * 64, keep=0.0):
    """A predictions folder of given labels and confidences, cut into shards after an optional reordering."""
    keys = np.array([f"image{i:06d}" for i in range(len(label))] if keys is None else keys, dtype=object)
    order = np.arange(len(label)) if order is None else order
    folder.mkdir(parents=True)
    for number, rows in enumerate(np.array_split(order, shards)):
        name = f"unlabeled-{number:06d}.tar"
        table = pa.table(
            {
                "index": pa.array(np.arange(len(rows)), pa.uint32()),
                "key": pa.array(keys[rows], pa.string()),
                "key_hash": pa.array(key_hashes(keys[rows].tolist())),
                "label": pa.array(label[rows], pa.uint16()),
                "confidence": pa.array(confidence[rows], pa.float32()),
            }
        )
        metadata = PredictionMetadata(teacher, [f"class {c}" for c in range(classes)], 64, name, f"{number:064d}")
        footer = footer_of(metadata, keep, rows=str(hash(table["confidence"].to_numpy().tobytes())))
        table = table.replace_schema_metadata({b"nst": json.dumps(footer).encode()})
        pq.write_table(table, folder / parquet_name(name))
    return finish(folder)


def write_truth(folder, count=4):
    """A file that says that all images are of class 0."""
    path = folder / "truth.parquet"
    pq.write_table(pa.table({"key": [f"image{i:06d}" for i in range(count)], "label": [0] * count}), path)
    return path


def read_copies(folder):
    """{key: copies} of a selection folder."""
    files = sorted(Path(folder).glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    return dict(zip(table["key"].to_pylist(), table["copies"].to_pylist(), strict=True))


def copies_by_image(folder, count):
    found = read_copies(folder)
    return np.array([found.get(f"image{i:06d}", 0) for i in range(count)])


def summary_of(folder):
    return read_json(Path(folder) / "selection.json")


def golden(size):
    return GOLDEN[f"{size}/label"], GOLDEN[f"{size}/confidence"]


def golden_copies(tmp_path, size, **options):
    label, confidence = golden(size)
    folder = tmp_path / "predictions"
    if not folder.exists():
        write_folder(folder, label, confidence)
    output = tmp_path / f"selection-{len(list(tmp_path.iterdir()))}"
    select_from(folder, output, images_per_class=K, allow_empty_classes=size == "small", **options)
    return copies_by_image(output, len(label)), summary_of(output)


@pytest.mark.parametrize("size", ["small", "large"])
def test_exact_selects_what_the_paper_describes(tmp_path, size):
    label, confidence = golden(size)
    copies, summary = golden_copies(tmp_path, size)
    assert [c["above_min"] for c in summary["per_class"]] == GOLDEN[f"{size}/paper_n_above_min"].tolist()
    totals = np.bincount(label, weights=copies, minlength=20)
    np.testing.assert_array_equal(totals, GOLDEN[f"{size}/paper_class_total"])
    paper = GOLDEN[f"{size}/paper_selected"]
    tied = GOLDEN[f"{size}/paper_tie_at_cut"][label]
    np.testing.assert_array_equal((copies > 0)[~tied], paper[~tied])
    for c in np.flatnonzero(GOLDEN[f"{size}/paper_tie_at_cut"]):  # which of equals is free, their values are not
        ours, theirs = confidence[(label == c) & (copies > 0)], confidence[(label == c) & paper]
        np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))
    floor, ceil = GOLDEN[f"{size}/paper_copies_floor"], GOLDEN[f"{size}/paper_copies_ceil"]
    assert ((copies >= floor) & (copies <= ceil))[~tied].all()


@pytest.mark.parametrize("size", ["small", "large"])
def test_official_thresholds_and_selection_equal_the_released_code(tmp_path, size):
    label, _ = golden(size)
    copies, summary = golden_copies(tmp_path, size, method="official")
    thresholds = [c["threshold"] for c in summary["per_class"]]
    np.testing.assert_allclose(thresholds, GOLDEN[f"{size}/official_threshold"], atol=1e-12)
    chosen, expected = GOLDEN[f"{size}/official_selected"], GOLDEN[f"{size}/official_expected_copies"]
    assert not copies[~chosen].any()
    assert (copies[chosen] >= np.floor(expected[chosen])).all()
    assert (copies[chosen] <= np.ceil(expected[chosen])).all()
    for c in range(20):
        rows = chosen & (label == c)
        fraction = (expected[rows] - np.floor(expected[rows])).max(initial=0.0)
        spread = np.sqrt(max(rows.sum() * fraction * (1 - fraction), 1e-12))
        assert abs(copies[rows].sum() - expected[rows].sum()) <= 4.5 * spread + 1e-6, c


def test_official_copies_are_right_on_average(tmp_path):
    """Means over seeds within five standard errors: per image, and per class, where errors would add up."""
    label, _ = golden("small")
    expected = GOLDEN["small/official_expected_copies"]
    draws = np.stack([golden_copies(tmp_path, "small", method="official", seed=s)[0] for s in range(25)])
    fraction = expected - np.floor(expected)
    variance = fraction * (1 - fraction)
    fair = (fraction > 0.2) & (fraction < 0.8)  # a mean of 25 rare events is far from normal
    assert fair.sum() > 200
    error = np.abs(draws.mean(axis=0) - expected)
    assert (error[fair] <= 5 * np.sqrt(variance[fair] / len(draws))).all()
    np.testing.assert_array_equal(error[fraction == 0], 0)
    totals = np.stack([np.bincount(label, weights=draw, minlength=20) for draw in draws])
    spread = np.sqrt(np.bincount(label, weights=variance, minlength=20) / len(draws))
    assert (np.abs(totals.mean(axis=0) - GOLDEN["small/official_class_total_expected"]) <= 5 * spread + 1e-9).all()
    reference = GOLDEN["small/official_class_total_std_400seeds"]
    assert (totals.std(axis=0)[reference > 1] / reference[reference > 1]).mean() == pytest.approx(1, abs=0.2)


def test_official_without_upsampling_never_duplicates(tmp_path):
    copies, _ = golden_copies(tmp_path, "small", method="official", max_copies=1)
    assert copies.max() == 1
    scarce = GOLDEN["small/official_expected_copies"] >= 1
    reference = GOLDEN["small/official_noupsample_copies_seed0"]
    np.testing.assert_array_equal(copies[scarce], reference[scarce])


@st.composite
def worlds(draw):
    classes = draw(st.integers(1, 5))
    count = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    label = rng.integers(0, classes, count)
    grid = draw(st.sampled_from([3, 20, 10**6]))  # coarse grids make ties, also at the cutoff
    confidence = (np.ceil(rng.random(count) * grid) / grid).astype(np.float32)
    return classes, label, confidence, rng


@settings(max_examples=15, deadline=None)
@given(
    world=worlds(), quota=st.integers(1, 60), minimum=st.sampled_from([0.0, 0.3, 0.777]),
    maximum=st.sampled_from([None, 0.9]), cap=st.sampled_from([None, 2])
)  # fmt: skip
def test_exact_properties(tmp_path_factory, world, quota, minimum, maximum, cap):
    classes, label, confidence, rng = world
    tmp = tmp_path_factory.mktemp("world")
    options = {"images_per_class": quota, "min_confidence": minimum, "max_confidence": maximum, "max_copies": cap}
    options |= {"allow_empty_classes": True, "memory_limit": "1GB"}
    folder = write_folder(tmp / "a", label, confidence, classes=classes)
    select_from(folder, tmp / "out", threads=1, **options)
    copies = copies_by_image(tmp / "out", len(label))
    for c in range(classes):
        rows = (
            (label == c) & (confidence.astype(np.float64) >= minimum) & (confidence.astype(np.float64) < (maximum or 2))
        )
        n = rows.sum()
        ours = copies[rows]
        assert copies[label == c].sum() == ours.sum()  # nothing outside the limits
        assert ours.sum() == min(quota, n * (cap or quota))
        assert ours.max(initial=0) - ours.min(initial=quota) <= 1
        if (ours == 0).any() and (ours > 0).any():
            assert confidence[rows][ours > 0].min(initial=2) >= confidence[rows][ours == 0].max()

    shuffled = write_folder(tmp / "b", label, confidence, classes=classes, shards=7, order=rng.permutation(len(label)))
    select_from(shuffled, tmp / "out-b", threads=3, **options)
    np.testing.assert_array_equal(copies_by_image(tmp / "out-b", len(label)), copies)


def test_extra_copies_depend_on_the_seed_and_on_nothing_else(tmp_path):
    first, _ = golden_copies(tmp_path, "small", seed=1)
    again, _ = golden_copies(tmp_path, "small", seed=1, threads=1)
    other, _ = golden_copies(tmp_path, "small", seed=2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).sum() > 20
    np.testing.assert_array_equal(first > 0, other > 0)  # who is confident is not drawn


@pytest.mark.parametrize("method", ["exact", "official"])
def test_bins_of_confidence_share_the_images_out(tmp_path, method):
    """Figure 4: ten selections of limits [0, 0.1), ..., [0.9, 1] meet every image once."""
    label, confidence = golden("small")
    folder = write_folder(tmp_path / "predictions", label, confidence)
    met = np.zeros(len(label), np.int64)
    for tenth in range(10):
        limits = {"min_confidence": tenth / 10, "max_confidence": (tenth + 1) / 10 if tenth < 9 else None}
        output = tmp_path / f"{tenth}"
        # of as many images as there are every one is taken, however often
        select_from(folder, output, method=method, images_per_class=10**4, allow_empty_classes=True, **limits)
        met += copies_by_image(output, len(label)) > 0
    np.testing.assert_array_equal(met, 1)


@pytest.mark.parametrize("method", ["exact", "official"])
def test_fraction_draws_uniformly_among_the_selected(tmp_path, method):
    """Table 8: smaller shares lie within larger ones, copies stay as they are."""
    label, confidence = np.repeat(np.arange(4), 1000), np.linspace(0.2, 1, 4000, dtype=np.float32)
    folder = write_folder(tmp_path / "predictions", label, confidence, classes=4)
    options = {"method": method, "images_per_class": 1500, "min_confidence": 0.0}
    chosen = {}
    for fraction in (1.0, 0.5, 0.25):
        result = select_from(folder, tmp_path / f"{fraction}", fraction=fraction, **options)
        chosen[fraction] = copies_by_image(tmp_path / f"{fraction}", len(label))
        assert result["totals"]["copies"] == chosen[fraction].sum()
    for fraction, larger in ((0.5, 1.0), (0.25, 0.5)):
        kept = chosen[fraction] > 0
        np.testing.assert_array_equal(chosen[fraction][kept], chosen[larger][kept])
        share = kept.sum() / 4000
        assert share == pytest.approx(fraction, abs=4 * (fraction * (1 - fraction) / 4000) ** 0.5)
        # no matter how confident, and whether an extra copy has been drawn
        assert confidence[kept].mean() == pytest.approx(confidence.mean(), abs=0.03)
        assert chosen[1.0][kept].mean() == pytest.approx(1.5, abs=0.06)


def test_class_total_is_exact_even_if_keys_repeat(tmp_path):
    label, confidence = np.zeros(40, np.int64), np.full(40, 0.5, np.float32)
    keys = ["same"] * 40
    for quota in (7, 100):
        folder = write_folder(tmp_path / f"p{quota}", label, confidence, classes=1, keys=keys)
        result = select_from(folder, tmp_path / f"s{quota}", images_per_class=quota)
        assert result["totals"]["copies"] == quota


def by_the_rule(label, confidence, keys, quota):
    """The exact selection's copies, by a sort of each class: most confident, then lowest ticket, then first."""
    ticket = tickets(key_hashes(keys), 0)
    copies = np.zeros(len(label), np.int64)
    for c in np.unique(label):
        rows = np.flatnonzero(label == c)
        base, extra = divmod(quota, len(rows))
        sure = np.zeros(len(rows)) if base else -confidence[rows].astype(np.float64)
        copies[rows] = base
        copies[rows[np.lexsort((rows, ticket[rows], sure))[:extra]]] += 1
    return copies


def saturated(kind, label, rng):
    count = len(label)
    if kind == "equal":
        return np.ones(count, np.float32)
    if kind == "one of a class":
        return (0.97 - label / 100).astype(np.float32)
    if kind == "one of a shard and class":
        shard = np.repeat(np.arange(9), [len(rows) for rows in np.array_split(label, 9)])
        return np.where(label < 3, 0.97 - shard / 5000, 0.5).astype(np.float32)
    if kind == "within 1e-6":
        return (1 - 1e-6 * rng.random(count)).astype(np.float32)
    if kind == "over a bin's edge":
        return (0.5 + 1e-6 * (rng.random(count) - 0.5)).astype(np.float32)
    return np.where(rng.random(count) < 0.4, 1, 1 - 1e-4 * rng.random(count)).astype(np.float32)


def read_shard(folder, number):
    """The selected rows of one shard."""
    summary = summary_of(folder)
    return selected.read(folder, summary, summary["shards"][number], SCHEMA.names)


@pytest.mark.parametrize("most", [0, 50, 2**23])
@pytest.mark.parametrize("keys", ["own", "of several", "of all"])
@pytest.mark.parametrize("kind", ["equal", "within 1e-6", "over a bin's edge", "above 0.9999", "one of a class",
                                  "one of a shard and class"])  # fmt: skip
def test_a_teacher_that_is_sure_of_everything_changes_no_rule_and_fills_no_memory(
    tmp_path, monkeypatch, kind, keys, most
):
    """Few images are held near a cutoff, however many are as confident; images of one key are held together."""
    rng = np.random.default_rng(0)
    count, quota = 3000, 211
    label = rng.choice(6, count, p=[0.4, 0.3, 0.2, 0.06, 0.02, 0.02])
    confidence = saturated(kind, label, rng)
    shared = {"own": 1, "of several": 40, "of all": count}[keys]
    names = [f"image{i // shared:06d}" for i in range(count)]
    held = []

    def narrow(exact, looks):
        looks = list(looks)
        held.append(sum(len(look.rows[0]) for look in looks))
        return narrowed(exact, looks)

    narrowed = Exact.narrow
    monkeypatch.setattr(Exact, "narrow", narrow)
    monkeypatch.setattr(cutoffs, "HELD", most)
    monkeypatch.setattr(cutoffs, "CELLS", 600)
    monkeypatch.setattr(select, "SHARDS_PER_FILE", 4)
    folder = write_folder(tmp_path / "p", label, confidence, classes=6, shards=9, keys=names)
    select_from(folder, tmp_path / "s", images_per_class=quota)
    assert max(held) <= max(most, 6 * shared)  # the one that is left of each class is looked at, too
    if most > count:
        assert len(held) == 1
    elif kind in ("equal", "one of a class"):  # where tickets alone decide, few are left after the first count of them
        assert len(held) == 1 or keys != "own" or most == 0
    else:
        assert len(held) > 1
    found = np.zeros(count, np.int64)
    for number, rows in enumerate(np.array_split(np.arange(count), 9)):
        table = read_shard(tmp_path / "s", number)
        found[rows[table["index"].to_numpy()]] = table["copies"].to_numpy()
    np.testing.assert_array_equal(found, by_the_rule(label, confidence, names, quota))


def test_orders_keep_the_order_of_confidence_and_its_bins():
    edges = (np.arange(1001) / 1000).astype(np.float32)
    around = [np.nextafter(edges, np.float32(to), dtype=np.float32) for to in (0, 2)]
    confidence = np.unique(np.concatenate([edges, *around, np.random.default_rng(0).random(9999, np.float32)]))
    confidence = confidence[confidence <= 1].astype(float)
    orders = cutoffs._doubts(confidence) << np.uint64(cutoffs.TICKET_BITS)
    assert (orders[1:] < orders[:-1]).all()
    first, last = cutoffs._orders_of_bins(np.floor(confidence * BINS).astype(np.int64))
    assert ((first <= orders) & (orders <= last)).all()
    first, last = cutoffs._orders_of_bins(np.arange(BINS + 1))
    np.testing.assert_array_equal(last[1:] + np.uint64(1), first[:-1])  # so no other bin has them
    assert first[-1] == 0


def test_quota_of_none_is_the_largest_class(tmp_path):
    folder = write_folder(tmp_path / "predictions", *golden("small"))
    output = tmp_path / "largest"
    select_from(folder, output, images_per_class=None, allow_empty_classes=True)
    summary = summary_of(output)
    assert summary["totals"]["images_per_class"] == 257
    assert {c["copies_total"] for c in summary["per_class"]} == {257, 0}


def test_files_and_summary_tell_the_same_story(tmp_path):
    label, confidence = golden("small")
    copies, summary = golden_copies(tmp_path, "small")
    folder = next(p for p in tmp_path.iterdir() if p.name.startswith("selection"))
    for shard in summary["shards"]:
        assert shard["row_group"] < pq.ParquetFile(folder / shard["file"]).num_row_groups
        table = selected.read(folder, summary, shard, SCHEMA.names)
        assert table.schema.equals(SCHEMA)
        assert (np.diff(table["index"].to_numpy().astype(int)) > 0).all()
        assert len(table) == shard["samples"]
        assert table["copies"].to_numpy().sum() == shard["copies"]
        assert min(table["copies"].to_pylist()) > 0
    edges = np.array(summary["confidence_histogram"]["edges"])
    for c in range(20):
        rows = label == c
        before = np.histogram(confidence[rows].astype(np.float64), edges)[0]
        after = np.histogram(confidence[rows].astype(np.float64), edges, weights=copies[rows])[0]
        assert summary["confidence_histogram"]["before"][c] == before.tolist()
        assert summary["confidence_histogram"]["after"][c] == after.tolist()
        row = summary["per_class"][c]
        assert (row["class"], row["labeled"]) == (f"class {c}", rows.sum())
        assert row["selected"] == (copies[rows] > 0).sum()
        lowest = confidence[rows & (copies > 0)].min(initial=2)
        assert row["lowest_confidence"] == (None if lowest == 2 else lowest)
    assert summary["totals"]["copies"] == copies.sum()
    assert summary["teacher"] == "t" * 64


def test_a_shard_without_selected_images_has_an_empty_row_group(tmp_path):
    label, confidence = np.zeros(9, int), np.array([0.9] * 3 + [0.1] * 6, np.float32)
    folder = write_folder(tmp_path / "p", label, confidence, classes=1, shards=3)
    select_from(folder, tmp_path / "s", images_per_class=5, allow_empty_classes=True)
    summary = summary_of(tmp_path / "s")
    assert [s["samples"] for s in summary["shards"]] == [3, 0, 0]
    assert [len(read_shard(tmp_path / "s", number)) for number in range(3)] == [3, 0, 0]
    assert read_shard(tmp_path / "s", 2).schema.equals(SCHEMA)


@pytest.mark.parametrize("method", ["exact", "official"])
def test_threads_and_files_change_nothing(tmp_path, monkeypatch, method):
    """Two threads instead of one; and a file for each shard."""
    whole, summary = golden_copies(tmp_path, "large", method=method, threads=1)
    monkeypatch.setattr(select, "SHARDS_PER_FILE", 1)
    parts, others = golden_copies(tmp_path, "large", method=method, threads=2)
    np.testing.assert_array_equal(whole, parts)
    assert len({shard["file"] for shard in summary["shards"]}) == 1
    assert len({shard["file"] for shard in others["shards"]}) == 3
    for same in ("totals", "per_class", "confidence_histogram"):
        assert summary[same] == others[same]


BY_PROCESSES = """
import os, sys
from nst import cli, pool
from nst.data import selected
from nst.errors import NstError

pool.FILES_FOR_PROCESSES = 1
if "killed" in sys.argv:
    selected._selected = lambda *_: os._exit(1)
else:
    here = os.getpid()
    chosen = selected._selected
    selected._selected = lambda *given: chosen(*given) if os.getpid() != here else sys.exit("not by processes")
try:
    cli.run_stage("select", sys.argv[1].split("|"))
except NstError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("killed", [False, True])
def test_processes_of_many_files_select_the_same_and_one_that_is_killed_is_told(tmp_path, killed):
    label, confidence = golden("large")
    folder = write_folder(tmp_path / "p", label, confidence)
    (folder / "DONE").touch()
    select_from(folder, tmp_path / "whole", threads=1, images_per_class=K, allow_empty_classes=True)
    options = [f"teacher.predictions={folder}", f"teacher.selection={tmp_path / 's'}", "select.threads=2",
               f"select.images_per_class={K}", "select.allow_empty_classes=true", f"data.root={tmp_path}"]  # fmt: skip
    command = [sys.executable, "-c", BY_PROCESSES, "|".join(options), *(["killed"] if killed else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if killed:
        assert done.returncode == 1
        assert "a process of the selection was killed" in done.stderr
        assert "select.threads=1" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    files = [sorted((tmp_path / name).glob("*.parquet")) for name in ("whole", "s")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]] != []


def test_predictions_of_an_older_format_are_refused_with_the_way_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        for module in (predictions, prediction_files):
            patch.setattr(module, "FORMAT", 1)
        folder = write_folder(tmp_path / "p", np.zeros(9, int), np.full(9, 0.9), classes=1)
    with pytest.raises(NstError, match=r"another format(.|\n)*got: +1(.|\n)*nst label teacher\.predictions=<folder>"):
        select_from(folder, tmp_path / "s")


@pytest.mark.parametrize("method", ["exact", "official"])
def test_classes_of_few_sure_images_take_their_surest_and_it_is_said(tmp_path, method):
    label, confidence = golden("small")
    folder = write_folder(tmp_path / "p", label, confidence)
    result = select_from(folder, tmp_path / "s", images_per_class=K, method=method)
    copies, few = copies_by_image(tmp_path / "s", len(label)), {entry["class"]: entry for entry in result["relaxed"]}
    sure = np.bincount(label[confidence.astype(np.float64) >= 0.3], minlength=20)
    assert list(few) == [f"class {c}" for c in np.flatnonzero(sure < selection.FEWEST)]
    assert {"class 18", "class 19"} <= set(few)
    for c in range(20):
        rows, entry = label == c, few.get(f"class {c}")
        if entry is None:
            assert confidence[rows & (copies > 0)].min() >= 0.3
            continue
        taken = rows & (copies > 0)
        assert (entry["sure"], entry["taken"]) == (sure[c], taken.sum())
        assert taken.sum() >= min(selection.FEWEST, rows.sum())
        assert (confidence[taken].min(initial=1) >= confidence[rows & ~taken].max(initial=0)).all()
        assert entry["from_confidence"] == (pytest.approx(confidence[taken].min()) if taken.any() else None)
        if method == "exact":
            assert copies[rows].sum() == (K if rows.any() else 0)
    best = confidence[label == 18].max()
    said = select.warnings(result)
    assert 0.3 > best > few["class 18"]["from_confidence"]
    assert any(
        "'class 18' has 0 images of confidence 0.3 or more: its " in line and " surest are" in line for line in said
    )
    assert any("'class 19'" in line and "stays empty" in line for line in said)


def test_with_enough_sure_images_nothing_is_relaxed(tmp_path):
    label = np.repeat([0, 1], 30)
    confidence = np.tile(np.linspace(0.1, 0.9, 30, dtype=np.float32), 2)
    result = select_from(write_folder(tmp_path / "p", label, confidence, classes=2), tmp_path / "s", images_per_class=5)
    assert (result["relaxed"], select.warnings(result)) == ([], [])
    strict = {"images_per_class": 50, "min_confidence": 0.85, "allow_empty_classes": True}
    result = select_from(tmp_path / "p", tmp_path / "strict", **strict)
    assert (result["relaxed"], result["totals"]["selected"]) == ([], 4)


def test_many_classes_of_few_sure_images_are_counted_not_listed(tmp_path):
    label = np.arange(40) % 8
    folder = write_folder(tmp_path / "p", label, np.full(40, 0.2, np.float32), classes=8)
    said = select.warnings(select_from(folder, tmp_path / "s", images_per_class=6))
    assert len(said) == select.SHOWN_CLASSES + 1
    assert said[-1].startswith("so are 8 classes in all")
    assert copies_by_image(tmp_path / "s", 40).sum() == 8 * 6


def test_a_class_of_few_takes_no_image_whose_probabilities_were_not_kept(tmp_path):
    """The student could not learn from it."""
    confidence = np.linspace(0.21, 0.6, 40, dtype=np.float32)
    options = {"images_per_class": 50, "min_confidence": 0.59}
    for keep, taken in ((0.0, 10), (0.555, 5), (0.585, 2)):
        folder = write_folder(tmp_path / f"p{keep}", np.zeros(40, int), confidence, classes=1, keep=keep)
        result = select_from(folder, tmp_path / f"s{keep}", **options)
        assert result["relaxed"][0]["taken"] == result["totals"]["selected"] == taken
        assert confidence[copies_by_image(tmp_path / f"s{keep}", 40) > 0].min() >= keep
    result = select_from(folder, tmp_path / "all", images_per_class=50, min_confidence=0.595)
    assert (
        "has 1 images of confidence 0.595 or more: its 2 surest are taken, from 0.59 on" in select.warnings(result)[0]
    )
    folder = write_folder(tmp_path / "none", np.zeros(40, int), confidence, classes=1, keep=0.7)
    said = select.warnings(select_from(folder, tmp_path / "empty", images_per_class=50, min_confidence=0.7))
    assert "probabilities of none of its 40 were kept (label.keep)" in said[0]


def test_limits_above_hold_for_classes_of_few_sure_images(tmp_path):
    confidence = np.array([0.1, 0.2, 0.25, 0.45, 0.7, 0.9], np.float32)
    folder = write_folder(tmp_path / "p", np.zeros(6, int), confidence, classes=1)
    select_from(folder, tmp_path / "s", images_per_class=3, min_confidence=0.3, max_confidence=0.6)
    assert (copies_by_image(tmp_path / "s", 6) > 0).tolist() == [False, True, True, True, False, False]


def test_a_class_of_few_equal_sure_images_takes_the_surest_of_the_others(tmp_path):
    """Its sure images have one confidence, those that it takes besides have not."""
    confidence = np.array([0.9] * 3 + [0.2 + i / 1e5 for i in range(20)], np.float32)
    folder = write_folder(tmp_path / "p", np.zeros(23, int), confidence, classes=1)
    select_from(folder, tmp_path / "s", images_per_class=6, min_confidence=0.3)
    assert np.flatnonzero(copies_by_image(tmp_path / "s", 23)).tolist() == [0, 1, 2, 20, 21, 22]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "exakt"}, "select.method cannot be 'exakt', did you mean 'exact'"),
        ({"min_confidence": 30}, "0 to 1"),
        ({"min_confidence": 0.5, "max_confidence": 0.5}, "above 0.5, up to 1"),
        ({"fraction": 0}, "above 0 to 1"),
        ({"min_confidence": 0.305, "method": "official"}, "multiples of 0.01"),
        ({"images_per_class": 0}, "images_per_class"),
        ({"max_copies": 0}, "max_copies"),
        ({"memory_limit": "lots"}, "memory_limit"),
    ],
)
def test_invalid_options_are_refused(tmp_path, options, says):
    folder = write_folder(tmp_path / "p", np.zeros(4, int), np.full(4, 0.9), classes=1, shards=1)
    with pytest.raises(NstError, match=says):
        select_from(folder, tmp_path / "s", unlabeled=write_truth(tmp_path).parent, **options)


def test_finished_selection_is_reused_and_a_killed_one_repeated(tmp_path, monkeypatch):
    label, confidence = golden("small")
    folder = write_folder(tmp_path / "p", label, confidence)
    output, options = tmp_path / "s", {"images_per_class": K, "allow_empty_classes": True}

    def killed(rows, *others):
        if rows.number == 2:
            raise KeyboardInterrupt
        return chosen(rows, *others)

    chosen = selected._selected
    with monkeypatch.context() as patch:
        patch.setattr(selected, "_selected", killed)
        with pytest.raises(KeyboardInterrupt):
            select_from(folder, output, **options)
    assert not (output / "selection.json").exists()
    result = select_from(folder, output, **options)
    before = (output / "selection-000000.parquet").stat().st_mtime_ns
    assert select_from(folder, output, threads=1, memory_limit="2GB", **options) == result
    assert (output / "selection-000000.parquet").stat().st_mtime_ns == before
    assert not (output / ".spill").exists()
    with pytest.raises(NstError, match="other inputs"):
        select_from(folder, output, seed=5, **options)


def test_changed_predictions_are_noticed(tmp_path):
    label, confidence = np.zeros(50, int), np.linspace(0.4, 0.9, 50, dtype=np.float32)
    select_from(write_folder(tmp_path / "p", label, confidence, classes=1), tmp_path / "s", images_per_class=5)
    changed = confidence.copy()
    changed[25] += 1e-6  # neither minimum, maximum nor file size need change
    other = write_folder(tmp_path / "q", label, changed, classes=1)
    with pytest.raises(NstError, match="predictions"):
        select_from(other, tmp_path / "s", images_per_class=5)


def test_folder_names_with_special_characters_work(tmp_path):
    folder = tmp_path / "it's [1] k=*" / "label=7"  # the last looks like a partition
    write_folder(folder / "p", np.zeros(4, int), np.full(4, 0.9), classes=1, shards=2)
    truth = folder / "truth.parquet"
    pq.write_table(pa.table({"key": [f"image{i:06d}" for i in range(4)], "label": [0] * 4}), truth)
    result = select_from(folder / "p", folder / "s", images_per_class=6, unlabeled=folder)
    assert result["totals"]["copies"] == 6
    assert result["accuracy"]["after"] == result["accuracy"]["before"] | {"images": 6}
    labels = PseudoLabels(folder / "s", None, targets="hard")
    assert sum(len(labels.entries(name)) for name in labels.shards) == 6
    assert all(count >= 2 for count in labels.counts)


def test_accuracy_of_pseudo_labels_is_reported_before_and_after(tmp_path):
    rng = np.random.default_rng(0)
    label, truth = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    confidence = rng.random(300).astype(np.float32)
    folder = write_folder(tmp_path / "p", label, confidence, classes=3)
    known = np.arange(250)  # truth need not be known of every image
    keys = [f"image{i:06d}" for i in known]
    pq.write_table(pa.table({"key": keys, "label": truth[known]}), tmp_path / "truth.parquet")
    result = select_from(folder, tmp_path / "s", images_per_class=150, unlabeled=tmp_path)
    copies = copies_by_image(tmp_path / "s", 300)
    right = (label == truth)[known]
    assert result["accuracy"]["before"]["accuracy"] == pytest.approx(right.mean())
    weights = copies[known]
    assert result["accuracy"]["after"]["accuracy"] == pytest.approx(np.average(right, weights=weights))
    rows = label[known] == 1
    per_class = result["accuracy"]["after"]["per_class"]
    assert per_class[1] == pytest.approx(np.average(right[rows], weights=weights[rows]))
    rows = (confidence[known] >= 0.5) & (confidence[known] < 0.55)
    assert result["accuracy"]["before"]["per_confidence_bin"][10] == pytest.approx(right[rows].mean())
    assert result["accuracy"]["after"]["per_confidence_bin"][0] is None  # nothing below 0.3 was selected


def test_what_the_truth_tells_is_not_said_to_be_unknown(tmp_path, capsys):
    folder = write_folder(tmp_path / "p", np.zeros(4, int), np.full(4, 0.9), classes=1, shards=1)
    for truths, doubted in (("nowhere", True), (write_truth(tmp_path).parent, False)):
        result = select_from(folder, tmp_path / str(doubted), unlabeled=truths)
        assert ("accuracy" in result) == (not doubted)
        select.tell(result)
        assert ("is unknown without validation pictures" in capsys.readouterr().out) == doubted


def test_lack_of_memory_is_said_in_plain_words(tmp_path, monkeypatch):
    def exhausted(*_):
        raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block\nstack")

    monkeypatch.setattr(truth, "accuracy", exhausted)
    folder = write_folder(tmp_path / "p", np.zeros(4, int), np.full(4, 0.9), classes=1, shards=1)
    with pytest.raises(NstError, match=r"could not allocate block(.|\n)*memory_limit"):
        select_from(folder, tmp_path / "s", unlabeled=write_truth(tmp_path).parent)


def test_main_passes_the_configuration_on(tmp_path):
    folder = write_folder(tmp_path / "p", np.zeros(4, int), np.full(4, 0.9), classes=1, shards=1)
    options = ["stage=select", "seed=3", "select=official", "select.images_per_class=2", f"data.root='{tmp_path}'"]
    options += [f"teacher.predictions='{folder}'", f"teacher.selection='{tmp_path / 's'}'"]
    with pytest.raises(NstError, match="no finished labeling"):
        select.main(compose_config(options))
    (folder / "DONE").touch()
    result = select.main(compose_config(options))
    assert (result["method"], result["seed"], result["totals"]["images_per_class"]) == ("official", 3, 2)
    assert "official" in (tmp_path / "s" / "config.yaml").read_text()
    assert select.summary_line(result).startswith(f"{result['totals']['selected']} of 4 images selected, ")
