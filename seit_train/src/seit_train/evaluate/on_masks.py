"""Segmentation at the size of the original masks, beside that of the store's.

Logits of the picture that the model saw are resized to the part of the original that it shows
(bilinear), before the classes are chosen. What a crop leaves out was never seen: such pixels count
nowhere, and `shown` says which share of all the others are.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seit_train.data import TokenBatch
from seit_train.evaluate.gallery import Change, Decoded
from seit_train.evaluate.on_images import TokenGallery
from seit_train.evaluate.trained import Trained
from seit_train.tasks.segment import UNKNOWN, Segmentation, class_iou, confusion_matrix
from tokenstore.preprocess import BOXES, Preprocess
from tokenstore.progress import WorkProgress


def evaluate_masks(
    trained: Trained, gallery: TokenGallery, change: Change | None = None, what: str = "evaluating"
) -> dict[str, Any]:
    """The task's metrics at the size of the store, and under `original` those at the masks' own.

    Raises:
        UsageError: there is no image to judge by.
    """
    figures = OriginalSize(trained, gallery.tokenizer.preprocessing)
    with WorkProgress(what, total=len(gallery), unit="images") as progress:
        metrics = trained.judge(figures.watch(gallery, change, progress))
    return {**metrics, "original": figures.result(), "rejected": gallery.rejected}


class OriginalSize:
    """Counts right and wrong pixels of the original masks."""

    def __init__(self, trained: Trained, preprocess: Preprocess) -> None:
        """Begin with nothing."""
        if not isinstance(trained.task, Segmentation):
            raise TypeError(f"expected a task that predicts masks, got {trained.task.name}")
        self._task, self._model, self._preprocess = trained.task, trained.model, preprocess
        classes = len(self._task.masks.classes)
        device = trained.world.device
        self._confusion = torch.zeros(classes, classes, dtype=torch.float64, device=device)
        self._shown = self._pixels = 0

    def watch(
        self, gallery: TokenGallery, change: Change | None, progress: WorkProgress
    ) -> Iterator[TokenBatch]:
        """The batches of a gallery, each judged here on its way."""
        for decoded in gallery.decoded():
            if change is not None:
                decoded = decoded._replace(images=change(decoded))
            batch = gallery.batch(decoded)
            self._count(batch, decoded)
            yield batch
            progress.advance(len(decoded.images))

    def result(self) -> dict[str, Any]:
        """`miou`, `pixel_accuracy`, `iou` by class, and `shown`, the share of pixels in crops."""
        iou = class_iou(self._confusion)
        named = zip(self._task.masks.classes, iou.tolist(), strict=True)
        return {
            "miou": float(iou.nanmean()),
            "pixel_accuracy": float(self._confusion.trace() / self._confusion.sum()),
            "iou": {name: share for name, share in named if not math.isnan(share)},
            "shown": self._shown / max(1, self._pixels),
        }

    def _count(self, batch: TokenBatch, decoded: Decoded) -> None:
        logits = self._task.predict(self._model, batch.ranks)
        for one, mask in zip(logits, decoded.masks or (), strict=True):
            truth = self._shown_part(mask)
            self._shown += truth.size
            self._pixels += mask.size
            targets = torch.from_numpy(truth.astype(np.int64)).to(one.device)[None]
            if self._task.masks.ignore is not None:
                targets = targets.where(targets != self._task.masks.ignore, UNKNOWN)
            guess = resized(one, (truth.shape[0], truth.shape[1])).argmax(dim=0)[None]
            self._confusion += confusion_matrix(guess, targets, len(self._confusion))

    def _shown_part(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the picture shows of a mask [H,W], to the nearest pixel."""
        box = BOXES[self._preprocess.rule]((mask.shape[0], mask.shape[1]), self._preprocess.size)
        left, top, right, bottom = (round(side) for side in box)
        return mask[top:bottom, left:right]


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Float [classes,H,W] -> [classes,*size], bilinear."""
    return functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
