"""Finds the logit of each class: from the names that a released set uses to positions in a network's class list.

A class is found by its name, never by the place of its folder, so a partial copy keeps its labels, and so does a
network whose classes stand in another order. ImageNet's 1,000 names are WordNet ids; timm has them in the order of its
networks' logits, and `imagenet_wnids` is the class list to open those with.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources

from nst.errors import NstError

WNID = re.compile(r"n\d{8}")
# sha256 of the 200 indices of a set, in one line with spaces; they are timm's and the authors' own
SUBSETS = {
    "imagenet_a": "1b241a7a5dd979915eb636c88078b130f6f655dad0fb7a6785b720833e15b78d",
    "imagenet_r": "becd1bb8e8059908b3c1d6d4d480159e759cf818e604dc089ca612949589a465",
}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes in the order of the published labels (sorted)."""
    from timm.data import ImageNetInfo  # here, because it brings torch and takes seconds

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@functools.cache
def subset_wnids(name: str) -> tuple[str, ...]:
    """The 200 classes of `imagenet_a` or `imagenet_r`, in the order of their folders.

    Raises:
        NstError: an installed list that is not the published one.
    """
    indices, wnids = zip(*(line.split() for line in _lines(f"{name}.txt")), strict=True)
    found = hashlib.sha256(" ".join(indices).encode()).hexdigest()
    if found != SUBSETS[name] or wnids != tuple(imagenet_wnids()[int(index)] for index in indices):
        raise NstError(
            f"the list of the classes of {name} has changed",
            got=f"sha256 {found} of {len(indices)} indices",
            valid=SUBSETS[name],
            next="reinstall nst",
        )
    return wnids


def readable_names(classes: Sequence[str]) -> list[str]:
    """Class names for people, each once: of ImageNet's wnids timm's first word for them, others as they are.

    Two classes that share a word (crane, maillot) have their wnid behind it.
    """
    if not all(WNID.fullmatch(name) for name in classes) or not set(classes) <= set(imagenet_wnids()):
        return list(classes)
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    words = [info.label_name_to_description(name, detailed=False).split(",")[0] for name in imagenet_wnids()]
    counts, by_wnid = Counter(words), dict(zip(imagenet_wnids(), words, strict=True))
    return [word if counts[word := by_wnid[name]] == 1 else f"{word} ({name})" for name in classes]


def imagenet_positions(classes: Sequence[str]) -> dict[str, int]:
    """Position in a network's class list of each wnid it knows.

    Args:
        classes: wnids in any order, also some of the 1,000; or the indices "0" to "999" of the published order.

    Raises:
        NstError: other names.
    """
    wnids = imagenet_wnids()
    positions = {name: position for position, name in enumerate(classes)}
    if all(WNID.fullmatch(name) for name in classes):
        return positions
    if set(classes) == set(map(str, range(len(wnids)))):
        return {wnid: positions[str(index)] for index, wnid in enumerate(wnids)}
    raise NstError(
        "the network's classes are not ImageNet's",
        got=f"{len(classes)} classes: {', '.join(list(classes)[:4])}, ...",
        valid=f"wnids: {', '.join(wnids[:4])}, ...; or 0, 1, ..., {len(wnids) - 1}",
        next="a released network takes its names from the shards it is opened with: name their classes by wnid",
    )


def subset_positions(name: str, classes: Sequence[str]) -> list[int]:
    """Positions in a network's class list of the 200 classes of `imagenet_a` or `imagenet_r`.

    Raises:
        NstError: as `imagenet_positions`, or the network lacks one of them.
    """
    positions = imagenet_positions(classes)
    wnids = subset_wnids(name)
    unknown = [wnid for wnid in wnids if wnid not in positions]
    if unknown:
        raise NstError(
            f"the network does not know all classes of {name}",
            got=f"{len(unknown)} of {len(wnids)} are missing, such as {', '.join(unknown[:4])}",
            valid="a network of ImageNet's 1,000 classes",
        )
    return [positions[wnid] for wnid in wnids]


def cifar_positions(classes: Sequence[str]) -> list[int]:
    """Position in a network's class list of each of CIFAR-10's or CIFAR-100's labels, by the number of classes.

    Args:
        classes: the published names in any order, or the labels "0", "1", ... themselves.

    Raises:
        NstError: other names or another number of them.
    """
    names = _lines("cifar100.txt") if len(classes) == 100 else CIFAR10
    for published in (names, tuple(map(str, range(len(names))))):
        if set(classes) == set(published):
            return [list(classes).index(name) for name in published]
    raise NstError(
        "the network's classes are not CIFAR's",
        got=f"{len(classes)} classes: {', '.join(list(classes)[:4])}, ...",
        valid=", ".join(names),
    )


def _lines(name: str) -> tuple[str, ...]:
    return tuple((resources.files("nst.robustness") / name).read_text(encoding="ascii").splitlines())
