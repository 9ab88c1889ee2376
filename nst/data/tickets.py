"""The ticket of every image: md5 of seed and key, a number that decides ties and coins, for millions of keys a second.

The one decision worth knowing: NumPy computes md5's 64 steps for thousands of keys at once, in memory that fits a
core's cache. That is several times faster than one key after the other in a library, and threads run side by side.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BLOCK = 16384  # keys at a time
LONGEST = 55  # bytes that fit one block of md5 with its end mark and length
_UINT = np.uint32
_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_SHIFTS = ((7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21))
_SINES = tuple(int(abs(math.sin(i + 1)) * 2**32) for i in range(64))
_ORDER = tuple([i, (5 * i + 1) % 16, (3 * i + 5) % 16, 7 * i % 16][i // 16] for i in range(64))


def tickets(keys: pa.Array | pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """The first eight bytes of md5("<seed>:<key>"), the lowest first (N,)."""
    prefix = f"{int(seed)}:".encode()
    chunks = keys.chunks if isinstance(keys, pa.ChunkedArray) else [keys]
    parts = [_of_block(chunk.slice(start, BLOCK), prefix) for chunk in chunks for start in range(0, len(chunk), BLOCK)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _of_block(keys: Any, prefix: bytes) -> NDArray[np.uint64]:
    _, offsets, data = keys.buffers()
    ends = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    starts, lengths = ends[:-1], np.diff(ends)
    found = np.empty(len(keys), np.uint64)
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        text = content[starts[rows, None] + np.arange(length)]
        if len(prefix) + length <= LONGEST:
            found[rows] = _md5(_padded(prefix, text))
        else:
            whole = [hashlib.md5(prefix + row.tobytes(), usedforsecurity=False).digest()[:8] for row in text]
            found[rows] = np.frombuffer(b"".join(whole), "<u8")
    return found


def _padded(prefix: bytes, text: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """One block of md5 for each row of `text`, as words (16, N)."""
    block = np.zeros((len(text), 64), np.uint8)
    size = len(prefix) + text.shape[1]
    block[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    block[:, len(prefix) : size] = text
    block[:, size] = 0x80
    block[:, 56:58] = (8 * size % 256, 8 * size // 256)
    return np.ascontiguousarray(block.view("<u4").T)


def _md5(words: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The first half of the digest (RFC 1321) of one block each."""
    a, b, c, d = (np.full(words.shape[1], start, _UINT) for start in _START)
    mixed, spare = np.empty_like(a), np.empty_like(a)
    for step in range(64):
        _mix(step // 16, b, c, d, mixed, spare)
        mixed += a
        mixed += words[_ORDER[step]]
        mixed += _UINT(_SINES[step])
        turn = _SHIFTS[step // 16][step % 4]
        np.left_shift(mixed, _UINT(turn), out=spare)
        np.right_shift(mixed, _UINT(32 - turn), out=mixed)
        mixed |= spare
        mixed += b
        a, d, c, b, mixed = d, c, b, mixed, a
    return (a + _UINT(_START[0])).astype(np.uint64) | (b + _UINT(_START[1])).astype(np.uint64) << np.uint64(32)


def _mix(phase: int, b: Any, c: Any, d: Any, out: Any, spare: Any) -> None:
    """md5's four functions of three words, into `out`."""
    if phase == 0:  # d ^ (b & (c ^ d))
        np.bitwise_xor(c, d, out=out)
        out &= b
        out ^= d
    elif phase == 1:  # c ^ (d & (b ^ c))
        np.bitwise_xor(b, c, out=out)
        out &= d
        out ^= c
    elif phase == 2:
        np.bitwise_xor(b, c, out=out)
        out ^= d
    else:  # c ^ (b | ~d)
        np.invert(d, out=spare)
        np.bitwise_or(b, spare, out=out)
        out ^= c
