"""Modules without end, loaded at once."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def nothing_thrown_away() -> Iterator[None]:
    """While modules load: all they bring stays, and to look through it for garbage again and again takes a fifth of
    the time. Later looks pass over it too."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
