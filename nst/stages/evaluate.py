"""`nst evaluate`: weights + test shards → evaluation/result.json: top-1, top-5, loss, ECE, confusion, worst mistakes.

The network is evaluated as it is used: averaged weights, eval mode, clean centre view at its own test size.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

from nst.config import build as build_from
from nst.config import plain
from nst.data.batches import Batch, EvaluationBatches
from nst.data.datamodule import evaluation_loader
from nst.data.shard_set import ShardSet
from nst.data.views import Pictures, clean_view
from nst.errors import NstError
from nst.models.efficientnet import EfficientNet, normalize
from nst.models.released import open_network, weights_digest
from nst.progress import Bar, say
from nst.runs import Run
from nst.stages.options import test_set
from nst.training.callbacks import bad_sample_summary, check_bad_share
from nst.training.classifier import reduced, union
from nst.training.hardware import Hardware
from nst.training.metrics import MAX_CONFUSION_CLASSES, Evaluation, accuracy_by_class

MISTAKES_KEPT = 48


@dataclass(frozen=True)
class EvalOptions:
    """The `eval` group.

    Args:
        image_size: px of the clean view; None is the network's own test size.
        confusion: keep the confusion matrix in the result (up to 1,000 classes).
    """

    batch_size: int = 256
    image_size: int | None = None
    confusion: bool = True


class Evaluator(pl.LightningModule):
    """Scores a network over a test loader, and remembers its most confident mistakes."""

    def __init__(self, network: EfficientNet, bar: Bar) -> None:
        super().__init__()
        self.network, self.bar = network.eval(), bar
        self.scores = Evaluation(network.num_classes)
        self.bad: set[str] = set()
        self.mistakes: list[tuple[float, str, int, int]] = []  # a heap: confidence, key, label, prediction

    def on_test_start(self) -> None:
        self.scores = Evaluation(self.network.num_classes, self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.network(normalize(batch["images"])).float()
        self.scores.update(logits, batch["labels"], batch["valid"])
        self._note_mistakes(logits, batch)
        self.bad.update(batch["bad"])
        self.bar.update(self.bar.step + len(batch["keys"]))

    def _note_mistakes(self, logits: torch.Tensor, batch: Batch) -> None:
        confidence, predicted = (values.cpu() for values in logits.softmax(dim=1).max(dim=1))
        labels = batch["labels"].cpu()
        wrong = ((predicted != labels) & batch["valid"].cpu()).nonzero().flatten().tolist()
        for row in wrong:
            entry = (float(confidence[row]), batch["keys"][row], int(labels[row]), int(predicted[row]))
            heapq.heappush(self.mistakes, entry)
            if len(self.mistakes) > MISTAKES_KEPT:
                heapq.heappop(self.mistakes)


def run(
    output: Path,
    *,
    weights: Path | str,
    test: ShardSet,
    pictures: Pictures,
    hardware: Hardware,
    options: EvalOptions,
    max_bad_fraction: float = 0.01,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    label: str = "evaluate",
) -> dict[str, Any]:
    """Evaluates the network of `weights` on `test`; returns the result that is also written to `output`.

    Args:
        weights: a run directory, a file of ours, or a file or name of timm's (see `open_network`).

    Raises:
        NstError: other classes than the network's, no labels, or too many bad images.
    """
    network, info = open_network(weights, test.classes)
    if info.classes != test.classes or not test.labeled:
        raise NstError(
            f"the test set {test.folder} does not fit the network",
            got=f"{len(test.classes)} classes" + ("" if test.labeled else ", no labels"),
            valid=f"labeled images of the {len(info.classes)} classes that {weights} knows, in the same order",
        )
    size = options.image_size or info.image_size
    inputs = {"weights": weights_digest(weights), "test": test.digest, "image_size": size, "pictures": pictures,
              "options": options}  # fmt: skip
    with Run(output, "evaluate", inputs, config=config, overwrite=overwrite, collective=True) as run_:
        if run_.done:
            return run_.result()
        batches = EvaluationBatches(test, clean_view(size, pictures), batch_size=options.batch_size)
        trainer = hardware.trainer(output)
        with Bar(label, test.samples, quiet=not trainer.is_global_zero) as bar:
            module = Evaluator(hardware.place(network), bar)
            loader = evaluation_loader(
                batches,
                hardware.loader,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                pin_memory=hardware.pin_memory,
            )
            trainer.test(module, loader, verbose=False)
        bad = union(module.bad, trainer)
        check_bad_share(bad, test.samples, max_bad_fraction)
        return run_.finish(_result(module, trainer, weights, size, test, options, bad))


def _result(
    module: Evaluator,
    trainer: pl.Trainer,
    weights: Path | str,
    size: int,
    test: ShardSet,
    options: EvalOptions,
    bad: Sequence[str],
) -> dict[str, Any]:
    scores = reduced(module.scores, trainer)
    result: dict[str, Any] = {
        "weights": weights_digest(weights),
        "test": str(test.folder),
        "image_size": size,
        **scores.compute(),
        # per bin of confidence: images, summed confidence, right ones
        "calibration": scores.state()["calibration"].tolist(),
        "bad_samples": bad_sample_summary(bad),
    }
    if options.confusion and len(test.classes) <= MAX_CONFUSION_CLASSES:
        result["classes"] = list(test.classes)
        result["confusion"] = scores.confusion.tolist()
        result["top1_by_class"] = accuracy_by_class(scores.confusion).tolist()
    mistakes = union(module.mistakes, trainer)[: -MISTAKES_KEPT - 1 : -1]
    names = ("confidence", "key", "label", "predicted")
    result["mistakes"] = [dict(zip(names, entry, strict=True)) for entry in mistakes]
    return result


def main(cfg: DictConfig) -> dict[str, Any]:
    """Reads the configuration and runs the stage."""
    result = from_cfg(cfg)
    say(
        f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, ECE {result['ece']:.2f} % "
        f"on {result['samples']:.0f} images of {result['test']}"
    )
    return result


def from_cfg(cfg: DictConfig, *, label: str = "evaluate") -> dict[str, Any]:
    """`run` with the arguments that the configuration asks for."""
    checkpoint = cfg.model.checkpoint
    if checkpoint is None:
        raise NstError("nothing to evaluate", next="nst evaluate model.checkpoint=<run directory or weights>")
    output = cfg.evaluate.output
    if output is None:
        output = Path(checkpoint) / "evaluation" if Path(checkpoint).is_dir() else Path(cfg.run_dir)
    return run(
        Path(output),
        weights=checkpoint,
        test=test_set(cfg),
        pictures=build_from(Pictures, cfg.data.pictures),
        hardware=build_from(Hardware, cfg.trainer),
        options=build_from(EvalOptions, cfg.eval),
        max_bad_fraction=cfg.max_bad_fraction,
        config=plain(cfg),
        overwrite=cfg.overwrite,
        label=label,
    )
