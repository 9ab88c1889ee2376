"""Labeling on a Ray cluster: workers that die in the middle cost time and nothing else."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from nst.config import compose_config
from nst.documents import read_json
from nst.errors import NstError
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.efficientnet import Architecture, build
from nst.stages import label
from nst.training import label_ray
from nst.training.label_ray import RayEngine
from tests.sharding import sharded

ROOT = Path(__file__).parent.parent
SMALL = Architecture(0.35, 0.5, train_size=16, test_size=16, small_images=True, name="small")
SHARDS, IMAGES = 12, 240


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Twelve unlabeled shards of twenty digits, and a teacher."""
    root = tmp_path_factory.mktemp("ray")
    sizes = ("data.test_samples=0", f"data.unlabeled_samples={IMAGES}", f"shard.samples_per_shard={IMAGES // SHARDS}")
    sharded("digits", root, *sizes)
    torch.manual_seed(3)
    network = build(SMALL, 10)
    network(torch.randn(8, 3, 16, 16))
    info = NetworkInfo(SMALL, tuple(map(str, range(10))), image_size=16, train_size=16)
    save_network(root / "teacher.safetensors", network.eval().state_dict(), info)
    return root / "unlabeled", root / "teacher.safetensors"


def options(folders: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    unlabeled, teacher = folders
    return [
        "stage=label", "experiment=digits_demo", f"data.unlabeled={unlabeled}", f"teacher.checkpoint={teacher}",
        f"teacher.predictions={output}", "label.batch_size=4", "trainer.workers=0", *more,
    ]  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.parquet"))}


def busy_workers(mark: str) -> list[int]:
    """Processes of the marked cluster that are labeling a shard just now."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "cmdline").read_bytes().startswith(b"ray::label_shard"):
                continue
            if mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def label_and_kill(folders: tuple[Path, Path], output: Path) -> tuple[str | None, int]:
    """Labels with Ray in a process of its own, and kills three workers at work; the error, and how many were killed."""
    mark = f"nst-test-{uuid.uuid4().hex}"
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local", "NST_TEST_MARK": mark, "OMP_NUM_THREADS": "1",
        "RAY_task_retry_delay_ms": "0", "PYTHONPYCACHEPREFIX": str(output.parent / "pycache"),
    }  # fmt: skip
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each worker would compile torch anew
    command = [sys.executable, "-m", "nst", "label", *options(folders, output, "label.engine=ray")[1:]]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    killed = 0
    while process.poll() is None and killed < 3:
        if 0 < len(hashes(output)) < SHARDS - 1:
            for number in busy_workers(mark)[:1]:
                os.kill(number, signal.SIGKILL)
                killed += 1
                time.sleep(0.3)
        time.sleep(0.001)
    errors = process.communicate(timeout=400)[1]
    return (errors if process.returncode else None), killed


@pytest.mark.slow
def test_killed_workers_change_nothing(folders, tmp_path):
    """Every key exactly once, and the bytes of a labeling in one process."""
    pytest.importorskip("ray", reason="needs the extra ray")
    for _ in range(3):
        errors, killed = label_and_kill(folders, tmp_path / "ray")
        if errors is None or "there is no Ray cluster" not in errors:
            break
    else:
        pytest.skip("Ray's own processes did not start in time on this busy machine")
    assert errors is None, errors
    assert killed, "no worker was killed in the middle"

    result = label.from_cfg(compose_config(options(folders, tmp_path / "one")))
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "one")
    assert read_json(tmp_path / "ray" / "result.json") == result
    keys = [
        key
        for path in (tmp_path / "ray").glob("*.parquet")
        for key in pq.read_table(path, columns=["key"])["key"].to_pylist()
    ]
    assert len(keys) == len(set(keys)) == IMAGES
    assert not list((tmp_path / "ray").glob(".*.tmp-*")), "what killed workers left was swept away"


def test_without_ray_the_error_says_how_to_get_it(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NstError, match="NST_EXTRAS=ray bin/install"):
        label.from_cfg(compose_config(options(folders, tmp_path / "p", "label.engine=ray")))


def test_unknown_engines_and_tpus_are_refused(folders, tmp_path):
    with pytest.raises(NstError, match=r"label\.engine cannot be 'rai', did you mean 'ray'"):
        label.from_cfg(compose_config(options(folders, tmp_path / "p", "label.engine=rai")))
    with pytest.raises(NstError, match=r"trainer=cpu or trainer=gpu(.|\n)*label\.engine=lightning"):
        label.from_cfg(compose_config(options(folders, tmp_path / "p", "label.engine=ray", "trainer=tpu")))


def test_a_task_on_a_gpu_takes_the_loaders_cores_too(monkeypatch):
    monkeypatch.setattr(label_ray, "_import_ray", lambda: None)
    assert RayEngine().resources == {"num_cpus": 1, "num_gpus": 0}
    assert RayEngine(accelerator="gpu", workers=7).resources == {"num_cpus": 8, "num_gpus": 1}
    assert RayEngine(accelerator="gpu", cpus=2, gpus=4).resources == {"num_cpus": 2, "num_gpus": 4}


def test_a_machine_must_be_large_enough_for_one_task(monkeypatch):
    monkeypatch.setattr(label_ray, "_import_ray", lambda: None)
    engine = RayEngine(cpus=4, gpus=1)
    assert not engine.fits([])
    assert not engine.fits(
        [{"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}}, {"Alive": True, "Resources": {"CPU": 8.0}}]
    )
    assert not engine.fits([{"Alive": False, "Resources": {"CPU": 4.0, "GPU": 1.0}}])
    assert engine.fits(
        [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}]
    )
