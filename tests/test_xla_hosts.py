"""Two hosts with two XLA devices each: one directory, one that is told to stop, every image once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.xla_runs import STEPS, Program, Ran, free_port

pytestmark = [pytest.mark.timeout(2400), pytest.mark.slow]  # both hosts run stand behind the first test


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Ran:
    """Two hosts with two devices each run Algorithm 1 into one directory; host 1 is preempted in the first training."""
    folder = tmp_path_factory.mktemp("hosts")
    program = Program(folder / "hosts", digits, folder)
    program.common = [option for option in program.common if not option.startswith("teacher.run=")]
    generations = "iterate.generations=[['model.width=0.25'],['model.width=0.25']]"
    select = ["select.min_confidence=0", "select.allow_empty_classes=true"]
    program.add("told", generations, *select, stage="iterate", run_dir="run", preempt_at=9)
    program.add("again", generations, *select, stage="iterate", run_dir="run")
    port = free_port()
    processes = [program.launch(2, TEST_HOST=f"{index}/2/{port}") for index in range(2)]
    results = []
    for process in processes:
        output, errors = process.communicate(timeout=500)  # a host that waits for ever fails here
        assert process.returncode == 0, errors + output
        results.append(json.loads(output.split("RESULT ")[1]))
    return program.folder / "run", {"0": results[0], "1": results[1]}  # type: ignore[dict-item]


def test_hosts_stop_together_when_one_is_told_to(hosts: Ran):
    assert [result[0] for result in hosts[1].values()]  # type: ignore[index]
    assert {result[0]["stopped"] for result in hosts[1].values()} == {"Preempted"}  # type: ignore[index]
    assert not any("error" in entry for result in hosts[1].values() for entry in result)


def test_hosts_continue_by_themselves_and_host_0_writes(hosts: Ran):
    run, _ = hosts
    assert len(json.loads((run / "result.json").read_text())["generations"]) == 2
    assert (run / "report.html").exists()
    with open(run / "gen1" / "metrics.csv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["metric"] == "train/loss"]
    assert steps == list(range(2, STEPS + 1, 2))
    assert json.loads((run / "gen0" / "result.json").read_text())["trained"]["machine"]["hosts"] == 2


def test_hosts_label_every_image_once(hosts: Ran):
    """Three shards for two hosts: one has a padded step."""
    keys = [
        key
        for path in (hosts[0] / "gen0/predictions").glob("*.parquet")
        for key in pq.read_table(path)["key"].to_pylist()
    ]
    assert len(keys) == len(set(keys)) == 240
