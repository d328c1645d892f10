"""Progress of long work on stderr: a live bar on a terminal, a plain line now and then elsewhere.

Standard output is data, so nothing here writes to it. Every command that takes more than a moment
reports through this one class.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 30.0


class WorkProgress:
    """Counts finished units of one piece of work and shows rate and time left.

    Example:
        >>> with WorkProgress("tokenizing", total=3, unit="images") as progress:
        ...     progress.advance(3)
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str = "images",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is written before the context is entered.

        Args:
            what: the work, as a verb ("tokenizing").
            total: units of work in all, None where that is unknown.
            unit: what is counted.
            stream: where to write; standard error by default.
            clock: seconds, for the rate.
        """
        self.what, self.total, self.unit = what, total, unit
        self.done = self._skipped = 0
        self._stream = stream or sys.stderr
        self._clock = clock
        self._started = self._spoke = clock()
        self._bar: Progress | None = None
        if self._stream.isatty():
            self._bar = _bar(Console(file=self._stream), unit)

    def __enter__(self) -> Self:
        self._started = self._spoke = self._clock()
        if self._bar:
            self._bar.start()
            self._bar.add_task(self.what, total=self.total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, units: int = 1) -> None:
        """Count units as done and show it."""
        self.done += units
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self.done)
        elif self._clock() - self._spoke >= SECONDS_BETWEEN_LINES:
            self._spoke = self._clock()
            self.say(self.line())

    @property
    def fresh(self) -> int:
        """Units done in this run."""
        return self.done - self._skipped

    def skip(self, units: int) -> None:
        """Count units that were done before, so that they do not make the rate look better."""
        self._skipped += units
        self.advance(units)

    def reach(self, done: int, total: int) -> None:
        """Set what is done, of how much; for work that counts by itself."""
        self.total = total
        if self._bar:
            self._bar.update(self._bar.task_ids[0], total=total)
        self.advance(done - self.done)

    def say(self, text: str) -> None:
        """Write a line of its own, above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def line(self) -> str:
        """The state as one plain line: `tokenizing: 120 of 400 images, 12.0/s, 23 s left`."""
        rate = self.fresh / max(self._clock() - self._started, 1e-9)
        of_total = f" of {self.total:,}" if self.total is not None else ""
        left = ""
        if self.total is not None and rate > 0:
            left = f", {(self.total - self.done) / rate:,.0f} s left"
        return f"{self.what}: {self.done:,}{of_total} {self.unit}, {rate:,.1f}/s{left}"


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.1f}/s")


def _bar(console: Console, unit: str) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)
