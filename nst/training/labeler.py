"""The LightningModule that pseudo-labels (Algorithm 1, step 2): the un-noised teacher on clean images.

The network is the teacher's moving average in eval mode, so neither dropout nor stochastic depth acts, and the view
is the clean centre crop at the teacher's own test size. What it predicts is the full distribution; soft, hard and
temperature are the student's choice later.

A network in bf16 is trusted only where it is sure: answers whose first two classes are close are computed again in
float32, if they are confident enough for the filters of the method. A label then depends on its image alone, whatever
images come with it. Recipes that select below that look for what an unsure teacher says: two classes that are as close
there are a toss in float32, too; `label.precision=32-true` computes them so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor, nn

from nst.data.batches import Batch
from nst.data.parts import parts_of
from nst.data.shard_set import ShardInfo
from nst.errors import NstError
from nst.models.efficientnet import normalize
from nst.models.in_parts import in_parts
from nst.models.precision import full_precision
from nst.training.ensemble import Question, mean_of, seen_by

# of one whole shard: index (N,), keys, probs (N, C), names of bad samples
WriteShard = Callable[[ShardInfo, np.ndarray, list[str], np.ndarray, list[str]], None]
Arrived = Callable[[], Tensor]  # waits for the probabilities that are on their way to the host
SHARDS_AHEAD = 2  # computed but not yet written: bounds memory where the disk is slower than the device
# Between the logits of the first two classes. Of two satellite networks bf16 gives 0.9 and 3.3 % of the images another
# class than float32; it does so for 0.1 and 0.3 % where 0.5 or more lies between. The others are 7 and 13 % of all.
DOUBTED = 0.5
SELDOM_SELECTED = 0.2  # less confident answers, most of those of 1,000 classes, are not worth another look


class Labeler(pl.LightningModule):
    """Predicts the teacher's distribution for clean images.

    Args:
        network: normalised images to logits.
        exact: the same in float32, asked again about the images that `network` finds hardest to decide; None: no one.
        temperature: by which logits are divided; 1 of a teacher.

    Raises:
        NstError: the network is in train mode: a teacher is never noised.
    """

    def __init__(self, network: nn.Module, exact: nn.Module | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.network, self.exact, self.temperature = network, exact, temperature
        if any(module.training for module in (*network.modules(), *(exact.modules() if exact else ()))):
            raise NstError("a teacher labels in eval mode", got="a network in train mode", next="network.eval()")
        self.requires_grad_(False)
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may have no shard left to label

    @full_precision()
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (B, C) float32."""
        images = normalize(batch["images"])
        logits = in_parts(self.network, images).float()
        if self.exact is not None:
            rows = doubted(logits, batch["valid"])
            if len(rows):
                logits = logits.index_copy(0, rows, in_parts(self.exact, images[rows]).float())
        return (logits / self.temperature).softmax(dim=1)


class MeanLabeler(pl.LightningModule):
    """Several answers as one: the mean of the probabilities, over the classes in the order of the first.

    Args:
        labelers: one for each of the questions; one may be asked several.
    """

    def __init__(self, labelers: Sequence[Labeler], questions: Sequence[Question]) -> None:
        super().__init__()
        self.labelers, self.questions = nn.ModuleList(labelers), questions
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (B, C) float32."""
        answers = [
            labeler.predict_step({**batch, "images": seen_by(batch["images"], one.window, one.turn)}, batch_idx)  # type: ignore[operator]
            for labeler, one in zip(self.labelers, self.questions, strict=True)
        ]
        return mean_of(answers, self.questions)


def doubted(logits: Tensor, valid: Tensor) -> Tensor:
    """Rows (R,) of logits (B, C) whose first two classes are closer than DOUBTED, of those that a filter might keep."""
    first, second = logits.topk(min(2, logits.shape[1]), dim=1).values[:, [0, -1]].unbind(dim=1)
    confident = (logits.logsumexp(dim=1) - first) < -math.log(SELDOM_SELECTED)
    return ((first - second < DOUBTED) & confident & valid).nonzero()[:, 0]


class ShardCollector:
    """Puts the predictions of batches together and hands over every shard whose last batch is through.

    Use as a context manager: at its end all is written, or the error that kept a shard from being written is raised.

    Args:
        batches: the shards in the order in which they come, and how many batches each has.
        write: called once per shard, in another thread, one shard at a time.
        progress: told the number of images after every batch.
    """

    def __init__(
        self, batches: Sequence[tuple[ShardInfo, int]], write: WriteShard, progress: Callable[[int], None]
    ) -> None:
        self.batches, self.write, self.progress = deque(batches), write, progress
        self.expected = sum(count for _, count in batches)  # batches; those behind them are padding
        self._arriving: deque[tuple[Arrived, Batch]] = deque()
        self._bad: list[str] = []
        self._rows: list[tuple[np.ndarray, list[str], np.ndarray]] = []
        self._thread = ThreadPoolExecutor(1)
        self._writing: deque[Future[None]] = deque()

    def add(self, batch: Batch, probs: Arrived) -> None:
        """Takes the next batch. Its probabilities are looked at when the one after it is on its way."""
        if not self.expected:
            return  # padding: every rank takes as many steps as the one with the most
        self.expected -= 1
        self._arriving.append((probs, batch))
        if len(self._arriving) > 1:
            self._collect()

    def __enter__(self) -> ShardCollector:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._arriving:
                self._collect()
        finally:
            self._thread.shutdown(cancel_futures=kind is not None)
        while kind is None and self._writing:
            self._writing.popleft().result()

    def _collect(self) -> None:
        probs, batch = self._arriving.popleft()
        rows = probs()[: len(batch["keys"])].numpy()
        self._bad += batch["bad"]
        self._rows.append((batch["index"], batch["keys"], rows))
        self.progress(len(rows))
        shard, count = self.batches[0]
        if len(self._rows) == count:
            self.batches.popleft()
            self._hand_over(shard)

    def _hand_over(self, shard: ShardInfo) -> None:
        index = np.concatenate([rows[0] for rows in self._rows])
        keys = [key for rows in self._rows for key in rows[1]]
        probs = np.concatenate([rows[2] for rows in self._rows])
        while len(self._writing) >= SHARDS_AHEAD:
            self._writing.popleft().result()
        self._writing.append(self._thread.submit(self.write, shard, index, keys, probs, self._bad))
        self._rows, self._bad = [], []


class ShardByShard(BasePredictionWriter):
    """Passes a Trainer's predictions to a `ShardCollector`."""

    def __init__(self, collector: ShardCollector) -> None:
        super().__init__(write_interval="batch")
        self.collector = collector

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        probs = torch.as_tensor(prediction)
        self.collector.add(batch, parts_of(trainer).arriving(probs))
