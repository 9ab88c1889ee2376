"""`nst evaluate`: weights + test shards → evaluation/result.json: top-1, top-5, loss, ECE, confusion, worst mistakes.

With eval=robustness it goes on to corruptions, perturbation sequences, attacks and released sets
(`nst.stages.robustness`), whose scores join the result. The network is evaluated as it is used: averaged weights,
eval mode, clean centre view at its own test size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from nst.atomic import write_csv, write_json
from nst.config import job_from, require_values
from nst.data.batches import Batch, View
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.shard_set import ShardSet
from nst.data.transfer import is_remote
from nst.data.views import clean_view
from nst.errors import NstError
from nst.evaluation.mistakes import FILE as MISTAKES_FILE
from nst.evaluation.mistakes import write as write_mistakes
from nst.evaluation.results import COLUMNS, headlines, summary, table
from nst.evaluation.suite import Block, Subject
from nst.machine import require_batch
from nst.metrics import MAX_CONFUSION_CLASSES, EvaluationSums, accuracy_by_class
from nst.models.architectures import AnyArchitecture, require_size
from nst.models.foreign import Evaluated, open_any, weights_digest
from nst.models.timm_architecture import require_only
from nst.progress import Bar, say
from nst.robustness.classes import imagenet_wnids
from nst.robustness.logits import full_logits, guesses
from nst.robustness.options import RobustnessOptions
from nst.runs import Run
from nst.settings.job import EvaluateJob
from nst.settings.measuring import EvalOptions
from nst.sharing import is_rank_zero
from nst.shown import without_secrets
from nst.stages import robustness as suites
from nst.stages.apart import keep_apart
from nst.stages.places import one_network
from nst.stages.resolving import has_test_set, machine, measured, test_set
from nst.training.callbacks import bad_sample_summary
from nst.training.counting import count
from nst.training.ensemble import looking_at, turns_for
from nst.training.gathering import union
from nst.training.hardware import Machine
from nst.training.tracking import Tracking

MISTAKES_KEPT = 48  # in the result; all are in a table beside it


class CleanScores(EvaluationSums):
    """Scores a network on labeled images, by logits of float32 whatever the trainer's precision: none tie."""

    def add(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Counts a batch; returns confidence and predicted class: (B, 2) float32."""
        logits = full_logits(network, batch["images"])
        self.update(logits, batch["labels"], batch["valid"])
        return guesses(logits)


class Mistakes:
    """All mistakes: confidence, key, label and prediction of each."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, str, int, int]] = []

    def __call__(self, answers: torch.Tensor, batch: Batch) -> None:
        """Takes note of the answers to a batch: confidence and predicted class, (B, 2)."""
        labels = batch["true_labels"]
        confidence, predicted = answers[: len(labels)].numpy().T
        for row in (predicted != labels).nonzero()[0]:
            self.kept.append((float(confidence[row]), batch["keys"][row], int(labels[row]), int(predicted[row])))


def run(job: EvaluateJob, output: Path) -> dict[str, Any]:
    """Evaluates the network of `model.checkpoint` on the test set; returns the result that is also written to `output`.

    That network may be a run directory, a file of ours, or a file or name of timm's (`open_any`), which is taken for
    ImageNet's where only released sets are evaluated.

    Raises:
        NstError: other classes than the network's, no labels, too many bad images, or as `plan` and `run` of
            `nst.stages.robustness`.
    """
    config = require_values(job.config)
    own = Tracking(output, table=False, wandb=job.logger.wandb, config=config, stage="evaluate")
    with own.within(Path(_weights(job))) as tracking:
        return _run(job, output, tracking)


def _run(job: EvaluateJob, output: Path, tracking: Tracking) -> dict[str, Any]:
    options, robustness = measured(job.eval)
    weights, test, hardware, pictures = (
        _weights(job),
        _test_set(job, robustness),
        machine(job.trainer),
        job.data.pictures,
    )
    network, info = open_any(weights, test.classes if test else imagenet_wnids())
    if test:
        _require_fitting(test, info, weights)
    size = options.image_size or info.image_size
    require_only(info.only_size, size, str(weights))
    require_batch("eval.batch_size", options.batch_size, size)
    digest = weights_digest(weights)
    inputs = {"weights": digest, "test": test.digest if test else None, "image_size": size, "pictures": pictures,
              "confusion": options.confusion, "views": options.views,
              "computed_in": str(hardware.precision)}  # fmt: skip
    view, turns = clean_view(size, pictures, info.framing), turns_for(options.views, pictures, option="eval.views")
    subject = None
    if robustness is not None:
        clean_images = suites.clean_images(test, robustness, info.classes)
        subject = Subject(
            info.classes, size, pictures, options.batch_size, robustness, clean_images, info.framing, info.only_size,
            len(turns),
        )  # fmt: skip
    with Run(output, "evaluate", inputs, config=job.config, overwrite=job.overwrite, collective=True) as run_:
        before = run_.result() if hardware.agreed(run_.done) else None
        planned = suites.plan(subject) if subject is not None else None  # a mistake is told before the clean scores
        if before is None or planned is not None:
            network = looking_at(hardware.place(network), turns)
        if before is None:
            run_.finish(
                {"weights": digest, "image_size": size, **_clean_scores(job, output, network, test, view, hardware)}
            )
        result = run_.result()
        if planned is not None:
            blocks = suites.run(
                output / "robustness", planned, network, weights=digest, hardware=hardware,
                max_bad_fraction=job.max_bad_fraction, overwrite=job.overwrite, option=run_.option, title=job.title,
            )  # fmt: skip
            clean_error = 100.0 - result["top1"] if test else None
            result = _joined(result, suites.scores(blocks, planned.subject, clean_error, result.get("robustness", {})))
        if is_rank_zero() and result != before:
            _keep(output, result, tracking)
        return result


def looks(job: EvaluateJob) -> int:
    """In how many views of a picture the network is asked.

    Raises:
        UsageError: in all, and there is but one.
    """
    return len(turns_for(job.eval.clean.views, job.data.pictures, option="eval.views"))


def check(job: EvaluateJob, network: AnyArchitecture) -> None:
    """Tells what the evaluation of a network that is still to be trained would refuse of its options.

    Raises:
        UsageError: a size that the network cannot take, or all views of pictures that have one.
    """
    if job.eval.clean.image_size is not None:
        require_size(network, job.eval.clean.image_size)
    looks(job)


def check_suites(job: EvaluateJob, network: AnyArchitecture, classes: Sequence[str]) -> None:
    """Tells what the suites of a network that is still to be trained would refuse: all sets are opened and listed.

    Raises:
        NstError: as `plan` of `nst.stages.robustness`, or there is no test set.
    """
    _, robustness = measured(job.eval)
    if robustness is not None:
        suites.plan(suites.subject_of(job, network, _test_set(job, robustness), classes))


def _require_fitting(test: ShardSet, info: Evaluated, weights: Path | str) -> None:
    if info.classes != test.classes or not test.labeled:
        raise NstError(
            f"the test set {test.folder} does not fit the network",
            got=f"{len(test.classes)} classes" + ("" if test.labeled else ", no labels"),
            valid=f"labeled images of the {len(info.classes)} classes that {weights} knows, in the same order",
        )


def _joined(result: dict[str, Any], blocks: Mapping[str, Block]) -> dict[str, Any]:
    """The result with the scores of these suites, beside those of suites that were evaluated before."""
    clean = {name: value for name, value in result.items() if not name.startswith("robustness")}
    every = {**result.get("robustness", {}), **blocks}
    return {**clean, **summary(every), "robustness": every}


def _keep(output: Path, result: Mapping[str, Any], tracking: Tracking) -> None:
    """Writes the result where it is more than the clean scores, which are written; and tells W&B."""
    rows = table(result.get("robustness", {}))
    tracking.evaluated(result, rows)
    if rows:
        write_csv(output / "robustness.csv", COLUMNS, rows)
        write_json(output / "result.json", result)


def _clean_scores(
    job: EvaluateJob, output: Path, network: torch.nn.Module, test: ShardSet | None, view: View, hardware: Machine
) -> dict[str, Any]:
    if test is None:
        return {"test": None}
    options = job.eval.clean
    batches = EvaluationBatches(test, view, batch_size=hardware.whole(options.batch_size))
    scores, mistakes = CleanScores(len(test.classes)), Mistakes()
    with Bar(job.title, test.samples, quiet=not is_rank_zero()) as bar:
        trainer, bad = count(
            network, scores, batches, hardware, output, advance=lambda samples: bar.update(bar.step + samples),
            note=mistakes, samples=test.samples, images=test.samples, max_bad_fraction=job.max_bad_fraction,
        )  # fmt: skip
    every = union(mistakes.kept, trainer)[::-1]
    if is_rank_zero():
        write_mistakes(output / MISTAKES_FILE, every, test.classes)
    return _result(scores.moved(torch.Tensor.cpu), test, options, bad, every[:MISTAKES_KEPT])


def _result(
    scores: EvaluationSums, test: ShardSet, options: EvalOptions, bad: Sequence[str], mistakes: Sequence[Any]
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "test": without_secrets(str(test.folder)),
        **scores.compute(),
        # per bin of confidence: images, summed confidence, right ones
        "calibration": scores.state()["calibration"].tolist(),
        "bad_samples": bad_sample_summary(bad),
    }
    if options.confusion and len(test.classes) <= MAX_CONFUSION_CLASSES:
        result["classes"] = list(test.classes)
        confusion = scores.state()["confusion"]
        result["confusion"], result["top1_by_class"] = confusion.tolist(), accuracy_by_class(confusion).tolist()
    names = ("confidence", "key", "label", "predicted")
    result["mistakes"] = [dict(zip(names, entry, strict=True)) for entry in mistakes]
    return result


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    if result["test"]:
        say(
            f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, ECE {result['ece']:.2f} % "
            f"on {result['samples']:.0f} images of {result['test']}"
        )
    for line in headlines(result.get("robustness", {})):
        say(line)
    return result


def from_cfg(cfg: DictConfig) -> dict[str, Any]:
    """The evaluation that the configuration asks for."""
    job = job_from(EvaluateJob, cfg)
    output = output_of(job)
    keep_apart(cfg, "evaluate", {"evaluate.output": output})
    return run(job, output)


def output_of(job: EvaluateJob) -> Path:
    """Where the result goes: into the run that is evaluated, unless the options say otherwise."""
    weights = _weights(job)
    if job.evaluate.output is not None:
        return Path(job.evaluate.output)
    return Path(weights) / "evaluation" if Path(weights).is_dir() else Path(job.run_dir)


def _weights(job: EvaluateJob) -> str:
    if (source := one_network(job.model.checkpoint, job.stage)) is None:
        raise NstError("nothing to evaluate", next="nst evaluate model.checkpoint=<run directory or weights>")
    return source


def _test_set(job: EvaluateJob, robustness: RobustnessOptions | None) -> ShardSet | None:
    """The test set; None where none is wanted and there is something else to measure."""
    data = job.data
    if robustness is None:
        return test_set(data, job.remote, job.stage)
    if not has_test_set(data):
        return None
    if not is_remote(str(data.test)) and not Path(str(data.test)).exists():
        raise NstError(
            f"there is no test set at {data.test}",
            valid="a folder of labeled shards, or null",
            next="data.test=<folder of shards>; data.test=null measures the released sets alone",
        )
    return test_set(data, job.remote, job.stage)
