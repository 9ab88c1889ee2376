"""Whether a W&B run is written online, and not only on this machine."""

from __future__ import annotations

import os


def resolved_mode(mode: str) -> str:
    """W&B's mode; auto is online for who is logged in, else offline."""
    if mode != "auto":
        return mode
    import wandb  # as everywhere here where it is needed: a training without W&B does not wait for it

    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
