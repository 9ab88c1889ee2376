"""Network files: EMA weights out, EMA and released weights in (algorithm 1: the student becomes a teacher).

One safetensors file holds timm's names and, under the metadata key "nst", what is needed to rebuild the
network and to read its answers. The one decision worth knowing: the same network always gives the same
bytes, so the sha256 of the file names the teacher wherever its predictions go.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN
from timm.models import get_pretrained_cfg
from torch import Tensor

from nst.errors import NstError, nearest
from nst.models.efficientnet import (
    ARCHITECTURES,
    HEAD_CHANNELS,
    STEM_CHANNELS,
    Architecture,
    EfficientNet,
    block_counts,
    build,
)
from nst.runs import atomic_path, fingerprint, sha256_file

FORMAT = 1
METADATA_KEY = "nst"  # one key only: safetensors writes several in no fixed order
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".bin")
COUNTER = "num_batches_tracked"  # a BatchNorm counter that released files may lack; nothing reads it


@dataclass(frozen=True)
class NetworkInfo:
    """What a network file says about its network: enough to rebuild it, and facts about it.

    Args:
        architecture: how to rebuild it.
        classes: names in the order of the logits.
        image_size: px at which it is evaluated and labels.
        train_size: px at which it was trained.
        generation: 0 for the first teacher, None where it does not apply.
        extra: anything else worth keeping, JSON-able.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    image_size: int
    train_size: int
    generation: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical: equal infos, equal text."""
        record = {"format": FORMAT, "num_classes": len(self.classes), **asdict(self)}
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> NetworkInfo:
        record = json.loads(text)
        if record.pop("format") != FORMAT:
            raise ValueError("format")
        record.pop("num_classes")
        architecture = Architecture(**record.pop("architecture"))
        return cls(architecture=architecture, classes=tuple(record.pop("classes")), **record)


def class_digest(classes: Sequence[str]) -> str:
    """sha256 of the class names in their order: equal digests, comparable logits."""
    return fingerprint(list(classes))


def save_network(path: Path | str, state_dict: Mapping[str, Tensor], info: NetworkInfo) -> str:
    """Writes weights and info as one safetensors file, at once or not at all; returns its sha256.

    Raises:
        NstError: the weights are not those of `info`'s architecture and classes, or the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with torch.device("meta"):
        network = build(info.architecture, len(info.classes))
    _require_match(network, tensors, f"the weights for {path}")
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={METADATA_KEY: info.to_json()})
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error  # what atomic_path explains: no room, no permission
    return sha256_file(path)


def read_info(path: Path | str) -> NetworkInfo:
    """What `save_network` recorded, without reading the weights.

    Raises:
        NstError: no such file, not a whole safetensors file, or not one of ours.
    """
    path = _existing(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if text is None:
        raise NstError(
            f"{path} holds weights but does not say of which network",
            valid="a file written by `nst train`",
            next="released weights in timm's layout are imported by load_timm",
        )
    try:
        return NetworkInfo.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise NstError(
            f"{path} describes its network in a way this version does not know",
            got=text[:200],
            valid=f"format {FORMAT}",
            next="read it with the version of nst that wrote it",
        ) from error


def load_network(path: Path | str) -> tuple[EfficientNet, NetworkInfo]:
    """The network of a file of `save_network`, on the CPU in eval mode, and its info.

    Raises:
        NstError: as `read_info`, or the weights do not fit the info.
    """
    info = read_info(path)
    network = build(info.architecture, len(info.classes))
    import_weights(network, path)
    return network.eval(), info


def import_weights(network: EfficientNet, path: Path | str) -> None:
    """Copies the weights of a .safetensors or .pth file with timm's names (also ours) into `network`.

    Raises:
        NstError: no such file, unreadable, or weights of another network or number of classes.
    """
    path = _existing(path)
    _copy_weights(network, _read_weights(path), str(path))


def load_timm(
    name_or_path: str | Path,
    classes: Sequence[str],
    *,
    architecture: Architecture | None = None,
    image_size: int | None = None,
) -> tuple[EfficientNet, NetworkInfo]:
    """Released weights, by timm's name (downloaded) or from a file or folder in timm's layout; in eval mode.

    Args:
        name_or_path: such as `tf_efficientnet_b7.ns_jft_in1k`, or a .safetensors or .pth file, or its folder.
        classes: names in the order of the logits.
        architecture: None finds it by the shapes of the weights.
        image_size: test px; None takes timm's (config.json beside a file), else the architecture's.

    Raises:
        NstError: neither a file nor a known name, no download, another network, number of classes or
            normalisation.
    """
    source = str(name_or_path)
    released = _released()
    if source in released:
        config = _require_imagenet_normalization(source, _released_config(source))
        state = _download(source)
    elif Path(source).exists() or Path(source).suffix in WEIGHT_SUFFIXES:
        path = _file_in(Path(source))
        config = _require_imagenet_normalization(source, _timm_config(path))
        state = _read_weights(path)
    else:
        raise NstError(
            f"{source} is neither a file nor a released network{nearest(source, released)}",
            valid=", ".join(name for name in released if ".ns_jft" in name),
        )
    architecture = architecture or recognize(state)
    if architecture is None:
        raise NstError(f"{source} is no network we know", got=_outline(state), valid=", ".join(ARCHITECTURES))
    network = build(architecture, len(classes))
    _copy_weights(network, state, source)
    size = image_size or config.get("input_size", [architecture.test_size])[-1]
    extra = {"imported_from": Path(source).name}
    info = NetworkInfo(architecture, tuple(classes), size, architecture.train_size, extra=extra)
    return network.eval(), info


def _require_imagenet_normalization(source: str, config: dict[str, Any]) -> dict[str, Any]:
    """`config` if its network sees images as `efficientnet.normalize` makes them (AdvProp's do not)."""
    mean = tuple(config.get("mean", IMAGENET_DEFAULT_MEAN))
    if mean != IMAGENET_DEFAULT_MEAN:
        raise NstError(
            f"{source} was trained on images normalised in another way",
            got=f"mean {mean}",
            valid=f"mean {IMAGENET_DEFAULT_MEAN}: weights tagged ns_jft_in1k, ra_in1k, aa_in1k or in1k",
        )
    return config


def recognize(state: Mapping[str, Tensor]) -> Architecture | None:
    """The known architecture with this state dict's stem, blocks and head; None if there is none.

    Strides leave no trace in the weights: a small-image variant is taken for its full-size sibling.
    """
    found = _shape_of(state)
    return next((known for known in ARCHITECTURES.values() if _expected_shape(known) == found), None)


def _shape_of(state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """(stem channels, residual blocks, head channels); 0 where the names are not timm's."""
    matches = (re.match(r"blocks\.\d+\.\d+\.", name) for name in state)
    blocks = {match.group() for match in matches if match}
    stem, head = (state[name].shape[0] if name in state else 0 for name in ("conv_stem.weight", "conv_head.weight"))
    return stem, len(blocks), head


def _expected_shape(architecture: Architecture) -> tuple[int, int, int]:
    stem, head = architecture.channels(STEM_CHANNELS), architecture.channels(HEAD_CHANNELS)
    return stem, sum(block_counts(architecture)), head


def _outline(state: Mapping[str, Tensor]) -> str:
    """`efficientnet_b0: stem 32, 16 blocks, head 1280`, for messages."""
    stem, blocks, head = _shape_of(state)
    known = recognize(state)
    return f"{known.name if known else 'unknown'}: stem {stem}, {blocks} blocks, head {head}"


def _copy_weights(network: EfficientNet, state: dict[str, Tensor], source: str) -> None:
    _require_match(network, state, source)
    network.load_state_dict(state)  # strict; torch itself fills in BatchNorm counters that are missing


def _require_match(network: EfficientNet, state: Mapping[str, Tensor], source: str) -> None:
    """Raises NstError unless names and shapes are the network's."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [
        f"{name}: {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in [*expected, *(name for name in found if name not in expected)]
        if found.get(name) != expected.get(name) and not (name.endswith(COUNTER) and name not in found)
    ]
    if not wrong:
        return
    if all(line.startswith("classifier.") for line in wrong) and "classifier.weight" in found:
        raise NstError(
            f"{source}: another number of classes",
            got=found["classifier.weight"][0],
            valid=network.num_classes,
            next="use the class list it was trained with",
        )
    shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    raise NstError(
        f"{source}: weights of another network",
        got=f"{_outline(state)} ({shown})",
        valid=_outline(network.state_dict()),
        next="choose the model the weights were made for",
    )


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    near = sorted(str(file) for file in folder.glob("*.safetensors"))
    raise NstError(
        f"{path} is {'a folder' if path.is_dir() else 'not there'}",
        valid=f"a network file; nearby: {', '.join(near[:8]) or 'none'}",
        next="give the path of the file that `nst train` reported",
    )


def _unreadable(path: Path, error: Exception) -> NstError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return NstError(
        f"{path} is not a whole network file",
        got=f"{path.stat().st_size} bytes; {reason}",
        valid="a complete .safetensors file, or a .pth file of tensors",
        next="copy or download it again",
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file by name, on the CPU; nothing in a .pth is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise _unreadable(path, error) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _unreadable(path, TypeError("it holds something else than named tensors"))
    return dict(state)


def _file_in(path: Path) -> Path:
    """The file itself, or the one in a folder as the hub lays it out."""
    inside = [path / name for name in ("model.safetensors", "pytorch_model.bin")]
    return next((file for file in inside if file.is_file()), None) or _existing(path)


def _timm_config(path: Path) -> dict[str, Any]:
    """timm's `pretrained_cfg` from the config.json beside the weights; empty without one."""
    config = path.parent / "config.json"
    if not config.is_file():
        return {}
    try:
        return dict(json.loads(config.read_text(encoding="utf-8")).get("pretrained_cfg", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise NstError(f"{config} is not timm's config.json", got=error, next="repair or remove it") from error


def _released() -> list[str]:
    """timm's names of the released networks we can hold."""
    names = timm.list_models("tf_efficientnet_*", pretrained=True)
    return [name for name in names if re.match(r"tf_efficientnet_(b[0-7]|l2)\.", name)]


def _released_config(name: str) -> dict[str, Any]:
    config = get_pretrained_cfg(name)
    return config.to_dict() if config else {}


def _download(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client and its transport each raise their own; all mean: no download
        raise NstError(
            f"cannot download {name}",
            got=f"{type(error).__name__}: {error}",
            next="fetch the file on a machine that can, and give its path",
        ) from error
