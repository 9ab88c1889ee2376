"""A network made ready to label computes what it did: BatchNorm folded away, and in bf16 up to doubts."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import random_images, trained_tiny
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nst.errors import NstError
from nst.models.efficientnet import ARCHITECTURES, build
from nst.models.folding import fold_block, labeling_network


def with_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with BatchNorms that are far from doing nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            for tensor, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3)):
                tensor.data.uniform_(low, high, generator=generator)
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", ["tiny", "efficientnet_b0"])
@torch.inference_mode()
def test_folded_network_computes_the_same_within_1e_4(name):
    torch.manual_seed(0)
    network = trained_tiny() if name == "tiny" else build(ARCHITECTURES[name], 10)
    with_statistics(network)
    size = 16 if name == "tiny" else 64
    images = random_images(size, batch=4)
    before = network(images)
    ready = labeling_network(network)
    assert not [module for module in ready.modules() if isinstance(module, _BatchNorm)]
    assert before.std() > 1e-3, "logits that say something"
    torch.testing.assert_close(ready(images), before, atol=1e-4, rtol=1e-4)
    plain = labeling_network(network).to(memory_format=torch.channels_last)
    torch.testing.assert_close(plain(images), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(images), before, atol=0, rtol=0)  # the original was left alone


def test_a_convolution_with_a_bias_is_folded_too():
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(3, 4, 3))
    norm = trained_tiny().bn2.__class__(4, act_layer=nn.SiLU)
    block.add_module("bn", norm)
    with_statistics(block)
    images = random_images(8)
    before = block(images)
    fold_block(block)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    torch.testing.assert_close(block(images), before, atol=1e-5, rtol=1e-5)


def test_a_network_in_train_mode_is_refused():
    with pytest.raises(NstError, match=r"network\.eval"):
        labeling_network(trained_tiny().train())


def test_only_the_trunk_is_in_bf16():
    ready = labeling_network(trained_tiny(), torch.bfloat16)
    kinds = {name.split(".")[0]: value.dtype for name, value in ready.named_parameters()}
    assert kinds.pop("classifier") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    assert ready(random_images(16)).dtype == torch.float32
