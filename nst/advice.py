"""What to do next, as a whole command: sentences name a stage and the option that helps, and people see them with the
options that they gave.

    nst shard                           becomes     nst shard data=folder data.source.root=pictures
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from nst.stage_table import STAGES

_command: list[str] = []  # the stage and options that this process was given
_wrong: set[str] = set()  # options that no advice repeats
_of_run: list[str] = []  # options of the run whose data the command takes: its shards are made by them
OF_RUN_ALONE = ("run_dir", "overwrite")  # of a run, whoever makes its shards again
OF_ONE_STAGE = ("run_dir", "name", "input")  # another stage's directory is another one, and it reads something else


def note_command(arguments: Sequence[str]) -> None:
    """Keeps the command line of this process, as a person would type it: the jobs of a sweep get theirs in quotes."""
    from nst.typed import unquoted  # which loads what a typed option may be

    _command[:] = map(unquoted, arguments)
    _wrong.clear()
    _of_run.clear()


def note_run(options: Sequence[str]) -> None:
    """Keeps the options of the run whose data this command takes."""
    _of_run[:] = options


def leave_out(option: str) -> None:
    """Advice will not repeat this option of the command line."""
    _wrong.add(option)


def command_is_known() -> bool:
    """Whether this process was started by a command line of ours, and not from Python."""
    return bool(_command)


def again(*options: str) -> str:
    """The command as it was given, with these options too; from Python the options alone."""
    return " ".join([*(["nst", _command[0]] if _command else []), *options])


def as_list(value: str) -> str | None:
    """`model.checkpoint='[a,b]'` for a value `a,b` of the command line, paths that are all there, where the option may
    name several."""
    paths = value.split(",")
    if not _command or len(paths) < 2 or not all(path and Path(path).expanduser().exists() for path in paths):
        return None
    names = [item.partition("=")[0] for item in _command[1:] if item.partition("=")[2] == value]
    several = ("model.checkpoint",) if _command[0] == "predict" else ("teacher.run", "teacher.checkpoint")
    if not names or names[0] not in several:
        return None
    listed = shlex.quote(f"[{value}]")
    return f"several are a list: {again(f'{names[0]}={listed}')}"


def own_flags_here() -> list[str]:
    """The flags of the stage that this process runs."""
    from nst.flags import own_flags  # here: only who has made a mistake waits for it

    return own_flags(_command[0]) if _command else []


def meant() -> str | None:
    """The command with options before the paths that stand in it without one: the stage's network or run, and what it
    takes without its name; None where there are none, or that cannot be told."""
    from nst.flags import in_words, option_of  # here: only who has made a mistake waits for it

    if not _command:
        return None
    stage, record = _command[0], STAGES[_command[0]]
    words = list(in_words(stage, _command[1:]))
    bare = [each[0] for each in words if len(each) == 1 and not each[0].startswith("-") and "=" not in each[0]]
    given = {option_of(stage, each[0]) for each in words}
    free = [name for name in (*record.networks[-1:], *record.short) if option_of(stage, name) not in given]
    found = []
    for word in bare:
        if not free or not Path(word).expanduser().exists():
            return None
        is_input = free[-1] in record.short and not _is_trained(Path(word).expanduser())
        found.append(shlex.quote(f"{free.pop(-1 if is_input else 0)}={word}"))
        leave_out(word)
    return again(*found) if found else None


def _is_trained(path: Path) -> bool:
    """Whether a path looks like a run or a network."""
    return (path / "config.yaml").exists() or path.suffix == ".safetensors"


def whole(text: str) -> str:
    """The text in which every command `nst <stage>` has the options of the command line, but for those that the text
    gives anew, fit for a shell."""
    return re.sub(r"(?<![`=])\bnst (\w+)", lambda match: _with_options(match), text)


def _with_options(match: re.Match[str]) -> str:
    stage = match[1]
    if stage not in STAGES or not _command:
        return match[0]
    behind = re.split(r"\n|;|, |(?<!=)\bnst ", match.string[match.end() :])[0]
    anew = {*re.findall(r"(?:^|\s)([\w./]+)=", behind), *re.findall(r"(--[\w-]+)", behind)}
    if stage != _command[0]:
        anew.update(name for name in OF_ONE_STAGE if (stage, name) != ("shard", "name"))  # which may name its folder
    given = [*_given(stage, anew | _wrong)]
    if stage == "shard" and stage != _command[0]:
        named = {*OF_RUN_ALONE, *anew, *_wrong, *(word.partition("=")[0] for word in given)}
        own = [option.partition("=") for option in _of_run]
        given = [
            f"{name}{is_}{value}" for name, is_, value in own if name not in named and STAGES[stage].reads(name)
        ] + given
    return " ".join([match[0], *map(shlex.quote, given)])


def _given(stage: str, anew: set[str]) -> Iterator[str]:
    """The command's options but for those that are given anew, and those that another stage does not read.

    For the same stage also its flags, with what is behind them, and options of it alone (`select.min_confidence`).
    """
    from nst.flags import in_words, option_of  # here: only who has made a mistake waits for it

    same = stage == _command[0]
    anew = {option_of(stage, name) for name in anew}
    for words in in_words(_command[0], _command[1:]):
        name = option_of(_command[0], words[0])
        own = name.startswith(f"{_command[0]}.") or (name == "trainer.precision" and STAGES[stage].own_precision)
        if name not in anew and (same or (not own and STAGES[stage].reads(name))):
            yield from words
