"""What a classifier takes for what: its confusion matrix, and the images it is worst at.

For every task that has `logits`. Images are centre crops, as in evaluation.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seit_train.evaluate.trained import Trained
from seit_train.report.blocks import Block, Figure, Frame, Gallery, Matrix, Table, Text
from seit_train.report.material import Material
from seit_train.report.sections.base import Findings, Section
from tokenstore.report.gallery import data_uri

MOST_NAMED = 24  # classes of a matrix that is written out; larger ones are painted
WORST = 12
PAIRS = 10
_PICTURE_PIXELS = 512  # least side of a painted matrix

Counts = NDArray[np.int64]  # [true class, predicted class]


class Predictions(Section):
    """Confusion matrix, commonest confusions, worst-predicted images."""

    title = "Predictions"
    order = 10

    @classmethod
    def serves(cls, trained: Trained) -> bool:
        """Tasks with logits over the classes of the store."""
        return trained.task.classifies and bool(trained.run.store.classes)

    @classmethod
    def look(cls, material: Material, sample: int) -> Findings:
        """Predict, count, and show where the label's probability is the smallest."""
        numbers, classes = material.numbers(sample), material.trained.run.store.classes
        probabilities, best, labels = _predicted(material, numbers)
        counts = confusion(labels, best, len(classes))
        own = probabilities.gather(1, labels[:, None])[:, 0]
        worst = own.argsort(stable=True)[:WORST]
        right = float((best == labels).double().mean())
        all_of_it = len(numbers) == len(material.split)
        text = (
            f"Of {'all ' if all_of_it else ''}{len(numbers):,} images of {material.split.name}"
            f"{'' if all_of_it else f' (of {len(material.split):,}, evenly spread)'}, "
            f"{100 * right:.1f}% are predicted as labelled. Rows are labels, columns predictions."
        )
        pairs = confusions(counts)
        blocks: list[Block] = [Text(text), matrix_block(counts, classes)]
        if pairs:
            blocks.append(_pairs_table(pairs, counts, classes))
        blocks.append(
            Text("The images whose label got the smallest probability, the smallest first.")
        )
        shown = _Worst(numbers[worst.numpy()], labels[worst], best[worst], own[worst])
        blocks.append(_worst_gallery(material, shown, probabilities[worst].amax(dim=1)))
        facts = {
            "images": len(numbers),
            "top1": right,
            "confusions": [[classes[i], classes[j], n] for i, j, n in pairs],
            "worst": material.names(shown.numbers),
        }
        return Findings(tuple(blocks), facts)


class _Worst:
    """The images to show: sample numbers, labels, predictions, probability of the label."""

    def __init__(
        self, numbers: NDArray[np.int64], labels: Tensor, best: Tensor, own: Tensor
    ) -> None:
        self.numbers, self.labels, self.best, self.own = numbers, labels, best, own


def _predicted(material: Material, numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities float32 [n,classes], predictions and labels int64 [n], on the CPU."""
    trained = material.trained
    rows, best, labels = [], [], []
    with trained.computing():
        for batch in material.batches(numbers):
            logits = trained.task.logits(trained.model, batch)
            rows.append(functional.softmax(logits, dim=1).cpu())
            # As `evaluate` does, because in bf16 two classes can have the same logit.
            best.append(logits.topk(min(5, logits.shape[1])).indices[:, 0].cpu())
            labels.append(batch.labels)
    labelled = torch.cat([each.cpu() for each in labels if each is not None])
    return torch.cat(rows), torch.cat(best), labelled


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> Counts:
    """How many images of each label got each prediction, int64 [classes,classes]."""
    pairs = labels * classes + predicted
    counts: Counts = torch.bincount(pairs, minlength=classes**2).view(classes, classes).numpy()
    return counts


def confusions(counts: Counts) -> list[tuple[int, int, int]]:
    """The commonest mistakes as (label, prediction, images)."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    places = [divmod(int(at), len(counts)) for at in order]
    return [(i, j, int(wrong[i, j])) for i, j in places if wrong[i, j]]


def matrix_block(counts: Counts, classes: tuple[str, ...]) -> Matrix:
    """Written out where there are few classes, painted where there are many."""
    if len(classes) <= MOST_NAMED:
        return Matrix(classes, tuple(tuple(row) for row in counts.tolist()))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    paint = (255 * (1 - np.sqrt(shares))).astype(np.uint8)  # the root shows rare confusions too
    times = -(-_PICTURE_PIXELS // len(classes))
    large = paint.repeat(times, axis=0).repeat(times, axis=1)
    return Matrix(classes, picture=data_uri(np.stack([large] * 3, axis=2), "PNG"))


def _pairs_table(
    pairs: list[tuple[int, int, int]], counts: Counts, classes: tuple[str, ...]
) -> Table:
    rows = tuple(
        (classes[i], classes[j], f"{n:,} of {int(counts[i].sum()):,}") for i, j, n in pairs
    )
    return Table("Commonest confusions", ("label", "predicted as", "images"), rows)


def _worst_gallery(material: Material, worst: _Worst, chance: Tensor) -> Gallery:
    pictures = material.painter(material.batch(worst.numbers).ranks)
    classes, names = material.trained.run.store.classes, material.names(worst.numbers)
    figures = []
    for place, picture in enumerate(pictures):
        label, best = classes[int(worst.labels[place])], classes[int(worst.best[place])]
        own, other = float(worst.own[place]), float(chance[place])
        note = f"{label} {own:.1%}, predicted {best} {other:.1%}"
        figures.append(Figure((Frame(data_uri(picture), "picture"),), names[place], note))
    return Gallery(tuple(figures), style="small")


PLUGIN = Predictions
