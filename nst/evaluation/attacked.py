"""Attacks on our own images, made with the network's own gradients (paper section 3.4, figure 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from nst.evaluation.suite import Block, Kept, Pass, Row, Scorer, Subject, Suite, SuiteKind, framing_facts, image_blocks
from nst.robustness.image_sets import ImageSet

if TYPE_CHECKING:
    from torch import nn

    from nst.data.batches import Batch
    from nst.robustness.attacks import Attack


class Attacked(SuiteKind):
    """Top-1 accuracy by epsilon."""

    in_words: ClassVar[Sequence[str]] = ("steps", "largest_step", "random_start")

    def series(self, block: Block) -> Mapping[str, float | None]:
        found = {f"top1_at_{e:g}": value for e, value in zip(block["epsilons"], block["top1"], strict=True)}
        if block["attack"] != "fgsm":  # without these its numbers say little
            facts = (block["steps"], max(block["step_sizes"]), float(block["random_start"]))
            found |= dict(zip(self.in_words, facts, strict=True))
        return found

    def rows(self, block: Block) -> Iterable[Row]:
        how = f"{block['attack']}: {search_stated(block)}"
        pairs = zip(block["epsilons"], block["top1"], strict=True)
        yield from ((how, epsilon, "top1", value) for epsilon, value in pairs)

    def stated(self, block: Block) -> list[str]:
        return [search_stated(block)]

    def titled(self, block: Block) -> dict[str, float]:
        pairs = zip(block["epsilons"], block["top1"], strict=True)
        return {f"top-1 % at ε = {epsilon:g}/255": value for epsilon, value in pairs}

    def compared(self, blocks: Mapping[str, Block]) -> dict[str, dict[str, float]]:
        last = f"top-1 % at ε = {next(iter(blocks.values()))['epsilons'][-1]:g}/255"
        return {last: {network: block["top1"][-1] for network, block in blocks.items()}}


def search_stated(block: Block) -> str:
    """An attack's search in words: `10 steps of 1 to 1.6/255, growing with ε, from the image itself`."""
    sizes = sorted({size for size, epsilon in zip(block["step_sizes"], block["epsilons"], strict=True) if epsilon})
    if block["attack"] == "fgsm":
        return "one step of size ε along the sign of the gradient, in pixels of 0 to 1"
    if not sizes:
        return "no steps, as ε is 0"
    span = f"{sizes[0]:g}/255" if len(sizes) == 1 else f"{sizes[0]:g} to {sizes[-1]:g}/255, growing with ε"
    start = "a random point of the ball" if block["random_start"] else "the image itself"
    return f"{block['steps']} steps of {span}, from {start}"


KINDS = {"attack": Attacked()}


def suites(subject: Subject) -> Iterator[Suite]:
    """Those that are asked for, of `subject.clean`."""
    if subject.clean is None:
        return
    for name, (method, epsilons) in subject.options.attack_methods().items():
        yield _suite(subject, subject.subset(subject.clean), name, method, epsilons)


def _suite(subject: Subject, images: ImageSet, name: str, method: Attack, epsilons: Sequence[float]) -> Suite:
    view, blocks = subject.view(subject.image_size), image_blocks(images)

    def scorer() -> AttackScorer:
        return AttackScorer(method, epsilons, subject.options.seed)

    def opened(part: str) -> Pass:
        return Pass(images.chosen(blocks[part]), view, subject.batch_size, scorer())

    def measured(parts: Kept) -> Block:
        return {"kind": "attack", **scorer().with_counts(parts.values()).scores.compute()}

    conditions = {**subject.facts(images), "method": method, "epsilons": list(epsilons),
                  "shown_at": subject.image_size, "shown_as": framing_facts(view)}  # fmt: skip
    return Suite(name, conditions, list(blocks), opened, len(images), measured)


class AttackScorer(Scorer):
    """Counts single images under one attack."""

    def __init__(self, method: Attack, epsilons: Sequence[float], seed: int) -> None:
        from nst.robustness.attacks import AttackScores

        self.scores = AttackScores(method, epsilons, seed=seed)
        super().__init__(scores=self.scores)

    def add(self, network: nn.Module, batch: Batch) -> None:
        self.scores.update(network, batch["images"], batch["labels"], batch["valid"], batch["keys"])
