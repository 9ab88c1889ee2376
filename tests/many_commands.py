"""Many commands in turn in one process: `python -m tests.many_commands <file of commands> <file of outcomes>`.

For commands that are refused before anything starts, which would take longer to fork than to run. The first file is a
JSON list of [arguments, folder]; every outcome, [exit code, what was said], is a line of JSON in the second. Where a
command takes longer than LIMIT_S, or ends the process, its line is missing. Options are composed by Hydra's own steps;
those that no option changes are done once for each choice of groups.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import omegaconf.base
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from nst import cli, config

LIMIT_S = 20
_groups = functools.cache(config.groups)


@functools.cache
def _of_choices(name: str, choices: tuple[str, ...]) -> bytes:
    return pickle.dumps(compose(name, overrides=list(choices)))  # read again it is a copy, sooner than by copy.deepcopy


def composed(name: str, overrides: Sequence[str] = (), **more: Any) -> DictConfig:
    """What Hydra composes. What it would refuse is left to itself."""
    choices = tuple(item for item in overrides if item.partition("=")[0] in _groups())
    try:
        found = pickle.loads(_of_choices(name, choices))
        options = OverridesParser.create().parse_overrides([item for item in overrides if item not in choices])
        if not more.get("return_hydra_config") and not any(option.is_sweep_override() for option in options):
            ConfigLoaderImpl._apply_overrides_to_config(options, found)
            return found
    except Exception:
        pass
    return compose(name, overrides=list(overrides), **more)


def outcome(arguments: list[str], folder: str) -> tuple[int, str]:
    """Exit code and merged output of a command, as of a process of its own."""
    before, code = dict(os.environ), 0
    os.chdir(folder)
    sys.argv = ["nst", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(said.fileno(), number)
        signal.alarm(LIMIT_S)
        try:
            cli.main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
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
    config.compose = composed  # type: ignore[attr-defined]
    omegaconf.base.parse = functools.cache(omegaconf.base.parse)  # of interpolations, which are the same in all
    with open(outcomes, "w") as file:
        for arguments, folder in json.loads(commands.read_text()):
            print(json.dumps(outcome(arguments, folder)), file=file, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
