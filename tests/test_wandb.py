"""W&B in offline mode: the run that was written is read back from its file, without an account or a network."""

import csv
import json
import re
import shlex
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from nst.cli import dispatch
from nst.config import compose_config
from nst.documents import read_metrics
from nst.errors import NstError
from nst.report import workspace
from nst.settings.measuring import WandbOptions
from nst.stages import evaluate, iterate, report, train
from nst.training.offline import as_table
from nst.training.step_sums import TRAIN_METRICS
from nst.training.tracking import Tracking, run_id
from nst.written import begin
from tests import forked
from tests.conftest import TINY
from tests.trainings import dying_at

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
    """All records of the one offline run in `folder`, whose end W&B's own process may write a moment late."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    since = time.monotonic()
    found = parsed(path)
    while not any(record.HasField("exit") for record in found) and time.monotonic() - since < 30:
        time.sleep(0.2)
        found = parsed(path)
    return found


def parsed(path: Path) -> list[wandb_internal_pb2.Record]:
    found = []
    for data in chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def summary_of(found: list[wandb_internal_pb2.Record]) -> dict[str, Any]:
    return {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }


@pytest.fixture(scope="module")
def logged(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with its W&B run, which no test changes."""
    directory = tmp_path_factory.mktemp("logged") / "run"
    options = ["logger=wandb", "logger.wandb.mode=offline", "logger.wandb.tags=[a,b]", f"run_dir={directory}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        train.from_cfg(compose_config([*TINY, f"data.root={digits}", *options]))
    return directory


@pytest.fixture
def run(logged: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(logged, tmp_path / "run", symlinks=True))


def history(found: list[wandb_internal_pb2.Record]) -> list[dict[str, float]]:
    rows = []
    for record in found:
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            rows.append(items)
    return rows


def test_offline_run_holds_config_metrics_axes_and_summary(logged: Path):
    found = records(logged)
    (start,) = [record.run for record in found if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for record in found if record.HasField("run")
              for item in record.run.config.update}  # fmt: skip
    assert start.project == "nst"
    assert start.display_name.endswith("/run")
    assert list(start.tags) == ["a", "b"]
    assert config["student"]["steps"] == 12
    assert config["noise"]["randaugment"]["variant"] == "fixed"

    rows = history(found)
    told = {(int(row["trainer/global_step"]), name, value) for row in rows for name, value in row.items()
            if name.startswith(("train/", "validation/"))}  # fmt: skip
    table = {row for row in read_metrics(logged / "metrics.csv") if row[1].startswith(("train/", "validation/"))}
    assert told == table
    assert len(table) > 30

    axes = {record.metric.name or record.metric.glob_name: record.metric.step_metric for record in found
            if record.HasField("metric")}  # fmt: skip
    assert axes["train/*"] == axes["validation/*"] == "trainer/global_step"


def test_the_run_is_closed_with_the_results_in_its_summary(logged: Path):
    found = records(logged)
    assert any(record.HasField("exit") for record in found)
    summary = summary_of(found)
    result = json.loads((logged / "result.json").read_text())
    assert summary["top1"] == result["top1"]
    assert summary["parameters"] == result["parameters"]


def test_every_run_directory_has_a_run_of_its_own_and_keeps_it(tmp_path: Path):
    ids = {run_id(tmp_path / name) for name in ("a", "b", "c")}
    assert len(ids) == 3
    assert run_id(tmp_path / "a") == run_id(tmp_path / "b" / ".." / "a")
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    assert run_id(tmp_path / "elsewhere") in ids
    assert run_id(tmp_path / "a") not in ids, "another directory, if at the same path"


def logged_ids(folder: Path) -> set[str]:
    """Ids of the W&B runs that were written in `folder`."""
    # offline-run-<time>-<id>, and -1 after it of one that began within the same second
    return {path.name.split("-")[3] for path in folder.glob("wandb/offline-run-*")}


def test_a_continued_training_goes_on_in_its_run(tiny: Compose, tmp_path: Path):
    cfg = tiny("logger=wandb", "logger.wandb.mode=offline")
    with dying_at(6):
        train.from_cfg(cfg)
    before = run_id(tmp_path / "run")
    train.from_cfg(cfg)
    assert (tmp_path / "run" / "DONE").exists()
    assert logged_ids(tmp_path / "run") == {before} == {run_id(tmp_path / "run")}
    # the one offline run that is left holds what the first attempt logged, each row once
    rows = [(int(row["trainer/global_step"]), name, value) for row in history(records(tmp_path / "run"))
            for name, value in row.items() if name.startswith(("train/", "validation/"))]  # fmt: skip
    table = [
        row for row in read_metrics(tmp_path / "run" / "metrics.csv") if row[1].startswith(("train/", "validation/"))
    ]
    assert sorted(rows) == sorted(table)
    assert {step for step, *_ in rows} >= {2, 4, 6, 8, 10, 12}


def test_a_training_that_was_killed_goes_on_in_its_run_with_each_row_once(digits: Path, tmp_path: Path):
    """By SIGKILL, behind rows that no checkpoint holds: those of step 6 are logged again."""
    command = ["train", *TINY, f"data.root={digits}", "run_dir=run", "logger=wandb", "logger.wandb.mode=offline"]
    done = forked.run([*forked.PYTHON, "tests.killed_program", "step:7", *command], tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (before,) = logged_ids(tmp_path / "run")
    done = forked.run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "continuing from step 4" in done.stdout + done.stderr
    assert logged_ids(tmp_path / "run") == {before}
    rows = [(int(row["trainer/global_step"]), name, value) for row in history(records(tmp_path / "run"))
            for name, value in row.items() if name.startswith(("train/", "validation/"))]  # fmt: skip
    table = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if row[1].startswith(("train/", "valid"))]
    assert sorted(rows) == sorted(table)
    assert {step for step, *_ in rows} >= {2, 4, 6, 8, 10, 12}


def test_the_path_that_is_told_can_be_synced(tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    begin(tmp_path / "a run", own=True)
    with Tracking(tmp_path / "a run", wandb=WandbOptions(mode="offline", group=None)) as tracking:
        tracking.loggers()
    told = " ".join(capsys.readouterr().out.split())
    (command,) = re.findall(r"wandb sync (.*)", told)
    for _ in range(2):  # also when an evaluation has written the run again, into another folder
        folder, _, pattern = shlex.split(command.replace("- ", "-"))[0].rpartition("/")
        assert len(list(Path(folder).glob(f"{pattern}/run-*.wandb"))) == 1
        with Tracking(tmp_path / "a run", wandb=WandbOptions(mode="offline", group=None)) as tracking:
            tracking.evaluated({"top1": 50.0}, [])


def test_wandb_has_nothing_to_warn_of_and_a_disabled_run_is_no_path(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    for mode in ("offline", "disabled"):
        with Tracking(tmp_path / mode, wandb=WandbOptions(mode=mode, group=None)) as tracking:
            tracking.loggers()
    told = "".join(capfd.readouterr())
    assert "WARNING" not in told
    assert "W&B (offline)" in told
    assert "disabled" not in told


def test_columns_of_a_table_are_of_one_type(tmp_path: Path):
    """W&B takes no others: numbers may be missing, as None or in a CSV file as nothing, and runs are called 1 or a."""
    rows = [{"level": None, "run": "1", "value": "2.5"}, {"level": 3, "run": "a", "value": "", "late": 1}]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["level", "run", "value", "late"])
        writer.writeheader()
        writer.writerows(rows)
    with open(tmp_path / "t.csv", newline="") as file:
        read = list(csv.DictReader(file))
    for table in (as_table(rows), as_table(read), as_table(rows[::-1])):
        assert set(table.columns) == {"level", "run", "value", "late"}
        found = [dict(zip(table.columns, row, strict=True)) for row in table.data]
        assert sorted(row["run"] for row in found) == ["1", "a"]
        assert {row["level"] for row in found} == {None, 3.0}
        assert {row["value"] for row in found} == {2.5, None}
        assert {row["late"] for row in found} == {1.0, None}
    assert as_table([]).columns == []


def test_a_training_made_anew_by_overwrite_has_a_new_run(tiny: Compose, run: Path):
    before = run_id(run)
    options = ["logger=wandb", "logger.wandb.mode=offline", "overwrite=true"]
    train.from_cfg(tiny(*options, run_dir=run))
    assert run_id(run) == before, "the same inputs: nothing was made anew"
    train.from_cfg(tiny(*options, "student.weight_decay=0.01", run_dir=run))
    assert run_id(run) != before
    assert logged_ids(run) == {run_id(run)}


@pytest.mark.usefixtures("no_account")
def test_a_report_of_a_run_directory_goes_to_its_run(run: Path):
    before = run_id(run)
    dispatch(["report", "--wandb", f"run_dir={run}", "logger.wandb=null"])
    assert logged_ids(run) == {before} == {run_id(run)}


def test_no_secret_of_the_command_line_or_configuration_reaches_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["nst", "train", "data.test=https://user:hunter2-Zq81xV@host/x"])
    config = {"data": {"test": "https://user:hunter2-Zq81xV@host/x"}}
    with Tracking(
        tmp_path / "run", table=False, wandb=WandbOptions(mode="offline", group=None), config=config
    ) as tracking:
        tracking.loggers()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"hunter2" not in kept
    assert kept.count(b"https://***@host/x") >= 2


def test_without_an_account_auto_means_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert WandbOptions(mode="auto", group=None).resolved_mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandbOptions(mode="auto", group=None).resolved_mode == "disabled"


def test_iterate_gives_each_generation_one_run_with_its_evaluation_and_the_last_one_the_report(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    options = [
        "logger=wandb",
        "logger.wandb.mode=offline",
        "select.min_confidence=0",
        "select.allow_empty_classes=true",
        "name=w",
        *("eval=robustness", "eval.max_images=10", "eval.corruptions=[fog]", "eval.perturbations=null"),
        *("eval.severities=[1]", "eval.attacks=null"),
        "iterate.control=true",
        "iterate.generations=[['model.width=0.25'],['model.width=0.25']]",
    ]
    cfg = tiny(*options)
    cfg.overrides = [*TINY, *options, f"data.root={cfg.data.root}"]
    cfg.stage = "iterate"
    iterate.main(cfg)
    found = records(tmp_path / "run/gen1")
    names = {item.key or "/".join(item.nested_key) for record in found if record.HasField("history")
             for item in record.history.item}  # fmt: skip
    for name in ("report/generations", "report/page", "figures/generations", "figures/confidence"):
        assert any(found_name.startswith(f"{name}/") for found_name in names), name
    ids = {path.name.rpartition("-")[2] for path in tmp_path.rglob("offline-run-*")}
    folders = ("run/gen0", "run/gen1", "run/control")
    assert len(ids) == len(folders)
    for folder in folders:
        (start,) = [record.run for record in records(tmp_path / folder) if record.HasField("run")]
        assert (start.run_group, start.job_type) == ("w", "train")
        table = read_metrics(tmp_path / folder / "metrics.csv")
        logged = [name for row in history(records(tmp_path / folder)) for name in row]
        assert all(logged.count(name) == sum(row[1] == name for row in table) for _, name, _ in table)
        test = json.loads((tmp_path / folder / "evaluation" / "result.json").read_text())
        if folder != "run/gen1":  # the report's summary follows in the last one
            assert summary_of(records(tmp_path / folder))["top5"] == test["top5"]

    before = {folder: run_id(tmp_path / folder) for folder in folders}
    iterate.main(cfg)  # writes the last one's again, which has the report
    for folder in folders:
        assert logged_ids(tmp_path / folder) == {before[folder]}
        assert len(list(tmp_path.glob(f"{folder}/wandb/offline-run-*"))) == 1
    (path,) = tmp_path.glob("run/gen1/wandb/offline-run-*/files/media/table/robustness/*.table.json")
    table = [row[:3] for row in json.loads(path.read_text())["data"]]
    assert ["c_onthefly", "fog", 1.0] in table
    assert ["c_onthefly", "", None] in table, "the mean, which is of no severity"
    cfg.overrides, cfg.overwrite = [*cfg.overrides, "overwrite=true", "student.weight_decay=0.01"], True
    iterate.main(cfg)
    assert not {run_id(tmp_path / folder) for folder in folders} & set(before.values()), "all is made anew"
    for folder in folders:
        assert logged_ids(tmp_path / folder) == {run_id(tmp_path / folder)}


def test_an_evaluation_has_a_run_with_its_robustness_as_summary_and_table(
    tiny: Compose, logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    suites = ["eval=robustness", "eval.max_images=10", "eval.corruptions=[fog,frost]", "eval.perturbations=[rotate]",
              "eval.attacks={fgsm: {epsilons: [0, 8]}, pgd: null}"]  # fmt: skip
    options = ["logger=wandb", "logger.wandb.mode=offline", f"model.checkpoint={logged}"]
    cfg = tiny(*suites, *options, f"evaluate.output={tmp_path / 'e'}")
    result = evaluate.from_cfg(cfg)
    found = records(tmp_path / "e")
    (start,) = [record.run for record in found if record.HasField("run")]
    assert start.job_type == "evaluate"
    flat = {name: value for name, value in result.items() if name.startswith("robustness/")}
    assert {"robustness/c_onthefly/error/frost", "robustness/p_onthefly/flip/rotate"} <= flat.keys()
    assert {name: value for name, value in summary_of(found).items() if name in flat} == flat
    assert summary_of(found)["top1"] == result["top1"]

    (path,) = (tmp_path / "e").glob("wandb/offline-run-*/files/media/table/robustness/*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["suite", "condition", "level", "metric", "value"]
    with open(tmp_path / "e" / "robustness.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row[-1]) for row in table["data"]] == [float(row["value"]) for row in rows]
    assert len(rows) == 2 * 5 + 2 + 2 + 3  # clean_error, corruption_error and flip_rate of the whole suites

    monkeypatch.setattr(Tracking, "loggers", lambda self: pytest.fail("logged again"))
    assert evaluate.from_cfg(cfg) == result  # nothing new: no second run


def test_robustness_within_a_training_is_logged_at_its_step(tiny: Compose, tmp_path: Path):
    suites = ["eval=robustness", "eval.max_images=10", "eval.corruptions=[fog]", "eval.perturbations=null",
              "eval.attacks=null", "eval.every=8"]  # fmt: skip
    train.from_cfg(tiny(*suites, "logger=wandb", "logger.wandb.mode=offline"))
    logged = [(int(row["trainer/global_step"]), name, value) for row in history(records(tmp_path / "run"))
              for name, value in row.items() if name.startswith("robustness/")]  # fmt: skip
    table = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if row[1].startswith("robustness/")]
    assert sorted(logged) == sorted(table)
    assert {step for step, *_ in logged} == {8}


# ---- reports and the saved view


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there


@pytest.mark.usefixtures("no_account")
def test_a_report_is_sent_as_an_artifact(logged: Path, tmp_path: Path):
    output = tmp_path / "by_hand"
    dispatch(["report", "--wandb", f"report.runs=['{logged}']", f"run_dir={output}", "logger.wandb=null"])
    artifacts = [
        record.request.log_artifact.artifact
        for record in records(output)
        if record.HasField("request") and record.request.HasField("log_artifact")
    ]
    artifacts += [record.artifact for record in records(output) if record.HasField("artifact")]
    (artifact,) = [artifact for artifact in artifacts if artifact.type == "report"]
    names = {entry.path for entry in artifact.manifest.contents}
    assert {"report.html", "report.csv", "learning_curves.png"} <= names
    told = [row for row in history(records(output)) if any(name.startswith("report/generations") for name in row)]
    assert len(told) == 1


def test_the_view_has_panels_for_what_runs_log():
    view = workspace.workspace("team", "nst")
    sections = {section.name: section.panels for section in view.sections}
    assert list(sections) == [
        "Generations",
        "Robustness",
        "Training",
        "Pseudo-labels",
        "Ablations and the paper's tables",
    ]
    shown = {
        key
        for panels in sections.values()
        for panel in panels
        for key in [*getattr(panel, "y", []), *getattr(panel, "metrics", [])]
    }
    trained = {f"train/{name}" for name in (*TRAIN_METRICS, "learning_rate", "images_per_second")}
    assert {key for key in shown if str(key).startswith("train/")} <= trained
    drawn = {key.removeprefix("figures/") for panel in sections["Pseudo-labels"] for key in panel.media_keys}
    assert drawn <= set(report.FIGURES)
    assert "Robustness" in json.dumps(view._to_model().model_dump(mode="json")), "what is sent to the server"


@pytest.mark.usefixtures("no_account")
def test_a_view_that_cannot_be_saved_is_explained(tmp_path: Path):
    with pytest.raises(NstError, match="could not be saved") as error:
        dispatch(["report", "--wandb-workspace", f"run_dir={tmp_path}"])
    assert "wandb login" in str(error.value)
