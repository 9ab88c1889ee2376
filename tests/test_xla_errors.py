"""What a wrong machine or number of devices is told: one sentence, what was found, what is valid, the next command."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nst.cli import main
from nst.config import job_from
from nst.data.batches import LabeledSamples
from nst.data.datamodule import JointDataModule
from nst.data.shard_set import ShardSet
from nst.data.shared_memory import LoaderOptions
from nst.data.views import clean_view
from nst.errors import NstError
from nst.settings.data import Pictures
from nst.settings.job import TrainJob
from nst.stages.resolving import machine_from
from nst.xla import environment


@pytest.fixture(autouse=True)
def environment_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", os.environ.get("PJRT_DEVICE", "CPU"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`installed(libtpu=True, torch_xla="2.8.1")`: what the machine seems to have."""

    def pretend(libtpu: bool = False, torch_xla: str | None = "2.9.0", torch: str = "2.9.0+cu128") -> None:
        there = {"libtpu": libtpu, "torch_xla": torch_xla is not None}
        versions = {"torch": torch, "torch_xla": torch_xla}
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: there[name] or None)
        monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)

    return pretend


def told(act: Callable[[], Any]) -> str:
    with pytest.raises(NstError) as caught:
        act()
    return str(caught.value)


def test_a_missing_torch_xla_is_named_with_what_brings_it(installed: Callable[..., None]):
    installed(torch_xla=None)
    assert "needs torch_xla" in told(environment.require_torch_xla)
    assert "bin/install" in told(environment.require_torch_xla)


@pytest.mark.parametrize(("torch", "torch_xla"), [("2.10.0", "2.9.0"), ("2.9.1", "2.8.0")])
def test_a_torch_xla_for_another_torch_is_named_before_it_is_loaded(installed: Callable, torch: str, torch_xla: str):
    installed(torch=torch, torch_xla=torch_xla)
    text = told(environment.require_torch_xla)
    assert f"torch {torch}, torch_xla {torch_xla}" in text
    assert "bin/install" in text


@pytest.mark.parametrize("torch", ["2.9.0", "2.9.1+cpu"])
def test_a_patch_release_makes_no_mismatch(installed: Callable[..., None], torch: str):
    installed(torch=torch)
    environment.require_torch_xla()


def test_a_tpu_that_is_not_there_is_told_before_anything_starts(installed: Callable, monkeypatch: pytest.MonkeyPatch):
    installed(libtpu=False)
    assert "NST_EXTRAS=tpu bin/install" in told(lambda: environment.configure("tpu", 1, fast_compile=False))
    installed(libtpu=True)
    no_chips = SimpleNamespace(tpu=SimpleNamespace(num_available_chips=lambda: 0))
    monkeypatch.setitem(sys.modules, "torch_xla._internal", no_chips)  # type: ignore[arg-type]
    text = told(lambda: environment.configure("tpu", 1, fast_compile=False))
    assert "no TPU was found" in text
    assert "trainer=xla_cpu" in text


@pytest.mark.parametrize("many_hosts", [False, True])
def test_a_device_left_in_the_environment_gives_way_to_the_trainers(
    installed: Callable[..., None], many_hosts: bool, monkeypatch: pytest.MonkeyPatch
):
    installed(libtpu=True)
    tpu = SimpleNamespace(num_available_chips=lambda: 4, worker_id=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch_xla._internal", SimpleNamespace(tpu=tpu))  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "torch_xla", raising=False)
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setenv("NODE_RANK", "")  # with the next line: what is set below is undone
    monkeypatch.delenv("NODE_RANK")
    monkeypatch.setattr(environment, "require_torch_xla", lambda: None)
    environment.announce_host("tpu", many_hosts)
    environment.configure("tpu", 1, fast_compile=False)
    assert os.environ["PJRT_DEVICE"] == "TPU"
    assert os.environ.get("NODE_RANK") == ("2" if many_hosts else None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["trainer.virtual_devices=two"], ["trainer.virtual_devices", "a whole number"]),
        (["trainer.precision=fp8"], ["trainer.precision", "32-true"]),
        (["trainer.gradient_dtype=int8"], ["trainer.gradient_dtype", "float32 | bfloat16"]),
        (["trainer.guard.action=shout"], ["trainer.guard.action", "warn | stop"]),
    ],
    ids=str,
)
def test_wrong_options_of_the_xla_trainers_name_the_valid_ones(
    tiny: Callable[..., Any], options: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
):
    from nst.xla import trainers

    monkeypatch.setattr(trainers, "configure", lambda *_, **__: None)  # this process needs no runtime of its own
    text = told(lambda: machine_from(tiny("trainer=xla_cpu", *options)))
    for word in words:
        assert word in text


@pytest.mark.parametrize(("batch", "devices", "valid"), [(12, 8, 16), (4, 8, 8), (30, 4, 32)])
def test_a_batch_that_the_devices_cannot_share_equally_names_one_that_they_can(
    digits: Path, batch: int, devices: int, valid: int
):
    """More devices than images is the same mistake."""
    samples = LabeledSamples(ShardSet.open(digits / "labeled"), clean_view(12, Pictures(small=True)), 0)
    data = JointDataModule(
        samples, None, None, labeled_batch_size=batch, unlabeled_ratio=0, total_steps=4, segment_steps=4,
        loader=LoaderOptions(workers=0), groups=devices,
    )  # fmt: skip
    text = told(data.train_dataloader)
    assert f"labeled_batch_size={batch} on {devices} devices" in text
    assert f"student.labeled_batch_size={valid}" in text


def test_a_batch_that_a_later_phase_cannot_share_is_told_before_the_first_one_starts(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, digits: Path, tmp_path: Path
):
    from nst.stages import train
    from nst.training.hardware import Hardware

    monkeypatch.setattr(Hardware, "devices_in_all", 8)
    fine = ["student.labeled_batch_size=16", "student.finetune.epochs=1", "student.finetune.labeled_batch_size=20"]
    text = told(lambda: train.from_cfg(tiny(*fine, f"run_dir={tmp_path / 'run'}")))
    assert "labeled_batch_size=20 on 8 devices" in text
    assert not (tmp_path / "run").exists()
    assert "labeled_batch_size=20 on 8 devices" in told(lambda: train.check(job_from(TrainJob, tiny(*fine))))


def test_a_pod_on_a_laptop_says_that_there_is_no_tpu(installed: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NODE_RANK", raising=False)
    installed(libtpu=False)
    assert "NST_EXTRAS=tpu bin/install" in told(lambda: environment.announce_host("tpu", True))
    installed(libtpu=True)
    no_chips = SimpleNamespace(tpu=SimpleNamespace(num_available_chips=lambda: 0))
    monkeypatch.setitem(sys.modules, "torch_xla._internal", no_chips)  # type: ignore[arg-type]
    assert "no TPU was found" in told(lambda: environment.announce_host("tpu", True))


def test_a_host_that_does_not_see_the_shards_says_which_host_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("NODE_RANK", "3")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "experiment=digits_demo", f"data.root={tmp_path / 'nowhere'}"])
    said = capsys.readouterr().err
    assert said.startswith("nst: host 3: ")
    assert "nst shard" in said
