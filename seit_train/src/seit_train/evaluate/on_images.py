"""Evaluation on pictures: through the tokenizer and preprocessing of the store, to ranks.

A model knows the codes of its vocabulary only, so the tokenizer searches these and no others, as it
does in `tokenstore build --vocabulary`. Labels are the names of class folders, matched with the
classes of the run (`class_map.py`); masks lie beside the images.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seit_train.data import TokenBatch
from seit_train.evaluate.class_map import BY_NAME, Scope
from seit_train.evaluate.gallery import (
    Chosen,
    Decoded,
    Gallery,
    Picture,
    choose_pictures,
    judge_gallery,
    stacked_targets,
)
from seit_train.evaluate.trained import Trained
from seit_train.run import StoreIdentity
from tokenstore.errors import ImageRejected, Mismatch, UsageError
from tokenstore.preprocess import Preprocess
from tokenstore.sources import open_source
from tokenstore.sources.base import Listing, Source
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer

_BATCH = 64
_DECODERS = 4


@dataclass(frozen=True)
class TokenizerFiles:
    """Where the tokenizer's files lie, if not in its own place.

    Attributes:
        weights: file or URL of its weights.
        config: file of its architecture, for weights that cannot tell it.
    """

    weights: str | None = None
    config: str | None = None


OWN_PLACE = TokenizerFiles()


def evaluate_images(
    trained: Trained,
    folder: Path,
    split: str | None = None,
    files: TokenizerFiles = OWN_PLACE,
    scope: Scope = BY_NAME,
) -> dict[str, Any]:
    """Metrics over a folder of pictures; see `open_gallery` and `judge_gallery`."""
    return judge_gallery(trained, open_gallery(trained, folder, split, files, scope))


def open_gallery(
    trained: Trained,
    folder: Path,
    split: str | None = None,
    files: TokenizerFiles = OWN_PLACE,
    scope: Scope = BY_NAME,
) -> "TokenGallery":
    """The pictures of a folder, for a run on tokens.

    Args:
        trained: the model.
        folder: class folders, a folder with train/ val/ ..., images with masks, or a plain folder.
        split: which of its splits; None takes val where there is one, else the only one.
        files: of the tokenizer.
        scope: how folders and classes are matched.

    Raises:
        Mismatch: other weights or settings than those that made the store, or other classes of
            masks than those of the run.
        TokenizerError: a tokenizer that cannot search some of its codes only.
        UsageError: class folders that the run does not know, or a split that is not there.
    """
    source, known = open_source(str(folder)), trained.run.store
    listing = source.listing()
    if trained.task.uses_masks:
        refuse_other_masks(trained, listing, folder)
    chosen = choose_pictures(trained, listing, split, scope)
    tokenizer = load_run_tokenizer(known, trained.world.device, files.weights, files.config)
    tokenizer.restrict(known.vocabulary.ids)
    return TokenGallery(trained, source, chosen, tokenizer)


def refuse_other_masks(trained: Trained, listing: Listing, folder: Path) -> None:
    """Refuse pictures without masks, or with masks that mean something else.

    Raises:
        UsageError: there are no masks.
        Mismatch: classes or ignore index are not those of the run.
    """
    known = trained.run.store
    masked = any(item.mask is not None for items in listing.splits.values() for item in items)
    if not masked:
        raise UsageError(
            f"run '{trained.run.folder}' learnt from masks, and '{folder}' has none. Give a folder "
            "with images/ and masks/ in it."
        )
    ours = known.classes, (known.masks or {}).get("ignore_index")
    theirs = tuple(listing.classes or ()), listing.ignore_index
    if ours != theirs:
        raise Mismatch(
            f"run '{trained.run.folder}' knows the mask classes {', '.join(ours[0][:5])} ... "
            f"({len(ours[0])}, ignored {ours[1]}), and '{folder}' has {', '.join(theirs[0][:5])} "
            f"... ({len(theirs[0])}, ignored {theirs[1]}). Put the classes.json of the images that "
            "the run learnt from into it."
        )


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


class TokenGallery(Gallery):
    """Pictures for a run on tokens; counts what could not be read.

    Attributes:
        tokenizer: the store's own, searching the codes of its vocabulary.
    """

    def __init__(
        self, trained: Trained, source: Source, chosen: Chosen, tokenizer: Tokenizer
    ) -> None:
        """Prepare; nothing is read before the first batch is asked for."""
        self._source, self._pictures, self.targets = source, chosen.pictures, chosen.targets
        self.tokenizer, self._trained = tokenizer, trained

    def __len__(self) -> int:
        """See `Gallery.__len__`."""
        return len(self._pictures)

    def decoded(self) -> Iterator[Decoded]:
        """Up to 64 pictures at a time."""
        self.rejected = 0
        with ThreadPoolExecutor(_DECODERS) as pool:
            for start in range(0, len(self._pictures), _BATCH):
                some = self._pictures[start : start + _BATCH]
                read = list(pool.map(self._decode, some))
                good = [number for number, one in enumerate(read) if one is not None]
                self.rejected += len(some) - len(good)
                if not good:
                    continue
                images, masks = zip(*(one for one in read if one is not None), strict=True)
                left = [some[number] for number in good]
                yield Decoded(
                    np.stack(images),
                    stacked_targets(left),
                    start + np.array(good),
                    [picture.item.key for picture in left],
                    list(masks) if self._trained.task.uses_masks else None,
                )

    def batch(self, decoded: Decoded) -> TokenBatch:
        """See `Gallery.batch`; masks are of the size that the store has."""
        device, masks = self._trained.world.device, None
        # The model's autocast surrounds the iteration; in it the tokenizer would give other ids.
        with torch.autocast(device.type, enabled=False):
            ids = self.tokenizer.encode(decoded.images)
        ranks = self._trained.run.store.vocabulary.to_ranks(ids.numpy()).astype(np.int64)
        if decoded.masks is not None:
            resize = self.tokenizer.preprocessing.apply_to_mask
            masks = torch.from_numpy(np.stack([resize(mask) for mask in decoded.masks])).to(device)
        return TokenBatch(
            ranks=torch.from_numpy(ranks).to(device),
            labels=None if decoded.targets is None else decoded.targets.to(device),
            valid=torch.ones(len(ranks), dtype=torch.bool, device=device),
            index=torch.from_numpy(decoded.numbers).to(device),
            keys=decoded.keys,
            masks=masks,
        )

    def _decode(
        self, picture: Picture
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | None:
        """A picture as the tokenizer takes it, and its mask; None where either is broken."""
        try:
            image = self._source.load(picture.item)
            mask = self._source.load_mask(picture.item) if self._trained.task.uses_masks else None
        except ImageRejected:
            return None
        if mask is not None and mask.shape != (image.height, image.width):
            return None
        return self.tokenizer.preprocess(image), mask
