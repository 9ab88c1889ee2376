"""The saved W&B view of a project: generations side by side, robustness, training, pseudo-labels, ablations.

A view says which panels show which keys of the runs that `nst.training.tracking` writes; the runs fill it. It lies on
W&B's server, so saving it needs an account.
"""

from __future__ import annotations

from typing import Any

from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports import v2 as wr

from nst.recipes import EXHIBITS
from nst.robustness.baselines import MADE_CORRUPTIONS, MADE_SEQUENCES

NAME = "Noisy Student Training"


def workspace(entity: str, project: str) -> ws.Workspace:
    """The view, not saved yet."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[_generations(), _robustness(), _training(), _pseudo_labels(), _tables()],
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step"),
    )


def save(entity: str, project: str) -> str:
    """Saves the view on the server; returns its address."""
    return str(workspace(entity, project).save().url)


def _section(name: str, panels: list[Any]) -> ws.Section:
    return ws.Section(name=name, panels=panels, is_open=True)


def _bars(title: str, *keys: str) -> wr.BarPlot:
    return wr.BarPlot(title=title, metrics=list(keys), max_bars_to_show=30)


def _lines(title: str, *keys: str) -> wr.LinePlot:
    return wr.LinePlot(title=title, x="trainer/global_step", y=list(keys))


def _generations() -> ws.Section:
    return _section(
        "Generations",
        [
            _bars("top-1 %", "top1"),
            _bars("gain over the teacher, points", "gain"),
            _bars("expected calibration error %", "ece"),
            wr.WeavePanelSummaryTable(table_name="report/generations"),
            wr.RunComparer(diff_only="split"),
        ],
    )


def _robustness() -> ws.Section:
    return _section(
        "Robustness",
        [
            _bars("mCE, ImageNet-C", "robustness/imagenet_c/mce", "robustness/imagenet_c_299/mce"),
            _bars("mFR, ImageNet-P", "robustness/imagenet_p/mfr", "robustness/imagenet_p_299/mfr"),
            _bars("top-1 %, ImageNet-A, -R, -V2, -Sketch",
                  *(f"robustness/imagenet_{name}/top1" for name in ("a", "r", "v2", "sketch"))),
            _bars("mean corruption error %, made on the fly", f"robustness/{MADE_CORRUPTIONS}/mean_error"),
            _bars("flip rate %, made on the fly", f"robustness/{MADE_SEQUENCES}/flip_rate"),
            _bars("top-1 % under PGD of 10 steps", *(f"robustness/pgd/top1_at_{size}" for size in (1, 4, 16))),
            wr.LinePlot(title="error by corruption, during training", x="trainer/global_step",
                        metric_regex=f"robustness/{MADE_CORRUPTIONS}/error/.*"),
            wr.WeavePanelSummaryTable(table_name="robustness/table"),
        ],
    )  # fmt: skip


def _training() -> ws.Section:
    return _section(
        "Training",
        [
            _lines("top-1 on held-out images, %", "validation/top1"),
            _lines("loss on labeled images", "train/labeled_loss"),
            _lines("loss on pseudo-labeled images", "train/unlabeled_loss"),
            _lines("learning rate", "train/learning_rate"),
            _lines("norm of the gradients", "train/gradient_norm"),
            _lines("images per second", "train/images_per_second"),
        ],
    )


def _pseudo_labels() -> ws.Section:
    figures = {"confidence": "confidence of the teachers", "class_balance": "balance of the classes",
               "reliability": "how right they are"}  # fmt: skip
    return _section(
        "Pseudo-labels", [wr.MediaBrowser(title=title, media_keys=[f"figures/{key}"]) for key, title in figures.items()]
    )


def _tables() -> ws.Section:
    """What `nst report --table <number> --wandb` has sent."""
    panels: list[Any] = []
    for exhibit in EXHIBITS.values():
        panels.append(wr.MediaBrowser(title=exhibit.name, media_keys=[f"figures/{exhibit.file_name}"]))
        panels.append(wr.WeavePanelSummaryTable(table_name=f"report/{exhibit.file_name}"))
    return _section("Ablations and the paper's tables", panels)
