"""How well masks can be guessed without a network: what a segmenter has to beat.

Two histograms of classes, counted on the train split and judged on another: at each pixel, and for
each id in each of 16x16 cells of the image. The metric is the task's own. Nothing is learnt here.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from seit_train.tasks.base import MaskFacts
from seit_train.tasks.segment import UNKNOWN, class_iou, confusion_matrix
from tokenstore.progress import WorkProgress
from tokenstore.reader import Split

Guess = Callable[[NDArray[np.int64]], NDArray[np.int64]]  # ranks [n,h,w] -> classes [n,H,W]

_CHUNK = 64  # images in memory at a time
_CELLS = 16


def mask_baselines(train: Split, val: Split, masks: MaskFacts, vocabulary: int) -> dict[str, float]:
    """The mIoU that two tables reach.

    Args:
        train: is counted.
        val: is judged on.
        masks: sizes and classes of both.
        vocabulary: number of ranks K.

    Returns:
        `by_place`: a pixel has the class that is commonest at its place. `by_id_and_cell`: it has
        the class that is commonest with its id in its cell; at its place where that never occurred.
    """
    with WorkProgress("guessing without a network", total=len(train) + 2 * len(val)) as progress:
        return _judged(train, val, masks, vocabulary, progress)


def _judged(
    train: Split, val: Split, masks: MaskFacts, vocabulary: int, progress: WorkProgress
) -> dict[str, float]:
    classes, (height, width) = len(masks.classes), masks.size
    pixels = np.arange(height * width).reshape(height, width)
    rows, columns = np.indices(masks.size)
    cells = rows * _CELLS // height * _CELLS + columns * _CELLS // width
    by_place = np.zeros((height * width, classes), np.int64)
    by_cell = np.zeros((vocabulary * _CELLS**2, classes), np.int64)
    for ranks, truth in _chunks(train, masks, progress):
        known = truth >= 0
        codes = _enlarged(ranks, masks.size) * _CELLS**2 + cells
        places = np.broadcast_to(pixels, truth.shape)
        for table, where in ((by_place, places), (by_cell, codes)):
            flat = where[known] * classes + truth[known]
            table += np.bincount(flat, minlength=table.size).reshape(table.shape)
    usual = by_place.argmax(axis=1)[pixels]
    likely = np.where(by_cell.any(axis=1), by_cell.argmax(axis=1), -1)

    def by_id_and_cell(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        guess = likely[_enlarged(ranks, masks.size) * _CELLS**2 + cells]
        return np.where(guess < 0, usual, guess)

    def at_its_place(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.broadcast_to(usual, (len(ranks), *usual.shape))

    return {
        "by_place": _miou(val, masks, at_its_place, progress),
        "by_id_and_cell": _miou(val, masks, by_id_and_cell, progress),
    }


def _miou(split: Split, masks: MaskFacts, guess: Guess, progress: WorkProgress) -> float:
    """Mean IoU over the classes that are there or guessed."""
    classes = len(masks.classes)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for ranks, truth in _chunks(split, masks, progress):
        guessed = torch.from_numpy(guess(ranks).copy())
        confusion += confusion_matrix(guessed, torch.from_numpy(truth), classes)
    return float(class_iou(confusion).nanmean())


def _chunks(
    split: Split, masks: MaskFacts, progress: WorkProgress
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ranks int64 [n,h,w], of several channels the first, and classes int64 [n,H,W] or -1."""
    for start in range(0, len(split), _CHUNK):
        some = np.arange(start, min(start + _CHUNK, len(split)))
        truth = np.stack(split.masks(some) or []).astype(np.int64)
        if masks.ignore is not None:
            truth[truth == masks.ignore] = UNKNOWN
        ranks = split.read(some).ranks.astype(np.int64)
        yield ranks if ranks.ndim == 3 else ranks[:, 0], truth
        progress.advance(len(some))


def _enlarged(ranks: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """The rank at each pixel: [n,h,w] -> [n,H,W]."""
    scale = size[0] // ranks.shape[1]
    return ranks.repeat(scale, axis=1).repeat(scale, axis=2)
