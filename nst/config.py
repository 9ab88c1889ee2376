"""From the command line to typed arguments: composing conf/ with Hydra, and saying plainly what does not fit.

The configuration stops at a stage's `main(cfg)`; below it there are dataclasses and plain arguments only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nst.advice import meant, own_flags_here
from nst.checking import WrongOption, adding, entry_in, is_known, kind_of, names_of_all, read_settings, takes_more
from nst.errors import UsageError, nearest, nearest_option
from nst.groups import conf_dir, group_choices, groups
from nst.recipes.search_path import register
from nst.settings.fields import MISSING_VALUE, no_value
from nst.settings.job import Job, job_of
from nst.settings.learning import ELSEWHERE
from nst.typed import verbatim

NO_REFERENCE = r"a $ that is no reference is written \${...}, in single quotes of the shell"
MOST_CHOICES = 3  # that a sentence names
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
        raise _no_option(override)
    choice = value.strip("'\"")
    if name in groups() and choice not in (choices := group_choices(name)):
        raise UsageError(
            f"there is no {name} named '{choice[:80]}'{nearest(choice, choices)}", valid=", ".join(choices)
        )


def _no_option(override: str) -> UsageError:
    """The mistake of a word without a value, or a value without a name."""
    name, equals, _ = override.lstrip("+").partition("=")
    flags = own_flags_here()
    way = meant() if name else None
    hint = "" if way or equals or "/" in name else nearest_option(name, names_of_all())
    if name in groups() and not equals and not way:
        hint, way = "", f"nst <stage> --help {name} lists what {name}=<choice> and {name}.<option>=<value> can be"
    return UsageError(
        f"'{override[:80]}' is not an option{hint}", next=way,
        valid=f"option=value{f', and flags such as {flags[0]}' if flags else ''}",
    )  # fmt: skip


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
            name = f"{key}.{entry[1]}"
            adds = f"{adding(name)} adds one" if takes_more(key) else None
            return UsageError(f"{key} has no entry '{entry[1]}'{nearest_option(name, known)}", got=given, next=adds)
        if elsewhere := _of_another_choice(key, given, known, overrides):
            return elsewhere
        return _unknown(key, given, known)
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


def _unknown(key: str, given: str, known: Sequence[str]) -> UsageError:
    """The mistake of an option that no choice has."""
    group, entry = key.partition(".")[0], entry_in(key)
    if entry and entry != key and is_known(key):  # of an attack: the entry is there, or is to be added
        way = f"{f'+{given}' if entry in known else adding(entry)} adds it"
        return UsageError(f"there is no {key} yet", got=given, next=way)
    way = "nst <stage> --help lists the options, --help <group> those of a group"
    if is_known(group):
        way = f"nst <stage> --help {group} lists the options of {group}"
    if entry == key:
        own = ELSEWHERE.get(key.removeprefix("student.optimizer."))
        way = f"it is an option of its own here: {own}" if own else f"{way}; {adding(entry)} adds one"
    return UsageError(f"unknown option '{key}'{nearest_option(key, known)}", got=given, next=way)


def _of_another_choice(key: str, given: str, known: Sequence[str], overrides: Sequence[str]) -> UsageError | None:
    """The mistake of an option that only other choices of its group have; None where no choice has it."""
    group = key.partition(".")[0]
    config = _of_choices(overrides)
    choices = config.hydra.runtime.choices
    entry = entry_in(key)
    if not is_known(key) or (entry == key and kind_of(key)) or not (choice := choices.get(group)):
        return None
    around = (entry or key).rpartition(".")[0]
    having = _choices_with(group, key) or (_choices_with(group, around) if entry and around not in known else [])
    if entry and not having:
        return None
    listed, experiment = texts(plain(config.iterate.generations)), choices.get("experiment")
    typed = any(item.startswith("iterate.generations=") and given in item for item in overrides)
    origin, way = "", f"leave {key} out{', or choose one that has it' if having else ''}"
    if entry and around in known:
        way += f"; {adding(entry)} adds one"
    if typed:
        origin = ", of iterate.generations"
    elif given in listed:
        origin = f", of the iterate.generations of experiment={experiment}"
        way = f"leave {group}={choice} out, or say what the generations are: iterate.generations=[[],[]]"
    more = " and others" if len(having) > MOST_CHOICES else ""
    shown = ", ".join(f"{group}={each}" for each in having[:MOST_CHOICES]) + more
    return UsageError(
        f"{group}={choice} has no option '{key}'", got=f"{given}{origin}", next=way,
        valid=f"{shown} {'has' if len(having) == 1 else 'have'} it" if having else None,
    )  # fmt: skip


def _choices_with(group: str, key: str) -> list[str]:
    """Choices of a group that have an option, one more than are shown at most."""
    having = (choice for choice in group_choices(group) if key in option_names([f"{group}={choice}"]))
    return list(islice(having, MOST_CHOICES + 1))


def texts(node: Any) -> list[str]:
    """The texts in lists of lists."""
    return [text for each in node for text in texts(each)] if isinstance(node, list) else [node]


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
        raise no_value(getattr(error, "full_key", None) or str(error).splitlines()[0]) from error


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
            raise no_value(name)
    return config


def job_from(cls: type[J], cfg: DictConfig, *, title: str | None = None) -> J:
    """The job of a stage that a configuration asks for."""
    return job_of(cls, plain(cfg, whole=False), title=title or str(cfg.stage))
