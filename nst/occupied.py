"""Directories that belong to another stage: a run's has a started.json, that of `nst iterate` has generations.

`nst iterate` writes config.yaml and result.json too, so neither kind may begin in a directory of the other one. And a
generation that makes way for another takes those after it with it, so all of them may be deleted, or none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nst import by_hand, written
from nst.documents import read_json
from nst.errors import NstError
from nst.refused import not_only_ours, other_inputs
from nst.sharing import take_lock

ITERATE: Mapping[str, Any] = {"stage": "iterate", "fingerprint": None}  # in place of a started.json
_FOLLOWERS: ContextVar[Mapping[str, Sequence[Path]]] = ContextVar("followers", default=MappingProxyType({}))


def by_iterate(directory: Path) -> bool:
    """Whether it holds the generations of `nst iterate`, finished or not, and no run of its own."""
    if (directory / written.STARTED).exists():
        return False
    if (directory / "gen0" / written.STARTED).exists():
        return True
    with contextlib.suppress(NstError):  # there is none, or it is somebody's
        return read_json(directory / "result.json").get("stage") == "iterate"
    return False


def by_a_run(directory: Path, *, overwrite: bool) -> bool:
    """Whether a run of a single stage lies where `nst iterate` would begin, and may be deleted for it.

    Raises:
        NstError: it may not: nobody has said so, or there is more than nst has written.
    """
    started = directory / written.STARTED
    if not started.exists():
        return False
    if not overwrite:
        about = read_json(started, next="choose another run_dir=...")
        raise other_inputs(directory, "iterate", about, {}, "run_dir")
    _require_only_ours(directory, "run_dir")
    return True


@contextlib.contextmanager
def followed(followers: Mapping[Path, Sequence[Path]]) -> Iterator[None]:
    """Within it, a directory makes way only where those that will be made anew after it could, too."""
    told = _FOLLOWERS.set({os.path.abspath(directory): later for directory, later in followers.items()})
    try:
        yield
    finally:
        _FOLLOWERS.reset(told)


def make_way(directory: Path, option: str) -> None:
    """Deletes what nst has written there.

    Raises:
        NstError: there is more than that, or in a directory that follows it, or a run inside it is at work.
    """
    found = _require_only_ours(directory, option)
    for later in _FOLLOWERS.get().get(os.path.abspath(directory), ()):
        if later.exists():
            _require_only_ours(later, "run_dir")
    for name in found.ours:
        if name.endswith("/.lock"):
            take_lock((directory / name).parent, "wait for it").close()
    found.delete()


def _require_only_ours(directory: Path, option: str) -> written.FolderContents:
    found = by_hand.contents(directory)
    if found is None or found.others:
        raise not_only_ours(directory, found, option)
    return found
