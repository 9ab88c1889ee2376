"""Copies of released corruptions and sequences, or parts of copies: what they hold, and what of it can be scored.

Their pictures have been cropped before: they are shown as they are stored, or resized whole (`resize_to`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from nst.documents import fingerprint
from nst.errors import NstError
from nst.evaluation.suite import Subject
from nst.models.timm_architecture import require_only
from nst.progress import say
from nst.robustness import sets
from nst.robustness.image_sets import ImageSet
from nst.shown import some

Name = TypeVar("Name")
SIDES = {"imagenet_c": 224, "imagenet_c_299": 299, "imagenet_p": 224, "imagenet_p_299": 299, "cifar_c": 32,
         "cifar_p": 32}  # fmt: skip


def require_found(suite: str, what: str, folder: str, found: object, names: Sequence[str]) -> None:
    """Raises NstError where nothing was found; else says which folders are left out: a misspelt one is missed else."""
    strange = sets.strange_names(folder)
    if not found:
        raise NstError(
            f"{suite}: no {what} in {folder}",
            got=", ".join(strange) or None,
            valid=f"{'files' if suite.startswith('cifar') else 'folders'} of {', '.join(names)}",
            next=sets.mistaken_kind(suite, folder),
        )
    if strange:
        say(f"{suite}: left out of {folder}: {some(strange)}")


def copy_facts(
    suite: str, subject: Subject, first: ImageSet, held: object, listed: Mapping[Any, tuple[int, str]], **clips: bool
) -> dict[str, Any]:
    """The conditions of a copy.

    Args:
        first: one of its sets, as it is shown.
        held: what the copy consists of.
        listed: samples of each of its sets, and which: any of them may be replaced or unpacked further.

    Raises:
        NstError: pictures of another size than this benchmark's, or than the network takes.
    """
    side = require_side(suite, first)
    shown, only = subject.options.resize_to or side, subject.only_size
    require_only(only, shown, f"the network that {suite} is shown to", way_out=f"eval.resize_to={only}")
    facts, most = subject.facts(first, **clips), max(count for count, _ in listed.values())
    facts["images"] = most if facts["max_images"] is None else min(most, facts["max_images"])
    facts["digest"] = fingerprint([digest for _, digest in listed.values()])
    return facts | {"held": held, "side": side, "shown_at": shown}


def incomplete(listed: Mapping[Name, tuple[int, str]]) -> list[Name]:
    """The sets with fewer samples than others, whose scores are of other samples than theirs."""
    most = max(count for count, _ in listed.values())
    return [name for name, (count, _) in listed.items() if count < most]


def tell_incomplete(suite: str, samples: str, names: Sequence[str]) -> None:
    if names:
        say(f"{suite}: fewer {samples} than elsewhere, not scored: {some(names)}")


def require_side(suite: str, images: ImageSet) -> int:
    """Side in px of the stored pictures.

    Raises:
        NstError: they are not those of this benchmark, whose results would have another name.
    """
    height, width = images.picture_size()
    if (height, width) != (SIDES[suite], SIDES[suite]):
        raise NstError(
            f"{suite} consists of images of {SIDES[suite]} x {SIDES[suite]} px",
            got=f"{width} x {height} px",
            next="ImageNet-C and -P of 299 px are eval.imagenet_c_299 and eval.imagenet_p_299",
        )
    return height
