"""Reading s3:// and gs:// by Arrow's own clients, as a program: `buckets.py cat|list <address>`.

It runs as a process for each shard. Arrow's clients start threads, which a loader process that is forked later would
inherit as locks held for ever; a process that ends takes all that with it, can be killed when nothing comes, and costs
a second for a shard of a thousand images.

Credentials come from where the vendors' tools find them; `gs://anonymous@bucket/...` asks for none, and the variable
AWS_ENDPOINT_URL names another store that speaks S3. The file imports nothing of ours, so it runs by its path.
"""

from __future__ import annotations

import shutil
import sys

BUCKETS = ("s3://", "gs://")
NOT_FOUND = 44  # exit code


def main(action: str, address: str) -> int:
    from pyarrow.fs import FileSelector, FileSystem

    files, path = FileSystem.from_uri(address)
    if action == "list":
        for entry in files.get_file_info(FileSelector(path)):
            print(entry.base_name)
        return 0
    with files.open_input_stream(path) as stream:
        shutil.copyfileobj(stream, sys.stdout.buffer, 8 << 20)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_FOUND)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
