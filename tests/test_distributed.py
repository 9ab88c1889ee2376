"""Two ranks on one machine (DDP over gloo): every stage, each sample once, one writer, nobody waits for ever."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nst.documents import read_metrics
from nst.runs import Run
from tests import forked
from tests.conftest import TINY, read_by

# what users run, as far as a CPU can: no GPU, no bfloat16, and no eight loader workers a rank on two cores
TWO_RANKS = ["trainer=gpu_ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
             "trainer.workers=0"]  # fmt: skip
SELECT = ["select.min_confidence=0", "select.allow_empty_classes=true"]


def nst(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Rank 0 is forked, and starts the other as it always does."""
    return forked.run(arguments, limit_s=300)


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks") / "run"
    tiny = [option for option in TINY if not option.startswith("trainer.")]
    generations = "iterate.generations=[['model.width=0.25'],['model.width=0.25']]"
    done = nst("iterate", *tiny, *TWO_RANKS, *SELECT, f"data.root={digits}", f"run_dir={directory}", generations)
    assert done.returncode == 0, done.stderr
    return directory


def test_iterate_runs_through_on_two_ranks(run: Path):
    result = json.loads((run / "result.json").read_text())
    assert len(result["generations"]) == 2
    assert (run / "report.html").exists()


def test_two_ranks_label_every_image_once(run: Path, digits: Path):
    keys = []
    for path in sorted((run / "gen0/predictions").glob("*.parquet")):
        keys += pq.read_table(path, columns=["key"])["key"].to_pylist()
    assert len(keys) == len(set(keys)) == 240


def test_two_ranks_evaluate_every_image_once(run: Path):
    result = json.loads((run / "gen1/evaluation/result.json").read_text())
    assert result["samples"] == 100
    assert sum(map(sum, result["confusion"])) == 100
    wrong = 100 - round(result["top1"])
    assert len(result["mistakes"]) == min(wrong, 48)


def test_one_rank_writes_the_metrics(run: Path):
    rows = read_metrics(run / "gen1/metrics.csv")
    assert [step for step, name, _ in rows if name == "train/loss"] == [2, 4, 6, 8, 10, 12]


@pytest.mark.timeout(1200)
def test_what_two_ranks_have_trained_labels_and_is_evaluated_as_well_as_training_saw(digits: Path, tmp_path: Path):
    tiny = [option for option in TINY if not option.startswith("trainer.")]
    directory = tmp_path / "run"
    longer = ["student.steps=60", "student.labeled_batch_size=32", "student.ema_decay=0.9",
              "student.checkpoint_every=60", "student.validate_every=null"]  # fmt: skip
    common = [*tiny, *longer, f"data.root={digits}", f"run_dir={directory}"]
    done = nst("train", *common, *TWO_RANKS)
    assert done.returncode == 0, done.stderr
    trained = json.loads((directory / "result.json").read_text())["trained"]
    assert trained["validation/top1"] > 30  # of 10 classes: a broken network would show

    # by a process of its own, which builds the network anew
    output = f"evaluate.output={tmp_path / 'evaluation'}"
    done = nst("evaluate", *read_by("evaluate", common), "trainer.workers=0", f"model.checkpoint={directory}", output)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "evaluation" / "result.json").read_text())
    assert result["top1"] == trained["validation/top1"]
    assert result["loss"] == pytest.approx(trained["validation/loss"], abs=1e-4)

    done = nst("label", *read_by("label", common), *TWO_RANKS, f"teacher.run={directory}")
    assert done.returncode == 0, done.stderr
    labels = {
        row["key"]: row["label"]
        for path in (directory / "predictions").glob("*.parquet")
        for row in pq.read_table(path, columns=["key", "label"]).to_pylist()
    }
    truth = pq.read_table(digits / "unlabeled/truth.parquet").to_pylist()
    right = [labels[row["key"]] == row["label"] for row in truth]
    assert 100 * sum(right) / len(right) == pytest.approx(trained["validation/top1"], abs=12)  # 240 other pictures


def test_two_ranks_label_validation_pictures_as_one_does_and_go_on_where_a_killed_labeling_stopped(
    run: Path, digits: Path, tmp_path: Path
):
    tiny = [option for option in TINY if not option.startswith("trainer.")]
    common = [*tiny, f"data.root={digits}", f"teacher.run={run / 'gen0'}", f"data.validation={digits / 'test'}"]
    ranks = {"one": ["trainer.workers=0"], "two": TWO_RANKS}

    def label(name: str) -> list[dict[str, Any]]:
        done = nst(
            "label",
            *read_by("label", common),
            *ranks[name],
            "label.precision=32-true",
            f"teacher.predictions={tmp_path / name}",
        )
        assert done.returncode == 0, done.stderr
        paths = sorted((tmp_path / name / "validation").glob("*.parquet"))
        return [row for path in paths for row in pq.read_table(path, columns=["key", "label"]).to_pylist()]

    expected = label("one")
    assert len(expected) == 100
    assert label("two") == expected
    # as SIGKILL leaves it while the second of the validation shards is labeled
    unlabeled, validation = tmp_path / "two", tmp_path / "two" / "validation"
    first, *rest = sorted(validation.glob("*.parquet"))
    assert rest
    for path in (*rest, *(validation / name for name in ("DONE", "result.json", "predictions.json"))):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (first, *unlabeled.glob("*.parquet"))}
    assert label("two") == expected
    assert before == {path: path.stat().st_mtime_ns for path in before}


SUITES = ["eval=robustness", "eval.max_images=10", "eval.corruptions=[fog,contrast]", "eval.severities=[1,5]",
          "eval.perturbations=[rotate]", "eval.attacks={fgsm: {epsilons: [0, 8]}, pgd: null}"]  # fmt: skip


def test_two_ranks_measure_robustness_as_one_does_and_begin_anew_together(run: Path, digits: Path, tmp_path: Path):
    tiny = [option for option in TINY if not option.startswith("trainer.")]
    common = [*tiny, f"data.root={digits}", f"model.checkpoint={run / 'gen1/checkpoints/trained.safetensors'}"]
    found = []
    for name, ranks in (("one", ["trainer.workers=0"]), ("two", TWO_RANKS)):
        output = f"evaluate.output={tmp_path / name}"
        done = nst("evaluate", *read_by("evaluate", common), *SUITES, *ranks, output, "eval.seed=1")
        assert done.returncode == 0, done.stderr
        assert "evaluate: 100/100 " in done.stdout, "with shards of 80 and 20 images, of which each rank gets one"
        # other conditions over what is there: all ranks measure all parts, not those alone that rank 0 has deleted
        done = nst("evaluate", *read_by("evaluate", common), *SUITES, *ranks, output, "overwrite=true")
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / name / "result.json").read_text())
        found.append({key: value for key, value in result.items() if key.startswith("robustness/")})
    assert found[0] == found[1]
    assert len(found[0]) >= 6


def test_two_ranks_measure_robustness_within_a_training(digits: Path, tmp_path: Path):
    tiny = [option for option in TINY if not option.startswith("trainer.")]
    directory = tmp_path / "run"
    done = nst("train", *tiny, *TWO_RANKS, *SUITES, "eval.every=6", f"data.root={digits}", f"run_dir={directory}")
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_metrics(directory / "metrics.csv") if row[1].startswith("robustness/")]
    assert [step for step, name, _ in rows if name == "robustness/fgsm/top1_at_8"] == [8, 12]
    # rank 0's network, which is the one that is kept
    done = nst("evaluate", *read_by("evaluate", tiny), "trainer.workers=0", *SUITES, f"data.root={digits}",
               f"model.checkpoint={directory / 'checkpoints/trained.safetensors'}",
               f"evaluate.output={tmp_path / 'e'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "e" / "result.json").read_text())
    assert {name: value for step, name, value in rows if step == 12} == {
        name: value for name, value in result.items() if name.startswith("robustness/")
    }


def test_a_mistake_on_rank_0_ends_all_ranks(run: Path, digits: Path, tmp_path: Path):
    tiny = [option for option in TINY if not option.startswith("trainer.")]
    generations = "iterate.generations=[['model.width=0.25'],['model.width=0.25']]"
    with Run(tmp_path / "run/gen0/selection", "select", {"seed": 9}) as other:
        other.finish({})  # rank 0 alone selects, and so alone finds that this is another selection
    done = nst("iterate", *tiny, *TWO_RANKS, f"data.root={digits}",
               f"run_dir={tmp_path / 'run'}", generations)  # fmt: skip
    assert done.returncode == 3
    assert "selection holds a select run with other inputs" in done.stderr
    assert (tmp_path / "run/gen0/predictions/DONE").exists(), "it was made in the middle of the run"
    assert "Traceback" not in done.stderr
    until = time.monotonic() + 200  # the other looks for a result for two minutes, then ends by itself
    while left := subprocess.run(["pgrep", "-f", tmp_path / "run"], capture_output=True, check=False).stdout:
        assert time.monotonic() < until, left
        time.sleep(0.2)


@pytest.mark.slow
def test_two_ranks_take_a_network_of_timms_through_all_stages_as_one_process_does(digits: Path, tmp_path: Path):
    """With validation images and a control; without noise, whose draws follow the ranks."""
    tiny = [option for option in TINY if not option.startswith(("trainer.", "model.", "iterate."))]
    network = ["model=timm", "model.name=test_vit", "model.train_size=32", "model.test_size=32"]
    still = ["noise=none", "noise.dropout=0", "noise.stochastic_depth=0", "label.precision=32-true"]
    loop = ["iterate.generations=[[],[]]", "iterate.control=true", "iterate.report=false", *SELECT]
    common = [*tiny, *network, *still, *loop, f"data.root={digits}", f"data.validation={digits / 'test'}"]
    found = {}
    for name, ranks in (("one", ["trainer.workers=0"]), ("two", TWO_RANKS)):
        run = tmp_path / name
        done = nst("iterate", *common, *ranks, f"run_dir={run}")
        assert done.returncode == 0, done.stderr
        result = json.loads((run / "result.json").read_text())
        losses = [row["loss"] for row in (*result["generations"], result["control"])]
        labels = [row for path in sorted((run / "gen0" / "predictions").rglob("*.parquet"))
                  for row in pq.read_table(path, columns=["key", "label"]).to_pylist()]  # fmt: skip
        selected = [row for path in sorted((run / "gen0" / "selection").glob("*.parquet"))
                    for row in pq.read_table(path, columns=["key", "copies"]).to_pylist()]  # fmt: skip
        found[name] = (losses, labels, selected, result["best"]["generation"])
    assert len(found["one"][0]) == 3
    assert len(found["one"][1]) == 240 + 100
    assert found["two"][0] == pytest.approx(found["one"][0], abs=1e-5)
    assert found["two"][1:] == found["one"][1:]


def test_two_ranks_ask_several_networks_as_one_process_does(run: Path, digits: Path, tmp_path: Path):
    networks = f"[{run / 'gen0'},{run / 'gen1'}]"
    label = ["label", f"teacher.run={networks}", f"data.validation={digits / 'test'}", "label.precision=32-true"]
    predict = ["predict", f"model.checkpoint={networks}", f"predict.input={digits / 'test'}",
               "predict.precision=32-true", "predict.sheet=0"]  # fmt: skip
    found = []
    for name, ranks in (("one", ["trainer.workers=0"]), ("two", TWO_RANKS)):
        folder = tmp_path / name
        for command in ([*label, f"teacher.predictions={folder / 'labels'}"],
                        [*predict, f"predict.output={folder / 'answers'}"]):  # fmt: skip
            done = nst(*command, *ranks)
            assert done.returncode == 0, done.stderr
        files = [*sorted((folder / "labels").rglob("*.parquet")), folder / "answers" / "predictions.csv"]
        found.append([path.read_bytes() for path in files])
    assert len(found[0]) == 3 + 2 + 1
    assert found[0] == found[1]
