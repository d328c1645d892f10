"""Galleries: pictures of a folder on their way to a model, at the size at which it sees them.

    files -> [decoded: uint8 pictures] -> change (corruptions, attacks) -> batch -> model

What decodes and what makes batches differs between runs on tokens (`on_images.py`) and runs on
pixels (`on_pictures.py`); what is done in between does not.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seit_train.data import TokenBatch
from seit_train.evaluate.class_map import BY_NAME, Scope, Targets, match_folders
from seit_train.evaluate.classes import judge
from seit_train.evaluate.trained import Trained
from tokenstore.errors import UsageError
from tokenstore.progress import WorkProgress
from tokenstore.sources.base import Item, Listing


class Picture(NamedTuple):
    """An image that can be read, and the number of its target (or none)."""

    item: Item
    target: int | None


class Chosen(NamedTuple):
    """The pictures of a split that are looked at, and what their numbers mean."""

    pictures: list[Picture]
    targets: Targets


class Decoded(NamedTuple):
    """Some pictures at the size at which the model sees them.

    Attributes:
        images: uint8 [n,H,W,3].
        targets: int64 [n], or None where a picture has none.
        numbers: int64 [n], places in the listing.
        keys: names.
        masks: uint8 of each image's original size, for runs that learn from masks.
    """

    images: NDArray[np.uint8]
    targets: torch.Tensor | None
    numbers: NDArray[np.int64]
    keys: list[str]
    masks: list[NDArray[np.uint8]] | None = None


Change = Callable[[Decoded], NDArray[np.uint8]]  # new images of the same shape


class Gallery(ABC):
    """Pictures that can be gone through again and again.

    Attributes:
        targets: what the numbers of pictures mean.
        rejected: how many images of the last round could not be read.
    """

    targets: Targets
    rejected: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many images were listed."""

    @abstractmethod
    def decoded(self) -> Iterator[Decoded]:
        """All pictures in the order of the listing."""

    @abstractmethod
    def batch(self, decoded: Decoded) -> TokenBatch:
        """What the model is fed for pictures; labels are numbers of targets."""


def judge_gallery(
    trained: Trained, gallery: Gallery, change: Change | None = None, what: str = "evaluating"
) -> dict[str, Any]:
    """What a run reaches on a gallery, each picture changed before if asked.

    Returns:
        The metrics, and `rejected`: how many images could not be read.
    """
    with WorkProgress(what, total=len(gallery), unit="images") as progress:
        metrics = judge(trained, _batches(gallery, change, progress), gallery.targets)
    return {**metrics, "rejected": gallery.rejected}


def _batches(
    gallery: Gallery, change: Change | None, progress: WorkProgress
) -> Iterator[TokenBatch]:
    for decoded in gallery.decoded():
        if change is not None:
            decoded = decoded._replace(images=change(decoded))
        yield gallery.batch(decoded)
        progress.advance(len(decoded.images))


def choose_pictures(
    trained: Trained, listing: Listing, split: str | None, scope: Scope = BY_NAME
) -> Chosen:
    """The images of one split, with the numbers of their targets where the run uses labels.

    Raises:
        UsageError: no such split, or a class folder that stands for none of the run's classes.
    """
    if split is None:
        split = "val" if "val" in listing.splits else next(iter(listing.splits))
    if split not in listing.splits:
        there = ", ".join(listing.splits)
        raise UsageError(f"the images have no split '{split}', only: {there}")
    items, classes = listing.splits[split], trained.run.store.classes
    if not trained.task.uses_labels:
        return Chosen(_sampled([Picture(item, None) for item in items], scope), Targets.of(()))
    folders = listing.classes or ()
    used = sorted({item.label for item in items if item.label is not None})
    numbers, targets = match_folders([folders[label] for label in used], classes, scope)
    pictures = []
    for item in items:
        number = None if item.label is None else numbers[folders[item.label]]
        if item.label is None or number is not None:
            pictures.append(Picture(item, number))
    return Chosen(_sampled(pictures, scope), targets)


def _sampled(pictures: list[Picture], scope: Scope) -> list[Picture]:
    """As many pictures as asked for, in the order of the listing."""
    if scope.sample is None or scope.sample >= len(pictures):
        return pictures
    drawn = np.random.default_rng(scope.seed).permutation(len(pictures))[: scope.sample]
    return [pictures[number] for number in np.sort(drawn)]


def stacked_targets(pictures: list[Picture]) -> torch.Tensor | None:
    """Int64 [n], or None where a picture has none."""
    known = [picture.target for picture in pictures if picture.target is not None]
    return torch.tensor(known) if len(known) == len(pictures) else None
