"""Counts a run's images and their bytes on disk, before any of them is there.

Counts come from options, else from shard sets that exist, else from what is known of a data set by its name. The one
decision worth knowing: a file's overhead in a tar counts too; at 300 million images it is hundreds of gigabytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from nst.data.index_files import has_index
from nst.data.shard_set import ShardSet, load_index
from nst.data.sources import IMAGENET_CLASSES, IMAGENET_IMAGES
from nst.data.transfer import is_remote
from nst.errors import NstError
from nst.settings.data import DataOptions
from nst.settings.stages import PlanCounts

TAR_MEMBER = 512 + 256  # bytes of a file in a tar beside its content: header, and padding to 512 on average
KEY = 24  # bytes of a key, about
PREDICTION = KEY + 8 + 4 + 2 + 4  # of a row beside the probabilities: key, its hash, index, label, confidence
SELECTED = KEY + 4 + 4  # of a row: key, index, copies
PROBABILITY = 2  # float16


@dataclass(frozen=True)
class PublicDataset:
    """A public data set: images for training with labels and without, images for testing, usual bytes of one."""

    classes: int
    train: int
    extra: int
    test: int  # 0: held out of `train`
    image_bytes: int


PAPERS_UNLABELED = 300_000_000  # [P]: JFT, which is private; any images serve
# counts: the data sets' own pages; bytes: of ImageNet the mean of its files, of the others as PNG
KNOWN = {
    "imagenet": PublicDataset(
        IMAGENET_CLASSES, IMAGENET_IMAGES["train"], PAPERS_UNLABELED, IMAGENET_IMAGES["val"], 110_000
    ),
    "cifar10": PublicDataset(10, 50_000, 0, 10_000, 2_300),
    "cifar100": PublicDataset(100, 50_000, 0, 10_000, 2_300),
    "svhn": PublicDataset(10, 73_257, 531_131, 26_032, 2_300),
    "stl10": PublicDataset(10, 5_000, 100_000, 8_000, 18_000),
    "digits": PublicDataset(10, 1_797, 0, 0, 150),
}
PAPERS_UNIQUE_SHARE = 81 / 130  # [P]: 130M images of a selection were about 81M different ones


@dataclass(frozen=True)
class DatasetSize:
    """What a run learns from.

    Args:
        selected: unlabeled images that a selection keeps, each once; `copies`: with duplicates.
        image_bytes: mean size of a labeled and of an unlabeled image file.
    """

    classes: int
    labeled: int
    unlabeled: int
    selected: int
    copies: int
    labeled_bytes: float
    unlabeled_bytes: float

    def __post_init__(self) -> None:
        for name in ("classes", "labeled"):
            if getattr(self, name) < 1:
                raise NstError(f"there are no {name} to plan for", got=getattr(self, name), valid="1 or more")

    def storage(self) -> dict[str, float]:
        """Bytes of what the stages write."""
        probabilities = PROBABILITY * self.classes
        return {
            "labeled shards": self.labeled * (self.labeled_bytes + 2 * TAR_MEMBER),
            "unlabeled shards": self.unlabeled * (self.unlabeled_bytes + TAR_MEMBER),
            "predictions": self.unlabeled * (PREDICTION + probabilities),
            "selection": self.selected * SELECTED,
            "packed selection": self.copies * (self.unlabeled_bytes + 2 * TAR_MEMBER + probabilities),
        }

    def bytes_read(self, labeled: float, unlabeled: float) -> float:
        """By the loaders for so many images of each side."""
        target = PROBABILITY * self.classes
        return labeled * (self.labeled_bytes + 2 * TAR_MEMBER) + unlabeled * (
            self.unlabeled_bytes + TAR_MEMBER + target
        )


def find_images(split: DataOptions, options: PlanCounts, images_per_class: int | None) -> DatasetSize:
    """Images of a run, each number from the first source that has it (see the module).

    Args:
        images_per_class: that a selection balances to; None: no limit.

    Raises:
        NstError: a number is in none of them.
    """
    labeled, unlabeled = _shards(split.labeled), _shards(split.unlabeled)
    known = _by_name(split)
    classes = _first("classes", options.classes, len(labeled.classes) if labeled else None, known.get("classes"))
    count = _first("labeled_images", options.labeled_images, labeled.samples if labeled else None, known.get("train"))
    extra = _first("unlabeled_images", options.unlabeled_images, unlabeled.samples if unlabeled else None,
                   known.get("extra"))  # fmt: skip
    usual = known.get("image_bytes", KNOWN["imagenet"].image_bytes)
    given = None if options.image_kilobytes is None else 1000 * options.image_kilobytes
    copies = extra if images_per_class is None else classes * images_per_class
    selected = options.selected_images
    return DatasetSize(
        classes=classes,
        labeled=count,
        unlabeled=extra,
        selected=min(extra, round(PAPERS_UNIQUE_SHARE * copies)) if selected is None else selected,
        copies=copies,
        labeled_bytes=given or _mean_bytes(labeled) or usual,
        unlabeled_bytes=given or _mean_bytes(unlabeled) or usual,
    )


def _first(name: str, *found: int | None) -> int:
    for value in found:
        if value is not None:
            return value
    raise NstError(
        f"how many {name.replace('_', ' ')} there will be is not known",
        got="no shards yet, and no data set that is known by its name",
        valid=f"data={', '.join(KNOWN)}, or shards made by nst shard",
        next=f"nst plan plan.{name}=<number>",
    )


def _shards(folder: str | None) -> ShardSet | None:
    return load_index(folder) if folder and (is_remote(folder) or has_index(folder)) else None


def _mean_bytes(shards: ShardSet | None) -> float | None:
    """Of an image of existing shards, without what the tar adds."""
    if shards is None:
        return None
    members = 2 if shards.labeled else 1
    return sum(shard.bytes for shard in shards.shards) / shards.samples - members * TAR_MEMBER


def _by_name(split: DataOptions) -> dict[str, int]:
    """A known data set after its division into labeled, unlabeled and test images (`nst.data.splits`), else nothing."""
    if split.name not in KNOWN:
        return {}
    known = KNOWN[split.name]
    held_out = 0 if known.test else (split.test_samples if split.test_samples is not None else known.train // 10)
    pool = known.train - held_out
    labeled = pool if split.labeled_per_class is None else split.labeled_per_class * known.classes
    rest = pool - labeled + known.extra
    if split.unlabeled_samples is not None:
        rest = min(rest, split.unlabeled_samples)
    return asdict(replace(known, train=labeled, extra=rest))
