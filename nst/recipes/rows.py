"""The recipes of the cells of a table of the paper.

A recipe is an experiment of the command line (`experiment=table6_no_aug_130m`): the group choices and options in which
it differs from the defaults, and the row and columns of the paper that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nst.recipes.choices import Made, tree

ITSELF = ((), ())  # two generations of one network, without options of their own
ALONE = ((),)  # one, on labels alone
NO_AUGMENTATION = ("noise.unlabeled.augment=none",)
NO_NOISE = (*NO_AUGMENTATION, "noise.unlabeled.dropout=false", "noise.unlabeled.stochastic_depth=false")
LAST_OF_TABLE_2 = "runs/table2_noisy_student_l2/gen5"
SMALL_LAST_OF_TABLE_2 = "runs/iterate/experiment=small_table2_noisy_student,seed=${seed}/gen3"
# fmt: off
NETWORKS_OF_TABLE_2 = (  # whose robustness tables 3 to 5 and figure 3 measure
    # recipe              row                    run
    ("l2_supervised",     "EfficientNet-L2",     "runs/table2_l2_supervised/gen0"),
    ("noisy_student_l2",  "Noisy Student (L2)",  LAST_OF_TABLE_2),
)
SMALL_NETWORKS_OF_TABLE_2 = (
    # recipe              row                   run                                what it is
    ("large_supervised",  "EfficientNet-L2",    "${scale.runs}/large-seed${seed}", "the large network on labels alone"),
    ("noisy_student",     "Noisy Student (L2)", SMALL_LAST_OF_TABLE_2,             "the last student"),
)
TWINS_OF_TABLE_2 = {
    "EfficientNet-L2": "table 2's large network on labels alone",
    "Noisy Student (L2)": "table 2's last student",
}
# fmt: on
ROBUSTNESS = ("corruptions", "perturbations", "attacks")  # what eval=robustness makes itself


@dataclass(frozen=True)
class Row:
    """An experiment of a cell or two of the paper.

    Args:
        says: one line for `--help`.
        places: tables and figures that it belongs to.
        columns: of each generation, the first first; None: belongs nowhere.
        choices: group → choice.
        options: dotted name → value.
        command: that runs it.
        cost: of running it.
    """

    name: str
    says: str
    places: Sequence[str]
    row: str
    columns: Sequence[str | None]
    choices: Mapping[str, str]
    options: Mapping[str, Any]
    command: str
    cost: str
    package = "_global_"  # as of `Made`

    def node(self) -> dict[str, Any]:
        """As a file in conf/experiment would have it."""
        paper = {"places": list(self.places), "row": self.row, "columns": list(self.columns)}
        overrides = [{f"override /{group}": choice} for group, choice in self.choices.items()]
        shown = {"paper": paper} if self.places else {}
        return {"defaults": [*overrides, "_self_"], "name": self.name, **shown, **tree(self.options)}


Choice = Made | Row  # of a configuration group


def training(
    name: str, row: str, columns: Sequence[str | None], says: str, *, network: str, hours: str,
    generations: Sequence[Sequence[str] | None], places: Sequence[str] = (), noise: str = "", teacher: str = "",
    options: Mapping[str, Any] | None = None, planned: bool = False,
) -> Row:  # fmt: skip
    """A row at full size, on ImageNet.

    Args:
        network: `b5`, the student of all generations that name no other; empty: one of timm's, which the options name.
        hours: on 2,048 TPU v3 cores.
        generations: options of each; None: it is a finished run, `iterate.teacher`.
        noise: choice of that group, where it is not the default.
        teacher: `l2`, the network of a generation 0 that is a finished run.
        planned: nst plan answers too what the table asks.
    """
    own = {"student": f"efficientnet_{network}"} if network else {"model": "timm"}
    chosen = {"data": "imagenet", **own, "noise": noise}
    chosen["teacher"] = teacher and f"efficientnet_{teacher}"
    shards = " data.unlabeled=<shards>" if len(generations) > 1 else ""
    plan = f"nst plan experiment={name}, then " if planned else ""
    return Row(
        name, says, places or _places(name), row, columns,
        {group: choice for group, choice in chosen.items() if choice},
        {"iterate.generations": _lists(generations), **(options or {})},
        command=f"{plan}nst iterate experiment={name} trainer=gpu_ddp{shards}",
        cost=f"{hours} hours on 2,048 TPU v3 cores, by nst plan at 5 % of their peak, which the paper's 3.5 days imply",
    )  # fmt: skip


def evaluation(
    name: str, row: str, column: str, says: str, *, of: str, pictures: str, hours: str, measured: str = "",
    options: Mapping[str, Any] | None = None,
) -> Row:  # fmt: skip
    """A robustness row at full size, of L2.

    Args:
        of: run directory or weights of the network.
        hours: on one H100.
        measured: corruptions, perturbations or attacks, made from the test images; empty: a suite's files alone, which
            the options name.
    """
    return Row(
        name, says, _places(name), row, [column],
        {"data": "imagenet", "eval": "robustness", "student": "efficientnet_l2"},
        {
            "run_dir": "runs/${name}", "model.checkpoint": of, "evaluate.output": "${run_dir}", **_without(measured),
            **({} if measured else {"data.test": None}), **(options or {}),
        },
        command=f"nst evaluate experiment={name} trainer=gpu",
        cost=f"{pictures}, about {hours} hours on one H100 at 30 % of its peak in bf16 (by arithmetic)",
    )  # fmt: skip


def released_rows(table: int, benchmark: str, *, pictures: str, hours: str) -> Iterator[Row]:
    """Both networks of table 2, before fine-tuning, on both sizes of a benchmark's released files (tables 4 and 5).

    Args:
        benchmark: ImageNet-C or ImageNet-P, whose suite and folder have its name.
        pictures, hours: as of `evaluation`.
    """
    folder = benchmark.lower()
    for network, row, run in NETWORKS_OF_TABLE_2:
        for px, of_size in ((224, ""), (299, "-299")):
            suite = f"{folder}{of_size}".replace("-", "_")
            yield evaluation(
                f"table{table}_{network}_{px}", row, f"{px} px",
                f"table {table}: {row}, before fine-tuning, on {benchmark} of {px} px",
                of=before_finetuning(run), pictures=f"{pictures} pictures of 475 px", hours=hours,
                # as the paper, as far as we recall its appendix: the px of training
                options={f"eval.{suite}": f"datasets/{folder}{of_size}", "eval.resize_to": "${model.train_size}"},
            )  # fmt: skip


def small_training(
    name: str, row: str, columns: Sequence[str | None], says: str, *, teacher: str,
    generations: Sequence[Sequence[str] | None], places: Sequence[str] = (), noise: str = "",
    options: Mapping[str, Any] | None = None,
) -> Row:  # fmt: skip
    """The scaled-down twin of a row; its sizes are those of a `scale`.

    Args:
        teacher: directory of generation 0, which twins share.
    """
    return Row(
        name, says, places or _places(name), row, columns,
        {"scale": "digits", **({"noise": noise} if noise else {})},
        {"iterate.teacher": teacher, "iterate.generations": _lists(generations), **(options or {})},
        command=_sweep("iterate", name), cost="minutes on two CPU cores",
    )  # fmt: skip


def small_evaluations(place: str, column: str, measured: str) -> Iterator[Row]:
    """The twins of a robustness table's rows, of the networks of small_table2.

    Args:
        measured: corruptions, perturbations or attacks, made from the twin's own test images.
    """
    sizes = {f"eval.{limit}": f"${{scale.{limit}}}" for limit in ("max_images", "max_clips")}
    for network, row, run, says in SMALL_NETWORKS_OF_TABLE_2:
        name = f"small_{place.replace(' ', '')}_{network}"
        yield Row(
            name, f"twin of {place}: {says} of small_table2", [place], row, [column],
            {"scale": "digits", "eval": "robustness"},
            {"model.checkpoint": run, "evaluate.output": "${run_dir}", **_without(measured), **sizes},
            command=_sweep("evaluate", name), cost="under a minute on two CPU cores",
        )  # fmt: skip


def before_finetuning(run: str) -> str:
    """Weights of a run as they were trained, before they saw the larger images."""
    return f"{run}/checkpoints/trained.safetensors"


def small(size: str, *options: str) -> tuple[str, ...]:
    """Options of a generation of a twin: its network (small, middle or large), and more."""
    return (f"${{scale.{size}}}", *options)


def small_student(size: str, *options: str) -> tuple[str, ...]:
    """The same for one that learns from pseudo-labels."""
    return small(size, "${scale.student}", *options)


def small_teacher(name: str) -> str:
    """Directory of a generation 0 that twins share."""
    return f"${{scale.runs}}/{name}-seed${{seed}}"


def _without(measured: str) -> dict[str, None]:
    """What eval=robustness makes is switched off, but for one."""
    return {f"eval.{name}": None for name in ROBUSTNESS if name != measured}


def _lists(generations: Iterable[Sequence[str] | None]) -> list[list[str] | None]:
    return [None if options is None else list(options) for options in generations]


def _places(name: str) -> list[str]:
    return [f"{kind} {number}" for kind, number in re.findall(r"(table|figure)(\d+)", name)[:1]]


def _sweep(stage: str, name: str) -> str:
    """The command that runs all twins of a table and shows it: no single one makes a table."""
    kind, number = re.findall(r"(table|figure)(\d+)", name)[0]
    rows = f"experiment=glob(small_{kind}{number}_*)"
    return f"nst {stage} -m '{rows}' seed=0,1,2, then nst report --{kind} {number}"
