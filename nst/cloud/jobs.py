"""What runs on a TPU: start it on all workers, look at it, stop it.

The processes of a pod wait for each other, so a job starts on all workers or is not started: first every worker says
that it is free and has the same commit, then all get the same command.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst.cloud import worker_scripts
from nst.cloud.deploy import COMMIT
from nst.cloud.gcloud import Tpu
from nst.cloud.queue import node_of, state_of
from nst.cloud.workers import State, Workers, copy, numbers
from nst.errors import NstError, require_choice
from nst.stage_table import STAGES

IDLE = f"idle - {COMMIT} - -"


@dataclass(frozen=True)
class CloudJob:
    """A command of nst, `words`, with environment `variables`, whose values may be secrets."""

    words: Sequence[str]
    variables: Mapping[str, str]

    @classmethod
    def parse(cls, words: Sequence[str], variables: Sequence[str]) -> CloudJob:
        """Raises NstError for what is no stage, no NAME=value, or a NAME that this computer's environment lacks."""
        if not words:
            raise NstError("there is nothing to run", next="bin/tpu run <name> -- train trainer=tpu_pod ...")
        require_choice("stage", words[0], STAGES)
        values = {}
        for item in variables:
            name, equals, value = item.partition("=")
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise NstError("--env takes NAME=value, or NAME for the value that it has here", got=name[:80])
            if not equals and name not in os.environ:
                raise NstError(f"--env {name}: that variable is not set here", next=f"export {name}=...")
            values[name] = value if equals else os.environ[name]
        return cls(list(words), values)

    def require_trainer(self, hosts: int | None) -> None:
        """Raises NstError for what would train on the processors beside a TPU of so many hosts; None: not known."""
        valid = {None: ("trainer=tpu", "trainer=tpu_pod"), 1: ("trainer=tpu",)}.get(hosts, ("trainer=tpu_pod",))
        given = next((word for word in reversed(self.words) if word.startswith("trainer=")), None)
        if STAGES[self.words[0]].together and given not in valid:
            raise NstError(
                f"nst {self.words[0]} would not run on this TPU",
                got=given or "no trainer=, so a CPU's",
                valid=" or ".join(valid) + (f", for {hosts} host{'s' if hosts > 1 else ''}" if hosts else ""),
                next=f"bin/tpu run <name> -- {self.words[0]} {valid[-1]} ...",
            )


def check(tpu: Tpu, workers: Workers) -> str:
    """The commit that all workers have.

    Raises:
        NstError: some are not set up, differ, or run a job.
    """
    states = workers.states(assume=IDLE)
    new = [number for number, state in states.items() if state.commit == "-"]
    if new:
        raise NstError(f"{numbers(new)} of {tpu.name}: not set up", next=f"bin/tpu setup {tpu.name}")
    busy = [number for number, state in states.items() if state.name == "running"]
    if busy:
        raise NstError(
            f"{tpu.name} is at work already ({numbers(busy)})",
            got=states[busy[0]].command,
            next=f"bin/tpu logs {tpu.name} --follow, or bin/tpu stop {tpu.name}",
        )
    commits = {state.commit for state in states.values()}
    if len(commits) > 1:
        raise NstError("the workers have different commits", got=sorted(commits), next=f"bin/tpu setup {tpu.name}")
    return commits.pop()


def start(tpu: Tpu, workers: Workers, job: CloudJob, commit: str) -> str:
    """The job on all workers, each started once; returns the launch's name.

    Raises:
        NstError: another job came in between.
        CloudError: workers did not answer.
    """
    name = "launch" if tpu.shell.dry_run else f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    if job.variables:
        _send(tpu, job.variables)
    answers = workers.all(worker_scripts.launch(name, commit, job.words, {"PJRT_DEVICE": "TPU"}), assume="started")
    refused = {number: answer for number, answer in answers.items() if answer != "started"}
    if refused:
        raise NstError(
            f"{numbers(refused)} of {tpu.name} refused the job; the others wait",
            got=refused[min(refused)],
            next=f"bin/tpu stop {tpu.name}, then the same command again",
        )
    tpu.shell.say(f"{tpu.name}: started on {numbers(answers)}; the job goes on without this computer")
    return name


def _send(tpu: Tpu, variables: Mapping[str, str]) -> None:
    """The environment to every worker as a file: in a command, each user of either machine could read its secrets."""
    tpu.shell.comment(
        f"{worker_scripts.ENVIRONMENT}, for its owner alone: export NAME=value for {', '.join(variables)}"
    )
    with tempfile.TemporaryDirectory(prefix="nst-") as folder:
        path = Path(worker_scripts.ENVIRONMENT) if tpu.shell.dry_run else Path(folder) / worker_scripts.ENVIRONMENT
        if not tpu.shell.dry_run:
            path.touch(mode=0o600)
            lines = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
            path.write_text("".join(lines), encoding="utf-8")
        copy(tpu, path, worker_scripts.ENVIRONMENT)


def stop(tpu: Tpu, workers: Workers) -> None:
    """Ends what runs on any worker; nothing running is fine."""
    answers = workers.all(worker_scripts.STOP, assume=IDLE)
    left = [number for number, answer in answers.items() if State.parse(answer).name == "running"]
    if left:
        raise NstError(f"{numbers(left)} of {tpu.name}: the job does not end", next=f"bin/tpu status {tpu.name}")
    tpu.shell.say(f"{tpu.name}: nothing runs any more")


def status(tpu: Tpu) -> None:
    """Queued resource, machines, and what every worker is doing."""
    request = tpu.request(assume={})
    if request is None:
        tpu.shell.say(f"{tpu.name}: no request of this name")
    else:
        tier = "spot" if "spot" in request else "reserved" if request.get("reservationName") else "on-demand"
        kind = node_of(request).get("acceleratorType", "")
        tpu.shell.say(f"{tpu.name}  {kind} {tier}  request {state_of(request)}")
    node = tpu.node(assume={"state": "READY"})
    if node is None:
        tpu.shell.say("no machines")
        return
    tpu.shell.say(f"machines {node.get('state', '?')}, health {node.get('health', 'unknown')}")
    if node.get("state") != "READY":
        return
    workers = Workers(tpu)
    answers = workers.ask(worker_scripts.STATE, assume=IDLE, attempts=2)
    said: dict[str, list[int]] = {}
    for number in range(workers.count):
        state = State.parse(answers[number]) if number in answers else None
        said.setdefault(_line(state) if state else "no answer", []).append(number)
    for text, members in said.items():
        tpu.shell.say(f"{numbers(members)}: {text}")


def _line(state: State) -> str:
    if state.name == "new":
        return str(state)
    about = f"commit {state.commit[:12]}"
    return f"{state}, {about}" if state.name == "idle" else f"{state}, {about}, {state.launch}: {state.command}"


def logs(tpu: Tpu, worker: int, lines: int, *, setup: bool = False) -> None:
    """The end of a worker's log of the job, or of the installation."""
    file = "logs/setup.log" if setup else "log"
    text, _, _ = Workers(tpu).look(worker, file, lines=lines, assume=IDLE)
    print(text, end="" if text.endswith("\n") or not text else "\n")
