"""What goes wrong on real machines: said in words, without a hang, a half file or a silent loss."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import shutil
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import add_file

from nst import cli
from nst.cli import dispatch
from nst.data.batches import LabeledSamples, TrainingBatches
from nst.data.datamodule import Loader, _Steps
from nst.data.images import encode_png
from nst.data.shard_set import ShardSet
from nst.data.shared_memory import LoaderOptions
from nst.data.views import clean_view
from nst.errors import NstError
from nst.faults import in_words
from nst.settings.data import Pictures
from nst.stages import label, train
from tests.forked import Launched, run

ROOT = Path(__file__).parent.parent


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def half_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp-" in path.name]


# ---- a loader process that dies; two runs in one directory


@dataclass
class Training:
    """An endless training in a process of its own, with one loader process."""

    directory: Path
    options: list[str]
    process: Launched

    def workers(self) -> list[int]:
        """Its loader processes: forked, so their command line is its own."""
        own = Path(f"/proc/{self.process.pid}/cmdline").read_bytes()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == own]


@pytest.fixture(scope="module")
def training(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    directory = tmp_path_factory.mktemp("faults") / "run"
    # one segment and so one loader process: with many of them the killed one may have been done already
    long = ["student.steps=1000000", "student.checkpoint_every=1000000", "student.validate_every=null"]
    options = [*TINY, "trainer.workers=1", *long, f"data.root={digits}", f"run_dir={directory}"]
    process = Launched(["train", *options], ROOT)
    wait_until_it_trains(directory, process)
    yield Training(directory, options, process)
    process.kill()
    process.communicate()


def wait_until_it_trains(directory: Path, process: Launched) -> None:
    metrics, until = directory / "metrics.csv", time.monotonic() + 200
    while process.poll() is None and time.monotonic() < until:
        if metrics.exists() and len(metrics.read_text().splitlines()) > 10:
            break
        time.sleep(0.1)


def test_a_second_run_in_the_same_directory_is_refused_at_once(training: Training):
    assert training.process.poll() is None
    with pytest.raises(NstError, match=rf"another process is working in {training.directory}[\s\S]*run_dir="):
        dispatch(["train", *training.options])
    assert training.process.poll() is None, "the first run goes on"


def test_a_whole_group_of_processes_told_to_stop_saves_first_and_loaders_wait(digits: Path, tmp_path: Path):
    """As a cloud, Slurm and `bin/tpu stop` tell it: SIGTERM to every process, loaders among them."""
    directory = tmp_path / "run"
    long = ["student.steps=100000", "student.checkpoint_every=50000", "student.validate_every=null"]
    options = [*TINY, "trainer.workers=2", *long, f"data.root={digits}", f"run_dir={directory}"]
    process = Launched(["train", *options], ROOT)
    try:
        wait_until_it_trains(directory, process)
        assert len(Training(directory, options, process).workers()) == 2
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert "told to stop (SIGTERM)" in errors
    assert "a loader process died" not in errors
    assert (directory / "checkpoints" / "trained_last.ckpt").exists()


def test_a_killed_loader_process_ends_the_run_with_a_sentence(training: Training):
    (worker,) = training.workers()
    os.kill(worker, signal.SIGKILL)
    _, errors = training.process.communicate(timeout=100)
    assert training.process.returncode == 1
    assert "nst: a loader process died" in errors
    assert "killed by signal" in errors or "exited unexpectedly" in errors
    assert "the same command continues" in errors
    assert not half_files(training.directory)


def test_other_errors_are_not_taken_for_a_loader_that_died():
    assert in_words(RuntimeError("CUDA error: an illegal memory access")) is None


# ---- what torch 2.9 says of GPUs, their memory and their connections; raised where torch raises it

NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 14.88 MiB is"
    " free. Including non-PyTorch memory, this process has 79.09 GiB memory in use."
)
CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    " 1024 bytes. Error code 12 (Cannot allocate memory)"
)
NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error (run with"
    " NCCL_DEBUG=INFO for details), NCCL version 2.27.5\nncclSystemError: System call (e.g. socket, malloc) or external"
    " library call failed or device error. \nLast error:\nsocketStartConnect: Connect to 10.0.0.2<41723> failed"
)
GLOO = "Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by"
PEER = "[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:3391"


@pytest.mark.parametrize(
    ("stage", "place", "error", "said"),
    [
        ("train", "torch.nn.functional.batch_norm", torch.OutOfMemoryError(NO_MEMORY),
         ["out of GPU memory", "20.00 MiB", "model.remat=true", "trainer.accumulate=2", "student.labeled_batch_size",
          "the same command continues"]),
        ("label", "torch.nn.functional.conv2d", torch.OutOfMemoryError(NO_MEMORY),
         ["label.batch_size=<smaller>: with it the same command continues"]),
        ("predict", "torch.nn.functional.conv2d", torch.OutOfMemoryError(NO_MEMORY), ["predict.batch_size=<smaller>"]),
        ("evaluate", "torch.nn.functional.conv2d", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
         ["out of GPU memory", "eval.batch_size"]),
        ("iterate", "torch.nn.functional.conv2d", RuntimeError(CPU_MEMORY), ["out of memory", "label.batch_size"]),
        ("train", "torch.distributed.init_process_group", torch.distributed.DistBackendError(NCCL),
         ["NCCL cannot connect", "10.0.0.2<41723> failed", "NCCL_SOCKET_IFNAME"]),
        ("train", "torch.distributed.init_process_group", RuntimeError(GLOO), ["Gloo cannot", "GLOO_SOCKET_IFNAME"]),
        ("train", "torch._C._cuda_init", RuntimeError(TOO_OLD), ["driver is older", "11040", "pytorch.org"]),
        ("train", "torch.distributed.all_reduce", RuntimeError(PEER), ["another rank is gone"]),
    ],
    ids=["memory", "memory labeling", "memory predicting", "cublas", "host memory", "nccl", "gloo", "driver", "peer"],
)  # fmt: skip
def test_what_torch_says_of_gpus_is_told_in_words(
    stage: str, place: str, error: Exception, said: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, fails)
    module, _, name = place.rpartition(".")
    monkeypatch.setattr("nst.cli.dispatch", lambda _: getattr(importlib.import_module(module), name)())
    with pytest.raises(SystemExit) as end:
        cli.main([stage])
    errors = capsys.readouterr().err
    assert end.value.code == 1
    assert errors.startswith("nst: ")
    for text in said:
        assert text in errors


def test_a_training_that_runs_out_of_memory_says_what_makes_its_step_smaller(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """From within a real forward; and with what it names, the same command goes on."""
    command = ["train", *TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}"]
    with monkeypatch.context() as short:
        short.setattr("torch.nn.functional.batch_norm", lambda *_, **__: (_ for _ in ()).throw(
            torch.OutOfMemoryError(NO_MEMORY)))  # fmt: skip
        with pytest.raises(SystemExit):
            cli.main(command)
    assert "model.remat=true" in capsys.readouterr().err
    assert dispatch([*command, "model.remat=true"]) == 0


# ---- a shard that is damaged


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def hole(path: Path) -> None:
    """Zeros from the middle on, as a disk leaves them that lost power: the size is right."""
    size = path.stat().st_size
    cut(path)
    os.truncate(path, size)


@pytest.fixture
def copied(digits: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits, tmp_path / "digits")
    return tmp_path / "digits"


def test_a_shard_cut_in_the_middle_is_named_before_anything_starts(copied: Path, tmp_path: Path):
    cut(copied / "labeled" / "labeled-000000.tar")
    with pytest.raises(NstError, match=r"labeled-000000\.tar: \d+ bytes, \d+ in the index"):
        dispatch(["train", *TINY, f"data.root={copied}", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", [cut, hole])
def test_every_sample_that_a_damaged_shard_lost_is_named_when_its_turn_comes(
    copied: Path, damage: Callable[[Path], None]
):
    shards = ShardSet.open(copied / "labeled")
    whole = shards.reader(0).keys
    damage(shards.path(0))
    kept = len(shards.reader(0))
    pictures = sum("png" in fields for _, fields in shards.reader(0))  # of the last one only the label may be left
    assert 10 < pictures <= kept < 40
    samples = LabeledSamples(shards, clean_view(8, Pictures(small=True)), seed=0)
    batches = TrainingBatches(samples, None, labeled_batch_size=10, unlabeled_batch_size=0)
    read = list(Loader(batches, _Steps(0, 5), LoaderOptions(workers=2)))  # one pass over the 50
    named = {name for batch in read for name in batch["bad"]}
    missing = {f"labeled-000000.tar#{index}: missing, the shard is cut short" for index in range(kept, len(whole))}
    assert missing <= named
    assert len(named) == 50 - pictures


@pytest.mark.parametrize("damage", [cut, hole])
def test_a_training_stops_when_a_shard_is_damaged_while_it_runs(
    copied: Path, tmp_path: Path, tiny: Callable[..., Any], damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    path = copied / "labeled" / "labeled-000000.tar"
    whole = ShardSet.open(copied / "labeled")
    damage(path)
    monkeypatch.setattr("nst.data.shard_set.size_problems", lambda shards: [])  # it was whole at the start
    with pytest.raises(NstError, match=r"labeled-000000\.tar"):
        train.from_cfg(tiny(f"data.root={copied}", "student.steps=40"))
    assert not (tmp_path / "run" / "DONE").exists()
    assert whole.samples == 50


def test_verify_finds_the_hole(copied: Path):
    hole(copied / "unlabeled" / "unlabeled-000001.tar")
    with pytest.raises(NstError, match=r"unlabeled-000001\.tar: sha256 differs[\s\S]*\d+ whole samples"):
        dispatch(["shard", "--verify", *TINY, f"data.root={copied}"])


def test_a_key_in_two_shards_is_refused_by_name(tmp_path: Path):
    for name, keys in {"00000": ["a", "b"], "00001": ["c", "d"], "00002": ["e", "b"]}.items():
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for key in keys:
                add_file(archive, f"{key}.png", encode_png(np.full((4, 4, 3), ord(key), np.uint8)))
    with pytest.raises(NstError, match=r"cannot be indexed: 1 problem[\s\S]*key b in 00000\.tar and 00002\.tar"):
        dispatch(["shard", f"shard.index={tmp_path}"])
    assert not (tmp_path / "index.json").exists()


# ---- a full disk


def test_sharding_on_a_full_disk_leaves_no_half_file_and_continues(digits: Path, tmp_path: Path):
    """A real limit on the size of files stands in for the end of the disk."""
    options = ["shard", *TINY, f"data.root={tmp_path / 'digits'}"]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000));"
        "from nst.cli import main; main(sys.argv[1:])"
    )
    done = run(["python", "-c", code, *options])
    assert done.returncode == 1
    assert done.stderr.startswith("nst: cannot write "), done.stderr
    assert "next:  raise the limit on the size of a file (ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    assert not half_files(tmp_path)
    assert not (tmp_path / "digits" / "test" / "index.json").exists(), "the test set's tar is the largest"
    assert dispatch(options) == 0
    for name in ("labeled", "unlabeled", "test"):
        assert ShardSet.open(tmp_path / "digits" / name).digest == ShardSet.open(digits / name).digest


def test_labeling_on_a_disk_that_is_full_again_and_again_ends_with_the_same_files(
    digits: Path, tmp_path: Path, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    train.from_cfg(tiny(run_dir=tmp_path / "teacher"))
    cfg = tiny(f"teacher.run={tmp_path / 'teacher'}", f"teacher.predictions={tmp_path / 'whole'}")
    label.from_cfg(cfg)
    room = Counter[str]()
    sync = os.fsync

    def synced(descriptor: int) -> None:
        room["left"] -= 1
        if room["left"] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr("nst.atomic.os.fsync", synced)
    cfg.teacher.predictions = str(tmp_path / "troubled")
    failures: list[NstError] = []
    while len(failures) < 20 and not (tmp_path / "troubled" / "DONE").exists():
        room["left"] = 9
        try:
            label.from_cfg(cfg)
        except NstError as error:
            failures.append(error)
            assert not half_files(tmp_path / "troubled")
    assert len(failures) >= 2
    assert all("cannot write" in str(error) and "make room" in str(error) for error in failures)
    files, expected = contents(tmp_path / "troubled"), contents(tmp_path / "whole")
    for mark in (".lock", ".pulse", "config.yaml"):
        files.pop(mark, None)
        expected.pop(mark, None)
    assert files == expected
    assert json.loads((tmp_path / "troubled" / "result.json").read_text())["images"] == 240
