"""Network files: averaged weights out and in (algorithm 1: the student becomes a teacher).

One safetensors file holds timm's names and, under the metadata key "nst", what is needed to rebuild the network and to
read its answers. The same network always gives the same bytes, so the sha256 of the file names the teacher wherever
its predictions go.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nst.atomic import atomic_path, known_sha256
from nst.errors import NstError
from nst.models.architectures import (
    ARCHITECTURES,
    HEAD_CHANNELS,
    STEM_CHANNELS,
    Architecture,
    block_counts,
)
from nst.models.efficientnet import EfficientNet
from nst.models.network_info import METADATA_KEY, NetworkInfo, existing_file, read_info
from nst.models.networks import Network, build
from nst.models.weight_files import damaged, require_weights, unreadable

WRAPPED = ("state_dict_ema", "model_ema", "state_dict", "model")  # weights in training states; averages go first
WRAPPERS = ("module.", "_orig_mod.")
COUNTER = "num_batches_tracked"  # a BatchNorm counter that released files may lack; nothing reads it


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
    return known_sha256(path)


def load_network(path: Path | str) -> tuple[Network, NetworkInfo]:
    """The network of a file of `save_network`, on the CPU in eval mode, and its info.

    Raises:
        NstError: as `read_info`, or the weights do not fit the info.
    """
    info = read_info(path)
    network = build(info.architecture, len(info.classes))
    import_weights(network, path)
    return network.eval(), info


def import_weights(network: Network, path: Path | str) -> None:
    """Copies the weights of a .safetensors or .pth file with timm's names (also ours) into `network`.

    Raises:
        NstError: no such file, unreadable, or weights of another network or number of classes.
    """
    path = existing_file(path)
    copy_weights(network, read_weights(path), str(path))


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


def outline(state: Mapping[str, Tensor]) -> str:
    """`efficientnet_b0: stem 32, 16 blocks, head 1280`, for messages."""
    stem, blocks, head = _shape_of(state)
    known = recognize(state)
    return f"{known.name if known else 'unknown'}: stem {stem}, {blocks} blocks, head {head}"


def copy_weights(network: Network, state: dict[str, Tensor], source: str) -> None:
    """Puts `state` into `network`; NstError, which names `source`, unless names and shapes are the network's."""
    _require_match(network, state, source)
    network.load_state_dict(state)  # strict; torch itself fills in BatchNorm counters that are missing


def _require_match(network: Network, state: Mapping[str, Tensor], source: str) -> None:
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
    heads = sorted(name for name in network.classifier_names if name.endswith("weight") and name in found)
    if heads and all(line.partition(":")[0] in network.classifier_names for line in wrong):
        raise NstError(
            f"{source}: another number of classes",
            got=found[heads[0]][0],
            valid=network.num_classes,
            next="use the class list it was trained with",
        )
    shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    raise NstError(
        f"{source}: weights of another network",
        got=f"{outline(state)} ({shown})" if isinstance(network, EfficientNet) else shown,
        valid=outline(network.state_dict()) if isinstance(network, EfficientNet) else network.architecture.name,
        next="choose the model the weights were made for",
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file by name, on the CPU; nothing in a .pth is executed.

    Of a training's state they are the moving average if there is one, as timm reads it.
    """
    require_weights(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with (
            torch.serialization.safe_globals([argparse.Namespace]),  # options that training scripts keep along
            warnings.catch_warnings(action="ignore"),  # of the pickle's age
        ):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose words advise to run what is in it
        raise unreadable(
            path,
            "what is in it is no tensors, but Python objects or something else that nst does not load",
            "save its tensors alone: torch.save(network.state_dict(), <file>)",
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise damaged(path, error) from error
    if isinstance(state, dict):
        state = next((state[name] for name in WRAPPED if isinstance(state.get(name), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise unreadable(path, "it holds something else than named tensors")
    return {_bare(name): value for name, value in state.items()}


def _bare(name: str) -> str:
    """A name without what DDP and torch.compile put before it."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name
