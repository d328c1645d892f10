"""What a segmenter paints: image | truth | prediction, and the IoU of each class.

For every task that has `predict` and knows masks. Whole images are judged, as in evaluation.
"""

import colorsys
import math
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seit_train.evaluate.trained import Trained
from seit_train.report.blocks import Figure, Frame, Gallery, Table, Text
from seit_train.report.material import Material
from seit_train.report.sections.base import Findings, Section
from seit_train.tasks.base import MaskFacts
from seit_train.tasks.segment import UNKNOWN, class_iou, confusion_matrix
from tokenstore.report.gallery import data_uri

SHOWN = 6
MOST = 64  # images whose every pixel is predicted: more take long and change little
_GOLDEN = 0.618034  # turns of the colour circle from one class to the next


@runtime_checkable
class Segments(Protocol):
    """A task that says of every pixel how likely each class is."""

    masks: MaskFacts

    def predict(self, model: nn.Module, ranks: Tensor) -> Tensor:
        """Logits of whole images: int64 [B,h,w] -> float32 [B,classes,H,W]."""


class Segmentations(Section):
    """Sheets of a few images, and a table of classes."""

    title = "Segmentation"
    order = 15

    @classmethod
    def serves(cls, trained: Trained) -> bool:
        """Tasks that predict masks."""
        return isinstance(trained.task, Segments)

    @classmethod
    def look(cls, material: Material, sample: int) -> Findings:
        """Predict some images, spread evenly over the split."""
        task = cast(Segments, material.trained.task)
        numbers = material.numbers(min(MOST, sample))
        guesses, truth = _predicted(material, numbers)
        iou = class_iou(confusion_matrix(guesses, truth, len(task.masks.classes)))
        mean = float(iou.nanmean())
        known = truth != UNKNOWN
        right = float((guesses == truth)[known].double().mean())
        few = np.linspace(0, len(numbers) - 1, min(SHOWN, len(numbers))).astype(int)
        text = (
            f"Of {len(numbers):,} images of {material.split.name} (of {len(material.split):,}), "
            f"{right:.1%} of the pixels whose class is known are right; the mean IoU is {mean:.1%}."
        )
        gallery = _sheets(material, numbers[few], guesses[few], truth[few])
        table = _table(task.masks.classes, iou, truth)
        facts = {"images": len(numbers), "miou": mean, "pixel_accuracy": right}
        return Findings((Text(text), gallery, table), facts)


def class_colours(count: int) -> NDArray[np.uint8]:
    """A colour for each class, uint8 [count,3], the same in every report; neighbours differ."""
    hues = [(number * _GOLDEN) % 1 for number in range(count)]
    light = [(0.85, 0.62, 0.98)[number % 3] for number in range(count)]
    rgb = [colorsys.hsv_to_rgb(hue, 0.6, value) for hue, value in zip(hues, light, strict=True)]
    return (np.array(rgb).reshape(-1, 3) * 255).astype(np.uint8)


def painted(masks: Tensor, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Int64 [n,H,W] -> uint8 [n,H,W,3]; pixels of no known class are black."""
    with_black = np.concatenate([colours, np.zeros((1, 3), np.uint8)])
    pictures: NDArray[np.uint8] = with_black[masks.numpy()]  # -1 is the last
    return pictures


def _predicted(material: Material, numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Predicted and true classes of every pixel, int64 [n,H,W], UNKNOWN where nobody knows."""
    trained = material.trained
    task = cast(Segments, trained.task)
    with trained.computing():
        guesses = [
            task.predict(trained.model, batch.ranks).argmax(dim=1).cpu()
            for batch in material.batches(numbers)
        ]
    masks = torch.from_numpy(np.stack(material.split.masks(numbers) or [])).long()
    ignore = task.masks.ignore
    truth = masks if ignore is None else masks.where(masks != ignore, UNKNOWN)
    return torch.cat(guesses), truth


def _sheets(
    material: Material, numbers: NDArray[np.int64], guesses: Tensor, truth: Tensor
) -> Gallery:
    colours = class_colours(len(cast(Segments, material.trained.task).masks.classes))
    columns = {
        "image": material.painter(material.batch(numbers).ranks),
        "truth": painted(truth, colours),
        "prediction": painted(guesses, colours),
    }
    figures = []
    for place, name in enumerate(material.names(numbers)):
        frames = tuple(
            Frame(data_uri(some[place], "JPEG" if what == "image" else "PNG"), what)
            for what, some in columns.items()
        )
        known = truth[place] != UNKNOWN
        share = float((guesses[place] == truth[place])[known].double().mean())
        figures.append(Figure(frames, name, f"{share:.0%} of its pixels right"))
    return Gallery(tuple(figures))


def _table(classes: tuple[str, ...], iou: Tensor, truth: Tensor) -> Table:
    """Classes by their share of the pixels, the largest first."""
    counts = torch.bincount(truth[truth != UNKNOWN], minlength=len(classes)).double()
    shares = (counts / counts.sum().clamp(min=1)).tolist()
    order = sorted(range(len(classes)), key=lambda number: -shares[number])
    rows = tuple(
        (
            classes[number],
            f"{shares[number]:.1%}",
            "neither there nor predicted"
            if math.isnan(float(iou[number]))
            else f"{iou[number]:.1%}",
        )
        for number in order
    )
    return Table("Classes", ("class", "share of the pixels", "IoU"), rows)


PLUGIN = Segmentations
