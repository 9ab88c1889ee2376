"""Choices of configuration groups that are made from tables instead of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Made:
    """A choice whose options are at hand: what a file of its name in conf/ would have.

    Args:
        says: one line for `--help`.
        package: where the options go: `_global_`, or None for below the group's name.
    """

    says: str
    options: Mapping[str, Any]
    package: str | None = None

    def node(self) -> dict[str, Any]:
        """Its options and defaults list."""
        return tree(self.options)


def tree(options: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings from dotted names."""
    whole: dict[str, Any] = {}
    for name, value in options.items():
        *groups, own = name.split(".")
        place = whole
        for group in groups:
            place = place.setdefault(group, {})
        place[own] = value
    return whole
