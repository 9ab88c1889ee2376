"""One network or several that answer together: what each must be shown, and the mean of their probabilities.

Each may be asked several times, about the picture mirrored and turned.

Every network gets the picture as it was tested itself. Classes are told apart by name, so networks may have learned
them in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from nst.atomic import known_sha256
from nst.data.transforms import CenterView
from nst.data.views import ONCE, SeenAs, SideBySide, Turn, clean_view, turns
from nst.documents import read_config
from nst.errors import NstError, UsageError, require_choice
from nst.models.architectures import framing_at, require_size
from nst.models.checkpoints import load_network
from nst.models.network_info import NetworkInfo, read_info
from nst.settings.data import Pictures
from nst.settings.fields import made_of
from nst.settings.learning import Teaching
from nst.settings.network import Noise
from nst.shown import some

Order = tuple[int, ...] | None  # places of the first network's classes
Window = tuple[int, int] | None  # left and size in px
ViewOf = Callable[[Path, NetworkInfo], SeenAs]
One = TypeVar("One", bound=nn.Module)
Several = TypeVar("Several", bound=nn.Module)


@dataclass(frozen=True)
class Member:
    """One of the networks.

    Args:
        order: where each class of the first network stands in this one's answer; None: in the same place.
        noise: under which it answers, against the method; None: none.
        temperature: by which its logits are divided where it labels; see `nst.training.calibration`.
    """

    weights: Path
    view: SeenAs
    order: Order = None
    noise: Noise | None = None
    temperature: float = 1.0


class Question(NamedTuple):
    """What one answer of several is asked for: which part of the images, and how it is turned.

    Args:
        order: as a `Member`'s.
    """

    window: Window = None
    turn: Turn = Turn()
    order: Order = None


@dataclass(frozen=True)
class Ensemble:
    """Networks over the same classes, and what names them: the sha256 of each, joined by `+`.

    Args:
        turns: in which each network is shown a picture, one after the other.
    """

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    digest: str
    turns: tuple[Turn, ...] = ONCE

    @classmethod
    def of(cls, weights: Sequence[Path], view_of: ViewOf | None = None, turns: tuple[Turn, ...] = ONCE) -> Ensemble:
        """The networks of these files of ours.

        Args:
            view_of: how a network is shown a picture; None: as its file says.
            turns: see `turns_for`.

        Raises:
            NstError: a file that is none of ours, or networks over other classes.
        """
        infos = [read_info(path) for path in weights]
        first = infos[0].classes
        members = [
            Member(path, (view_of or own_view)(path, info), _order(first, info.classes, weights[0], path))
            for path, info in zip(weights, infos, strict=True)
        ]
        return cls(tuple(members), first, "+".join(map(known_sha256, weights)), turns)

    @cached_property
    def view(self) -> SeenAs | SideBySide:
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
        return self.asking(lambda member: load_network(member.weights)[0], MeanNetwork).eval()

    def asking(
        self, one: Callable[[Member], One], several: Callable[[Sequence[One], Sequence[Question]], Several]
    ) -> One | Several:
        """What `one` makes of a network; where there is more than one answer, what `several` makes of them all."""
        asked, questions = [], []
        for member, window in zip(self.members, self.windows, strict=True):
            asked += [one(member)] * len(self.turns)
            questions += [Question(window, turn, member.order) for turn in self.turns]
        return asked[0] if len(asked) == 1 else several(asked, questions)

    @property
    def image_size(self) -> int:
        """px, of the largest view."""
        return self.view.image_size

    def absolute(self) -> Ensemble:
        """The same, with paths that hold in another working directory."""
        return replace(self, members=tuple(replace(one, weights=one.weights.absolute()) for one in self.members))


def teachers(weights: Sequence[Path], how: Teaching, pictures: Sequence[Pictures]) -> Ensemble:
    """The teachers of these files, un-noised, each shown its kind of pictures at its own test size or another one.

    Raises:
        UsageError: all views are asked for, and there is but one.
    """
    turned, kind = turns_for(how.views, *pictures, option="teacher.views"), dict(zip(weights, pictures, strict=True))
    return Ensemble.of(weights, lambda path, info: view_at(info, how.image_size, kind[path]), turned)


def shown_to(weights: Sequence[Path], pictures: Pictures, *, typed: bool) -> list[Pictures]:
    """The kind of pictures that each teacher is shown: one alone these, each of several those that it was trained on.

    Args:
        typed: somebody has said on the command line which kind it is; it is shown to all.
    """
    if typed or len(weights) == 1:
        return [pictures] * len(weights)
    return [pictures_of(path, read_info(path)) for path in weights]


def differing(shown: Sequence[Pictures], pictures: Pictures) -> list[Pictures] | None:
    """The kinds where a picture looks otherwise to any of the networks than one of this kind; None where to none."""
    alike = all(clean_view(1, each) == clean_view(1, pictures) for each in shown)
    return None if alike else list(shown)


def ensemble_asked(weights: Sequence[Path], views: str) -> Ensemble:
    """The networks of these files, each shown pictures as it was tested itself; `views` as `predict.views`.

    Raises:
        UsageError: there is no such choice of views.
    """
    require_choice("views", views, ("one", "all"))
    pictures = [pictures_of(path, read_info(path)) for path in weights]
    return Ensemble.of(weights, turns=turns_for(views, *pictures, option="predict.views"))


def turns_for(views: str, *pictures: Pictures, option: str) -> tuple[Turn, ...]:
    """How often a picture is looked at: as it is, or in all views in which it shows the same class.

    Args:
        pictures: as each of the networks was trained to see them; what holds for all counts.
        option: that says `views`, on the command line.

    Raises:
        UsageError: all views are asked for, and there is but one.
    """
    if views == "one":
        return ONCE
    known = [turns(each) for each in pictures]
    found = tuple(turn for turn in known[0] if all(turn in other for other in known))
    if len(found) == 1:
        raise UsageError(
            "these pictures have one view only",
            got=f"{option}=all, where data.pictures.flip and data.pictures.turn are false",
            valid="pictures that show the same class when they are mirrored or turned",
            next=f"{option}=one",
        )
    return found


def seen_by(images: Tensor, window: Window, turn: Turn = ONCE[0]) -> Tensor:
    """The part of images (B, 3, H, W) that a network is shown, mirrored and turned."""
    if window is None and turn == ONCE[0]:
        return images
    if window is not None:
        left, size = window
        images = images[:, :, :size, left : left + size]
    if turn.mirrored:
        images = images.flip(3)
    return images.rot90(turn.quarters, (2, 3)).contiguous(memory_format=torch.channels_last)


def mean_of(probabilities: Sequence[Tensor], questions: Sequence[Question]) -> Tensor:
    """The mean (B, C) of what several networks say, each (B, C), over the classes of the first."""
    total = probabilities[0]
    for probs, asked in zip(probabilities[1:], questions[1:], strict=True):
        total = total + (probs if asked.order is None else probs[:, list(asked.order)])
    return total / len(probabilities)


class MeanNetwork(nn.Module):
    """Several networks as one: normalised images, as `Ensemble.view` shows them, to logits (B, C) float32.

    Their softmax is the mean of the networks' probabilities.
    """

    def __init__(self, networks: Sequence[nn.Module], questions: Sequence[Question]) -> None:
        super().__init__()
        self.networks, self.questions = nn.ModuleList(networks), questions

    def forward(self, images: Tensor) -> Tensor:
        asked = zip(self.networks, self.questions, strict=True)
        answers = [network(seen_by(images, one.window, one.turn)).float().softmax(dim=1) for network, one in asked]
        # a probability that has become 0 must stay finite: 0 times -inf is no loss
        return mean_of(answers, self.questions).clamp_min(torch.finfo(torch.float32).tiny).log()


def looking_at(network: nn.Module, turns: tuple[Turn, ...]) -> nn.Module:
    """A network that answers with the mean over these turns of an image; itself where there is one."""
    if len(turns) == 1:
        return network
    return MeanNetwork([network] * len(turns), [Question(turn=turn) for turn in turns]).eval()


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


def own_view(weights: Path, info: NetworkInfo) -> CenterView:
    """How a network is shown a picture, at its own test size."""
    return view_at(info, None, pictures_of(weights, info))


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
