"""`nst predict`: a trained network and pictures without labels → predictions.csv and .parquet, and a contact sheet.

    predict/<input>/parts/        what labeling writes, a file per part: nobody is asked again about what is there
    calibrated-3f9a01/parts/      the same with --calibrated, at those temperatures
    predictions.csv .parquet      path, class, confidence, class_2, confidence_2, ...
    unsure.csv unreadable.csv     below --min-confidence; not decoded, or not tried, with the reason
    sheet.html                    pictures by class and confidence

The network says how it is to be asked: size, view and names of classes come from its file. What is made of the answers
(--top, --min-confidence, --sort-into, the sheet) can be asked for anew without asking the network again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from nst import __version__
from nst.atomic import sha256_file, write_text
from nst.by_hand import TABLES, away, changed
from nst.config import job_from, require_values
from nst.data.answered import read_answers, write_tables
from nst.data.asked import to_ask
from nst.data.inputs import Inputs, ShardPictures, open_inputs
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import PredictionMetadata
from nst.data.remote import Remote
from nst.data.sorting import Sorted, class_folders, require_folder, sort_into
from nst.data.transfer import is_remote
from nst.documents import fingerprint, read_json
from nst.errors import NstError, UsageError
from nst.finished import generation_of
from nst.machine import require_batch
from nst.progress import say
from nst.provenance import provenance
from nst.run_inputs import identity
from nst.runs import Run
from nst.settings.job import PredictJob
from nst.sharing import is_rank_zero
from nst.shown import count_of, without_secrets
from nst.stages.apart import keep_apart
from nst.stages.places import network_files
from nst.stages.resolving import machine
from nst.training.calibration import at_own_temperature, remark
from nst.training.ensemble import ensemble_asked
from nst.training.label_engines import LightningEngine, ShardsToLabel
from nst.typed import unquoted

SHEET = "sheet.html"
Result = dict[str, Any]


def run(job: PredictJob, directory: Path) -> Result:
    """Asks the network about every picture and writes the tables; returns the counts of result.json.

    Raises:
        NstError: no such network or input, no picture that can be read, or a table that a person has changed.
    """
    options, engine = job.predict, LightningEngine(machine(job.trainer))
    if options.sort_into:
        require_folder(Path(options.sort_into))
    network = ensemble_asked(network_files(job.model.checkpoint, job.stage), options.views)
    if options.calibrated:
        network = at_own_temperature(network)
    require_batch("predict.batch_size", options.batch_size, network.image_size)
    inputs = open_inputs(_place(job), Remote(**vars(job.remote)))
    inputs.agree(engine.agreed)
    precision, views = engine.precision(options.precision), [member.view for member in network.members]
    known = {
        "network": network.digest, "place": whole_place(job), "views": views, "turns": len(network.turns),
        "precision": precision,
    }  # fmt: skip
    if isinstance(inputs, ShardPictures):  # others are known one by one
        known |= {"pictures": inputs.digest, "parts": list(inputs.sizes)}
    calibrated = {"temperatures": [member.temperature for member in network.members]} if options.calibrated else {}
    asked_for = {"inputs": fingerprint(identity(known | calibrated))}
    metadata = PredictionMetadata(network.digest, network.classes, network.image_size, "", "", asked_for)
    # probabilities are kept as float16: at another temperature these would not do
    within = Path(f"calibrated-{fingerprint(calibrated)[:6]}" if calibrated else "")
    files = PredictionFiles(directory.absolute() / within / "parts", metadata, keep=0.0)
    with Run(
        directory, "predict", known, config=require_values(job.config), overwrite=job.overwrite, collective=True,
        files=[*TABLES, SHEET],
    ) as run_:  # fmt: skip
        before = run_.result() if engine.agreed(run_.done) else {}
        wanted = {**asked(job, inputs), **calibrated}
        anew = before.get("asked") != wanted or bool(_missing(directory, before))
        if before and anew and is_rank_zero():
            _require_untouched(directory, before["tables"])
        pictures, todo = to_ask(files, inputs, engine.agreed)
        if todo:
            batch = engine.batch_size(pictures.batch_size(options.batch_size))
            classes = count_of(len(network.classes), "class")
            new = "" if pictures.samples == inputs.samples else f", {pictures.samples:,} to be asked about"
            beside = f", {count_of(len(inputs.passed), 'other file')}: unreadable.csv" if inputs.passed else ""
            say(f"{count_of(inputs.samples, 'picture')} of {shown_place(job)}{new}{beside}, {classes}, {directory}")
            work = ShardsToLabel(network, files.folder, pictures, batch, precision, files.write, job.title)
            engine.label(work, todo)
        if not is_rank_zero():
            return run_.finish({})
        if before and anew:  # a kill from here on leaves tables that no person has changed
            run_.finish({**before, "asked": None, "tables": {}})
        tables = _tables(job, directory, files, inputs, before if not anew else {}, wanted)
        if (line := remark(network)) is not None:
            say(line)
        return run_.finish(tables)


def _missing(directory: Path, before: Result) -> list[str]:
    """Tables that a run has made and that are gone."""
    made = [*before.get("tables", ()), *([SHEET] if before.get("sheet") else [])]
    return [name for name in made if not (directory / name).exists()]


def asked(job: PredictJob, inputs: Inputs) -> dict[str, Any]:
    """What the tables depend on besides the answers."""
    options = job.predict
    return {
        "pictures": inputs.digest, "top": options.top, "min_confidence": options.min_confidence, "sheet": options.sheet,
    }  # fmt: skip


def _tables(
    job: PredictJob, directory: Path, files: PredictionFiles, inputs: Inputs, before: Result, wanted: dict[str, Any]
) -> Result:
    """All that is made of the answers; what an earlier run has made of the same options stays as it is.

    Args:
        before: its result; empty: there is none.
    """
    options = job.predict
    if not before:
        counts = write_tables(directory, files, inputs, top=options.top, min_confidence=options.min_confidence)
        if counts["predicted"] + counts["unsure"] == 0:
            raise _nothing_read(directory, counts)
        if options.sheet:
            write_text(directory / SHEET, _sheet(job, files, inputs, counts))
        else:
            (directory / SHEET).unlink(missing_ok=True)
        tables = {name: sha256_file(directory / name) for name in TABLES}
        before = {
            "network": files.metadata.teacher_sha256, **counts, "asked": wanted, "tables": tables,
            "sheet": bool(options.sheet),
        }  # fmt: skip
    before.pop("sorted", None)  # of an earlier command
    if options.sort_into:
        before["sorted"] = sort_into(Path(options.sort_into), _to_be_sorted(job, files, inputs), _place(job))
    return before


def _require_untouched(directory: Path, tables: Mapping[str, str]) -> None:
    """Raises NstError where a person has worked on a table that is about to be written anew."""
    for table in changed(directory, tables):
        raise NstError(
            f"{table} has been changed since nst wrote it",
            valid="tables as nst wrote them, which it may write anew",
            next=f"{away(table)[0]}, then the same command; or another predict.output=<folder>",
        )


def _nothing_read(directory: Path, counts: Result) -> NstError:
    return NstError(
        "no picture could be read",
        got=f"{count_of(counts['unreadable'], 'file')}, each with its reason in {directory / 'unreadable.csv'}",
        next=f"cat {shlex.quote(str(directory / 'unreadable.csv'))}",
    )


def _to_be_sorted(job: PredictJob, files: PredictionFiles, inputs: Inputs) -> Iterator[Sorted]:
    folders = class_folders(files.metadata.classes)
    for answers in read_answers(files, inputs, 1):
        kept = answers.where(answers.confidences[:, 0].astype(np.float64) >= job.predict.min_confidence)
        for index, path, label in zip(kept.index.tolist(), kept.paths, kept.labels[:, 0].tolist(), strict=True):
            shard = kept.shard
            yield Sorted(
                folders[label],
                path,
                inputs.file(shard, index),
                lambda s=shard, i=index: inputs.data(s, i),  # type: ignore[misc]
            )


def _sheet(job: PredictJob, files: PredictionFiles, inputs: Inputs, counts: Result) -> str:
    from nst.report.sheet import sheet, told_of  # here: it brings matplotlib

    options = job.predict
    told = told_of(read_answers(files, inputs, min(options.top, 3)), inputs, files.metadata.classes)
    facts = {
        "pictures": shown_place(job),
        "network": str(job.model.checkpoint),
        "sha256": files.metadata.teacher_sha256,
        "view": f"{files.metadata.image_size} px",
        **({"confidences": "calibrated on validation pictures"} if options.calibrated else {}),
        "code": f"nst {__version__}, {provenance()['git']}",
    }
    command = shlex.join(["nst", "predict", *(without_secrets(unquoted(item)) for item in job.overrides)])
    return sheet(
        told, counts, count=options.sheet, min_confidence=options.min_confidence, facts=facts, command=command,
        title=Path(shown_place(job)).name or shown_place(job),
    )  # fmt: skip


def _place(job: PredictJob) -> str:
    if job.predict.input is None:
        raise UsageError(
            "nst predict needs pictures",
            valid="a folder, picture, tar, zip, folder of shards, or a list (.csv, .txt) of paths",
            next="nst predict model.checkpoint=<run> input=<folder>",
        )
    return job.predict.input


def shown_place(job: PredictJob) -> str:
    return without_secrets(_place(job))


def whole_place(job: PredictJob) -> str:
    """By which the input is told from others of its name."""
    return shown_place(job) if is_remote(_place(job)) else os.path.abspath(_place(job))


def output_folder(job: PredictJob) -> Path:
    """predict.output; else run_dir, if the command line names it; else predict/<input> in the network's run.

    Another input of that name gets some letters of its path behind it, as networks do that are in no run.
    """
    if job.predict.output is not None:
        return Path(job.predict.output)
    if any(item.startswith(("run_dir=", "name=")) for item in job.overrides):
        return Path(job.run_dir)
    networks, place = job.model.checkpoint, whole_place(job)
    name = re.sub(r"[^\w.-]", "_", place.rstrip("/").rpartition("/")[2]) or "pictures"
    if not (isinstance(networks, str) and (generation_of(Path(networks)) / "DONE").exists()):
        several = [networks] if isinstance(networks, str) else networks or []
        return Path(job.run_dir) / f"{name}-{_letters([os.path.abspath(each) for each in several] + [place])}"
    folder = Path(networks) / "predict"
    return folder / name if _place_asked(folder / name) in (None, place) else folder / f"{name}-{_letters([place])}"


def _letters(paths: Sequence[str]) -> str:
    return fingerprint(list(paths))[:6]


def _place_asked(folder: Path) -> str | None:
    """The input of the answers that a folder holds; None where there are none."""
    with contextlib.suppress(NstError):  # damaged: its run says so
        return read_json(folder / "started.json")["inputs"].get("place")
    return None


def main(cfg: DictConfig) -> Result:
    """Reads the configuration and runs the stage."""
    job = job_from(PredictJob, cfg)
    directory = output_folder(job)
    keep_apart(cfg, "predict", {"predict.output": directory, "predict.sort_into": job.predict.sort_into})
    result = run(job, directory)
    say(summary_line(result, directory))
    return result


def summary_line(result: Result, directory: Path) -> str:
    """Counts, then where to look."""
    found = {name: count for name, count in result["by_class"].items() if count}
    shown = sorted(found, key=lambda name: -found[name])
    most = ", ".join(f"{name} {found[name]}" for name in shown[:6])
    more = f", {count_of(len(shown) - 6, 'more class')}" if len(shown) > 6 else ""
    parts = [f"{count_of(result['predicted'], 'picture')} with an answer{': ' if most else ''}{most}{more}"]
    theirs = changed(directory, result["tables"])

    def named(file: str) -> str:
        return f"{directory / file}{', as you have changed it' if directory / file in theirs else ''}"

    for what, file in (("unsure", "unsure.csv"), ("unreadable", "unreadable.csv")):
        if result[what]:
            parts.append(f"{result[what]} {what}: {named(file)}")
    if "sorted" in result:
        parts.append(f"{result['sorted']} sorted")
    return "\n".join([*parts, named("predictions.csv"), *([named(SHEET)] if result["sheet"] else [])])
