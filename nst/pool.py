"""Workers for a task of many files: threads, or processes, whose small arrays do not wait for each other."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from nst.errors import NstError

FILES_FOR_PROCESSES = 200  # a selection of 2,000 files of 10,000 rows then takes a fifth less


@contextlib.contextmanager
def workers(count: int, files: int) -> Iterator[Executor]:
    """An executor; of many files one of processes.

    These are forked, so never from a process that has loaded torch, which has threads of its own.

    Raises:
        NstError: one of the processes was killed.
    """
    if count == 1 or files < FILES_FOR_PROCESSES or "torch" in sys.modules:
        with ThreadPoolExecutor(count) as threads:
            yield threads
        return
    ignored = (signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches them too, and is told by this process
    try:
        with ProcessPoolExecutor(count, get_context("fork"), initializer=signal.signal, initargs=ignored) as processes:
            yield processes
    except BrokenProcessPool as error:
        raise NstError(
            "a process of the selection was killed",
            got=error,
            valid="memory enough for each of them",
            next="select.threads=1",
        ) from error
