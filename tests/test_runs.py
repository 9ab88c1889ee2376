"""Ranks that wait for rank 0: until it is done, and not for ever when it is gone. Other rules of a run are tested by
the stages that use them (test_train, test_iterate, test_shard)."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nst.errors import NstError
from nst.runs import Run
from nst.sharing import take_lock


def test_the_other_ranks_get_rank_0s_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rank 0 takes several times their patience, but its pulse shows that it lives."""
    inputs, answer = {"a": 1}, {}

    def rank_zero() -> None:
        with Run(tmp_path, "select", inputs, patience=0.6) as run:
            entered.set()
            time.sleep(2)
            run.finish({"rows": 3})

    entered = threading.Event()
    thread = threading.Thread(target=rank_zero)
    thread.start()
    assert entered.wait(10)
    monkeypatch.setattr("nst.runs.is_rank_zero", lambda: threading.current_thread() is thread)
    with Run(tmp_path, "select", inputs, patience=0.6) as run:
        answer = run.result()
    thread.join()
    assert answer["rows"] == 3
    assert not (tmp_path / ".pulse").exists()


def test_the_other_ranks_give_up_on_a_rank_0_without_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".pulse").write_text("17 4")  # left by a process that is gone
    monkeypatch.setattr("nst.runs.is_rank_zero", lambda: False)
    start = time.monotonic()
    with (
        pytest.raises(NstError, match=r"rank 0 stopped before[\s\S]*no sign of it"),
        Run(tmp_path, "select", {}, patience=0.5),
    ):
        pass
    assert time.monotonic() - start < 30


def test_a_forked_process_does_not_keep_its_parents_lock(tmp_path: Path):
    """As a loader that outlives a killed trainer: the same command may start again at once."""
    lock = take_lock(tmp_path)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, b"there")
        time.sleep(30)
        os._exit(0)
    assert os.read(ours, 5) == b"there"
    try:
        with pytest.raises(NstError, match="another process is working in"):
            take_lock(tmp_path)
        lock.close()
        take_lock(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
