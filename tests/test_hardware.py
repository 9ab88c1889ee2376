"""What Hardware asks of Lightning. Kernels themselves need the device; the choices do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nst.config import compose_config
from nst.training import hardware
from nst.training.hardware import Hardware


def asked(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """The options with which a Trainer would be made, on a machine that has a GPU."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "bare_trainer", lambda *_, **given: seen.update(given))
    Hardware(**options).trainer(Path("."))
    return seen


@pytest.mark.parametrize(
    ("accelerator", "deterministic", "chosen"),
    [("gpu", False, True), ("gpu", "warn", False), ("gpu", True, False), ("cpu", False, False)],
)
def test_a_gpu_chooses_its_kernels_by_trial_only_where_the_same_bits_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, deterministic: Any, chosen: bool
) -> None:
    options = asked(monkeypatch, accelerator=accelerator, deterministic=deterministic)
    assert options["benchmark"] is chosen
    assert options["deterministic"] is deterministic


@pytest.mark.parametrize("trainer", ["gpu", "gpu_ddp"])
def test_gpus_compute_in_bf16_autocast_and_channels_last(monkeypatch: pytest.MonkeyPatch, trainer: str) -> None:
    options = dict(compose_config([f"trainer={trainer}"]).trainer)
    assert options["channels_last"]
    assert asked(monkeypatch, **options)["precision"] == "bf16-mixed"
    network = Hardware(**options).place(torch.nn.Conv2d(3, 4, 3))
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
