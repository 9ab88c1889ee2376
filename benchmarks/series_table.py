"""The series of `bin/bench series`: which rows of which tables are run to see whether a claim holds.

A row is a command of `nst` by its options, without seed and place. The claims that it serves are in
`nst/report/claims.py`; a row that another one is compared with comes before it. What two tables share is run once:
figure1/small is the small student of the small teacher, table6/noise_full_130m the middle one of the middle teacher.
The control (a student's network on the labels alone, for as many images) is run once for each network and batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Row:
    """A command.

    Args:
        options: of `nst`, as typed; `${...}` refers to other options.
        after: rows (`series/row`) whose networks it takes, of the same seed.
    """

    name: str
    options: tuple[str, ...]
    stage: str = "iterate"
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """Rows that belong together; `says` what they ask."""

    SEEDS: ClassVar[range] = range(5)

    name: str
    says: str
    rows: tuple[Row, ...]


CONTROL = "iterate.control=true"
LAST_OF_TABLE_2 = "runs/series/table2/noisy_student-seed${seed}/gen3"


def twin(recipe: str, *options: str, name: str = "", after: tuple[str, ...] = (), stage: str = "iterate") -> Row:
    """The twin of a row of the paper, `small_<table>_<row>`."""
    own = name or recipe.split("_", 2)[2]
    return Row(own, (f"experiment={recipe}", "scale=eurosat", *options), stage, after)


TEACHERS = {"teacher": "small", "middle": "middle", "middle_standard": "middle", "large": "large"}  # name → size


def student(name: str, *options: str, size: str = "small", teacher: str = "teacher", more: tuple[str, ...] = (),
            own_teacher: bool = False) -> Row:  # fmt: skip
    """A student of a teacher that rows share.

    Args:
        options: of the student.
        size: of its network, one of `conf/scale/eurosat.yaml`.
        more: options of the run.
        own_teacher: the same one, trained by this run.
    """
    learner = ",".join(f'"{option}"' for option in (f"${{scale.{size}}}", "${scale.student}", *options))
    generations = f'iterate.generations=[["${{scale.{TEACHERS[teacher]}}}"],[{learner}]]'
    shared = () if own_teacher else (f"iterate.teacher=${{scale.runs}}/{teacher}-seed${{seed}}",)
    return Row(name, ("scale=eurosat", *shared, generations, *more))


# ---- the tables ---------------------------------------------------------------------------------------------


def table_6() -> Iterator[Row]:
    """Every combination of the noises on the unlabeled images, on both sizes of the unlabeled data."""
    kinds = {"aug": "augment=none", "depth": "stochastic_depth=false", "dropout": "dropout=false"}
    without = [("depth",), ("dropout",), ("aug", "depth"), ("aug", "dropout"), ("depth", "dropout")]
    tenth = ("noise=standard_augment", "select.fraction=0.1")
    for size, teacher, more in (("130m", "middle", ()), ("1m", "middle_standard", tenth)):
        yield twin(f"small_table6_noise_full_{size}", CONTROL)
        yield twin(f"small_table6_no_aug_{size}")
        for removed in without:
            noise = tuple(f"noise.unlabeled.{kinds[kind]}" for kind in removed)
            yield student(f"no_{'_'.join(removed)}_{size}", *noise, size="middle", teacher=teacher, more=more)
        yield twin(f"small_table6_no_noise_{size}")


def robustness(table: str) -> tuple[Row, ...]:
    """The large network on labels alone, and the last student of table 2."""
    return (
        twin(f"small_{table}_large_supervised", stage="evaluate", after=("table2/large_supervised",)),
        twin(f"small_{table}_noisy_student", f"model.checkpoint={LAST_OF_TABLE_2}", stage="evaluate",
             after=("table2/noisy_student",)),
    )  # fmt: skip


def from_last(size: str) -> Row:
    teacher = f"iterate.teacher={LAST_OF_TABLE_2}"
    return twin(f"small_table9_{size}_from_last", teacher, after=("table2/noisy_student",))


def few_labels(ratio: int) -> tuple[str, ...]:
    return (f"student.unlabeled_ratio={ratio}", "student.labeled_batch_size=8", "student.optimizer.rate_per_256=0.032")


def from_scratch(name: str, network: str) -> Row:
    """A network that has seen no picture before, with 100 labels a class."""
    generations = 'iterate.generations=[["student.steps=1000"],["${scale.student}","student.steps=1000"]]'
    untrained = ("model.pretrained=false", "student.frozen_blocks=0")
    options = ("data.labeled_per_class=100", f"model.name={network}", *untrained)
    return Row(name, ("scale=eurosat", *options, generations, CONTROL))


# one labeled image of 96; the same 1e-3; then 40 steps of 50 labeled images without augmentation, at 1e-4
PRETRAINED = ("student.labeled_batch_size=1", "student.unlabeled_ratio=95", "student.optimizer.rate_per_256=0.256",
              "student.finetune.epochs=20", "student.finetune.labeled_batch_size=50")  # fmt: skip

# eurosat_5's teacher and two students, and two more, each of the surest 1,700 pictures of a class
FOUR_STUDENTS = ("experiment=eurosat_5",
                 'iterate.generations=[["student.steps=400","student.labeled_batch_size=32",'
                 '"student.optimizer.rate_per_256=0.008"],[],["select.images_per_class=1400","student.start=teacher"],'
                 '["select.images_per_class=1700","student.start=teacher"],'
                 '["select.images_per_class=1700","student.start=teacher"]]')  # fmt: skip

# what photos does, with one student and three blocks frozen
CLOTHING = ("experiment=photos", "name=clothing", "data.labeled_per_class=10",
            "data.root=datasets/clothing-seed${seed}", "data.stored_size=null", "student.frozen_blocks=3",
            'iterate.generations=[["student.labeled_batch_size=64","student.optimizer.rate_per_256=0.004"],[]]',
            )  # fmt: skip

# from scratch, of a tar of class folders
CIFAR_10 = ("experiment=cifar10_4k_cpu", "data.source.name=tar", "data.source.download=null",
            "trainer.precision=bf16-mixed")  # fmt: skip


# fmt: off
_ALL = (
    Series("eurosat_10", "EuroSAT, 10 labels a class: teacher, students, control",
           (Row("recipe", ("experiment=eurosat",)),)),
    Series("eurosat_5", "EuroSAT, 5 labels a class: likewise; and with two more students",
           (Row("recipe", ("experiment=eurosat_5",)), Row("four_students", FOUR_STUDENTS))),
    Series("table2", "the chain of growing networks against its parts on labels alone", (
        twin("small_table2_supervised"),
        twin("small_table2_large_supervised"),
        twin("small_table2_noisy_student", CONTROL),
    )),
    Series("table4", "15 corruptions, after table2", robustness("table4")),
    Series("table5", "10 perturbations, after table2", robustness("table5")),
    Series("figure3", "attacks over epsilon, after table2", robustness("figure3")),
    Series("table6", "noise removed on the unlabeled images, one by one and together", tuple(table_6())),
    Series("table8", "how much unlabeled data, against all of table6", tuple(
        twin(f"small_table8_{share}") for share in ("4th", "16th", "32th", "64th", "128th"))),
    Series("figure1", "each size taught by itself; the middle one is of table6", tuple(
        twin(f"small_figure1_{size}", CONTROL) for size in ("small", "large"))),
    Series("table9", "each size taught by the last student of table2, after it and figure1",
           tuple(from_last(size) for size in ("small", "middle", "large"))),
    Series("figure4", "soft and hard labels by the teacher's confidence", tuple(
        twin(f"small_figure4_bin{number}_{targets}") for number in range(4) for targets in ("soft", "hard"))),
    Series("ratio", "unlabeled images per labeled one, 8 labeled ones in a batch", (
        student("ratio_1", *few_labels(1), more=(CONTROL,)),
        *(student(f"ratio_{ratio}", *few_labels(ratio)) for ratio in (3, 7, 14, 28)),
    )),
    Series("later", "what the later version asks of one small teacher, against figure1", (
        student("student_middle", size="middle"),
        student("student_large", size="large"),
        student("from_teacher", "student.start=teacher"),
        # the same teacher once more: a run has its labels in one place
        student("noised_teacher", own_teacher=True, more=("teacher.noised=true",)),
        # pseudo-labels first and labels then
        student("pretrained", *PRETRAINED),
        # as many of every class, or all that are sure once each
        student("balanced", more=("select.min_confidence=0.8", "select.images_per_class=null")),
        student("unbalanced", more=("select.min_confidence=0.8", "select.images_per_class=1000000",
                                    "select.max_copies=1")),
    )),
    Series("networks", "from scratch with 100 labels a class: a ResNet, and a network without BatchNorm", (
        from_scratch("resnet", "resnet18"),
        from_scratch("without_batchnorm", "convnext_atto"),
    )),
    Series("clothing", "the hard case: ten kinds of clothes of very different numbers, few unlabeled (clothing.tar)", (
        Row("equal", CLOTHING),
        Row("labeled", (*CLOTHING, "select.prior=labeled", "iterate.control=false",
                        "iterate.teacher=runs/series/clothing/equal-seed${seed}/gen0"), after=("clothing/equal",)),
    )),
    Series("cifar10", "4,000 labels of CIFAR-10, from scratch (cifar10-images.tar.gz); offline and online teacher", (
        Row("offline", CIFAR_10),
        Row("online", (*CIFAR_10, "iterate.control=false", "iterate.generations=[null,[]]", "teacher=online",
                       "iterate.teacher=runs/series/cifar10/offline-seed${seed}/gen0"), after=("cifar10/offline",)),
    )),
)
# fmt: on
SERIES = {series.name: series for series in _ALL}
