"""Staying with a job: its log as it grows, and starting it again after a failure or a preemption.

Starting again is decided here, in one place outside the pod, never by a worker alone. A process that came back by
itself would meet peers of the old attempt and wait for them for ever. nst continues from its last checkpoint, so
starting again loses minutes, and the number of times is bounded by the user.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nst.cloud import queue
from nst.cloud.deploy import COMMIT, CodeSource, committed, git, setup
from nst.cloud.gcloud import Tpu
from nst.cloud.jobs import CloudJob, check, start, stop
from nst.cloud.refusals import CloudError
from nst.cloud.workers import State, Workers, numbers
from nst.errors import NstError, OtherInputs, UsageError

LOOKS_PER_ROUND = 6  # worker 0's log is read at every look, the state of all workers once a round
PATIENCE = 30  # looks in a row that may fail: this computer may be offline for a while, the job is not
# there is no such option, or another run in the directory: trying again does not help
USAGE = {str(error.exit_code) for error in (UsageError, OtherInputs)}
GONE = ("preempted", "failed")  # machines that do not come back; deleted ones (`missing`) somebody wanted gone
RESTARTABLE = ("job", *GONE)
Result = TypeVar("Result")
COMPILES = (
    "every start compiles before its first step, for minutes (B0) or up to half an hour (L2), on all hosts at once; "
    "what bin/nst plan says of it adds to each start"
)
ENDED = f"ended 0 {COMMIT} launch -"


def follow(tpu: Tpu, worker: int, lines: int) -> None:
    """A worker's log as it grows, until the job ends there."""
    workers = Workers(tpu)
    text, end, state = workers.look(worker, "log", lines=lines, assume=ENDED)
    _show(text)
    tpu.shell.comment("and so on, until the job has ended")
    launch = state.launch
    while (state.name == "running" or text) and state.launch == launch:
        tpu.shell.pause()
        text, end, state = workers.look(worker, "log", start=end)
        _show(text)
    tpu.shell.say(f"{numbers([worker])}: {state}")


def run(tpu: Tpu, job: CloudJob, *, follows: bool, restarts: int, folder: Path) -> None:
    """Starts a job and, if asked to, stays until it has ended.

    Raises:
        NstError: it could not start, or failed once more than `restarts` times.
    """
    workers = Workers(tpu)
    job.require_trainer(None if tpu.shell.dry_run else workers.count)
    commit = check(tpu, workers)
    source = _same_source(tpu, commit, folder) if restarts else None
    launch = start(tpu, workers, job, commit)
    if source is not None:
        _stay(tpu, job, launch, commit, source, restarts)
    elif follows:
        _until_finished(workers, launch)
    else:
        tpu.shell.say(f"next: bin/tpu logs {tpu.name} --follow, or bin/tpu status {tpu.name}")
        if workers.count > 1:
            tpu.shell.say("if one host fails, the others end too, and are billed until bin/tpu delete (--restart N)")


def _same_source(tpu: Tpu, commit: str, folder: Path) -> CodeSource:
    """The code that runs now, to set up new machines with after a preemption."""
    here = git(tpu.shell, "rev-parse", "HEAD", assume=commit)
    if here != commit:
        raise NstError(
            "--restart sets up new machines with the commit that is here, and the TPU has another",
            got=f"{here[:12]} here, {commit[:12]} on {tpu.name}",
            next=f"git checkout {commit[:12]}, or bin/tpu setup {tpu.name}",
        )
    return committed(tpu.shell, folder)


def _stay(tpu: Tpu, job: CloudJob, launch: str, commit: str, source: CodeSource, restarts: int) -> None:
    """Watches the job, and starts it again up to `restarts` times."""
    tpu.shell.say(f"if the job fails, it is started again, up to {restarts} times: this computer has to stay on")
    tpu.shell.say(COMPILES)
    failure: CloudError | None = None
    request = tpu.request(assume={})
    wish = queue.Wish.of(request) if request is not None else None
    while True:
        try:
            if failure is not None and failure.kind in GONE:
                _anew(tpu, source, wish)
            if failure is not None:
                launch = _patiently(tpu, lambda: _start_again(tpu, job, commit))
            _until_finished(Workers(tpu), launch)
            break
        except CloudError as error:
            if error.kind not in RESTARTABLE or not restarts:
                raise
            failure, restarts = error, restarts - 1
            tpu.shell.say(f"{failure}\nstarting again; {restarts} more times after this one")
    if tpu.shell.dry_run:
        tpu.shell.comment("after a failure: this, then the launch under a new name")
        stop(tpu, Workers(tpu))
        tpu.shell.comment("after a preemption: this, then create with the same flags, setup and the launch")
        queue.delete(tpu, sure=True)


def _start_again(tpu: Tpu, job: CloudJob, commit: str) -> str:
    workers = Workers(tpu)
    stop(tpu, workers)  # peers that still wait for the ones that failed
    return start(tpu, workers, job, commit)


def _patiently(tpu: Tpu, step: Callable[[], Result]) -> Result:
    """`step()`, which may run twice, again while Google Cloud cannot be reached, `PATIENCE` times.

    Raises:
        CloudError: of kind `connection` after that; any other at once.
    """
    for _ in range(PATIENCE):
        try:
            return step()
        except CloudError as error:
            if error.kind != "connection":
                raise
            tpu.shell.say("no connection to Google Cloud; trying again")
        tpu.shell.pause()
    return step()


def _until_finished(workers: Workers, launch: str) -> None:
    """Prints worker 0's log until the job has ended on every worker.

    A failure is told at the round after it was seen, by when the others have failed too or wait in vain.

    Raises:
        CloudError: `job`, it failed somewhere; or as `Workers.look`.
    """
    tpu, end, failed = workers.tpu, 0, False
    looks = misses = 0
    while True:
        try:
            text, end, state = workers.look(0, "log", start=end, assume=ENDED)
            _show(text)
            looks += 1
            ended = state.name != "running" and not text
            if ended or failed or looks % LOOKS_PER_ROUND == 0:
                states = workers.states(assume=ENDED)
                running = [number for number, other in states.items() if other.name == "running"]
                if failed or not running:
                    return _judge(tpu, states, launch)
                failed = any(other.failed for other in states.values())
            misses = 0
        except CloudError as error:
            misses += 1
            if error.kind != "connection" or misses > PATIENCE:
                raise
            tpu.shell.say("no connection to the TPU; the job does not need it, looking again")
        tpu.shell.pause()


def _judge(tpu: Tpu, states: dict[int, State], launch: str) -> None:
    """Raises CloudError unless the launch finished on every worker."""
    if any(state.launch != launch for state in states.values()) and not tpu.shell.dry_run:
        raise CloudError("other", f"another job was started on {tpu.name} meanwhile", next=f"bin/tpu status {tpu.name}")
    bad = {number: state for number, state in states.items() if state.failed}
    if bad:
        first = min(bad)
        codes = {state.code for state in bad.values()}
        kind = "usage" if USAGE & codes else "stopped" if "stopped" in codes else "job"
        log = f"bin/tpu logs {tpu.name} --worker {first}"
        waiting = [number for number, state in states.items() if state.name == "running"]
        hint = f"{log}; {numbers(waiting)} will end within minutes, or by bin/tpu stop {tpu.name}" if waiting else log
        raise CloudError(kind, f"{tpu.name}: {numbers(bad)} {bad[first]}", next=hint)
    tpu.shell.say(f"{tpu.name}: finished on {numbers(states)}")


def _anew(tpu: Tpu, source: CodeSource, wish: queue.Wish | None) -> None:
    """The same TPU again, as it was asked for, with code and environment.

    Raises:
        NstError: it was not asked for by `create`, or cannot be had now.
    """
    if wish is None:
        raise NstError(f"how TPU {tpu.name} was asked for is not known", next=queue.again(tpu))
    # one by one: a machine that was had once is not given back because the network failed during its setup
    _patiently(tpu, lambda: queue.delete(tpu, sure=True))
    _patiently(tpu, lambda: queue.create(tpu, wish))
    _patiently(tpu, lambda: queue.wait(tpu))
    _patiently(tpu, lambda: setup(tpu, source))


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
