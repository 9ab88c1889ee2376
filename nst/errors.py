"""The one exception a user is meant to read: what is wrong, what was found, what is valid, what to do next."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from nst.shown import shown

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, quota or limit on file sizes says


def room_for(error: OSError, place: str) -> str:
    """What helps where a file could not be written."""
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of a file (ulimit -f shows it), or take a file system that has larger ones"
    return f"make room: df -h {place}"


class NstError(Exception):
    """A mistake in the input or a fault of the machine, said in plain words; the command line prints it without
    a traceback and exits with 1. Secrets of addresses are left out of it (`nst.shown`).

    Args:
        what: one sentence that names the thing that is wrong.
        got: what was found instead.
        valid: what would have been accepted.
        next: the command or option that helps.

    The attributes of the same names hold them as text, None where nothing was given.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: object = None, valid: object = None, next: str | None = None) -> None:
        given = {"got": got, "valid": valid, "next": next}
        self.what = shown(what)
        self.got, self.valid, self.next = (None if part is None else shown(str(part)) for part in given.values())
        lines = [f"  {name + ':':<6} {part}" for name, part in given.items() if part is not None]
        super().__init__(shown("\n".join([what, *lines])))


class UsageError(NstError):
    """There is no such stage, option or choice, or none of such a value; whoever restarts failed jobs need not try
    again."""

    exit_code = 2


class OtherInputs(NstError):
    """The directory holds a run with other inputs: the same command fails again, and another directory helps, or
    overwriting."""

    exit_code = 3


class Preempted(NstError):
    """The machine is about to be taken away (SIGTERM); what was done so far is kept and will be continued."""

    exit_code = 143  # as a shell reports a process that SIGTERM has ended: whoever restarts preempted jobs knows it


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing notes it for a later step: it ends a command as Ctrl-C does."""

    exit_code = Preempted.exit_code


def in_a_line(error: BaseException) -> str:
    """The error in one line, for places that show no more."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    if isinstance(error, NstError):
        return error.what.partition("\n")[0]
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def require_choice(what: str, got: str, valid: Iterable[str]) -> None:
    """Raises UsageError, which names the nearest choice, unless `got` is one of `valid`."""
    names = list(valid)
    if got not in names:
        raise UsageError(f"unknown {what}{nearest(got, names)}", got=got, valid=", ".join(names))


def nearest(name: str, valid: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the closest of `valid` to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ""


def nearest_option(name: str, valid: Iterable[str]) -> str:
    """The same for names with points, of which the last part counts most: `steps` is `student.steps`, and
    `student.optimizer.lr` not `student.optimizer`."""
    around, _, own = name.rpartition(".")
    found: list[tuple[float, int, str]] = []
    for each in valid:
        group, _, last = each.rpartition(".")
        alike, near = (difflib.SequenceMatcher(None, *pair).ratio() for pair in ((own, last), (around, group)))
        if alike >= 0.75 and (near >= 0.5 or not around):
            found.append((-alike - near, len(each), each))
    return f", did you mean '{min(found)[2]}'?" if found else ""


def nearest_few(name: str, valid: Iterable[str]) -> str:
    """`, did you mean 'x', 'y' or 'z'?`: up to three, those first that begin with `name`; or an empty string."""
    names = list(valid)
    begun = [each for each in names if each.startswith(name)] if len(name) > 2 else []
    found = list(dict.fromkeys([*begun[:3], *difflib.get_close_matches(name, names, n=3, cutoff=0.5)]))[:3]
    quoted = [f"'{each}'" for each in found]
    return f", did you mean {' or '.join(filter(None, [', '.join(quoted[:-1]), quoted[-1]]))}?" if quoted else ""
