"""A trained model beside images of its store, ready to be looked at; or why that cannot be.

Sections get one `Material` each run and ask it for batches and for pictures of ranks. Without the
tokenizer's weights pictures show tokens as colours, as the report of a store does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seit_train.checkpoint import has_checkpoint
from seit_train.data import TokenBatch
from seit_train.evaluate.on_store import matching_split
from seit_train.evaluate.trained import Trained, load_trained
from seit_train.report.compared import store_name
from seit_train.report.records import RunRecord
from tokenstore.errors import Mismatch, StoreError, TokenstoreError, UnknownName
from tokenstore.reader import Split, Store
from tokenstore.report.decoding import NO_PICTURES, load_decoder, problem_of
from tokenstore.report.gallery import code_colours, token_picture

Pictures = NDArray[np.uint8]  # [n, H, W, 3]

_MOST_AT_ONCE = 256
_DECODED = 16  # pictures decoded at a time
_TOKEN_PIXELS = 8  # side of a token that is shown as a colour


@dataclass
class Lookups:
    """Where stores are looked for: those asked for, then a run's own; remembers which served."""

    stores: Sequence[str]
    split: str
    served: set[str] = field(default_factory=set)

    def split_for(self, trained: Trained) -> Split:
        """The first split that fits a run.

        Raises:
            StoreError: the store of the run is not where it was.
            Mismatch: what is there now is another store.
            UnknownName: the store has no such split.
        """
        for place in self.stores:
            try:
                split = matching_split(trained, place, self.split)
            except Mismatch:
                continue
            self.served.add(place)
            return split
        return matching_split(trained, trained.run.store.place, self.split)

    def refuse_useless(self) -> None:
        """Refuse a store that was asked for and fits no run: it was meant for one.

        Raises:
            Mismatch: there is one.
        """
        for place in self.stores:
            if place not in self.served:
                raise Mismatch(
                    f"store '{place}' fits none of these runs that has a checkpoint: vocabulary, "
                    "grid or classes differ. Leave out --store, or name the store of a run."
                )


class Painter:
    """Ranks to pictures: decoded, or tokens as colours where there is no tokenizer."""

    def __init__(self, store: Store, tokenizer: Any | None) -> None:
        """Paint for one store."""
        self._store, self._tokenizer = store, tokenizer
        self._colours = code_colours(store.codebook, len(store.vocabulary))

    def __call__(self, ranks: Tensor) -> Pictures:
        """Int64 [n,h,w] -> uint8 [n,H,W,3]."""
        grids = ranks.cpu().numpy()
        if self._tokenizer is None:
            small = np.stack([token_picture(grid, self._colours) for grid in grids])
            return small.repeat(_TOKEN_PIXELS, axis=1).repeat(_TOKEN_PIXELS, axis=2)
        some = (grids[start : start + _DECODED] for start in range(0, len(grids), _DECODED))
        tokenizer = self._tokenizer
        decoded = [tokenizer.to_uint8(tokenizer.decode(self._store.ids(few))) for few in some]
        return np.concatenate(decoded)


@dataclass(frozen=True)
class Material:
    """A trained model, a split whose ranks it knows, and a painter for them."""

    trained: Trained
    split: Split
    painter: Painter

    def numbers(self, most: int) -> NDArray[np.int64]:
        """At most so many sample numbers, spread evenly over the split."""
        count = min(most, len(self.split))
        return np.linspace(0, len(self.split) - 1, count).round().astype(np.int64)

    def batch(self, numbers: NDArray[np.int64]) -> TokenBatch:
        """These samples, on the model's device."""
        device, read = self.trained.world.device, self.split.read(numbers)
        labels = None if read.labels is None else torch.from_numpy(read.labels).to(device)
        return TokenBatch(
            ranks=torch.from_numpy(read.ranks.astype(np.int64)).to(device),
            labels=labels,
            valid=torch.ones(len(numbers), dtype=torch.bool, device=device),
            index=torch.from_numpy(numbers).to(device),
            keys=self.names(numbers),
        )

    def batches(self, numbers: NDArray[np.int64]) -> Iterator[TokenBatch]:
        """The same, as many at a time as evaluation takes: in bf16 that can decide a close call."""
        size = min(self.trained.run.config.batch_size, _MOST_AT_ONCE)
        for start in range(0, len(numbers), size):
            yield self.batch(numbers[start : start + size])

    def paint(self, ranks: Tensor, size: tuple[int, int]) -> Pictures:
        """Pictures of the centre crops of `size` of whole grids, int64 [n,*grid] -> [n,H,W,3].

        Whole grids are painted and cut, since not every tokenizer decodes a part.
        """
        pictures = self.painter(ranks)
        places = []
        for axis, (whole, side) in enumerate(zip(ranks.shape[-2:], size, strict=True), start=1):
            pixels = pictures.shape[axis] // whole
            start = (whole - side) // 2 * pixels
            places.append(slice(start, start + side * pixels))
        return np.ascontiguousarray(pictures[:, places[0], places[1]])

    def names(self, numbers: NDArray[np.int64]) -> list[str]:
        """What these samples are called: their keys, or their numbers."""
        keys = self.split.keys(numbers)
        return keys if keys is not None else [f"sample {number}" for number in numbers.tolist()]


def gather(
    record: RunRecord, lookups: Lookups, weights: str | None, config: str | None
) -> tuple[Material | None, list[str], list[str]]:
    """What can be looked at of a run.

    Returns:
        The material, or None; what is missing, in words for the page; and in words for here.

    Raises:
        TokenizerError: the weights that were given are not those of the store.
    """
    if not record.run.task.reads_ranks:
        return None, ["It reads pictures and not a store, so only its curves are here."], []
    if not (has_checkpoint(record.run.best) or has_checkpoint(record.run.last)):
        return None, ["It has no checkpoint yet, so only its curves are here."], []
    try:
        trained = load_trained(record.run.folder)
        split = lookups.split_for(trained)
    except TokenstoreError as error:
        return None, [_absent(record, error, lookups)], [str(error)]
    if not len(split):
        return None, [f"The split '{split.name}' of its store is empty: only curves."], []
    try:
        tokenizer = load_decoder(split.store, weights, config)
    except NO_PICTURES as error:
        if weights is not None or config is not None:
            raise  # what was asked for must serve
        problem = f"{problem_of(split.store, error)} Pictures show tokens as colours."
        return Material(trained, split, Painter(split.store, None)), [problem], [str(error)]
    return Material(trained, split, Painter(split.store, tokenizer)), [], []


def _absent(record: RunRecord, error: TokenstoreError, lookups: Lookups) -> str:
    """Why there are only curves, without a path of this machine."""
    name = PurePath(store_name(record.run.store.place)).name
    if isinstance(error, UnknownName):
        return f"Its store '{name}' has no split '{lookups.split}': only curves."
    if isinstance(error, Mismatch):
        return f"The store '{name}' is another one now: only curves. --store names the run's."
    if isinstance(error, StoreError):
        return f"Its store '{name}' cannot be read from here: only curves. --store names it."
    return f"Its checkpoint cannot be used ({type(error).__name__}): only curves."
