"""Directories that belong to another stage: a run's has a started.json, that of `nst iterate` has generations.

`nst iterate` writes config.yaml and result.json too, so neither kind may begin in a directory of the other one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nst import by_hand, written
from nst.documents import read_json
from nst.errors import NstError
from nst.refused import not_only_ours, other_inputs
from nst.sharing import take_lock

ITERATE: Mapping[str, Any] = {"stage": "iterate", "fingerprint": None}  # in place of a started.json


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


def make_way(directory: Path, option: str) -> None:
    """Deletes what nst has written there.

    Raises:
        NstError: there is more than that, or a run inside it is at work.
    """
    found = _require_only_ours(directory, option)
    for name in found.ours:
        if name.endswith("/.lock"):
            take_lock((directory / name).parent, "wait for it").close()
    found.delete()


def _require_only_ours(directory: Path, option: str) -> written.FolderContents:
    found = by_hand.contents(directory)
    if found is None or found.others:
        raise not_only_ours(directory, found, option)
    return found
