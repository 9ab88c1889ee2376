"""A network's answers to pictures, exactly enough that an answer that changes is a flip.

The classifier computes in float32 whatever the trainer's precision. Under bfloat16 logits tie, and a prediction that
changes with a tie would pass for a flip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nst.models.efficientnet import EfficientNet, normalize
from nst.models.in_parts import in_parts
from nst.models.precision import full_precision


@full_precision()
def full_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, C) in float32 of images (B, 3, H, W) of 0 to 255, also under autocast."""
    if not isinstance(network, EfficientNet):  # somebody else's, whose classifier we do not know
        with torch.autocast(images.device.type, enabled=False):
            return in_parts(network, normalize(images)).float()
    forward = network.forward_features
    pooled = in_parts(lambda part: network.forward_head(forward(part), pre_logits=True), normalize(images))
    classifier = network.classifier
    with torch.autocast(images.device.type, enabled=False):
        return linear(pooled.float(), classifier.weight.float(), classifier.bias.float())


def guesses(logits: Tensor) -> Tensor:
    """Confidence and predicted class: (B, C) -> (B, 2) float32; a class left out by -inf is never one."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return torch.stack([confidence, predicted.float()], dim=1)
