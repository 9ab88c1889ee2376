"""The files of one labeling: a shard's predictions and the names of its bad images, each written whole.

Apart from the stage, because machines that label for another one need this and nothing of the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nst.atomic import write_json
from nst.data.predictions import PredictionMetadata, parquet_name, write_predictions
from nst.data.shard_set import ShardInfo
from nst.documents import read_json
from nst.sharing import wait_until_seen


@dataclass(frozen=True)
class PredictionFiles:
    """The Parquet files of one labeling, and which samples of each shard were bad.

    Args:
        keep: probabilities are stored where the confidence is at least this.
    """

    folder: Path
    metadata: PredictionMetadata
    keep: float

    def names(self, shard: ShardInfo) -> list[str]:
        """Of both files of a shard, relative to the folder."""
        return [str(path.relative_to(self.folder)) for path in (self._path(shard), self._bad_path(shard))]

    def written(self, shard: ShardInfo) -> bool:
        return self._path(shard).exists() and self._bad_path(shard).exists()

    def write(self, shard: ShardInfo, index: np.ndarray, keys: list[str], probs: np.ndarray, bad: list[str]) -> None:
        name, sha256, excluded = shard.identity
        metadata = replace(self.metadata, shard_name=name, shard_sha256=sha256, shard_excluded=excluded)
        write_json(self._bad_path(shard), {"bad": bad})
        write_predictions(self._path(shard), index=index, keys=keys, probs=probs, metadata=metadata, keep=self.keep)

    def bad_samples(self, shard: ShardInfo) -> list[str]:
        """Names of the images that could not be decoded, once both files of the shard are seen here."""
        wait_until_seen(self._path(shard))
        return read_json(wait_until_seen(self._bad_path(shard)))["bad"]

    def _path(self, shard: ShardInfo) -> Path:
        return self.folder / parquet_name(shard.name)

    def _bad_path(self, shard: ShardInfo) -> Path:
        return self.folder / "bad" / f"{Path(shard.name).stem}.json"
