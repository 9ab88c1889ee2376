"""Released weights in timm's layout, by name or from a file: a teacher that somebody else has trained.

The paper's own networks are timm's `tf_efficientnet_*.ns_jft_in1k`. The weights decide what they are, not their name.
The architecture is found by their shapes, and a network that expects another normalisation than ours is refused.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from timm.data import IMAGENET_DEFAULT_MEAN
from timm.models import get_pretrained_cfg
from torch import nn

from nst.atomic import known_sha256
from nst.documents import damaged, fingerprint, read_json
from nst.errors import NstError, nearest
from nst.models.architectures import ARCHITECTURES
from nst.models.checkpoints import copy_weights, load_network, outline, read_weights, recognize
from nst.models.efficientnet import EfficientNet, build
from nst.models.labels import assume_order, in_order_of, label_names
from nst.models.located import locate
from nst.models.network_info import NetworkInfo, is_ours
from nst.models.networks import Network
from nst.replaced import replaced

HUB_FORMS: dict[str, Callable[[Any], bool]] = {
    "mean": lambda value: _numbers(value, 3),
    "std": lambda value: _numbers(value, 3) and 0 not in value,
    "input_size": lambda value: _numbers(value, 3) and value[-1] >= 1,
    "test_input_size": lambda value: _numbers(value, 3) and value[-1] >= 1,
    "crop_pct": lambda value: _numbers([value], 1) and value > 0,
    "test_crop_pct": lambda value: _numbers([value], 1) and value > 0,
}
ENDPOINT = constants.ENDPOINT  # of the hub
OTHERS = "`nst evaluate` takes any network of timm's that lies in a folder together with its config.json"
HUB_PATIENCE = 5.0  # seconds to wait for it


def open_network(source: str | Path, classes: Sequence[str]) -> tuple[Network, NetworkInfo]:
    """The network that `source` stands for, in eval mode on the CPU, and what is known of it.

    Args:
        source: a run directory, a file of ours, or a file, hub folder or name of timm's.
        classes: names of timm's classes in the order of the logits; our files bring their own.

    Raises:
        NstError: nothing there, an unfinished run, or as `load_network` and `load_timm`.
    """
    place = locate(source)
    if isinstance(place, Path) and is_ours(place):
        return load_network(place)
    return load_timm(place, classes)


def weights_digest(source: str | Path) -> str:
    """What identifies the weights of a `source` of `open_network`, and which classes they say that they know."""
    place = locate(source)
    names = label_names(place) if isinstance(place, Path) and not is_ours(place) else None
    return digest_of(place) if names is None else fingerprint([digest_of(place), names])


def digest_of(place: Path | str) -> str:
    """What identifies weights that are found: sha256 of the file, or a hash of timm's name."""
    return known_sha256(place) if isinstance(place, Path) else fingerprint(["timm", place])


def require_released(name: str) -> str:
    """`name`, if it is one of `released_names`; NstError, which names the nearest, if not."""
    released = released_names()
    if name in released:
        return name
    raise NstError(
        f"there is no network {name}: no run, no file, no released one{nearest(name, released)}",
        valid=", ".join(known for known in released if ".ns_jft" in known),
    )


def load_timm(place: Path | str, classes: Sequence[str]) -> tuple[EfficientNet, NetworkInfo]:
    """Released weights in eval mode, at timm's test px (config.json beside a file), else the architecture's.

    Args:
        place: as `locate` answers: timm's name, such as `tf_efficientnet_b7.ns_jft_in1k` (downloaded), or the file.
        classes: names in the order of the logits.

    Raises:
        NstError: no download, another network, number of classes or normalisation.
    """
    source = str(place)
    if isinstance(place, str):
        config = require_imagenet_normalization(source, released_config(source))
        assume_order(source, source, classes)
        state = download(source).state_dict()
    else:
        config = require_imagenet_normalization(source, timm_config(place))
        state = read_weights(place)
        if (names := label_names(place)) is None:
            assume_order(source, place, classes)
        else:
            state = in_order_of(classes, names, state, ("classifier.weight", "classifier.bias"), source)
    architecture = recognize(state)
    if architecture is None:
        raise NstError(
            f"{source} is no network we know", got=outline(state), valid=", ".join(ARCHITECTURES), next=OTHERS
        )
    network = build(architecture, len(classes))
    copy_weights(network, state, source)
    size = config.get("input_size", [architecture.test_size])[-1]
    extra = {"imported_from": Path(source).name}
    info = NetworkInfo(architecture, tuple(classes), size, architecture.train_size, extra=extra)
    return network.eval(), info


def _numbers(value: Any, count: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    plain = isinstance(value, list | tuple) and all(type(number) in (int, float) for number in value)
    return plain and len(value) == count and all(map(math.isfinite, value))


def require_imagenet_normalization(source: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config` if its network sees images as `efficientnet.normalize` makes them (AdvProp's do not)."""
    if not has_imagenet_mean(config):
        raise NstError(
            f"{source} was trained on images normalised in another way",
            got=f"mean {tuple(config['mean'])}",
            valid=f"mean {IMAGENET_DEFAULT_MEAN}: weights tagged ns_jft_in1k, ra_in1k, aa_in1k or in1k",
        )
    return config


def has_imagenet_mean(config: Mapping[str, Any]) -> bool:
    return tuple(config.get("mean", IMAGENET_DEFAULT_MEAN)) == IMAGENET_DEFAULT_MEAN


def timm_config(path: Path) -> dict[str, Any]:
    """timm's `pretrained_cfg` from the config.json beside the weights; empty without one."""
    config = path.parent / "config.json"
    if not config.is_file():
        return {}
    return hub_document(config)["pretrained_cfg"]


def hub_document(config: Path) -> dict[str, Any]:
    """timm's config.json, with what we read of it in the form that it has.

    Raises:
        NstError: it has another one.
    """
    document = read_json(config, sealed=False, next="download it again, with its weights")
    found = document.setdefault("pretrained_cfg", {})
    wrong = ["pretrained_cfg"] if not isinstance(found, dict) else [
        name for name, fits in HUB_FORMS.items() if found.get(name) is not None and not fits(found[name])
    ]  # fmt: skip
    if not isinstance(document.get("model_args") or {}, dict):
        wrong.append("model_args")
    if wrong:
        raise damaged(config, f"{wrong[0]} is of another form than timm's", "download it again, with its weights")
    return document


def released_names() -> list[str]:
    """timm's names of the released networks we can hold."""
    names = timm.list_models("tf_efficientnet_*", pretrained=True)
    return [name for name in names if re.match(r"tf_efficientnet_(b[0-7]|l2)\.", name)]


def released_config(name: str) -> dict[str, Any]:
    """timm's `pretrained_cfg` of a released network: mean, input_size and the rest."""
    config = get_pretrained_cfg(name)
    return config.to_dict() if config else {}


def download(name: str) -> nn.Module:
    """timm's network of that name with its published weights: those downloaded before, or the hub's.

    Raises:
        NstError: they cannot be had.
    """
    try:
        try:
            with replaced(constants, "HF_HUB_OFFLINE", True):  # the client would try an unreachable hub for a minute
                return timm.create_model(name, pretrained=True)
        except EntryNotFoundError:  # not downloaded before
            if not _hub_answers():
                raise OSError(f"{ENDPOINT} does not answer, and the file was not downloaded before") from None
            return timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client and its transport each raise their own; all mean: no download
        raise NstError(
            f"cannot download {name}",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            next=f"on a machine that can: hf download timm/{name} --local-dir <folder>; then give that folder",
        ) from error


def _hub_answers() -> bool:
    """Whether a connection to the hub can be made; behind a proxy that is the proxy's business."""
    address = urlsplit(ENDPOINT)
    if address.scheme in getproxies() or "all" in getproxies():
        return True
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=HUB_PATIENCE).close()
    except OSError:
        return False
    return True
