"""The run directory: every stage writes one, and it tells the whole story of its result.

    config.yaml   what was asked for        checkpoints/  weights, and the state to continue from
    started.json  inputs' fingerprint       metrics.csv   step, metric, value
    result.json   what came out             DONE          the fingerprint again, written last
    wandb_id      of its W&B run, if any    .nst_files    the names of all these, see nst/written.py

A stage is identified by the *fingerprint* of its inputs (options that move numbers, and hashes of the files it reads).
Same fingerprint and DONE: skipped. Same fingerprint, no DONE: continued. Another fingerprint: refused, never mixed.
Files are written beside their name, synced and renamed, so a reader (or the next attempt after a `kill -9`) never sees
half of one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from nst import leftovers, written
from nst.atomic import write_config, write_json, write_text
from nst.documents import OLDER, as_json, damaged, fingerprint, read_json, way_on
from nst.errors import NstError
from nst.provenance import provenance
from nst.sharing import is_rank_zero, launcher_has_ended, take_lock, wait_until_seen
from nst.shown import kept

MARKS = ("started.json", "config.yaml", "result.json", "DONE", ".pulse")
# the option that names a stage's directory
OPTIONS = {
    "shard": "shard.output",
    "label": "teacher.predictions",
    "select": "teacher.selection",
    "evaluate": "evaluate.output",
    "export": "export.output",
}


ORPHANED_S = 5  # that a rank waits for files of a rank 0 that has ended


class Run:
    """One stage's directory. Use as a context manager: it holds the lock that keeps a second run out.

    Args:
        directory: where the run lives.
        stage: name of the stage, for messages.
        inputs: everything the result depends on, JSON-able; its fingerprint identifies the run.
        config: the composed configuration, kept as config.yaml for people.
        overwrite: delete a run of other inputs instead of refusing it; of what is there only what nst has written.
        files: names of what the stage will write besides, as far as they are known: none may be there of others.
        option: by which the command line names the directory; None: the stage's own.
        collective: all processes of a distributed job do this stage together; otherwise rank 0 does it and the
            others wait for its DONE.
        patience: seconds that the others wait without a sign of life from rank 0, whose pulse is the file .pulse.

    Raises:
        NstError: the directory holds a run of other inputs, or files in the way that are not nst's; another process
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
        patience: float = 300,
    ) -> None:
        self.directory = Path(directory)
        self.files = (*MARKS, *files)
        self.option = option or _option(stage, config or {}, self.directory)
        self.patience = patience
        self.stage = stage
        self.inputs = as_json(inputs)
        self.fingerprint = fingerprint(self.inputs)
        self.config = config
        self.overwrite = overwrite
        self.collective = collective
        self._lock: IO[str] | None = None
        self._left = threading.Event()

    def __enter__(self) -> Run:
        if not is_rank_zero():
            # all together: what rank 0 finds and deletes here must not be seen by the others
            self._wait_for_rank_zero(self._opened if self.collective else None)
            return self
        written.require_free(self.directory, self.files, own=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        try:
            self._refuse_other_inputs()
            written.begin(self.directory, *self.files, own=True)
            leftovers.sweep(self.directory, alone=True)  # of an attempt before this one
            if not self.started_path.exists():
                write_json(
                    self.started_path,
                    {
                        "stage": self.stage,
                        "fingerprint": self.fingerprint,
                        "inputs": self.inputs,
                        **provenance(),
                    },
                )
            threading.Thread(target=self._beat, daemon=True).start()
            if self.config is not None and not self.done:
                write_config(self.directory / "config.yaml", yaml.safe_dump(kept(dict(self.config)), sort_keys=False))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._left.set()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

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
            return read_json(self.started_path)["fingerprint"] == self.fingerprint
        except NstError:  # not there yet; one that is damaged rank 0 has words for
            return False

    def _wait_for_rank_zero(self, until: Callable[[], bool] | None = None) -> None:
        """Until rank 0 has written DONE, or `until`. It may be on another host, so what tells that it lives is its
        pulse; on one machine, where it launched this process, that it is gone shows within seconds."""
        pulse, since = "", time.monotonic()
        while not (until or (lambda: self.done))():
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

    def _acquire_lock(self) -> None:
        self._lock = take_lock(
            self.directory, f"wait for it, or give this run a directory of its own: {self.option}=..."
        )

    def _refuse_other_inputs(self) -> None:
        started = self._started()
        if started is None or started["fingerprint"] == self.fingerprint:
            self._check_mark(started)
            return
        found = written.Contents.of(self.directory)
        if not self.overwrite:
            changed = sorted(_differences(started["inputs"], self.inputs)) or ["stage"]
            shown = "; ".join(changed[:4]) + ("; ..." if len(changed) > 4 else "")
            raise NstError(
                f"{self.directory} holds {_article(started['stage'])} run of other inputs",
                got=shown,
                valid="the same options and files as before, to continue or reuse it",
                next=f"choose another {self.option}=..., or {_what_overwriting_does(found)}",
            )
        if found is None or found.others:
            raise NstError(
                f"overwrite=true deletes nothing in {self.directory}, which holds more than nst is known to have "
                "written",
                got=written.told(found.others) if found else "a run from before nst listed its files",
                next=f"choose another {self.option}=..., or {_what_overwriting_does(found)}",
            )
        for name in found.ours:
            if name.endswith("/.lock"):  # a run inside this one: is it at work?
                take_lock((self.directory / name).parent, "wait for it").close()
        found.delete()

    def _started(self) -> dict[str, Any] | None:
        """What started.json says; None where there is none. What is to be overwritten may be damaged."""
        if not self.started_path.exists():
            return None
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
            f"{self.directory} holds a finished run of other inputs, whose started.json is missing",
            next=f"the command that made it; or {shlex.join(['rm', str(self.done_path)])}, if that was this one",
        )


def _option(stage: str, config: Mapping[str, Any], directory: Path) -> str:
    """The option by which whoever gave the command chooses the directory of a stage."""
    if stage == "shard" and config and config["shard"]["output"] == config["data"].get("root"):
        return "data.root"
    if stage != "shard" and config.get("stage", stage) != stage:  # a part of `nst iterate`: of all generations
        shared = config.get("iterate", {}).get("teacher")
        return "iterate.teacher" if shared and directory.is_relative_to(shared) else "run_dir"
    return OPTIONS.get(stage, "run_dir")


def _what_overwriting_does(found: written.Contents | None) -> str:
    """What `overwrite=true` deletes and what it does not, behind an `or`."""
    if found is None:
        return "move the folder away: overwrite=true deletes only what nst has listed, and this run has no list"
    deleted = f"deletes the {len(found.ours)} files that nst wrote there ({written.counted(found.ours)})"
    if not found.others:
        return f"overwrite=true, which {deleted}, and starts again; there is nothing else"
    return f"move {written.told(found.others)} away, which nst has not written: then overwrite=true {deleted}"


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Names of the leaves in which two nested inputs differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name}: {_short(old)} before, {_short(new)} now"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."
