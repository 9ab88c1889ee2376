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
    """Revision of the code, with `+changed` when the working tree differs in more than its docs and results; None
    outside a git checkout."""
    revision = _git("describe", "--always", "--abbrev=12")
    if revision is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)docs")
    return f"{revision}+changed" if changed else revision


def _git(*arguments: str) -> str | None:
    """What git answers about the checkout that this file is in; None: nothing, or there is none."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
