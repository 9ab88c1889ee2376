"""The life of a TPU: a queued resource is asked for, waited for, and deleted together with its machines.

Creating looks before every try. The name is the identity, so a request whose answer was lost on the way is found
again, and never made twice. What was asked for is also written into the request's description, so that a preempted TPU
can be asked for again, with the same flags, from any computer.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nst.cloud.gcloud import ATTEMPTS, Tpu
from nst.cloud.refusals import CloudError, classify
from nst.errors import NstError

# software of the machines, by the type's family: what Google names for PyTorch
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
GONE = ("SUSPENDING", "SUSPENDED")  # what happens to a spot TPU whose machines somebody else needs
MADE_BY = "bin/tpu "


@dataclass(frozen=True)
class Wish:
    """What to ask for."""

    accelerator: str
    tier: str = "on-demand"  # spot | reserved | on-demand
    runtime: str | None = None
    flags: Sequence[str] = ()  # passed to gcloud as they are

    def arguments(self, name: str) -> list[str]:
        """Of `gcloud compute tpus queued-resources create`.

        Raises:
            NstError: no runtime is known for this type.
        """
        family = self.accelerator.rpartition("-")[0]
        if not re.fullmatch(r"[a-z0-9]+-\d+", self.accelerator) or not (self.runtime or family in RUNTIMES):
            raise NstError(
                "the type is a family and a number of cores or chips",
                got=self.accelerator,
                valid=", ".join(f"{known}-<n>" for known in RUNTIMES),
                next="for a newer family also give --runtime <version>",
            )
        if self.runtime and not re.fullmatch(r"[\w.-]+", self.runtime, re.ASCII):
            raise NstError("--runtime consists of letters, digits, dots and dashes", got=self.runtime)
        return [
            name,
            f"--node-id={name}",
            f"--accelerator-type={self.accelerator}",
            f"--runtime-version={self.runtime or RUNTIMES[family]}",
            *([f"--{self.tier}"] if self.tier in ("spot", "reserved") else []),
            f"--description={self.description()}",
            *self.flags,
        ]

    def description(self) -> str:
        return MADE_BY + json.dumps(asdict(self))

    @classmethod
    def of(cls, request: dict[str, Any]) -> Wish | None:
        """What a queued resource was asked for with; None where it was not by `create`."""
        text = node_of(request).get("description", "")
        return cls(**json.loads(text[len(MADE_BY) :])) if text.startswith(MADE_BY + "{") else None


def node_of(request: dict[str, Any]) -> dict[str, Any]:
    """The specification of the machines within a queued resource."""
    specifications = request.get("tpu", {}).get("nodeSpec") or [{}]
    return specifications[0].get("node", {})


def state_of(request: dict[str, Any]) -> str:
    return request.get("state", {}).get("state", "STATE_UNSPECIFIED")


def create(tpu: Tpu, wish: Wish) -> None:
    """Asks for a TPU, unless the same one has been asked for already.

    Raises:
        NstError: the name is taken by another TPU or by one that is over.
        CloudError: refused, or no connection in `ATTEMPTS` tries.
    """
    if wish.tier == "reserved" and not tpu.zone:
        raise NstError("a reservation belongs to a zone", next="--zone <zone> or NST_TPU_ZONE=<zone>")
    arguments = wish.arguments(tpu.name)
    attempt = 0
    while True:
        request = tpu.request()
        if request is not None:
            _check_same(tpu, request, wish)
            tpu.shell.say(f"{tpu.name}: asked for, {state_of(request)}")
            return
        if attempt == ATTEMPTS:
            raise CloudError("connection", f"TPU {tpu.name} could not be asked for", next="the same command again")
        done = tpu.once("queued-resources", "create", *arguments)
        if done.returncode == 0:
            tpu.shell.say(f"{tpu.name}: {wish.accelerator} ({wish.tier}) asked for")
            return
        fault = classify(done.returncode, done.stderr)
        if fault.kind not in ("connection", "exists"):
            raise fault.error(tpu.name, done.stderr)
        attempt += 1
        tpu.shell.say(f"no clear answer, attempt {attempt} of {ATTEMPTS}; looking whether the request was made")
        tpu.shell.pause(attempt - 1)


def _check_same(tpu: Tpu, request: dict[str, Any], wish: Wish) -> None:
    accelerator, state = node_of(request).get("acceleratorType"), state_of(request)
    if accelerator != wish.accelerator:
        raise NstError(
            f"there is a TPU named {tpu.name} already, of another type",
            got=accelerator,
            next=f"another name, or bin/tpu delete {tpu.name}",
        )
    if state not in (*WAITING, "ACTIVE"):
        raise ended(tpu, request)


def again(tpu: Tpu) -> str:
    return f"bin/tpu delete {tpu.name}, then create, setup and run again: a run continues from its run_dir"


def ended(tpu: Tpu, request: dict[str, Any]) -> CloudError:
    """Why a queued resource will never be active (again), in words."""
    state = state_of(request)
    if state in GONE:
        what = f"TPU {tpu.name} was preempted ({state}): its machines and their disks are gone"
        return CloudError("preempted", what, next=again(tpu))
    if state == "DELETING":
        return CloudError("deleted", f"TPU {tpu.name} is being deleted", next=f"bin/tpu status {tpu.name}")
    reason = str(request.get("state", {}).get("failedData", {}).get("error", {}).get("message", ""))
    fault = classify(1, reason)
    if fault.kind in ("quota", "capacity"):
        return fault.error(tpu.name, reason)
    return CloudError("failed", f"the request for TPU {tpu.name} is {state}", got=reason or None, next=again(tpu))


def wait(tpu: Tpu) -> None:
    """Until the TPU is there; every change of state is printed with the time.

    Raises:
        CloudError: the request failed, was deleted, or the TPU was preempted meanwhile.
    """
    last = ""
    tpu.shell.comment(f"until {tpu.name} is ACTIVE:")
    while True:
        request = tpu.request(assume={"state": {"state": "ACTIVE"}})
        if request is None:
            raise CloudError("missing", f"the request for TPU {tpu.name} was deleted while it waited")
        state = state_of(request)
        if state != last:
            tpu.shell.say(f"{time.strftime('%H:%M:%S')}  {state}")
        if state == "ACTIVE":
            return
        if state not in WAITING:
            raise ended(tpu, request)
        last = state
        tpu.shell.pause()


def delete(tpu: Tpu, *, sure: bool = False) -> None:
    """Deletes the queued resource and its machines, after a question; what is gone already is fine.

    Raises:
        NstError: not confirmed.
    """
    request, node = _settled(tpu), tpu.node(assume={})
    if request is None and node is None:
        tpu.shell.say(f"{tpu.name}: already gone")
        return
    about = node or node_of(request or {})
    if not (sure or tpu.shell.dry_run):
        _confirm(f"delete {tpu.name} ({about.get('acceleratorType', 'TPU')}) and all that lies on its disks?")
    if request is not None:
        _delete(tpu, "queued-resources", "--force")  # with its node: an active one is refused otherwise
    tpu.shell.comment("if machines are left without a request:")
    if tpu.node(assume={}) is not None:
        _delete(tpu, "tpu-vm")
    tpu.shell.say(f"{tpu.name}: deleted")


def _settled(tpu: Tpu) -> dict[str, Any] | None:
    """The request, once it is not on its way out: until then it cannot be deleted."""
    while True:
        request = tpu.request(assume={})
        if request is None or state_of(request) not in ("SUSPENDING", "DELETING"):
            return request
        tpu.shell.say(f"{tpu.name}: waiting for the end of {state_of(request)}")
        tpu.shell.pause()


def _delete(tpu: Tpu, group: str, *flags: str) -> None:
    try:
        tpu.call(group, "delete", tpu.name, *flags)
    except CloudError as error:
        if error.kind != "missing":  # somebody else, or a try whose answer was lost
            raise


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise NstError("deleting asks first, and nobody is there to answer", next="--yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise NstError("nothing was deleted")
