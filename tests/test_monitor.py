"""Robustness within a training (eval.every): when, of which network, and without a trace in the training."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nst.config import compose_config, job_from
from nst.documents import read_json, read_metrics
from nst.errors import NstError, Preempted
from nst.models.checkpoints import load_network
from nst.settings.job import TrainJob
from nst.stages import evaluate, robustness, train
from nst.stages.watching import state_digest
from nst.training.classifier import Classifier
from nst.training.counting import Counting, SeenByAll
from nst.training.hardware import Hardware
from nst.training.periodic import Monitor, Monitoring
from tests.conftest import TINY
from tests.trainings import Crash, dying_at, rows, weights

Compose = Callable[..., Any]
# checkpoints every 4 of 12 steps: a multiple of 5 is measured at steps 8 and 12
SUITES = ["eval=robustness", "eval.max_images=10", "eval.corruptions=[fog]", "eval.severities=[1]",
          "eval.perturbations=[brightness]", "eval.attacks={fgsm: {epsilons: [0, 8]}, pgd: null}"]  # fmt: skip
EVERY = [*SUITES, "eval.every=5"]
NAMES = {"robustness/c_onthefly/error/fog", "robustness/p_onthefly/flip/brightness", "robustness/fgsm/top1_at_8"}


def robust(run: Path) -> list[tuple[int, str, float]]:
    return [row for row in rows(run) if row[1].startswith("robustness/")]


def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`step/suite` of every pass from now on."""
    seen: list[str] = []
    original = robustness.evaluate_pass

    def counted(*arguments: Any) -> Any:
        seen.append("/".join(arguments[4].parts[-4:-2]))
        return original(*arguments)

    monkeypatch.setattr(robustness, "evaluate_pass", counted)
    return seen


@pytest.mark.parametrize(
    ("every", "segment", "total", "expected"),
    [
        (5, 4, 12, [8, 12]),
        (4, 4, 12, [4, 8, 12]),
        (1, 4, 10, [4, 8, 10]),  # at most once a segment; the last one is shorter
        (9, 4, 10, [10]),
        (100, 40, 200, [120, 200]),
        (100, 50, 320, [100, 200, 300]),
        (7, 10, 9, [9]),
        (13, 4, 12, []),
    ],
)
def test_an_evaluation_is_due_at_the_first_end_of_a_segment_from_each_multiple_on(every, segment, total, expected):
    callback = Monitoring(Monitor(every, lambda *_: {}), Path(), 12, segment_steps=segment, total_steps=total)
    assert [step for step in range(total + 1) if callback.due(step)] == expected


def test_multiples_are_of_the_steps_of_all_phases():
    callback = Monitoring(Monitor(10, lambda *_: {}), Path(), 12, segment_steps=4, total_steps=8)
    assert [step for step in range(9) if callback.due(step, first_step=15)] == [8]  # 20 lies in steps 20 to 23
    assert [step for step in range(9) if callback.due(step, first_step=16)] == [4]


@pytest.fixture(scope="module")
def pair(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same training without and with evaluations, and with two phases."""
    root = tmp_path_factory.mktemp("pair")
    common = [*TINY, f"data.root={digits}", "student.finetune.epochs=1", "student.finetune.image_size=16",
              "student.finetune.labeled_batch_size=10"]  # fmt: skip
    train.from_cfg(compose_config([*common, f"run_dir={root / 'plain'}"]))
    train.from_cfg(compose_config([*common, *EVERY, f"run_dir={root / 'monitored'}"]))
    return root / "plain", root / "monitored"


def test_numbers_stand_in_metrics_at_the_steps_that_are_due(pair: tuple[Path, Path]):
    found = robust(pair[1])
    assert {name for _, name, _ in found} >= NAMES
    for name in NAMES:
        # 12 steps of training, 5 of fine-tuning in segments of 4: 15 is reached at 16
        assert [step for step, other, _ in found if other == name] == [8, 12, 16]


def test_a_training_is_the_same_with_and_without_evaluations(pair: tuple[Path, Path]):
    plain, monitored = pair
    for name in ("trained", "finetuned"):
        assert weights(plain, name) == weights(monitored, name)
    assert rows(plain) == [row for row in rows(monitored) if row not in robust(monitored)]
    assert read_json(plain / "result.json") == read_json(monitored / "result.json")
    started = [read_json(run / "started.json") for run in pair]
    assert started[0]["fingerprint"] == started[1]["fingerprint"]


def test_what_is_measured_is_the_averaged_network_as_nst_evaluate_would(
    pair: tuple[Path, Path], tiny: Compose, tmp_path: Path
):
    run = pair[1]
    kept = run / "checkpoints" / "trained.safetensors"
    started = read_json(run / "robustness/000012/c_onthefly/started.json")
    assert started["inputs"]["weights"] == state_digest(load_network(kept)[0])
    result = evaluate.from_cfg(tiny(*SUITES, f"model.checkpoint={kept}", f"evaluate.output={tmp_path / 'e'}"))
    flat = {name: value for name, value in result.items() if name.startswith("robustness/")}
    assert flat == {name: value for step, name, value in robust(run) if step == 12}
    # fine-tuned at another size, and measured at it
    finetuned = read_json(run / "robustness/000016/c_onthefly/result.json")
    assert finetuned["conditions"]["shown_at"] == 16


def test_the_time_of_an_evaluation_is_not_time_of_the_steps(tiny: Compose, tmp_path: Path):
    import time

    def slow(*_: Any) -> dict[str, float]:
        time.sleep(2)
        return {"robustness/x": 1.0}

    from nst.stages import watching

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "measure_suites", slow)
        train.from_cfg(tiny(*EVERY))
    times = [value for step, name, value in read_metrics(tmp_path / "run/metrics.csv") if name == "train/step_time_ms"
             and step in (10, 12)]  # fmt: skip
    assert len(times) == 2
    assert max(times) < 1000  # 2 s more in the two steps after step 8 would be 1,000 ms each


# ---- killed and continued --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with evaluations that nothing has stopped."""
    run = tmp_path_factory.mktemp("watched") / "run"
    train.from_cfg(compose_config([*TINY, f"data.root={digits}", *EVERY, f"run_dir={run}"]))
    return run


@pytest.mark.parametrize("step", [5, 9, 11])
def test_a_training_that_dies_later_neither_repeats_nor_loses_an_evaluation(
    tiny: Compose, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    seen = passes(monkeypatch)
    with dying_at(step):
        train.from_cfg(tiny(*EVERY, run_dir=tmp_path / "killed"))
    train.from_cfg(tiny(*EVERY, run_dir=tmp_path / "killed"))
    assert seen == [f"{at}/{suite}" for at in ("000008", "000012") for suite in ("c_onthefly", "p_onthefly", "fgsm")]
    assert rows(watched) == rows(tmp_path / "killed")
    assert weights(watched) == weights(tmp_path / "killed")


@pytest.mark.parametrize("killed_at", ["000008/p_onthefly", "000012/c_onthefly", "000012/fgsm"])
def test_a_training_that_dies_within_an_evaluation_continues_there(
    tiny: Compose, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
):
    steps: list[int] = []
    original = Classifier.training_step

    def counts(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        steps.append(self.trainer.global_step)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", counts)
    seen = passes(monkeypatch)
    measured = robustness.evaluate_pass

    def dies(*arguments: Any) -> Any:
        if "/".join(arguments[4].parts[-4:-2]) == killed_at:
            raise Crash
        return measured(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(robustness, "evaluate_pass", dies)
        train.from_cfg(tiny(*EVERY, run_dir=tmp_path / "killed"))
    train.from_cfg(tiny(*EVERY, run_dir=tmp_path / "killed"))
    assert steps == list(range(12))  # no step of the training was lost
    assert len(seen) == len(set(seen)) == 6
    assert rows(watched) == rows(tmp_path / "killed")
    assert read_json(watched / "result.json") == read_json(tmp_path / "killed/result.json")


def test_sigterm_within_an_evaluation_ends_the_training_which_continues_there(
    tiny: Compose, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = Counting.test_step

    def told(self: Any, batch: Any, batch_idx: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Preempted) as caught:
        patch.setattr(Counting, "test_step", told)
        train.from_cfg(tiny(*EVERY, run_dir=tmp_path / "told"))
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    train.from_cfg(tiny(*EVERY, run_dir=tmp_path / "told"))
    assert rows(watched) == rows(tmp_path / "told")


def test_other_weights_at_the_same_step_are_measured_anew(tiny: Compose, watched: Path, tmp_path: Path):
    """As after a kill on a GPU, whose sums do not repeat to the last bit."""
    shutil.copytree(watched, tmp_path / "run")
    path = tmp_path / "run/robustness/000008/c_onthefly/started.json"
    text = path.read_text()
    for name in ("DONE", "result.json", "checkpoints"):
        target = tmp_path / "run" / name
        target.rename(tmp_path / name)
    path.write_text(text.replace(read_json(path)["fingerprint"], "0" * 64))
    train.from_cfg(tiny(*EVERY))
    assert path.read_text() != text.replace(read_json(path)["fingerprint"], "0" * 64)
    assert len(robust(tmp_path / "run")) == 2 * len({name for _, name, _ in robust(tmp_path / "run")})


# ---- what is refused -------------------------------------------------------------------------------------------


def test_mistakes_are_told_before_the_first_step(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("trained"))
    nothing = ["eval.corruptions=null", "eval.perturbations=null", "eval.attacks=null"]
    with pytest.raises(NstError, match="no suite of robustness is asked for"):
        train.from_cfg(tiny(*EVERY, *nothing))
    with pytest.raises(NstError, match=r"eval\.cifar_c: no such folder: "):
        train.from_cfg(tiny(*EVERY, *nothing, "eval.cifar_c=nowhere"))
    with pytest.raises(NstError, match="no robustness results"):
        train.from_cfg(tiny(*EVERY, f"eval.baseline={tmp_path}"))
    with pytest.raises(NstError, match=r"eval\.every cannot be 0"):
        train.from_cfg(tiny(*SUITES, "eval.every=0"))
    assert not (tmp_path / "run").exists()


def test_xla_trainers_refuse_in_words(tiny: Compose, monkeypatch: pytest.MonkeyPatch):
    from nst.stages.watching import require_monitoring

    cfg = tiny(*EVERY, "trainer=xla_cpu")
    with pytest.raises(NstError, match=r"eval\.every does not work on XLA trainers(.|\n)*nst evaluate eval=robustness"):
        require_monitoring(job_from(TrainJob, cfg))
    require_monitoring(job_from(TrainJob, tiny(*EVERY, "trainer=xla_cpu", "eval.every=null")))
    monkeypatch.setattr("nst.stages.resolving.machine", lambda options: Hardware())
    with pytest.raises(NstError, match="XLA trainers"):
        train.check(job_from(TrainJob, cfg))  # what iterate asks before its first stage
    with pytest.raises(NstError, match="XLA trainers"):
        train.from_cfg(cfg)


def test_options_of_an_evaluation_alone_measure_nothing_in_a_training(tiny: Compose, tmp_path: Path):
    train.from_cfg(tiny(*SUITES))
    assert robust(tmp_path / "run") == []
    assert not (tmp_path / "run" / "robustness").exists()


def test_a_rank_of_several_tells_of_no_more_samples_than_there_are():
    told: list[int] = []
    seen = SeenByAll(told.append, samples=100, ranks=2)
    for own in (30, 30, 20):
        seen(own)
    assert told == [60, 40, 0]
