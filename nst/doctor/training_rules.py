"""Rules about one training: its recipe, its noise, its network beside its teacher's.

A rule says nothing where the paper's own setting would make it speak.
"""

from __future__ import annotations

from nst.data.operations import MAX_TRANSLATION
from nst.data.randaugment import op_argument, small_image_constants
from nst.data.transforms import CROP_PADDING
from nst.doctor.facts import Advice, TrainingFacts
from nst.shown import as_typed

TIMM_LARGEST_MAGNITUDE = 10
LONG_RUN = 10_000  # steps from which ten batches are a poor memory for BatchNorm
SHORT_MEMORY = 0.1  # BatchNorm momentum; PyTorch's and timm's default
INITIAL_SHARE = 0.05  # of BatchNorm's statistics that may be left from before training
PAPER_RATE = 0.016  # [C]: per 256 labeled images
PAPER_BATCHES = (512, 2048)  # [P]: the same result between them
PAPER_OPTIMIZER = "rmsprop"
MANY_TIMES = 8  # that a step may show one image, each time under other noise
PAPER_DECAY = 0.9999  # of the moving average of the weights


def randaugment_clipped(training: TrainingFacts) -> Advice | None:
    """METHOD, Noise: magnitudes are not clipped in the released code; variants differ."""
    noise, strength = training.noise, training.noise.randaugment
    sides = [noise.labeled, noise.unlabeled] if training.recipe.unlabeled_ratio else [noise.labeled]
    if not strength.num_ops or all(side.augment != "randaugment" for side in sides):
        return None
    if strength.variant == "timm" and strength.magnitude > TIMM_LARGEST_MAGNITUDE:
        return Advice(
            f"timm's RandAugment clips magnitude {strength.magnitude:g} at {TIMM_LARGEST_MAGNITUDE}.",
            "noise.randaugment.variant=fixed is the paper's scale; or noise.randaugment.magnitude=10",
        )
    if strength.variant not in ("fixed", "official"):
        return None
    side = training.architecture.train_size
    constants = small_image_constants(side) if training.pictures.small else {}
    moved = op_argument("TranslateX", strength.magnitude, **constants)
    limit = MAX_TRANSLATION * side if strength.variant == "fixed" else side
    if moved <= limit:
        return None
    what = f"held at {limit:.0f}" if strength.variant == "fixed" else "out of the picture, which is then empty"
    largest = int(strength.magnitude * limit / moved)
    return Advice(
        f"At {side} px, magnitude {strength.magnitude:g} translates by {moved:.0f} px: {what}.",
        f"noise.randaugment.magnitude={largest} or less at this size",
    )


def unlabeled_noise(training: TrainingFacts) -> Advice | None:
    """An ablation of the unlabeled side's noise would train equal teachers."""
    if training.generation or training.teacher is not None:
        return None
    labeled, unlabeled = vars(training.noise.labeled), vars(training.noise.unlabeled)
    idle = [f"{name}={as_typed(value)}" for name, value in unlabeled.items() if value != labeled[name]]
    if not idle:
        return None
    told = ", ".join(f"noise.unlabeled.{option}" for option in idle)
    return Advice(
        f"Without a teacher no image of a batch is unlabeled: {told} {'does' if len(idle) == 1 else 'do'} nothing.",
        f"{' '.join(f'noise.labeled.{option}' for option in idle)}, if labeled images are meant",
    )


def batchnorm_momentum(training: TrainingFacts) -> Advice | None:
    """METHOD, Optimiser: 0.01 (TensorFlow's 0.99), for runs that are long enough for it."""
    momentum, steps = training.recipe.batchnorm_momentum, training.steps
    if steps is None or not training.batch_norms:
        return None
    if momentum >= SHORT_MEMORY and steps > LONG_RUN:
        return Advice(
            f"BatchNorm momentum {momentum:g} remembers {1 / momentum:.0f} batches of {steps:,}.",
            "student.batchnorm_momentum=0.01, the paper's",
        )
    left = (1 - momentum) ** steps
    if left <= INITIAL_SHARE:
        return None
    return Advice(
        f"After {steps:,} steps at BatchNorm momentum {momentum:g}, {left:.0%} of its statistics are still the initial"
        " ones.",
        "student.batchnorm_momentum=0.1" if momentum < SHORT_MEMORY else "more student.steps",
    )


def ema_horizon(training: TrainingFacts) -> Advice | None:
    """METHOD, Optimiser: a run much shorter than 1 / (1 - decay) steps needs a smaller cap."""
    steps, horizon = training.steps, 1 / (1 - training.recipe.ema_decay)
    if steps is None or horizon <= steps:
        return None
    decay = min(PAPER_DECAY, max(0.0, 1 - 10 / steps))
    return Advice(
        f"The average of the weights spans {horizon:,.0f} steps, the run has {steps:,}.",
        f"student.ema_decay={decay:.4g}",
    )


def warmup(training: TrainingFacts) -> Advice | None:
    """The learning rate must reach its base before the run is over."""
    steps, rising = training.steps, training.warmup_steps
    if steps is None or rising is None or rising < steps:
        return None
    return Advice(
        f"The warm-up of {rising:,} steps is longer than the run of {steps:,}.",
        "student.schedule.warmup_epochs=<less>, or more student.steps",
    )


def weight_decay(training: TrainingFacts) -> Advice | None:
    """METHOD, Loss: [C] adds an L2 loss on every variable that is not BatchNorm's, biases included."""
    names = training.undecayed
    if not names:
        return None
    biases = sum(name.endswith(".bias") for name in names)
    return Advice(
        f"No weight decay on {len(names)} parameters that are not BatchNorm's, {biases} of them biases; the paper"
        " decays them all.",
        "student.weight_decay=1e-5",
    )


def learning_rate(training: TrainingFacts) -> Advice | None:
    """METHOD, Optimiser: 0.016 x labeled batch / 256, with RMSProp."""
    recipe = training.recipe
    rate = recipe.optimizer.rate_per_256
    if recipe.optimizer.name != PAPER_OPTIMIZER or rate == PAPER_RATE:
        return None
    batch = recipe.labeled_batch_size
    ours, papers = (value * batch / 256 for value in (rate, PAPER_RATE))
    return Advice(
        f"Learning rate {ours:.4g} for {batch:,} labeled images; the paper's rule makes {papers:.4g}.",
        f"student.optimizer.rate_per_256={PAPER_RATE}",
    )


def paper_batch(training: TrainingFacts) -> Advice | None:
    """METHOD, Optimiser: batches of 512, 1024 and 2048 gave the same result."""
    recipe, (least, most) = training.recipe, PAPER_BATCHES
    if recipe.optimizer.name != PAPER_OPTIMIZER or least <= recipe.labeled_batch_size <= most:
        return None
    return Advice(
        f"{recipe.labeled_batch_size:,} labeled images a step; the paper's rule for the rate is known to hold from"
        f" {least} to {most:,}.",
        f"student.labeled_batch_size={most}",
    )


def batch_repeats(training: TrainingFacts) -> Advice | None:
    """A batch larger than the set holds the same image more than once; a few times do no harm under augmentation."""
    batch, images = training.recipe.labeled_batch_size, training.labeled_images
    if images is None:
        return None
    most = images * (MANY_TIMES if training.noise.labeled.augment != "none" else 1)
    if batch <= most:
        return None
    return Advice(
        f"A step takes {batch:,} labeled images, and there are {images:,}.",
        f"{'student=small, or ' if batch >= PAPER_BATCHES[0] else ''}student.labeled_batch_size={most} or less",
    )


def memory(training: TrainingFacts) -> Advice | None:
    """A step needs more than a core of plan.hardware has."""
    facts = training.memory
    if facts is None or facts.cure is None:
        return None
    return Advice(
        f"A step needs about {facts.needed:,.0f} GiB of a core of {facts.hardware}, which has {facts.has:,.0f}.",
        facts.cure,
    )


def student_smaller(training: TrainingFacts) -> Advice | None:
    """Algorithm 1, step 3: an equal-or-larger student."""
    teacher = training.teacher
    if teacher is None or training.parameters >= teacher.parameters:
        return None
    return Advice(
        f"The student has {training.parameters / 1e6:.2f}M parameters, its teacher {teacher.parameters / 1e6:.2f}M.",
        "a larger model for the student, unless distilling is what you want",
    )


def teacher_size(training: TrainingFacts) -> Advice | None:
    """Algorithm 1, step 2: the teacher labels at its own test resolution."""
    teacher = training.teacher
    if teacher is None or teacher.image_size in (None, teacher.test_size):
        return None
    return Advice(
        f"The teacher labels at {teacher.image_size} px and was evaluated at {teacher.test_size} px.",
        "teacher.image_size=null",
    )


def finetune_size(training: TrainingFacts) -> Advice | None:
    """METHOD, FixRes: fine-tuning is at a larger size than training."""
    finetune, size = training.finetune, training.architecture.train_size
    if not finetune.epochs or (finetune.image_size or 0) > size:
        return None
    return Advice(
        f"Fine-tuning at {finetune.image_size} px after training at {size} px; FixRes goes to a larger size.",
        "student.finetune.image_size=<more>, or student.finetune.epochs=0",
    )


def stored_size(training: TrainingFacts) -> Advice | None:
    """A network that sees more pixels than shards hold of a picture sees them blown up."""
    stored, finetune = training.stored_size, training.finetune
    sizes = [training.architecture.train_size, training.architecture.test_size]
    if finetune.epochs:
        sizes.append(finetune.image_size or 0)
    if (teacher := training.teacher) is not None:
        sizes.append(teacher.image_size or teacher.test_size)
    seen = max(sizes)
    if stored is None or seen <= stored:
        return None
    return Advice(
        f"A network sees {seen} px, and of pictures that are larger the shards hold {stored} px on the shorter side.",
        f"data.stored_size={seen + CROP_PADDING}, or null for pictures as they are, with data.root=<another folder>",
    )
