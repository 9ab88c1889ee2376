"""The same training on a CPU, on one XLA device and on eight: equal numbers, one graph, free exchange of checkpoints.

A process per number of devices runs all its trainings in turn (tests/xla_program.py); the tests look at what they
left on disk.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from nst.atomic import sha256_file
from nst.cli import dispatch
from nst.models.checkpoints import load_network
from nst.xla.environment import FAST_COMPILE
from tests.conftest import TINY, read_by
from tests.xla_runs import FINETUNE, QUIET, RECIPE, STEPS, Program, Ran, dispatch_until_killed, metrics

ACCUMULATED = [*QUIET, "trainer.accumulate=2"]

# a process of many trainings stands behind the first test that asks for it
pytestmark = [pytest.mark.timeout(2400), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def teacher(folder: Path, digits: Path) -> Path:
    """A teacher, its predictions (in float32 as on XLA, also where a CPU has bf16) and its selection, by the CPU."""
    run = folder / "teacher"
    common = [*TINY, f"data.root={digits}", f"run_dir={run}"]
    dispatch(["train", *common])
    dispatch(["label", *read_by("label", common), f"teacher.run={run}", "label.precision=32-true"])
    dispatch(
        [
            "select",
            *read_by("select", common),
            f"teacher.run={run}",
            "select.min_confidence=0",
            "select.allow_empty_classes=true",
        ]
    )
    return run


@pytest.fixture(scope="module")
def cpu(folder: Path, digits: Path, teacher: Path) -> Path:
    """The same trainings by the plain CPU trainer."""
    program = Program(folder / "cpu", digits, teacher)
    program.add("quiet", *QUIET)
    program.add("adamw", *QUIET, "student.optimizer.name=adamw")
    program.add("accumulated", *ACCUMULATED)
    program.add("finetuned", *QUIET, "model.remat=true", "teacher=online", *FINETUNE)
    for entry in program.runs:
        dispatch([entry["stage"], *entry["options"]])
    return program.folder


@pytest.fixture(scope="module")
def one(folder: Path, digits: Path, teacher: Path) -> Ran:
    """On one XLA device; the batch in groups as on more devices, so that the same image gets the same mask."""
    program = Program(folder / "one", digits, teacher)
    program.add("eighths", groups=8)
    program.add("halves", groups=2)
    program.add("quiet", *QUIET)
    return program.folder, program.start(1)


@pytest.fixture(scope="module")
def eight(folder: Path, digits: Path, teacher: Path) -> Ran:
    program = Program(folder / "eight", digits, teacher)
    program.add("noisy")
    program.add("quiet", *QUIET)
    flags = f"{FAST_COMPILE} --xla_dump_to={program.folder / 'programs'} --xla_dump_hlo_as_text"
    return program.folder, program.start(8, XLA_FLAGS=flags)


@pytest.fixture(scope="module")
def two(folder: Path, digits: Path, teacher: Path) -> Ran:
    """Everything else on two devices, which are faster here."""
    program = Program(folder / "two", digits, teacher)
    program.add("noisy")
    program.add("killed", run_dir="resumed", die_at=11)
    program.add("resumed")
    program.add("told", run_dir="preempted", preempt_at=8)  # between two reads of the metrics
    program.add("preempted")
    program.add("remat", "model.remat=true")
    program.add("adamw", *QUIET, "student.optimizer.name=adamw")
    program.add("accumulated", *ACCUMULATED)
    program.add("finetuned", *QUIET, "model.remat=true", "teacher=online", *FINETUNE)
    program.add("stopped", *ACCUMULATED, run_dir="continued", die_at=11)
    program.add("continued", *ACCUMULATED)
    program.add("label", f"teacher.predictions={program.folder / 'predictions'}", stage="label")
    evaluated = [f"model.checkpoint={teacher}", f"evaluate.output={program.folder / 'evaluation'}"]
    program.add("evaluate", *evaluated, stage="evaluate")
    # continues what the CPU began, with a program that is there by now
    dispatch_until_killed([*program.common, *ACCUMULATED, f"run_dir={program.folder / 'from_cpu'}"], step=11)
    program.add("from_cpu", *ACCUMULATED)
    # leaves what the CPU will continue
    program.add("half", *ACCUMULATED, run_dir="to_cpu", die_at=11)
    return program.folder, program.start(2)


def assert_equal_trainings(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Losses of every step read, validation and averaged weights, BatchNorm's statistics among them.

    Adam blows up the rounding of gradients that are zero by symmetry (a bias in front of a BatchNorm): no weights, and
    a validation loss, in which the BatchNorm's averages follow that bias with a delay, to 3e-4 only.
    """
    first, second = metrics(one), metrics(other)
    adam = one.name == "adamw"
    assert len(first["train/loss"]) >= STEPS // 2
    for name in ("train/labeled_loss", "train/unlabeled_loss"):
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(
        first["validation/loss"], second["validation/loss"], rtol=0, atol=3e-4 if adam else tolerance
    )
    np.testing.assert_allclose(first["train/gradient_norm"], second["train/gradient_norm"], rtol=1e-4)
    for path in [] if adam else sorted((one / "checkpoints").glob("*.safetensors")):
        ours, theirs = load_file(path), load_file(other / "checkpoints" / path.name)
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=tolerance, err_msg=name)


def weights(run: Path) -> str:
    return sha256_file(run / "checkpoints" / "trained.safetensors")


def test_one_device_equals_the_plain_cpu_trainer(cpu: Path, one: Ran):
    assert_equal_trainings(cpu / "quiet", one[0] / "quiet")


def test_eight_devices_equal_the_plain_cpu_trainer(cpu: Path, eight: Ran):
    assert_equal_trainings(cpu / "quiet", eight[0] / "quiet")


@pytest.mark.parametrize("name", ["adamw", "accumulated", "finetuned"])
def test_two_devices_equal_the_plain_cpu_trainer(cpu: Path, two: Ran, name: str):
    """`finetuned` learns from an online teacher."""
    assert_equal_trainings(cpu / name, two[0] / name)


def test_eight_and_two_devices_equal_one_with_all_noises_on(one: Ran, two: Ran, eight: Ran):
    assert_equal_trainings(one[0] / "eighths", eight[0] / "noisy")
    assert_equal_trainings(one[0] / "halves", two[0] / "noisy")


def test_noise_acts_on_xla(eight: Ran):
    """Or the equality of noisy trainings would say nothing."""
    noisy, quiet = (metrics(eight[0] / name)["train/loss"] for name in ("noisy", "quiet"))
    assert np.abs(noisy - quiet).min() > 1e-3


def test_rematerialisation_draws_the_same_noise_again_and_moves_statistics_once(two: Ran):
    assert_equal_trainings(two[0] / "noisy", two[0] / "remat")


@pytest.mark.parametrize(("stopped", "run", "how"), [("killed", "resumed", "Died"), ("told", "preempted", "Preempted")])
def test_a_stopped_training_resumes_bit_for_bit(two: Ran, stopped: str, run: str, how: str):
    folder, results = two
    assert results[stopped]["stopped"] == how
    assert weights(folder / run) == weights(folder / "noisy")
    ours, theirs = metrics(folder / run), metrics(folder / "noisy")
    for name in theirs:
        assert ours[name].tolist() == theirs[name].tolist(), name


def test_micro_batches_are_one_graph_and_resume_bit_for_bit(two: Ran):
    folder, results = two
    assert results["stopped"]["stopped"] == "Died"
    assert weights(folder / "continued") == weights(folder / "accumulated")
    counted = guard(folder / "accumulated")["train"]
    assert (counted["compiles"], counted["executions"], counted["transfers"]) == (1, STEPS, STEPS // 2)


def test_a_training_moves_from_the_cpu_to_xla(cpu: Path, two: Ran):
    assert_equal_trainings(cpu / "accumulated", two[0] / "from_cpu")


def test_a_training_moves_from_xla_to_the_cpu(cpu: Path, two: Ran, digits: Path, teacher: Path):
    folder, results = two
    assert results["half"]["stopped"] == "Died"
    common = [*TINY, f"data.root={digits}", *RECIPE, *ACCUMULATED, f"teacher.run={teacher}"]
    dispatch(["train", *common, f"run_dir={folder / 'to_cpu'}"])
    assert_equal_trainings(cpu / "accumulated", folder / "to_cpu")


def test_a_program_whose_inputs_travel_in_a_tuple_gives_the_same_bits(
    two: Ran, folder: Path, digits: Path, teacher: Path
):
    """torch_xla wraps the inputs of a program with more than 3,200, as B7 and L0 to L2 have; here of more than 100."""
    program = Program(folder / "wrapped", digits, teacher)
    program.add("noisy")
    program.start(2, XLA_PARAMETER_WRAPPING_THREADSHOLD="100")
    wrapped, plain = program.folder / "noisy", two[0] / "noisy"
    assert 2 * len(load_file(wrapped / "checkpoints" / "trained.safetensors")) > 100, "network and moving average"
    assert weights(wrapped) == weights(plain)
    ours, theirs = metrics(wrapped), metrics(plain)
    assert {name: values.tolist() for name, values in ours.items()} == {n: v.tolist() for n, v in theirs.items()}


def test_xla_labels_as_the_cpu_does(two: Ran, teacher: Path):
    for path in sorted((teacher / "predictions").glob("*.parquet")):
        ours, theirs = (pq.read_table(folder / path.name) for folder in (two[0] / "predictions", path.parent))
        assert ours["key"].to_pylist() == theirs["key"].to_pylist()
        np.testing.assert_allclose(ours["confidence"].to_numpy(), theirs["confidence"].to_numpy(), atol=1e-5)


def test_xla_evaluates_as_the_cpu_does(two: Ran, digits: Path, teacher: Path, tmp_path: Path):
    dispatch(
        [
            "evaluate",
            *read_by("evaluate", TINY),
            f"data.root={digits}",
            f"model.checkpoint={teacher}",
            f"evaluate.output={tmp_path}",
        ]
    )
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (two[0] / "evaluation", tmp_path))
    assert ours["samples"] == 100
    assert ours["confusion"] == theirs["confusion"]
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert [entry["key"] for entry in ours["mistakes"]] == [entry["key"] for entry in theirs["mistakes"]]


def test_every_virtual_device_computes_its_own_rows(eight: Ran):
    """The compiled steps reduce over the devices, and collect no activations on one of them."""
    programs = [path.read_text() for path in (eight[0] / "programs").glob("*cpu_after_optimizations.txt")]
    network, _ = load_network(eight[0] / "noisy" / "checkpoints" / "trained.safetensors")
    reduced = max(len(re.findall(r"= \S+ all-reduce(?:-start)?\(", program)) for program in programs)
    norms = sum(name.endswith("running_mean") for name, _ in network.named_buffers())
    # a gradient of each parameter, and of each BatchNorm the mean and the variance
    assert reduced >= len(list(network.parameters())) + 2 * norms
    for program in programs:
        # a validation step gives its answers to all devices: a number per image
        collected = re.findall(r"= \S*\[([\d,]*)\]\S* all-gather\(", program)
        assert all(shape.count(",") <= 1 for shape in collected), collected


# ---- one graph


def guard(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())["trained"]["machine"]["guard"]


def test_a_training_compiles_one_graph_and_runs_it_once_a_step(two: Ran, eight: Ran):
    """20 steps in 3 segments, metrics read every 2 steps: one compilation, 20 executions, 10 reads."""
    for folder, _ in (two, eight):
        counted = guard(folder / "noisy")["train"]
        assert counted["steps"] == counted["executions"] == STEPS
        assert counted["compiles"] == 1
        assert counted["transfers"] == STEPS // 2
        assert counted["fallbacks"] == {}


def test_one_device_keeps_to_the_same_budget(one: Ran):
    counted = guard(one[0] / "quiet")["train"]
    assert (counted["executions"], counted["transfers"]) == (STEPS, STEPS // 2)
    assert counted["compiles"] == 1


def test_validation_compiles_one_graph_and_reads_its_sums_only(eight: Ran):
    counted = guard(eight[0] / "noisy")["validation"]
    assert counted["steps"] == counted["executions"] == 2
    assert counted["compiles"] == 1
    assert counted["transfers"] <= 4
    assert counted["fallbacks"] == {}


@pytest.mark.parametrize("name", ["resumed", "preempted"])
def test_resuming_compiles_nothing_new(two: Ran, name: str):
    assert guard(two[0] / name)["train"]["compiles"] == 0
    assert two[1][name]["counters"]["compiles"] <= 1  # moving the state in; no step


@pytest.mark.parametrize("name", ["label", "evaluate"])
def test_labeling_and_evaluation_compile_one_graph(two: Ran, name: str):
    counted = two[1][name]["counters"]
    assert counted["compiles"] <= 2  # the step, and moving the state in
    assert not [entry for entry in counted if entry.startswith("aten::") and counted[entry]]
