"""The network that the group `model` chooses, as plain data."""

from __future__ import annotations

from dataclasses import fields

from nst.models.architectures import AnyArchitecture, Architecture
from nst.models.timm_architecture import timm_architecture
from nst.settings.network import Model, TimmModel
from nst.stages.places import one_network


def architecture(model: Model | TimmModel) -> AnyArchitecture:
    """What the network is; where its weights come from and how it is trained is no part of it.

    Raises:
        NstError: timm knows no such network, or there are no weights where they should be.
    """
    if isinstance(model, TimmModel):
        import nst.lean  # noqa: F401  timm without what its extras alone use; here: it brings torch
        from nst.models.pretrained import shown_to

        return timm_architecture(
            model.name,
            train_size=model.train_size,
            test_size=model.test_size,
            dropout=model.dropout,
            config=shown_to(one_network(model.checkpoint, "train") or model.pretrained),
        )
    known = {entry.name for entry in fields(Architecture)}
    return Architecture(**{name: value for name, value in vars(model).items() if name in known})
