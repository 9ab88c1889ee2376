"""Asking all workers of a TPU at once, and asking again those that did not answer.

A worker counts as done when its answer has come back, not when gcloud exits with 0. With hundreds of workers some
connection always drops; only the silent ones are asked again.
"""

from __future__ import annotations

import re
import secrets
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nst.cloud import worker_scripts
from nst.cloud.gcloud import ATTEMPTS, Tpu
from nst.cloud.queue import WAITING, again, ended, state_of
from nst.cloud.refusals import SSH_DROPPED, CloudError, classify
from nst.errors import NstError

ANSWER = re.compile(r"^nst-worker (\d+) (.*)$", re.MULTILINE)
# a connection that has died is noticed within two minutes, and gcloud or we repeat the command
KEEP_ALIVE = ("--ssh-flag=-oServerAliveInterval=30", "--ssh-flag=-oServerAliveCountMax=4")


@dataclass(frozen=True)
class State:
    """What a worker is doing."""

    name: str  # new | idle | running | ended | lost
    code: str = "-"  # exit code of what has ended, or "stopped"
    commit: str = "-"
    launch: str = "-"
    command: str = ""

    @classmethod
    def parse(cls, answer: str) -> State:
        return cls(*answer.split(" ", 4))

    @property
    def failed(self) -> bool:
        return self.name == "lost" or (self.name == "ended" and self.code != "0")

    def __str__(self) -> str:
        said = {
            "new": "not set up",
            "idle": "ready",
            "running": "running",
            "lost": "gone without an exit code (the machine was restarted, or the job killed)",
        }
        ended = {"0": "finished", "stopped": "stopped by bin/tpu stop"}
        return said.get(self.name) or ended.get(self.code) or f"ended with {_exit(self.code)}"


def _exit(code: str) -> str:
    """A shell reports death by signal n as 128 + n."""
    names = {str(128 + number): number.name for number in signal.Signals}
    return f"{code} ({names[code]})" if code in names else code


def numbers(workers: Collection[int]) -> str:
    """`worker 3`, `workers 0-2, 5`."""
    runs: list[list[int]] = []
    for number in sorted(workers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    listed = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"worker{'s' if len(workers) > 1 else ''} {listed}"


def copy(tpu: Tpu, file: Path, name: str) -> None:
    """A file into the home folder of every worker.

    Raises:
        CloudError: as `Tpu.call`.
    """
    flags = [flag.replace("--ssh-flag", "--scp-flag") for flag in KEEP_ALIVE]
    tpu.call("tpu-vm", "scp", str(file), f"{tpu.name}:{name}", "--worker=all", *flags)


class Workers:
    """The machines of one TPU."""

    def __init__(self, tpu: Tpu) -> None:
        self.tpu = tpu
        node = tpu.node(assume={"networkEndpoints": [{}]})
        if node is None:
            raise self._absent()
        self.count = len(node.get("networkEndpoints") or [{}])

    def _absent(self) -> CloudError:
        """Why there are no machines."""
        request = self.tpu.request()
        name = self.tpu.name
        if request is None:
            return classify(1, "NOT_FOUND").error(name, "")
        if state_of(request) in WAITING:
            return CloudError(
                "waiting", f"TPU {name} is not there yet: {state_of(request)}", next=f"bin/tpu create {name} ... --wait"
            )
        return self._gone() or ended(self.tpu, request)

    def ask(self, script: str, assume: str, *, attempts: int = ATTEMPTS) -> dict[int, str]:
        """The answers to a script that may run twice, by worker; some may be missing after `attempts` tries.

        Raises:
            CloudError: gcloud refused, or the TPU was preempted.
        """
        answers: dict[int, str] = {}
        silent = list(range(self.count))
        for attempt in range(attempts):
            target = "all" if len(silent) == self.count else ",".join(map(str, silent))
            done = self.tpu.once(
                "tpu-vm", "ssh", self.tpu.name, f"--worker={target}", *KEEP_ALIVE, f"--command={script}",
                assume=f"nst-worker 0 {assume}\n",
            )  # fmt: skip
            answers |= {int(number): text for number, text in ANSWER.findall(done.stdout)}
            silent = [number for number in range(self.count) if number not in answers]
            if not silent:
                break
            fault = classify(done.returncode or SSH_DROPPED, done.stderr)
            if fault.kind not in ("connection", "other"):
                raise self._gone() or fault.error(self.tpu.name, done.stderr)
            if attempt + 1 < attempts:
                self.tpu.shell.say(
                    f"no answer from {numbers(silent)}, attempt {attempt + 1} of {attempts}, trying again"
                )
                self.tpu.shell.pause(attempt)
        return answers

    def _gone(self) -> CloudError | None:
        """That the machines will not come back, where that is why they cannot be reached; None while they are there."""
        request, node = self.tpu.request(), self.tpu.node()
        if request is None and node is None:
            return classify(1, "NOT_FOUND").error(self.tpu.name, "")
        if request is not None and state_of(request) != "ACTIVE":
            return ended(self.tpu, request)
        state = (node or {}).get("state", "DELETED")
        if state in ("PREEMPTED", "TERMINATED", "DELETED"):
            return CloudError(
                "preempted", f"TPU {self.tpu.name} was preempted: its machines are {state}", next=again(self.tpu)
            )
        return None

    def all(self, script: str, assume: str) -> dict[int, str]:
        """The answers of every worker.

        Raises:
            CloudError: some did not answer, or as `ask`.
        """
        answers = self.ask(script, assume)
        silent = set(range(self.count)) - answers.keys()
        if silent:
            raise self._gone() or CloudError(
                "connection",
                f"no answer from {numbers(silent)} of TPU {self.tpu.name}",
                next=f"bin/tpu status {self.tpu.name}, then the same command again: it may run twice",
            )
        return answers

    def states(self, assume: str) -> dict[int, State]:
        return {number: State.parse(answer) for number, answer in self.all(worker_scripts.STATE, assume).items()}

    def look(
        self, worker: int, file: str, *, start: int = 0, lines: int | None = None, assume: str = "idle"
    ) -> tuple[str, int, State]:
        """A piece of a worker's log, where it ended (byte), and the worker's state.

        Raises:
            CloudError: the worker does not answer.
        """
        mark = f"nst-log-{secrets.token_hex(4)}" if not self.tpu.shell.dry_run else "nst-log"
        script = worker_scripts.look(file, mark, start=start, lines=lines)
        try:
            out = self.tpu.call(
                "tpu-vm", "ssh", self.tpu.name, f"--worker={worker}", *KEEP_ALIVE, f"--command={script}",
                assume=f"{mark} begin\n\n{mark} end 0\nnst-worker {worker} {assume}\n",
            )  # fmt: skip
        except CloudError as error:
            raise self._gone() or error from None
        # gcloud repeats a dropped command by itself: what the first try printed comes before the last mark
        last = out.rpartition(f"{mark} begin\n")[2]
        text, _, rest = last.partition(f"\n{mark} end ")
        end, _, answer = rest.partition("\n")
        match = ANSWER.search(answer)
        if not (match and end.isdigit()):
            raise NstError(f"{numbers([worker])} of TPU {self.tpu.name} gave no readable answer", got=out[-300:])
        return text, int(end), State.parse(match[2])
