"""The run directory: every stage writes one, and it tells the whole story of its result.

    config.yaml   what was asked for        checkpoints/  weights, and the state to continue from
    started.json  inputs' fingerprint       metrics.csv   step, metric, value
    result.json   what came out             DONE          the fingerprint again, written last
    wandb_id      of its W&B run, if any    .nst_files    the names of all these, see nst/written.py

A stage is identified by the *fingerprint* of its inputs (options that move numbers, and hashes of the files it reads).
Same fingerprint and DONE: skipped. Same fingerprint, no DONE: continued. Another fingerprint: refused, never mixed.
Only a start that came to nothing is replaced without a word, so that the mended command runs in its place.
Files are written beside their name, synced and renamed, so a reader (or the next attempt after a `kill -9`) never sees
half of one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from nst import by_hand, leftovers, occupied, written
from nst.atomic import write_config, write_json, write_text
from nst.documents import OLDER, damaged, fingerprint, read_json, way_on
from nst.errors import NstError
from nst.provenance import provenance
from nst.refused import differences, option_of, other_inputs
from nst.run_inputs import MOVE_NOTHING, identity
from nst.sharing import is_rank_zero, launcher_has_ended, take_lock, wait_until_seen

MARKS = ("started.json", "config.yaml", "result.json", "DONE", ".pulse")
# what a start that failed leaves: no result, and nothing to continue from
NO_RESULTS = frozenset({"started.json", "config.yaml", ".pulse", written.LIST})
WORTHLESS = re.compile(r"metrics\.csv|wandb_id|wandb/.*")  # rows of steps whose weights nobody has kept
STARTS_OVER = ("select", "shard")  # stages that go on from nothing that they left unfinished
ORPHANED_S = 5  # that a rank waits for files of a rank 0 that has ended


class Run:
    """One stage's directory. Use as a context manager: it holds the lock that keeps a second run out.

    Args:
        directory: where the run lives.
        stage: name of the stage, for messages.
        inputs: everything the result depends on, JSON-able; its fingerprint identifies the run.
        config: the composed configuration, kept as config.yaml for people.
        overwrite: delete a run with other inputs instead of refusing it; of what is there only what nst has written.
        files: names of what the stage will write besides, as far as they are known: none may be there of others.
        option: by which the command line names the directory; None: the stage's own.
        first: what has to succeed before a run with other inputs is deleted.
        collective: all processes of a distributed job do this stage together; otherwise rank 0 does it and the
            others wait for its DONE.
        patience: seconds that the others wait without a sign of life from rank 0, whose pulse is the file .pulse.

    Raises:
        NstError: the directory holds a run with other inputs, or files in the way that are not nst's; another process
            works in it, or rank 0 is gone.
    """

    def __init__(
        self,
        directory: Path | str,
        stage: str,
        inputs: Mapping[str, Any],
        *,
        config: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        collective: bool = False,
        files: Iterable[str] = (),
        option: str | None = None,
        first: Callable[[], object] = lambda: None,
        patience: float = 300,
    ) -> None:
        self.directory = Path(directory)
        self.files = (*MARKS, *files)
        self._option = option
        self.first = first
        self.patience = patience
        self.stage = stage
        self.inputs = identity(inputs)
        self.fingerprint = fingerprint(self.inputs)
        self.config = config
        self.overwrite = overwrite
        self.collective = collective
        self._lock: IO[str] | None = None
        self._left = threading.Event()
        self._pulse_thread = threading.Thread(target=self._beat, daemon=True)
        self._fresh = False  # this attempt is the first
        self._made: list[Path] = []  # the directory and those above it that it has made

    @cached_property
    def option(self) -> str:
        """By which the command line names the directory; only who is refused waits for it."""
        return self._option or option_of(self.stage, self.config or {}, self.directory)

    def __enter__(self) -> Run:
        if not is_rank_zero():
            # all together: what rank 0 finds and deletes here must not be seen by the others
            self._wait_for_rank_zero(self._opened if self.collective else None)
            return self
        written.require_free(self.directory, self.files, own=True)
        if not self.overwrite and occupied.by_iterate(self.directory):  # before there is a lock
            raise other_inputs(self.directory, self.stage, occupied.ITERATE, self.inputs, self.option)
        self._made = [each for each in (self.directory, *self.directory.parents) if not each.exists()]
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(
            self.directory, lambda: f"wait for it, or give this run a directory of its own: {self.option}=..."
        )
        try:
            self._refuse_other_inputs()
            written.begin(self.directory, *self.files, own=True)
            leftovers.sweep(self.directory, alone=True)  # of an attempt before this one
            if not self.started_path.exists():
                self._fresh = True
                write_json(
                    self.started_path,
                    {
                        "stage": self.stage,
                        "fingerprint": self.fingerprint,
                        "inputs": self.inputs,
                        **provenance(),
                    },
                )
            self._pulse_thread.start()
            if self.config is not None and not self.done:
                write_config(self.directory / "config.yaml", self.config)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        self._end_pulse()
        if self._lock is not None:
            if kind is not None and self._fresh:
                self._take_back()
            self._lock.close()
            self._lock = None

    def _end_pulse(self) -> None:
        self._left.set()
        if self._pulse_thread.is_alive():
            self._pulse_thread.join()  # it ends at once, and writes nothing into what is somebody else's from now on

    def _take_back(self) -> None:
        """Leaves nothing of a first start that failed before there was anything to keep or to look at."""
        found = written.FolderContents.of(self.directory)
        if found is None or not NO_RESULTS.issuperset(found.ours):
            return
        found.delete()
        if not found.others:
            (self.directory / ".lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody's file is in one of them
            for each in self._made:
                each.rmdir()

    @property
    def started_path(self) -> Path:
        return self.directory / "started.json"

    @property
    def done_path(self) -> Path:
        return self.directory / "DONE"

    @property
    def done(self) -> bool:
        """True when this very run (same fingerprint) has finished before, and its result has not been deleted."""
        return self._marked and (self.directory / "result.json").exists()

    @property
    def _marked(self) -> bool:
        """Whether DONE is this very run's."""
        try:
            return self.done_path.read_bytes().strip() == self.fingerprint.encode()
        except OSError:
            return False

    def result(self) -> dict[str, Any]:
        return read_json(wait_until_seen(self.directory / "result.json"))

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Writes result.json, then DONE; returns the result as it reads back."""
        if not is_rank_zero():
            self._wait_for_rank_zero()
            return self.result()
        leftovers.sweep(self.directory, alone=True)  # of what was killed meanwhile, a Ray task
        write_json(self.directory / "result.json", {"stage": self.stage, **result})
        write_text(self.done_path, self.fingerprint + "\n")
        return self.result()

    def _is_this(self, started: Mapping[str, Any]) -> bool:
        """Whether a run of these inputs has started here; what moves no result may differ, and then keeps its mark."""
        if started["fingerprint"] == self.fingerprint:
            return True
        if started["fingerprint"] is None or started["stage"] != self.stage:
            return False
        changed = {name for name, _ in differences(started["inputs"], self.inputs)}
        if changed <= MOVE_NOTHING:
            self.fingerprint = started["fingerprint"]
        return self.fingerprint == started["fingerprint"]

    def _beat(self) -> None:
        """Rank 0's pulse, for as long as it is in this stage. A counter and no time: clocks of hosts differ."""
        for beat in itertools.count():
            with contextlib.suppress(OSError):  # a directory that cannot be written ends the stage elsewhere
                (self.directory / ".pulse").write_text(f"{os.getpid()} {beat}")
            if self._left.wait(self.patience / 20):
                (self.directory / ".pulse").unlink(missing_ok=True)
                return

    def _opened(self) -> bool:
        """Whether rank 0 has begun this very run."""
        try:
            return self._is_this(read_json(self.started_path))
        except NstError:  # not there yet; one that is damaged rank 0 has words for
            return False

    def _wait_for_rank_zero(self, until: Callable[[], bool] | None = None) -> None:
        """Until rank 0 has written DONE, or `until`. It may be on another host, so what tells that it lives is its
        pulse; on one machine, where it launched this process, that it is gone shows within seconds."""
        pulse, since = "", time.monotonic()
        while not (until or (lambda: self._opened() and self.done))():
            now = self._pulse()
            if now != pulse:
                pulse, since = now, time.monotonic()
            # a disk of the network may show for a while longer what was there before rank 0 ended
            patience = min(self.patience, ORPHANED_S) if launcher_has_ended() else self.patience
            if time.monotonic() - since > patience:
                raise NstError(
                    f"rank 0 stopped before {self.directory} was finished",
                    got=f"no sign of it for {time.monotonic() - since:.0f} s",
                    next="see rank 0's own message, then start the job again",
                )
            time.sleep(0.2)

    def _pulse(self) -> str:
        try:
            return (self.directory / ".pulse").read_text()
        except OSError:
            return ""  # not there yet, or just being replaced

    def _refuse_other_inputs(self) -> None:
        started = self._started()
        if started is None or self._is_this(started):
            self._check_mark(started)
            return
        if not self.overwrite and not self._came_to_nothing(started):
            raise other_inputs(self.directory, self.stage, started, self.inputs, self.option)
        self._pulse_thread.start()  # it may take long
        self.first()
        self._end_pulse()
        self._left, self._pulse_thread = threading.Event(), threading.Thread(target=self._beat, daemon=True)
        occupied.make_way(self.directory, self.option)

    def _came_to_nothing(self, started: Mapping[str, Any]) -> bool:
        """Whether an unfinished run with other inputs has left nothing that this one would take from anybody."""
        found = by_hand.contents(self.directory)
        if found is None or found.others or self.done_path.exists() or (self.directory / "result.json").exists():
            return False
        left = [name for name in found.ours if name not in NO_RESULTS and not WORTHLESS.fullmatch(name)]
        return not left or started.get("stage") in STARTS_OVER

    def _started(self) -> Mapping[str, Any] | None:
        """What started.json says; None where there is none. What is to be overwritten may be damaged."""
        if not self.started_path.exists():
            return occupied.ITERATE if occupied.by_iterate(self.directory) else None
        if written.ours([self.started_path]):
            again = f"{way_on(self.started_path)}: it goes on; overwrite=true deletes this run and starts again"
        else:
            again = f"copy it again from where it is whole, or choose another {self.option}=...; {OLDER}"
        try:
            return read_json(self.started_path, next=again)
        except NstError:
            if not self.overwrite:
                raise
            return {"fingerprint": None}

    def _check_mark(self, started: Mapping[str, Any] | None) -> None:
        """Raises NstError where DONE is of another run than started.json, or is all that is left of another one."""
        if not self.done_path.exists() or self._marked:
            return
        if started is not None:
            raise damaged(self.done_path, "another fingerprint than in started.json")
        raise NstError(
            f"{self.directory} holds a finished run with other inputs, whose started.json is missing",
            next=f"the command that made it; or {shlex.join(['rm', str(self.done_path)])}, if that was this one",
        )
