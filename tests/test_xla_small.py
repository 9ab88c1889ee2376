"""Small programs on PyTorch/XLA: BatchNorm, convolutions, gradients, the guard, rows of hosts; hosts of three kinds."""

from __future__ import annotations

import functools
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TINY
from tests.forked import PYTHON, Launched
from tests.xla_runs import ON_XLA, RECIPE, ROOT, free_port

# what runs in one process, by its number of devices
TOGETHER = {1: "as_torch,in_bf16,training_reads,alone,a_pod_as_a_host", 2: "guarded", 4: "rows"}


def start(devices: int, programs: str, *arguments: str) -> Launched:
    return Launched([*PYTHON, "tests.xla_small", str(devices), programs, *arguments], ROOT)


@functools.cache
def printed(devices: int) -> dict[str, Any]:
    """What the programs on so many devices return, by their names."""
    process = start(devices, TOGETHER[devices])
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(output.split("RESULT ")[1])


def test_batchnorm_on_xla_and_convolutions_as_products_are_what_torch_computes():
    """BatchNorm's running statistics, of which the variance is unbiased, among it."""
    worst = printed(1)["as_torch"]
    assert len(worst) == 9
    assert max(worst.values()) < 2e-5, worst


def test_gradients_are_summed_in_the_dtype_asked_for_with_and_without_rematerialisation():
    """bf16-mixed: values that no bfloat16 holds were not rounded to it before the all-reduce."""
    found = printed(1)["in_bf16"]
    wide, narrow = [True, True], [False, False]
    assert found == {"float32,False": wide, "float32,True": wide, "bfloat16,False": narrow, "bfloat16,True": narrow}


def test_the_guard_stops_what_compiles_twice_reads_too_often_or_falls_back():
    found = printed(2)["guarded"]
    assert found["good"] == found["warned"] == ""
    expected = {
        "shapes": "2 compiles in 2 steps, 1 expected",
        "reads": "3 transfers in 1 steps, 1 expected",
        "fallback": "aten::histc ran on the host",
    }
    for problem, words in expected.items():
        assert "the compiled predict step does more than it should" in found[problem], problem
        assert words in found[problem], problem
        assert "trainer.guard.action=warn" in found[problem]


def test_the_guard_allows_a_training_a_read_where_a_number_is_shown():
    once, segments, one_more, every_step = printed(1)["training_reads"]
    assert once == segments == ""
    assert "25 transfers in 120 steps, 24 expected" in one_more
    assert "120 transfers in 120 steps, 24 expected" in every_step


def test_a_host_gets_back_the_rows_that_it_sent_however_the_devices_are_counted():
    found = printed(4)["rows"]
    assert found["hosts"] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert len(found["told"]) == 1
    assert "come back to other hosts" in found["told"][0]


def test_hosts_are_numbered_as_the_stages_number_them():
    port = str(free_port())
    processes = [start(1, "renumbered", str(host), port) for host in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [json.loads(text.split("RESULT ")[1])["renumbered"] for text in said] == [[[0, 1], "of host 0"]] * 2


def test_a_file_is_read_by_host_0_and_sent_to_the_others(tmp_path: Path):
    """In whole pieces, with a rest, and empty."""
    written = [np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes() for size in (2000, 3500, 0)]
    for name, content in enumerate(written):
        (tmp_path / str(name)).write_bytes(content)
    port = str(free_port())
    processes = [start(1, "reading", str(host), port, str(tmp_path)) for host in range(3)]
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [json.loads(text.split("RESULT ")[1])["reading"] for text in said] == [[part.hex() for part in written]] * 3


def test_hosts_that_do_not_come_together_are_told_in_a_sentence():
    told = printed(1)["alone"]
    assert "the hosts of the pod do not all come together" in told
    assert "timed out after 300 s" in told
    assert "bin/tpu logs" in told


def test_a_pod_is_not_taken_for_a_single_host():
    refused, taken = printed(1)["a_pod_as_a_host"]
    assert "this TPU has several hosts" in refused
    assert "trainer=tpu_pod" in refused
    assert taken == ""


@pytest.mark.slow
def test_a_host_that_fails_ends_the_one_that_waits_for_it(digits: Path, tmp_path: Path):
    options = [*TINY, f"data.root={digits}", *RECIPE, f"run_dir={tmp_path / 'failing'}", *ON_XLA, "trainer.workers=0",
               "trainer.virtual_devices=2"]  # fmt: skip
    port = str(free_port())
    processes = [start(2, "failing", str(host), port, *options) for host in range(2)]
    told = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 1], told
    assert "nst: host 1 fails: No space left on device: /full/disk" in told[1]  # should its teardown not end
    assert "nst: host 1: No space left on device while writing /full/disk" in told[1]
    assert "nst: host 0: host 1 has failed: No space left on device: /full/disk; this one ends" in told[0]
