"""`bin/tpu <command> <name>`: the command line, and nothing else."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from nst.cloud import jobs, queue, watch
from nst.cloud.deploy import CodeSource, committed, setup
from nst.cloud.gcloud import ROUTES, Shell, Tpu
from nst.cloud.workers import Workers
from nst.errors import NstError, require_choice

EPILOG = """environment:
  NST_TPU_ZONE, NST_TPU_PROJECT  where --zone and --project are not given; else gcloud's own configuration
  NST_TPU_ROUTE                  internal-ip or tunnel-through-iap, where neither flag is given
  NST_TPU_TORCH_INDEX            address of an index with torch for CPUs, for setup: no CUDA libraries then
  NST_TPU_POLL_S                 seconds between two looks, and the first back-off (10)

--dry-run prints every command instead of running it. docs/tpu.md shows the way from nothing to a training."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        passed_on = "unrecognized" in message
        hint = "bin/tpu run <name> -- train ...: what is passed on stands behind --" if passed_on else None
        raise NstError(message, next=hint or f"{self.prog} --help")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}")
        return int(text)

    return number


def parser() -> argparse.ArgumentParser:
    """The command line; what stands behind `--` is taken off before."""
    common = _Parser(add_help=False)
    common.add_argument("name", help="the TPU's name, of your choice")
    common.add_argument("--zone", default=os.environ.get("NST_TPU_ZONE"))
    common.add_argument("--project", default=os.environ.get("NST_TPU_PROJECT"))
    common.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    top = _Parser(
        prog="bin/tpu",
        description="Noisy Student Training on Cloud TPUs, single hosts and pods.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    reaching = _Parser(add_help=False)
    route = reaching.add_mutually_exclusive_group()
    for flag, about in zip(ROUTES, ("from within the TPU's network", "by the Identity-Aware Proxy"), strict=True):
        route.add_argument(f"--{flag}", action="store_const", dest="route", const=flag, help=f"ssh {about}")
    reaching.set_defaults(route=os.environ.get("NST_TPU_ROUTE"))

    def add(
        name: str, help: str, run: Callable[[Tpu, argparse.Namespace, list[str]], None], *, reaches: bool = True
    ) -> _Parser:
        parents = [common, reaching] if reaches else [common]
        one = commands.add_parser(name, help=help, description=help, parents=parents)
        one.set_defaults(run=run)
        return one

    one = add("create", "ask for a TPU (a queued resource); flags behind -- go to gcloud", _create, reaches=False)
    one.add_argument("--type", required=True, help="v3-8, v3-2048, v4-8, v5litepod-16, v5p-128, v6e-256, ...")
    tier = one.add_mutually_exclusive_group()
    tier.add_argument("--spot", action="store_const", dest="tier", const="spot", help="cheap; may be taken away")
    tier.add_argument("--reserved", action="store_const", dest="tier", const="reserved", help="from a reservation")
    one.add_argument("--runtime", help="software of the machines (default: Google's choice for the type)")
    one.add_argument("--wait", action="store_true", help="until it is there")
    one.set_defaults(tier="on-demand")

    one = add("setup", "the committed code and its environment onto every worker", _setup)
    one.add_argument("--repo", help="a URL to fetch from, instead of this repository's HEAD")
    one.add_argument("--ref", default="HEAD", help="branch, tag or commit of --repo")

    one = add("run", "start nst on every worker: bin/tpu run <name> -- train trainer=tpu_pod ...", _run)
    one.add_argument("--follow", action="store_true", help="stay, and print worker 0's log")
    one.add_argument("--restart", type=_at_least(0), default=0, metavar="N", help="stay, and start again up to N times")
    one.add_argument(
        "--env", action="append", default=[], metavar="NAME[=value]", help="environment of the job; NAME alone: as here"
    )

    add("status", "the request, the machines, and what every worker is doing", lambda tpu, *_: jobs.status(tpu))
    one = add("logs", "the end of a worker's log", _logs)
    one.add_argument("--worker", type=_at_least(0), default=0)
    one.add_argument("--lines", type=_at_least(1), default=50)
    what = one.add_mutually_exclusive_group()
    what.add_argument("--follow", action="store_true", help="as it grows, until the job ends")
    what.add_argument("--setup", action="store_true", help="of the installation")
    add("stop", "end the job on every worker", lambda tpu, *_: jobs.stop(tpu, Workers(tpu)))
    delete = "delete the request and the machines"
    one = add("delete", delete, lambda tpu, options, _: queue.delete(tpu, sure=options.yes), reaches=False)
    one.add_argument("--yes", action="store_true", help="without asking")
    return top


def _create(tpu: Tpu, options: argparse.Namespace, flags: list[str]) -> None:
    queue.create(tpu, queue.Wish(options.type, options.tier, options.runtime, flags))
    if options.wait:
        queue.wait(tpu)
    tpu.shell.say(f"next: bin/tpu {'setup' if options.wait else 'status'} {tpu.name}")


def _setup(tpu: Tpu, options: argparse.Namespace, _: list[str]) -> None:
    with _folder(tpu) as folder:
        setup(tpu, CodeSource.repository(options.repo, options.ref) if options.repo else committed(tpu.shell, folder))


def _run(tpu: Tpu, options: argparse.Namespace, words: list[str]) -> None:
    job = jobs.CloudJob.parse(words, options.env)
    with _folder(tpu) as folder:
        watch.run(tpu, job, follows=options.follow, restarts=options.restart, folder=folder)


def _logs(tpu: Tpu, options: argparse.Namespace, _: list[str]) -> None:
    if options.follow:
        watch.follow(tpu, options.worker, options.lines)
    else:
        jobs.logs(tpu, options.worker, options.lines, setup=options.setup)


@contextlib.contextmanager
def _folder(tpu: Tpu) -> Iterator[Path]:
    """A place for the bundle; a dry run names one here and makes nothing."""
    if tpu.shell.dry_run:
        yield Path.cwd()
    else:
        with tempfile.TemporaryDirectory(prefix="nst-") as name:
            yield Path(name)


def dispatch(arguments: Sequence[str]) -> None:
    """Raises NstError for what is wrong with the command line, or went wrong."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    own, passed_on = words[:place], words[place + 1 :]
    options = parser().parse_args(own)
    if passed_on and options.command not in ("create", "run"):
        raise NstError(f"bin/tpu {options.command} takes no command behind --", got=" ".join(passed_on))
    if "--dry-run" in passed_on:
        raise NstError("--dry-run belongs before --", next=f"bin/tpu {options.command} {options.name} --dry-run -- ...")
    route = getattr(options, "route", None)
    if route is not None:
        require_choice("NST_TPU_ROUTE", route, ROUTES)
    options.run(Tpu(options.name, options.zone, options.project, Shell(options.dry_run), route), options, passed_on)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 on success, 1 on a mistake or fault, told without a traceback."""
    try:
        dispatch(sys.argv[1:] if arguments is None else arguments)
    except NstError as error:
        print(f"bin/tpu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbin/tpu: stopped looking; what was asked for or started goes on, and is billed", file=sys.stderr)
        return 130
    return 0
