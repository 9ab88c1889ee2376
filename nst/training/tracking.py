"""Loggers of a run, opened when first needed and closed with its result: metrics.csv, and a W&B run of its own.

A W&B run belongs to a run directory. Its id is drawn once and lies in the directory, as wandb_id, so a continued
training, its evaluation and its report find their run. What `overwrite=true` makes anew gets a new one, and two
machines with equal paths never share one. Without an account everything is written offline, to be sent later by
`wandb sync`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger

from nst.atomic import write_text
from nst.documents import damaged, read_text
from nst.progress import say
from nst.replaced import replaced
from nst.settings.measuring import WandbOptions
from nst.sharing import is_rank_zero
from nst.shown import kept
from nst.training.loggers import MetricsTable
from nst.training.offline import PREFIX, as_table, plain_values, remove_superseded, write_again
from nst.written import FOLDER, LINK, note, unlink

ID_FILE = "wandb_id"
WANDB_LINKS = ("latest-run", "debug.log", "debug-internal.log")  # that wandb makes beside the folders of its runs


@dataclass
class Tracking:
    """What is logged of one run directory. Use as a context manager: leaving it closes the W&B run.

    Args:
        directory: the run directory.
        table: whether metrics.csv is written.
        wandb: options of the W&B run; None for none.
        config: the whole configuration, kept with the W&B run.
        stage: the W&B job type.
    """

    directory: Path
    table: bool = True
    wandb: WandbOptions | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    stage: str = "train"
    _loggers: list[Logger] | None = None
    _offline: Path | None = None  # folder of the W&B run, until it has what was logged before

    def within(self, run: Path) -> Tracking:
        """The same in the W&B run of a training, where `run` is one, whose evaluation or report this is."""
        related = self.directory == run / "evaluation" or self.directory == run.parent
        if not related or not (run / "started.json").exists():
            return self
        own = run / "config.yaml"
        config = yaml.safe_load(read_text(own)) if own.exists() else self.config
        return replace(self, directory=run, config=config, stage="train")

    def loggers(self) -> list[Logger]:
        """For Lightning's Trainer; the same ones for every phase of the run."""
        if self._loggers is None:
            self._loggers = [MetricsTable(self.directory / "metrics.csv")] if self.table else []
            if self.wandb is not None and is_rank_zero():
                self._loggers.append(self._wandb_logger(self.wandb))
        return self._loggers

    def catch_up(self) -> None:
        """Gives a W&B run that was opened again offline what was logged before, of which metrics.csv is the record; to
        be called when that file holds what is to stay."""
        own, self._offline = self._offline, None
        if own is None:
            return
        for run in self._runs():
            write_again(run, self.directory)
            remove_superseded(self.directory, own, run.id)

    def summarize(self, result: Mapping[str, Any]) -> None:
        """Puts the result's plain values into the summary of the W&B run."""
        for run in self._runs():
            run.summary.update(plain_values(dict(result)))

    def evaluated(self, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs an evaluation: its numbers as the summary of a W&B run, those of robustness also as a table."""
        self.loggers()
        self.catch_up()
        for run in self._runs() if rows else []:
            run.log({"robustness/table": as_table(list(map(dict, rows)))})
        self.summarize(result)

    def publish(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        figures: Sequence[Path],
        files: Sequence[Path],
        result: Mapping[str, Any],
    ) -> None:
        """Logs a report: its table `report/<table>`, its figures, and all its files as one artifact.

        Args:
            files: of the report besides the figures; a page is shown too.
        """
        import wandb

        self.loggers()
        self.catch_up()
        for run in self._runs():
            shown: dict[str, Any] = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
            for page in (path for path in files if path.suffix == ".html"):
                shown["report/page"] = wandb.Html(page.read_text())
            run.log({f"report/{table}": as_table(list(map(dict, rows))), **shown})
            artifact = wandb.Artifact(f"report-{run.id}", type="report", description=f"nst report: {table}")
            for path in (*files, *figures):
                artifact.add_file(str(path), name=path.name)
            run.log_artifact(artifact)
        self.summarize(result)

    def _runs(self) -> list[Any]:
        from lightning.pytorch.loggers import WandbLogger

        return [logger.experiment for logger in self._loggers or [] if isinstance(logger, WandbLogger)]

    def _wandb_logger(self, options: WandbOptions) -> Logger:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        mode = options.resolved_mode
        os.environ.setdefault("WANDB_SILENT", "true")  # we say ourselves where the run is
        logger = WandbLogger(
            name=f"{self.directory.parent.name}/{self.directory.name}",
            id=run_id(self.directory),
            save_dir=str(self.directory),
            project=options.project,
            entity=options.entity,
            group=options.group,
            tags=list(options.tags),
            job_type=self.stage,
            mode=mode,
            resume="allow",
            config=kept(dict(self.config)),
            settings=wandb.Settings(silent=True, console="off"),
        )
        logger._wandb_init.pop("anonymous", None)  # Lightning always gives it, and W&B warns that it has no effect
        with replaced(sys, "argv", kept(sys.argv)):  # the command line, which wandb keeps with the run
            run = logger.experiment
        own = Path(run.dir).parent
        note(own, kind=FOLDER, made=True)
        note(*(own.parent / name for name in WANDB_LINKS), own / "logs" / "debug-core.log", kind=LINK, made=True)
        run.define_metric("trainer/global_step")
        for name in ("train/*", "validation/*", "robustness/*"):
            run.define_metric(name, step_metric="trainer/global_step")
        if mode == "offline":
            self._offline = own
        # the folder of this very run is gone when its evaluation or a continuation has written it again
        stays = f"{shlex.quote(str(own.parent))}/{PREFIX}*"
        if mode != "disabled":
            say(f"W&B: {run.url}" if mode == "online" else f"W&B ({mode}): wandb sync {stays}")
        return logger

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for run in self._runs():
            run.finish(exit_code=0 if kind is None else 1)
        self._loggers = None


def run_id(directory: Path) -> str:
    """The W&B id that belongs to a run directory, drawn and written at its first use; asked for by rank 0 alone.

    Raises:
        NstError: it cannot be written, or what is there is damaged.
    """
    path = directory / ID_FILE
    if not path.exists():
        drawn = secrets.token_hex(8)  # of no seed: runs of one seed have W&B runs of their own
        write_text(path, drawn + _check_digits(drawn) + "\n")
    found = read_text(path).strip()
    if len(found) != 20 or _check_digits(found[:16]) != found[16:]:
        new = f"move {path} away, then the same command: what is logged from now on is a new W&B run"
        raise damaged(path, f"no id of a W&B run of ours: {found[:40]!r}", new)
    return found


def _check_digits(drawn: str) -> str:
    """Behind an id, so that a flipped bit in it does not begin another W&B run."""
    return hashlib.sha256(drawn.encode()).hexdigest()[:4]


def forget_run(directory: Path) -> None:
    """What is logged of this directory from now on goes to a new W&B run."""
    unlink(directory / ID_FILE)
