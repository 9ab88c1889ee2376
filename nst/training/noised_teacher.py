"""A teacher that labels under noise, which the method advises against (Algorithm 1, step 2): to see what it costs.

The noise is that of the labeled images in the teacher's own training: its augmentation, dropout and stochastic depth.
It is drawn from each picture and its key, so labels depend neither on batches nor on who labels, and a killed labeling
goes on to the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from nst.data.batches import Batch
from nst.data.stream import generator
from nst.data.transforms import CenterView
from nst.data.views import NoisedView, training_view
from nst.documents import read_config
from nst.errors import NstError, UsageError
from nst.models.checkpoints import import_weights
from nst.models.efficientnet import normalize
from nst.models.network_info import read_info
from nst.models.networks import Network, build
from nst.models.noise import Dropout, Noised, StochasticDepth
from nst.models.precision import full_precision
from nst.settings.data import Pictures
from nst.settings.fields import made_of
from nst.settings.learning import Teaching
from nst.settings.network import Noise
from nst.training.ensemble import Ensemble, Member
from nst.training.labeler import Labeler


def noised(teacher: Ensemble, pictures: Sequence[Pictures]) -> Ensemble:
    """The same networks, each under the noise of its own training.

    Args:
        pictures: the kind that each is shown.

    Raises:
        NstError: a network whose training is not known.
    """
    return replace(teacher, members=tuple(map(_noised, teacher.members, pictures)))


def _noised(member: Member, pictures: Pictures) -> Member:
    noise, clean = noise_of(member.weights), member.view
    assert isinstance(clean, CenterView)
    augment = noise.labeled.augment
    view = clean if augment == "none" else training_view(augment, clean.image_size, pictures, noise)
    return replace(member, view=NoisedView(view), noise=noise)


def noise_of(weights: Path) -> Noise:
    """The noise of the training that made a network file, by its run's config.yaml.

    Raises:
        NstError: it is in no run directory of `nst train`.
    """
    config = weights.parent.parent / "config.yaml"
    if weights.parent.name != "checkpoints" or not config.exists():
        raise NstError(
            "a noised teacher has the noise of its own training, which is not known of this network",
            got=weights,
            valid="the run directory of nst train",
            next="teacher.noised=false",
        )
    return made_of(Noise, read_config(config)["noise"])


def require_noisable(teaching: Teaching, precision: str, accelerator: str) -> None:
    """Raises UsageError unless labels are stored, in float32, by a CPU or GPU: noise is drawn for each picture."""
    wrong = {
        "teacher.mode": teaching.mode == "online" and "online",
        "label.precision": precision == "bf16-true" and precision,
        "trainer.accelerator": accelerator not in ("cpu", "gpu") and accelerator,
    }
    found = [f"{name}={value}" for name, value in wrong.items() if value]
    if teaching.noised and found:
        raise UsageError(
            "a noised teacher labels offline, in float32, on a CPU or GPU",
            got=", ".join(found),
            next="teacher.noised=false, or without " + " and ".join(name for name, value in wrong.items() if value),
        )


class NoisedLabeler(Labeler):
    """Predicts the distribution while dropout and stochastic depth act; BatchNorm stays in eval mode.

    Args:
        network: as `network_to_noise` makes it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Lightning asks for eval mode before it predicts: the noise acts in both."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, Dropout | StochasticDepth):
                module.train()
        return self

    @full_precision()
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (B, C) float32."""
        images, network = normalize(batch["images"]), self.network
        assert isinstance(network, Noised)
        rows = [network.draw_noise(1, torch.device("cpu"), _generator(key)) for key in batch["keys"]]
        padding = len(images) - len(rows)
        draws = [
            torch.cat([*drawn, drawn[0].expand(padding, *drawn[0].shape[1:])]).to(images.device)
            for drawn in zip(*rows, strict=True)
        ]
        network.use_noise(draws or None)
        return network(images).float().softmax(dim=1)


def network_to_noise(member: Member) -> Network:
    """The network in eval mode, with the rates of its training."""
    assert member.noise is not None
    info, noise = read_info(member.weights), member.noise
    network = build(
        info.architecture,
        len(info.classes),
        dropout=noise.dropout if noise.labeled.dropout else 0.0,
        stochastic_depth=noise.stochastic_depth if noise.labeled.stochastic_depth else 0.0,
    )
    import_weights(network, member.weights)
    return network.eval()


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(generator("noised teacher", key).integers(2**63)))
