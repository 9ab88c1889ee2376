"""The head and the foot of the page: one sentence, the numbers that matter, and what is needed to repeat the run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nst.data.shard_set import load_index
from nst.documents import config_text
from nst.report.generation_rows import Row, certain, looked_at, model_name
from nst.report.page import number
from nst.report.records import Experiment, Generation, opening
from nst.shown import short
from nst.typed import unquoted

LAYOUTS = ("folder", "tar", "csv")  # of data sets that have no name of their own
Numbers = list[tuple[str, str, str]]  # value, name, remark


def sentence(experiment: Experiment, entries: Sequence[Row]) -> str:
    """What was done and what came out, in one sentence or two."""
    if not entries:
        return f"No training of {experiment.name} has finished yet; what is there so far follows."
    first, last = entries[0], entries[-1]
    data = _data_name(experiment.last)
    images = f"{number(first['labeled'])} labeled images" + (f" of {data}" if data else "")
    if len(entries) == 1:
        more = f" and {number(last['unlabeled'])} unlabeled ones" if last["unlabeled"] else ""
        return f"{model_name(last)} learned from {images}{more}{_reached(last)}."
    students = len(entries) - 1
    kind = "A noised student" if students == 1 else f"{_count(students).capitalize()} generations of noised students"
    most = max((entry["unlabeled"] or 0 for entry in entries[1:]), default=0)
    text = f"A teacher ({model_name(first)}) learned from {images}. {kind}, learning also from up to "
    text += f"{number(most)} unlabeled images with the labels of the network before,"
    if last["gain"] is None:
        return f"{text} followed."
    verb = "gained" if last["gain"] >= 0 else "lost"
    sure = certain(last["gain_low"], last["gain_high"])
    doubt = ", which these images cannot tell from no difference" if sure is False else ""
    return f"{text} {verb} {abs(last['gain']):.2f} points of top-1: {_from_to(first, last)}{doubt}."


def _data_name(generation: Generation) -> str | None:
    """The name of the data set; of pictures in a folder or file, that of the folder or file."""
    data = generation.config.get("data", {})
    root = (data.get("source") or {}).get("root")
    return short(Path(root).name) if root and data.get("name") in LAYOUTS else data.get("name")


def _count(count: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else str(count)


def _reached(entry: Row) -> str:
    if entry["top1"] is None:
        return ""
    images = (
        f"{number(entry['test_images'])} test images"
        if entry["test_images"]
        else "the images that its training held out"
    )
    return f" and reached {entry['top1']:.2f} % top-1 on {images}"


def _from_to(first: Row, last: Row) -> str:
    images = f" on {number(last['test_images'])} test images" if last["test_images"] else ""
    return f"from {first['top1']:.2f} % to {last['top1']:.2f} %{images}"


def verdicts(entries: Sequence[Row], control: Row | None) -> list[str]:
    """Whether the last network is better than the teacher and than the control, in words; or why that is not told."""
    unlike = looked_at([*entries, *([control] if control is not None else [])])
    notes = [unlike] if unlike is not None else []
    if len(entries) < 2 or entries[-1]["gain"] is None:
        return notes
    last = entries[-1]
    told = [_verdict(last["label"], "the teacher", last["gain"], last["gain_low"], last["gain_high"])]
    if control is not None and control["beaten_by"] is not None:
        other = "the control, which learned from the labels alone"
        told.append(_verdict(last["label"], other, *(control[f"beaten_{end}"] for end in ("by", "low", "high"))))
    return told + notes


def _verdict(name: str, other: str, gain: float, low: float | None, high: float | None) -> str:
    more = f"{opening(name)} has {abs(gain):.2f} points {'more' if gain >= 0 else 'less'} than {other}"
    if low is None or high is None:
        return f"{more}."
    return f"{more} ({_interval(low, high)})" + (
        ": that is no sure difference." if certain(low, high) is False else "."
    )


def _interval(low: float, high: float) -> str:
    return f"95 % interval {low:+.1f} to {high:+.1f}"


def headline_numbers(entries: Sequence[Row], control: Row | None) -> Numbers:
    """The few numbers at the top of the page; `control` is its row."""
    if not entries or entries[-1]["top1"] is None:
        return []
    first, last = entries[0], entries[-1]
    shown: Numbers = []
    if len(entries) > 1 and first["top1"] is not None:
        shown.append((f"{first['top1']:.2f} %", "Teacher, top-1", model_name(first)))
    role = "Last student, top-1" if len(entries) > 1 else "Top-1"
    shown.append((f"{last['top1']:.2f} %", role, model_name(last)))
    if len(entries) > 1 and last["gain"] is not None:
        known = last["gain_low"] is not None
        between = f", {_interval(last['gain_low'], last['gain_high'])}" if known else ""
        shown.append((f"{last['gain']:+.2f}", "Gain", f"percentage points of top-1{between}"))
    if len(entries) > 1 and control is not None and control["beaten_by"] is not None:
        low, high = control["beaten_low"], control["beaten_high"]
        between = "" if low is None else f", {_interval(low, high)}"
        shown.append((f"{control['beaten_by']:+.2f}", "Over the control", f"points over labels alone{between}"))
    if last["pseudo_label_accuracy"] is not None:
        shown.append((f"{last['pseudo_label_accuracy']:.1f} %", "Pseudo-labels right", "that the last student saw"))
    if "corruption_error" in last:
        same = first.get("corruption_suite") == last["corruption_suite"] and first["looks"] == last["looks"]
        before = f"teacher {first['corruption_error']:.1f} %, " if first is not last and same else ""
        remark = f"{before}unnormalised mean, {last['corruption_suite']}"
        shown.append((f"{last['corruption_error']:.1f} %", "Corruption error", remark))
    if len(entries) == 1 and last["ece"] is not None:
        shown.append((f"{last['ece']:.2f} %", "Calibration error", "expected (ECE), lower is better"))
    return shown


def facts(experiment: Experiment) -> dict[str, str]:
    """Provenance: when, where, with what, from which data."""
    last = experiment.last
    started, config = last.started, last.config
    machine = started.get("machine", {})
    packages = started.get("packages", {})
    trainer = config.get("trainer", {})
    found = {
        "Run": str(experiment.directory),
        "Finished": _finished(last),
        "Code": started.get("git") or ("not a git checkout" if started else None),
        "Seed": str(config["seed"]) if "seed" in config else None,
        "Machine": _joined(machine.get("system"), f"{machine['cpus']} CPUs" if "cpus" in machine else None,
                           machine.get("accelerator")),
        "Trainer": _joined(trainer.get("accelerator"), trainer.get("precision"),
                           f"{trainer['devices']} device(s)" if "devices" in trainer else None),
        "Python": started.get("python"),
        "Packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        **{f"{part.capitalize()} images": _images(last, part) for part in ("labeled", "unlabeled", "test")},
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def _joined(*parts: str | None) -> str:
    return ", ".join(str(part) for part in parts if part)


def _finished(generation: Generation) -> str | None:
    mark = generation.directory / "evaluation" / "DONE"
    mark = mark if mark.exists() else generation.directory / "DONE"
    if not mark.exists():
        return None
    return datetime.fromtimestamp(mark.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _images(generation: Generation, part: str) -> str | None:
    folder = generation.data_folder(part)
    if folder is None:
        return None
    index = folder / "index.json"
    if not index.exists():
        return f"{folder} (not there any more)"
    return f"{number(load_index(folder).samples)} in {folder}"


def command(experiment: Experiment, stage: str | None = None, overrides: Sequence[str] | None = None) -> str | None:
    """The command line that made the run, from its config.yaml or as given; None where it was not recorded."""
    for folder in (experiment.directory, experiment.last.directory):
        config = Generation(folder).config
        if overrides is None and config.get("overrides"):
            stage, overrides = config.get("stage"), config["overrides"]
    if overrides is None or stage is None:
        return None
    # whoever repeats a run must not be told to delete it
    kept = [text for text in overrides if text.lstrip("+").partition("=")[0] != "overwrite"]
    return shlex.join(["nst", stage, *map(unquoted, kept)])


def configs(experiment: Experiment) -> dict[str, str]:
    """config.yaml of the first and the last network, for the foot of the page."""
    shown: dict[Path, Generation] = {entry.directory: entry for entry in (experiment.first, experiment.last)}
    texts = {entry.title: entry.directory / "config.yaml" for entry in shown.values()}
    return {f"All options of {title}": config_text(path) for title, path in texts.items() if path.exists()}
