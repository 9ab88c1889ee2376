"""The file index.json of a shard set as it stands there, here or at an address; see `nst.data.shard_set`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from nst.data.remote import Remote
from nst.data.transfer import is_remote, join
from nst.documents import parse_json, read_json
from nst.errors import NstError
from nst.shown import count_of


def read_index(folder: Path | str, remote: Remote) -> dict[str, Any]:
    """The content of index.json.

    Raises:
        NstError: there is none, or it is damaged.
    """
    if is_remote(folder):
        address = join(folder, "index.json")
        return parse_json(remote.read(address), address, sealed=False, next=made_again(folder))
    folder = Path(folder)
    if not folder.is_dir():
        raise NstError(f"no such shard folder: {folder}", next="make one: nst shard; or name one that is there")
    if not has_index(folder):
        tars = len(list(folder.glob("*.tar")))
        raise NstError(
            f"{folder} has no index.json",
            got=count_of(tars, "tar") if tars else "no tars",
            valid="a folder that nst shard has written to its end",
            next=f"for tars from elsewhere: nst shard shard.index={shlex.quote(str(folder))}"
            if tars
            else "make shards: nst shard",
        )
    return read_json(folder / "index.json", sealed=False, next=made_again(folder))


def has_index(place: Path | str | None) -> bool:
    """Whether shards lie in this folder of this machine; an address is not asked."""
    return place is not None and not is_remote(place) and (Path(place) / "index.json").exists()


def made_again(folder: Path | str) -> str:
    """How a folder gets a whole index.json."""
    if is_remote(folder):
        return "copy it there again"
    folder = Path(folder)
    index, excluded = folder / "index.json", (folder / "excluded.json").exists()
    # of `nst shard` each set is a folder of the run, packed shards are the run's own folder
    run = next((place for place in (folder, folder.parent) if (place / "started.json").exists()), None)
    made = "the same `nst shard` as before" if run else shlex.join(["nst", "shard", f"shard.index={folder}"])
    marks = [str(run / "DONE")] if run and (run / "DONE").exists() else []
    return f"{shlex.join(['rm', str(index), *marks])}, then {made}" + (
        ", and `nst shard --exclude`" if excluded else ""
    )
