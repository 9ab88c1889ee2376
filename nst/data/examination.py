"""Looks at every picture of a source before anything is decided: which cannot be used, and which are odd."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from nst.advice import again
from nst.data.hashes import pixel_hash
from nst.data.images import BadImage, inspect
from nst.data.source import Source
from nst.errors import NstError
from nst.progress import Progress, silent
from nst.shown import shown

log = logging.getLogger(__name__)
T = TypeVar("T")

CHUNK = 16  # images per task of a thread
CHUNKS_AHEAD = 8  # tasks read in advance: bounds memory to 128 images
SHOWN_BAD = 100


@dataclass
class Examined:
    """What was seen.

    Args:
        bad: position and reason of every image that does not decode.
        remedies: what can be done about the bad ones, with their number.
        notes: what is odd about pictures that decode, with their number.
        pixels: (N,) a hash of each picture's pixels, 0 of a bad one; empty where nobody has looked.
    """

    bad: dict[int, str] = field(default_factory=dict)
    remedies: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    pixels: list[int] = field(default_factory=list)


def examine(source: Source, pool: ThreadPoolExecutor, progress: Progress = silent) -> Examined:
    """Decodes every image of a source that has not encoded them itself."""
    seen = Examined()
    if source.lossless:
        return seen

    def look(position: int) -> BadImage | tuple[tuple[str, ...], int]:
        try:
            found = inspect(source.read(position))
            return found.notes, pixel_hash(found.pixels)
        except BadImage as error:
            return error

    results = progress(in_order(pool, look, range(len(source))), "checking images", len(source))
    for position, result in enumerate(results):
        if isinstance(result, BadImage):
            seen.bad[position] = str(result)
            seen.remedies[result.remedy] += 1
            seen.pixels.append(0)
        else:
            seen.notes.update(result[0])
            seen.pixels.append(result[1])
    return seen


def in_order(pool: ThreadPoolExecutor, function: Callable[[int], T], positions: Sequence[int]) -> Iterator[T]:
    """`function` of every position, computed ahead by the pool's threads, with bounded memory."""

    def compute(chunk: Sequence[int]) -> list[T]:
        return [function(position) for position in chunk]

    waiting: deque[Future[list[T]]] = deque()
    for start in range(0, len(positions), CHUNK):
        waiting.append(pool.submit(compute, positions[start : start + CHUNK]))
        if len(waiting) > CHUNKS_AHEAD:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def report_bad(source: Source, seen: Examined, max_bad_fraction: float) -> list[str]:
    """Names and reasons of the bad images, which are logged.

    Raises:
        NstError: they are more than `max_bad_fraction` of all.
    """
    bad = seen.bad
    named = [f"{source.entries[position].key}: {reason}" for position, reason in bad.items()][:SHOWN_BAD]
    if len(bad) > max_bad_fraction * len(source):
        enough = math.ceil(100 * len(bad) / len(source)) / 100
        remedies = "; ".join(f"{count}: {remedy}" for remedy, count in seen.remedies.most_common())
        raise NstError(
            f"too many pictures of {source.name} cannot be read: {len(bad)} of {len(source)}",
            got="\n         ".join(named[:10]),
            valid=f"at most {max_bad_fraction:g} of them (max_bad_fraction)",
            next=f"{remedies}; or go on without them: {again(f'max_bad_fraction={enough:g}')}",
        )
    if bad:
        listed = shown("\n  ".join(named))
        log.warning("%d of %d pictures cannot be read and are left out:\n  %s", len(bad), len(source), listed)
    return named
