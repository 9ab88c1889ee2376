"""gcloud's messages in our words: a table from patterns in its stderr to a sentence and the next command.

Only a fault of kind `connection` is worth trying again. Everything else in the table needs a person, and saying so at
once is kinder than five tries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nst.errors import NstError

SSH_DROPPED = 255  # exit code of ssh itself; a remote command's own code is passed through


class CloudError(NstError):
    """A fault that gcloud reported; `kind` is the row of the table."""

    def __init__(self, kind: str, what: str, *, got: object = None, next: str | None = None) -> None:
        super().__init__(what, got=got, next=next)
        self.kind = kind


@dataclass(frozen=True)
class Fault:
    kind: str
    pattern: str
    what: str
    next: str

    def error(self, name: str, message: str) -> CloudError:
        """The exception to raise about the TPU `name`, with the last lines of what gcloud said."""
        said = "\n         ".join([line for line in message.strip().splitlines() if line.strip()][-4:])
        return CloudError(self.kind, self.what.format(name=name), got=said or None, next=self.next.format(name=name))


# the first row that matches counts
FAULTS = (
    Fault(
        "preempted",
        r'terminal state "?(PREEMPTED|TERMINATED)',
        "TPU {name} was preempted: its machines and what lay on their disks are gone",
        "bin/tpu delete {name}, then create, setup and run again: a run continues from its run_dir",
    ),
    Fault(
        "key",
        r"SSH Key is not present in the SSH agent",
        "gcloud reaches several workers at once only with its key in the ssh agent",
        'eval "$(ssh-agent)"; ssh-add ~/.ssh/google_compute_engine',
    ),
    Fault(
        "login",
        r"gcloud auth login|UNAUTHENTICATED|Reauthentication|active account",
        "gcloud is not logged in",
        "gcloud auth login",
    ),
    Fault(
        "project",
        r"\[project\]|project property",
        "no Google Cloud project was named",
        "--project <project>, NST_TPU_PROJECT=<project> or gcloud config set project <project>",
    ),
    Fault(
        "zone",
        r"\[zone\]",
        "no zone was named",
        "--zone <zone>, NST_TPU_ZONE=<zone> or gcloud config set compute/zone <zone>",
    ),
    Fault(
        "disabled",
        r"SERVICE_DISABLED|has not been used in project|API .{0,60}not enabled",
        "the Cloud TPU API is off in this project",
        "gcloud services enable tpu.googleapis.com",
    ),
    Fault(
        "connection",  # a limit on questions per minute, not on TPUs
        r"RATE_LIMIT_EXCEEDED|quota metric .{0,200}per minute",
        "Google Cloud answers no more questions for a minute",
        "the same command again, in a minute",
    ),
    Fault(
        "quota",
        r"quota.{0,160}(exceed|exhaust|limit)|(exceed|exhaust).{0,160}quota",
        "the project's quota for this type of TPU in this zone is used up (or was never granted)",
        "gcloud compute tpus queued-resources list: FAILED and SUSPENDED ones count until deleted (bin/tpu delete); "
        "spot has a quota of its own (--spot); more of it: console, IAM & Admin, Quotas",
    ),
    Fault(
        "capacity",
        r"no more capacity|Insufficient .{0,20}capacity|stockout|RESOURCE_EXHAUSTED",
        "the zone has no TPU of this type free",
        "another --zone, a smaller --type, --spot, or the same command later",
    ),
    Fault(
        "forbidden",
        r"PERMISSION_DENIED|does not have permission|\b403\b",
        "this account may not do that in the project",
        "ask for the role TPU Admin (roles/tpu.admin), and Service Account User (roles/iam.serviceAccountUser) to "
        "create TPUs",
    ),
    Fault(
        "exists",
        r"ALREADY_EXISTS|already exists",
        "there is a TPU named {name} already",
        "bin/tpu status {name}",
    ),
    Fault(
        "missing",
        r"NOT_FOUND|was not found|\b404\b",
        "there is no TPU named {name} in this project and zone",
        "bin/tpu create {name} --type <type>, or another --zone or --project",
    ),
    Fault(
        "invalid",
        r"INVALID_ARGUMENT|unrecognized arguments|argument --",
        "Google Cloud does not accept the request",
        "types of a zone: gcloud compute tpus accelerator-types list --zone=<zone>",
    ),
    Fault(
        "connection",
        r"return code \[255\]|timed? ?out|connection (reset|refused|closed|aborted)|broken pipe|unreachable|"
        r"UNAVAILABLE|DEADLINE_EXCEEDED|(?-i:INTERNAL)|\b50[0234]\b|name resolution|Could not resolve|"
        r"problem refreshing|Unable to connect|Max retries",
        "TPU {name} or Google Cloud could not be reached",
        "bin/tpu status {name}: what was started there goes on without this computer",
    ),
)
OTHER = Fault("other", "", "gcloud failed", "bin/tpu status {name}")
CONNECTION = FAULTS[-1]


def classify(code: int, message: str) -> Fault:
    """The row that fits a failed command's exit code and stderr."""
    for fault in FAULTS:
        if re.search(fault.pattern, message, re.IGNORECASE | re.DOTALL):
            return fault
    return CONNECTION if code == SSH_DROPPED else OTHER
