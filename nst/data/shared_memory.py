"""How many batches loader processes may keep ready: they hand them over in /dev/shm, which a container has 64 MB of.

A worker that finds it full dies of a bus error, hours into a training. So what workers may fill is bounded before they
start: by a share of what is free, and by the bytes of a batch. Which batch comes when depends on none of it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from pathlib import Path

from nst.faults import no_shared_memory
from nst.progress import say

SHARED_MEMORY = Path("/dev/shm")
SHARE = 0.8  # of what is free, for all ranks of this machine together
HELD = 2  # batches beyond those that are ready: one in the step, one fetched by Lightning ahead of it


@dataclass(frozen=True)
class LoaderOptions:
    """How batches get from disk to the device.

    Args:
        workers: loader processes; 0 loads in the training process. Never changes results.
        prefetch: batches each worker keeps ready, where shared memory has room for them.
        ranks: processes of this machine that load, each with as many workers.
    """

    workers: int = 1
    prefetch: int = 4
    ranks: int = 1


def fitting(options: LoaderOptions, batch_bytes: int) -> LoaderOptions:
    """The options, with less prefetch (or fewer workers) where shared memory has no room for theirs.

    Raises:
        NstError: not even one worker's one batch fits.
    """
    free = _free_bytes()
    if free is None or not options.workers:
        return options
    room = int(SHARE * free / options.ranks / max(batch_bytes, 1)) - HELD
    if room >= options.workers * options.prefetch:
        return options
    shared = f"{_size(free)} free in {SHARED_MEMORY}" + (f" for {options.ranks} ranks" if options.ranks > 1 else "")
    found = f"batches of {_size(batch_bytes)}, {shared}"
    if room < 1:
        raise no_shared_memory(found)
    workers = min(options.workers, room)
    less = replace(options, workers=workers, prefetch=room // workers)
    _tell(f"trainer.workers={less.workers} trainer.prefetch={less.prefetch} instead of {options.workers} and"
          f" {options.prefetch}: {found}; a container has more by docker run --shm-size")  # fmt: skip
    return less


def _free_bytes() -> int | None:
    """Free shared memory; None on a system without the folder."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except FileNotFoundError:
        return None
    return found.f_bavail * found.f_frsize


@functools.cache
def _tell(text: str) -> None:
    """Says a line once: each segment of a training opens a loader anew."""
    say(text)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
