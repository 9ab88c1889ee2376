"""The groups `data` and `remote`: which images, where their shards lie, and how shards from elsewhere get here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nst.kinds import choice, either, flag, listed, null, number, path, text, whole
from nst.settings.common import COUNT, NAME, PLACE, SIZE
from nst.settings.fields import Group, option, part


@dataclass(frozen=True)
class SourceOptions(Group, at="data.source"):
    """Where `nst shard` finds the images."""

    name: str = option(text(100), help="digits | cifar10 | folder | tar | ...: docs/data.md lists them")
    root: str | Sequence[str] | None = option(
        null(either(path(), listed(path(), least=1))),
        None,
        "folder or file of the images; null: its shards are there already",
        listed=False,
    )
    labeled: bool | None = option(null(flag()), None, "false takes all images without labels", listed=False)
    pictures: str | None = option(
        PLACE, None, "folder, archive or shards with the pictures of a CSV file; null: its own folder", listed=False
    )
    file_column: str | None = option(
        null(text(100)), None, "of a CSV file: names the pictures; null: file, path, image, ...", listed=False
    )
    label_column: str | None = option(
        null(text(100)), None, "of a CSV file: the classes; null: label, class, ..., or a column each", listed=False
    )
    split_column: str | None = option(
        null(text(100)), None, "of a CSV file: train, val, test or unlabeled; null: split, set, ...", listed=False
    )
    ignore: Sequence[str] | None = option(
        null(listed(text(1000))), None, "files and folders below root to leave out, by name or pattern", listed=False
    )
    download: bool | None = option(null(flag()), None, "fetch what is not there", listed=False)


@dataclass(frozen=True)
class Pictures(Group, at="data.pictures"):
    """What kind of pictures a data set has, as far as the views must know."""

    small: bool = option(
        flag(), False, "the released code's small-image pipeline: whole image, RandAugment, cutout, reflect-pad crop"
    )
    flip: bool = option(flag(), True, "whether a mirrored image shows the same class; not so for digits")
    turn: bool = option(
        flag(), False, "whether a picture turned by a quarter shows the same class: satellites, microscopes"
    )
    cutout: int = option(whole(0, 8192), 0, "px, width of the small-image pipeline's fixed cutout; 0 is off")
    pad: int = option(whole(0, 4096), 4, "px by which a small image is padded before its random crop")
    # small ones are resized alike for learning and evaluation
    resize: str = option(
        choice("antialias", "fast", "official"), "antialias",
        "of the clean view of large images; official is the released code's, but clipped and rounded to bytes",
        listed=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Framing:
    """How a network that was trained elsewhere is shown photographs, where that is not the paper's way: options of
    `nst.data.transforms.CenterView`."""

    crop: str
    resize: str
    kept: float


@dataclass(frozen=True)
class Sizes(Group, at="data"):
    """How many images go where, and how large they are stored."""

    labeled_per_class: int | None = option(null(COUNT), None, "labels kept in every class; null: all")
    test_samples: int | None = option(
        null(whole(0)), None,
        "images held out; null: the source's own test (else val) part, else a tenth of every class; 0: none",
    )  # fmt: skip
    unlabeled_samples: int | None = option(null(whole(0)), None, "at most so many unlabeled images; null: all")
    validation_samples: int = option(
        whole(0), 0, "of every class, held out to compare on the way, where the source has no val part for it"
    )
    stored_size: int | None = option(
        null(SIZE), None, "px of the shorter side that shards store of larger pictures; null: pictures as they are"
    )


@dataclass(frozen=True)
class DataOptions(Sizes, at="data"):
    """A data set and its shards."""

    name: str = option(NAME, help="of the data set")
    root: str = option(path(), help="folder for labeled/, unlabeled/ and test/")
    labeled: str = option(
        path(), follows="${.root}/labeled", help="shards; any folder of shards with an index.json serves"
    )
    unlabeled: str | None = option(PLACE, follows="${.root}/unlabeled", help="shards without labels")
    test: str | None = option(
        PLACE, follows="${.root}/test", help="null: no test set; train then does without validation"
    )
    validation: str | None = option(
        PLACE,
        follows="${.root}/validation",
        help="compared on the way, so that the test set is not; need not be there, null: none",
    )
    source: SourceOptions = option(SourceOptions, help="where the images come from")
    pictures: Pictures = part(Pictures)


@dataclass(frozen=True)
class RemoteOptions(Group, at="remote"):
    """How files from elsewhere get here, and where they stay."""

    cache: str | None = option(
        PLACE, None, "folder for shards fetched from http://, s3://, gs:// or pipe:; null: ~/.cache/nst/shards"
    )
    cache_gb: float | None = option(
        null(number(0, 1e9, above=True)), None,
        "shards used longest ago are deleted beyond this; null: 0.7 of what is free and what it holds",
    )  # fmt: skip
    attempts: int = option(whole(1, 1000), 5, "to fetch a file")
    wait_s: float = option(number(0, 3600), 1, "before the second attempt; doubled before each further one")
    shards_at: str | Sequence[str] | None = option(
        null(listed(path())), None,
        "places that an index.json may name though they lie elsewhere: a folder, an address, pipe:<command>",
    )  # fmt: skip
