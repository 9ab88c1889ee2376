"""Packed selections: every copy once, copies apart, images untouched, targets as in the joined path, better labels."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import encode, finish, noise, select_from
from hypothesis import given, settings
from hypothesis import strategies as st

from nst.atomic import sha256_file
from nst.config import compose_config, job_from
from nst.data import packing as module
from nst.data.batches import UnlabeledSamples
from nst.data.packed import PackedLabels, packed_from
from nst.data.packing import Packing
from nst.data.prediction_files import write_predictions
from nst.data.predictions import PredictionMetadata, parquet_name
from nst.data.pseudo_labels import PseudoLabels
from nst.data.shard_set import ShardSet
from nst.data.shards import verify, write_shards
from nst.data.source import Sample
from nst.data.tars import TarReader
from nst.data.views import clean_view
from nst.errors import NstError, UsageError
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.efficientnet import Architecture, build
from nst.settings.data import Pictures
from nst.settings.job import ShardJob
from nst.stages import pack, shard
from nst.training.teachers import Teacher, pseudo_labels

CLASSES = tuple("abcdef")
SMALL = Architecture(0.25, 0.25, train_size=12, test_size=12, small_images=True, name="small")


def predict(folder: Path, shards: ShardSet, teacher: str, seed: int, keep: float = 0.0) -> Path:
    """Predictions over CLASSES, of which the last are rare."""
    rng = np.random.default_rng(seed)
    for number, info in enumerate(shards.shards):
        keys = TarReader(shards.path(number)).keys
        probs = rng.dirichlet(0.3 / np.arange(1, 7) ** 1.5, len(keys)).astype(np.float32)
        about = PredictionMetadata(teacher, CLASSES, 12, info.name, info.sha256)
        index = np.arange(len(keys))
        path = folder / parquet_name(info.name)
        write_predictions(path, index=index, keys=keys, probs=probs, metadata=about, keep=keep)
    return finish(folder)


def network_file(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    network = build(SMALL, len(CLASSES))
    save_network(path, network.state_dict(), NetworkInfo(SMALL, CLASSES, image_size=12, train_size=12))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """Five shards of 30 PNGs, a teacher with predictions and a selection of 60 per class, and a better teacher."""
    root = tmp_path_factory.mktemp("packing")
    samples = (Sample(f"image{n:04d}", encode(noise(9, 10, seed=n), "PNG"), "png", None) for n in range(150))
    shards = write_shards(
        root / "unlabeled", "unlabeled", samples, classes=CLASSES, labeled=False, name="noise", samples_per_shard=30
    )
    teacher, better = network_file(root / "teacher.safetensors", 1), network_file(root / "better.safetensors", 2)
    predict(root / "predictions", shards, sha256_file(teacher), seed=3)
    select_from(root / "predictions", root / "selection", images_per_class=60, min_confidence=0.5)
    return {"root": root, "unlabeled": root / "unlabeled", "teacher": teacher, "better": better}


def teacher_of(world: dict[str, Path], **changes) -> Teacher:
    root = world["root"]
    return Teacher(
        **{
            "weights": world["teacher"],
            "predictions": root / "predictions",
            "selection": root / "selection",
            **changes,
        }
    )


def packed(world: dict[str, Path], output: Path, **options) -> ShardSet:
    changes, at_once = options.pop("teacher", {}), options.pop("shards_at_once", 4)
    places = {"weights": "checkpoint"}
    named = [f"teacher.{places.get(name, name)}={value}" for name, value in changes.items()]
    cfg = command(world, output, *named, *(f"{name}={value}" for name, value in options.items()))
    pack.run(job_from(ShardJob, cfg), output, shards_at_once=at_once)
    return ShardSet.open(output)


def contents(shards: ShardSet) -> list[list[tuple[str, dict[str, bytes]]]]:
    return [list(TarReader(shards.path(number))) for number in range(len(shards.shards))]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def test_every_copy_is_packed_once_with_the_bytes_of_its_image(world, tmp_path):
    shards = packed(world, tmp_path / "packed")
    source = {key: files for tar in contents(ShardSet.open(world["unlabeled"])) for key, files in tar}
    labels = PseudoLabels(world["root"] / "selection", world["root"] / "predictions")
    wanted, targets, classes = Counter(), {}, {}
    for name in labels.shards:
        images = labels.images(name)
        for row, key in enumerate(images.key):
            wanted[key], targets[key], classes[key] = int(images.copies[row]), images.probs[row], int(images.label[row])
    assert max(wanted.values()) > 4, "some have more copies than shards are open"
    found: dict[str, list[int]] = defaultdict(list)
    for tar in contents(shards):
        for name, files in tar:
            key, _, copy = name.rpartition("~")
            found[key].append(int(copy))
            assert files["png"] == source[key]["png"]
            assert int(files["cls"]) == classes[key]
            probs = np.load(io.BytesIO(files["npy"]))
            assert probs.dtype == np.float16
            np.testing.assert_array_equal(probs, targets[key])
    assert {key: sorted(copies) for key, copies in found.items()} == {key: list(range(n)) for key, n in wanted.items()}
    assert shards.samples == 60 * len(CLASSES)
    assert verify(tmp_path / "packed")["samples"] == shards.samples


def test_copies_of_an_image_lie_in_different_shards(world, tmp_path):
    shards = packed(world, tmp_path / "packed")
    assert len(shards.shards) == 18
    most = 0
    for key, spread in copies_by_shard(shards).items():
        copies = sum(spread.values())
        most = max(most, copies)
        # as even as can be, where there are more copies than shards
        assert max(spread.values()) <= -(-copies // len(shards.shards)), key
    assert most > 1
    sizes = [shard.samples for shard in shards.shards]
    assert max(sizes) - min(sizes) <= 8, "shards are of one size, but for what does not divide"


def copies_by_shard(shards: ShardSet) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for number, tar in enumerate(contents(shards)):
        for name, _ in tar:
            found[name.rpartition("~")[0]][number] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(1, 40), max_size=8), min_size=1, max_size=8).filter(lambda c: any(c)),
    per_shard=st.integers(1, 20),
    at_once=st.integers(1, 6),
    seed=st.integers(0, 5),
)
def test_the_plan_deals_every_entry_once_and_copies_apart(counts, per_shard, at_once, seed):
    total = sum(map(sum, counts))
    copies = [np.array(part, np.uint32) for part in counts]
    plan = Packing(copies.__getitem__, len(counts), total, seed, per_shard, at_once)
    into: dict[tuple[int, int], list[int]] = defaultdict(list)
    for window in range(len(plan.windows)):
        for place in plan.sources(window):
            number = int(plan.order[place])
            for row, shards in plan.common(place, copies[number], window):
                into[number, row] += shards.tolist()
                assert set(shards.tolist()) <= set(plan.windows[window].tolist())
    for place, number in enumerate(plan.order.tolist()):
        for row, count in enumerate(counts[number]):
            if row in plan.often(place, copies[number]):
                assert count > plan.most
                assert (number, row) not in into
            else:
                assert len(into[number, row]) == len(set(into[number, row])) == count


def test_packing_depends_on_the_seed_alone(world, tmp_path):
    first = hashes(Path(packed(world, tmp_path / "a", seed=1).folder))
    assert hashes(Path(packed(world, tmp_path / "b", seed=1).folder)) == first
    assert hashes(Path(packed(world, tmp_path / "c", seed=2).folder)) != first


def test_a_killed_packing_goes_on_at_its_window_and_ends_the_same(world, tmp_path, monkeypatch):
    whole = hashes(Path(packed(world, tmp_path / "whole").folder))
    windows: list[int] = []
    original = module.Packer._window

    def killed(self, window):
        if window == 2:
            raise KeyboardInterrupt
        windows.append(window)
        return original(self, window)

    with monkeypatch.context() as patch:
        patch.setattr(module.Packer, "_window", killed)
        with pytest.raises(KeyboardInterrupt):
            packed(world, tmp_path / "killed")
    assert not (tmp_path / "killed" / "index.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(module.Packer, "_window", lambda self, w: (windows.append(w), original(self, w))[1])
        again = packed(world, tmp_path / "killed")
    assert windows == list(range(5))
    assert hashes(Path(again.folder)) == whole
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "killed").glob("*.tar"))]
    packed(world, tmp_path / "killed")
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "killed").glob("*.tar"))] == times


def test_a_full_disk_leaves_no_half_shard(world, tmp_path, monkeypatch):
    def full(self, data):
        if self.samples > 10:
            raise OSError(28, "No space left on device")
        return write(self, data)

    write = module.ShardTar.write
    monkeypatch.setattr(module.ShardTar, "write", full)
    with pytest.raises(NstError, match="No space left"):
        packed(world, tmp_path / "packed")
    assert not list((tmp_path / "packed").glob("*.tar"))
    assert not list((tmp_path / "packed").glob(".*.tmp-*"))


def test_no_more_shards_are_open_than_allowed(world, tmp_path, monkeypatch):
    open_now, most = set(), [0]
    begin, close = module.ShardTar.__init__, module.ShardTar.close

    def opened(self, file):
        begin(self, file)
        open_now.add(id(self))
        most[0] = max(most[0], len(open_now))

    def closed(self, name):
        open_now.discard(id(self))
        return close(self, name)

    monkeypatch.setattr(module.ShardTar, "__init__", opened)
    monkeypatch.setattr(module.ShardTar, "close", closed)
    packed(world, tmp_path / "packed", shards_at_once=3)
    assert most[0] <= 4  # and the one for what is set aside


# ---- training reads them


def targets_by_key(samples: UnlabeledSamples, count: int) -> dict[str, list[np.ndarray]]:
    """Targets of all entries of a pass, by the pixels of the image."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for entry in samples.stream.entries(0, count):
        sample = samples.sample(*entry, bad := [])
        assert not bad
        found[sample["image"].tobytes()].append(np.asarray(sample["target"]))
    return found


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_targets_equal_those_of_the_joined_path(world, tmp_path, targets):
    unlabeled, view = ShardSet.open(world["unlabeled"]), clean_view(12, Pictures(small=True))
    teacher = teacher_of(world, targets=targets)
    shards = packed(world, tmp_path / "packed", teacher={"targets": targets})
    beside = UnlabeledSamples(unlabeled, view, 0, pseudo_labels(teacher, unlabeled))
    alone = UnlabeledSamples(shards, view, 0, pseudo_labels(teacher, shards))
    assert isinstance(alone.pseudo_labels, PackedLabels)
    count = 60 * len(CLASSES)
    assert beside.stream.length == alone.stream.length == count
    theirs, ours = targets_by_key(beside, count), targets_by_key(alone, count)
    for samples, found in ((beside, theirs), (alone, ours)):  # a process that is spawned gets them pickled
        again = targets_by_key(pickle.loads(pickle.dumps(samples)), count)
        assert {image: np.array(values).tobytes() for image, values in again.items()} == {
            image: np.array(values).tobytes() for image, values in found.items()
        }
    assert ours.keys() == theirs.keys()
    for image, values in theirs.items():
        assert len(ours[image]) == len(values)
        for one, other in zip(ours[image], values, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_a_better_teacher_relabels_packed_shards_without_touching_them(world, tmp_path):
    shards = packed(world, tmp_path / "packed")
    before = hashes(tmp_path / "packed")
    digest = sha256_file(world["better"])
    predict(tmp_path / "better", shards, digest, seed=9)
    teacher = teacher_of(world, weights=world["better"], predictions=tmp_path / "better")
    with pytest.raises(NstError, match=r"another teacher(.|\n)*teacher\.reassign=true"):
        pseudo_labels(teacher, shards)
    again = teacher_of(world, weights=world["better"], predictions=tmp_path / "better", reassign=True)
    labels = pseudo_labels(again, shards)
    assert labels is not None
    for number, info in enumerate(shards.shards):
        entries = labels.entries(info.name)
        found = labels.predictions.read(info.name)
        assert entries.key.tolist() == found["key"].tolist() == TarReader(shards.path(number)).keys
        np.testing.assert_array_equal(entries.label, found["label"])
        np.testing.assert_allclose(entries.probs, found["probs"].astype(np.float32), atol=1e-3)
    assert hashes(tmp_path / "packed") == before


def test_how_a_teacher_looks_is_refused_where_its_labels_lie_in_the_shards(world, tmp_path):
    shards = packed(world, tmp_path / "packed")
    with pytest.raises(
        UsageError, match=r"views=all teacher\.image_size=24(.|\n)*teacher\.views=one teacher\.image_size=null"
    ):
        pseudo_labels(teacher_of(world, views="all", image_size=24), shards)
    assert pseudo_labels(teacher_of(world, views="all", mode="online"), shards) is None


def test_labels_for_other_shards_are_refused(world, tmp_path):
    shards = packed(world, tmp_path / "packed", seed=1)
    other = packed(world, tmp_path / "other", seed=2)
    predictions = predict(tmp_path / "better", other, sha256_file(world["better"]), seed=9)
    with pytest.raises(NstError, match="of other shards"):
        PackedLabels(shards, packed_from(shards) or {}, predictions)


def test_packing_by_a_better_teacher_takes_its_labels(world, tmp_path):
    unlabeled, digest = ShardSet.open(world["unlabeled"]), sha256_file(world["better"])
    predictions = predict(tmp_path / "better", unlabeled, digest, seed=9)
    change = {"weights": world["better"], "predictions": predictions, "reassign": True}
    shards = packed(world, tmp_path / "packed", teacher=change)
    assert (packed_from(shards) or {})["teacher"] == digest
    assert pseudo_labels(teacher_of(world, weights=world["better"]), shards) is not None
    with pytest.raises(NstError, match="of another teacher"):
        pseudo_labels(teacher_of(world), shards)


def test_soft_targets_that_were_not_packed_are_asked_for(world, tmp_path):
    shards = packed(world, tmp_path / "packed", teacher={"targets": "hard"})
    assert all(set(files) == {"png", "cls"} for tar in contents(shards) for _, files in tar)
    with pytest.raises(NstError, match=r"teacher\.targets=hard"):
        pseudo_labels(teacher_of(world), shards)


def test_an_online_teacher_sees_every_packed_entry(world, tmp_path):
    shards = packed(world, tmp_path / "packed")
    assert pseudo_labels(teacher_of(world, mode="online"), shards) is None


def test_shards_that_were_not_packed_say_nothing(world):
    assert packed_from(ShardSet.open(world["unlabeled"])) is None


# ---- the command


def command(world: dict[str, Path], output: Path, *more: str):
    root = world["root"]
    return compose_config(
        [
            "stage=shard", "data.source.name=selection", f"data.unlabeled={world['unlabeled']}",
            f"teacher.checkpoint={world['teacher']}", f"teacher.predictions={root / 'predictions'}",
            f"teacher.selection={root / 'selection'}", f"shard.output={output}", "shard.samples_per_shard=20", *more,
        ]
    )  # fmt: skip


def test_nst_shard_packs_a_selection(world, tmp_path, capsys):
    shard.main(command(world, tmp_path / "packed"))
    assert "360 entries of" in capsys.readouterr().out
    assert ShardSet.open(tmp_path / "packed").samples == 360


def test_a_folder_with_other_shards_is_never_packed_into(world):
    with pytest.raises(NstError, match=r"shard\.output=<folder>"):
        shard.main(command(world, world["root"], "overwrite=true"))
    with pytest.raises(NstError, match=r"shard\.output=<folder>"):
        shard.main(command(world, world["unlabeled"], "overwrite=true"))
    assert ShardSet.open(world["unlabeled"]).samples == 150


@pytest.mark.parametrize("samples", ["0", "-1", "2.5", "null", "many"])
def test_shards_that_could_hold_nothing_are_refused_before_a_run_begins(world, tmp_path, samples):
    with pytest.raises(NstError, match=r"samples_per_shard cannot be .*\n  got: .*\n  valid: a whole number, 1 to"):
        shard.main(command(world, tmp_path / "packed", f"shard.samples_per_shard={samples}"))
    assert not (tmp_path / "packed").exists()


def test_packing_needs_unlabeled_shards(world, tmp_path):
    with pytest.raises(NstError, match=r"data\.unlabeled names no shards"):
        shard.main(command(world, tmp_path / "packed", "data.unlabeled=null"))
