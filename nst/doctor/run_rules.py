"""Rules about a run as a whole: its data, its selections, its disk, its logging, its options."""

from __future__ import annotations

from nst.data.splits import validation_share
from nst.doctor.facts import Advice, Situation

MOST_COPIES = 10  # of an image on average, before balancing is more repetition than balance


def class_order(situation: Situation) -> Advice | None:
    """Labels are numbers: the same names in another order are other labels."""
    labeled = situation.sets.get("labeled")
    if labeled is None:
        return None
    test = situation.sets.get("test")
    others = {"the test set": test.classes if test else None, "the teacher": situation.teacher_classes}
    for name, classes in others.items():
        if classes is None or classes == labeled.classes:
            continue
        if sorted(classes) == sorted(labeled.classes):
            at = next(i for i, pair in enumerate(zip(classes, labeled.classes, strict=True)) if pair[0] != pair[1])
            differ = f"has the classes in another order: class {at} is '{classes[at]}', not '{labeled.classes[at]}'"
        else:
            differ = f"has {len(classes)} classes that are not the labeled set's {len(labeled.classes)}"
        return Advice(f"{name.capitalize()} {differ}.", f"make both from one source; {labeled.folder} has the labels")
    return None


def evaluation_images(situation: Situation) -> Advice | None:
    """METHOD, Experiments: unlabeled images with evaluation images removed."""
    found = situation.comparison
    if found is None or not found.same:
        return None
    ours, theirs = found.same[0]
    return Advice(
        f"{len(found.same):,} of {found.unlabeled:,} unlabeled images are test images: {ours} is {theirs}.",
        "nst shard --exclude takes them out, and those that look alike",
    )


def validation_labels(situation: Situation) -> Advice | None:
    """Of few labels most are for training."""
    labeled, validation = (situation.sets.get(name) for name in ("labeled", "validation"))
    taken = situation.validation_samples
    if labeled is None or validation is None or {*validation.label_counts} != {taken}:  # its owner has chosen
        return None
    left, label = min((count, label) for label, count in enumerate(labeled.label_counts))
    if left >= taken:
        return None
    verb = "is" if left == 1 else "are"
    return Advice(
        f"{left} of {left + taken} labeled images of '{labeled.classes[label]}' {verb} left for training: validation"
        f" took {taken}.",
        f"data.validation_samples={validation_share(left + taken)} with data.root=<another folder>, or more labels",
    )


def labels_dropped(situation: Situation) -> Advice | None:
    """Soft labels need the probabilities of what is selected."""
    chosen = situation.selecting
    if chosen is None or not (chosen.offline and chosen.soft) or chosen.keep <= chosen.min_confidence:
        return None
    return Advice(
        f"Labels from confidence {chosen.min_confidence:g} on are selected, and probabilities kept from"
        f" {chosen.keep:g} on: a soft student will stop.",
        f"label.keep={chosen.min_confidence:g}",
    )


def noised_teacher(situation: Situation) -> Advice | None:
    """Algorithm 1, step 2: the un-noised teacher labels."""
    if not situation.noised_teacher:
        return None
    return Advice("The teacher labels under the noise of its own training, which the method advises against.",
                  "teacher.noised=false; or doctor.accept=[noised_teacher] for the ablation")  # fmt: skip


def copies(situation: Situation) -> Advice | None:
    """METHOD, Filtering: 130,000 images a class are for 300 million."""
    chosen = situation.selecting
    if chosen is None or chosen.images_per_class is None or not chosen.classes or not chosen.unlabeled:
        return None
    total = chosen.images_per_class * chosen.classes
    if total <= MOST_COPIES * chosen.unlabeled:
        return None
    return Advice(
        f"{chosen.images_per_class:,} images for each of {chosen.classes:,} classes, out of {chosen.unlabeled:,}: each"
        f" {total / chosen.unlabeled:,.0f} times or more.",
        "select.images_per_class=null",
    )


def disk(situation: Situation) -> Advice | None:
    """Predictions hold a number per image and class, unless only likely images keep theirs."""
    needed, free = situation.needed_bytes, situation.free_bytes
    if needed is None or free is None or needed <= free:
        return None
    every = situation.selecting is None or situation.selecting.keep == 0
    less = ", or label.keep=0.3: probabilities of likely images only" if every else ""
    return Advice(
        f"Predictions and selections take {'up to' if every else 'at least'} {needed / 1e9:,.1f} GB, and"
        f" {free / 1e9:,.1f} GB are free.",
        f"run_dir=<on a larger disk>{less}",
    )


def wandb_offline(situation: Situation) -> Advice | None:
    """Offline is only a surprise where the run's own options do not ask for it."""
    if situation.wandb_mode != "auto" or situation.wandb_resolved == "online":
        return None
    where = "go nowhere" if situation.wandb_resolved == "disabled" else "stay on this machine"
    if situation.wandb_environment:
        return Advice(
            f"logger=wandb, and WANDB_MODE={situation.wandb_environment} in the environment: the runs {where}.",
            f"unset WANDB_MODE, or logger.wandb.mode={situation.wandb_resolved} if that is wanted",
        )
    return Advice(
        f"logger=wandb, and nobody is logged in: the runs {where}.",
        "wandb login, or logger.wandb.mode=offline and wandb sync later",
    )


def replaced(situation: Situation) -> Advice | None:
    """A generation's own options win over the command line's."""
    if not situation.replaced:
        return None
    each = [
        f"{option}={value} ({', '.join(f'{name} has {other}' for name, other in where.items())})"
        for option, (value, where) in situation.replaced.items()
    ]
    return Advice(
        f"iterate.generations has other values than the command line: {'; '.join(each)}.",
        "set them inside iterate.generations, or take them out of there",
    )
