"""The LightningModule that pseudo-labels (Algorithm 1, step 2): the un-noised teacher on clean images.

The network is the teacher's moving average in eval mode, so neither dropout nor stochastic depth acts, and the view
is the clean centre crop at the teacher's own test size. What it predicts is the full distribution; soft, hard and
temperature are the student's choice later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from nst.data.batches import Batch
from nst.errors import NstError
from nst.models.efficientnet import EfficientNet, normalize

# of one whole shard: its number, index (N,), keys, probs (N, C), names of bad samples
WriteShard = Callable[[int, np.ndarray, list[str], np.ndarray, list[str]], None]


class Labeler(pl.LightningModule):
    """Predicts the teacher's distribution for clean images.

    Raises:
        NstError: the network is in train mode: a teacher is never noised.
    """

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        if any(module.training for module in network.modules()):
            raise NstError("a teacher labels in eval mode", got="a network in train mode", next="network.eval()")
        self.network = network.requires_grad_(False)
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may have no shard left to label

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (B, C) float32."""
        return self.network(normalize(batch["images"])).float().softmax(dim=1)


class ShardByShard(BasePredictionWriter):
    """Collects predictions and hands over every shard as soon as its last batch is through.

    Args:
        batches: how many batches each shard has, by shard number, in the order in which they come.
        write: called once per shard.
        progress: told the number of images after every batch.
    """

    def __init__(self, batches: Sequence[tuple[int, int]], write: WriteShard, progress: Callable[[int], None]) -> None:
        super().__init__(write_interval="batch")
        self.batches, self.write, self.progress = list(batches), write, progress
        self._position = self._seen = 0
        self._bad: list[str] = []
        self._rows: list[tuple[np.ndarray, list[str], np.ndarray]] = []

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
        valid = batch["valid"].cpu()
        probs = torch.as_tensor(prediction).cpu()[valid].numpy()
        self._bad += batch["bad"]
        self._rows.append((batch["index"].cpu()[valid].numpy(), batch["keys"], probs))
        self.progress(len(probs))
        shard, count = self.batches[self._position]
        self._seen += 1
        if self._seen == count:
            index = np.concatenate([rows[0] for rows in self._rows])
            keys = [key for rows in self._rows for key in rows[1]]
            self.write(shard, index, keys, np.concatenate([rows[2] for rows in self._rows]), self._bad)
            self._rows, self._bad, self._seen, self._position = [], [], 0, self._position + 1
