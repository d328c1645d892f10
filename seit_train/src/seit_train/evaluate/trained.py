"""A trained model, ready to be judged: the best checkpoint of a run, without its store."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seit_train.checkpoint import MODEL, load_weights
from seit_train.data import TokenBatch
from seit_train.distributed import World
from seit_train.precision import autocast, resolve_precision
from seit_train.run import Run
from seit_train.tasks.base import Task
from tokenstore.errors import TrainingError, UsageError


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, its task and run, and where it computes."""

    run: Run
    task: Task
    model: nn.Module
    world: World

    @contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients, and the arithmetic of the run."""
        device = self.world.device
        precision = resolve_precision(self.run.config.loop.precision, device)
        with torch.no_grad(), autocast(precision, device):
            yield

    def judge(self, batches: Iterable[TokenBatch]) -> dict[str, Any]:
        """`n`, the number of images, and the task's metrics without their `val_`.

        What a metric says of each class is a mapping by its name.

        Raises:
            UsageError: there is no image to judge by.
        """
        counted = _Counted(batches)
        with self.computing():
            metrics = self.task.evaluate(self.model, counted)
        if counted.images == 0:
            raise UsageError("there is no image to evaluate on")
        return {"n": counted.images, **_grouped(metrics)}


def _grouped(metrics: Mapping[str, float]) -> dict[str, Any]:
    """{"val_miou": 0.5, "val_iou/sky": 0.9} -> {"miou": 0.5, "iou": {"sky": 0.9}}."""
    groups: dict[str, Any] = {}
    for name, value in metrics.items():
        first, slash, rest = name.removeprefix("val_").partition("/")
        if slash:
            groups.setdefault(first, {})[rest] = value
        else:
            groups[first] = value
    return groups


def load_trained(folder: Path) -> Trained:
    """The best checkpoint of a run (the newest, where nothing was evaluated), on cuda or cpu.

    Raises:
        TrainingError: there is no run, or no whole checkpoint in it.
    """
    run = Run.open(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = run.task(run.config, run.store.facts())
    model = task.build_model()
    checkpoint = run.result()
    try:
        model.load_state_dict(load_weights(checkpoint / MODEL)[0])
    except RuntimeError as error:
        raise TrainingError(
            f"checkpoint '{checkpoint}' does not fit the model of its run, so another version of "
            "seit-train made it. Use that version, or start a new run."
        ) from error
    return Trained(run, task, model.to(device).eval(), World(0, 1, device))


class _Counted:
    """Passes batches on and counts their valid rows."""

    def __init__(self, batches: Iterable[TokenBatch]) -> None:
        self._batches = batches
        self.images = 0

    def __iter__(self) -> Iterator[TokenBatch]:
        for batch in self._batches:
            self.images += int(batch.valid.sum())
            yield batch
