"""Shards that the stage makes for tests: `sharded("digits", folder, "data.test_samples=100")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nst.config import compose_config, job_from
from nst.settings.job import ShardJob


def sharded(source: Path | str, output: Path, *options: str) -> dict[str, Any]:
    """What `nst shard` returns for a folder of pictures, or for a choice of data, with these options."""
    from nst.stages import shard

    chosen = [f"data={source}"] if isinstance(source, str) else ["data=folder", f"data.source.root='{source}'"]
    return shard.run(job_from(ShardJob, compose_config(["stage=shard", *chosen, f"data.root='{output}'", *options])))
