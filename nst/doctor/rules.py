"""The table of rules with their severity, and what they find.

error: it will stop, or its result will mean nothing. warning: probably not what was wanted. note: worth knowing.

A teacher is noisy (Algorithm 1, step 2) where `teacher.noised` says so, and nowhere else: it labels pictures without
augmentation, and the labeler and a student's online teacher hold it in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from nst.doctor import run_rules as run
from nst.doctor import training_rules as training
from nst.doctor.facts import Advice, Situation, TrainingFacts

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Advice with its rule; `where` are the trainings it is about, none for the whole run."""

    rule: str
    severity: str
    message: str
    next: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A rule about one training, or about the run as a whole."""

    severity: str
    of_training: Callable[[TrainingFacts], Advice | None] | None = None
    of_run: Callable[[Situation], Advice | None] | None = None


RULES: dict[str, Rule] = {
    "class_order": Rule("error", of_run=run.class_order),
    "evaluation_images": Rule("warning", of_run=run.evaluation_images),
    "validation_labels": Rule("warning", of_run=run.validation_labels),
    "labels_dropped": Rule("warning", of_run=run.labels_dropped),
    "disk": Rule("warning", of_run=run.disk),
    "replaced": Rule("warning", of_run=run.replaced),
    "noised_teacher": Rule("warning", of_run=run.noised_teacher),
    "copies": Rule("warning", of_run=run.copies),
    "student_smaller": Rule("warning", training.student_smaller),
    "teacher_size": Rule("warning", training.teacher_size),
    "randaugment_clipped": Rule("warning", training.randaugment_clipped),
    "unlabeled_noise": Rule("warning", training.unlabeled_noise),
    "batchnorm_momentum": Rule("warning", training.batchnorm_momentum),
    "ema_horizon": Rule("warning", training.ema_horizon),
    "weight_decay": Rule("warning", training.weight_decay),
    "learning_rate": Rule("warning", training.learning_rate),
    "paper_batch": Rule("note", training.paper_batch),
    "memory": Rule("warning", training.memory),
    "batch_repeats": Rule("warning", training.batch_repeats),
    "warmup": Rule("warning", training.warmup),
    "finetune_size": Rule("warning", training.finetune_size),
    "stored_size": Rule("warning", training.stored_size),
    "wandb_offline": Rule("warning", of_run=run.wandb_offline),
}


def examine(situation: Situation, accept: Sequence[str] = ()) -> list[Finding]:
    """What the rules find, errors first; the same words about several trainings are one finding.

    Args:
        accept: rules whose advice is not followed on purpose; what they find is a note.
    """
    found = []
    for name, rule in RULES.items():
        severity = "note" if name in accept else rule.severity
        for advice, where in _advice(rule, situation):
            found.append(Finding(name, severity, advice.message, advice.next, where))
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _advice(rule: Rule, situation: Situation) -> Iterator[tuple[Advice, tuple[str, ...]]]:
    if rule.of_run is not None and (advice := rule.of_run(situation)):
        yield advice, ()
    if rule.of_training is None:
        return
    each = [(_placed(advice, one), one.generation) for one in situation.trainings if (advice := rule.of_training(one))]
    each.sort(key=lambda pair: (pair[0].message, pair[0].next))
    for advice, group in groupby(each, key=lambda pair: pair[0]):
        yield advice, tuple(generation for _, generation in group if generation)


def _placed(advice: Advice, training: TrainingFacts) -> Advice:
    """The advice, where the command line alone would change nothing: the generation has that option of its own."""
    if not any(f"{name}=" in advice.next for name in training.own):
        return advice
    return replace(advice, next=f"{advice.next}, in iterate.generations, which gives its own to this generation")
