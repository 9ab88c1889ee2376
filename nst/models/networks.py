"""The networks that learn here: EfficientNets by their scaling, and any other of timm's by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nst.errors import NstError
from nst.models import efficientnet
from nst.models.efficientnet import Architecture, EfficientNet
from nst.models.timm_architecture import Framing, TimmArchitecture
from nst.models.timm_network import TimmNetwork

AnyArchitecture = Architecture | TimmArchitecture
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


def architecture_from(record: Mapping[str, Any]) -> AnyArchitecture:
    """The architecture from its fields in a file.

    Raises:
        TypeError: they are not those of any.
    """
    if "width" in record:
        return Architecture(**record)
    return TimmArchitecture(**{name: _frozen(value) for name, value in record.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


def framing_at(architecture: AnyArchitecture, image_size: int) -> Framing | None:
    """How photographs are shown to the network at that size in px; None: as the paper shows them."""
    return architecture.framing(image_size) if isinstance(architecture, TimmArchitecture) else None


def require_size(architecture: AnyArchitecture, image_size: int) -> None:
    """Raises UsageError where the network cannot take images of that size in px."""
    if isinstance(architecture, TimmArchitecture):
        architecture.require_size(image_size)
