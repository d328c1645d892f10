"""The figures of a classifier: hits, each class's own accuracy, and how far it may be believed.

Works on logits and targets, whatever they were made from. A target may be a set of classes, of
which the model's best guess counts; the answer is sought among some of the classes where the
pictures show only these (see `class_map.py`).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from seit_train.data import TokenBatch
from seit_train.evaluate.class_map import Targets
from seit_train.evaluate.trained import Trained
from seit_train.scoring import labels_of
from tokenstore.errors import UsageError

BINS = 15  # of confidence, as Guo et al. (2017) have them


class ClassFigures:
    """Adds up what was said of pictures whose targets are known."""

    def __init__(self, targets: Targets, device: torch.device) -> None:
        """Begin with nothing."""
        self._targets = targets
        self._among = torch.tensor(targets.among, device=device)
        place = {label: column for column, label in enumerate(targets.among)}
        self._right = torch.zeros(
            len(targets.names), len(place), dtype=torch.bool, device=device
        )  # whether a column of the scored logits is a right answer to a target
        for number, members in enumerate(targets.members):
            for label in members:
                if label in place:
                    self._right[number, place[label]] = True
        self._hits = torch.zeros(len(targets.names), dtype=torch.float64, device=device)
        self._counts = torch.zeros_like(self._hits)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._probabilities: list[Tensor] = []
        self._answers: list[Tensor] = []

    def add(self, logits: Tensor, numbers: Tensor) -> None:
        """Count some pictures.

        Args:
            logits: float [n,classes of the run].
            numbers: int64 [n], their targets.
        """
        logits, right = logits.float()[:, self._among], self._right[numbers]
        # Of a set, the class that the model holds likeliest stands for it.
        answer = logits.masked_fill(~right, -torch.inf).argmax(dim=1, keepdim=True)
        best = logits.topk(min(5, logits.shape[1])).indices == answer
        likelihood = logits.log_softmax(dim=1)
        losses = -likelihood.masked_fill(~right, -torch.inf).logsumexp(dim=1)
        self._sums += torch.stack([losses.double().sum(), best.any(dim=1).double().sum()])
        self._hits.index_add_(0, numbers, best[:, 0].double())
        self._counts.index_add_(0, numbers, torch.ones_like(best[:, 0], dtype=torch.float64))
        self._probabilities.append(likelihood.exp())
        self._answers.append(answer[:, 0])

    def result(self) -> dict[str, Any]:
        """What they come to.

        `n`, `loss` (nats), `top1`, `top5`, `calibration_error` (expected, 15 bins of confidence,
        0..1), `classes` among which was answered, and `accuracy` of each class that has pictures.

        Raises:
            UsageError: there were no pictures.
        """
        count = int(self._counts.sum())
        if count == 0:
            raise UsageError("there is no image to evaluate on")
        error = multiclass_calibration_error(
            torch.cat(self._probabilities),
            torch.cat(self._answers),
            num_classes=len(self._among),
            n_bins=BINS,
        )
        loss, top5 = (self._sums / count).tolist()
        rows = zip(self._targets.names, self._hits.tolist(), self._counts.tolist(), strict=True)
        return {
            "n": count,
            "loss": loss,
            "top1": float(self._hits.sum()) / count,
            "top5": top5,
            "calibration_error": float(error),
            "classes": len(self._among),
            "accuracy": {name: hits / pictures for name, hits, pictures in rows if pictures},
        }


def judge(trained: Trained, batches: Iterable[TokenBatch], targets: Targets) -> dict[str, Any]:
    """What a run reaches on batches whose labels are numbers of targets.

    Where it does not classify, the task's own metrics, and targets mean nothing.

    Raises:
        UsageError: there is no image to judge by.
        TrainingError: a classifier, and images without labels.
    """
    if not trained.task.classifies:
        return trained.judge(batches)
    figures = ClassFigures(targets, trained.world.device)
    with trained.computing():
        for batch in batches:
            logits = trained.task.logits(trained.model, batch)
            figures.add(logits[batch.valid], labels_of(batch)[batch.valid])
    return figures.result()
