"""Data sets that torchvision fetches and checks."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nst.data.images import encode_png
from nst.data.layout import Contents, Entry
from nst.data.source import Source
from nst.documents import fingerprint
from nst.errors import NstError


def arrays(name: str, class_name: str, splits: Sequence[str], by_flag: bool) -> Callable[..., Source]:
    """A source over a torchvision data set that is one array; torchvision checks the MD5 of its files."""

    def build(root: str | Path = "datasets", download: bool = False) -> Source:
        def load(split: str) -> Any:
            import torchvision

            selected = {"train": split == "train"} if by_flag else {"split": split}
            try:
                return getattr(torchvision.datasets, class_name)(
                    root=str(Path(root).expanduser()), download=download, **selected
                )
            except (RuntimeError, urllib.error.URLError) as error:
                raise NstError(
                    f"{name} ({split}) is not in {root}",
                    got=error,
                    next="name the folder that holds it: data.source.root=..., or fetch it: data.source.download=true",
                ) from error

        return Source(name, fingerprint([name]), lambda: _concatenated(load, splits), lossless=True)

    build.__doc__ = f"torchvision's {class_name}: {', '.join(splits)}; downloaded only when told to."
    return build


def _concatenated(load: Callable[[str], Any], splits: Sequence[str]) -> Contents:
    entries: list[Entry] = []
    parts: list[np.ndarray] = []
    starts = [0]
    classes: tuple[str, ...] = ()
    for split in splits:
        data = load(split)
        pixels = data.data if data.data.shape[-1] == 3 else data.data.transpose(0, 2, 3, 1)
        labels = data.targets if hasattr(data, "targets") else data.labels
        classes = tuple(getattr(data, "classes", None) or map(str, range(10)))  # SVHN's classes are the digits
        entries += [
            Entry(f"{split}-{i:06d}", "png", int(label) if label >= 0 else None, split)
            for i, label in enumerate(labels)
        ]
        parts.append(pixels)
        starts.append(len(entries))

    def read(position: int) -> bytes:
        part = int(np.searchsorted(starts, position, side="right")) - 1
        return encode_png(parts[part][position - starts[part]])

    return Contents(classes, entries, read)
