"""Links in a tar: they stand for the files that they name, also over several links."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping


def link_target(name: str, target: str, *, symbolic: bool) -> str:
    """The name in the archive that a link means; a symbolic one is relative to its own folder."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target) if symbolic else target)


def followed(
    files: list[tuple[str, int, int]], links: Mapping[int, str]
) -> tuple[list[tuple[str, int, int]], list[int]]:
    """The files (name, offset, bytes) with every link as the file that it names; and the links that name none.

    Args:
        links: the target of each file that is a link, by its place among the files.
    """
    if not links:
        return files, []
    names = {posixpath.normpath(name): place for place, (name, _, _) in enumerate(files)}
    lost = []
    for place in links:
        end: int | None = place
        for _ in links:
            if end is None or end not in links:
                break
            end = names.get(links[end])
        if end is None or end in links:
            lost.append(place)
        else:
            files[place] = (files[place][0], *files[end][1:])
    gone = set(lost)
    return [file for place, file in enumerate(files) if place not in gone], lost
