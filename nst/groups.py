"""The configuration groups: folders of conf/, and the choices that `nst.recipes` adds to them. Loads no Hydra."""

from __future__ import annotations

from pathlib import Path

from nst.errors import NstError
from nst.recipes import CHOICES


def conf_dir() -> Path:
    """The configuration folder: conf/ of a checkout, or its copy inside an installed package."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "config.yaml").exists():
            return folder
    raise NstError("the configuration folder conf/ is missing", next="install nst again")


def groups() -> list[str]:
    """Names of the configuration groups. hydra/ is left out: it says how sweeps run, and no stage reads it."""
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir() and folder.name != "hydra")


def group_choices(group: str) -> list[str]:
    """Names of the choices of one group: its files, and the rows of `nst.recipes`."""
    return sorted({path.stem for path in (conf_dir() / group).glob("*.yaml")} | set(CHOICES.get(group, ())))


def summary_line(group: str, choice: str) -> str:
    """What a choice is: the first comment of its file, else what its row says."""
    path = conf_dir() / group / f"{choice}.yaml"
    if not path.exists():
        return CHOICES[group][choice].says
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""


def has_file(group: str, choice: str) -> bool:
    """Whether a choice is a file of conf/, and no row of a table."""
    return (conf_dir() / group / f"{choice}.yaml").exists()
