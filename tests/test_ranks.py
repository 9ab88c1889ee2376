"""Ranks by torchrun, by srun and by nst itself: as many as asked for or a sentence, and one mind about files."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nst import cli
from nst.documents import read_json, read_metrics
from nst.errors import UsageError
from nst.sharing import is_rank_zero
from nst.training import ranks
from nst.training.ranks import World, environment
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
RANKS = ["trainer=gpu_ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.workers=0"]  # fmt: skip
OPTIONS = [*(option for option in TINY if not option.startswith("trainer.")), *RANKS]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# what srun tells the two tasks of a step on one node
SRUN = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train.sh", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}  # fmt: skip
ONE_TASK = {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_STEP_TASKS_PER_NODE": "1"}  # fmt: skip
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
SHELL = {"SLURM_JOB_NAME": "interactive", "SLURM_PTY_PORT": "39001"}


def torchrun(rank: int, size: int, here: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank % here), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(here)}


def under(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """In an environment with these variables of a launcher and no other; what the code sets in it is forgotten."""
    monkeypatch.setattr(os, "environ", {**OUTSIDE, **variables})


# ---- the number of ranks


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "world"),
    [
        ({}, 1, 1, World("nst", 0, 1, 1)),
        ({}, 4, 1, World("nst", 0, 4, 4)),
        ({"LOCAL_RANK": "3", "WORLD_SIZE": "4"}, 4, 1, World("nst", 3, 4, 4)),
        (torchrun(5, 8, 4), 4, 2, World("torchrun", 5, 8, 4)),
        ({**SRUN, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, 2, 1, World("srun", 1, 2, 2)),
        ({**SRUN, **ONE_TASK, **SHELL, "SLURM_NTASKS": "2"}, 2, 1, World("nst", 0, 2, 2)),
        ({**SRUN, **SHELL, "SLURM_PROCID": "1"}, 2, 1, World("srun", 1, 2, 2)),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_ID": "4711"}, 2, 1, World("nst", 0, 2, 2)),
        ({**SRUN, **ONE_TASK, **torchrun(3, 4, 2)}, 2, 2, World("torchrun", 3, 4, 2)),
    ],
    ids=["alone", "nst", "nst's other", "torchrun", "srun", "shell", "srun in a shell", "salloc", "torchrun in srun"],
)
def test_ranks_are_counted_as_whoever_started_them_counts(
    variables: dict[str, str], devices: int, nodes: int, world: World, monkeypatch: pytest.MonkeyPatch
):
    under(monkeypatch, variables)
    assert World.current(devices, nodes) == world == World.current(devices, nodes)
    assert is_rank_zero() == (world.rank == 0)
    found = environment(devices, nodes)
    assert found.creates_processes_externally == (world.launcher != "nst" or "LOCAL_RANK" in variables)
    if world.launcher != "nst":
        assert (found.global_rank(), found.world_size()) == (world.rank, world.size)


def test_slurms_first_host_is_where_ranks_meet_and_steps_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch):
    ports = []
    for step in ("0", "1"):
        hosts = {"SLURM_STEP_NODELIST": "gpu[07-08],gpu11", "SLURM_STEP_ID": step}
        sixth = {"SLURM_PROCID": "5", "SLURM_NODEID": "2", "SLURM_LOCALID": "1"}
        counts = {"SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "2(x3)"}
        under(monkeypatch, {**SRUN, **hosts, **sixth, **counts})
        assert World.current(2, 3) == World("srun", 5, 6, 2)
        assert os.environ["MASTER_ADDR"] == "gpu07"
        assert environment(2, 3).node_rank() == 2
        ports.append(int(os.environ["MASTER_PORT"]))
    assert ports[0] != ports[1]
    assert all(1024 < port < 32768 for port in ports)


def test_rank_0_of_torchrun_writes_on_whichever_node_of_slurm_it_is(monkeypatch: pytest.MonkeyPatch):
    under(monkeypatch, {**SRUN, "SLURM_PROCID": "1", "SLURM_NODEID": "1", **torchrun(0, 4, 2)})
    assert is_rank_zero()
    under(monkeypatch, {**SRUN, **torchrun(2, 4, 2)})
    assert not is_rank_zero()


@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        (torchrun(0, 3, 3), [], "torchrun has started 3 ranks"),
        (torchrun(0, 2, 1), [], "torchrun has started 2 ranks"),
        (torchrun(0, 2, 2), ["trainer=cpu", "trainer.devices=1"], "torchrun has started 2 ranks"),
        ({**SRUN, **ONE_TASK}, [], "srun has started 1 rank,"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, [], "srun has started 2 ranks"),
        ({}, ["trainer.num_nodes=2"], "several nodes are started by torchrun or by Slurm's srun"),
    ],
    ids=["three", "on two nodes", "one device", "one task", "one task a node", "alone"],
)
def test_other_ranks_than_devices_stop_with_one_sentence_before_anything_is_written(
    variables: dict[str, str], options: list[str], said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    """On rank 0; the others leave the word to it."""
    slept: list[float] = []
    monkeypatch.setattr(ranks.time, "sleep", slept.append)
    monkeypatch.chdir(tmp_path)
    local = {"LOCAL_RANK": "1", "RANK": "1"} if "RANK" in variables else {"SLURM_LOCALID": "1", "SLURM_PROCID": "1"}
    for others in ({}, local) if variables else ({},):
        under(monkeypatch, {**variables, **others})
        with pytest.raises(SystemExit) as end:
            cli.main(["iterate", *OPTIONS, "trainer.devices=2", *options, f"data.root={tmp_path / 'data'}"])
        assert end.value.code == UsageError.exit_code
        output = "".join(capfd.readouterr())
        assert output.count(said) == (0 if others else 1), output
    assert len(slept) == (1 if variables else 0)
    assert not list(tmp_path.iterdir())


# ---- real ranks


def start(command: list[Any], **variables: str) -> subprocess.Popen[str]:
    environment = {**OUTSIDE, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def ended(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What each has printed, after all have ended well."""
    try:
        printed = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(printed)
    return printed


JOB = """
import sys
from pathlib import Path
from types import SimpleNamespace
from nst import launcher
settings = SimpleNamespace(overrides=SimpleNamespace(task=sys.argv[2:]), job=SimpleNamespace(num=0))
launcher.HydraConfig.get = lambda: settings
base = Path(sys.argv[1])
print("objective", launcher.Launch("train", base, frozenset({"seed"}), base / "records")(None))
"""


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of a sweep by Slurm, as its two tasks run it: two ranks of one training, and one record."""
    base = tmp_path_factory.mktemp("slurm")
    command = [sys.executable, "-c", JOB, base, *OPTIONS, "trainer.devices=2", f"data.root={digits}", "seed=0"]
    tasks = [start(command, **{**SRUN, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in "01"]
    first, second = ended(tasks)
    assert "objective None" in second
    assert "objective None" not in first
    assert first.count("top-1") == 1
    assert "top-1" not in second
    return base


def test_the_tasks_of_a_slurm_job_are_ranks_of_one_training(finished: Path):
    directory = finished / "seed=0"
    assert read_json(finished / "records/000000.json") == {
        "directory": str(directory), "results": str(directory), "exit_code": 0,
    }  # fmt: skip
    rows = read_metrics(directory / "metrics.csv")
    assert [step for step, name, _ in rows if name == "train/loss"] == [2, 4, 6, 8, 10, 12]
    assert (directory / "DONE").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def by_nst(command: list[str]) -> list[list[str]]:
    return [[sys.executable, *command, "trainer.devices=2"]]


def by_torchrun(command: list[str]) -> list[list[str]]:
    return [[*TORCHRUN, "--standalone", "--nproc-per-node=2", *command, "trainer.devices=2"]]


def by_torchrun_on_two_nodes(command: list[str]) -> list[list[str]]:
    place = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    nodes = ["trainer.devices=1", "trainer.num_nodes=2"]
    return [[*TORCHRUN, *place, f"--node-rank={node}", *command, *nodes] for node in (0, 1)]


@pytest.mark.parametrize(
    ("commands", "lost"),
    [(by_nst, "state"), (by_torchrun, "done"), (by_torchrun_on_two_nodes, "state")],
    ids=["nst", "torchrun", "two nodes"],
)
def test_a_rank_with_an_old_view_of_the_disk_does_as_rank_0_does(
    finished: Path, digits: Path, tmp_path: Path, commands: Any, lost: str
):
    """It does not see that the run has finished, or the state to continue from; by its own view it would train alone,
    and both would wait for ever."""
    run, before = tmp_path / "run", json.loads((finished / "seed=0/result.json").read_text())
    shutil.copytree(finished / "seed=0", run)
    if lost == "state":
        for name in ("DONE", "result.json", "checkpoints/trained.json", "checkpoints/trained.safetensors"):
            (run / name).unlink()
    command = [str(ROOT / "tests/stale_ranks.py"), "train", *OPTIONS, f"data.root={digits}", "seed=0", f"run_dir={run}"]
    ended([start(started, STALE=str(run)) for started in commands(command)])
    assert json.loads((run / "result.json").read_text())["weights_sha256"] == before["weights_sha256"]
