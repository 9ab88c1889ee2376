"""`nst <stage> [hydra overrides]`: the one entry point for all stages; also `python -m nst`.

A single run composes its configuration and calls the stage in this process; a sweep (`-m`) goes through Hydra's
sweeper and our launcher, which gives every job a process, a directory and a W&B run of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import re
import select
import shutil
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from nst.advice import note_command, whole
from nst.errors import NO_ROOM, NstError, Preempted, Terminated, UsageError, in_a_line, nearest, room_for
from nst.faults import in_words
from nst.machine import keep_freed_memory
from nst.sharing import is_rank_zero
from nst.shown import shown
from nst.stage_table import STAGES

READER_GONE = 141  # as a shell reports a process that SIGPIPE has ended
DEAF_S = 10  # after the first SIGTERM: it comes twice where it goes to all processes and a sweep passes it on
_ended: list[float] = []  # when this command was told to end, or had ended by itself

USAGE = """Noisy Student Training.

usage: nst <stage> [option=value ...]    run a stage
       nst <stage> -m option=a,b ...     sweep: a process and directory per job
       nst <stage> --help                options and configuration groups
       nst <stage> --help <group>        options inside a group or a part of it
       nst <stage> --cfg                 print the configuration and stop
       eval "$(nst --completion bash)"   completion in this shell; or zsh

stages:
{stages}

start here: nst iterate experiment=digits_demo"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0 on success, 1 on a mistake or fault (told without a traceback), 2 where there is no
    such stage, option or choice, 3 where the directory holds a run with other inputs."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.excepthook = _traceback
    _end_as_by_ctrl_c()
    before_torch()
    try:
        code, fault = _outcome(arguments)
        _ended.append(time.monotonic())
    except BaseException as error:
        _release(in_a_line(error))
        raise
    if fault:
        print(_wrapped(f"nst: {_host()}{fault}"), file=sys.stderr)
    _release(None if code in (0, Preempted.exit_code) else fault.partition("\n")[0] or f"exit code {code}")
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C while Python ends says nothing
    sys.exit(code)


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed any more, as behind `nst train --help | head`."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    if not any(events & select.POLLERR for _, events in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more as it ends
    return True


def _wrapped(fault: str) -> str:
    """A fault in lines of a terminal that end between words; commands stay on a line, and files as they are."""
    if not sys.stderr.isatty():
        return fault
    columns = shutil.get_terminal_size().columns
    return "\n".join(
        line if re.search(r"\bnst [a-z]", line) else textwrap.fill(
            line, columns, subsequent_indent=" " * (9 if line.startswith("  ") else 5),
            break_long_words=False, break_on_hyphens=False, drop_whitespace=True, replace_whitespace=False,
        )
        for line in fault.split("\n")
    )  # fmt: skip


def before_torch() -> None:
    """Set before torch loads OpenMP: threads that wait spin for a moment, then sleep. Spinning on starves the loader
    processes of busy cores, sleeping at once costs a step of an idle machine 1.6 times its time."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def module_of(stage: str) -> Any:
    """The stage's module, with what it needs and no more."""
    name = f"nst.stages.{stage}"
    if name in sys.modules:
        return sys.modules[name]
    with _nothing_thrown_away():
        if STAGES[stage].torch:
            keep_freed_memory()
            importlib.import_module("nst.lean")
        return importlib.import_module(name)


@contextlib.contextmanager
def _nothing_thrown_away() -> Iterator[None]:
    """While modules load: all they bring stays, and to look through it for garbage again and again takes a fifth of
    the time. Later looks pass over it too."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def _outcome(arguments: list[str]) -> tuple[int, str]:
    """The exit code, and a mistake or fault in words."""
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
        return code, ""
    except NstError as error:
        return error.exit_code, _told(error)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return READER_GONE, ""
    except OSError as error:
        return 1, _file_error(error)
    except RuntimeError as error:
        fault = in_words(error, arguments[0])
        if fault is None:
            raise
        return fault.exit_code, _told(fault)
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except SystemExit as end:
        # Lightning catches a Ctrl-C itself, shuts down, and then leaves as if something had failed
        if isinstance(end.__context__, KeyboardInterrupt):
            return _stopped(end.__context__)
        raise


def _stopped(by: KeyboardInterrupt) -> tuple[int, str]:
    if isinstance(by, Terminated):  # of all ranks one says so
        return by.exit_code, "stopped (SIGTERM); the same command continues" if is_rank_zero() else ""
    print(file=sys.stderr)
    return 130, "stopped; the same command continues"


def _end_as_by_ctrl_c() -> None:
    """Lets SIGTERM end this command as Ctrl-C does, wherever a training or an evaluation does not hear it itself."""
    own = os.getpid()

    def end(number: int, _: object) -> None:
        # a loader or another process that was forked from this one; or one that does not come to its end
        if os.getpid() != own or (_ended and time.monotonic() > _ended[0] + DEAF_S):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not _ended:
            _ended.append(time.monotonic())
            raise Terminated

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _told(error: NstError) -> str:
    """The error's sentence, with commands that can be typed as they stand."""
    before, label, advice = str(error).rpartition("\n  next:  ")
    return shown(before + label + whole(advice)) if label else advice


def _traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody has foreseen, without the secrets of addresses that libraries put into their messages."""
    sys.stderr.write(shown("".join(traceback.format_exception(kind, error, trace))))


def _release(fault: str | None) -> None:
    """Tells the other hosts how this one ends, where several may wait for each other; None: as all do."""
    if lifeline := sys.modules.get("nst.xla.lifeline"):
        lifeline.release(fault)


def _host() -> str:
    """Which of several hosts is speaking; their outputs meet in one log."""
    number = os.environ.get("NODE_RANK")
    return f"host {number}: " if number else ""


def _file_error(error: OSError) -> str:
    """A full disk, or a path that cannot be used, in a sentence; any other fault is raised again."""
    if error.errno in NO_ROOM:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}\n  next:  {room_for(error, '.')}; the same command continues"
    if error.filename is None:
        raise error  # no path that a user could mend
    return f"{error.strerror}: {error.filename}\n  next:  check the path and who may read and write it"


def dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from nst.help import table

        print(USAGE.format(stages=table({name: record.does for name, record in STAGES.items()})))
        return 0 if arguments else UsageError.exit_code
    if arguments[0] in ("--completion", "--complete"):
        return _complete(arguments)
    if arguments[0] == "--version":
        from nst import __version__

        print(__version__)
        return 0
    stage, options = arguments[0], arguments[1:]
    if stage not in STAGES:
        raise UsageError(f"unknown stage '{stage}'{nearest(stage, STAGES)}", valid=", ".join(STAGES), next="nst --help")
    note_command(arguments)
    if not {"-h", "--help", "--cfg"} & set(options) and "hydra" not in sys.modules and is_rank_zero():
        print(f"nst {stage}: loading", file=sys.stderr, flush=True)  # which takes seconds
    if "-h" in options or "--help" in options:
        from nst.help import group_help, stage_help

        asked = [item for item in options if not item.startswith("-") and "=" not in item]
        print(group_help(stage, asked[0]) if asked else stage_help(stage))
        return 0
    from nst.flags import flags_as_options

    overrides = flags_as_options(stage, options)
    if {"-m", "--multirun"} & set(options):
        from nst.launcher import sweep

        return sweep(stage, overrides)
    return run_stage(stage, overrides, show_only="--cfg" in options)


def _complete(arguments: list[str]) -> int:
    """What a shell asks for: the script once, then at each key press the words that can follow the line."""
    from nst.completion import candidates, script

    text = arguments[1] if len(arguments) > 1 else ""
    print(script(text) if arguments[0] == "--completion" else "\n".join(candidates(text)))
    return 0


def run_stage(stage: str, overrides: list[str], *, show_only: bool = False) -> int:
    from nst.config import compose_config
    from nst.progress import say
    from nst.stages.inherited import silent, with_what_the_run_knows

    try:
        config = compose_config([*overrides, f"stage={stage}"])
        config.overrides = list(overrides)
        config = with_what_the_run_knows(config, stage, tell=silent if show_only else say)
    except UsageError as error:
        if is_rank_zero():
            raise
        return error.exit_code  # all ranks have the same options, and one of them says what is wrong
    if show_only:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config))
        return 0
    if config.trainer.accelerator == "xla" and not STAGES[stage].at_a_desk:
        from nst.xla.environment import announce_host

        announce_host(config.trainer.device, config.trainer.many_hosts)
    if STAGES[stage].together and config.trainer.get("many_hosts", True) and not _by_ray(stage, config):
        module_of(stage)
        from nst.stages.resolving import machine_from

        machine_from(config).agreed(None)  # that all are there: whoever fails from here on ends the others
    module_of(stage).main(config)
    return 0


def _by_ray(stage: str, config: Any) -> bool:
    """Whether others compute, and the `trainer` is of their machines."""
    return stage == "label" and config.label.engine == "ray"
