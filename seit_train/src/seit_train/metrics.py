"""Metrics: one line an interval, to metrics.jsonl, TensorBoard and the person who waits.

The trainer measures, this file writes. Shares are 0..1. On a terminal there is one live line;
elsewhere each interval is a plain line on stderr.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class Journal:
    """Where a run writes what it measures; on resume, what came after the checkpoint is forgotten.

    Example:
        >>> with Journal(folder, "mtm", total=100, first_step=1) as journal:  # doctest: +SKIP
        ...     journal.write(50, 1.5, {"loss": 6.2})
    """

    def __init__(self, folder: Path, task: str, total: int, first_step: int) -> None:
        """Prepare; files are opened when the context is entered.

        Args:
            folder: of the run.
            task: name of the task, for the person who waits.
            total: steps of the whole run.
            first_step: number of the first step that is still to come; lines from it on are
                dropped, because those steps will run again.
        """
        self._folder, self._first = folder, first_step
        self._line = _LiveLine(task, total, first_step)

    def __enter__(self) -> Self:
        path = self._folder / METRICS
        kept = [line for line in read_metrics(self._folder) if line["step"] < self._first]
        # In one move: a kill just here must not cost what a run measured before.
        new = path.with_name(f".{METRICS}.new")
        new.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        new.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._first)
        self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._line.stop()
        self._file.close()
        self._board.close()

    def advance(self, step: int) -> None:
        """Show that a step is done; only a terminal sees each one."""
        self._line.advance(step)

    def write(self, step: int, epoch: float, scalars: Mapping[str, float]) -> None:
        """One line: step, epoch and the scalars."""
        line = {name: _jsonable(value) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, "epoch": round(epoch, 4), **line}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            group = "val" if name.startswith("val_") else "train"
            self._board.add_scalar(f"{group}/{name.removeprefix('val_')}", value, step)
        self._line.tell(step, scalars)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics; a last line that a kill cut short is left out."""
    path = folder / METRICS
    lines: list[dict[str, float]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class _LiveLine:
    """Tells a person on stderr how a run goes."""

    def __init__(self, task: str, total: int, first_step: int) -> None:
        self._task, self._total, self._first = task, total, first_step
        self._started = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[scalars]}"),
                console=Console(stderr=True),
            )
            self._bar.add_task(task, total=total, completed=first_step - 1, scalars="")

    def start(self) -> None:
        self._started = time.monotonic()
        if self._bar:
            self._bar.start()

    def stop(self) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def tell(self, step: int, scalars: Mapping[str, float]) -> None:
        text = "  ".join(f"{name} {_short(value)}" for name, value in scalars.items())
        if self._bar:
            self._bar.update(self._bar.task_ids[0], scalars=text)
            return
        seconds = (time.monotonic() - self._started) / (step - self._first + 1)
        left = math.ceil(seconds * (self._total - step))
        line = f"{self._task}: step {step:,} of {self._total:,}  {text}  {left:,} s left"
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress belongs on stderr


def _short(value: float) -> str:
    """1234.5 -> "1,234", 0.00012345 -> "0.0001234"."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _jsonable(value: float) -> float | None:
    """JSON knows no NaN and no infinity."""
    return value if math.isfinite(value) else None
