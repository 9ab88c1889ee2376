"""Hydra's composing, of which what no option changes is done once for each choice of groups: 0.03 s instead of 0.14.

The tests compose thousands of configurations, most of them of a few choices. Whatever is not a plain `option=value` is
left to Hydra, and so is what it would refuse. Commands in processes of their own compose as users' do;
tests/test_composing.py holds that both are the same.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import omegaconf.base
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from nst import config
from nst.settings.fields import made_of


def _files(folder: Path) -> tuple[tuple[str, int], ...]:
    return tuple((str(path), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*.yaml")))


@functools.cache
def _of_choices(name: str, choices: tuple[str, ...], files: tuple[tuple[str, int], ...]) -> bytes:
    return pickle.dumps(compose(name, overrides=list(choices)))  # read again it is a copy, sooner than by copy.deepcopy


@functools.cache
def _parsed(item: str) -> Override:
    return OverridesParser.create().parse_overrides([item])[0]


def _is_plain(item: Override, groups: Sequence[str]) -> bool:
    """Whether it is the one value of an option."""
    name = item.key_or_group
    return not (item.is_sweep_override() or item.package or "/" in name or name in groups or item.is_delete())


def composed(name: str, overrides: Sequence[str] = (), **more: Any) -> DictConfig:
    """What `hydra.compose` returns, or raises, for the same arguments."""
    groups = config.groups()
    choices = tuple(item for item in overrides if item.partition("=")[0] in groups)
    try:
        options = [_parsed(item) for item in overrides if item not in choices]
        if all(_is_plain(item, groups) for item in options) and not any(more.values()):
            found = pickle.loads(_of_choices(name, choices, _files(config.conf_dir())))
            ConfigLoaderImpl._apply_overrides_to_config(options, found)
            return found
    except Exception:  # said again, in its own words, by Hydra
        pass
    return compose(name, overrides=list(overrides), **more)


def made(cls: type[Any], node: Any) -> Any:
    """A group of options from its configuration node."""
    return made_of(cls, config.plain(node, whole=False))


def start() -> None:
    """From here on this process composes so; grammar too is read once."""
    config.compose = composed  # type: ignore[attr-defined]
    omegaconf.base.parse = functools.cache(omegaconf.base.parse)
