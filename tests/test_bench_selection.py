"""The benchmark of the selection with a peer, and with a teacher that is sure of everything; never a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import selection

TINY = ["--rows", "6000", "--rows-per-shard", "500", "--classes", "10", "--images-per-class", "400"]


@pytest.mark.parametrize("more", [[], ["--saturated"]])
def test_duckdb_takes_turns_and_selects_by_the_same_rule(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    selection.main([*TINY, *more, "--peer", "duckdb", "--rounds", "1", "--folder", str(tmp_path), "--json", str(file)])
    text, written = capsys.readouterr().out, json.loads(file.read_text())
    assert "ours / duckdb" in text
    assert "6,000 rows, 10 classes, 12 files" in text
    assert ("saturated" in text) == bool(more)
    assert written["contenders"]["ours"]["items"] == written["contenders"]["duckdb"]["items"] == [6000]
    assert list(tmp_path.iterdir()) == [file]


def test_a_saturated_selection_is_exactly_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    selection.main([*TINY, "--saturated", "--folder", str(tmp_path)])
    assert "exactly the rule" in capsys.readouterr().out


def test_saturated_confidences_lie_above_09999_and_many_are_1(tmp_path: Path) -> None:
    selection.write_all(tmp_path / "p", 3000, 500, 5, saturated=True)
    files = sorted((tmp_path / "p").glob("*.parquet"))
    confidence = np.concatenate([pq.read_table(file)["confidence"].to_numpy() for file in files])
    assert confidence.min() > 0.9999
    assert 0.3 < (confidence == 1).mean() < 0.6
    assert len(np.unique(confidence)) > 200
