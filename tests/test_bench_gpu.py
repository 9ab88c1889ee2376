"""bin/bench gpu at tiny size on a CPU: every part runs, one that fails takes no other along, a plan reads the file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_parts
from benchmarks.__main__ import main
from benchmarks.gpu_parts import NOT_MEASURED, PARTS, Device, Part, Row
from nst.plan.layer_costs import measure
from nst.plan.rates import read_measurements
from tests.forked import PYTHON, run

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_says_what_needs_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # where ranks of another test in this process meet is no place for these
    for name in [name for name in os.environ if name.startswith("MASTER_")]:
        monkeypatch.delenv(name)
    files = [f"--json={tmp_path / 'gpu.json'}", f"--markdown={tmp_path / 'gpu.md'}", "--seconds=600"]
    command = [*PYTHON, "benchmarks", "gpu", "--device=cpu", *files]
    done = run(command, ROOT, limit_s=800, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "gpu.json").read_text())
    rows = written["rows"]
    assert [row["result"] for row in rows if row["failed"]] == []
    assert {row["part"] for row in rows} == set(PARTS)
    assert [row["result"].split(",")[0] for row in rows if row["part"] == "bits"] == ["equal", "equal"]
    of_l2 = [row["result"] for row in rows if row["part"] == "L2"]
    assert len(of_l2) == 2
    assert all("images/s" in text and "of the peak" in text and NOT_MEASURED in text for text in of_l2)
    absent = {row["what"] for row in rows if row["result"] == NOT_MEASURED}
    assert absent == {"ours / bare bf16 forward", "trainer.compile=true / false"}
    assert written["calibration"] == [], "a CPU in a GPU's place says nothing to a plan"
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert lines[0] == "| part | what | result | aim |"
    assert sum(line.startswith("| ") for line in lines) == 1 + len(rows)


def fails(device: Device, sizes: object, folder: Path) -> Iterator[Row]:
    yield Row("x", "first", "done")
    raise RuntimeError("no | room")


def dies(device: Device, sizes: object, folder: Path) -> Iterator[Row]:
    yield Row("x", "first", "done")
    time.sleep(0.5)
    os._exit(3)


def hangs(device: Device, sizes: object, folder: Path) -> Iterator[Row]:
    yield Row("x", "first", "done")
    time.sleep(100)


@pytest.mark.parametrize(
    ("part", "said"),
    [(fails, "RuntimeError: no / room"), (dies, "ended with exit code 3"), (hangs, "not finished within 2 s")],
)
def test_a_part_that_fails_says_so_and_keeps_the_rows_that_it_had(part, said: str, tmp_path: Path, monkeypatch):
    def well(device: Device, sizes: object, folder: Path) -> Iterator[Row]:
        yield Row("y", "next", "done")

    parts = {"y0": Part("well", 20, well), "x": Part("title", 2, part), "y": Part("well", 20, well)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    rows = list(gpu.measured(Device("cpu"), tmp_path, 60))
    assert [row.failed for row in rows] == [False, False, True, False]
    assert (rows[1].result, rows[2].what) == ("done", "title")
    assert said in rows[2].result


def test_without_a_gpu_it_stops_in_words(capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["gpu"]) == 1
    said = capsys.readouterr().err
    assert "no GPU was found" in said
    assert "bin/bench gpu --device cpu" in said


def test_what_a_card_gives_is_what_a_plan_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    card = Device("gpu")
    row = gpu_parts._rate("B7", "B7", card, "efficientnet_b7", 600, 100.0, remat=True, memory=0.4)
    cost = measure(gpu_parts.train_step.NETWORKS["efficientnet_b7"], 10, 600)
    assert row.numbers["utilization"] == pytest.approx(100 * cost.training_flops(remat=True) / 989e12)
    assert "0.40 GiB an image" in row.result
    (tmp_path / "gpu.json").write_text(json.dumps({"calibration": [row.calibration]}))
    found = read_measurements(tmp_path / "gpu.json")[0]
    assert (found.chip, found.network, found.image_size, found.remat) == ("h200", "efficientnet_b7", 600, True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA GeForce RTX 4090")
    unknown = gpu_parts._rate("B7", "B7", card, "efficientnet_b7", 600, 100.0)
    assert unknown.calibration is None
    assert "not known" in unknown.result


def test_the_batch_of_a_large_network_follows_the_cards_memory(monkeypatch: pytest.MonkeyPatch):
    """1.79 GiB an image of B7 at 600 px, 0.37 with rematerialisation (docs/speed.md)."""
    for gib, kept, remat in ((139, 32, 128), (75, 16, 64), (8, 8, 8)):
        monkeypatch.setattr(Device, "memory", gib * 2**30)
        found = [gpu_parts._images_that_fit(Device("gpu"), "efficientnet_b7", 600, choice) for choice in (False, True)]
        assert found == [kept, remat]
