"""Evaluation of a run on pixels: the pictures of a folder, as its validation saw them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from seit_train.data import TokenBatch, iterate
from seit_train.evaluate.class_map import BY_NAME, Scope
from seit_train.evaluate.gallery import Chosen, Decoded, Gallery, choose_pictures
from seit_train.evaluate.trained import Trained
from seit_train.pictures import PictureSplit
from tokenstore.sources import open_source


def open_pixel_gallery(
    trained: Trained, folder: Path, split: str | None, scope: Scope = BY_NAME
) -> "PixelGallery":
    """The pictures of a folder, for a run on pixels.

    Args:
        trained: a model that reads pictures.
        folder: class folders, or a folder with train/ val/ ...
        split: which of its splits; None takes val where there is one, else the only one.
        scope: how folders and classes are matched.

    Raises:
        UsageError: class folders that the run does not know, or a split that is not there.
    """
    source = open_source(str(folder))
    listing = source.listing()
    chosen = choose_pictures(trained, listing, split, scope)
    items = tuple(item._replace(label=target) for item, target in chosen.pictures)
    return PixelGallery(
        trained, PictureSplit(split or "val", source, items, listing.sha256()), chosen
    )


class PixelGallery(Gallery):
    """Pictures for a run on pixels; one that cannot be read is an error, as it is in training."""

    def __init__(self, trained: Trained, split: PictureSplit, chosen: Chosen) -> None:
        """Prepare; nothing is read before the first batch is asked for."""
        self._trained, self._split, self.targets = trained, split, chosen.targets

    def __len__(self) -> int:
        """See `Gallery.__len__`."""
        return len(self._split)

    def decoded(self) -> Iterator[Decoded]:
        """As many pictures at a time as a batch of the run has.

        Raises:
            TrainingError: a picture that cannot be read.
        """
        trained = self._trained
        for batch in iterate(trained.task.evaluation_batches(self._split, trained.world)):
            valid = batch.valid
            index = batch.index[valid].cpu().numpy()
            images = batch.ranks[valid].permute(0, 2, 3, 1).cpu().numpy()
            labels = None if batch.labels is None else batch.labels[valid].cpu()
            yield Decoded(images, labels, index, self._split.keys(index) or [])

    def batch(self, decoded: Decoded) -> TokenBatch:
        """See `Gallery.batch`."""
        device = self._trained.world.device
        images = torch.from_numpy(np.ascontiguousarray(decoded.images.transpose(0, 3, 1, 2)))
        return TokenBatch(
            ranks=images.to(device),
            labels=None if decoded.targets is None else decoded.targets.to(device),
            valid=torch.ones(len(images), dtype=torch.bool, device=device),
            index=torch.from_numpy(decoded.numbers).to(device),
            keys=decoded.keys,
        )
