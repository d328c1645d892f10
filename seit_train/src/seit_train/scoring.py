"""Scoring: targets, losses and hits of classifiers, whatever they are fed.

Used by the tasks that classify. Sums are kept as sums until all processes have added theirs.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from seit_train.config import RunConfig
from seit_train.data import TokenBatch
from seit_train.distributed import sum_over_processes
from seit_train.replay import tasks_of_classes
from tokenstore.errors import TrainingError


class Scored(NamedTuple):
    """Some rows with what was said of them: logits float [B,classes], labels int64 [B], valid."""

    logits: Tensor
    labels: Tensor
    valid: Tensor


def labels_of(batch: TokenBatch) -> Tensor:
    """The labels of a batch, int64 [B].

    Raises:
        TrainingError: it has none.
    """
    if batch.labels is None:
        raise TrainingError("a split without labels cannot be classified; choose another split")
    return batch.labels


def refuse_single_class(classes: Sequence[str]) -> None:
    """Refuse to learn what cannot be wrong.

    Raises:
        TrainingError: there is one class only.
    """
    if len(classes) == 1:
        raise TrainingError(
            f"classification needs at least two classes, and there is only '{classes[0]}'. If the "
            "classes lie deeper, build from the folder that holds their folders."
        )


def smooth_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Int64 [B] -> float32 [B,classes]: 1 - smoothing on the label, the rest spread over all."""
    is_label = labels[:, None] == torch.arange(classes, device=labels.device)
    return is_label * (1 - smoothing) + smoothing / classes


def soft_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy with soft targets, both [B,classes], over the rows that are valid."""
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    weights = valid.float()
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def hits(
    scored: Iterable[Scored], device: torch.device, tasks: Tensor | None = None
) -> dict[str, float]:
    """`val_loss` against the hard labels, and the shares of images with the label in the top.

    Where there are fewer than five classes, `val_top5` looks at all of them. With `tasks`, which
    task each class is of, int64 [classes], also `val_top1/task N` of the images of each, from 1.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    tasks = None if tasks is None else tasks.to(device)
    by_task = torch.zeros(2, 0 if tasks is None else int(tasks.max()) + 1, device=device).double()
    for logits, labels, valid in scored:
        logits = logits.float()
        losses = functional.cross_entropy(logits, labels, reduction="none")
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        figures = [losses, best[:, 0], best.any(dim=1), torch.ones_like(losses)]
        sums += torch.stack([figure[valid].double().sum() for figure in figures])
        if tasks is not None:
            counted = torch.stack([best[:, 0], torch.ones_like(best[:, 0])])[:, valid]
            by_task.index_add_(1, tasks[labels[valid]], counted.double())
    loss, top1, top5, images = sum_over_processes(sums).tolist()
    right, there = sum_over_processes(by_task)
    shares = (right / there.clamp(min=1)).tolist()
    return {
        "val_loss": loss / images,
        "val_top1": top1 / images,
        "val_top5": top5 / images,
        **{f"val_top1/task {number}": share for number, share in enumerate(shares, 1)},
    }


def tasks_in(config: RunConfig, classes: int) -> Tensor | None:
    """Which task of a continual run each class is of, int64 [classes]; None in other runs."""
    if config.data.replay is None:
        return None
    return torch.from_numpy(tasks_of_classes(classes, round(config.epochs or 0), config.seed))
