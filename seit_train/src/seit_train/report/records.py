"""What the folder of a run says by itself: settings, metrics, machine, how far it came.

No model and no store is opened here, so this works for runs that were stopped, moved, or whose
store is gone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seit_train.checkpoint import STATE
from seit_train.metrics import read_metrics
from seit_train.run import ENVIRONMENT, Run


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder tells it.

    Attributes:
        name: the shortest end of its path that no other run of the report has.
        run: configuration and store.
        lines: of metrics.jsonl, in order; a value that was not finite is None.
        environment: of the machine; empty where the run has not said.
        state: of the newest checkpoint: step, steps, best, seconds; empty without one.
    """

    name: str
    run: Run
    lines: tuple[Mapping[str, float | None], ...]
    environment: Mapping[str, Any]
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return int(max((line["step"] or 0 for line in self.lines), default=0))

    @property
    def steps(self) -> int | None:
        """Steps of the whole run, if anything says so."""
        asked = self.run.config.steps or self.state.get("steps")
        return None if asked is None else int(asked)

    @property
    def best(self) -> Mapping[str, float | None] | None:
        """The evaluation with the best metric of the task, the first of equals."""
        task = self.run.task
        sign = 1 if task.higher_is_better else -1
        judged = [line for line in self.lines if line.get(task.best_metric) is not None]
        return max(judged, key=lambda line: sign * _number(line, task.best_metric), default=None)

    @property
    def judged_last(self) -> Mapping[str, float | None]:
        """The last evaluation; empty without one."""
        for line in reversed(self.lines):
            if self.run.task.best_metric in line:
                return line
        return {}


def read_records(folders: Sequence[Path]) -> tuple[RunRecord, ...]:
    """Read these runs; a folder that is named twice is read once.

    Raises:
        TrainingError: a folder holds no run, or a damaged one.
    """
    distinct = list({folder.resolve(): folder for folder in folders})
    return tuple(
        RunRecord(
            name=name,
            run=Run.open(folder),
            lines=tuple(read_metrics(folder)),
            environment=_read(folder / ENVIRONMENT),
            state=_read(folder / "checkpoints" / "last" / STATE),
        )
        for folder, name in zip(distinct, shortest_names(distinct), strict=True)
    )


def shortest_names(folders: Iterable[Path]) -> list[str]:
    """runs/a/seed0 and runs/b/seed0 -> "a/seed0" and "b/seed0"."""
    parts = [folder.parts for folder in folders]
    longest = max((len(some) for some in parts), default=0)
    for length in range(1, longest + 1):
        names = ["/".join(some[-length:]) for some in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(some) for some in parts]


def _number(line: Mapping[str, float | None], name: str) -> float:
    value = line[name]
    return float("-inf") if value is None else value


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
