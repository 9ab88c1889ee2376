"""What `nst doctor` has found, as the terminal shows it."""

from __future__ import annotations

import textwrap

from nst.doctor.rules import Finding

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
