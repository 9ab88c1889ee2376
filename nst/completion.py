"""Completion for shells: `eval "$(nst --completion bash)"`, or zsh. What can follow is known from the settings, so a
key press loads neither torch nor Hydra."""

from __future__ import annotations

from nst.checking import kind_of, names_of_all
from nst.errors import UsageError
from nst.flags import needs_value, option_of, own_flags
from nst.groups import group_choices, groups
from nst.stage_table import STAGES

FLAGS = ("--help", "--cfg", "-m")
BASH = """_nst() {
    local line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" --complete "$line"))
    if [ "${#COMPREPLY[@]}" = 0 ] && [[ "$word" == *=* || "${COMP_WORDS[COMP_CWORD-1]}" == --* ]]; then
        COMPREPLY=($(compgen -f -- "${word#*=}"))
    elif [[ "$word" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -o filenames -F _nst nst bin/nst ./bin/nst
"""
ZSH = """autoload -Uz compinit && compinit
_nst() {
    local word="${BUFFER[1,CURSOR]##* }"
    local -a found
    found=("${(@f)$("${words[1]}" --complete "${BUFFER[1,CURSOR]}")}")
    if [[ -z "$found" && ( "$word" == *=* || "${words[CURRENT-1]}" == --* ) ]]; then
        compset -P '*='
        _files
    else
        compadd -Q -S '' -- $found
    fi
}
compdef _nst nst bin/nst ./bin/nst
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}


def script(shell: str) -> str:
    """What a shell evaluates once.

    Raises:
        UsageError: no such shell.
    """
    if shell not in SCRIPTS:
        raise UsageError(f"no completion for '{shell}'", valid=" | ".join(SCRIPTS), next="nst --completion bash")
    return SCRIPTS[shell]


def candidates(line: str) -> list[str]:
    """Words that can stand where the line up to the cursor ends; none where a file can."""
    words = line.split(" ")
    word = words[-1]
    if len([each for each in words[:-1] if each]) < 2:
        return [each for each in (*STAGES, "--help", "--version") if each.startswith(word)]
    stage = next((each for each in words[1:] if each), "")
    name, equals, begun = word.partition("=")
    if equals:
        return [f"{name}={value}" for value in _values(_typed(stage, name)) if value.startswith(begun)]
    if needs_value(stage, before := next((each for each in reversed(words[:-1]) if each), "")):
        return [value for value in _values(_typed(stage, before)) if value.startswith(word)]
    if word.startswith("-"):
        found = [*FLAGS, *own_flags(stage)]
    else:
        names = [*groups(), *names_of_all()]
        found = [f"{each}=" for each in names if stage not in STAGES or STAGES[stage].reads(each)]
    return [each for each in found if each.startswith(word)]


def _typed(stage: str, name: str) -> str:
    """The option's own name: predict.views of --views."""
    return option_of(stage, name) if name.startswith("-") else name


def _values(name: str) -> list[str]:
    if name in groups():
        return group_choices(name)
    kind = kind_of(name)
    if kind is None:
        return []
    if kind.words.startswith("true or false"):
        return ["true", "false"]
    first = kind.words.partition(", or")[0]
    return first.split(" | ") if " | " in first else []
