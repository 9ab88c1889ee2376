"""The networks that learn here: EfficientNets by their scaling, and any other of timm's by its name."""

from __future__ import annotations

from nst.errors import NstError
from nst.models import efficientnet
from nst.models.architectures import AnyArchitecture, Architecture
from nst.models.efficientnet import EfficientNet
from nst.models.timm_network import TimmNetwork

Network = EfficientNet | TimmNetwork


def build(
    architecture: AnyArchitecture,
    num_classes: int,
    *,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
) -> Network:
    """A freshly initialised network in train mode; `dropout` None takes the architecture's.

    Raises:
        NstError: no classes, or what makes no network.
    """
    if isinstance(architecture, Architecture):
        return efficientnet.build(architecture, num_classes, dropout=dropout, stochastic_depth=stochastic_depth)
    if num_classes < 1:
        raise NstError("a classifier needs classes", got=num_classes, valid="num_classes >= 1")
    rate = architecture.dropout if dropout is None else dropout
    return TimmNetwork(architecture, num_classes, dropout=rate, stochastic_depth=stochastic_depth)
