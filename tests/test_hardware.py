"""What Hardware asks of Lightning and of the machine. Kernels themselves need the device; the choices do not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nst.config import compose_config
from nst.errors import NstError, UsageError
from nst.models.efficientnet import ARCHITECTURES, build
from nst.training import hardware
from nst.training.gpus import device_count
from nst.training.hardware import Hardware


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def asked(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """The options with which a Trainer would be made, on a machine that has a GPU."""
    seen: dict[str, Any] = {}
    with_gpus(monkeypatch, 1)
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


@pytest.fixture
def deterministic_again() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def fills(network: torch.nn.Module) -> int:
    """How often a forward and backward fills a tensor."""
    with torch.profiler.profile() as profile:
        network(torch.randn(2, 3, 32, 32)).sum().backward()
    return sum(event.name == "aten::fill_" for event in profile.events())


@pytest.mark.parametrize("deterministic", ["warn", True])
def test_the_same_bits_cost_no_filling_of_new_tensors(
    deterministic: Any, tmp_path: Path, deterministic_again: None
) -> None:
    """Measured of B0 at this size: 42 fills; 1,961 where torch fills what nobody has written yet."""
    network = build(ARCHITECTURES["efficientnet_b0"], 10)
    plain = fills(network)
    Hardware(deterministic=deterministic).trainer(tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    assert fills(network) <= plain + 5
    torch.utils.deterministic.fill_uninitialized_memory = True  # as torch has it
    assert fills(network) > 10 * plain


@pytest.mark.parametrize(("devices", "count"), [("auto", 4), (1, 1), (2, 2)])
def test_devices_are_a_number_or_all_there_are(devices: Any, count: int) -> None:
    assert device_count(devices, 4) == count


def test_more_devices_than_gpus_are_refused_with_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    for devices in (1, 2, "auto"):
        Hardware("gpu", devices=devices)
    with pytest.raises(
        UsageError, match=r"more devices .* than there are GPUs\n.*=4\n.*at most 2[\s\S]*trainer.devices=2"
    ):
        Hardware("gpu", devices=4)


# what torch 2.9 says of a driver
TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx "
    "Alternatively, go to: https://pytorch.org to install a PyTorch version that has been compiled with your version "
    "of the CUDA driver. (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:109.)"
)


def test_a_machine_without_a_usable_gpu_says_why_and_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 0)
    with pytest.raises(NstError, match=r"no GPU was found[\s\S]*trainer=cpu[\s\S]*--gpus all"):
        Hardware("gpu")

    def old_driver() -> int:
        warnings.warn(TOO_OLD, stacklevel=1)
        return 0

    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", old_driver)
    with pytest.raises(
        NstError, match=r"driver is older than this torch wants\n.*found version 11040\)\n.*pytorch.org"
    ):
        Hardware("gpu")
