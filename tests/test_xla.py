"""The same training on a CPU, on one XLA device and on eight: equal numbers, one graph, free exchange of checkpoints.

A process per number of devices runs all its trainings in turn (tests/xla_program.py); the tests look at what they
left on disk.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from nst.cli import dispatch
from nst.models.checkpoints import load_network
from nst.runs import sha256_file
from nst.xla.environment import FAST_COMPILE
from tests.conftest import TINY

# a process of many trainings stands behind the first test that asks for it
pytestmark = pytest.mark.timeout(2400)

Ran = tuple[Path, dict[str, dict[str, Any]]]  # where the runs lie, and what each was told and counted
ROOT = Path(__file__).parent.parent
STEPS = 20
# a low rate: RMSProp at a high one lets any two runs drift apart by their rounding
RECIPE = [f"student.steps={STEPS}", "student.log_every=2", "student.checkpoint_every=8", "student.validate_every=null",
          "student.optimizer.name=rmsprop", "student.optimizer.rate_per_256=0.003", "student.schedule.kind=constant",
          "student.schedule.warmup_epochs=0.2", "student.gradient_clip=20"]  # fmt: skip
QUIET = ["noise.dropout=0", "noise.stochastic_depth=0"]  # whose masks a CPU and XLA draw from different generators
# FixRes on a larger picture behind frozen blocks
FINETUNE = ["student.finetune.epochs=1", "student.finetune.image_size=16", "student.finetune.frozen_blocks=2"]
ON_XLA = ["trainer=xla_cpu", "trainer.guard.action=stop"]


class Program:
    """Trainings in one process with a number of devices."""

    def __init__(self, folder: Path, digits: Path, teacher: Path) -> None:
        self.folder, self.runs = folder, []  # type: ignore[var-annotated]
        folder.mkdir()
        self.common = [*TINY, f"data.root={digits}", *RECIPE, f"teacher.run={teacher}"]

    def add(self, name: str, *options: str, stage: str = "train", run_dir: str | None = None, **patches: Any) -> None:
        common = [*self.common, f"run_dir={self.folder / (run_dir or name)}"]
        self.runs.append({"name": name, "stage": stage, "options": [*common, *options], **patches})

    def start(self, devices: int, **environment: str) -> dict[str, dict[str, Any]]:
        """Runs them all; what each was told and counted, by name."""
        process = self.launch(devices, **environment)
        output, errors = process.communicate()
        assert process.returncode == 0, errors + output
        results = json.loads(output.split("RESULT ")[1])
        return {run["name"]: result for run, result in zip(self.runs, results, strict=True)}

    def launch(self, devices: int, **more: str) -> subprocess.Popen[str]:
        file = self.folder / f"runs{devices}.json"
        on_xla = [*ON_XLA, f"trainer.virtual_devices={devices}", "trainer.workers=0"]
        file.write_text(json.dumps([{**run, "options": [*run["options"], *on_xla]} for run in self.runs]))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
        command = [sys.executable, "-m", "tests.xla_program", str(devices), str(file)]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def teacher(folder: Path, digits: Path) -> Path:
    """A teacher, its predictions (in float32 as on XLA, also where a CPU has bf16) and its selection, by the CPU."""
    run = folder / "teacher"
    common = [*TINY, f"data.root={digits}", f"run_dir={run}"]
    dispatch(["train", *common])
    dispatch(["label", *common, f"teacher.run={run}", "label.precision=32-true"])
    dispatch(["select", *common, f"teacher.run={run}", "select.min_confidence=0", "select.allow_empty_classes=true"])
    return run


@pytest.fixture(scope="module")
def cpu(folder: Path, digits: Path, teacher: Path) -> Path:
    """The same trainings by the plain CPU trainer."""
    program = Program(folder / "cpu", digits, teacher)
    program.add("quiet", *QUIET)
    program.add("online", *QUIET, "teacher=online")
    program.add("adamw", *QUIET, "student.optimizer.name=adamw")
    program.add("accumulated", *QUIET, "trainer.accumulate=2")
    program.add("finetuned", *QUIET, "model.remat=true", *FINETUNE)
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
    return program.folder, program.start(8)


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
    program.add("online", *QUIET, "teacher=online")
    program.add("adamw", *QUIET, "student.optimizer.name=adamw")
    program.add("accumulated", *QUIET, "trainer.accumulate=2")
    program.add("finetuned", *QUIET, "model.remat=true", *FINETUNE)
    program.add("stopped", *QUIET, "trainer.accumulate=2", run_dir="continued", die_at=11)
    program.add("continued", *QUIET, "trainer.accumulate=2")
    program.add("label", f"teacher.predictions={program.folder / 'predictions'}", stage="label")
    evaluated = [f"model.checkpoint={teacher}", f"evaluate.output={program.folder / 'evaluation'}"]
    program.add("evaluate", *evaluated, stage="evaluate")
    # continues what the CPU began
    dispatch_until_killed([*program.common, *QUIET, f"run_dir={program.folder / 'from_cpu'}"], step=11)
    program.add("from_cpu", *QUIET)
    # leaves what the CPU will continue
    program.add("half", *QUIET, run_dir="to_cpu", die_at=11)
    return program.folder, program.start(2)


def dispatch_until_killed(options: list[str], step: int) -> None:
    from tests.xla_program import Died, die, in_step

    with in_step(step, die), pytest.raises(Died):
        dispatch(["train", *options])


def metrics(run: Path) -> dict[str, np.ndarray]:
    """Values of each metric in order of step, without those that tell the time."""
    found: dict[str, list[float]] = {}
    with open(run / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["metric"], []).append(float(row["value"]))
    told_by_the_machine = ("second", "_ms", "guard/")
    kept = {name: values for name, values in found.items() if not any(part in name for part in told_by_the_machine)}
    return {name: np.array(values) for name, values in kept.items()}


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


@pytest.mark.parametrize("name", ["online", "adamw", "accumulated", "finetuned"])
def test_two_devices_equal_the_plain_cpu_trainer(cpu: Path, two: Ran, name: str):
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
    assert_equal_trainings(cpu / "quiet", two[0] / "from_cpu")


def test_a_training_moves_from_xla_to_the_cpu(cpu: Path, two: Ran, digits: Path, teacher: Path):
    folder, results = two
    assert results["half"]["stopped"] == "Died"
    common = [*TINY, f"data.root={digits}", *RECIPE, *QUIET, f"teacher.run={teacher}"]
    dispatch(["train", *common, f"run_dir={folder / 'to_cpu'}"])
    assert_equal_trainings(cpu / "quiet", folder / "to_cpu")


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
    dispatch(["evaluate", *TINY, f"data.root={digits}", f"model.checkpoint={teacher}", f"evaluate.output={tmp_path}"])
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (two[0] / "evaluation", tmp_path))
    assert ours["samples"] == 100
    assert ours["confusion"] == theirs["confusion"]
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert [entry["key"] for entry in ours["mistakes"]] == [entry["key"] for entry in theirs["mistakes"]]


def printed(code: str, devices: int) -> Any:
    """What a process on so many devices prints behind RESULT, as JSON."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", START.format(devices=devices) + code]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.split("RESULT ")[1])


AS_TORCH = """
import torch.nn.functional as F
from nst.models.batch_norm import BatchNorm
from nst.xla.virtual import Products
torch.manual_seed(0)
def apart(ours, theirs):
    pairs = [(one.detach().cpu(), other.detach()) for one, other in zip(ours, theirs)]
    return max(float((one - other).abs().max() / other.abs().max().clamp(min=1)) for one, other in pairs)
def normed(training, shape=(20, 3, 8, 8)):
    images, found = torch.randn(shape) * 2 + 1, []
    for device in ("xla", "cpu"):
        norm = BatchNorm(3, momentum=0.3, act_layer=torch.nn.SiLU).train(training)
        for place, tensor in enumerate(norm.state_dict().values()):
            tensor.copy_(torch.linspace(0.5, 2, 3) + place if tensor.dim() else tensor)
        norm, leaf = norm.to(device), images.to(device).requires_grad_()
        result = norm(leaf)
        wanted = [leaf, norm.weight, norm.bias]
        found.append([result, *norm.state_dict().values(), *torch.autograd.grad(result.cos().sum(), wanted)])
    return apart(*found)
def convolved(side, kernel, stride, padding, groups=6):
    images, weight = torch.randn(2, 6, *side, requires_grad=True), torch.randn(6, 6 // groups, kernel, kernel)
    weight.requires_grad_()
    found = []
    for mode in (Products(), contextlib.nullcontext()):
        with mode:
            result = F.conv2d(images, weight, None, stride, padding, 1, groups)
        found.append([result, *torch.autograd.grad(result.cos().sum(), [images, weight])])
    return apart(*found)
print("RESULT " + json.dumps({
    "training": normed(True), "eval": normed(False), "two values": normed(True, (2, 3, 1, 1)),
    **{str(case): convolved(*case) for case in [
        ((8, 8), 3, 1, 1), ((8, 6), 5, 2, 2), ((9, 9), 3, 2, 0), ((1, 1), 5, 1, 2), ((32, 32), 3, (1, 1), (1, 1)),
        ((8, 8), 3, 1, 1, 2)]}}))
"""


def test_batchnorm_on_xla_and_convolutions_as_products_are_what_torch_computes():
    """BatchNorm's running statistics, of which the variance is unbiased, among it."""
    worst = printed(AS_TORCH, devices=1)
    assert len(worst) == 9
    assert max(worst.values()) < 2e-5, worst


def test_every_virtual_device_computes_its_own_rows(folder: Path, digits: Path):
    """The compiled steps reduce over the devices, and collect no activations on one of them."""
    place = folder / "programs"
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": f"{FAST_COMPILE} --xla_dump_to={place} --xla_dump_hlo_as_text",
    }  # fmt: skip
    options = [*TINY, f"data.root={digits}", *RECIPE, f"run_dir={folder / 'dumped'}", "student.steps=2", *ON_XLA]
    subprocess.run([sys.executable, "-m", "nst", "train", *options, "trainer.workers=0"], env=environment, check=True)
    programs = [path.read_text() for path in place.glob("*cpu_after_optimizations.txt")]
    network, _ = load_network(folder / "dumped" / "checkpoints" / "trained.safetensors")
    reduced = max(len(re.findall(r"= \S+ all-reduce(?:-start)?\(", program)) for program in programs)
    norms = sum(name.endswith("running_mean") for name, _ in network.named_buffers())
    # a gradient of each parameter, and of each BatchNorm the mean and the variance
    assert reduced >= len(list(network.parameters())) + 2 * norms
    for program in programs:
        # a validation step gives its answers to all devices: a number per image
        collected = re.findall(r"= \S*\[([\d,]*)\]\S* all-gather\(", program)
        assert all(shape.count(",") <= 1 for shape in collected), collected


START = """
import contextlib, json, torch
from nst.xla.environment import configure
configure("cpu", {devices}, fast_compile=True)
import torch_xla
from nst.errors import NstError
"""


IN_BF16 = """
from torch import nn
from nst.models.batch_norm import BatchNorm
from nst.xla.precision import XlaPrecision
from nst.xla.remat import rematerialize
torch.manual_seed(0)
norm = BatchNorm(8, act_layer=nn.SiLU)
block = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), norm, nn.Conv2d(8, 4, 1)).to("xla")
images = torch.randn(2, 4, 6, 6).to("xla").requires_grad_()
found = {}
for dtype in ("float32", "bfloat16"):
    for remat in (False, True):
        block.zero_grad()
        with XlaPrecision("bf16-mixed", dtype).forward_context():
            loss = (rematerialize(block, images) if remat else block(images)).float().square().mean()
        loss.backward()  # outside, as Lightning calls it
        gradients = [block[place].weight.grad.cpu() for place in (0, 2)]
        found[f"{dtype},{remat}"] = [(gradient != gradient.bfloat16().float()).any().item() for gradient in gradients]
print("RESULT " + json.dumps(found))
"""


def test_gradients_are_summed_in_the_dtype_asked_for_with_and_without_rematerialisation():
    """bf16-mixed: values that no bfloat16 holds were not rounded to it before the all-reduce."""
    found = printed(IN_BF16, devices=1)
    wide, narrow = [True, True], [False, False]
    assert found == {"float32,False": wide, "float32,True": wide, "bfloat16,False": narrow, "bfloat16,True": narrow}


# ---- one graph


# ---- the guard


GUARDED = """
from nst.xla.guard import Guard
from nst.settings.machine import GuardOptions
from nst.xla.strategy import data_mesh
data_mesh()

def steps(action, shapes, *, reads=0, fallback=False):
    guard = Guard(GuardOptions(action))
    try:
        for shape in shapes:
            guard.on_predict_batch_start(None)
            value = (torch.ones(shape).to(torch_xla.device()) * 3).sum()
            if fallback:
                value = torch.histc(value.unsqueeze(0), bins=4, min=0, max=100)
            torch_xla.sync()
            for _ in range(reads):
                value.cpu()
        guard.on_predict_end(None, None)
    except NstError as error:
        return str(error)
    return ""

print("RESULT " + json.dumps({
    "good": steps("stop", [7] * 12, reads=1),
    "shapes": steps("stop", [8, 9, 8]),
    "reads": steps("stop", [10] * 12, reads=3),
    "fallback": steps("stop", [11] * 3, fallback=True),
    "warned": steps("warn", [12, 13, 14]),
}))
"""


def test_the_guard_stops_what_compiles_twice_reads_too_often_or_falls_back():
    found = printed(GUARDED, devices=2)
    assert found["good"] == found["warned"] == ""
    expected = {
        "shapes": "2 compiles in 2 steps, 1 expected",
        "reads": "3 transfers in 1 steps, 1 expected",
        "fallback": "aten::histc ran on the host",
    }
    for problem, words in expected.items():
        assert "the compiled predict step is not what it should be" in found[problem], problem
        assert words in found[problem], problem
        assert "trainer.guard.action=warn" in found[problem]


TRAINING_READS = """
from nst.xla.guard import Guard, Tally
from nst.settings.machine import GuardOptions
def judged(transfers, runs):
    guard = Guard(GuardOptions("stop"))
    tally = Tally(steps=120, runs=runs)
    tally.counts["transfers"] = transfers
    try:
        guard._check("train", tally, 10)
    except NstError as error:
        return str(error)
    return ""
print("RESULT " + json.dumps([judged(*case) for case in ((12, 1), (24, 12), (25, 12), (120, 12))]))
"""


def test_the_guard_allows_a_training_a_read_where_a_number_is_shown():
    once, segments, one_more, every_step = printed(TRAINING_READS, devices=1)
    assert once == segments == ""
    assert "25 transfers in 120 steps, 24 expected" in one_more
    assert "120 transfers in 120 steps, 24 expected" in every_step


# ---- whose rows are whose


ROWS = """
import numpy as np
import torch_xla.distributed.spmd as xs
from unittest import mock
from nst.xla import strategy
from nst.xla.hosts import Hosts
strategy.data_mesh()
told = []
for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
    mesh = xs.Mesh(np.array(order), (4,), ("data",))
    strategy.require_own_rows(mesh, Hosts())  # through the devices and back
with mock.patch.object(strategy, "own_rows", lambda rows, *_: rows.flip(0)):
    try:
        strategy.require_own_rows(mesh, Hosts())
    except NstError as error:
        told.append(str(error))
# a pod: two hosts with two rows each of a mesh that is counted across them
rows = torch.arange(8)
hosts = [strategy.own_rows(rows, devices, range(4)).tolist() for devices in (["TPU:0", "TPU:2"], ["TPU:1", "TPU:3"])]
print("RESULT " + json.dumps({"told": told, "hosts": hosts}))
"""


def test_a_host_gets_back_the_rows_that_it_sent_however_the_devices_are_counted():
    found = printed(ROWS, devices=4)
    assert found["hosts"] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert len(found["told"]) == 1
    assert "come back to other hosts" in found["told"][0]


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


# ---- many hosts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# the runtime numbers its processes in another order than the stages number the hosts
RENUMBERED = """
import os, sys
host, port = int(sys.argv[1]), sys.argv[2]
os.environ |= {"NODE_RANK": str(host), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
import torch_xla.runtime as xr
xr.process_count, xr.process_index = lambda: 2, lambda: 1 - host
xr.use_spmd()
from nst.xla.hosts import Hosts
hosts = Hosts.current()
hosts.connect()
print("RESULT " + json.dumps([hosts.gather(host), hosts.broadcast(f"of host {host}")]))
from nst.xla import lifeline
lifeline.release()
"""


def test_hosts_are_numbered_as_the_stages_number_them():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = START.format(devices=1) + RENUMBERED
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(host), port], env=environment, stdout=subprocess.PIPE, text=True
        )
        for host in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [json.loads(text.split("RESULT ")[1]) for text in said] == [[[0, 1], "of host 0"]] * 2


READING = """
import sys
from pathlib import Path
import torch.distributed as dist
from nst.xla import hosts
host, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=host, world_size=3)
hosts.PIECE = 1000
folder = folder if host == 0 else Path("/not/here")
print("RESULT " + json.dumps([hosts.Hosts(host, 3).read(folder / name).read().hex() for name in "012"]))
"""


def test_a_file_is_read_by_host_0_and_sent_to_the_others(tmp_path: Path):
    """In whole pieces, with a rest, and empty."""
    written = [np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes() for size in (2000, 3500, 0)]
    for name, content in enumerate(written):
        (tmp_path / str(name)).write_bytes(content)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code, port = START.format(devices=1) + READING, str(free_port())
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(host), port, str(tmp_path)],
                         env=environment, stdout=subprocess.PIPE, text=True)
        for host in range(3)
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [json.loads(text.split("RESULT ")[1]) for text in said] == [[content.hex() for content in written]] * 3


ALONE = """
import os
from unittest import mock
import torch.distributed as dist
from nst.xla import hosts
os.environ["NODE_RANK"] = "1"
def none_comes(*_, **__):
    raise dist.DistStoreError("timed out after 300 s")
with mock.patch.object(hosts, "rendezvous", none_comes):
    try:
        hosts.Hosts(1, 4).connect()
    except NstError as error:
        print("RESULT " + json.dumps(str(error)))
"""


def test_hosts_that_do_not_come_together_are_told_in_a_sentence():
    told = printed(ALONE, devices=1)
    assert "the hosts of the pod do not all come together" in told
    assert "timed out after 300 s" in told
    assert "bin/tpu logs" in told


A_POD_AS_A_HOST = """
from unittest import mock
from nst.xla import hardware
from nst.xla.hosts import Hosts
def told(many_hosts):
    try:
        hardware.XlaHardware(device="tpu", many_hosts=many_hosts)
    except NstError as error:
        return str(error)
    return ""
with mock.patch.object(hardware, "configure"), mock.patch.object(Hosts, "current", return_value=Hosts(1, 4)):
    print("RESULT " + json.dumps([told(False), told(True)]))
"""


def test_a_pod_is_not_taken_for_a_single_host():
    refused, taken = printed(A_POD_AS_A_HOST, devices=1)
    assert "this TPU has several hosts" in refused
    assert "trainer=tpu_pod" in refused
    assert taken == ""


FAILING = """
import ctypes, sys
from tests.xla_program import act_as_host, in_step
host = int(sys.argv[1])
act_as_host(host, 2, int(sys.argv[2]))
from nst.cli import main
from nst.xla import lifeline
lifeline.GRACE = 15.0  # for host 1 to end by itself
def act():
    if host == 1:
        raise OSError(28, "No space left on device", "/full/disk")
    ctypes.PyDLL(None).sleep(500)  # as in a collective, for which the other does not come
with in_step(0, act):
    main(["train", *sys.argv[3:]])
"""


def test_a_host_that_fails_ends_the_one_that_waits_for_it(folder: Path, digits: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = [*TINY, f"data.root={digits}", *RECIPE, f"run_dir={folder / 'failing'}", *ON_XLA, "trainer.workers=0",
               "trainer.virtual_devices=2"]  # fmt: skip
    command = [sys.executable, "-c", START.format(devices=2) + FAILING]
    port = str(free_port())
    processes = [
        subprocess.Popen([*command, str(host), port, *options], env=environment, stderr=subprocess.PIPE, text=True)
        for host in range(2)
    ]
    told = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 1], told
    assert "nst: host 1 fails: No space left on device: /full/disk" in told[1]  # should its teardown not end
    assert "nst: host 1: No space left on device while writing /full/disk" in told[1]
    assert "nst: host 0: host 1 has failed: No space left on device: /full/disk; this one ends" in told[0]


@pytest.fixture(scope="module")
def hosts(folder: Path, digits: Path) -> Ran:
    """Two hosts with two devices each run Algorithm 1 into one directory; host 1 is preempted in the first training."""
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
