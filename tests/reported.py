"""Reports that the stage itself makes for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nst.config import compose_config, job_from
from nst.settings.job import ReportJob
from nst.stages import report


def reported(directory: Path, *options: str, stage: str = "report", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What `nst report` returns for a directory, or `nst iterate` at its end, whose command line `overrides` are."""
    cfg = compose_config([f"stage={stage}", f"run_dir='{directory}'", *options])
    cfg.overrides = list(overrides)
    return report.run(job_from(ReportJob, cfg))
