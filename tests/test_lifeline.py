"""Lifelines: a host that fails or is gone ends the others, one that is only slow or has ended well does not.

The hosts here are processes without torch. One that waits does so in C, holding Python's lock, as a collective may.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GRACE = 1.5  # s
HOST = """
import ctypes, json, os, sys, time
from pathlib import Path
from nst.xla import lifeline
host, act, folder, count = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[5])
lifeline.GRACE = float(sys.argv[4])

def agree(offer):
    place = folder / "offer"
    if host == 0:
        place.with_suffix(".part").write_text(json.dumps(offer))
        place.with_suffix(".part").rename(place)
    while not place.exists():
        time.sleep(0.02)
    return json.loads(place.read_text())

lifeline.hold(host, count, "127.0.0.1", agree)
lifeline.hold(host, count, "127.0.0.1", None)  # once is enough
print("ready", flush=True)
if act.startswith("at once "):
    act = act.removeprefix("at once ")
else:
    sys.stdin.readline()
if act == "collective":
    ctypes.PyDLL(None).sleep(60)
elif act == "fails":
    lifeline.release("no space left")
    sys.exit(1)
elif act == "fails and hangs":
    lifeline.release("no space left")
    ctypes.PyDLL(None).sleep(60)
elif act == "is slow":
    time.sleep(3 * lifeline.GRACE)
    lifeline.release()
elif act == "ends well":
    lifeline.release()
"""
Hosts = Callable[..., list[subprocess.Popen[str]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Hosts]:
    """Starts hosts that do something each when `go` is called, and ends what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def hosts(*acts: str, wait: bool = True) -> list[subprocess.Popen[str]]:
        for number, act in enumerate(acts):
            process = subprocess.Popen(
                [sys.executable, "-c", HOST, str(number), act, str(tmp_path), str(GRACE), str(len(acts))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            started.append(process)
        if not wait:
            return started
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        while watchers(started) != len(started):
            time.sleep(0.05)
        time.sleep(1)  # they find each other
        return started

    yield hosts
    for process in started:
        process.kill()
        process.wait()


def watchers(hosts: list[subprocess.Popen[str]]) -> int:
    """How many of the hosts have a watcher."""
    found = 0
    for process in hosts:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found += any(b"lifeline" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
    return found


def go(*hosts: subprocess.Popen[str]) -> None:
    for process in hosts:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def ended(process: subprocess.Popen[str], within: float) -> tuple[int, str]:
    """Exit code and what was said; the pipe is closed when the watcher has ended too."""
    _, errors = process.communicate(timeout=within)
    return process.returncode, errors


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_host_that_fails_ends_the_others_with_its_reason(start: Hosts, failing: int):
    acts = ["collective"] * 3
    acts[failing] = "fails"
    hosts = start(*acts)
    go(*hosts)
    for number, process in enumerate(hosts):
        code, said = ended(process, 20)
        if number == failing:
            assert (code, said) == (1, "")
        else:
            assert code == -signal.SIGKILL
            assert said.startswith(f"nst: host {number}: host {failing} has failed: no space left; this one ends in")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_is_killed_ends_the_others(start: Hosts, killed: int):
    hosts = start("collective", "collective")
    go(*hosts)
    hosts[killed].kill()
    code, said = ended(hosts[1 - killed], 20)
    assert code == -signal.SIGKILL
    assert f"host {killed} has failed: its process is gone" in said


@pytest.mark.parametrize("failing", [0, 1])
def test_a_host_that_fails_before_the_watchers_have_met_ends_the_others(start: Hosts, failing: int):
    acts = ["at once collective"] * 2
    acts[failing] = "at once fails"
    hosts = start(*acts, wait=False)
    assert ended(hosts[failing], 20) == (1, "")
    code, said = ended(hosts[1 - failing], 20)
    assert code == -signal.SIGKILL
    assert f"host {failing} has failed: " in said


def test_hosts_that_end_well_at_once_say_nothing(start: Hosts):
    assert [ended(process, 20) for process in start("at once ends well", "at once ends well", wait=False)] == [
        (0, "")
    ] * 2


def test_a_host_whose_watcher_is_killed_ends_with_all_others(start: Hosts):
    hosts = start("is slow", "collective")
    go(hosts[1])
    (child,) = Path(f"/proc/{hosts[0].pid}/task/{hosts[0].pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    code, said = ended(hosts[0], 20)
    assert code == 1
    assert "this host's watcher has ended with -9" in said
    code, said = ended(hosts[1], 20)
    assert code == -signal.SIGKILL
    assert "host 0 has failed: its machine or its watcher is gone" in said


def test_a_host_that_hangs_after_its_failure_is_ended_too(start: Hosts):
    hosts = start("collective", "fails and hangs")
    go(*hosts)
    assert [ended(process, 20)[0] for process in hosts] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("first", [0, 1])
def test_a_host_that_ends_well_lets_the_others_finish(start: Hosts, first: int):
    acts = ["is slow", "is slow", "is slow"]
    acts[first] = "ends well"
    hosts = start(*acts)
    go(*hosts)
    assert [ended(process, 30) for process in hosts] == [(0, "")] * 3


def test_a_host_that_ends_by_itself_in_time_is_not_killed(start: Hosts):
    hosts = start("fails", "fails")
    go(*hosts)
    assert [ended(process, 20)[0] for process in hosts] == [1, 1]


def test_strangers_and_signals_for_the_host_change_nothing(start: Hosts, tmp_path: Path):
    hosts = start("ends well", "is slow")
    address, port, token = json.loads((tmp_path / "offer").read_text())
    for word in (b"", b"GET / HTTP/1.1\r\n\r\n", b'{"host": 1, "token": "guessed"}\n{"fault": "a lie"}\n', b"[]\n"):
        with socket.create_connection((address, port)) as stranger:
            stranger.sendall(word)
    for process in hosts:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGTERM)
    go(*hosts[1:])
    time.sleep(GRACE)
    assert [process.poll() for process in hosts] == [None, None]
    go(hosts[0])
    assert [ended(process, 30) for process in hosts] == [(0, "")] * 2
    assert len(token) == 32


def test_without_a_pod_there_is_nothing_to_release():
    code = "import sys; from nst.xla import lifeline; lifeline.release('x'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
