"""The sample that a report is measured on: images of one split, drawn evenly and always the same.

Three quarters of it teach the codecs their tables, the last quarter measures them, so that no codec
is judged by images that it has seen. A store may be of any size; no more than the sample is held.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Ranks
from tokenstore.errors import UsageError
from tokenstore.reader import Split, Store

AT_ONCE = 256  # images read in one call
HELD_OUT = 4  # of so many images one is measured, the others are for fitting


@dataclass(frozen=True)
class Sampled:
    """Images of a split: numbers int64 [n] ascending, ranks uint16 [n, *grid], labels or None."""

    split: Split
    numbers: NDArray[np.int64]
    ranks: Ranks
    labels: NDArray[np.int64] | None

    @property
    def measured(self) -> Ranks:
        """The grids that sizes are measured on."""
        return np.ascontiguousarray(self.ranks[::HELD_OUT])

    @property
    def fitted(self) -> Ranks:
        """The others, which tables are fitted on; none of a single image."""
        fitted: Ranks = self.ranks[np.arange(len(self.ranks)) % HELD_OUT != 0]
        return fitted


def chosen_split(store: Store, name: str | None) -> Split:
    """The split of this name; without one `train`, or the first split that holds images.

    Raises:
        UnknownName: there is no split of this name.
        UsageError: the store has no split at all.
    """
    if name is not None:
        return store[name]
    if not store.splits:
        raise UsageError(f"'{store.url}' has no split, so there is nothing to report on")
    return next((split for split in store.values() if len(split)), next(iter(store.values())))


def chunks(split: Split, most: int) -> int:
    """How often `draw` calls back."""
    return -(-min(len(split), most) // AT_ONCE)


def draw(split: Split, most: int, on_chunk: Callable[[], None]) -> Sampled:
    """Read at most `most` images, spread over the whole split.

    Raises:
        CorruptStore: bytes differ from what the store promises; names the place.
    """
    count = len(split)
    if most < count:  # no array of all numbers: a split may have a thousand million
        rng = np.random.default_rng(0)
        numbers = np.sort(rng.choice(count, most, replace=False, shuffle=False))
    else:
        numbers = np.arange(count)
    ranks = np.empty((len(numbers), *split.store.manifest.grid), np.uint16)
    labels = np.empty(len(numbers), np.int64) if split.classes is not None else None
    for start in range(0, len(numbers), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        batch = split.read(numbers[rows], out=ranks[rows])
        if labels is not None and batch.labels is not None:
            labels[rows] = batch.labels
        on_chunk()
    return Sampled(split, numbers, ranks, labels)


def record_sizes(sampled: Sampled) -> NDArray[np.int64]:
    """Bytes of each record of the sample as it lies in the store, its check among them, int64 [n].

    Raises:
        CorruptStore: an index page is damaged.
    """
    sizes = [np.zeros(0, np.int64)]
    for part in sampled.split.shards.find(sampled.numbers).parts:
        starts, ends = part.shard.index.locate("ranks", part.samples)
        sizes.append(ends - starts)
    return np.concatenate(sizes)
