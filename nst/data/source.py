"""A data set's images as a source gives them, one after the other or by position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from nst.data.images import IMAGE_EXTENSIONS, BadImage
from nst.data.layout import Contents, Entry
from nst.errors import NstError


@dataclass(frozen=True, slots=True)
class Sample:
    """One encoded image; `label` indexes the classes of its source, None where there is none."""

    key: str
    image: bytes
    extension: str
    label: int | None


class Source:
    """Images by name: `entries` lists them, `read(i)` gives the bytes of one, iteration gives samples.

    Args:
        name: of the data set, for messages and the index.
        digest: identifies the content; a function where it has to be computed.
        scan: lists the content; called once, at first use.
        lossless: images are encoded here from arrays, so they need no check.
    """

    def __init__(
        self, name: str, digest: str | Callable[[], str], scan: Callable[[], Contents], *, lossless: bool = False
    ) -> None:
        self.name = name
        self._digest = digest
        self.lossless = lossless
        self._scan = scan

    @cached_property
    def digest(self) -> str:
        return self._digest if isinstance(self._digest, str) else self._digest()

    @cached_property
    def contents(self) -> Contents:
        contents = self._scan()
        if not contents.entries:
            raise NstError(
                f"source {self.name} holds no images",
                got="; ".join(contents.notes) or None,
                valid="files ending in " + ", ".join(IMAGE_EXTENSIONS),
            )
        return contents

    @property
    def classes(self) -> tuple[str, ...]:
        return self.contents.classes

    @property
    def notes(self) -> tuple[str, ...]:
        """What was passed over while listing, and how it was read, in lines."""
        return self.contents.notes

    @property
    def entries(self) -> list[Entry]:
        return self.contents.entries

    def read(self, position: int) -> bytes:
        """Encoded image of entry `position`; may be called from several threads."""
        return self.contents.read(position)

    def sample(self, position: int) -> Sample:
        entry = self.entries[position]
        try:
            return Sample(entry.key, self.read(position), entry.extension, entry.label)
        except BadImage as error:
            raise NstError(
                f"{entry.key} cannot be read",
                got=error,
                next=f"{error.remedy}, or shard.check_images=true leaves it out",
            ) from error

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.sample, range(len(self)))
