"""The file that an option's network stands for: of a run, ours, or released; found without reading its weights."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from nst.errors import NstError
from nst.finished import final_weights
from nst.models.network_info import is_ours
from nst.models.weight_files import require_weights

HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def locate(source: str | Path) -> Path | str:
    """The file that `source` stands for, or timm's name.

    Raises:
        NstError: there is nothing of that name, the run has not finished, or it is a file of something else.
    """
    path = Path(source)
    if path.exists() or not str(source).startswith("tf_efficientnet"):
        if path.is_file():
            require_weights(path)  # before the summary beside it is read, which may be this very file
            _refuse_state(path)
            return final_weights(path)
        hub = next((path / name for name in HUB_FILES if (path / name).is_file()), None)
        weights = hub or final_weights(path)
        require_weights(weights)
        return weights
    from nst.models.released import require_released  # here: it brings torch

    return require_released(str(source))


def _refuse_state(path: Path) -> None:
    """Raises NstError for what a training keeps to continue from: optimizer and all, and no description."""
    run = path.parent.parent
    if path.name.endswith("_last.ckpt") and path.parent.name == "checkpoints" and (run / "started.json").exists():
        raise NstError(
            f"{path} is the state of a training, not its network",
            valid="a run directory, or weights written by nst",
            next=f"name the run, once it has finished: {quote(str(run))}",
        )


def ours_at(source: str | Path) -> Path | None:
    """The file of ours that `source` stands for; None where it is of released weights.

    Raises:
        NstError: as `locate`.
    """
    place = locate(source)
    return place if isinstance(place, Path) and is_ours(place) else None


def locate_ours(source: str | Path) -> Path:
    """The file that says of itself which network it holds and which classes it knows: of a run, or one of ours.

    Raises:
        NstError: as `locate`, or it is of released weights, which name no classes.
    """
    if (file := ours_at(source)) is not None:
        return file
    raise NstError(
        "released weights do not say which classes they know",
        got=source,
        valid="a run directory, or weights written by nst",
        next=f"nst export model.checkpoint={quote(str(source))} export.format=nst export.output=runs/released"
        " data.root=<shards>, then runs/released instead of it",
    )
