"""The groups that have the name of a stage, and what is common to all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nst.kinds import Kind, choice, either, flag, listed, mapping, null, number, path, text, whole
from nst.settings.common import BATCH, COUNT, NAME, PLACE, SEED, SHARE, SOME
from nst.settings.fields import Group, option, part


@dataclass(frozen=True)
class ShardOptions(Group, at="shard"):
    output: str = option(path(), follows="${data.root}", help="folder for labeled/, unlabeled/ and test/")
    verify: bool = option(
        flag(), False, "--verify checks every file of the shard sets in output instead of writing them"
    )
    index: str | None = option(PLACE, None, "folder or address of WebDataset tars that only need an index.json")
    classes: str | None = option(
        null(path()), None, "text file that names the classes of those tars, one a line; null: 0, 1, 2, ..."
    )
    exclude: Any = option(
        null(either(flag(), path(), listed(path()))), None,
        "--exclude=<shards> takes these evaluation images out of data.unlabeled; --exclude alone: of data.test",
    )  # fmt: skip
    exclude_distance: int | None = option(
        null(whole(0, 64)), 4,
        "bits of 64 in which a look-alike's perceptual hash may differ; null: only the same pixels",
    )  # fmt: skip
    workers: int | None = option(
        null(whole(1, 1024)), None, "processes that hash images for --exclude; null: one a core"
    )
    samples_per_shard: int = option(whole(1, 10**7), 1000, "images per tar")
    check_images: bool = option(flag(), True, "decode every image once and leave out those that fail")


@dataclass(frozen=True)
class RayOptions(Group, at="label.ray"):
    """Labeling on a Ray cluster."""

    address: str | None = option(
        null(text()), None, "of the cluster; null: the one this machine belongs to, else its own cores"
    )
    cpus: int | None = option(null(whole(1, 4096)), None, "of one task; null: 1, on a GPU the loader's too")
    gpus: int | None = option(null(whole(0, 64)), None, "of one task; null: 1 with trainer=gpu")
    retries: int = option(whole(-1, 10**6), 10, "of a shard whose worker or machine has died; -1: without end")


@dataclass(frozen=True)
class LabelOptions(Group, at="label"):
    batch_size: int = option(BATCH, 256, "images per forward")
    keep: float = option(SHARE, 0.0, "probabilities are stored where the confidence is at least this")
    precision: str = option(
        choice("auto", "32-true", "bf16-true"), "auto", "auto: bf16 where the hardware, a CPU too, computes in it"
    )
    engine: str = option(
        choice("lightning", "ray"), "lightning",
        "ray: a task per shard on a Ray cluster, begun again where a worker or machine dies",
    )  # fmt: skip
    ray: RayOptions = part(RayOptions, "the cluster")


@dataclass(frozen=True)
class SelectOptions(Group, at="select"):
    """Which pseudo-labeled images a student learns from (METHOD, Selection)."""

    method: str = option(
        choice("exact", "official"), "exact",
        "exact: a class total is exact; official, the released code's: thresholds on a 0.01 grid, copies by coin flip",
    )  # fmt: skip
    min_confidence: float = option(SHARE, 0.3, "images below are not used")
    max_confidence: float | None = option(null(SHARE), None, "only images below it (figure 4); null: no limit")
    images_per_class: int | None = option(
        null(COUNT), 130_000,
        "fewer are duplicated evenly; null: as many as the largest class has, of prior=labeled as there are in all",
    )  # fmt: skip
    prior: str = option(
        choice("equal", "labeled"), "equal",
        "labeled: classes in the proportions of the labeled images, images_per_class on average",
    )  # fmt: skip
    allow_empty_classes: bool = option(
        flag(),
        False,
        "false: a class of too few sure images takes its surest others, and it is said",
    )
    max_copies: int | None = option(null(COUNT), None, "of one image; null sets no limit")
    fraction: float = option(SOME, 1.0, "of the selected images, drawn uniformly (table 8)")
    memory_limit: str = option(
        text(20, r"\d{1,6}(\.\d+)? ?[KMGT]i?B", "a size such as 4GB"), "4GB",
        "of DuckDB, which compares with the true classes where they are known; it spills to the disk beyond",
    )  # fmt: skip
    threads: int | None = option(null(whole(1, 4096)), None, "null: all cores")


def _generations(value: Any) -> Any:
    """null, or a list with a list of options (lists of them may lie in it) per generation, or null for the first."""

    def is_options(entry: Any) -> bool:
        return isinstance(entry, str) or (isinstance(entry, list) and all(map(is_options, entry)))

    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise ValueError
    if not all(isinstance(entry, list) and is_options(entry) for entry in value[value[0] is None :]):
        raise ValueError
    return value


GENERATIONS = Kind(
    "a list of lists of options, [[model.width=0.35], [model.width=0.5]]; or null; null for the first takes"
    " iterate.teacher as it is",
    _generations,
    verbatim=True,
    lists=True,
)


@dataclass(frozen=True)
class IterateOptions(Group, at="iterate"):
    generations: Sequence[Any] | None = option(
        GENERATIONS, None, "list of lists of options, one per generation; null: teacher.student, then this student"
    )
    teacher: str | None = option(
        PLACE, None, "directory of generation 0, for runs that share it: trained there once; null: gen0/ in run_dir"
    )
    control: bool = option(
        flag(), False,
        "true also trains the last student's network on the labels alone, for as many images in all",
    )  # fmt: skip
    report: bool = option(flag(), True, "write report.html at the end")


@dataclass(frozen=True)
class EvaluateOptions(Group, at="evaluate"):
    output: str | None = option(PLACE, None, "folder for result.json; null: evaluation/ in the run evaluated")


@dataclass(frozen=True)
class PredictOptions(Group, at="predict"):
    """Answers for pictures of one's own."""

    input: str | None = option(
        PLACE,
        None,
        "input=<place>: a folder, picture, tar, zip, folder or address of shards, or a list (.csv, .txt) of paths",
    )
    output: str | None = option(PLACE, None, "folder for predictions.csv; null: predict/<input> in the run")
    top: int = option(whole(1, 1000), 3, "--top 5: classes that are told of a picture, the most probable first")
    min_confidence: float = option(
        SHARE, 0.0, "--min-confidence 0.8: pictures below go to unsure.csv instead of predictions.csv"
    )
    sort_into: str | None = option(
        PLACE, None, "--sort-into <folder>: a folder per class with a link to each of its pictures"
    )
    views: str = option(
        choice("one", "all"), "one",
        "--views all: the mean over a picture mirrored and turned, as the network was trained to see it",
    )  # fmt: skip
    calibrated: bool = option(
        flag(), False, "--calibrated: confidences as often right as they say, by the network's validation pictures"
    )
    sheet: int = option(whole(0, 10**5), 400, "pictures on the contact sheet, the classes taking turns; 0: no sheet")
    batch_size: int = option(BATCH, 256, "images per forward")
    precision: str = option(
        choice("auto", "32-true", "bf16-true"), "auto", "auto: bf16 where the hardware, a CPU too, computes in it"
    )


@dataclass(frozen=True)
class ReportOptions(Group, at="report"):
    runs: Sequence[str] | None = option(
        null(listed(path())), None, "run directories to show, teacher first; null: the generations in run_dir"
    )
    examples: int = option(whole(0, 10000), 24, "pictures per gallery")
    table: int | None = option(
        null(whole(1, 99)), None,
        "--table 6: that table of the paper from the runs of its recipes, below report.runs or runs/",
    )  # fmt: skip
    figure: int | None = option(null(whole(1, 99)), None, "--figure 4: that figure likewise")
    findings: Any = option(
        null(either(flag(), path())), None,
        "--findings <folder>: the paper's claims by the CSV files of bin/bench series; alone: those of docs/results",
    )  # fmt: skip
    wandb: bool = option(
        flag(), False, "--wandb sends the report to W&B, page and tables as an artifact; logger=wandb does so too"
    )
    wandb_workspace: bool = option(
        flag(), False, "--wandb-workspace saves the project's view on W&B instead of making a report"
    )


@dataclass(frozen=True)
class DoctorOptions(Group, at="doctor"):
    accept: Sequence[str] = option(
        listed(text(100)), (), "names of rules that are gone against on purpose: their warnings become notes"
    )
    compare_images: int = option(
        whole(0), 20_000, "unlabeled images compared with test images by the content of their files; 0: none"
    )


@dataclass(frozen=True)
class ExportOptions(Group, at="export"):
    format: str = option(
        choice("timm", "onnx", "nst"), "timm",
        "timm: safetensors with config.json | onnx | nst: released weights as a run for teacher.run",
    )  # fmt: skip
    output: str | None = option(PLACE, None, "folder; null: export/ in the run exported")
    input: str = option(
        choice("uint8", "normalized"), "uint8",
        "of onnx: uint8, RGB of 0 to 255; normalized, float32 as timm's transforms make it",
    )  # fmt: skip


@dataclass(frozen=True)
class PlanCounts(Group, at="plan"):
    """Numbers of images for a plan; None: to be found out."""

    classes: int | None = option(
        null(BATCH), None, "null, as for the numbers of images: of the shards, else of the data set by its name"
    )
    labeled_images: int | None = option(null(COUNT), None)
    unlabeled_images: int | None = option(null(whole(0)), None, "data=imagenet without shards: the paper's 300 million")
    selected_images: int | None = option(
        null(whole(0)), None,
        "kept by the selection, each once; null: the paper's share of its size with copies, 81 of 130",
    )  # fmt: skip
    image_kilobytes: float | None = option(
        null(number(0, 1e9, above=True)), None,
        "of an image file on average; null: of the shards, else what is usual",
    )  # fmt: skip


@dataclass(frozen=True)
class PlanOptions(PlanCounts, at="plan"):
    hardware: str | None = option(
        null(text(100)), None,
        "v3:32x32, v5e:16x16, h100:8, ...: chips as a mesh or a number; null: by the trainer",
    )  # fmt: skip
    utilization: float | None = option(
        null(SOME), None,
        "share of the peak that computing reaches; null: as measured, else assumed by chip and network",
    )  # fmt: skip
    measured: str | None = option(
        PLACE, None, "file of bin/bench gpu --json whose rates go before those that nst knows"
    )
    compile: bool = option(
        flag(), False,
        "ask the TPU compiler about the real train step; needs the extra aot and memory (L2: 22 GB)",
    )  # fmt: skip
    output: str | None = option(PLACE, None, "file for the plan as JSON")


@dataclass(frozen=True)
class ScaleOptions(Group, at="scale"):
    """Sizes and options of scaled-down twins of the paper's experiments; a file of the group gives them all."""

    label: str = option(text())
    runs: str = option(path(), help="of the teachers that runs share")
    small: Sequence[str] = option(listed(text()))
    middle: Sequence[str] = option(listed(text()))
    large: Sequence[str] = option(listed(text()))
    student: Sequence[str] = option(listed(text()))
    no_noise: Sequence[str] = option(listed(text()))
    max_images: int = option(COUNT, help="of the test set, under corruptions and attacks")
    max_clips: int = option(COUNT)
    bin_images_per_class: int = option(COUNT, help="of a bin of confidence (figure 4)")


@dataclass(frozen=True)
class CommonOptions(Group):
    """What all stages have."""

    stage: str | None = option(null(text()), None)
    name: str = option(NAME, follows="${stage}", help="names the run; its directory is runs/<name>")
    run_dir: str = option(path(), follows="runs/${name}", help="where everything the stage makes goes")
    seed: int = option(SEED, 0, "of data split, weights, order, augmentation and noise")
    lanes: int = option(
        whole(1, 100_000), 1,
        "parts of a training's order of images; as many as a pod has hosts: each then fetches only its own shards",
    )  # fmt: skip
    overwrite: bool = option(
        flag(), False,
        "true deletes what nst wrote of a run with other inputs instead of refusing it; never another file",
    )  # fmt: skip
    max_bad_fraction: float = option(SHARE, 0.01, "share of undecodable images at which a stage stops")
    overrides: Sequence[str] = option(listed(text(10**6)), (), "what the command line asked for; filled in")
    paper: Mapping[str, Any] | None = option(
        null(mapping()), None, "published figures of an experiment, shown beside ours"
    )
