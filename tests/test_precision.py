"""Where nst says float32, GPUs do not round to TF32: seen in the flags that hold inside a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nst.models.efficientnet import normalize
from nst.robustness.logits import full_logits, guesses
from nst.stages.evaluate import CleanScores
from nst.training.labeler import Labeler
from tests.tiny_networks import trained_tiny


class Watching(nn.Module):
    """Remembers the flags of every forward pass."""

    def __init__(self, kinds: list[Any]) -> None:
        super().__init__()
        self.kinds, self.seen = kinds, []
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append([kind.fp32_precision for kind in self.kinds])
        return images.mean(dim=(2, 3))


def label(network: Watching) -> None:
    batch = {"images": torch.zeros(2, 3, 4, 4), "valid": torch.ones(2, dtype=torch.bool)}
    Labeler(network, network).predict_step(batch, 0)


def evaluate(network: Watching) -> None:
    batch = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([0, 1]), "valid": torch.ones(2, dtype=bool)}
    CleanScores(3).add(network, batch)


def corruptions(network: Watching) -> None:
    full_logits(network, torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(("work", "forwards"), [(label, 2), (evaluate, 1), (corruptions, 1)])
def test_labels_and_scores_in_float32_are_not_rounded_to_tf32(work: Any, forwards: int, tf32: list[Any]) -> None:
    network = Watching(tf32)
    work(network)
    assert network.seen == [["ieee", "ieee"]] * forwards
    assert [kind.fp32_precision for kind in tf32] == ["tf32", "tf32"], "and afterwards as before"


def test_the_logits_that_scores_compare_are_float32_also_under_bfloat16() -> None:
    network, images = trained_tiny(), torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
    batch = {"images": images, "labels": torch.zeros(16, dtype=torch.long), "valid": torch.ones(16, dtype=torch.bool)}
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        answers = CleanScores(10).add(network, batch)
        attacked = guesses(full_logits(network, images))  # those that robustness counts, of pictures as they are
        rounded = guesses(network(normalize(images)).float())
    torch.testing.assert_close(answers, attacked, rtol=0, atol=0)
    assert not torch.equal(answers[:, 0], rounded[:, 0])
