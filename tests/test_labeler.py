"""Labeling: bf16 where it is sure, shards handed over whole and in order, engines that give the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import metadata
from torch import nn

from nst.config import compose_config, job_from
from nst.data.prediction_files import write_predictions
from nst.data.predictions import Predictions
from nst.data.shard_set import ShardInfo
from nst.errors import NstError, Preempted
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.efficientnet import Architecture, build, normalize
from nst.models.folding import labeling_network
from nst.models.in_parts import in_parts
from nst.settings.job import LabelJob
from nst.stages import label
from nst.training import label_engines
from nst.training.hardware import Hardware
from nst.training.label_engines import LightningEngine
from nst.training.labeler import DOUBTED, Labeler, ShardCollector, doubted

SMALL = Architecture(0.25, 0.25, train_size=12, test_size=12, small_images=True, name="small")


class Answers(nn.Module):
    """A network that knows its logits (B, C) by heart; images carry their number in the first pixel."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        numbers = images[:, 0, 0, 0]
        return self.logits[(numbers * 0.229 * 255 + 0.485 * 255).round().long()]


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_a_cpu_infers_in_parts_that_stay_in_its_caches():
    seen: list[int] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images.mean(dim=(1, 2, 3))[:, None]

    images = torch.randn(23, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(in_parts(network, images), network(images), rtol=0, atol=0)
    assert seen == [10, 10, 3, 23]
    in_parts(network, images)
    assert seen[4:] == [23], "what is learned from stays whole"
    with torch.no_grad():
        in_parts(network, torch.empty(2, 3, 1000, 1000))
        in_parts(network, torch.empty(23, 3, 224, 224, device="meta"))
    assert seen[5:] == [1, 1, 23], "other devices get all at once"


def test_the_least_certain_answers_are_computed_again_and_no_others():
    generator = torch.Generator().manual_seed(0)
    fast = torch.randn(128, 10, generator=generator) * 3
    exact = torch.randn(128, 10, generator=generator)
    valid = torch.ones(128, dtype=torch.bool)
    valid[::7] = False
    top = fast.softmax(1).sort(1, descending=True).values
    margin = (top[:, 0].log() - top[:, 1].log()).numpy()
    margin[(top[:, 0] <= 0.2).numpy() | ~valid.numpy()] = np.inf
    expected = set(np.flatnonzero(margin < DOUBTED).tolist())
    assert 5 < len(expected) < 50
    assert set(doubted(fast, valid).tolist()) == expected
    probs = Labeler(Answers(fast), Answers(exact)).predict_step({"images": numbered(128), "valid": valid}, 0)
    again = torch.tensor(sorted(expected))
    torch.testing.assert_close(probs[again], exact[again].softmax(1))
    rest = torch.tensor(sorted(set(range(128)) - expected))
    torch.testing.assert_close(probs[rest], fast[rest].softmax(1))


def test_one_class_and_tiny_batches_are_no_special_case():
    for count, classes in ((1, 1), (3, 2)):
        logits = torch.randn(count, classes)
        step = Labeler(Answers(logits), Answers(logits)).predict_step
        probs = step({"images": numbered(count), "valid": torch.ones(count, dtype=torch.bool)}, 0)
        torch.testing.assert_close(probs, logits.softmax(1))


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Module, torch.Tensor]:
    """A network that has learned the digits a little, and the images (N, 3, 12, 12) 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.tensor(digits.images * (255 / 16)).float()[:, None].expand(-1, 3, -1, -1)
    images = nn.functional.interpolate(small, size=(12, 12), mode="bilinear")
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    network = build(SMALL, 10, dropout=0.0, stochastic_depth=0.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.2
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(40):
        rows = torch.randint(0, 1200, (48,))
        nn.functional.cross_entropy(network(normalize(images[rows])), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval(), images


@torch.inference_mode()
def test_bf16_agrees_with_float32_on_999_of_1000_images_that_pass_the_filter(learned):
    network, images = learned
    fast, plain = labeling_network(network, torch.bfloat16), network
    labeler = Labeler(fast, labeling_network(network))
    confident = agreed = 0
    for part in images[:1024].split(256):
        exact = plain(normalize(part)).softmax(1)
        probs = labeler.predict_step({"images": part, "valid": torch.ones(len(part), dtype=torch.bool)}, 0)
        assert (probs - exact).abs().max() > 1e-5, "bf16 was at work"
        passed = exact.amax(1) >= 0.3
        confident += int(passed.sum())
        agreed += int((probs.argmax(1) == exact.argmax(1))[passed].sum())
    assert confident > 800
    assert agreed >= 0.999 * confident


# ---- precision


@pytest.mark.parametrize(("has", "says"), [(True, "bf16-true"), (False, "32-true")])
def test_auto_is_bf16_exactly_where_the_hardware_computes_in_it(monkeypatch, has, says):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    engine = LightningEngine(Hardware())
    assert engine.precision("auto") == says
    assert engine.precision("32-true") == "32-true"


def test_xla_labels_in_the_trainers_precision():
    class Xla:
        precision = "bf16-mixed"

    engine = LightningEngine(Xla())  # type: ignore[arg-type]
    assert engine.precision("auto") == "bf16-mixed"
    with pytest.raises(NstError, match=r"trainer\.precision=32-true"):
        engine.precision("32-true")


# ---- shards


def parts(sizes: list[int], batch: int = 4):
    """Batches of shards of these sizes, with their probabilities (equal to the sample's number), and the collector's
    list of shards."""
    shards, batches = [], []
    for number, size in enumerate(sizes):
        shards.append((ShardInfo(f"s{number}.tar", size, 0, ""), -(-size // batch)))
        for start in range(0, size, batch):
            index = np.arange(start, min(start + batch, size))
            about = {"index": index, "keys": [f"{number}-{i}" for i in index], "bad": [f"bad {number} {start}"]}
            probs = torch.zeros(batch, 2)
            probs[: len(index), 0] = torch.tensor(index).float() + 100 * number
            batches.append((about, probs))
    return shards, batches


def collect(shards, batches, write, progress=lambda _: None):
    with ShardCollector(shards, write, progress) as collector:
        for about, probs in batches:
            collector.add(about, lambda probs=probs: probs)
    return collector


def test_every_shard_is_handed_over_once_whole_and_in_order():
    shards, batches = parts([9, 4, 1, 8])
    padding = ({"index": np.empty(0), "keys": [], "bad": []}, torch.zeros(4, 2))
    written, seen = [], []
    collect(shards, [*batches, padding, padding], lambda *shard: written.append(shard), seen.append)
    assert [shard.name for shard, *_ in written] == ["s0.tar", "s1.tar", "s2.tar", "s3.tar"]
    for number, (shard, index, keys, probs, bad) in enumerate(written):
        assert index.tolist() == list(range(shard.samples))
        assert keys == [f"{number}-{i}" for i in range(shard.samples)]
        assert probs[:, 0].tolist() == [i + 100 * number for i in range(shard.samples)]
        assert bad == [f"bad {number} {start}" for start in range(0, shard.samples, 4)]
    assert sum(seen) == 22


def test_writing_does_not_hold_up_computing_but_stays_close_behind():
    shards, batches = parts([4] * 6)
    free, ahead, written = threading.Event(), [], []

    def write(shard, *_):
        free.wait(10)
        written.append(shard.name)

    def progress(_):
        ahead.append(len(written))
        if len(ahead) == 3:  # three shards are computed and the first is still being written
            free.set()

    collect(shards, batches, write, progress)
    assert ahead[:3] == [0, 0, 0]
    assert len(written) == 6


def test_a_shard_that_cannot_be_written_stops_labeling():
    shards, batches = parts([4] * 20)
    seen = []

    def write(shard, *_):
        raise NstError(f"no room for {shard.name}")

    with pytest.raises(NstError, match=r"no room for s0\.tar"):
        collect(shards, batches, write, seen.append)
    assert len(seen) < 10
    with pytest.raises(NstError, match=r"no room for s0\.tar"):  # the last shard's error is not lost either
        collect(*parts([4]), write)


def test_an_error_of_the_step_is_not_hidden_by_half_a_shard():
    shards, batches = parts([4, 8])
    written = []
    with (
        pytest.raises(KeyboardInterrupt),
        ShardCollector(shards, lambda *shard: written.append(shard), lambda _: None) as collector,
    ):
        for about, probs in batches[:2]:
            collector.add(about, lambda probs=probs: probs)
        raise KeyboardInterrupt
    assert len(written) <= 1


# ---- files


def test_distributions_of_unsure_images_take_no_room(tmp_path):
    rng = np.random.default_rng(0)
    classes = [f"c{i}" for i in range(1000)]
    probs = rng.dirichlet(np.ones(1000), 200).astype(np.float32)
    probs[:20] *= 0.5
    probs[np.arange(20), np.arange(20)] += 0.5  # one in ten is sure
    sizes = {}
    for keep in (0.0, 0.3):
        path = tmp_path / str(keep) / "unlabeled-000000.parquet"
        keys = [str(i) for i in range(200)]
        about = metadata(classes=classes)
        write_predictions(path, index=np.arange(200), keys=keys, probs=probs, metadata=about, keep=keep)
        sizes[keep] = path.stat().st_size
        column = pq.ParquetFile(path).read()["probs"]
        assert str(column.type.value_type) == "halffloat"
        assert column.null_count == (0 if keep == 0 else 180)
    assert sizes[0.3] < 0.2 * sizes[0.0]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A teacher's file of ten classes."""
    torch.manual_seed(3)
    network = build(SMALL, 10)
    network(torch.randn(8, 3, 12, 12))
    path = tmp_path_factory.mktemp("teacher") / "trained.safetensors"
    info = NetworkInfo(SMALL, tuple(map(str, range(10))), image_size=12, train_size=12)
    save_network(path, network.eval().state_dict(), info)
    return path


def labeled(output: Path, teacher: Path, digits: Path, **options):
    cfg = compose_config([f"data.root={digits}", f"teacher.checkpoint={teacher}", "trainer.workers=0", "stage=label"])
    job = job_from(LabelJob, cfg)
    return label.run(replace(job, label=replace(job.label, **{"batch_size": 32, **options})), output)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.parquet"))}


def test_the_result_states_the_precision_and_another_one_is_another_run(tmp_path, teacher, digits):
    result = labeled(tmp_path / "p", teacher, digits, precision="bf16-true")
    assert result["precision"] == "bf16-true"
    assert result["labeled_images"] == 240
    with pytest.raises(NstError, match="precision: bf16-true before, 32-true now"):
        labeled(tmp_path / "p", teacher, digits, precision="32-true")
    exact = labeled(tmp_path / "q", teacher, digits, precision="32-true", keep=0.11)
    assert exact["precision"] == "32-true"
    fast, slow = Predictions.open(tmp_path / "p"), Predictions.open(tmp_path / "q")
    for name in fast.shards:
        ours, theirs = fast.read(name), slow.read(name)
        assert np.abs(ours["confidence"] - theirs["confidence"]).max() < 0.02
        assert not np.array_equal(ours["confidence"], theirs["confidence"])
        assert np.isnan(theirs["probs"][:, 0]).tolist() == (theirs["confidence"].astype(float) < 0.11).tolist()


def test_finished_shards_are_skipped_on_a_rerun(tmp_path, teacher, digits, monkeypatch):
    whole = labeled(tmp_path / "p", teacher, digits)
    before = hashes(tmp_path / "p")
    assert len(before) == 3
    for name in ("DONE", "result.json", "predictions.json", "unlabeled-000001.parquet"):
        (tmp_path / "p" / name).unlink()
    kept = (tmp_path / "p" / "unlabeled-000000.parquet").stat().st_mtime_ns
    asked = []
    original = label_engines.LightningEngine.label
    monkeypatch.setattr(
        LightningEngine, "label", lambda self, job, numbers: (asked.extend(numbers), original(self, job, numbers))
    )
    assert labeled(tmp_path / "p", teacher, digits) == whole
    assert asked == [1]
    assert hashes(tmp_path / "p") == before
    assert (tmp_path / "p" / "unlabeled-000000.parquet").stat().st_mtime_ns == kept


def test_sigterm_ends_a_labeling_in_words_and_the_same_command_continues(tmp_path, teacher, digits, monkeypatch):
    """Lightning's own handler does nothing in a predict loop: all shards would be labeled first."""
    asked: list[int] = []
    original = Labeler.predict_step

    def told(self, batch, batch_idx):
        asked.append(batch_idx)
        if len(asked) == 5:  # within the second of three shards of three batches
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Labeler, "predict_step", told)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="same command continues") as caught:
        labeled(tmp_path / "p", teacher, digits)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(asked) == 5
    assert list(hashes(tmp_path / "p")) == ["unlabeled-000000.parquet"]
    labeled(tmp_path / "p", teacher, digits)
    assert len(asked) == 5 + 6
    labeled(tmp_path / "q", teacher, digits)
    assert hashes(tmp_path / "p") == hashes(tmp_path / "q")


def test_a_full_disk_stops_labeling_and_leaves_no_half_file(tmp_path, teacher, digits, monkeypatch):
    monkeypatch.setattr(
        pq.ParquetWriter, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    begun = time.monotonic()
    with pytest.raises(NstError, match="No space left"):
        labeled(tmp_path / "p", teacher, digits)
    assert time.monotonic() - begun < 120
    assert not list((tmp_path / "p").glob("*.parquet"))
    assert not (tmp_path / "p" / "DONE").exists()


@pytest.mark.parametrize(
    ("option", "value", "valid"),
    [
        *(("batch_size", value, "a whole number, 1 to 1,000,000") for value in (0, -1, 2.5, True, "many", None)),
        *(("keep", value, "a number, 0 to 1") for value in (2, -1, float("nan"), "much", None)),
    ],
)
def test_options_out_of_range_are_refused_before_a_run_begins(tmp_path, teacher, digits, option, value, valid):
    with pytest.raises(NstError, match=rf"label\.{option} cannot be .*\n  got:   .*\n  valid: {valid}"):
        labeled(tmp_path / "p", teacher, digits, **{option: value})
    assert not (tmp_path / "p").exists()
