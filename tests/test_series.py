"""`bin/bench series`: every row composes, what is there is not run again, and a line says what the run's files say."""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import series, series_lines
from benchmarks.series import main
from benchmarks.series_job import Job, digest
from benchmarks.series_table import SERIES, Row, Series
from nst.atomic import write_json
from nst.config import compose_config, job_from, plain
from nst.documents import fingerprint, read_json
from nst.errors import NstError
from nst.evaluation import mistakes
from nst.report import claims, evidence
from nst.settings.job import EvaluateJob, GenerationsJob
from nst.stages.generations import configurations
from tests.conftest import TINY
from tests.test_robustness_report import corruption_block, perturbation_block

SMALL = (
    *(option for option in TINY if option != "iterate.control=false"), "student.ema_decay=0.3",
    "student.unlabeled_ratio=1", "iterate.control=true", "iterate.generations=[[],[]]", "iterate.report=false",
    "select.min_confidence=0.11", "select.allow_empty_classes=true",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and one series of a tiny run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SERIES, "tiny", Series("tiny", "digits", (Row("recipe", SMALL),)))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def table(folder: Path, name: str = "tiny") -> list[dict[str, str]]:
    with open(folder / "results" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def forbidden(job: Job) -> int:
    raise AssertionError(f"{job} was run again")


@pytest.mark.parametrize("name", SERIES)
def test_every_row_composes_with_all_its_generations(name: str):
    for row in SERIES[name].rows:
        cfg = compose_config([*row.options, "seed=1", f"stage={row.stage}"])
        cfg.overrides = [*row.options, "seed=1"]
        assert cfg.data.name == {"clothing": "folder", "cifar10": "cifar10"}.get(name, "eurosat"), row
        if row.stage == "evaluate":
            assert "seed1" in str(job_from(EvaluateJob, cfg).model.checkpoint), row
            continue
        composed = configurations(job_from(GenerationsJob, cfg))
        assert all((each.model.pretrained is False) == (name in ("networks", "cifar10")) for each in composed), row
        assert all("seed1" in each.data.root for each in composed), row


def test_no_two_rows_train_the_same_networks():
    """Tables share a run instead."""
    rows: dict[str, str] = {}
    for each in SERIES.values():
        for row in each.rows:
            cfg = plain(compose_config([*row.options, f"stage={row.stage}"]), whole=False)
            told = {name: value for name, value in cfg.items() if name not in ("name", "paper", "overrides", "run_dir")}
            told["iterate"].pop("control", None)  # of one, and not of the other: the student is the same
            assert rows.setdefault(fingerprint(told), f"{each.name}/{row.name}") == f"{each.name}/{row.name}"


def test_rows_that_share_a_teacher_ask_the_same_of_it():
    """Whoever comes second would be refused otherwise."""
    asked: dict[str, tuple[object, str]] = {}
    for each in SERIES.values():
        for row in each.rows:
            cfg = compose_config([*row.options, "stage=iterate"])
            if row.stage == "evaluate" or not cfg.iterate.teacher or cfg.iterate.generations[0] is None:
                continue
            cfg.overrides = list(row.options)
            first = configurations(job_from(GenerationsJob, cfg))[0]
            noise = {side: dict(first.noise[side]) for side in ("labeled", "randaugment")}
            wanted = {
                "model": dict(first.model),
                "student": str(first.student),
                "noise": noise,
                "data": first.data.root,
            }
            known, other = asked.setdefault(cfg.iterate.teacher, (wanted, row.name))
            assert wanted == known, f"{each.name}/{row.name} and {other}"
    assert len(asked) == 5


def test_every_claim_compares_networks_that_a_series_makes():
    for expectation in (expectation for claim in claims.CLAIMS for expectation in claim.expectations):
        assert expectation.metric in evidence.METRICS
        for network in (expectation.more, expectation.less):
            row = series.row_of(network.series, network.row)
            cfg = compose_config([*row.options, f"stage={row.stage}"])
            if row.stage == "evaluate":
                assert network.network == series_lines.EVALUATED
                continue
            made = [f"gen{number}" for number in range(len(cfg.iterate.generations))]
            assert network.network in [*made, claims.LAST, *(["control"] if cfg.iterate.control else [])], network


def test_every_student_has_a_control_of_its_network_and_labels():
    """In its own table or in one with which it is compared."""
    students, controls = set(), set()
    for each in SERIES.values():
        for row in (row for row in each.rows if row.stage == "iterate" and len(generations_of(row)) > 1):
            last = generations_of(row)[-1]
            learner = last.model.name, last.data.name, last.data.labeled_per_class
            students.add(learner)
            if compose_config([*row.options]).iterate.control:
                controls.add(learner)
    assert students == controls


def generations_of(row: Row) -> list[Any]:
    cfg = compose_config([*row.options, "stage=iterate"])
    cfg.overrides = list(row.options)
    return configurations(job_from(GenerationsJob, cfg))


def test_a_run_becomes_lines_and_is_never_run_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    main(["tiny", "--seeds", "0", "--results", "results"])
    directory, lines = place / "runs" / "series" / "tiny" / "recipe-seed0", table(place)
    assert [line["network"] for line in lines] == ["control", "gen0", "gen1"]
    result = read_json(directory / "result.json")
    wrong = {}
    for line, own in zip(lines, [result["control"], *result["generations"]], strict=True):
        evaluated = read_json(directory / line["network"] / "evaluation" / "result.json")
        found = mistakes.read(directory / line["network"] / "evaluation" / mistakes.FILE)
        wrong[line["network"]] = set(found or ())
        assert float(line["top1"]) == pytest.approx(own["top1"], abs=1e-3)
        assert (line["images"], line["labels"]) == (f"{evaluated['samples']:.0f}", "50")
        assert (line["steps"], line["selected"]) == (str(own["steps"]), str(own["unlabeled"]))
        assert shlex.split(line["command"])[:2] == ["nst", "iterate"]
        assert int(line["cpu_seconds"]) > 0
        assert "torch" in line["versions"]
    assert float(lines[2]["selected_right"]) == pytest.approx(
        result["generations"][1]["pseudo_label_accuracy"], rel=1e-5
    )
    pairs = dict(pair.split(":", 1) for pair in lines[2]["pairs"].split())
    assert pairs == {
        other: f"{len(wrong[other] - wrong['gen1'])}:{len(wrong['gen1'] - wrong[other])}"
        for other in ("control", "gen0")
    }
    monkeypatch.setattr(series, "_started", forbidden)
    before = (place / "results" / "tiny.csv").read_bytes()
    main(["tiny", "--seeds", "0", "--results", "results"])
    assert (place / "results" / "tiny.csv").read_bytes() == before
    capfd.readouterr()
    main(["tiny", "--seeds", "0,1", "--results", "results", "--list"])
    assert "done 0; missing 1" in capfd.readouterr().out

    # killed between the run and its line: the line comes from the run as it is
    (place / "results" / "tiny.csv").unlink()
    monkeypatch.setattr(series, "_started", lambda job: 0)
    main(["tiny", "--seeds", "0", "--results", "results"])
    assert (place / "results" / "tiny.csv").read_bytes() == before


def test_an_evaluation_becomes_a_line_with_its_robustness(place: Path):
    directory = place / "runs" / "series" / "tiny" / "attacked-seed3"
    attacks = {name: {"kind": "attack", "epsilons": [0.0, 2.0, 16.0], "top1": [80.0, first, 5.5]}
               for name, first in (("fgsm", 41.25), ("pgd", 30.0))}  # fmt: skip
    blocks = {"c_onthefly": corruption_block(30.0), "p_onthefly": perturbation_block(4.0), **attacks}
    write_json(directory / "result.json", {"stage": "evaluate", "top1": 81.5, "samples": 200.0, "robustness": blocks})
    write_json(directory / "started.json", {"inputs": {"test": "x"}, "git": "abc", "packages": {"torch": "2.9.0"}})
    mistakes.write(directory / mistakes.FILE, [(0.9, "one", 0, 1), (0.8, "two", 1, 0)], ["a", "b"])
    found = series_lines.networks(directory, "tiny", "attacked", 3, evaluated=True)
    line = found["network"].line
    assert line.key == ("tiny", "attacked", 3, "network")
    assert line.scores == {
        "top1": 81.5, "corruption_error": blocks["c_onthefly"]["mean_error"],
        "flip_rate": blocks["p_onthefly"]["mean_flip_probability"], "fgsm_2": 41.25, "fgsm_16": 5.5, "pgd_16": 5.5,
    }  # fmt: skip
    assert line.scores["corruption_error"] > 20
    assert (line.images, line.facts["commit"], line.facts["versions"]) == (200, "abc", "torch 2.9.0")
    assert found["network"].wrong == {"one", "two"}


def test_a_run_that_fails_leaves_no_line_and_the_others_go_on(place: Path, monkeypatch: pytest.MonkeyPatch):
    rows = (Row("broken", (*SMALL, "student.steps=3")), Row("whole", SMALL))
    monkeypatch.setitem(SERIES, "tiny", Series("tiny", "digits", rows))
    started = []

    def start(job: Job) -> int:
        started.append(job.row.name)
        return 1 if job.row.name == "broken" else 0

    monkeypatch.setattr(series, "_started", start)
    monkeypatch.setattr(series, "append", lambda job, results: started.append("appended"))
    with pytest.raises(NstError, match="not all of the series") as caught:
        main(["tiny", "--seeds", "0", "--results", "results"])
    assert started == ["broken", "whole", "appended"]
    assert "broken-seed0: exit code 1" in str(caught.value)


def made_line(options: tuple[str, ...], seed: int = 0) -> evidence.Line:
    facts = {"command": "nst iterate old", "commit": "abc"}
    return evidence.Line("tiny", "recipe", seed, "gen0", {"top1": 80.0}, 100, {}, digest(options), facts)


def put(place: Path, line: evidence.Line) -> None:
    (place / "results").mkdir(exist_ok=True)
    (place / "results" / "tiny.csv").write_text(series_lines.text_of([line], heads=True))


def test_a_row_of_other_options_is_refused_with_its_command(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(series, "_started", forbidden)
    put(place, made_line((*SMALL, "student.ema_decay=0.5")))
    for seed in ("0", "1"):  # also of a seed that is not there: seeds of a row belong together
        with pytest.raises(NstError, match="tiny/recipe has changed since it was run") as caught:
            main(["tiny", "--seeds", seed, "--results", "results"])
        assert "nst iterate old" in str(caught.value)


def test_the_place_of_pictures_and_the_hardware_change_no_row(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(series, "_started", forbidden)
    put(place, made_line(SMALL))
    pictures = place / "some where" / "digits.tar"
    pictures.parent.mkdir()
    pictures.touch()
    main(["tiny", "--seeds", "0", "--results", "results", "--root", str(pictures), "trainer=gpu"])
    with pytest.raises(NstError, match="has changed"):
        main(["tiny", "--seeds", "0", "--results", "results", "trainer.accumulate=2"])
    with pytest.raises(NstError, match="has changed"):
        main(["tiny", "--seeds", "0", "--results", "results", "student.label_smoothing=0"])


def test_the_command_that_is_kept_names_no_folder_of_this_machine(place: Path):
    job = Job("tiny", Row("recipe", ("experiment=eurosat",)), 3, ("trainer=gpu",), place / "eurosat.tar")
    assert f"data.source.root={place}/eurosat.tar" in job.command(str(job.root))
    assert job.told == (
        "nst iterate experiment=eurosat seed=3 run_dir=runs/series/tiny/recipe-seed3 data.source.root=eurosat.tar"
        " data.source.download=false trainer=gpu"
    )

    job = Job("tiny", Row("recipe", ("experiment=photos",)), 3, (), place / "clothing.tar")
    assert "data.source.root=clothing.tar" in job.told
    assert "download" not in job.told, "there is nothing to download that would have to be switched off"


def test_a_row_waits_for_the_networks_that_it_takes(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(series, "_started", forbidden)
    row = Row(
        "later", ("experiment=small_table4_large_supervised", "scale=eurosat"), "evaluate", ("table2/supervised",)
    )
    monkeypatch.setitem(SERIES, "tiny", Series("tiny", "digits", (row,)))
    with pytest.raises(NstError, match="not all") as caught:
        main(["tiny", "--seeds", "2", "--results", "results"])
    assert "waits for bin/bench series table2 --rows supervised --seeds 2" in str(caught.value)
    monkeypatch.setattr(series, "done", lambda path: {("supervised", 2): None} if path.stem == "table2" else {})
    with pytest.raises(NstError, match="run elsewhere: copy that folder to here"):
        main(["tiny", "--seeds", "2", "--results", "results"])


def test_the_seconds_of_all_starts_are_added(place: Path, monkeypatch: pytest.MonkeyPatch):
    row = Row("recipe", ("experiment=no_such_one",))
    job = Job("tiny", row, 0)
    assert series._started(job) == 2
    once = series._spent(job)
    series._started(job)
    twice = series._spent(job)
    assert all(twice[clock] > once[clock] > 0 for clock in ("wall", "cpu"))


@pytest.mark.slow
def test_a_killed_series_continues_by_the_same_command(place: Path, monkeypatch: pytest.MonkeyPatch):
    long = (*SMALL, "student.steps=40", "iterate.generations=[[]]", "iterate.control=false")
    monkeypatch.setitem(SERIES, "tiny", Series("tiny", "digits", (Row("recipe", long),)))
    metrics = place / "runs" / "series" / "tiny" / "recipe-seed0" / "gen0" / "metrics.csv"

    def kill() -> None:
        while not (metrics.exists() and "\n8,train/" in metrics.read_text()):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SystemExit) as stopped:
        main(["tiny", "--seeds", "0", "--results", "results"])
    killer.join()
    assert stopped.value.code == 130
    assert not (place / "results" / "tiny.csv").exists()
    reached = len(metrics.read_text().splitlines())
    assert series._spent(Job("tiny", Row("recipe", long), 0))["wall"] > 0
    main(["tiny", "--seeds", "0", "--results", "results"])
    assert [(line["network"], line["steps"]) for line in table(place)] == [("gen0", "40")]
    assert len(metrics.read_text().splitlines()) > reached


def test_mistakes_in_the_command_are_said(place: Path):
    for words, arguments in (
        ("unknown series", ["eurosat_11"]),
        ("no row has this name", ["tiny", "--rows", "x*"]),
        ("there are no pictures", ["tiny", "--root", "nowhere.tar"]),
    ):
        with pytest.raises(NstError, match=words):
            main([*arguments, "--results", "results"])
    with pytest.raises(argparse.ArgumentTypeError):
        series._seeds("0-4")


def test_pairs_need_the_same_images(place: Path):
    line = made_line(SMALL)
    one = series_lines.Measured(line, frozenset("abc"), {"digest": "x"})
    other = series_lines.Measured(replace(line, network="gen1"), frozenset("cd"), {"digest": "x"})
    assert one.against(other) == (1, 2)
    assert one.against(replace(other, tested_on={"digest": "y"})) is None
    assert one.against(replace(other, wrong=None)) is None


def test_the_files_of_this_checkout_can_be_continued():
    """Damage, contradictions and rows that are other than the series' of today are found before anybody waits."""
    for name in SERIES:
        path = series.ROOT / "docs" / "results" / f"{name}.csv"
        known = series.done(path)
        for (row, seed), line in known.items():
            assert line.series == name, line.place
            series.require_same_options(Job(name, series.row_of(name, row), seed), known)
