"""nst, where all ranks but the first have an old view of the run directory, as of a network disk whose attributes are
cached: they are told that a file is not there when they first look at it. Started by tests/test_ranks.py."""

import os
import sys
from pathlib import Path

from nst.cli import main

OTHERS = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0"
exists, looked_at = Path.exists, set()


def stale(path: Path, *more: bool) -> bool:
    if str(path).startswith(os.environ["STALE"]) and path not in looked_at:
        looked_at.add(path)
        return False
    return exists(path, *more)


if __name__ == "__main__":
    if OTHERS:
        Path.exists = stale
    main(sys.argv[1:])
