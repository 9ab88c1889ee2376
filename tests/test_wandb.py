"""W&B in offline mode: the run that was written is read back from its file, without an account or a network."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from nst.stages import iterate, train
from nst.training.loggers import read_rows
from nst.training.tracking import WandbOptions, run_id

Compose = Callable[..., Any]
HEADER_BYTES, BLOCK_BYTES = 7, 32768
WHOLE, LAST = 1, 4  # kinds of a chunk that end a record; 2 and 3 are first and middle parts


def chunks(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format (crc, length, kind, data in blocks of 32 kB) behind a header."""
    position, record = HEADER_BYTES, b""
    while position + 7 <= len(data):
        if BLOCK_BYTES - position % BLOCK_BYTES < 7:
            position += BLOCK_BYTES - position % BLOCK_BYTES
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """All records of the one offline run in `folder`."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = []
    for data in chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


@pytest.fixture
def run(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    directory = tmp_path / "run"
    cfg = tiny("logger=wandb", "logger.wandb.mode=offline", "logger.wandb.tags=[a,b]", run_dir=directory)
    train.from_cfg(cfg)
    return directory


def history(found: list[wandb_internal_pb2.Record]) -> list[dict[str, float]]:
    rows = []
    for record in found:
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            rows.append(items)
    return rows


def test_offline_run_holds_config_metrics_axes_and_summary(run: Path):
    found = records(run)
    (start,) = [record.run for record in found if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for record in found if record.HasField("run")
              for item in record.run.config.update}  # fmt: skip
    assert start.project == "nst"
    assert start.display_name.endswith("/run")
    assert list(start.tags) == ["a", "b"]
    assert config["student"]["steps"] == 12
    assert config["noise"]["randaugment"]["variant"] == "fixed"

    rows = history(found)
    logged = {(int(row["trainer/global_step"]), name, value) for row in rows for name, value in row.items()
              if name.startswith(("train/", "validation/"))}  # fmt: skip
    table = {row for row in read_rows(run / "metrics.csv") if row[1].startswith(("train/", "validation/"))}
    assert logged == table
    assert len(table) > 30

    axes = {record.metric.name or record.metric.glob_name: record.metric.step_metric for record in found
            if record.HasField("metric")}  # fmt: skip
    assert axes["train/*"] == axes["validation/*"] == "trainer/global_step"


def test_the_run_is_closed_with_the_results_in_its_summary(run: Path):
    found = records(run)
    assert any(record.HasField("exit") for record in found)
    summary: dict[str, Any] = {}
    for record in found:
        if record.HasField("summary"):
            for item in record.summary.update:
                summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    result = json.loads((run / "result.json").read_text())
    assert summary["top1"] == result["top1"]
    assert summary["parameters"] == result["parameters"]


def test_every_run_directory_has_a_run_of_its_own_and_keeps_it(tmp_path: Path):
    ids = {run_id(tmp_path / name) for name in ("a", "b", "c")}
    assert len(ids) == 3
    assert run_id(tmp_path / "a") == run_id(tmp_path / "b" / ".." / "a")


def test_without_an_account_auto_means_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert WandbOptions().resolved_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandbOptions().resolved_mode() == "disabled"


def test_iterate_gives_each_generation_a_run_and_the_report_another(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    options = [
        "logger=wandb",
        "logger.wandb.mode=offline",
        "select.min_confidence=0",
        "select.allow_empty_classes=true",
        "name=w",
        "iterate.generations=[['model.width=0.25'],['model.width=0.25']]",
    ]
    cfg = tiny(*options)
    from tests.conftest import TINY

    cfg.overrides = [*TINY, *options, f"data.root={cfg.data.root}"]
    cfg.stage = "iterate"
    iterate.main(cfg)
    found = records(tmp_path / "run")
    names = {item.key or "/".join(item.nested_key) for record in found if record.HasField("history")
             for item in record.history.item}  # fmt: skip
    for name in ("report/generations", "report/page", "figures/generations", "figures/confidence"):
        assert any(found_name.startswith(f"{name}/") for found_name in names), name
    ids = {path.name.rpartition("-")[2] for path in tmp_path.rglob("offline-run-*")}
    assert len(ids) == 3
    for folder in ("run", "run/gen0", "run/gen1"):
        (group,) = [record.run.run_group for record in records(tmp_path / folder) if record.HasField("run")]
        assert group == "w"
