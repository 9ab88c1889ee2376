"""The robustness part of `nst evaluate`: suites one after the other, each a run directory that can be continued.

    evaluation/robustness/<suite>/parts/<part>.json   what one part came to: the mark that it is done
    evaluation/robustness/<suite>/result.json, DONE   what the suite measured

One part is measured at a time, by all ranks together; a killed evaluation begins the part anew in which it was. A suite
that is done is skipped, so suites can be added to an evaluation later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch

from nst.advice import leave_out
from nst.atomic import write_json
from nst.data.batches import Batch
from nst.data.shard_set import ShardSet
from nst.documents import as_json, read_json
from nst.errors import NstError
from nst.evaluation import results
from nst.evaluation.suite import Block, Pass, Subject, Suite
from nst.models.architectures import AnyArchitecture, framing_at, only_size, require_size
from nst.progress import Bar, say
from nst.robustness.classes import readable_names
from nst.robustness.image_sets import ImageSet, shard_images
from nst.robustness.options import RobustnessOptions
from nst.robustness.padded import ImageSetBatches
from nst.robustness.sets import imagenet_folders
from nst.robustness.sheets import Answer, entries, write_sheet
from nst.runs import Run
from nst.settings.job import EvaluateJob, TrainJob
from nst.sharing import is_rank_zero
from nst.stages.resolving import measured
from nst.training.counting import count
from nst.training.ensemble import turns_for
from nst.training.gathering import union
from nst.training.hardware import Machine


class Shown:
    """The answers to the samples that are to be shown with their pictures.

    Args:
        numbers: of these samples.
        frames: pictures of a sample.
    """

    def __init__(self, numbers: Sequence[int], frames: int) -> None:
        self.numbers, self.frames = np.array(numbers, np.int64), frames
        self.kept: list[Answer] = []

    def __call__(self, answers: torch.Tensor, batch: Batch) -> None:
        """Takes note of the answers to a batch: confidence and predicted class of its pictures, (N * T, 2)."""
        by_frame = answers.unflatten(0, (-1, self.frames)).numpy()
        for place in np.flatnonzero(np.isin(batch["index"], self.numbers)):
            confidence, predicted = by_frame[place].T
            number = int(batch["index"][place])
            self.kept.append((number, tuple(confidence.tolist()), tuple(predicted.astype(int).tolist())))


def clean_images(test: ShardSet | None, options: RobustnessOptions, classes: Sequence[str]) -> ImageSet | None:
    """What is corrupted, perturbed and attacked: the test set, or ImageNet's validation images."""
    if not options.on_the_fly:
        return None
    if test:
        return shard_images(test)
    if options.imagenet_val:
        return imagenet_folders("imagenet_val", options.imagenet_val, classes)
    say("no corruptions, sequences or attacks on the fly: neither data.test nor eval.imagenet_val is given")
    return None


@dataclass(frozen=True)
class Planned:
    """The suites that are asked for of a subject, and the conditions of each by name."""

    subject: Subject
    suites: Sequence[Suite]
    conditions: Mapping[str, dict[str, Any]]


def subject_of(
    job: TrainJob | EvaluateJob, network: AnyArchitecture, test: ShardSet | None, names: Sequence[str]
) -> Subject:
    """A network that is still to be trained, as its evaluation will see it.

    Args:
        test: its test set, or what it is watched on.
        names: of its classes.

    Raises:
        UsageError: the network cannot take the evaluation's size, or all views are asked for and there is but one.
    """
    clean, options = measured(job.eval)
    if options is None:
        raise ValueError("nothing but clean scores is asked for")
    size = clean.image_size or network.test_size
    require_size(network, size)
    views = turns_for(clean.views, job.data.pictures, option="eval.views")
    return Subject(
        names, size, job.data.pictures, clean.batch_size, options, clean_images(test, options, names),
        framing_at(network, size), only_size(network), len(views),
    )  # fmt: skip


def plan(subject: Subject) -> Planned:
    """What will be evaluated.

    Raises:
        NstError: nothing to evaluate, a set that does not fit, or a baseline that was measured under other conditions.
    """
    suites = results.suites_of(subject)
    if not suites:
        wanted = subject.options.on_the_fly
        raise NstError(
            "there are no images to evaluate robustness on" if wanted else "no suite of robustness is asked for",
            got="no folder of a released set, and "
            + ("no test set" if wanted else "nothing") + " to corrupt, perturb or attack",
            next="give one, such as eval.imagenet_a=<folder>" + (", or data.test=<shards>" if wanted else "")
            + "; eval=clean measures the clean scores alone",
        )  # fmt: skip
    conditions = {suite.name: {**as_json(suite.conditions), "views": subject.looks} for suite in suites}
    _check_baseline(subject.options.baseline, conditions)  # now, and not after hours
    return Planned(subject, suites, conditions)


def run(
    folder: Path,
    planned: Planned,
    network: torch.nn.Module,
    *,
    weights: str,
    hardware: Machine,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    option: str | None = None,
    title: str = "evaluate",
) -> dict[str, Block]:
    """Evaluates in turn all suites that are asked for; what each has measured, by name.

    Args:
        weights: what identifies the network's, and in how many views it is asked.
        option: by which the command line names the evaluation's directory.

    Raises:
        NstError: too many bad images, or (`Preempted`) the process was told to stop.
    """
    subject, conditions = planned.subject, planned.conditions
    found = {}
    for suite in planned.suites:
        # the views are an input of the evaluation around this one, by which also an older suite is known
        named = {name: value for name, value in conditions[suite.name].items() if name != "views"}
        inputs = {"weights": weights, "precision": str(hardware.precision), **named}
        with Run(folder / suite.name, "evaluate", inputs, overwrite=overwrite, collective=True, option=option) as run_:
            if not hardware.agreed(run_.done):
                parts = _evaluate(run_.directory, suite, network, subject, hardware, max_bad_fraction, title)
                measured = suite.measured(parts) if is_rank_zero() else {}
                run_.finish({"conditions": conditions[suite.name], **measured})
            found[suite.name] = results.with_views(run_.result(), subject.looks)
            del found[suite.name]["stage"]
    return found


def _evaluate(
    directory: Path,
    suite: Suite,
    network: torch.nn.Module,
    subject: Subject,
    hardware: Machine,
    max_bad_fraction: float,
    title: str,
) -> dict[str, Any]:
    """What every part of a suite has kept, after evaluating those that have no file yet."""
    names = suite.parts
    paths = {name: directory / "parts" / f"{name}.json" for name in names}
    missing = hardware.agreed([name for name in names if not paths[name].exists()])
    total = suite.pictures
    done = total * (len(names) - len(missing)) // len(names)
    with Bar(f"{title} {suite.name}", total, start=done, quiet=not is_rank_zero()) as bar:
        for name in missing:
            kept = evaluate_pass(suite.open(name), network, subject, hardware, paths[name], bar, max_bad_fraction)
            if is_rank_zero():
                write_json(paths[name], kept)
        bar.update(total)
    return {name: read_json(paths[name])["kept"] for name in names} if is_rank_zero() else {}


def evaluate_pass(
    pass_: Pass,
    network: torch.nn.Module,
    subject: Subject,
    hardware: Machine,
    path: Path,
    bar: Bar,
    max_bad_fraction: float,
) -> dict[str, Any]:
    """One pass by all ranks: what its file keeps. Pictures are written beside `path`."""
    images, scorer = pass_.images, pass_.scorer
    batches = ImageSetBatches(images, pass_.view, batch_size=hardware.whole(pass_.batch_size))
    shown = Shown(list(pass_.shown), images.frames)
    trainer, bad = count(
        network, scorer, batches, hardware, path.parent,
        advance=lambda samples: bar.update(bar.step + samples * images.frames),
        note=shown if pass_.shown else None, samples=len(images), images=len(set(images.keys)),
        max_bad_fraction=max_bad_fraction,
    )  # fmt: skip
    answers = union(shown.kept, trainer)
    if not trainer.is_global_zero:
        return {}
    kept: dict[str, Any] = {"kept": scorer.kept(), "bad": bad}
    if answers:
        kept["sheet"] = write_sheet(path.with_suffix(""), batches, [number for number, *_ in answers])
        kept["shown"] = entries(answers, batches, pass_.shown, readable_names(subject.classes))
    return kept


# ---- the result --------------------------------------------------------------------------------------------------


def scores(
    measured: Mapping[str, Block],
    subject: Subject,
    clean_error: float | None,
    before: Mapping[str, Block] | None = None,
) -> dict[str, Block]:
    """The blocks of the result: measurements, and what follows from them.

    Args:
        clean_error: top-1 error in percent on the whole test set; of suites of a part of their images it is not used.
        before: blocks of the same network that were measured earlier.
    """
    imagenet = len(subject.classes) == 1000
    others = baseline_blocks(subject.options.baseline)
    validation = {**(before or {}), **measured}.get("imagenet_val")
    found = {}
    for name, block in measured.items():
        part = _part(block)
        clean = clean_error if part is None else None
        if validation and name.startswith("imagenet") and _part(validation) == part:
            clean = 100.0 - validation["top1"]
        found[name] = results.scored(
            name, block, clean_error=clean, imagenet=imagenet, baseline=others.get(name) if others else None
        )
    return found


def _part(block: Block) -> tuple[int, int] | None:
    """What chose a suite's images: `max_images` and seed; None: all of them."""
    conditions = block["conditions"]
    return None if conditions["max_images"] is None else (conditions["max_images"], conditions["seed"])


def baseline_blocks(baseline: str | None) -> dict[str, Block] | None:
    """The robustness results of a run directory or an evaluation's folder; None without a baseline.

    Raises:
        NstError: there are none.
    """
    if baseline is None:
        return None
    for path in (Path(baseline) / "evaluation" / "result.json", Path(baseline) / "result.json"):
        if path.exists() and (found := read_json(path).get("robustness")):
            looks = results.looks_of(results.inputs_of(path.parent))
            return {name: results.with_views(block, looks) for name, block in found.items()}
    for option in ("eval.baseline", "evaluate.output"):  # of the network that is compared with it
        leave_out(option)
    raise NstError(
        f"the baseline {baseline} has no robustness results",
        valid="a run directory that nst evaluate eval=robustness has been through, or the folder it wrote",
        next=f"nst evaluate eval=robustness model.checkpoint={quote(str(baseline))}",
    )


def _check_baseline(baseline: str | None, conditions: Mapping[str, Mapping[str, Any]]) -> None:
    others = baseline_blocks(baseline)
    if others is None:
        return
    shared = conditions.keys() & others.keys()
    if not shared:
        raise NstError(
            f"the baseline {baseline} has no suite of these", got=", ".join(others), valid=", ".join(conditions)
        )
    for name in sorted(shared):
        results.require_comparable(name, conditions[name], others[name]["conditions"])
