"""Evaluation on pictures: through the tokenizer and preprocessing of the store, to ranks.

A model knows the codes of its vocabulary only, so the tokenizer searches these and no others, as it
does in `tokenstore build --vocabulary`. Labels are the names of class folders, matched with the
classes of the run.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seit_train.data import TokenBatch
from seit_train.evaluate.trained import Trained
from seit_train.run import StoreIdentity
from tokenstore.errors import ImageRejected, UsageError
from tokenstore.preprocess import Preprocess
from tokenstore.progress import WorkProgress
from tokenstore.sources import open_source
from tokenstore.sources.base import Item, Listing, Source
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer

_BATCH = 64
_DECODERS = 4


class Picture(NamedTuple):
    """An image that can be read, and its label in the classes of the run (or none)."""

    item: Item
    label: int | None


def evaluate_images(
    trained: Trained,
    folder: Path,
    split: str | None = None,
    weights: str | None = None,
    config: str | None = None,
) -> dict[str, Any]:
    """Metrics over a folder of pictures.

    Args:
        trained: the model.
        folder: class folders, a folder with train/ val/ ..., or a plain folder.
        split: which of its splits; None takes val where there is one, else the only one.
        weights: file or URL of the tokenizer's weights; None means the tokenizer's own place.
        config: file of its architecture, for weights that cannot tell it.

    Returns:
        The metrics, and `rejected`: how many images could not be read.

    Raises:
        Mismatch: other weights or settings than those that made the store.
        TokenizerError: a tokenizer that cannot search some of its codes only.
        UsageError: class folders that the run does not know, or a split that is not there.
    """
    source = open_source(str(folder))
    known = trained.run.store
    classes = known.classes if trained.task.uses_labels else None
    pictures = labelled_pictures(source.listing(), classes, split)
    device = trained.world.device
    tokenizer = load_run_tokenizer(known, device, weights, config)
    tokenizer.restrict(known.vocabulary.ids)
    with WorkProgress("evaluating", total=len(pictures), unit="images") as progress:
        batches = TokenizedPictures(source, pictures, tokenizer, known, device, progress)
        metrics = trained.judge(batches)
    return {**metrics, "rejected": batches.rejected}


def labelled_pictures(
    listing: Listing, classes: tuple[str, ...] | None, split: str | None
) -> list[Picture]:
    """The images of one split, labelled by the names of the run's classes; None asks for no labels.

    Raises:
        UsageError: no such split, or a class folder that is none of the run's classes.
    """
    if split is None:
        split = "val" if "val" in listing.splits else next(iter(listing.splits))
    if split not in listing.splits:
        there = ", ".join(listing.splits)
        raise UsageError(f"the images have no split '{split}', only: {there}")
    items, names = listing.splits[split], listing.classes or ()
    if classes is None:
        return [Picture(item, None) for item in items]
    labels = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise UsageError(
            f"class folder '{unknown[0]}' is none of the classes of the run "
            f"({', '.join(classes[:5])}, ...). Rename it, or evaluate without it."
        )
    return [
        Picture(item, None if item.label is None else labels[names[item.label]]) for item in items
    ]


def load_run_tokenizer(
    known: StoreIdentity, device: torch.device, weights: str | None, config: str | None
) -> Tokenizer:
    """The tokenizer that made the run's store, with its preprocessing.

    Raises:
        UsageError: the store did not say which it was.
        Mismatch: the weights or settings found are others.
    """
    if not known.preprocess:
        raise UsageError(f"store '{known.place}' does not say which tokenizer made its tokens")
    tokenizer = load_tokenizer(
        known.tokenizer["name"],
        weights,
        config=config,
        device=str(device),
        preprocess=Preprocess.from_json(dict(known.preprocess)),
    )
    tokenizer.check_made("the store of this run", known.tokenizer)
    return tokenizer


class TokenizedPictures:
    """Pictures as batches of ranks; counts what could not be read."""

    def __init__(
        self,
        source: Source,
        pictures: list[Picture],
        tokenizer: Tokenizer,
        known: StoreIdentity,
        device: torch.device,
        progress: WorkProgress,
    ) -> None:
        """Prepare; nothing is read before the first batch is asked for."""
        self._source, self._pictures, self._tokenizer = source, pictures, tokenizer
        self._device, self._progress = device, progress
        self._vocabulary = known.vocabulary
        self.rejected = 0

    def __iter__(self) -> Iterator[TokenBatch]:
        """Batches of up to 64 images in the order of the listing."""
        with ThreadPoolExecutor(_DECODERS) as pool:
            for start in range(0, len(self._pictures), _BATCH):
                some = self._pictures[start : start + _BATCH]
                decoded = list(pool.map(self._decode, some))
                good = [number for number, array in enumerate(decoded) if array is not None]
                self.rejected += len(some) - len(good)
                if good:
                    images = np.stack([array for array in decoded if array is not None])
                    yield self._batch(images, [some[n] for n in good], start + np.array(good))
                self._progress.advance(len(some))

    def _decode(self, picture: Picture) -> NDArray[np.uint8] | None:
        try:
            return self._tokenizer.preprocess(self._source.load(picture.item))
        except ImageRejected:
            return None

    def _batch(
        self, images: NDArray[np.uint8], pictures: list[Picture], index: NDArray[np.int64]
    ) -> TokenBatch:
        # The model's autocast surrounds the iteration; in it the tokenizer would give other ids.
        with torch.autocast(self._device.type, enabled=False):
            ids = self._tokenizer.encode(images)
        ranks = torch.from_numpy(self._vocabulary.to_ranks(ids.numpy()).astype(np.int64))
        known = [picture.label for picture in pictures if picture.label is not None]
        labels = torch.tensor(known) if len(known) == len(pictures) else None
        return TokenBatch(
            ranks=ranks.to(self._device),
            labels=None if labels is None else labels.to(self._device),
            valid=torch.ones(len(images), dtype=torch.bool, device=self._device),
            index=torch.from_numpy(index).to(self._device),
            keys=[picture.item.key for picture in pictures],
        )
