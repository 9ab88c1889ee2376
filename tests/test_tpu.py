"""bin/tpu against a fake gcloud that keeps state, runs ssh commands for real on each worker, and fails on demand."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nst.cloud import deploy, jobs, worker_scripts
from nst.cloud.commands import main
from nst.cloud.gcloud import Tpu
from nst.cloud.queue import RUNTIMES
from nst.cloud.refusals import FAULTS, classify
from nst.cloud.worker_scripts import STATE
from nst.cloud.workers import Workers, numbers
from nst.errors import NstError

ROOT = Path(__file__).parent.parent
DROPPED = "ssh: connect to host 10.0.0.1 port 22: Connection timed out"
NETWORK = "There was a problem refreshing your current auth tokens: Unable to connect"

# stands in for this repository on the workers: notes what it is given, and does as the folder beside HOME says
STUB_INSTALL = """#!/usr/bin/env bash
[ ! -e "$HOME.broken" ] || { echo "no room on the disk"; exit 1; }
echo "$NST_EXTRAS" >"$HOME/extras"
echo "$NST_TORCH_INDEX" >"$HOME/index"
"""
STUB_NST = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$HOME.words"
echo "$PJRT_DEVICE $LIBTPU_INIT_ARGS" >"$HOME.environment"
echo start >>"$HOME.starts"
attempt=$(wc -l <"$HOME.starts")
echo "attempt $attempt on $FAKE_WORKER"
sleep 300 &
echo $! >"$HOME.loader"
while [ -e "$HOME/../hold" ]; do sleep 0.02; done
for step in 1 2 3; do echo "step $step"; done
[ "$(sed -n "${attempt}p" "$HOME.codes" 2>/dev/null)" != wait ] || wait
exit "$(sed -n "${attempt}p" "$HOME.codes" 2>/dev/null | grep . || echo 0)"
"""


@dataclass
class Cloud:
    """The fake's folder, and how the test speaks with it."""

    folder: Path

    @property
    def repository(self) -> Path:
        """What is copied onto the workers, in place of this repository."""
        return self.folder.parent / "repository"

    def head(self) -> str:
        return git(self.repository, "rev-parse", "HEAD")

    def calls(self, action: str = "") -> list[list[str]]:
        """Arguments behind `compute tpus <action>`, of all calls so far."""
        path = self.folder / "calls.jsonl"
        calls = [json.loads(line)[2:] for line in path.read_text().splitlines()] if path.exists() else []
        return [call[2:] if action else call for call in calls if " ".join(call).startswith(action)]

    def forget(self) -> None:
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    def fault(self, on: str, **about: object) -> None:
        path = self.folder / "faults.json"
        path.write_text(json.dumps([*json.loads(path.read_text()), {"on": on, **about}]))

    def change(self, **values: object) -> None:
        path = self.folder / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def move(self, *states: str) -> None:
        """What the next looks at the request will find."""
        state = json.loads((self.folder / "state.json").read_text())
        state["requests"]["pod"]["states"] = list(states)
        self.change(requests=state["requests"])

    def home(self, worker: int) -> Path:
        return self.folder / f"worker-{worker}"

    def beside(self, worker: int, name: str) -> Path:
        """A file that survives the machine."""
        return self.folder / f"worker-{worker}.{name}"

    def words(self, worker: int) -> list[str]:
        return self.beside(worker, "words").read_text().split("\0")[:-1]

    def starts(self, worker: int) -> int:
        path = self.beside(worker, "starts")
        return len(path.read_text().splitlines()) if path.exists() else 0

    def states(self) -> list[str]:
        return [self.state(worker) for worker in range(2)]

    def state(self, worker: int) -> str:
        environment = {"HOME": str(self.home(worker)), "PATH": f"{self.folder}/bin:/usr/bin:/bin", "FAKE_WORKER": "0"}
        done = subprocess.run(["bash", "-c", STATE], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()[2]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing happened for 20 s"
        time.sleep(0.01)


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def git(folder: Path, *words: str) -> str:
    author = ("-c", "user.name=n", "-c", "user.email=n@n")
    done = subprocess.run(["git", "-C", str(folder), *author, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def connect(folder: Path, patch: pytest.MonkeyPatch) -> Cloud:
    """bin/tpu in this process speaks with the fake in `folder`, and copies the repository beside it."""
    cloud = Cloud(folder / "fake")
    patch.chdir(folder)
    patch.setattr(deploy, "ROOT", cloud.repository)
    patch.setenv("PATH", f"{cloud.folder}/path:{os.environ['PATH']}")
    patch.setenv("FAKE_GCLOUD", str(cloud.folder))
    patch.setenv("NST_TPU_POLL_S", "0.01")
    patch.delenv("NST_TPU_ZONE", raising=False)
    patch.delenv("NST_TPU_PROJECT", raising=False)
    return cloud


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of stubs and the fake: `new`, with an `active` TPU of two workers, and with one set up, `ready`."""
    folder = tmp_path_factory.mktemp("cloud")
    repository, fake = folder / "new" / "repository", folder / "new" / "fake"
    executable(repository / "bin" / "install", STUB_INSTALL)
    executable(repository / "bin" / "nst", STUB_NST)
    (repository / "old.txt").write_text("old")
    (repository / ".gitignore").write_text("/kept\n")
    git(folder, "init", "--quiet", str(repository))
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "one")
    program = f'#!/bin/sh\nexec {sys.executable} -S -E {ROOT}/tests/fake_gcloud.py "$@"\n'
    executable(fake / "path" / "gcloud", program)
    executable(fake / "bin" / "hostname", '#!/bin/sh\necho "t1v-n-0a1b2c3d-w-$FAKE_WORKER"\n')
    (fake / "faults.json").write_text("[]")
    (fake / "state.json").write_text(
        json.dumps({"requests": {}, "workers": 2, "states": ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]})
    )
    for name, before, words in (
        ("active", "new", ["create", "pod", "--type", "v3-16", "--spot"]),
        ("ready", "active", ["setup", "pod"]),
    ):
        shutil.copytree(folder / before, folder / name)
        with pytest.MonkeyPatch.context() as patch:
            cloud = connect(folder / name, patch)
            cloud.change(states=["ACTIVE"])
            assert main(words) == 0
            cloud.forget()
    return folder


def copied(prepared: Path, name: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    shutil.copytree(prepared / name, tmp_path, dirs_exist_ok=True)
    cloud = connect(tmp_path, patch)
    yield cloud
    for pid in cloud.folder.glob("worker-*/nst-job/pid"):  # what a failed test has left running
        subprocess.run(["kill", "-KILL", "--", f"-{pid.read_text().strip()}"], capture_output=True, check=False)


@pytest.fixture
def cloud(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Nothing asked for yet."""
    yield from copied(prepared, "new", tmp_path, monkeypatch)


@pytest.fixture
def active(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A TPU of two workers that is there."""
    yield from copied(prepared, "active", tmp_path, monkeypatch)


@pytest.fixture
def ready(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """... and set up."""
    yield from copied(prepared, "ready", tmp_path, monkeypatch)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What bin/tpu says when it fails."""
    assert main(list(words)) == 1
    return capsys.readouterr().err


# ---- create ----------------------------------------------------------------------------------------------


def test_create_asks_once_and_tells_every_change_of_state(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    cloud.change(states=["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "PROVISIONING", "ACTIVE"])
    words = ["create", "pod", "--type", "v3-32", "--spot", "--zone", "europe-west4-a", "--project", "mine", "--wait"]
    assert main([*words, "--", "--service-account=a@b", "--labels=x=y"]) == 0
    (made,) = cloud.calls("queued-resources create")
    assert made[0] == "pod"
    assert set(made) >= {"--node-id=pod", "--accelerator-type=v3-32", "--runtime-version=tpu-ubuntu2204-base", "--spot"}
    assert set(made) >= {"--zone=europe-west4-a", "--project=mine", "--service-account=a@b", "--labels=x=y"}
    told = re.findall(r"\d\d:\d\d:\d\d  (\w+)", capsys.readouterr().out)
    assert told == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


def test_zone_and_project_come_from_the_environment_or_from_gcloud(cloud: Cloud, monkeypatch: pytest.MonkeyPatch):
    assert main(["create", "pod", "--type", "v4-8"]) == 0
    assert not any(word.startswith(("--zone", "--project")) for call in cloud.calls() for word in call)
    monkeypatch.setenv("NST_TPU_ZONE", "us-central2-b")
    monkeypatch.setenv("NST_TPU_PROJECT", "mine")
    cloud.forget()
    assert main(["status", "pod"]) == 0
    assert all({"--zone=us-central2-b", "--project=mine"} <= set(call) for call in cloud.calls())


@pytest.mark.parametrize("family", RUNTIMES)
def test_every_family_gets_its_software(cloud: Cloud, family: str):
    assert main(["create", "pod", "--type", f"{family}-8"]) == 0
    assert f"--runtime-version={RUNTIMES[family]}" in cloud.calls("queued-resources create")[0]


def test_create_again_finds_the_first_request(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        assert main(["create", "pod", "--type", "v3-8"]) == 0
    assert len(cloud.calls("queued-resources create")) == 1
    assert "asked for, WAITING_FOR_RESOURCES" in capsys.readouterr().out
    assert "of another type\n  got:   v3-8" in refused(capsys, "create", "pod", "--type", "v3-32")


def test_a_lost_answer_is_no_second_request(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    cloud.fault("queued-resources create", when="after", says=NETWORK)
    assert main(["create", "pod", "--type", "v3-8"]) == 0
    actions = [" ".join(call[:2]) for call in cloud.calls()]
    assert actions == ["queued-resources describe", "queued-resources create", "queued-resources describe"]


def test_a_request_that_did_not_arrive_is_made_again_after_a_look(cloud: Cloud):
    cloud.fault("queued-resources create", says=NETWORK)
    cloud.fault("queued-resources describe", says=NETWORK)
    assert main(["create", "pod", "--type", "v3-8"]) == 0
    actions = [call[1] for call in cloud.calls()]
    assert actions == ["describe", "describe", "create", "describe", "create"]


@pytest.mark.parametrize(
    ("says", "told", "next"),
    [
        ("Quota limit 'TPUV3PodPerProject' has been exceeded. Limit: 0 in region europe-west4.", "quota", "--spot"),
        ('There is no more capacity in the zone "europe-west4-a"; [EID: 0x1]', "no TPU of this type free", "--zone"),
        ("Insufficient reserved capacity. Contact customer support", "no TPU of this type free", "--zone"),
        ("You do not currently have an active account selected.", "not logged in", "gcloud auth login"),
        ("Cloud TPU API has not been used in project 1 before or it is disabled", "API is off", "services enable"),
        ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", "may not", "roles/tpu.admin"),
        ("Failed to find attribute [zone]. The attribute can be set", "no zone", "NST_TPU_ZONE"),
        ("The required property [project] is not currently set", "no Google Cloud project", "NST_TPU_PROJECT"),
        ("INVALID_ARGUMENT: accelerator type v3-7", "does not accept", "accelerator-types list"),
        ("something nobody has seen yet", "gcloud failed", "bin/tpu status pod"),
    ],
)
def test_refusals_are_explained_and_not_repeated(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], says: str, told: str, next: str
):
    cloud.fault("queued-resources create", says=says, times=9)
    message = refused(capsys, "create", "pod", "--type", "v3-8")
    assert told in message
    assert says in message
    assert next in message.partition("next:")[2]
    assert len(cloud.calls("queued-resources create")) == 1


def test_a_connection_that_stays_away_is_given_up(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    cloud.fault("queued-resources describe", says=NETWORK, times=99)
    assert "could not be reached" in refused(capsys, "create", "pod", "--type", "v3-8")
    assert len(cloud.calls("queued-resources describe")) == 4
    assert not cloud.calls("queued-resources create")


def test_a_limit_on_questions_per_minute_is_not_taken_for_the_quota_of_tpus():
    text = "RATE_LIMIT_EXCEEDED: Quota exceeded for quota metric 'Read requests' and limit 'per minute'"
    assert classify(1, text).kind == "connection"
    assert classify(255, "").kind == "connection"
    assert classify(1, "").kind == "other"
    assert len({fault.kind for fault in FAULTS}) == len(FAULTS) - 1


def test_waiting_ends_where_the_request_does(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    reason = {"failedData": {"error": {"code": 8, "message": "Quota 'TPUV4s' exhausted. Limit 32 in region us"}}}
    cloud.change(states=["WAITING_FOR_RESOURCES", "FAILED"], reason=reason)
    message = refused(capsys, "create", "pod", "--type", "v4-64", "--wait")
    assert "quota" in message
    assert "Limit 32" in message
    cloud.move("SUSPENDED")
    assert "was preempted (SUSPENDED)" in refused(capsys, "create", "pod", "--type", "v4-64", "--wait")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["create", "pod", "--type", "v9-8"], "for a newer family also give --runtime"),
        (["create", "Pod_1", "--type", "v3-8"], "small letters, digits and dashes"),
        (["create", "pod", "--type", "v3-8", "--reserved"], "a reservation belongs to a zone"),
        (["create", "pod", "--type", "v3-8", "--spot", "--reserved"], "not allowed with"),
        (["create", "pod"], "--type"),
        (["run", "pod", "train", "seed=1"], "stands behind --"),
        (["run", "pod", "--", "trian"], "did you mean 'train'?"),
        (["run", "pod"], "nothing to run"),
        (["run", "pod", "--env", "A B", "--", "train", "trainer=tpu_pod"], "--env takes NAME=value"),
        (["run", "pod", "--env", "NOT_HERE", "--", "train", "trainer=tpu_pod"], "that variable is not set here"),
        (["run", "pod", "--", "train", "trainer=tpu_pod", "--dry-run"], "--dry-run belongs before --"),
        (["status", "pod", "--", "train", "trainer=tpu_pod"], "takes no command behind --"),
    ],
)
def test_a_wrong_command_line_is_explained_before_anything_runs(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], words: list[str], told: str
):
    assert told in refused(capsys, *words)
    assert not cloud.calls()


# ---- setup -----------------------------------------------------------------------------------------------


def test_setup_puts_head_and_its_environment_on_every_worker(active: Cloud, capsys: pytest.CaptureFixture[str]):
    (active.repository / "old.txt").write_text("changed, not committed")
    assert main(["setup", "pod"]) == 0
    assert "warning: 1 uncommitted changes stay here, the TPU gets HEAD: old.txt" in capsys.readouterr().out
    for worker in range(2):
        code = active.home(worker) / "nst"
        assert git(code, "rev-parse", "HEAD") == active.head()
        assert (code / "old.txt").read_text() == "old"
        assert (active.home(worker) / "extras").read_text() == "tpu\n"
        (code / "kept").write_text("of the worker")

    git(active.repository, "rm", "--quiet", "--force", "old.txt")
    git(active.repository, "commit", "--quiet", "-m", "two")
    assert main(["setup", "pod"]) == 0
    for worker in range(2):
        code = active.home(worker) / "nst"
        assert git(code, "rev-parse", "HEAD") == active.head()
        assert not (code / "old.txt").exists()
        assert (code / "kept").exists(), "environment and results stay"
    assert active.states() == ["idle", "idle"]


@pytest.mark.parametrize("index", [None, "https://example.org/cpu torch"])
def test_setup_hands_the_index_of_torch_for_cpus_on(active: Cloud, monkeypatch: pytest.MonkeyPatch, index: str | None):
    if index is not None:
        monkeypatch.setenv("NST_TPU_TORCH_INDEX", index)
    assert main(["setup", "pod"]) == 0
    assert {(active.home(worker) / "index").read_text() for worker in range(2)} == {f"{index or ''}\n"}


def test_dropped_connections_are_repeated_for_the_silent_workers_only(active: Cloud):
    active.fault("tpu-vm scp", says=DROPPED)
    active.fault("tpu-vm ssh", workers=[1], when="after", times=2)
    assert main(["setup", "pod"]) == 0
    assert len(active.calls("tpu-vm scp")) == 2
    assert [call[1] for call in active.calls("tpu-vm ssh")] == ["--worker=all", "--worker=1", "--worker=1"]
    assert active.states() == ["idle", "idle"]


def test_a_worker_that_stays_silent_is_named(active: Cloud, capsys: pytest.CaptureFixture[str]):
    active.fault("tpu-vm ssh", workers=[1], times=99)
    assert "no answer from worker 1 of TPU pod" in refused(capsys, "setup", "pod")


def test_a_failed_installation_is_told_with_its_worker_and_reason(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    ready.beside(1, "broken").touch()
    message = refused(capsys, "setup", "pod")
    assert "worker 1: the installation failed" in message
    assert "no room on the disk" in message
    assert "bin/tpu logs pod --setup --worker 1" in message
    assert "worker 1 of pod: not set up" in refused(capsys, "run", "pod", "--", "train", "trainer=tpu_pod")
    assert main(["logs", "pod", "--setup", "--worker", "1"]) == 0
    assert capsys.readouterr().out.endswith("no room on the disk\n")


def test_setup_from_a_repository_takes_the_commit_that_was_asked_for(active: Cloud):
    git(active.repository, "tag", "first")
    git(active.repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    assert main(["setup", "pod", "--repo", f"file://{active.repository}", "--ref", "first"]) == 0
    assert not active.calls("tpu-vm scp")
    assert git(active.home(1) / "nst", "rev-parse", "HEAD") == git(active.repository, "rev-parse", "first")


def test_setup_says_when_there_is_no_repository_to_copy(active: Cloud, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "bare").mkdir()
    monkeypatch.setattr(deploy, "ROOT", tmp_path / "bare")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert "--repo <url>" in refused(capsys, "setup", "pod")


def test_several_workers_need_the_key_in_the_agent_and_that_is_said(active: Cloud, capsys):
    active.fault("tpu-vm scp", says='SSH Key is not present in the SSH agent. Please run "ssh-add x" to add it')
    assert "ssh-add ~/.ssh/google_compute_engine" in refused(capsys, "setup", "pod")


def test_a_tpu_that_is_not_there_yet_is_no_riddle(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    assert "there is no TPU named pod" in refused(capsys, "setup", "pod")
    assert main(["create", "pod", "--type", "v3-16"]) == 0
    assert "not there yet: WAITING_FOR_RESOURCES" in refused(capsys, "setup", "pod")
    cloud.move("SUSPENDED")
    assert "was preempted" in refused(capsys, "setup", "pod")
    cloud.move("ACTIVE")
    cloud.change(node=None)
    assert "was preempted: its machines are DELETED" in refused(capsys, "setup", "pod")


# ---- run -------------------------------------------------------------------------------------------------

NASTY = [
    "train", "trainer=tpu_pod", "report.runs=['a b',\"c'd\"]",
    "iterate.generations=[['model.width=0.5'],[\"model.width=1.0\"]]",
    "x=$HOME `id` $(id)", "y=a\\b\\", "two\nlines", "*", "", "  spaces  ", "ü=ä", "a;b|c&d>e", "--verify", "{a:1,b:!}",
]  # fmt: skip


@pytest.mark.parametrize("by", ["flag", "environment"])
@pytest.mark.parametrize("route", ["internal-ip", "tunnel-through-iap"])
def test_machines_without_an_address_on_the_internet_are_reached_by_ssh_and_scp(
    active: Cloud, monkeypatch: pytest.MonkeyPatch, route: str, by: str
):
    if by == "environment":
        monkeypatch.setenv("NST_TPU_ROUTE", route)
    words = [f"--{route}"] if by == "flag" else []
    for command in (["setup"], ["run"], ["status"], ["logs"], ["stop"]):
        job = ["--", "train", "trainer=tpu_pod"] if command == ["run"] else []
        assert main([*command, "pod", *words, *job]) == 0
    for verb in ("ssh", "scp"):
        calls = active.calls(f"tpu-vm {verb}")
        assert calls
        assert all(f"--{route}" in call for call in calls)
    assert not any(f"--{route}" in call for call in active.calls("tpu-vm describe"))


def test_a_way_to_the_machines_that_there_is_not_is_refused(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys):
    assert "not allowed with" in refused(capsys, "status", "my-tpu", "--internal-ip", "--tunnel-through-iap")
    monkeypatch.setenv("NST_TPU_ROUTE", "internal")
    told = refused(capsys, "status", "my-tpu")
    assert "did you mean 'internal-ip'" in told
    assert not cloud.calls()


def test_who_restarts_is_told_that_every_start_compiles(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "pod", "--restart", "1", "--", "train", "trainer=tpu_pod"]) == 0
    assert "every start compiles before its first step" in capsys.readouterr().out


def test_every_worker_gets_the_same_words_whatever_is_in_them(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    value = "--xla_flag=1 --other='a b'"
    assert main(["run", "pod", "--env", f"LIBTPU_INIT_ARGS={value}", "--follow", "--", *NASTY]) == 0
    for worker in range(2):
        assert ready.words(worker) == NASTY
        assert ready.beside(worker, "environment").read_text() == f"TPU {value}\n"
        assert ready.starts(worker) == 1
    out = capsys.readouterr().out
    assert "attempt 1 on 0\nstep 1\nstep 2\nstep 3\n" in out
    assert "pod: finished on workers 0-1" in out


def test_a_job_goes_on_by_itself_and_a_second_one_is_refused(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    (ready.folder / "hold").touch()
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod", "seed=1"]) == 0
    assert ready.states() == ["running", "running"]
    for words in (["run", "pod", "--", "train", "trainer=tpu_pod", "seed=2"], ["setup", "pod"]):
        message = refused(capsys, *words)
        assert "workers 0-1" in message
        assert "train trainer=tpu_pod seed=1" in message
        assert "bin/tpu stop pod" in message
    until(lambda: ready.starts(0) == ready.starts(1) == 1)
    (ready.folder / "hold").unlink()
    until(lambda: ready.states() == ["ended", "ended"])
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod", "seed=2"]) == 0
    until(lambda: ready.starts(1) == 2)
    assert ready.words(1) == ["train", "trainer=tpu_pod", "seed=2"]


@pytest.mark.parametrize("still_running", [False, True])
@pytest.mark.parametrize("when", ["after", "twice"])
def test_a_launch_that_is_repeated_starts_once(ready: Cloud, when: str, still_running: bool):
    hold = ready.folder / "hold"
    if still_running:
        hold.touch()
    ready.fault("tpu-vm ssh", workers=[])  # the check is left alone
    ready.fault("tpu-vm ssh", workers=[0, 1], when=when, printed=0)
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod"]) == 0
    hold.unlink(missing_ok=True)
    until(lambda: ready.states() == ["ended", "ended"])
    assert main(["status", "pod"]) == 0
    assert [ready.starts(worker) for worker in range(2)] == [1, 1]


def test_loaders_that_outlive_nst_are_ended(ready: Cloud):
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod"]) == 0
    until(lambda: ready.states() == ["ended", "ended"])
    for worker in range(2):
        loader = int(ready.beside(worker, "loader").read_text())
        until(lambda loader=loader: not alive(loader))


def alive(pid: int) -> bool:
    """Zombies, which nobody has waited for, do not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_stop_ends_the_job_with_all_its_processes(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    (ready.folder / "hold").touch()
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod"]) == 0
    until(lambda: all(ready.beside(worker, "loader").exists() for worker in range(2)))
    assert main(["stop", "pod"]) == 0
    assert main(["stop", "pod"]) == 0, "nothing running is fine"
    assert ready.states() == ["ended", "ended"]
    for worker in range(2):
        assert not alive(int(ready.beside(worker, "loader").read_text()))
    capsys.readouterr()
    assert main(["status", "pod"]) == 0
    assert "workers 0-1: stopped by bin/tpu stop" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["train"], ["iterate", "trainer=cpu"], ["label", "trainer=tpu_pod", "trainer=tpu"]])
def test_a_job_that_would_not_run_on_the_tpu_is_not_started(
    ready: Cloud, words: list[str], capsys: pytest.CaptureFixture[str]
):
    message = refused(capsys, "run", "pod", "--", *words)
    assert f"nst {words[0]} would not run on this TPU" in message
    assert "valid: trainer=tpu_pod, for 2 hosts" in message
    message = refused(capsys, "run", "pod", "--dry-run", "--", words[0], "trainer=gpu")
    assert "valid: trainer=tpu or trainer=tpu_pod\n" in message


def test_workers_with_different_commits_are_not_started(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    (ready.home(1) / "nst-job" / "ready").write_text("f" * 40)
    assert "the workers have different commits" in refused(capsys, "run", "pod", "--", "train", "trainer=tpu_pod")
    assert ready.starts(0) == 0


def test_a_setup_between_the_check_and_the_start_is_noticed(ready: Cloud):
    tpu = Tpu("pod")
    with pytest.raises(NstError, match=f"workers 0-1 of pod refused(.|\n)*changed {ready.head()}"):
        jobs.start(tpu, Workers(tpu), jobs.CloudJob.parse(["train"], []), commit="f" * 40)
    assert ready.starts(0) == 0


def test_following_shows_every_line_once_in_spite_of_drops(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        ready.fault("tpu-vm ssh", workers=[])  # check and launch
    ready.fault("tpu-vm ssh", workers=[0], when="after", times=2)
    ready.fault("tpu-vm ssh", workers=[0], when="twice", printed=60)
    assert main(["run", "pod", "--follow", "--", "train", "trainer=tpu_pod"]) == 0
    out = capsys.readouterr().out
    for line in ("attempt 1 on 0", "step 1", "step 2", "step 3"):
        assert out.count(line) == 1


def test_an_offline_computer_does_not_give_up_the_job(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        ready.fault("tpu-vm ssh", workers=[])  # check and launch
    ready.fault("tpu-vm ssh", workers=[0], times=9)
    assert main(["run", "pod", "--restart", "1", "--", "train", "trainer=tpu_pod"]) == 0
    out = capsys.readouterr().out
    assert out.count("the job does not need it, looking again") == 2
    assert "pod: finished on workers 0-1" in out
    assert [ready.starts(worker) for worker in range(2)] == [1, 1]


def test_a_long_log_is_shown_to_its_end(ready: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr(worker_scripts, "LOOK_BYTES", 17)
    assert main(["run", "pod", "--follow", "--", "train", "trainer=tpu_pod"]) == 0
    assert "attempt 1 on 0\nstep 1\nstep 2\nstep 3\npod: finished" in capsys.readouterr().out


def test_a_log_is_followed_where_it_was_left(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    (ready.folder / "hold").touch()
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod"]) == 0
    until(lambda: ready.beside(1, "loader").exists())
    capsys.readouterr()
    follower = subprocess.Popen(
        [ROOT / "bin" / "tpu", "logs", "pod", "--worker", "1", "--follow"], stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "attempt 1 on 1\n"
    (ready.folder / "hold").unlink()
    assert follower.stdout.read() == "step 1\nstep 2\nstep 3\nworker 1: finished\n"
    assert follower.wait() == 0


def test_the_failing_worker_is_named(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    ready.beside(1, "codes").write_text("139\n")
    message = refused(capsys, "run", "pod", "--follow", "--", "train", "trainer=tpu_pod")
    assert "pod: worker 1 ended with 139 (SIGSEGV)" in message
    assert "bin/tpu logs pod --worker 1" in message
    assert ready.starts(1) == 1


def test_a_failure_is_started_again_on_all_workers_with_the_waiting_ones_stopped(ready: Cloud, capsys):
    ready.beside(0, "codes").write_text("wait\n0\n")
    ready.beside(1, "codes").write_text("1\n0\n")
    assert main(["run", "pod", "--restart", "2", "--", "train", "trainer=tpu_pod", "seed=3"]) == 0
    assert [ready.starts(worker) for worker in range(2)] == [2, 2]
    assert ready.words(0) == ["train", "trainer=tpu_pod", "seed=3"]
    assert "worker 1 ended with 1" in capsys.readouterr().out


def test_starting_again_is_bounded(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    for worker in range(2):
        ready.beside(worker, "codes").write_text("1\n1\n1\n0\n")
    assert "workers 0-1 ended with 1" in refused(
        capsys, "run", "pod", "--restart", "2", "--", "train", "trainer=tpu_pod"
    )
    assert [ready.starts(worker) for worker in range(2)] == [3, 3]


def test_a_wrong_command_line_of_nst_is_not_started_again(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    for worker in range(2):
        ready.beside(worker, "codes").write_text("2\n0\n")
    assert "ended with 2" in refused(capsys, "run", "pod", "--restart", "2", "--", "train", "trainer=tpu_pod")
    assert ready.starts(0) == 1


def test_a_preempted_pod_is_asked_for_again_set_up_and_goes_on(cloud: Cloud, capsys):
    cloud.change(states=["ACTIVE"])
    assert main(["create", "pod", "--type", "v3-16", "--spot", "--", "--labels=a=b c"]) == 0
    assert main(["setup", "pod"]) == 0
    for _ in range(2):
        cloud.fault("tpu-vm ssh", workers=[])  # check and launch
    cloud.fault("tpu-vm ssh", preempt=True)
    cloud.change(states=["WAITING_FOR_RESOURCES", "ACTIVE"])
    cloud.fault("queued-resources delete", when="after", says=NETWORK)
    assert main(["run", "pod", "--restart", "1", "--", "train", "trainer=tpu_pod", "seed=3"]) == 0
    out = capsys.readouterr().out
    assert "was preempted" in out
    assert "WAITING_FOR_RESOURCES" in out
    first, second = cloud.calls("queued-resources create")
    assert first == second
    assert "--labels=a=b c" in second
    assert "--force" in cloud.calls("queued-resources delete")[0]
    assert git(cloud.home(1) / "nst", "rev-parse", "HEAD") == cloud.head()
    assert cloud.words(1) == ["train", "trainer=tpu_pod", "seed=3"]
    assert cloud.starts(1) == 2


def preempted_at_work(cloud: Cloud, *states: str) -> None:
    """A spot TPU that is taken away once its job has started, and what becomes of the next request for it."""
    cloud.change(states=["ACTIVE"])
    assert main(["create", "pod", "--type", "v3-16", "--spot"]) == 0
    assert main(["setup", "pod"]) == 0
    for _ in range(2):
        cloud.fault("tpu-vm ssh", workers=[])  # check and launch
    cloud.fault("tpu-vm ssh", preempt=True)
    cloud.change(states=list(states))


def test_a_second_preemption_while_the_first_is_made_good_counts_as_another(cloud: Cloud, capsys):
    preempted_at_work(cloud, "WAITING_FOR_RESOURCES", "SUSPENDED")
    assert "was preempted" in refused(capsys, "run", "pod", "--restart", "2", "--", "train", "trainer=tpu_pod")
    assert len(cloud.calls("queued-resources create")) == 3


def test_an_offline_computer_asks_for_a_preempted_pod_later(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    preempted_at_work(cloud, "WAITING_FOR_RESOURCES", "ACTIVE")
    cloud.fault("queued-resources create", says=NETWORK, times=6)
    assert main(["run", "pod", "--restart", "1", "--", "train", "trainer=tpu_pod"]) == 0
    assert "no connection to Google Cloud; trying again" in capsys.readouterr().out
    assert cloud.starts(1) == 2


def watched(cloud: Cloud) -> tuple[threading.Thread, list[int]]:
    """`run --restart 3` of a job that waits, in a thread; its exit code, once it ends."""
    for worker in range(2):
        cloud.beside(worker, "codes").write_text("wait\n0\n")
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(main(["run", "pod", "--restart", "3", "--", "train", "trainer=tpu_pod"]))
    )
    thread.start()
    until(lambda: all(cloud.starts(worker) == 1 for worker in range(2)))
    return thread, codes


def test_what_a_person_stops_is_not_started_again(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    thread, codes = watched(ready)
    assert main(["stop", "pod"]) == 0
    thread.join(60)
    assert codes == [1]
    assert "workers 0-1 stopped by bin/tpu stop" in capsys.readouterr().err
    assert [ready.starts(worker) for worker in range(2)] == [1, 1]


@pytest.mark.parametrize("gone", [False, True], ids=["on its way", "gone"])
def test_what_a_person_deletes_is_not_asked_for_again(ready: Cloud, capsys: pytest.CaptureFixture[str], gone: bool):
    thread, codes = watched(ready)
    if gone:
        assert main(["delete", "pod", "--yes"]) == 0
    else:
        ready.move("DELETING")
    thread.join(60)
    assert codes == [1]
    assert ("there is no TPU named pod" if gone else "TPU pod is being deleted") in capsys.readouterr().err
    assert not ready.calls("queued-resources create")


def test_a_pod_that_nobody_watches_is_told(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod"]) == 0
    assert "the others end too" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["run", "pod", "--restart", "-1", "--", "train", "trainer=tpu_pod"],
        ["logs", "pod", "--lines", "0"],
        ["logs", "pod", "--worker=-1"],
        ["logs", "pod", "--worker", "one"],
    ],
)
def test_numbers_that_count_nothing_are_refused(cloud: Cloud, capsys: pytest.CaptureFixture[str], words: list[str]):
    assert re.search(r"argument --(restart|lines|worker): .*whole number of at least", refused(capsys, *words))
    assert not cloud.calls("")


def test_without_restart_a_preemption_is_told(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        ready.fault("tpu-vm ssh", workers=[])
    ready.fault("tpu-vm ssh", preempt=True)
    message = refused(capsys, "run", "pod", "--follow", "--", "train", "trainer=tpu_pod")
    assert "was preempted" in message
    assert "continues from its run_dir" in message
    assert "was preempted (SUSPEND" in refused(capsys, "run", "pod", "--", "train", "trainer=tpu_pod")


def test_restart_needs_the_commit_that_is_on_the_tpu(ready: Cloud, capsys):
    git(ready.repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    told = refused(capsys, "run", "pod", "--restart", "1", "--", "train", "trainer=tpu_pod")
    assert "and the TPU has another" in told
    assert ready.starts(0) == 0


# ---- status, logs, delete --------------------------------------------------------------------------------


def test_status_tells_request_machines_and_groups_of_workers(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    assert main(["status", "pod"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "pod  v3-16 spot  request ACTIVE\nmachines READY, health HEALTHY\nworkers 0-1: ready, commit "
    )
    ready.beside(1, "codes").write_text("1\n")
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod", "seed=1"]) == 0
    until(lambda: ready.states() == ["ended", "ended"])
    (ready.home(0) / "nst-job" / "exit").unlink()
    capsys.readouterr()
    assert main(["status", "pod"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"worker 0: gone without an exit code .*: train trainer=tpu_pod seed=1", out)
    assert re.search(r"worker 1: ended with 1, commit \w{12}, [\w-]+: train trainer=tpu_pod seed=1", out)
    ready.fault("tpu-vm ssh", workers=[0], times=2)
    assert main(["status", "pod"]) == 0
    assert "worker 0: no answer" in capsys.readouterr().out


def test_status_of_what_is_not_there(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    assert main(["status", "pod"]) == 0
    assert capsys.readouterr().out == "pod: no request of this name\nno machines\n"


def test_logs_shows_the_last_lines_of_a_worker(ready: Cloud, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "pod", "--follow", "--", "train", "trainer=tpu_pod"]) == 0
    capsys.readouterr()
    assert main(["logs", "pod", "--worker", "1", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "step 2\nstep 3\n"


def test_delete_asks_and_takes_the_machines_along(active: Cloud, capsys, monkeypatch: pytest.MonkeyPatch):
    assert "--yes" in refused(capsys, "delete", "pod")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert "nothing was deleted" in refused(capsys, "delete", "pod")
    assert not active.calls("queued-resources delete")
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["delete", "pod"]) == 0
    assert "--force" in active.calls("queued-resources delete")[0]
    assert not active.calls("tpu-vm delete")
    capsys.readouterr()
    assert main(["delete", "pod", "--yes"]) == 0
    assert capsys.readouterr().out == "pod: already gone\n"


def test_delete_waits_until_a_preemption_is_over(active: Cloud):
    active.move("SUSPENDING", "SUSPENDING", "SUSPENDED")
    assert main(["delete", "pod", "--yes"]) == 0
    assert len(active.calls("queued-resources describe")) == 3
    assert len(active.calls("queued-resources delete")) == 1


def test_delete_survives_lost_answers_and_finds_machines_without_a_request(active: Cloud):
    active.fault("queued-resources delete", when="after", says=NETWORK)
    active.change(orphan=True)
    assert main(["delete", "pod", "--yes"]) == 0
    assert len(active.calls("queued-resources delete")) == 2
    assert len(active.calls("tpu-vm delete")) == 1


# ---- names and secrets -----------------------------------------------------------------------------------

SHELL_WORDS = [
    "a; touch x",
    "$(touch x)",
    "`touch x`",
    "a\ntouch x",
    "a' ; touch x; '",
    'a"; touch x; "',
    "-a",
    "a b",
    "A",
    "",
]


EACH = [["create", "--type", "v3-8"], ["setup"], ["run"], ["status"], ["logs"], ["stop"], ["delete", "--yes"]]


@pytest.mark.parametrize("name", SHELL_WORDS, ids=repr)
def test_a_name_zone_or_project_that_is_none_reaches_no_command(cloud: Cloud, capsys, name: str):
    for command, *options in EACH:
        rest = [*options, "--", "train", "trainer=tpu"] if command == "run" else options
        said = refused(capsys, command, name, *rest)
        assert "a TPU's name consists of small letters" in said or name == "-a", "argparse takes that for an option"
        for option in ("--zone", "--project") if name else ():
            assert f"{option} consists of small letters" in refused(capsys, command, "pod", f"{option}={name}", *rest)
    assert not cloud.calls()


@pytest.mark.parametrize("runtime", [name for name in SHELL_WORDS if re.search(r"\W", name.lstrip("-"))], ids=repr)
def test_a_runtime_that_is_none_is_not_asked_for(cloud: Cloud, capsys, runtime: str):
    assert "--runtime consists of letters" in refused(capsys, "create", "pod", "--type", "v3-8", f"--runtime={runtime}")
    assert not cloud.calls("queued-resources create")


def test_no_word_variable_or_answer_of_a_worker_ends_a_shell_word(ready: Cloud, capsys):
    marks = [text for text in SHELL_WORDS if text]
    words = ["train", "trainer=tpu_pod", *marks, *(f"run_dir={text}" for text in marks)]
    for text in marks:
        assert main(["run", "pod", "--env", f"LIBTPU_INIT_ARGS={text}", "--follow", "--", *words]) == 0
        assert ready.words(0) == words
        assert ready.beside(0, "environment").read_text() == f"TPU {text}\n"
    for worker in range(2):  # a machine that others have been at
        (ready.home(worker) / "nst-job" / "ready").write_text("$(touch${IFS}$HOME/x)")
    assert main(["run", "pod", "--", "train", "trainer=tpu_pod"]) in (0, 1)
    assert not list(ready.folder.rglob("x"))
    assert not list(Path.cwd().glob("x"))


def test_a_secret_variable_is_in_no_command_log_or_dry_run(ready: Cloud, capsys, monkeypatch: pytest.MonkeyPatch):
    secret = "hunter2 'Zq81xV'"
    monkeypatch.setenv("LIBTPU_INIT_ARGS", secret)
    words = ["run", "pod", "--env", "LIBTPU_INIT_ARGS", "--follow", "--", "train", "trainer=tpu_pod"]
    assert main([*words[:2], "--dry-run", *words[2:]]) == 0
    assert main(words) == 0
    told = capsys.readouterr()
    assert ready.beside(1, "environment").read_text() == f"TPU {secret}\n"
    kept = [path for worker in range(2) for path in ready.home(worker).rglob("*") if path.is_file()]
    for text in (told.out, told.err, json.dumps(ready.calls()), *(path.read_text(errors="replace") for path in kept)):
        assert "hunter2" not in text
    assert main(["run", "pod", "--follow", "--", "train", "trainer=tpu_pod"]) == 0
    assert ready.beside(1, "environment").read_text() == "TPU \n", "a variable is of one job"


def test_a_repository_is_an_address_without_a_password(active: Cloud, capsys):
    said = refused(capsys, "setup", "pod", "--repo", "https://user:hunter2@host/nst.git")
    assert "--repo holds a password" in said
    assert "hunter2" not in said
    assert not active.calls("tpu-vm ssh")
    assert "the installation failed" in refused(capsys, "setup", "pod", "--repo=--upload-pack=touch $HOME/x;")
    assert not list(active.folder.rglob("x"))


# ---- dry run, and where it runs --------------------------------------------------------------------------

COMMANDS = [
    ["create", "pod", "--type", "v3-2048", "--reserved", "--zone", "europe-west4-a", "--wait", "--dry-run"],
    ["setup", "pod", "--dry-run"],
    ["setup", "pod", "--repo", "https://example.org/nst.git", "--ref", "v1", "--dry-run"],
    ["run", "pod", "--follow", "--dry-run", "--", *NASTY],
    ["run", "pod", "--restart", "3", "--dry-run", "--", "train", "trainer=tpu_pod"],
    ["status", "pod", "--dry-run"],
    ["logs", "pod", "--dry-run"],
    ["logs", "pod", "--follow", "--dry-run"],
    ["stop", "pod", "--dry-run"],
    ["delete", "pod", "--dry-run"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:3]))
def test_a_dry_run_prints_a_script_and_runs_nothing(cloud: Cloud, words: list[str], capsys, monkeypatch):
    def run(*_: object, **__: object) -> None:
        raise AssertionError("a dry run has run something")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        assert main(words) == 0
    out = capsys.readouterr().out
    assert subprocess.run(["bash", "-n", "-c", out], check=False).returncode == 0
    assert "gcloud compute tpus" in out
    assert not cloud.calls()


def test_the_printed_script_does_what_the_command_does(active: Cloud, capsys):
    for words in (["setup", "pod"], ["run", "pod", "--", *NASTY]):
        assert main([words[0], words[1], "--dry-run", *words[2:]]) == 0
        script = capsys.readouterr().out.replace(deploy.COMMIT, active.head())
        subprocess.run(["bash", "-e", "-c", script], check=True, capture_output=True)
    until(lambda: active.states() == ["ended", "ended"])
    assert [active.words(worker) for worker in range(2)] == [NASTY, NASTY]


def test_a_dry_run_names_every_step_of_the_way(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    assert main(COMMANDS[0]) == 0
    assert main(COMMANDS[-1]) == 0
    out = [shlex.split(line)[3:5] for line in capsys.readouterr().out.splitlines() if line.startswith("gcloud")]
    assert [" ".join(words) for words in out] == [
        "queued-resources describe", "queued-resources create", "queued-resources describe",
        "queued-resources describe", "tpu-vm describe", "queued-resources delete", "tpu-vm describe", "tpu-vm delete",
    ]  # fmt: skip


def test_it_needs_nothing_but_python(tmp_path: Path):
    """No site-packages, no environment variables of Python, another folder."""
    command = [sys.executable, "-I", "-S", str(ROOT / "bin" / "tpu"), "create", "pod", "--type", "v6e-256", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--runtime-version=v2-alpha-tpuv6e" in done.stdout
    for path in [*(ROOT / "nst" / "cloud").glob("*.py"), ROOT / "nst" / "cli.py", ROOT / "nst" / "errors.py"]:
        ast.parse(path.read_text(), feature_version=(3, 10))


def test_without_gcloud_it_says_where_to_get_it(cloud: Cloud, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(cloud.folder / "bin"))
    assert "gcloud is not installed" in refused(capsys, "status", "pod")


def test_a_worker_without_a_number_in_its_name_asks_the_metadata_server(cloud: Cloud):
    cloud.home(0).mkdir()
    executable(cloud.folder / "bin" / "hostname", "#!/bin/sh\necho tpu-vm\n")
    executable(cloud.folder / "bin" / "curl", '#!/bin/sh\ncase "$*" in *agent-worker-number) printf 7 ;; esac\n')
    environment = {"HOME": str(cloud.home(0)), "PATH": f"{cloud.folder}/bin:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", STATE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nst-worker 7 new ")


def test_workers_are_named_by_ranges():
    assert numbers([3]) == "worker 3"
    assert numbers({0, 1, 2, 5, 8, 7}) == "workers 0-2, 5, 7-8"


def test_interrupting_the_wait_says_that_the_request_stays(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupt(_: float) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(time, "sleep", interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert main(["create", "pod", "--type", "v3-8", "--wait"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "goes on, and is billed" in capsys.readouterr().err
