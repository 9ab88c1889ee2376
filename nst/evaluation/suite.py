"""An evaluation of robustness: suites, whose parts are opened, counted and kept in turn.

    imagenet_a, ..._val, imagenet_real      one part: the set
    imagenet_c, imagenet_c_299, cifar_c     a part per corruption, its severities together
    imagenet_p, imagenet_p_299, cifar_p     a part per perturbation, noise: and difficulty
    c_onthefly                              a part per block of images, all corruptions of an image together
    p_onthefly                              a part per perturbation
    fgsm, pgd, ...                          a part per block of images

A part is what a killed evaluation loses at most. Corruptions on the fly are cut by *images* and not by corruption,
because an image is decoded once for all of them; counts of blocks add up. Attacks have larger blocks: one picture per
image, of which a small block would not fill a batch.

A module of this package holds one kind of suites whole: how they open, how a batch is counted, what the counts come
to, and the names of these scores in results and reports. Reports read it too, so torch is loaded where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nst.data.transforms import CenterView
from nst.data.views import clean_view
from nst.robustness.image_sets import ImageSet, stratified
from nst.settings.data import Framing, Pictures

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nst.data.batches import Batch, View
    from nst.metrics import RunningSums
    from nst.robustness.baselines import Baseline
    from nst.robustness.options import RobustnessOptions

Block = dict[str, Any]  # what a result says of a suite
Kept = Mapping[str, Mapping[str, Any]]  # what its parts have left in their files, by name of the part
Row = tuple[str, float | None, str, float]  # condition, level, metric, value
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
        only_size: px that the network takes, if it takes no others.
        looks: views of a picture over which the network's answer is the mean.
    """

    classes: Sequence[str]
    image_size: int
    pictures: Pictures
    batch_size: int
    options: RobustnessOptions
    clean: ImageSet | None = None
    framing: Framing | None = None
    only_size: int | None = None
    looks: int = 1

    @property
    def side(self) -> int:
        """px at which our own pictures are corrupted and perturbed."""
        return self.options.side or self.image_size

    def view(self, side: int) -> CenterView:
        """The clean view of our own pictures at `side` px."""
        return clean_view(side, self.pictures, self.framing)

    def photograph(self) -> CenterView:
        """The clean view of a photograph of any size, whatever our own pictures are."""
        return clean_view(self.image_size, replace(self.pictures, small=False), self.framing)

    def resized(self, side: int) -> CenterView:
        """A whole picture at `side` px; untouched if it is that large."""
        return CenterView(side, crop="none", resize=self.pictures.resize)

    def most(self, clips: bool = False) -> int | None:
        """Images, or clips, that are taken of a set at most; None: all."""
        options = self.options
        return options.max_clips if clips and options.max_clips is not None else options.max_images

    def subset(self, images: ImageSet, *, clips: bool = False) -> ImageSet:
        return images.subset(self.most(clips), self.options.seed)

    def facts(self, images: ImageSet, *, clips: bool = False) -> dict[str, Any]:
        """How many images, and which, as a result states it."""
        return {"images": len(images), "digest": images.digest, "max_images": self.most(clips),
                "seed": self.options.seed}  # fmt: skip

    def folders(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Those of the named released sets whose folder is given, and the folder."""
        given = ((name, getattr(self.options, name)) for name in names)
        return [(name, folder) for name, folder in given if folder is not None]


class Scorer:
    """Sums of one pass over some batches (see `ImageSetBatches`).

    Args:
        parts: what is summed, by name.
    """

    def __init__(self, **parts: RunningSums) -> None:
        self.parts = parts

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Counts a batch: logits (N * T, C) of its pictures; returns those that are shown as answers."""
        raise NotImplementedError

    def add(self, network: nn.Module, batch: Batch) -> Tensor | None:
        """Counts a batch; returns confidence and predicted class of its pictures, (N * T, 2), where there is one."""
        from nst.robustness.logits import full_logits, guesses

        return guesses(self.count(full_logits(network, batch["images"]), batch))

    def moved(self, send: Callable[[Tensor], Tensor]) -> Self:
        for part in self.parts.values():
            part.moved(send)
        return self

    def state(self) -> dict[str, Tensor]:
        """All sums: reduce each over ranks by addition, in place."""
        return {f"{name}.{key}": sums for name, part in self.parts.items() for key, sums in part.state().items()}

    def kept(self) -> dict[str, Any]:
        """What a file keeps of a pass: its sums as plain numbers, to which those of others are added. Synchronises."""
        return {"counts": {name: sums.tolist() for name, sums in self.state().items()}}

    def with_counts(self, files: Iterable[Mapping[str, Any]]) -> Self:
        """The same after adding what several passes have `kept`."""
        for kept in files:
            for name, sums in self.state().items():
                sums += sums.new_tensor(kept["counts"][name])
        return self


@dataclass(frozen=True)
class Pass:
    """One way through a set of images.

    Args:
        batch_size: images or clips.
        scorer: counts it.
        shown: numbers of the samples whose answers are kept, to be shown with their pictures → what they show.
    """

    images: ImageSet
    view: View
    batch_size: int
    scorer: Scorer
    shown: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Parts that make one block of the result.

    Args:
        conditions: what its numbers depend on, the network apart.
        parts: their names, in order.
        open: a part, by its name.
        pictures: that the network sees in all parts, nearly: for the time that is left.
        measured: what the parts have `kept`, put together: the block before its scores (`SuiteKind.scored`).
    """

    name: str
    conditions: Mapping[str, Any]
    parts: Sequence[str]
    open: Callable[[str], Pass]
    pictures: int
    measured: Callable[[Kept], Block]


class SuiteKind:
    """How the blocks of one kind of suites are read: from what was measured to scores, and their names.

    `headlines` are the keys of a block's main numbers, and what a report calls them; those without a title are in
    results only. `short` are their names in flat results, where these differ. `in_words` are numbers of the `series`
    that `stated` has in words. `row` are numbers that a network has one column each for in reports: column → key; they
    are those of the first of `suites` that was measured whole. `figures` are what a report draws of each suite.
    """

    headlines: ClassVar[Mapping[str, str]] = {}
    short: ClassVar[Mapping[str, str]] = {}
    in_words: ClassVar[Sequence[str]] = ()
    suites: ClassVar[Sequence[str]] = ()
    row: ClassVar[Mapping[str, str]] = {}
    row_suite = ""  # the column for the suite's name
    figures: ClassVar[Sequence[str]] = ()
    samples = "images"

    def scored(
        self, name: str, measured: Block, clean_error: float | None, published: Baseline | None, other: Block | None
    ) -> Block:
        """The block with its scores.

        Args:
            clean_error: top-1 error in percent on clean images, of suites that have measured none themselves.
            published: the network by which the benchmark's numbers are divided; None where that is not due.
            other: the same suite's block of another run, by which ours is divided.
        """
        return measured

    def series(self, block: Block) -> Mapping[str, float | None]:
        """A number per corruption, perturbation or epsilon, by name."""
        return {}

    def rows(self, block: Block) -> Iterable[Row]:
        """The rows of the table beside those of the headlines."""
        return ()

    def stated(self, block: Block) -> list[str]:
        """What the numbers depend on besides the images, in words; the terminal has it where there are no headlines."""
        return []

    def titled(self, block: Block) -> dict[str, float]:
        """What a report tells of one network, by title."""
        return {title: values[""] for title, values in self.compared({"": block}).items()}

    def compared(self, blocks: Mapping[str, Block]) -> dict[str, dict[str, float]]:
        """What a report tells of networks side by side: title → network → value; without what none has."""
        found = {
            title: {network: block[key] for network, block in blocks.items() if block.get(key) is not None}
            for key, title in self.headlines.items()
            if title
        }
        return {title: values for title, values in found.items() if values}


def pictures_stated(block: Block) -> list[str]:
    """Where corrupted or perturbed pictures come from, and at which size, in words."""
    given = block["conditions"]
    if "table" in given:
        made = f"made on the fly at {given['side']} px with the severities of {given['table']} px"
    else:
        made = f"the released files of {given['side']} px"
    return [made if given["shown_at"] == given["side"] else f"{made}, shown to the network at {given['shown_at']} px"]


def framing_facts(view: CenterView) -> dict[str, Any]:
    """How a view frames a picture, as a result states it."""
    return {"crop": view.crop, "resize": view.resize, "kept": view.kept}


def shown_images(images: ImageSet, seed: int) -> list[int]:
    """Some images of every class, to be shown."""
    return stratified(images.keys, images.classes, min(SHOWN_IMAGES, len(images)), seed).tolist()


def block_size(count: int) -> int:
    """Images of a block of `count` images with their corruptions: small where a kill would lose the most of them."""
    return min(max(count // BLOCKS, SMALLEST_BLOCK), BLOCK_IMAGES)


def image_blocks(images: ImageSet, size: int = BLOCK_IMAGES) -> dict[str, range]:
    """The images in blocks, by name."""
    starts = range(0, len(images), size)
    # counts of blocks add up: a file of a block of another size must not be taken for one of these
    of = "" if size >= min(BLOCK_IMAGES, len(images)) else f"-of-{size}"
    return {f"images-{start:06d}{of}": range(start, min(start + size, len(images))) for start in starts}
