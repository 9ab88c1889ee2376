"""Settings of libraries that no argument reaches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` within the context, for all threads; afterwards as before."""
    own = vars(owner)  # not getattr: of a class, a static method would come back as a function
    given = {name: own[name]} if name in own else {}  # what is inherited is not set again
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        if given:
            setattr(owner, name, given[name])
