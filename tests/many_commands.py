"""Many commands in turn in one process: `python -m tests.many_commands <file of commands> <file of outcomes>`.

For commands that are refused before anything starts, which would take longer to fork than to run. The first file is a
JSON list of [arguments, folder]; every outcome, [exit code, what was said], is a line of JSON in the second. Where a
command takes longer than LIMIT_S, or ends the process, its line is missing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from nst.forkserver import exit_code
from tests import composing

LIMIT_S = 20


def outcome(arguments: list[str], folder: str) -> tuple[int, str]:
    """Exit code and merged output of a command, as of a process of its own."""
    before = dict(os.environ)
    os.chdir(folder)
    sys.argv = ["nst", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(said.fileno(), number)
        signal.alarm(LIMIT_S)
        code = exit_code(arguments)
        signal.alarm(0)
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(before)
        said.seek(0)
        return code, said.read()


def main(commands: Path, outcomes: Path) -> None:
    composing.start()
    with open(outcomes, "w") as file:
        for arguments, folder in json.loads(commands.read_text()):
            print(json.dumps(outcome(arguments, folder)), file=file, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
