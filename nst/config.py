"""From the command line to typed arguments: composing conf/ with Hydra, and saying plainly what does not fit.

The configuration stops at a stage's `main(cfg)`; below it there are dataclasses and plain arguments only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nst.advice import meant
from nst.checking import WrongOption, kind_of, read_settings, takes_more
from nst.errors import UsageError, nearest
from nst.groups import conf_dir, group_choices, groups
from nst.recipes.search_path import register
from nst.settings.fields import MISSING_VALUE
from nst.settings.job import Job, job_of
from nst.typed import verbatim

NO_REFERENCE = r"a $ that is no reference is written \${...}, in single quotes of the shell"
J = TypeVar("J", bound=Job)


@contextlib.contextmanager
def hydra_started() -> Iterator[None]:
    """Within, Hydra knows the files of conf/ and, behind them, the choices of `nst.recipes` and the defaults."""
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir()), job_name="nst"):
        yield


def compose_config(overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration for these overrides, every value of the kind and range of its option (`nst.settings`);
    interpolations stay lazy. Names and paths are taken as they are typed.

    Args:
        with_hydra: keep Hydra's own part, which says how a sweep runs.

    Raises:
        UsageError: an option or group choice does not exist (the nearest one is named), a value that the option cannot
            have, or wrong syntax.
    """
    # null is what these are anyway, which Hydra does not let anybody say
    overrides = [item for item in overrides if item not in ("experiment=null", "scale=null")]
    for item in overrides:
        _check_form(item)
    GlobalHydra.instance().clear()
    try:
        with hydra_started():
            config = compose("config", overrides=verbatim(overrides), return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from error
    _check(config, overrides)
    return config


def _check_form(override: str) -> None:
    """Raises UsageError for what Hydra would answer with a fault of its own."""
    name, equals, value = override.lstrip("+").partition("=")
    if name.startswith("~") and not name.startswith("~hydra."):
        raise UsageError("options cannot be taken out", got=override[:80], valid="option=null, where null is a value")
    if not equals or not name:
        raise UsageError(
            f"'{override[:80]}' is not an option",
            valid="option=value, and flags such as --verify",
            next=meant() if name else None,
        )
    choice = value.strip("'\"")
    if name in groups() and choice not in (choices := group_choices(name)):
        raise UsageError(
            f"there is no {name} named '{choice[:80]}'{nearest(choice, choices)}", valid=", ".join(choices)
        )


def _check(config: DictConfig, overrides: Sequence[str]) -> None:
    """Brings the values to the form that stages take; raises UsageError for the first that is none."""
    try:
        own = config
        if "hydra" in config:
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        tree = OmegaConf.to_container(own, resolve=True)
    except OmegaConfBaseException as error:
        raise _broken_reference(error, overrides) from error
    assert isinstance(tree, dict)
    if tree["stage"] is None and OmegaConf.is_interpolation(config, "name"):
        del tree["name"]  # it is the stage's, and this configuration is for none
    changed, mistakes = read_settings(tree)
    # what was typed before what follows from it
    mistakes.sort(key=lambda mistake: not mistake.typed(overrides))
    if mistakes:
        raise mistakes[0].error(overrides)
    for name, value in changed.items():
        OmegaConf.update(config, name, value, merge=False)


def _broken_reference(error: OmegaConfBaseException, overrides: Sequence[str]) -> UsageError:
    key, what = getattr(error, "full_key", None) or "an option", str(error).splitlines()[0]
    # what was typed before what follows from it: data.root names data.labeled_per_class
    if missing := re.search(r"'(\S+)'", what):
        typed = [item.partition("=")[0].lstrip("+") for item in overrides if f"${{{missing[1]}" in item]
        key = key if key in typed else next(reversed(typed), key)
    return UsageError(f"{key} refers to an option that is not there", got=what, next=NO_REFERENCE)


def explain(error: Exception, overrides: Sequence[str]) -> UsageError:
    """The same mistake in a sentence, with the nearest valid name."""
    text = str(error)
    if match := re.search(r"Could not override '(\S+?)'", text):
        key, known = match[1], option_names(overrides)
        given = next((item for item in overrides if item.lstrip("+~").startswith(key)), key)
        if key in known and (entry := re.search(r"Key '(\S+?)' is not in struct", str(error.__cause__))):
            adds = f"+{key}.{entry[1]}=... adds one" if takes_more(key) else None
            return UsageError(
                f"{key} has no entry '{entry[1]}'{nearest(f'{key}.{entry[1]}', known)}", got=given, next=adds
            )
        if elsewhere := _of_another_choice(key, given, overrides):
            return elsewhere
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
    broken = next((item for item in overrides if re.search(r"(?<!\\)\$\{", item)), None)
    if broken and "Error merging override" in text:
        return UsageError("a ${ opens no reference to an option here", got=broken[:80], next=NO_REFERENCE)
    for item in overrides:
        if not _readable(item):
            name, _, value = item.partition("=")
            if kind := kind_of(name.lstrip("+")):
                return WrongOption(name.lstrip("+"), value, kind.words).error([item])
            return UsageError(f"'{item[:80]}' cannot be read", valid="option=value; lists as [a, b], text in quotes")
    if (match := re.search(r"Ambiguous value for argument '([^=']+)=(.*)'", text)) and (kind := kind_of(match[1])):
        several = f"nst <stage> --multirun {match[1]}={match[2]} runs once with each"
        whole, _, fraction = match[2].partition(",")
        point = f"; with a point: {match[1]}={whole}.{fraction}" if whole == "0" and fraction.isdigit() else ""
        return UsageError(f"{match[1]} cannot be '{match[2]}'", valid=f"{kind.words}{point}", next=several)
    return UsageError(
        "the options do not fit together", got=text.strip().splitlines()[0], next="nst <stage> --help lists the options"
    )


def _readable(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        OverridesParser.create().parse_overrides(verbatim([override]))
    except HydraException:
        return False
    return True


def _of_another_choice(key: str, given: str, overrides: Sequence[str]) -> UsageError | None:
    """The mistake of an option that only other choices of its group have; None where no choice has it."""
    group = key.partition(".")[0]
    config = _of_choices(overrides)
    choices = config.hydra.runtime.choices
    if kind_of(key) is None or takes_more(key.rpartition(".")[0]) or not (choice := choices.get(group)):
        return None
    listed, experiment = _texts(plain(config.iterate.generations)), choices.get("experiment")
    typed = any(item.startswith("iterate.generations=") and given in item for item in overrides)
    origin, way = "", f"leave {key} out, or choose another {group}"
    if typed:
        origin = ", of iterate.generations"
    elif given in listed:
        origin = f", of the iterate.generations of experiment={experiment}"
        way = f"leave {group}={choice} out, or say what the generations are: iterate.generations=[[],[]]"
    return UsageError(f"{group}={choice} has no option '{key}'", got=f"{given}{origin}", next=way)


def _texts(node: Any) -> list[str]:
    """The texts in lists of lists."""
    return [text for each in node for text in _texts(each)] if isinstance(node, list) else [node]


def option_names(overrides: Sequence[str] = ()) -> list[str]:
    """Dotted names of all options, with the group choices of `overrides` or the default ones; and the groups."""
    tree = OmegaConf.to_container(_of_choices(overrides), resolve=False)
    assert isinstance(tree, dict)
    del tree["hydra"]
    return [*groups(), *_leaves(tree)]


def _of_choices(overrides: Sequence[str]) -> DictConfig:
    """The configuration of the group choices of `overrides`, or of the default ones; with Hydra's own part."""
    chosen = [item for item in overrides if item.partition("=")[0] in groups()]
    with hydra_started():
        try:
            return compose("config", overrides=chosen, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):  # one of these is the mistake
            return compose("config", return_hydra_config=True)


def _leaves(node: Any, name: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    if name:
        yield name


def plain(node: Any, *, whole: bool = True) -> Any:
    """A configuration node as dicts, lists and scalars, interpolations resolved; anything else as it is.

    Args:
        whole: refuse values that are still missing (`???`).

    Raises:
        UsageError: a value is still missing, or an interpolation leads nowhere.
    """
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=whole)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or str(error).splitlines()[0]
        raise _no_value(key) from error


def _no_value(key: str) -> UsageError:
    return UsageError(f"option '{key}' needs a value", next=f"{key}=...")


def require_values(config: Mapping[str, Any], group: str = "") -> Mapping[str, Any]:
    """A plain configuration in which nothing is missing.

    Raises:
        UsageError: a value is `???`.
    """
    for key, value in config.items():
        name = f"{group}.{key}" if group else key
        if isinstance(value, Mapping):
            require_values(value, name)
        elif value == MISSING_VALUE:
            raise _no_value(name)
    return config


def job_from(cls: type[J], cfg: DictConfig, *, title: str | None = None) -> J:
    """The job of a stage that a configuration asks for."""
    return job_of(cls, plain(cfg, whole=False), title=title or str(cfg.stage))
