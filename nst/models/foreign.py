"""Networks to be evaluated and nothing else: ours, the released ones, and any other of timm's.

Every network takes images normalised as ours are. One of timm's that expects another normalisation is wrapped, so that
corruptions and attacks are the same for all. What it expects of a photograph's crop and resizing comes with it as
`Framing`, which the views of `nst.data` take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from nst.documents import fingerprint
from nst.errors import NstError, nearest
from nst.models import released
from nst.models.architectures import framing_at, only_size
from nst.models.checkpoints import read_weights, recognize
from nst.models.labels import assume_order, in_order_of, label_names
from nst.models.located import HUB_FILES
from nst.models.network_info import is_ours
from nst.models.released import open_network
from nst.models.timm_architecture import framing_of
from nst.models.timm_layers import classifier_names
from nst.models.timm_network import Renormalize
from nst.settings.data import Framing

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".bin")
# arguments of timm.create_model that name files or other places
NO_SIZES = ("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation must know of a network: names of its logits, px at which it is tested, its framing of
    photographs where that is not ours, and the only px that it takes where it takes no others."""

    classes: tuple[str, ...]
    image_size: int
    framing: Framing | None = None
    only_size: int | None = None


def open_any(source: str | Path, classes: Sequence[str]) -> tuple[nn.Module, Evaluated]:
    """The network that `source` stands for, in eval mode on the CPU.

    Args:
        source: as of `open_network`; or the name of any pretrained network of timm's, or its weights beside its
            config.json as the hub lays them out: the folder, or the file in it.
        classes: names of timm's classes in the order of the logits; our files bring their own.

    Raises:
        NstError: as `open_network`; no download; weights that are not those of the architecture; a framing that we
            do not have.
    """
    found = _foreign(source)
    if found is None:
        network, ours = open_network(source, classes)
        known, size = ours.architecture, ours.image_size
        return network, Evaluated(ours.classes, size, framing_at(known, size), only_size(known))
    model: Any = released.download(found) if isinstance(found, str) else _from_files(found, classes)
    config: Mapping[str, Any] = dict(model.pretrained_cfg) if isinstance(found, str) else found.config
    if model.num_classes != len(classes):
        raise NstError(f"{source} has another number of classes", got=model.num_classes, valid=len(classes))
    size = int((config.get("test_input_size") or config["input_size"])[-1])  # as timm's validate.py
    free = not config.get("fixed_input_size") or (config.get("model_args") or {}).get("dynamic_img_size")
    only = None if free else size
    place = found if isinstance(found, str) else found.weights
    if isinstance(place, str) or label_names(place) is None:
        assume_order(str(source), place, classes)
    info = Evaluated(tuple(classes), size, framing_of(str(source), config, size), only)
    return nn.Sequential(Renormalize(config["mean"], config["std"]), model).eval(), info


def weights_digest(source: str | Path) -> str:
    """What identifies the weights of a `source` of `open_any`, and how they are to be used."""
    found = _foreign(source)
    if found is None:
        return released.weights_digest(source)
    if isinstance(found, str):
        return fingerprint(["timm", found])
    return fingerprint([released.weights_digest(found.weights), found.config])


@dataclass(frozen=True)
class HubFiles:
    """Weights of timm's, and what the config.json beside them says: `pretrained_cfg`, architecture, model_args."""

    weights: Path
    config: Mapping[str, Any]


def _foreign(source: str | Path) -> str | HubFiles | None:
    """timm's name, or the files, of a network that `open_network` does not know."""
    path, name = Path(source), str(source)
    weights = next((path / file for file in HUB_FILES if (path / file).is_file()), path)
    if weights.is_file() and weights.suffix in WEIGHT_SUFFIXES and (weights.parent / "config.json").is_file():
        if is_ours(weights):
            return None
        if released.has_imagenet_mean(released.timm_config(weights)) and recognize(read_weights(weights)) is not None:
            return None
        return HubFiles(weights, _hub_config(weights.parent / "config.json"))
    if path.exists() or "/" in name:
        return None
    if not timm.is_model_pretrained(name):
        if near := nearest(name, timm.list_models(pretrained=True)):
            raise NstError(f"{name} is neither a run, a file, nor a network of timm's{near}")
        return None
    ours = name in released.released_names() and released.has_imagenet_mean(released.released_config(name))
    return None if ours else name


def _hub_config(path: Path) -> dict[str, Any]:
    document = released.hub_document(path)
    found = {**document["pretrained_cfg"], "architecture": document.get("architecture")}
    missing = [name for name in ("architecture", "mean", "std", "input_size") if found.get(name) is None]
    if missing or not isinstance(found["architecture"], str):
        raise NstError(
            f"{path} is not timm's config.json",
            got=f"without {', '.join(missing)}" if missing else f"architecture={found['architecture']!r}",
            valid="architecture, and pretrained_cfg with mean, std and input_size",
        )
    return found | {"model_args": document.get("model_args") or {}}


def _network_of(files: HubFiles) -> str:
    """The name of a network of timm's, if config.json asks for no more than a network of such sizes.

    Raises:
        NstError: it names another place (`hf-hub:`, `local-dir:`), files, or what is none of a network's sizes.
    """
    name, arguments, path = files.config["architecture"], files.config["model_args"], files.weights.parent
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or not timm.is_model(name.partition(".")[0]):
        near = nearest(str(name), timm.list_models())
        raise NstError(f"{path / 'config.json'} names no network of timm's{near}", got=repr(name)[:200])
    plain = (bool, int, float, str, type(None))
    for option, value in dict(arguments).items():
        values = value if isinstance(value, list) else [value]
        if option in NO_SIZES or not all(isinstance(entry, plain) for entry in values):
            raise NstError(
                f"{path / 'config.json'} asks for more than a network",
                got=f"model_args.{option}={value!r}"[:200],
                valid="numbers and words that say how the network is built",
                next="remove it there, if the weights are of the network without it",
            )
    return name


def _from_files(files: HubFiles, classes: Sequence[str]) -> nn.Module:
    architecture, arguments = _network_of(files), {**files.config["model_args"], "num_classes": len(classes)}
    names = label_names(files.weights)
    try:
        model = timm.create_model(architecture, pretrained=False, **arguments)
        state = read_weights(files.weights)
        if names is not None:
            state = in_order_of(classes, names, state, classifier_names(model), str(files.weights.parent))
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:  # torch's of other weights, the network's of its arguments
        lines = str(error).splitlines()
        raise NstError(
            f"{files.weights} does not hold the weights of {architecture} with {len(classes)} classes",
            got=" ".join(line.strip() for line in lines[:2]),
        ) from error
    return model
