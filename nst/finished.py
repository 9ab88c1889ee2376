"""The final weights of a finished run, compared with the hash that its training noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from nst.advice import as_list
from nst.atomic import known_sha256
from nst.documents import read_document, read_json, way_on
from nst.errors import NstError
from nst.occupied import by_iterate
from nst.progress import say
from nst.refused import article
from nst.untrusted import below


def final_weights(run: Path | str) -> Path:
    """The weights that a run stands for: of a run directory its final network, of a file the file itself; of a
    directory of `nst iterate` those of one generation (`generation_of`).

    Raises:
        NstError: there is nothing there, the run has not finished, or the weights are damaged.
    """
    run = generation_of(Path(run))
    if run.is_file():
        require_undamaged(run)
        return run
    if not run.is_dir():
        raise NstError(
            f"there is no network at {run}: no run, no file",
            got=_neighbours(run),
            next=as_list(str(run)) or "name one that is there; `nst train` makes them in run_dir",
        )
    if not (run / "DONE").exists():
        raise _no_finished_run(run)
    result = read_json(run / "result.json")
    if "weights" not in result:
        got = f"{article(str(result.get('stage')))} run"
        raise NstError(f"{run} is not a training run", got=got, valid="a run of nst train", next=_way_to_runs(run))
    weights = below(run, result["weights"], run / "result.json")
    require_undamaged(weights, result["weights_sha256"])
    return weights


def generation_of(directory: Path) -> Path:
    """The generation that a finished directory of `nst iterate` stands for: its best by the validation images, else
    the last student. Any other path is itself."""
    if (directory / "DONE").exists() or not (directory / "result.json").is_file():
        return directory
    result = read_json(directory / "result.json")
    if result.get("stage") != "iterate":
        return directory
    best = directory / "best"
    return best if best.exists() else directory / f"gen{result['generations'][-1]['generation']}"


def generations_in(directory: Path) -> list[Path]:
    """The folders of the generations of `nst iterate` there, gen2 before gen10."""
    found = [path for path in directory.glob("gen*") if path.name[3:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[3:]))


def of_one_line(generations: Sequence[Path]) -> list[Path]:
    """Those before the first that learned from another network than the one before it is by now; says which that is.

    So it is where a generation was made anew, and those after it were not, or are not yet.
    """
    for teacher, student in pairwise(generations):
        if int(student.name[3:]) != int(teacher.name[3:]) + 1:
            continue  # one between them is gone
        given = taught_by(read_document(student / "started.json") or {})
        result = read_document(teacher / "result.json")
        if given is not None and (not result or result.get("weights_sha256", given) != given):
            say(f"warning: {student} learned from another network than {teacher} is now: left out, with what follows")
            return list(generations[: generations.index(student)])
    return list(generations)


def taught_by(started: Mapping[str, Any]) -> str | None:
    """The sha256 of the weights, or several, from which the labels of a training came, by its started.json."""
    return (started.get("inputs", {}).get("teacher") or {}).get("weights")


def require_undamaged(weights: Path, sha256: str | None = None) -> None:
    """Compares weights with what their training has noted of them; of a file from elsewhere nothing is known.

    Args:
        sha256: None looks for the note beside them.

    Raises:
        NstError: they are not what was written.
    """
    run, note = weights.parent.parent, weights.with_suffix(".json")
    if sha256 is None:
        if weights.parent.name != "checkpoints" or not (run / "started.json").exists() or not note.exists():
            return
        sha256 = read_json(note)["weights_sha256"]
    if not weights.exists():
        raise NstError(f"{weights} is missing", next=way_on(note))
    if (found := known_sha256(weights)) != sha256:
        raise NstError(
            f"{weights} is damaged: it is not what its training has written",
            got=f"sha256 {found}",
            valid=f"sha256 {sha256}",
            next=f"copy it again from where it is whole; or {way_on(note)}, which ends with the same weights",
        )


def _no_finished_run(folder: Path) -> NstError:
    """What a folder without a finished run is: a training that was stopped, or something else, beside runs or not."""
    if _stage_of(folder) == "train":
        return NstError(f"the training in {folder} has not finished", next="start it again: it continues")
    if by_iterate(folder):
        runs = _runs_near(folder)
        what, way = f"nst iterate in {folder} has not finished", "start it again: it continues"
        return NstError(what, next=f"{way}; or take one of its generations: {runs[0]}" if runs else way)
    names = sorted(entry.name for entry in folder.iterdir())[:8]
    return NstError(
        f"{folder} is no run",
        got=f"a folder with {', '.join(names)}" if names else "an empty folder",
        valid="a run directory of nst train or nst iterate, or a file of weights",
        next=_way_to_runs(folder),
    )


def _way_to_runs(folder: Path) -> str:
    runs = _runs_near(folder)[:8]
    if runs:
        return f"take a run that is there: {', '.join(map(str, runs))}"
    return "name a run or a file of weights; `nst train` makes them in run_dir"


def _stage_of(folder: Path) -> str | None:
    """Of the run that has begun in a folder; None where none has."""
    started = folder / "started.json"
    return str(read_json(started).get("stage")) if started.is_file() else None


def _runs_near(folder: Path) -> list[Path]:
    """Finished trainings and runs of `nst iterate` in a folder, else the one that it lies in."""
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _is_usable(entry))
    around = [place for place in folder.parents[:3] if _is_usable(place)]
    return found or around[:1]


def _is_usable(folder: Path) -> bool:
    """Whether a network can be had of a folder, as far as its marks say."""
    try:
        run = generation_of(folder)
        return (run / "DONE").exists() and _stage_of(run) in ("train", "export")
    except NstError:  # damaged, which whoever names it is told
        return False


def _neighbours(path: Path) -> str:
    folder = path.absolute().parent
    names = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else []
    return f"{folder} holds {', '.join(names)}" if names else f"{folder} is empty or missing"
