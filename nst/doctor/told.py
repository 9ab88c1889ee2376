"""The findings of `nst doctor`, as the terminal shows them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from nst.doctor.facts import Situation
from nst.doctor.rules import RULES, Finding

WIDTH = 80


def described(finding: Finding) -> str:
    """A finding in at most 80 columns."""
    where = f" ({', '.join(finding.where)})" if finding.where else ""
    lines = [f"{finding.severity}: {finding.rule}{where}"]
    lines += wrapped(finding.message, "  ")
    if finding.next:
        lines += wrapped(f"next: {finding.next}", "  ", "        ")
    return "\n".join(lines)


def wrapped(text: str, first: str, later: str | None = None) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=first if later is None else later,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Examination:
    """What was found, and what was looked at."""

    findings: list[Finding]
    situation: Situation

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


def closing(examination: Examination) -> str:
    """How much was found, and what was looked at."""
    situation = examination.situation
    counts = [
        f"{number} {severity}{'s' if number > 1 else ''}"
        for severity in ("error", "warning", "note")
        if (number := examination.count(severity))
    ]
    names = ", ".join(situation.sets) or "none are there yet"
    looked = [f"{len(RULES)} rules", f"trainings: {len(situation.trainings)}", f"shard sets: {names}"]
    if situation.comparison is not None:
        looked.append(
            f"{situation.comparison.unlabeled:,} unlabeled images against {situation.comparison.test:,} test images"
        )
    return "\n".join(wrapped(f"{', '.join(counts) or 'nothing found'} ({'; '.join(looked)})", ""))
