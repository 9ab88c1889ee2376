"""bin/bench: fair turns, ratios within a round, tables and files of a known form; every benchmark at tiny size.

No time is asserted: how fast something is belongs to a quiet machine, not to the test suite.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, photographs
from benchmarks.__main__ import BENCHMARKS, listing, main, summary
from benchmarks.harness import Comparison, Report, Timed, Turns
from tests.forked import PYTHON, run

ROOT = Path(__file__).parent.parent
TINY = {
    "input": ["--images", "16", "--batch-size", "8", "--image-size", "48", "--rounds", "2"],
    "train_step": ["--steps", "1", "--labeled", "2", "--ratio", "1", "--image-size", "16", "--rounds", "2"],
    "labeling": [
        "--network",
        "small",
        "--image-size",
        "16",
        "--classes",
        "20",
        "--batch-size",
        "8",
        "--rounds",
        "2",
        "--digits",
        "200",
    ],
    "selection": ["--rows", "30000", "--rows-per-shard", "1000", "--classes", "20", "--images-per-class", "1500"],
    "corruptions": ["--side", "16", "--rounds", "1"],
    "host_cost": ["--rounds", "1"],
    "profile": ["--last", "shard"],
}


def bench(name: str, *options: str) -> str:
    done = run([*PYTHON, "benchmarks", name, *options], ROOT, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    return done.stdout


def report(**turns: Turns) -> Report:
    return Report("made_up", "images/s", turns, [Comparison("ours", "peer", 1.5)], {"file": Path("x")})


# ---- the harness -------------------------------------------------------------------------------------------


def test_contenders_take_turns_in_an_order_that_rotates_after_a_turn_that_is_not_counted() -> None:
    seen: list[str] = []

    def contender(name: str) -> int:
        seen.append(name)
        return 1

    contenders = {name: (lambda name=name: contender(name)) for name in "abc"}
    measured = harness.alternate(contenders, 3)
    assert "".join(seen) == "abc" + "abc" + "bca" + "cab"
    assert all(len(turns.wall_s) == len(turns.cpu_s) == len(turns.items) == 3 for turns in measured.values())


def test_a_contender_may_time_itself() -> None:
    measured = harness.alternate({"ours": lambda: Timed(10, 2.0, 4.0)}, 2)
    assert measured["ours"] == Turns([10, 10], [2.0, 2.0], [4.0, 4.0])
    assert measured["ours"].rates("wall") == [5.0, 5.0]
    assert measured["ours"].rates("cpu") == [2.5, 2.5]


def test_cpu_time_counts_what_ended_children_spent() -> None:
    before = harness.cpu_seconds()
    subprocess.run([sys.executable, "-c", "for _ in range(3_000_000): pass"], check=True)
    assert harness.cpu_seconds() - before > 0.01


def test_ratios_are_taken_within_a_round() -> None:
    # a machine that halves its speed between the rounds: the rates differ, the ratio does not
    ours, peer = Turns([8, 8], [1.0, 2.0], [1.0, 1.0]), Turns([4, 4], [1.0, 2.0], [1.0, 1.0])
    finished = report(ours=ours, peer=peer)
    assert harness.ratio(finished, finished.comparisons[0]) == {"median": 2.0, "min": 2.0, "max": 2.0}
    by_cpu = Report("made_up", "images/s", finished.measured, finished.comparisons, {}, clock="cpu")
    assert harness.as_json(by_cpu)["contenders"]["peer"]["rate"] == {"median": 4.0, "min": 4.0, "max": 4.0}


def test_table_fits_80_columns_and_names_both_sides_the_spread_the_target_and_the_machine() -> None:
    turns = Turns([3_000_000, 3_000_000], [1.0, 1.1], [1.0, 1.1])
    peer = Turns([5000, 5000], [1.0, 1.0], [1.0, 1.0])
    name = "a peer whose name is longer than the column it stands in"
    finished = Report("made_up", "images/s", {"ours": turns, name: peer}, [Comparison("ours", name, 1.5)], {})
    text = harness.table(finished)
    assert max(len(line) for line in text.splitlines()) <= harness.WIDTH
    assert "2863636" in text  # the median rate
    assert "[545 .. 600]" in text
    assert ">= 1.5" in text
    assert "stands in" in text
    assert " cores" in text
    assert "numpy" in text


def test_file_holds_every_round_and_what_it_ran_on(tmp_path: Path) -> None:
    turns = Turns([2], [1.0], [1.0])
    harness.report(report(ours=turns, peer=turns), tmp_path / "new" / "out.json")
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["contenders"]["ours"] == {
        "items": [2], "wall_s": [1.0], "cpu_s": [1.0], "rate": {"median": 2.0, "min": 2.0, "max": 2.0}
    }  # fmt: skip
    assert written["comparisons"] == [
        {"ours": "ours", "peer": "peer", "target": 1.5, "ratio": {"median": 1.0, "min": 1.0, "max": 1.0}}
    ]
    assert written["options"] == {"file": "x"}
    assert {"cpu", "cores", "threads", "load", "gpus", "python", "versions"} == set(written["machine"])


def test_the_list_has_a_line_of_80_columns_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.strip() == listing().strip()
    for name, module in BENCHMARKS.items():
        assert len(summary(module)) > 10
        assert f"  {name:<13} {summary(module)}" in listing()
    assert max(map(len, listing().splitlines())) <= harness.WIDTH


def test_an_unknown_name_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inputs"]) == 1
    assert "did you mean 'input'" in capsys.readouterr().err


# ---- the data ----------------------------------------------------------------------------------------------


def test_photographs_are_the_same_bytes_every_time_and_as_large_as_imagenets(tmp_path: Path) -> None:
    first, again = list(photographs.samples(6)), list(photographs.samples(6))
    assert first == again
    assert len({sample.image for sample in first}) == 6
    assert 80_000 < np.mean([len(sample.image) for sample in first]) < 140_000
    shards = photographs.shard_set(tmp_path, 5, samples_per_shard=2)
    assert [shard.samples for shard in shards.shards] == [2, 2, 1]
    times = [shards.path(number).stat().st_mtime_ns for number in range(3)]
    kept = photographs.shard_set(tmp_path, 5, samples_per_shard=2)
    assert [kept.path(number).stat().st_mtime_ns for number in range(3)] == times


# ---- every benchmark -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["input", "train_step"])
def test_comparisons_run_and_say_what_they_measured(name: str, tmp_path: Path) -> None:
    text = bench(name, *TINY[name], "--json", str(tmp_path / "out.json"))
    written = json.loads((tmp_path / "out.json").read_text())
    assert max(len(line) for line in text.splitlines()) <= harness.WIDTH
    assert written["benchmark"] == name
    assert written["clock"] == ("cpu" if name == "input" else "wall")
    assert len(written["comparisons"]) == {"input": 6, "train_step": 2}[name]
    for row in written["comparisons"]:
        for side in (row["ours"], row["peer"]):
            items = written["contenders"][side]["items"]
            assert len(items) == 2
            assert items[0] > 0
        assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
    counts = {tuple(written["contenders"][row["peer"]]["items"]) for row in written["comparisons"]}
    assert len(counts) == 1, "all do the same number of images"


def test_startup_is_told_beside_another_version_and_its_aims(tmp_path: Path) -> None:
    options = ["--only", "help", "--rounds", "2", "--before", str(ROOT), "--json", str(tmp_path / "out.json")]
    text = bench("startup", *options)
    assert max(len(line) for line in text.splitlines()) <= harness.WIDTH
    row = next(line for line in text.splitlines() if line.startswith("help"))
    assert row.endswith("<= 0.15")
    written = json.loads((tmp_path / "out.json").read_text())["numbers"]["help"]
    assert [len(rounds) for rounds in (written["ours"], written["before"])] == [2, 2]


def test_labeling_is_compared_with_a_bare_forward_and_says_how_classes_agree(tmp_path: Path) -> None:
    text = bench("labeling", *TINY["labeling"], "--json", str(tmp_path / "out.json"))
    written = json.loads((tmp_path / "out.json").read_text())
    assert max(len(line) for line in text.splitlines()) <= harness.WIDTH
    sides = {name: turns["items"] for name, turns in written["contenders"].items()}
    assert sides == {"ours": [32, 32], "bare fp32 forward": [32, 32]}
    assert "16 px" in written["facts"]["labeling"]
    assert " confident digits (" in written["facts"]["agreement"]


def test_the_selection_benchmark_finds_a_selection_that_is_not_exact(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks import selection
    from nst.errors import NstError

    predictions, output = tmp_path / "predictions", tmp_path / "selection"
    selection.write_all(predictions, 3000, 500, 5)
    selection.select(selection.parse(["--images-per-class", "200", "--threads", "1"]), predictions, output)
    totals = selection.check(predictions, output, 200, 5)
    assert totals["copies"] == 1000
    path = sorted(output.glob("*.parquet"))[0]
    table = pq.read_table(path)
    copies = table["copies"].to_numpy().copy()
    copies[0] += 1
    pq.write_table(table.set_column(4, "copies", pa.array(copies, pa.uint32())), path)
    with pytest.raises(NstError, match="every class has exactly its total"):
        selection.check(predictions, output, 200, 5)
    pq.write_table(table.slice(1), path)
    with pytest.raises(NstError, match="not exact"):
        selection.check(predictions, output, 200, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["selection", "corruptions", "host_cost", "profile"])
def test_tables_of_their_own_come_with_a_file(name: str, tmp_path: Path) -> None:
    if name == "host_cost" and importlib.util.find_spec("torch_xla") is None:
        pytest.skip("needs the extra xla")
    text = bench(name, *TINY[name], "--json", str(tmp_path / "out.json"))
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["benchmark"] == name
    assert written["numbers"]
    assert all(str(entry) in text for entry in written["numbers"])
    assert "machine: " in text


@pytest.mark.slow
def test_the_profile_counts_a_stages_own_time_and_tells_why_it_failed(tmp_path: Path) -> None:
    from benchmarks import profile
    from nst.errors import NstError

    folder = tmp_path / "data"
    spent = profile.run(["shard", "experiment=digits_demo", f"data.root={folder}"], None)
    assert (folder / "labeled" / "index.json").exists()
    assert spent.user_s > 0.1
    assert spent.peak_mb > 10
    with pytest.raises(NstError, match="nst train failed"):
        profile.run(["train", "model.widht=1"], None)


def test_ours_trains_as_users_of_the_configuration_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from benchmarks import train_step
    from nst.training.hardware import Hardware

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert harness.hardware("gpu").deterministic == "warn"
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(harness, "hardware", lambda *options: asked.append(options) or made)
    made = Hardware()
    options = train_step.parse(["--labeled", "2", "--image-size", "16", "--device", "gpu"])
    train_step.lightning_loop(options, {}, tmp_path)
    train_step.lightning_loop(options, {}, tmp_path, compile=True)
    assert asked == [("gpu", "trainer.compile=false"), ("gpu", "trainer.compile=true")]


@pytest.mark.slow
def test_compiled_and_eager_steps_are_measured_beside_each_other_with_the_compiling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from benchmarks import train_step

    compiled: list[str] = []
    aot_eager = partial(torch.compile, backend="aot_eager")  # inductor takes minutes
    monkeypatch.setattr(torch, "compile", lambda network, **how: compiled.append("once") or aot_eager(network, **how))
    train_step.main([*TINY["train_step"], "--device", "cpu", "--compile", "--json", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    assert compiled == ["once"]
    assert (written["clock"], list(written["contenders"])) == ("cpu", ["compiled", "eager"])
    assert [(row["ours"], row["peer"]) for row in written["comparisons"]] == [("compiled", "eager")]
    assert written["contenders"]["compiled"]["items"] == written["contenders"]["eager"]["items"] == [4, 4]
    assert re.fullmatch(r"\d+ s \(cpu\), (won back after [\d,]+ images|never won back)", written["facts"]["compiling"])
    assert "compiled / eager" in capsys.readouterr().out


def test_peers_of_the_train_step_learn_from_the_same_batch() -> None:
    from benchmarks import train_step

    options = train_step.parse(["--labeled", "2", "--ratio", "1", "--image-size", "16", "--device", "cpu"])
    assert isinstance(options, Namespace)
    batch = train_step.ready_batch(options)
    assert batch["images"].shape == (4, 3, 16, 16)
    assert batch["targets"].shape == (2, train_step.CLASSES)
    assert train_step.images_per_round(options) == 8 * 4


def test_lanes_divide_what_hosts_fetch_and_mix_no_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 times less for each of 16 hosts, but for the shards at cuts; counted again here from the order itself."""
    written = tmp_path / "pods.json"
    sizes = ["--images", "400000", "--shard-images", "1000", "--hosts", "16"]
    assert main(["pods", *sizes, "--json", str(written)]) == 0
    one, dealt = json.loads(written.read_text())
    assert (one["lanes"], dealt["lanes"]) == (1, 16)
    assert one["hosts_per_shard"] > 15.9
    assert dealt["hosts_per_shard"] <= 1 + 15 / 400 + 1e-9
    assert one["fetched_mb_s"] / dealt["fetched_mb_s"] > 15
    assert dealt["largest_over_mean"] < 1.1
    assert dealt["shards_per_batch"] > one["shards_per_batch"]
    assert dealt["distance"] > one["distance"]
    assert "| 16 | 16 |" in capsys.readouterr().out
