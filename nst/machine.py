"""This machine's memory: far more pictures and processes than fit are refused in words, and what is freed is kept."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from nst.errors import UsageError

GIB = 2**30
MARGIN = 1.5  # of the memory there is: what is needed is an estimate, so what is near may go
LOADER = 100e6  # bytes of a loader process beside what it shares with the process that started it, about
PIXEL = 12  # bytes: three colours in float32

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
MMAPS = 65536  # blocks that glibc asks the kernel for one by one, by default
PICTURE_BYTES = 32 * 2**20  # of most pictures less; the largest threshold that glibc takes


def keep_freed_memory(largest: int | None = None) -> None:
    """Lets this process keep what it frees, for the next step or the next picture.

    glibc gives large blocks back to the kernel, which then clears new pages for the activations of every step and for
    the pictures of a loader process: up to a third of a training's time on a CPU. No number moves. Other C libraries
    have no such option and are left alone.

    Args:
        largest: bytes of the blocks that are kept, `PICTURE_BYTES` at most; None: all are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_MMAP_MAX, 0 if largest is None else MMAPS)
    mallopt(M_MMAP_THRESHOLD, largest or PICTURE_BYTES)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if largest is None else 4 * largest)


def host_memory() -> float:
    """Bytes of this machine, or of the container that this process may use."""
    most = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(limit).exists() and (words := Path(limit).read_text().strip()).isdigit():
            most = min(most, float(words))
    return most


def require_batch(option: str, images: int, image_size: int) -> None:
    """Raises UsageError for a batch of pictures (images, 3, size, size) float32 that is far above the host's memory."""
    needed, there = float(PIXEL * images * image_size**2), host_memory()
    if needed > MARGIN * there:
        fits = max(1, min(256, int(there / 4 / (PIXEL * image_size**2))))
        raise UsageError(
            f"{images:,} pictures of {image_size} px are {needed / GIB:,.0f} GiB, this machine has {there / GIB:,.0f}",
            got=f"{option}={images}",
            next=f"{option}={fits}",
        )


def require_loaders(workers: int) -> None:
    """Raises UsageError for loader processes that are far above the host's memory."""
    needed, there = workers * LOADER, host_memory()
    if needed > MARGIN * there:
        raise UsageError(
            f"{workers:,} loader processes need about {needed / GIB:,.0f} GiB, this machine has {there / GIB:,.0f}",
            got=f"trainer.workers={workers}",
            valid="more than one a core does not help",
            next=f"trainer.workers={os.cpu_count()}",
        )
