"""Holds options against `nst.settings`: values as stages take them, and a sentence for each that does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst.errors import UsageError, nearest
from nst.kinds import Kind
from nst.settings import BASES, NULLABLE, TREE
from nst.settings.fields import MISSING_VALUE, Group, options_of


@dataclass(frozen=True)
class WrongOption:
    """An option whose value is none.

    Args:
        name: of the option.
        valid: what the value could be.
    """

    name: str
    value: Any
    valid: str

    def typed(self, overrides: Iterable[str]) -> bool:
        """Whether the command line names the option."""
        return any(_is_about(item, self.name) for item in overrides)

    def error(self, overrides: Iterable[str] = ()) -> UsageError:
        """The sentence; it repeats the words of the command line where they name the option."""
        about = [item for item in overrides if _is_about(item, self.name)]
        typed = about[-1] if about else f"{self.name}={_short(self.value)}"  # the last one counts
        names = self.valid.split(" | ")
        hint = nearest(self.value, names) if len(names) > 1 and isinstance(self.value, str) else ""
        named = isinstance(self.value, str) and kind_of(f"{self.name}.name") is not None  # a group that has a name
        next = f"{self.name}.name={self.value}" if named else None
        return UsageError(
            f"{self.name} cannot be {_short(self.value)}{hint}", got=_cut(typed), valid=self.valid, next=next
        )


def kind_of(name: str) -> Kind | None:
    """The kind of an option; None where there is no such option."""
    node = _node(name)
    return node if isinstance(node, Kind) else None


def is_known(name: str) -> bool:
    """Whether there is an option or group of options of this name, whichever choices have it."""
    return _node(name) is not None


def names_of_all() -> list[str]:
    """Dotted names of all options, whichever choices have them; those that stand for any name are left out."""
    return [name for name, _ in leaves(TREE) if "*" not in name]


def takes_more(group: str) -> bool:
    """Whether a group takes entries of names that are not in the table."""
    return isinstance(node := _node(group), dict) and "*" in node


def entry_in(name: str) -> str | None:
    """Of `eval.attacks.pgd_40.steps`, `eval.attacks.pgd_40`: the entry that its group takes though no table names it;
    None where there is no such group."""
    parts = name.split(".")
    around = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((f"{group}.{parts[group.count('.') + 1]}" for group in around if takes_more(group)), None)


def adding(entry: str) -> str:
    """How an entry is added, as it is typed."""
    if not isinstance(_node(entry), dict):
        return f"+{entry}=..."
    steps = "" if entry.endswith(".fgsm") else ", steps: 10"  # which is a single one
    return f"'+{entry}={{epsilons: [2, 4]{steps}}}'"


def _node(name: str) -> Any:
    node: Any = TREE
    for part in name.split("."):
        node = node.get(part, node.get("*")) if isinstance(node, dict) else None
    return node


def _base(config: Mapping[Any, Any], group: str) -> Mapping[str, Any]:
    """The kinds of the largest base of a group of which all options are there; none of a part of a group."""
    return max((base for base in BASES.get(group, ()) if base.keys() <= {*config, "*"}), key=len, default={})


def read_settings(config: Mapping[Any, Any], group: str = "") -> tuple[dict[str, Any], list[WrongOption]]:
    """What in a tree of options is not yet as stages take it, by name, and what is wrong."""
    changed: dict[str, Any] = {}
    mistakes: list[WrongOption] = []
    own = _base(config, group)
    for key, value in config.items():
        name = f"{group}.{key}" if group else str(key)
        node = own.get(key) or _node(name)
        if node is None:
            mistakes.append(WrongOption(name, value, f"there is no option of that name{nearest(name, _names(group))}"))
        elif isinstance(node, Kind):
            try:
                read = value if value == MISSING_VALUE else node.read(value)
                if repr(read) != repr(value):  # 1.0 equals 1, also within lists
                    changed[name] = read
            except ValueError:
                mistakes.append(WrongOption(name, value, node.words))
        elif isinstance(value, Mapping):
            inner, wrong = read_settings(value, name)
            changed |= inner
            mistakes += wrong
        elif value is not None or re.sub(r"^(eval\.attacks)\.[^.]+$", r"\1.*", name) not in NULLABLE:
            mistakes.append(WrongOption(name, value, _words_of_group(name)))
    return changed, mistakes


def _words_of_group(name: str) -> str:
    if name in NULLABLE and takes_more(name):  # its entries are groups themselves: attacks
        return f"null for none; eval=robustness has fgsm and pgd; {adding(f'{name}.<name>')} adds one"
    return f"it is a group of options: {name}.<option>=..."


def check_value(name: str, value: Any, overrides: Iterable[str] = ()) -> None:
    """Raises UsageError where an option cannot have this value."""
    group, _, own = name.rpartition(".")
    for mistake in read_settings({own: value}, group)[1]:
        raise mistake.error(overrides)


def check_fields(options: Group) -> None:
    """Holds a group's values against its options: it may have been made by hand. A whole number is one as 2.0 too.

    Raises:
        UsageError: a field has a value that the option of its name cannot have.
    """
    for entry, about in options_of(type(options)):
        value = getattr(options, entry.name)
        if isinstance(value, Group) or (not about.listed and value == entry.default):
            continue  # it has seen to itself; or the option was not given
        read = check_values(options.section, **(value if about.rest else {entry.name: value}))
        if isinstance(value, float) and entry.name in read:
            object.__setattr__(options, entry.name, read[entry.name])


def check_values(group: str, /, **values: Any) -> dict[str, Any]:
    """The same for values by the names of a group's options, with those that stages take in another form; other names
    are passed over."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        node = _node(f"{group}.{name}")
        if isinstance(node, Kind) or (isinstance(node, dict) and isinstance(value, Mapping)):
            plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            changed, mistakes = read_settings({name: plain}, group)
            for mistake in mistakes:
                raise mistake.error()
            found |= {key.removeprefix(f"{group}."): read for key, read in changed.items()}
    return found


def _names(group: str) -> list[str]:
    """Options and groups beside which a name was given."""
    around = _node(group) if group else TREE
    return [f"{group}.{name}" if group else name for name in around if name != "*"]


def _is_about(override: str, name: str) -> bool:
    """Whether an override gives the option, by itself or within a mapping."""
    given, equals, value = override.lstrip("+").partition("=")
    return bool(equals) and (name == given or (name.startswith(f"{given}.") and value.startswith("{")))


def _short(value: Any) -> str:
    """As it is written on the command line; text in quotes."""
    words = {"None": "null", "True": "true", "False": "false", "nan": "NaN"}
    return _cut(words.get(repr(value), repr(value)))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:76]} ..."


def leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All options by dotted name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node
