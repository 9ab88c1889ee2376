"""Networks that several tests build: one of 50,000 parameters, and timm's B0 to compare with."""

from __future__ import annotations

import copy
import functools

import timm
import torch
from torch import Tensor

from nst.models.efficientnet import Architecture, EfficientNet, build

TINY = Architecture(0.35, 0.5, train_size=16, test_size=16, dropout=0.1, small_images=True, name="tiny")

# arguments that make timm's levit_128s small: its BatchNorm is of features
LEVIT = {"embed_dim": (16, 24, 32), "key_dim": 8, "num_heads": (1, 2, 2), "depth": (1, 1, 1)}


@functools.cache
def _trained_tiny(seed: int) -> EfficientNet:
    torch.manual_seed(seed)
    network = build(TINY, 10)
    network(torch.randn(4, 3, 16, 16))
    return network.eval()


def trained_tiny(seed: int = 0) -> EfficientNet:
    """A tiny network of 10 classes whose statistics are no longer those of initialisation."""
    return copy.deepcopy(_trained_tiny(seed))


@functools.cache
def _timm_b0() -> torch.nn.Module:
    torch.manual_seed(1)
    network = timm.create_model("tf_efficientnet_b0", num_classes=10)
    network(torch.randn(2, 3, 64, 64))
    return network.eval()


def timm_b0() -> torch.nn.Module:
    """timm's B0 with random weights and 10 classes."""
    return copy.deepcopy(_timm_b0())


def random_images(size: int, batch: int = 2, seed: int = 2) -> Tensor:
    """Normally distributed images (batch, 3, size, size)."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
