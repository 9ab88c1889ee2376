"""The one exception a user is meant to read: what is wrong, what was found, what is valid, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NstError(Exception):
    """A mistake in the input or a fault of the machine, said in plain words; the command line prints it without
    a traceback and exits with 1.

    Args:
        what: one sentence that names the thing that is wrong.
        got: what was found instead.
        valid: what would have been accepted.
        next: the command or option that helps.
    """

    def __init__(self, what: str, *, got: object = None, valid: object = None, next: str | None = None) -> None:
        lines = [what]
        if got is not None:
            lines.append(f"  got:   {got}")
        if valid is not None:
            lines.append(f"  valid: {valid}")
        if next is not None:
            lines.append(f"  next:  {next}")
        super().__init__("\n".join(lines))


def require_choice(what: str, got: str, valid: Iterable[str]) -> None:
    """Raises NstError, which names the nearest choice, unless `got` is one of `valid`."""
    names = list(valid)
    if got not in names:
        raise NstError(f"unknown {what}{nearest(got, names)}", got=got, valid=", ".join(names))


def nearest(name: str, valid: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the closest of `valid` to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ""
