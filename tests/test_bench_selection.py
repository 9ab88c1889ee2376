"""The benchmark of the selection with a peer, and with a teacher that is sure of everything; never a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import selection

TINY = ["--rows", "6000", "--rows-per-shard", "500", "--classes", "10", "--images-per-class", "400"]


@pytest.mark.parametrize("more", [[], ["--saturated"], ["--equal"]])
def test_duckdb_takes_turns_and_selects_by_the_same_rule(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    selection.main([*TINY, *more, "--peer", "duckdb", "--rounds", "1", "--folder", str(tmp_path), "--json", str(file)])
    text, written = capsys.readouterr().out, json.loads(file.read_text())
    assert "ours / duckdb" in text
    assert "6,000 rows, 10 classes, 12 files" in text
    assert [kind for kind in ("saturated", "equal") if f", {kind}" in text] == [kind[2:] for kind in more]
    assert written["contenders"]["ours"]["items"] == written["contenders"]["duckdb"]["items"] == [6000]
    assert list(tmp_path.iterdir()) == [file]


def test_a_saturated_selection_is_exactly_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    selection.main([*TINY, "--saturated", "--folder", str(tmp_path)])
    assert "exactly the rule" in capsys.readouterr().out


def test_saturated_confidences_lie_above_09999_and_many_are_1(tmp_path: Path) -> None:
    selection.write_all(tmp_path / "p", 3000, 500, 5, kind="saturated")
    files = sorted((tmp_path / "p").glob("*.parquet"))
    confidence = np.concatenate([pq.read_table(file)["confidence"].to_numpy() for file in files])
    assert confidence.min() > 0.9999
    assert 0.3 < (confidence == 1).mean() < 0.6
    assert len(np.unique(confidence)) > 200


def test_memory_is_that_of_all_processes() -> None:
    inner = "a = b'x' * 3 * 10**8; print(1, flush=True); input()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 3e8 < selection.resident(process.pid) < 5e8
        process.communicate(b"\n")
    assert selection.resident(process.pid) == 0
