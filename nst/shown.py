"""What people and files for people are shown: addresses without their secrets, names without what a terminal obeys.

This happens where text leaves us (errors, lines on the terminal, config.yaml, W&B, the page), not where it comes in,
so a name or an address keeps its exact form for everything that works with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "***"
SECRET = r"(?:secret|token|passw(?:or)?d|passwd|api_?-?key|access_?-?key(?:_?id)?|signature|credential|authorization)"
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # https://user:password@host, https://token@host; ssh://git@host and gs://anonymous@bucket are no secrets
    (re.compile(r"(\b(?!ssh:|sftp:)[a-z][\w+.-]*://)(?!anonymous@)[^/?#\s'\"]+@", re.I), rf"\1{HIDDEN}@"),
    (re.compile(r"(\b(?:ssh|sftp)://[^/?#\s'\":@]*:)[^/?#\s'\"]+@", re.I), rf"\1{HIDDEN}@"),
    # ?token=..., &X-Amz-Signature=..., &sig=...
    (re.compile(rf"([?&](?:[\w.%-]*{SECRET}[\w.%-]*|sig|key|auth|code)=)[^&#\s'\"]+", re.I), rf"\1{HIDDEN}"),
    # Authorization: Bearer ..., also within a command
    (re.compile(r"(\bauthorization[\"']?\s*[:=]\s*)(?:(?:bearer|basic|token)\s+)?[^\s'\"]+", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"(\bbearer\s+)[^\s'\"]+", re.I), rf"\1{HIDDEN}"),
    # X-Auth-Token: ... in a header
    (re.compile(rf"(-H\s+[\"']?[\w-]*{SECRET}[\w-]*\s*:\s*)[^'\"\s]+", re.I), rf"\1{HIDDEN}"),
    # AWS_SECRET_ACCESS_KEY=..., --token ..., --password=...
    (re.compile(rf"(\b\w*{SECRET}\w*=[\"']?)(?!\*)[^\s'\"&;|]+", re.I), rf"\1{HIDDEN}"),
    (re.compile(rf"(--[\w-]*{SECRET}[\w-]*[ =][\"']?)(?!\*)[^\s'\"]+", re.I), rf"\1{HIDDEN}"),
    # curl -u user:password
    (re.compile(r"(\s(?:-u|--user)[ =]?[\"']?)[^\s'\":]+:[^\s'\"]+"), rf"\1{HIDDEN}"),
    # the forms of tokens of Hugging Face, GitHub, AWS and W&B
    (re.compile(r"\b(?:hf_\w{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|wandb_v1_\w{16,})"), HIDDEN),
)
_NAME_OF_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.I)
_SHORTEST_SECRET = 8  # letters: a shorter value of such a variable may be any word
# what moves the cursor, turns the reading direction, ends a line unseen, or cannot be written as UTF-8
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def without_secrets(text: str) -> str:
    """The text with passwords, tokens and signatures of addresses and commands as `***`, and with the values of this
    process's secret environment variables."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _NAME_OF_SECRET.search(name):
            text = text.replace(value, HIDDEN)
    return text


def printable(text: str) -> str:
    r"""The text with everything that a terminal would obey as an escape, `\x1b`; ends of lines stay."""
    return _OBEYED.sub(lambda match: ascii(match[0])[1:-1], text)


def shown(text: object) -> str:
    """Any text from elsewhere, as people may see it."""
    return printable(without_secrets(str(text)))


def short(name: object, limit: int = 60, *, end: bool = False) -> str:
    """A name on one line of at most `limit` letters; what is cut off is counted.

    Args:
        end: the middle is cut out, uncounted: the end of a path is what tells files apart.
    """
    text = " ".join(printable(str(name)).split())
    if len(text) <= limit:
        return text
    if end:
        return f"{text[: limit // 4]}…{text[limit // 4 + 1 - limit :]}"
    return f"{text[: limit - 12]}… (+{len(text) - limit + 12})"


def count_of(number: int, noun: str) -> str:
    """`1 picture`, `1,200 pictures`, `2 classes`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def capital(text: str) -> str:
    """With a capital, and the rest as it is: directory names may hold capitals."""
    return text[:1].upper() + text[1:]


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def as_typed(value: object) -> str:
    """An option's value as the command line has it: null, true and false in place of Python's names."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def kept(value: Any) -> Any:
    """A nested value of a file for people, such as a configuration, without secrets in any of its texts."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: kept(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [kept(entry) for entry in value]
    return value


def in_markdown(text: object, limit: int = 200) -> str:
    """Text for one line or cell of Markdown: a name is neither HTML nor a link, a heading or the end of a cell."""
    line = short(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", line)


def fenced(text: str, language: str) -> str:
    """A block of code for Markdown, whatever is in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{printable(text)}\n{fence}"
