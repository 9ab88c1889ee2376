"""Commands, run or (with --dry-run) only printed, and a TPU by its name.

`call` repeats a command whose connection failed, so it serves only what may happen twice (describe, delete, copy).
Creating is repeated elsewhere, after a look at what the lost try has left behind.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from subprocess import CompletedProcess
from typing import Any

from nst.cloud.refusals import classify
from nst.errors import NstError

ATTEMPTS = 4
ROUTES = ("internal-ip", "tunnel-through-iap")  # flags of gcloud
INSTALL = {"gcloud": "https://cloud.google.com/sdk/docs/install", "git": "https://git-scm.com/downloads"}


def poll_seconds() -> float:
    """Time between two looks at something that changes, and the first back-off: NST_TPU_POLL_S."""
    value = os.environ.get("NST_TPU_POLL_S", "10")
    try:
        return float(value)
    except ValueError:
        raise NstError("NST_TPU_POLL_S must be a number of seconds", got=value) from None


@dataclass(frozen=True)
class Shell:
    """Runs commands of this computer; a dry one prints them, quoted for a shell, and assumes that all goes well."""

    dry_run: bool = False

    def run(self, command: Sequence[str], assume: str = "") -> CompletedProcess[str]:
        if self.dry_run:
            print(shlex.join(command))
            return CompletedProcess(command, 0, assume, "")
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
            )
        except FileNotFoundError:
            raise NstError(f"{command[0]} is not installed", next=f"install it: {INSTALL[command[0]]}") from None

    def say(self, text: str) -> None:
        """What has happened; a dry run has nothing to tell."""
        if not self.dry_run:
            print(text, flush=True)

    def comment(self, text: str) -> None:
        """Said only in the script that a dry run prints."""
        if self.dry_run:
            print(f"# {text}")

    def pause(self, attempt: int = 0) -> None:
        """Waits between two looks, or twice as long with every failed attempt."""
        if not self.dry_run:
            time.sleep(poll_seconds() * 2**attempt)


@dataclass(frozen=True)
class Tpu:
    """A queued resource and its node, which have the same name.

    Args:
        route: how ssh and scp get to machines without an address on the internet, one of ROUTES; None: they have one.

    Raises:
        NstError: a name, zone or project that Google Cloud could not have: gcloud, ssh and scp would take it for more.
    """

    name: str
    zone: str | None = None
    project: str | None = None
    shell: Shell = field(default_factory=Shell)
    route: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", self.name):
            raise NstError("a TPU's name consists of small letters, digits and dashes", got=self.name, valid="l2-pod")
        for option, value in (("--zone", self.zone), ("--project", self.project)):
            if value and not re.fullmatch(r"[a-z][a-z0-9.:-]*", value):
                raise NstError(f"{option} consists of small letters, digits and dashes", got=value)

    def command(self, group: str, verb: str, *arguments: str) -> list[str]:
        place = [f"--zone={self.zone}"] if self.zone else []
        place += [f"--project={self.project}"] if self.project else []
        place += [f"--{self.route}"] if self.route and verb in ("ssh", "scp") else []
        return ["gcloud", "compute", "tpus", group, verb, *arguments, *place, "--quiet"]

    def once(self, group: str, verb: str, *arguments: str, assume: str = "") -> CompletedProcess[str]:
        return self.shell.run(self.command(group, verb, *arguments), assume)

    def call(self, group: str, verb: str, *arguments: str, assume: str = "") -> str:
        """Output of a command that may safely run twice, repeated with back-off while the connection fails.

        Raises:
            CloudError: gcloud refused, or could not be reached in `ATTEMPTS` tries.
        """
        attempt = 0
        while True:
            done = self.once(group, verb, *arguments, assume=assume)
            if done.returncode == 0:
                return done.stdout
            fault = classify(done.returncode, done.stderr)
            attempt += 1
            if fault.kind != "connection" or attempt == ATTEMPTS:
                raise fault.error(self.name, done.stderr)
            self.shell.say(f"no connection, attempt {attempt} of {ATTEMPTS}; trying again")
            self.shell.pause(attempt - 1)

    def request(self, assume: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The queued resource as Google Cloud describes it; None where there is none."""
        return self._describe("queued-resources", assume)

    def node(self, assume: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The machines behind it; None while there are none."""
        return self._describe("tpu-vm", assume)

    def _describe(self, group: str, assume: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            text = self.call(group, "describe", self.name, "--format=json", assume=json.dumps(assume))
        except NstError as error:
            if getattr(error, "kind", "") == "missing":
                return None
            raise
        return json.loads(text)
