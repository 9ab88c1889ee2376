"""What a network file says about its network; read from its first bytes, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors

from nst.errors import NstError
from nst.models.architectures import AnyArchitecture, architecture_from
from nst.models.weight_files import damaged, require_weights

FORMAT = 1
METADATA_KEY = "nst"  # one key only: safetensors writes several in no fixed order
TEMPERATURE = "temperature"  # in `extra` of an exported network: at which its confidences fit


@dataclass(frozen=True)
class NetworkInfo:
    """What a network file says about its network: enough to rebuild it, and facts about it.

    Args:
        architecture: how to rebuild it.
        classes: names in the order of the logits.
        image_size: px at which it is evaluated and labels.
        train_size: px at which it was trained.
        extra: anything else worth keeping, JSON-able.
    """

    architecture: AnyArchitecture
    classes: tuple[str, ...]
    image_size: int
    train_size: int
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
        architecture = architecture_from(record.pop("architecture"))
        return cls(architecture=architecture, classes=tuple(record.pop("classes")), **record)


def read_info(path: Path | str) -> NetworkInfo:
    """What `save_network` recorded, without reading the weights.

    Raises:
        NstError: no such file, not a whole safetensors file, or not one of ours.
    """
    path = existing_file(path)
    text = _description(path)
    if text is None:
        raise NstError(
            f"{path} holds weights but does not say of which network",
            valid="a file written by `nst train`",
            next="`nst evaluate model.checkpoint=<it>` reads released weights in timm's layout",
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


def is_ours(path: Path) -> bool:
    """Whether a file says of itself which network it holds, as those of `save_network` do.

    Raises:
        NstError: a .safetensors file that is not whole.
    """
    return path.suffix == ".safetensors" and _description(path) is not None


def _description(path: Path) -> str | None:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(METADATA_KEY)
    except (safetensors.SafetensorError, OSError) as error:
        require_weights(path)
        raise damaged(path, error) from error


def existing_file(path: Path | str) -> Path:
    """`path`, if there is a file; NstError, which names the network files nearby, if there is none."""
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
