"""One network or several that answer together: what each must be shown, and the mean of their probabilities.

Every network gets the picture as it was tested itself. Classes are told apart by name, so networks may have learned
them in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from nst.atomic import known_sha256
from nst.data.transforms import CenterView
from nst.data.views import SideBySide, clean_view
from nst.documents import read_config
from nst.errors import NstError
from nst.models.architectures import framing_at, require_size
from nst.models.checkpoints import load_network
from nst.models.network_info import NetworkInfo, read_info
from nst.settings.data import Pictures
from nst.settings.fields import made_of
from nst.shown import some

Order = tuple[int, ...] | None  # places of the first network's classes
Window = tuple[int, int] | None  # left and size in px
ViewOf = Callable[[Path, NetworkInfo], CenterView]


@dataclass(frozen=True)
class Member:
    """One of the networks.

    Args:
        order: where each class of the first network stands in this one's answer; None: in the same place.
    """

    weights: Path
    view: CenterView
    order: Order = None


@dataclass(frozen=True)
class Ensemble:
    """Networks over the same classes, and what names them: the sha256 of each, joined by `+`."""

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, weights: Sequence[Path], view_of: ViewOf | None = None) -> Ensemble:
        """The networks of these files of ours.

        Args:
            view_of: how a network is shown a picture; None: as its file says.

        Raises:
            NstError: a file that is none of ours, or networks over other classes.
        """
        infos = [read_info(path) for path in weights]
        first = infos[0].classes
        members = [
            Member(path, (view_of or own_view)(path, info), _order(first, info.classes, weights[0], path))
            for path, info in zip(weights, infos, strict=True)
        ]
        return cls(tuple(members), first, "+".join(map(known_sha256, weights)))

    @cached_property
    def view(self) -> CenterView | SideBySide:
        """How the networks are shown a picture: in one view, or in several side by side."""
        views = tuple(dict.fromkeys(member.view for member in self.members))
        return views[0] if len(views) == 1 else SideBySide(views)

    @property
    def windows(self) -> list[Window]:
        """Which part of `view` each of the networks is shown; None: all."""
        if not isinstance(self.view, SideBySide):
            return [None] * len(self.members)
        places = dict(zip(self.view.views, self.view.windows, strict=True))
        return [places[member.view] for member in self.members]

    def network(self) -> nn.Module:
        """The network, or several as one, on the CPU in eval mode: normalised images, seen by `view`, to logits."""
        networks = [load_network(member.weights)[0] for member in self.members]
        return networks[0] if len(networks) == 1 else MeanNetwork(networks, self.windows, self.orders).eval()

    @property
    def orders(self) -> list[Order]:
        """See `Member`."""
        return [member.order for member in self.members]

    @property
    def image_size(self) -> int:
        """px, of the largest view."""
        return self.view.image_size

    def absolute(self) -> Ensemble:
        """The same, with paths that hold in another working directory."""
        return replace(self, members=tuple(replace(one, weights=one.weights.absolute()) for one in self.members))


def seen_by(images: Tensor, window: Window) -> Tensor:
    """The part of images (B, 3, H, W) that a network is shown."""
    if window is None:
        return images
    left, size = window
    return images[:, :, :size, left : left + size].contiguous(memory_format=torch.channels_last)


def mean_of(probabilities: Sequence[Tensor], orders: Sequence[Order]) -> Tensor:
    """The mean (B, C) of what several networks say, each (B, C), over the classes of the first."""
    total = probabilities[0]
    for probs, order in zip(probabilities[1:], orders[1:], strict=True):
        total = total + (probs if order is None else probs[:, list(order)])
    return total / len(probabilities)


class MeanNetwork(nn.Module):
    """Several networks as one: normalised images, as `Ensemble.view` shows them, to logits (B, C) float32.

    Their softmax is the mean of the networks' probabilities.
    """

    def __init__(self, networks: Sequence[nn.Module], windows: Sequence[Window], orders: Sequence[Order]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.windows, self.orders = windows, orders

    def forward(self, images: Tensor) -> Tensor:
        shown = zip(self.networks, self.windows, strict=True)
        answers = [network(seen_by(images, window)).float().softmax(dim=1) for network, window in shown]
        # a probability that has become 0 must stay finite: 0 times -inf is no loss
        return mean_of(answers, self.orders).clamp_min(torch.finfo(torch.float32).tiny).log()


def _order(first: Sequence[str], classes: Sequence[str], one: Path, other: Path) -> Order:
    if tuple(classes) == tuple(first):
        return None
    if set(classes) != set(first) or len(classes) != len(first):
        only = [sorted(set(mine) - set(yours)) for mine, yours in ((first, classes), (classes, first))]
        raise NstError(
            "networks over other classes cannot answer together",
            got=f"{some(only[0]) or 'nothing'} only in {one}; {some(only[1]) or 'nothing'} only in {other}",
            valid="networks that were trained on the same classes",
            next="ask each by itself",
        )
    places = {name: place for place, name in enumerate(classes)}
    return tuple(places[name] for name in first)


def own_view(weights: Path, info: NetworkInfo, *, image_size: int | None = None) -> CenterView:
    """How a network is shown a picture, at its own test size or another one (px)."""
    return view_at(info, image_size, pictures_of(weights, info))


def view_at(info: NetworkInfo, image_size: int | None, pictures: Pictures) -> CenterView:
    """How a network is shown such pictures, at its own test size or another one (px).

    Raises:
        UsageError: it cannot take images of that size.
    """
    size = image_size or info.image_size
    require_size(info.architecture, size)
    return clean_view(size, pictures, framing_at(info.architecture, size))


def pictures_of(weights: Path, info: NetworkInfo) -> Pictures:
    """The kind of pictures that a network was trained on, by its file; older files leave it to the run around them.

    Raises:
        NstError: a config.yaml that is damaged.
    """
    if (kept := info.extra.get("pictures")) is not None:
        return _pictures(weights, kept)
    config = weights.parent.parent / "config.yaml"
    if weights.parent.name == "checkpoints" and config.exists():
        return _pictures(config, read_config(config)["data"]["pictures"])
    return Pictures(small=getattr(info.architecture, "small_images", False))


def _pictures(source: Path, values: dict[str, object]) -> Pictures:
    try:
        return made_of(Pictures, values)
    except (NstError, TypeError, AttributeError) as error:
        raise NstError(
            f"{source} describes its pictures in words that this version does not know",
            got=str(values)[:200],
            next="read it with the version of nst that wrote it",
        ) from error
