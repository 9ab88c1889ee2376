"""Progress for people: one live bar per stage on a terminal, a line now and then in a log file.

Every stage says its name, the step, the loss where there is one, and the time left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol, TypeVar

from rich import box, progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nst.sharing import is_rank_zero
from nst.shown import shown

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0

# names of classes and runs are no markup: [red] is shown as it is
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def plain_table(title: str, caption: str | None = None, *, gap: int = 1, head: bool = True) -> Table:
    """A table for the terminal, still without columns; `gap` letters apart these will be."""
    return Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, gap, 0, 0), show_header=head,
    )  # fmt: skip


class Progress(Protocol):
    """Wraps an iterable to show how far it is; `track` has this form."""

    def __call__(self, items: Iterable[T], stage: str, total: int, /) -> Iterable[T]: ...


def silent(items: Iterable[T], stage: str, total: int, /) -> Iterable[T]:
    """The progress display that shows nothing."""
    return items


class Bar:
    """A progress bar. `update(step, note)` as work goes on; use as a context manager.

    Args:
        stage: what is going on, e.g. "gen1 train".
        total: steps in all; None when unknown.
        start: steps already done by an earlier attempt.
        quiet: show nothing (other ranks than 0).
    """

    def __init__(self, stage: str, total: int | None, *, start: int = 0, quiet: bool = False) -> None:
        self.stage, self.total, self.start, self.quiet = shown(stage), total, start, quiet
        self.step = start
        self._began = self._last_line = time.monotonic()
        self._live: progress.Progress | None = None

    def __enter__(self) -> Bar:
        if self.quiet or not console.is_terminal:
            return self
        self._live = progress.Progress(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}" if self.total else "{task.completed:.0f}"),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._live.add_task(self.stage, total=self.total, completed=self.start, note="")
        self._live.start()
        return self

    def update(self, step: int, note: str = "") -> None:
        self.step = step
        if self._live is not None:
            self._live.update(self._task, completed=step, note=note)
        elif not self.quiet and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            console.print(self._line(note))

    def _line(self, note: str) -> str:
        elapsed = time.monotonic() - self._began
        done = self.step - self.start
        left = f", {elapsed / done * (self.total - self.step):.0f} s left" if self.total and done else ""
        return f"{self.stage}: {self.step}/{self.total or '?'} {note} ({elapsed:.0f} s{left})"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif not self.quiet and kind is None and self.step > self.start:
            console.print(self._line("done"))


def track(items: Iterable[T], stage: str, total: int | None = None) -> Iterator[T]:
    """Yields the items and shows how many have passed."""
    with Bar(stage, total) as bar:
        for count, item in enumerate(items, start=1):
            yield item
            bar.update(count)


def say(text: str) -> None:
    """One line for the person at the terminal; other ranks than 0 keep quiet."""
    if not is_rank_zero():
        return
    console.print(shown(text))
    sys.stdout.flush()
