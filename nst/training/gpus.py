"""Checks that the GPUs a training asks for are there."""

from __future__ import annotations

import warnings

import torch

from nst.errors import UsageError
from nst.faults import no_gpu


def device_count(devices: int | str, there: int) -> int:
    """How many devices `trainer.devices` asks for on a machine that has `there`."""
    return there if devices == "auto" else int(devices)


def require_gpus(devices: int | str) -> None:
    """Raises NstError unless this machine has as many GPUs as that."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if not found:
        raise no_gpu(next((str(item.message) for item in said if "CUDA" in str(item.message)), ""))
    there = torch.cuda.device_count()
    if device_count(devices, there) > there:
        raise UsageError(
            "more devices are asked for than there are GPUs",
            got=f"trainer.devices={devices}",
            valid=f"at most {there}: those that this process sees, of which every rank needs one",
            next=f"trainer.devices={there}; under Slurm: --gpus-per-node, which shows each task all GPUs of its node",
        )
