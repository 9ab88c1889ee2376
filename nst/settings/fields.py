"""How an option is declared: one line with its kind, its default and its help, as a field of a frozen dataclass.

    min_confidence: float = option(SHARE, 0.3, "images below are not used")

The classes of this package are the configuration groups. What an option may be (`nst.checking`), its default when Hydra
composes (`nst.config`) and its line in `--help` follow from these fields, and the stages work with these very classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar

from nst.errors import UsageError
from nst.kinds import Kind

MISSING_VALUE = "???"  # the stage that needs it asks for it


class Group:
    """Base of the groups of options; `at` is its name on the command line.

    Raises:
        UsageError: a value that is none of its option's kind, also where the class is made by hand.
    """

    section: ClassVar[str] = ""

    def __init_subclass__(cls, at: str | None = None) -> None:
        super().__init_subclass__()
        if at is not None:
            cls.section = at

    def __post_init__(self) -> None:
        from nst.checking import check_fields  # which reads these classes

        check_fields(self)


@dataclass(frozen=True)
class About:
    """What is known of an option besides its default.

    Args:
        kind: of its values; a class: it is a group itself, or (`entries`) each of its entries is one.
        follows: the reference, such as `${model.test_size}`, that stands for it where nobody sets it.
        listed: whether every configuration of the group has it; else only where a file of the group gives it.
        entries: it is a mapping from any name to such values.
        rest: its entries lie in its own group, beside the options that have names.
        nullable: a group that may be null.
    """

    kind: Kind | type[Group]
    help: str
    follows: str | None = None
    listed: bool = True
    entries: bool = False
    rest: bool = False
    nullable: bool = False


def option(
    kind: Kind | type[Group], default: Any = MISSING, help: str = "", *, follows: str | None = None, **more: bool
) -> Any:
    """A field. Without a default it has to be given, by hand and by the files of its group; see `About`."""
    about = {"about": About(kind, help, follows, **more)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=about)
    return field(default=default, metadata=about, kw_only=default is MISSING)


def part(kind: type[Group], help: str = "") -> Any:
    """A field that is a group itself, with the defaults of its class."""
    return field(default_factory=kind, metadata={"about": About(kind, help)})


def options_of(cls: type[Group]) -> Iterator[tuple[Field[Any], About]]:
    """The options of a group; fields that are none (of classes that add to a group) are left out."""
    for entry in fields(cls):  # type: ignore[arg-type]
        if "about" in entry.metadata:
            yield entry, entry.metadata["about"]


def kinds_of(cls: type[Group]) -> dict[str, Any]:
    """The table of a group: name → kind, or the table of an inner group; `*` stands for any name."""
    table: dict[str, Any] = {}
    for entry, about in options_of(cls):
        kind = about.kind if isinstance(about.kind, Kind) else kinds_of(about.kind)
        if about.rest:
            table["*"] = kind
        else:
            table[entry.name] = {"*": kind} if about.entries else kind
    return table


def nullable_in(cls: type[Group], name: str = "") -> Iterator[str]:
    """Dotted names of groups that may be null, `*` for any name."""
    for entry, about in options_of(cls):
        own = f"{name}.{entry.name}" if name else entry.name
        if about.nullable:
            yield own
            if about.entries:
                yield f"{own}.*"
        if not isinstance(about.kind, Kind):
            yield from nullable_in(about.kind, own)


def defaults_of(cls: type[Group]) -> dict[str, Any]:
    """What Hydra begins a group with: plain values and references."""
    values: dict[str, Any] = {}
    for entry, about in options_of(cls):
        if about.follows is not None:
            values[entry.name] = about.follows
        elif about.listed and not about.rest and entry.default is not MISSING:
            values[entry.name] = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        elif about.listed and isinstance(about.kind, type) and not about.nullable and not about.entries:
            values[entry.name] = defaults_of(about.kind)
    return values


def made_of(cls: type[Any], values: Mapping[str, Any], **more: Any) -> Any:
    """The group from plain values that `nst.checking` has seen, inner groups as their classes; `more` are the fields
    of a class that adds to a group. Values of other groups' options are passed over."""
    found: dict[str, Any] = dict(more)
    names = {entry.name for entry, _ in options_of(cls)}
    for entry, about in options_of(cls):
        if about.rest:
            found[entry.name] = {name: value for name, value in values.items() if name not in names}
        elif entry.name in values and entry.name not in more:
            value = values[entry.name]
            if value == MISSING_VALUE:
                if entry.default is MISSING and entry.default_factory is MISSING:
                    raise no_value(f"{cls.section}.{entry.name}")
                continue
            if isinstance(about.kind, type) and not about.entries and isinstance(value, Mapping):
                value = made_of(about.kind, value)
            found[entry.name] = value
    return cls(**found)


def no_value(name: str) -> UsageError:
    return UsageError(f"option '{name}' needs a value", next=f"{name}=...")
