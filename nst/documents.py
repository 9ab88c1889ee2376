"""The small files of a run, written and read: each says the sha256 of what it holds.

A disk that loses bits, a copy that was cut, or a hand that edits leaves files that still parse. So every JSON file and
config.yaml of ours ends with a seal, and whoever reads one gets what was written, or a sentence that names the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from nst.errors import NstError
from nst.written import ours

SEAL = "sha256_of_the_rest"
OLDER = "what an older nst has written, that one reads, or this one makes again in another folder"
INSIDE_A_RUN = ("checkpoints", "parts", "bad")  # folders of a run directory that hold small files


def as_json(value: Any) -> Any:
    """The value as it reads back from a JSON file."""
    return json.loads(json.dumps(value, default=plain_value))


def plain_value(value: Any) -> Any:
    """What JSON cannot hold by itself: paths, dataclasses, NumPy and torch scalars and arrays."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of `value`: equal values, equal fingerprint, in any process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain_value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def json_text(value: Mapping[str, Any], *, sealed: bool = True) -> str:
    """The text of a JSON file; without a seal where other programs read it."""
    document = as_json(value)
    return json.dumps({**document, SEAL: fingerprint(document)} if sealed else document, indent=2) + "\n"


def yaml_text(text: str) -> str:
    """YAML with the seal in a comment behind it."""
    return f"{text}# {SEAL}: {hashlib.sha256(text.encode()).hexdigest()}\n"


def read_json(path: Path | str, *, sealed: bool = True, next: str | None = None) -> dict[str, Any]:
    """The mapping in a JSON file, without its seal.

    Args:
        sealed: a file without a seal is refused; False: one of other hands may have none.
        next: how to go on where the file is damaged; None: as `way_on`.

    Raises:
        NstError: missing, unreadable, no mapping, or not what was written.
    """
    return parse_json(read_text(path, next=next), path, sealed=sealed, next=next)


def parse_json(text: str | bytes, path: Path | str, *, sealed: bool = True, next: str | None = None) -> dict[str, Any]:
    """As `read_json`, from a text that is there already; `path` is where it came from."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON: {error or type(error).__name__}", next) from error
    if not isinstance(document, dict):
        raise damaged(path, f"a {type(document).__name__} instead of a mapping", next)
    seal = document.pop(SEAL, None)
    if seal != fingerprint(document) and (sealed or seal is not None):
        raise damaged(path, _unsealed(seal), next)
    return document


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a config.yaml.

    Raises:
        NstError: as `read_json`.
    """
    try:
        document = yaml.safe_load(config_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise damaged(path, "no YAML: " + str(error).partition("\n")[0]) from error
    if not isinstance(document, dict):
        raise damaged(path, f"a {type(document).__name__} instead of a mapping")
    return document


def config_text(path: Path) -> str:
    """A config.yaml as it was written, without its seal; raises as `read_json`."""
    text, mark, seal = read_text(path).rpartition(f"# {SEAL}: ")
    if not mark or seal != hashlib.sha256(text.encode()).hexdigest() + "\n":
        raise damaged(path, _unsealed(seal if mark else None))
    return text


def _unsealed(seal: Any) -> str:
    if seal is None:
        return f"no line {SEAL}: cut, or written by hand or by an older nst"
    return "it is not what was written: its sha256 is another"


def read_text(path: Path | str, *, next: str | None = None) -> str:
    """The UTF-8 text of a file; NstError where there is none."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except IsADirectoryError as error:
        away = shlex.join(["mv", f"{path}", f"{path}.away"])
        raise damaged(path, "a folder instead of a file", f"{away}, then the command that writes it") from error
    except PermissionError as error:
        allow = shlex.join(["chmod", "u+r", f"{path}"])
        raise NstError(f"{path} cannot be read", got=error.strerror, next=allow) from error
    except FileNotFoundError as error:
        raise NstError(f"{path} is missing", next=next or way_on(Path(path))) from error
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, getattr(error, "strerror", None) or "no UTF-8 text", next) from error


def read_document(path: Path) -> dict[str, Any] | None:
    """A JSON file of a run; None where there is none.

    Raises:
        NstError: it is damaged.
    """
    return read_json(path) if path.exists() else None


def read_metrics(path: Path | str) -> list[tuple[int, str, float]]:
    """Rows of step, metric and value of a metrics.csv; a half-written last line is left out.

    Raises:
        NstError: it is not such a table.
    """
    text = read_text(path)
    try:
        rows = csv.reader(text[: text.rfind("\n") + 1].splitlines()[1:])
        return [(int(step), metric, float(value)) for step, metric, value in rows]
    except ValueError as error:
        raise damaged(path, f"{error}; valid are columns step, metric, value") from error


def damaged(path: Path | str, found: object, next: str | None = None) -> NstError:
    """The error of a file that is not what was written."""
    return NstError(f"{path} is damaged", got=found, next=next or way_on(Path(path)))


def way_on(path: Path) -> str:
    """Removing the file, and the mark by which the run around it counts as finished; then the same command makes both
    anew. Of a file that is not in nst's lists nobody is told to delete it."""
    folder = path.parent.parent if path.parent.name in INSIDE_A_RUN else path.parent
    marks = [] if path.name in ("started.json", "DONE") else [folder / "DONE"]
    there = [str(file) for file in (path, *marks) if os.path.lexists(file)]
    if there and not ours([path]):
        return f"copy it again from where it is whole, or move it away; nst does not know it as its own; {OLDER}"
    again = "the command that wrote it, again"
    return f"{shlex.join(['rm', *there])}, then {again}" if there else again
