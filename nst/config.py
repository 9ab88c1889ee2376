"""From the command line to typed arguments: composing conf/ with Hydra, and saying plainly what does not fit.

The configuration stops at a stage's `main(cfg)`; below it there are dataclasses and plain arguments only.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nst.errors import NstError, UsageError, nearest

T = TypeVar("T")


def conf_dir() -> Path:
    """The configuration folder: conf/ of a checkout, or its copy inside an installed package."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "config.yaml").exists():
            return folder
    raise NstError("the configuration folder conf/ is missing", next="install nst again")


def compose_config(overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration for these overrides; interpolations stay lazy.

    Args:
        with_hydra: keep Hydra's own part, which says how a sweep runs.

    Raises:
        NstError: an option or group choice does not exist (the nearest one is named), or the syntax is wrong.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from error


def explain(error: Exception, overrides: Sequence[str]) -> UsageError:
    """The same mistake in a sentence, with the nearest valid name."""
    text = str(error)
    if match := re.search(r"Could not override '(\S+?)'", text):
        key, known = match[1], option_names(overrides)
        given = next((item for item in overrides if item.lstrip("+~").startswith(key)), key)
        if key in known and (entry := re.search(r"Key '(\S+?)' is not in struct", str(error.__cause__))):
            return UsageError(
                f"{key} has no entry '{entry[1]}'{nearest(f'{key}.{entry[1]}', known)}",
                got=given,
                next=f"+{key}.{entry[1]}=... adds one, where entries are free",
            )
        return UsageError(
            f"unknown option '{key}'{nearest(key, known)}", got=given, next="nst <stage> --help lists the options"
        )
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        choices = group_choices(group) if group else []
        return UsageError(
            f"there is no {group or 'configuration'} named '{choice}'{nearest(choice, choices)}",
            valid=", ".join(choices) or None,
        )
    return UsageError(
        "the options do not fit together",
        got=text.strip().splitlines()[0],
        next="nst <stage> --help lists the options",
    )


def groups() -> list[str]:
    """Names of the configuration groups; hydra/, how sweeps run, is none of a stage's."""
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir() and folder.name != "hydra")


def group_choices(group: str) -> list[str]:
    """Names of the files of one group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def summary_line(path: Path) -> str:
    """First comment of a configuration file: what it is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""


def option_names(overrides: Sequence[str] = ()) -> list[str]:
    """Dotted names of all options, with the group choices of `overrides` or the default ones; and the groups."""
    chosen = [item for item in overrides if item.partition("=")[0] in groups()]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        try:
            config = compose("config", overrides=chosen)
        except (HydraException, OmegaConfBaseException):  # one of these is the mistake
            config = compose("config")
    return [*groups(), *_leaves(OmegaConf.to_container(config, resolve=False))]


def _leaves(node: Any, name: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    if name:
        yield name


def plain(node: Any) -> Any:
    """A configuration node as dicts, lists and scalars, interpolations resolved; anything else as it is.

    Raises:
        NstError: a value is still missing (`???`), or an interpolation leads nowhere.
    """
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or str(error).splitlines()[0]
        raise NstError(f"option '{key}' needs a value", next=f"{key}=...") from error


def build(cls: type[T], node: DictConfig | Mapping[str, Any], **more: Any) -> T:
    """The dataclass `cls` from a configuration node; `more` wins over the node.

    Raises:
        NstError: an option that the class does not have, or a value of another kind than its annotation.
    """
    values = {**dict(plain(node)), **more}
    names = [entry.name for entry in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise NstError(f"{cls.__name__} has no option '{name}'{nearest(name, names)}", valid=", ".join(names))
    kinds = typing.get_type_hints(cls)
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            raise NstError(f"option '{name}' of {cls.__name__} has a value of the wrong kind",
                           got=repr(value), valid=_in_words(kinds[name]))  # fmt: skip
    return cls(**values)


KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def _members(kind: Any) -> tuple[Any, ...]:
    """The parts of a union, or the kind alone."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind; scalars are checked, of lists and mappings only that they are ones."""
    for member in _members(kind):
        outer = typing.get_origin(member) or member
        if outer is Any or (outer is tuple and isinstance(value, list)):
            return True
        if isinstance(value, bool) and outer in (int, float):  # a bool is an int in Python, not to a user
            continue
        if isinstance(value, (int, float) if outer is float else outer):
            return True
    return False


def _in_words(kind: Any) -> str:
    return " or ".join(KIND_WORDS.get(member, getattr(member, "__name__", str(member))) for member in _members(kind))
