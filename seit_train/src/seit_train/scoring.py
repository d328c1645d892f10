"""Scoring: targets, losses and hits of classifiers, whatever they are fed.

Used by the tasks that classify. Sums are kept as sums until all processes have added theirs.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from seit_train.data import TokenBatch
from seit_train.distributed import sum_over_processes
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


def hits(scored: Iterable[Scored], device: torch.device) -> dict[str, float]:
    """`val_loss` against the hard labels, and the shares of images with the label in the top.

    Where there are fewer than five classes, `val_top5` looks at all of them.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for logits, labels, valid in scored:
        logits = logits.float()
        losses = functional.cross_entropy(logits, labels, reduction="none")
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        figures = [losses, best[:, 0], best.any(dim=1), torch.ones_like(losses)]
        sums += torch.stack([figure[valid].double().sum() for figure in figures])
    loss, top1, top5, images = sum_over_processes(sums).tolist()
    return {"val_loss": loss / images, "val_top1": top1 / images, "val_top5": top5 / images}
