"""The facts that repeat a run: code revision, package versions, machine."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PROVENANCE_PACKAGES = (
    "torch",
    "torch_xla",
    "torchvision",
    "lightning",
    "timm",
    "hydra-core",
    "webdataset",
    "wandb",
)


def provenance() -> dict[str, Any]:
    """What is needed to repeat a run: code revision, package versions, machine."""
    versions = {}
    for name in PROVENANCE_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "git": _git_revision(),
        "python": platform.python_version(),
        "packages": versions,
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
    }


def _git_revision() -> str | None:
    """Revision of the code, with `+changed` when the working tree differs; None outside a git checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+changed",
        "--abbrev=12",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
