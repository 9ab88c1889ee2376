"""Where metrics go on disk: an append-only table.

metrics.csv is long (`step,metric,value`), appended and flushed, never rewritten. A checkpoint knows how long the file
was, and a resumed run cuts it back to there before it goes on, so the file ends up the same as if nothing had
happened.
"""

from __future__ import annotations

import csv
import os
import shlex
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from nst.documents import damaged

HEADER = ("step", "metric", "value")
TIMING_METRICS = ("images_per_second", "step_time_ms")  # depend on the machine, not on the seed


class MetricsTable(Logger):
    """Lightning logger that appends `step,metric,value` rows to one CSV file."""

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        return "table"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        new = not self.path.exists() or self.path.stat().st_size == 0
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(HEADER)
            # Lightning adds the epoch to every call; a run here is one epoch long
            writer.writerows([step, name, repr(float(value))] for name, value in metrics.items() if name != "epoch")

    def cut_to(self, size: int) -> None:
        """Forgets what was written after the file had `size` bytes.

        Raises:
            NstError: it has lost some of them.
        """
        found = self.path.stat().st_size if self.path.exists() else size
        if found < size:
            without = f"{shlex.join(['rm', str(self.path)])}, then the same command goes on, without these curves"
            raise damaged(self.path, f"{found} bytes, of {size} when the training's state was kept", without)
        if found > size:
            os.truncate(self.path, size)
