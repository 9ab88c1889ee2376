"""What a robustness evaluation consists of: suites, each of one or more parts that are evaluated and kept in turn.

    imagenet_a, ..._val, imagenet_real      one part: the set
    imagenet_c, imagenet_c_299, cifar_c     a part per corruption, its severities together
    imagenet_p, imagenet_p_299, cifar_p     a part per perturbation, noise: and difficulty
    c_onthefly                              a part per block of images, all corruptions of an image together
    p_onthefly                              a part per perturbation
    fgsm, pgd, ...                          a part per block of images

The one decision worth knowing: a part is what a killed evaluation loses at most. Corruptions on the fly are cut by
*images* and not by corruption, because an image is decoded once for all of them; counts of blocks add up. Attacks
have larger blocks: one picture per image, of which a small block would not fill a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nst.data.batches import View
from nst.data.transforms import CenterView
from nst.data.views import Framing, clean_view
from nst.robustness.options import RobustnessOptions
from nst.robustness.readers import ImageSet, stratified
from nst.robustness.results import Block
from nst.robustness.scorers import Scorer
from nst.settings.data import Pictures

BLOCK_IMAGES = 500  # of corruptions on the fly and attacks
BLOCKS, SMALLEST_BLOCK = 20, 50  # of corruptions on the fly, where there are less than 10,000 images
SHOWN_IMAGES = 120  # whose pictures and answers are kept, for galleries


@dataclass(frozen=True)
class Subject:
    """The network's view of the world, and what it is evaluated on.

    Args:
        classes: of the logits.
        image_size: px at which the network is evaluated.
        batch_size: pictures in a batch, nearly.
        clean: labeled images of ours; None: there are none.
        framing: how the network is shown photographs, if not as our own are.
    """

    classes: Sequence[str]
    image_size: int
    pictures: Pictures
    batch_size: int
    options: RobustnessOptions
    clean: ImageSet | None = None
    framing: Framing | None = None

    def view(self, side: int) -> CenterView:
        """The clean view of our own pictures at `side` px."""
        return clean_view(side, self.pictures, self.framing)

    def photograph(self) -> CenterView:
        """The clean view of a photograph of any size, whatever our own pictures are."""
        return clean_view(self.image_size, replace(self.pictures, small=False), self.framing)

    def resized(self, side: int) -> CenterView:
        """A whole picture at `side` px; untouched if it is that large."""
        return CenterView(side, crop="none", resize=self.pictures.resize)

    def subset(self, images: ImageSet, *, clips: bool = False) -> ImageSet:
        options = self.options
        most = options.max_clips if clips and options.max_clips is not None else options.max_images
        return images.subset(most, options.seed)


@dataclass(frozen=True)
class Pass:
    """One way through a set of images.

    Args:
        batch_size: images or clips.
        scorer: makes new sums.
        shown: numbers of the samples whose answers are kept, to be shown with their pictures.
        captions: of these, in their order: what they show.
    """

    images: ImageSet
    view: View
    batch_size: int
    scorer: Callable[[], Scorer]
    shown: Sequence[int] = ()
    captions: Sequence[str] = ()


class Suite(Protocol):
    """Parts that make one block of the result."""

    @property
    def name(self) -> str: ...

    def conditions(self) -> dict[str, Any]:
        """What its numbers depend on, the network apart."""
        ...

    def parts(self) -> list[str]: ...
    def open(self, part: str) -> Pass: ...

    def pictures(self) -> int:
        """Pictures that the network sees in all parts, nearly: for the time that is left."""
        ...

    def measured(self, parts: Mapping[str, Mapping[str, Any]]) -> Block:
        """What the parts have `kept`, put together; `nst.robustness.results` makes scores of it."""
        ...


def subset_facts(subject: Subject, images: ImageSet, *, clips: bool = False) -> dict[str, Any]:
    """How many images, and which, as a result states it."""
    options = subject.options
    most = options.max_clips if clips and options.max_clips is not None else options.max_images
    return {"images": len(images), "digest": images.digest, "max_images": most, "seed": options.seed}


def framing_facts(view: CenterView) -> dict[str, Any]:
    """How a view frames a picture, as a result states it."""
    return {"crop": view.crop, "resize": view.resize, "kept": view.kept}


def shown_images(images: ImageSet, seed: int, count: int = SHOWN_IMAGES) -> list[int]:
    """Some images of every class, to be shown."""
    return stratified(images.keys, images.classes, min(count, len(images)), seed).tolist()


def block_size(count: int) -> int:
    """Images of a block of `count` images with their corruptions: small where a kill would lose the most of them."""
    return min(max(count // BLOCKS, SMALLEST_BLOCK), BLOCK_IMAGES)


def image_blocks(images: ImageSet, size: int = BLOCK_IMAGES) -> dict[str, range]:
    """The images in blocks, by name."""
    starts = range(0, len(images), size)
    # counts of blocks add up: a file of a block of another size must not be taken for one of these
    of = "" if size >= min(BLOCK_IMAGES, len(images)) else f"-of-{size}"
    return {f"images-{start:06d}{of}": range(start, min(start + size, len(images))) for start in starts}
