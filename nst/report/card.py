"""A model card from a run's files: the network, the data it learned from, its scores, and how it was made.

Nothing is said that the files do not say. What was not measured is listed as such, and licence and intended use are
left to whoever publishes the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nst.report.generation_rows import Row, control_row, model_name, rows
from nst.report.page import number
from nst.report.records import Experiment, Generation, open_runs
from nst.report.robustness_files import conditions, measured_rows
from nst.report.summary import command, facts, verdicts
from nst.shown import fenced, in_markdown, short

# without the time at which it finished, which is that of a file: a copy of the run would have another card
PROVENANCE = ("Code", "Seed", "Machine", "Trainer", "Python", "Packages")
LISTED_CLASSES = 20
LONGEST_CELL = 3000  # letters
LICENCE = """## Licence and intended use

To be filled in by whoever publishes this network, with regard to the licences of the images it learned from."""


def model_card(run: Path | None, *, title: str, network: Mapping[str, str], use: str, classes: Sequence[str]) -> str:
    """The card as Markdown.

    Args:
        run: the training's directory; None where only weights are known.
        network: name → value of what the weights themselves say.
        use: how the exported files are loaded, as Markdown.
    """
    experiment = _experiment(run) if run else None
    parts = [f"# {in_markdown(title)}", _network(network, classes), f"## Use\n\n{use}"]
    if experiment is None:
        parts.append("## Training\n\nNot known: exported from weights alone.")
    else:
        entries = rows(experiment)
        parts += [_training(experiment), _results(experiment, entries), _made(experiment)]
    parts.append(_limitations(experiment))
    return "\n\n".join([*parts, LICENCE]) + "\n"


def _experiment(run: Path) -> Experiment:
    """The generations up to this one."""
    if not re.fullmatch(r"gen\d+", run.name):
        return open_runs(run)[0]
    whole = open_runs(run.parent)[0]
    upto = [entry.directory.resolve() for entry in whole.generations].index(run.resolve()) + 1
    control = whole.control if upto == len(whole.generations) else None  # it is of the last one's size and images
    return Experiment(whole.name, whole.directory, whole.generations[:upto], control)


def _network(network: Mapping[str, str], classes: Sequence[str]) -> str:
    named = ", ".join(short(name) for name in classes[:LISTED_CLASSES]) + (
        " ..." if len(classes) > LISTED_CLASSES else ""
    )
    return _table({**network, "Classes": f"{len(classes)}: {named}"})


def _table(pairs: Mapping[str, str]) -> str:
    lines = [f"| {name} | {in_markdown(value, LONGEST_CELL)} |" for name, value in pairs.items() if value]
    return "\n".join(["| | |", "|---|---|", *lines])


def _training(experiment: Experiment) -> str:
    last = experiment.last
    inputs = last.started.get("inputs", {})
    recipe, noise = inputs.get("recipe", {}), inputs.get("noise", {})
    told = {
        "Data": str(last.config.get("data", {}).get("name", "")),
        "Labeled images": number(last.result.get("labeled_samples")),
        "Start": _start(last, inputs),
        "Labels of unlabeled images": _teacher(inputs.get("teacher")),
        "Steps": number(last.result.get("steps")),
        "Batch": _batch(recipe),
        "Optimiser": str(recipe.get("optimizer", {}).get("name", "")),
        "Noise of labeled images": _noise(noise, "labeled"),
        "Noise of unlabeled images": _noise(noise, "unlabeled") if recipe.get("unlabeled_ratio") else "",
        "Weights": f"moving average of the training's, decay {recipe['ema_decay']:g}" if "ema_decay" in recipe else "",
    }
    return f"## Training\n\n{_table(told)}"


def _start(generation: Generation, inputs: Mapping[str, Any]) -> str:
    """Where the weights began."""
    model, student = (generation.config.get(group) or {} for group in ("model", "student"))
    if whole := inputs.get("start"):
        return f"the network {model.get('checkpoint')}, gone on from{_digest(whole)}"
    if "pretrained" not in inputs:
        return "fresh weights" if inputs else ""
    named = model.get("pretrained")
    if generation.has_teacher and student.get("start") == "teacher":
        named = "the teacher"
    elif named is True:
        named = f"timm's {model.get('name')}"
    return f"weights of {named}{_digest(inputs['pretrained'])}"


def _digest(digest: object) -> str:
    return f" (digest {str(digest)[:12]})" if re.fullmatch("[0-9a-f]{64}", str(digest)) else ""


def _batch(recipe: Mapping[str, Any]) -> str:
    if "labeled_batch_size" not in recipe:
        return ""
    labeled, ratio = recipe["labeled_batch_size"], recipe["unlabeled_ratio"]
    return f"{labeled:,} labeled" + (f" and {labeled * ratio:,} unlabeled images" if ratio else " images")


def _teacher(teacher: Mapping[str, Any] | None) -> str:
    if not teacher:
        return "none were used"
    kind = f"{teacher['targets']}, {teacher['mode']}"
    noise = "under the noise of its own training" if teacher.get("noised") else "without noise"
    weights = [digest[:12] for digest in teacher["weights"].split("+")]
    if len(weights) > 1:
        each = ", ".join(weights)
        return f"by the mean of {len(weights)} teacher networks, {noise} ({kind}; their weights: sha256 {each})"
    return f"by a teacher network, {noise} ({kind}; its weights: sha256 {weights[0]})"


def _noise(noise: Mapping[str, Any], side: str) -> str:
    own, drawn = noise.get(side), noise.get("randaugment", {})
    if not own:
        return ""
    strength = f"{drawn['num_ops']} x {drawn['magnitude']:g} ({drawn['variant']})"
    kinds = {
        "randaugment": f"RandAugment {strength}" if drawn["num_ops"] else "crop and flip",
        "standard": "crop and flip",
        "none": "no augmentation",
    }
    parts = [kinds[own["augment"]]]
    parts += [f"{name.replace('_', ' ')} {noise[name]:g}" for name in ("dropout", "stochastic_depth") if own[name]]
    return ", ".join(parts)


def _results(experiment: Experiment, entries: Sequence[Row]) -> str:
    if not entries or entries[-1]["top1"] is None:
        return "## Results\n\nNot measured: the run has no evaluation."
    heading = "| generation | network | labeled | unlabeled | top-1 % | 95 % interval | top-5 % | ECE % |"
    lines = [heading, "|" + "---|" * 8]
    control = control_row(experiment, entries)
    for entry in [*entries, *([control] if control is not None else [])]:
        between = "–" if entry["top1_low"] is None else f"{entry['top1_low']:.1f} – {entry['top1_high']:.1f}"
        scores = [number(entry[name], ".2f") for name in ("top1", "top5", "ece")]
        images = [number(entry[name]) for name in ("labeled", "unlabeled")]
        cells = [in_markdown(entry["label"]), in_markdown(model_name(entry)), *images, scores[0], between, *scores[1:]]
        lines.append(f"| {' | '.join(cells)} |")
    last = entries[-1]
    lines += ["", _measured_on(experiment, last)]
    if verdict := verdicts(entries, control):
        lines += ["", " ".join(verdict)]
    lines += ["", *_robustness(experiment.last)]
    return "\n".join(["## Results", "", *lines])


def _robustness(generation: Generation) -> list[str]:
    """A row for each number of each suite, and what the numbers depend on."""
    blocks = generation.robustness
    if not blocks:
        return ["Robustness: not measured."]
    cells = [f"| {' | '.join(map(in_markdown, row))} |" for row in measured_rows(blocks)]
    depend = [f"- {in_markdown(conditions(suite, block), LONGEST_CELL)}" for suite, block in blocks.items()]
    return ["### Robustness", "", "| suite | | value |", "|---|---|---|", *cells, "", *depend]


def _measured_on(experiment: Experiment, last: Row) -> str:
    """What the table is of."""
    if last["test_images"] is None:
        return "On the images that its training held out; one seed."
    test = (experiment.last.evaluation or {}).get("test")
    place = f" in {in_markdown(test)}" if test else ""
    return f"On {number(last['test_images'])} test images{place}; one seed. The interval does not cover the seed."


def _made(experiment: Experiment) -> str:
    found = facts(experiment)
    line = command(experiment)
    given = "\n\n" + fenced(line, "bash") if line else ""
    return f"## How it was made\n\n{_table({name: found[name] for name in PROVENANCE if name in found})}{given}"


def _limitations(experiment: Experiment | None) -> str:
    lines = ["It answers with one of its classes for any picture, also for one that shows none of them."]
    if experiment is not None:
        lines.append("What was measured holds for pictures like those it was measured on.")
        if experiment.last.has_teacher:
            lines.append("Its labels of unlabeled images came from another network, whose mistakes it may share.")
    return "## Limitations\n\n" + "\n".join(f"- {line}" for line in lines)
