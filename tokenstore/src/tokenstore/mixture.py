"""Mixtures: several stores read as one split, each with a share of its own.

    MixedSplit   the samples of several splits, one after the other, under one run of numbers
    Mixture      an order over it that draws from each split in exact proportion to its weight

Ranks mean codes only together with a vocabulary, so the stores must share one, or the vocabularies
must be beginnings of the longest. Anything else is refused; nothing is renamed in passing.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenstore.codecs.base import Ranks
from tokenstore.errors import Mismatch, OutOfRange, UsageError
from tokenstore.manifest import Manifest
from tokenstore.order import Numbers, mixed, permuted
from tokenstore.reader import Batch, Split, Store

_RUN = 256  # positions within which the shares are kept exactly, if no weight is very small
_RUNS, _SAMPLES = np.array([7]), np.array([8])  # what a derived seed is for


def tempered(sizes: Sequence[int], temperature: float) -> tuple[float, ...]:
    """Weights of splits by size: n^(1 / temperature), scaled to sum to 1.

    Temperature 1 keeps the proportions of the sizes, a high one evens them out.

    Raises:
        UsageError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise UsageError(f"a temperature is above 0, got {temperature}")
    largest = max(sizes)
    powers = [(size / largest) ** (1 / temperature) for size in sizes]
    return tuple(power / sum(powers) for power in powers)


@dataclass(frozen=True)
class Mixture:
    """Draws from several splits in proportion to their weights, exactly.

    After any number of whole runs of `run` positions since epoch 0, each split has had its share of
    them to within one image, and at any moment to within a run. Where in a run which split comes
    is random. Each split is gone through in shuffled passes of its own: all of
    its images once before any comes again, however the epochs of the mixture fall.

    Attributes:
        sizes: images of each split, as they stand in the `MixedSplit`.
        weights: their shares; only the proportions count.
        seed: with the position since epoch 0, decides the order.
        length: positions of an epoch; None means as many as there are images.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int
    length: int | None = None

    def __post_init__(self) -> None:
        """Refuse weights that no order can keep."""
        usable = all(math.isfinite(weight) and weight > 0 for weight in self.weights)
        if not usable or len(self.weights) != len(self.sizes) or min(self.sizes, default=0) < 1:
            raise UsageError(
                f"a mixture takes one weight above 0 for each of its splits, none of them empty; "
                f"got weights {list(self.weights)} for splits of {list(self.sizes)} images"
            )

    def __len__(self) -> int:
        """See `Order`."""
        return sum(self.sizes) if self.length is None else self.length

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        runs, places = np.divmod(epoch * len(self) + positions, self.run)
        before, after = self._drawn(runs * self.run), self._drawn((runs + 1) * self.run)
        ends = np.cumsum(after - before, axis=0)  # of the splits within the run, [splits, m]
        slots = permuted(places, np.array([self.run]), mixed(self.seed, _RUNS, runs), np.array([0]))
        split = (slots >= ends).sum(axis=0)
        columns = np.arange(len(positions))
        begins = ends - (after - before)
        draws = before[split, columns] + slots - begins[split, columns]
        sizes = np.array(self.sizes)
        passes, draws = np.divmod(draws, sizes[split])
        seeds = mixed(self.seed, _SAMPLES, split)
        firsts = np.cumsum(sizes) - sizes
        numbers: Numbers = firsts[split] + permuted(draws, sizes[split], seeds, passes)
        return numbers

    @property
    def run(self) -> int:
        """Positions of a run; long enough that every split is drawn from in it."""
        return max(_RUN, math.ceil(2 * sum(self.weights) / min(self.weights)))

    def _drawn(self, positions: Numbers) -> Numbers:
        """How often each split comes before these positions, int64 [splits, m].

        Rounding the cumulative shares makes the counts sum to the position exactly; since a run
        holds at least two draws of each split, no count ever falls from one run to the next.
        """
        shares = np.cumsum(self.weights) / sum(self.weights)
        shares[-1] = 1.0
        reached = np.rint(shares[:, None] * positions).astype(np.int64)
        return np.diff(reached, axis=0, prepend=0)


@dataclass(frozen=True)
class MixedStore:
    """What a loader asks of the store of a `MixedSplit`.

    Attributes:
        url: those of all stores.
        fingerprint: of all splits in their order.
        manifest: of the store with the longest vocabulary, which the others' ranks follow.
    """

    url: str
    fingerprint: str
    manifest: Manifest


class MixedSplit:
    """Several splits as one, for a loader: sample numbers run through them in turn.

    Labels and masks are there if all splits have them and all stores name the same classes in one
    order.
    """

    name = "mixture"

    def __init__(self, splits: Sequence[Split]) -> None:
        """Compare the stores; no image is read.

        Raises:
            UsageError: there is no split.
            Mismatch: the stores' ranks mean different codes, or their grids differ.
        """
        if not splits:
            raise UsageError("a mixture needs at least one split")
        self.splits = tuple(splits)
        self.sizes = tuple(len(split) for split in splits)
        self._ends = np.cumsum(self.sizes, dtype=np.int64)
        leading = max((split.store for split in splits), key=lambda store: len(store.vocabulary))
        for split in splits:
            _refuse_other_codes(split.store, leading)
        parts = "\n".join(f"{split.store.fingerprint} {split.name}" for split in splits)
        self.store = MixedStore(
            " + ".join(split.store.url for split in splits),
            hashlib.sha256(parts.encode()).hexdigest(),
            leading.manifest,
        )
        self.classes = splits[0].classes
        if any(split.classes != self.classes for split in splits):
            self.classes = None
        self.columns = _common_columns(splits, labelled=self.classes is not None)

    def __reduce__(self) -> tuple[type["MixedSplit"], tuple[tuple[Split, ...]]]:
        """Pickle by its splits."""
        return (MixedSplit, (self.splits,))

    def __len__(self) -> int:
        """How many samples in all."""
        return sum(self.sizes)

    @property
    def shard_counts(self) -> tuple[int, ...]:
        """See `Split.shard_counts`."""
        return tuple(count for split in self.splits for count in split.shard_counts)

    @property
    def labels(self) -> Numbers | None:
        """Labels of all samples, int64 [n]; None where the splits' classes differ."""
        if "label" not in self.columns:
            return None
        return np.concatenate([split.labels for split in self.splits if split.labels is not None])

    def read(
        self,
        indices: ArrayLike,
        *,
        keys: bool = False,
        masks: bool = False,
        out: Ranks | None = None,
    ) -> Batch:
        """See `Split.read`."""
        numbers = self.resolve(indices)
        grid = self.store.manifest.grid
        ranks = np.empty((len(numbers), *grid), np.uint16) if out is None else out
        labels = np.empty(len(numbers), np.int64)
        names: list[str] | None = [""] * len(numbers) if keys else None
        drawn: NDArray[np.uint8] | None = None
        for split, rows, samples in self._parts(numbers):
            batch = split.read(samples, keys=keys, masks=masks)
            if batch.masks is not None:
                if drawn is None:
                    drawn = np.zeros((len(numbers), *batch.masks.shape[1:]), np.uint8)
                drawn[rows] = batch.masks
            ranks[rows] = batch.ranks
            labels[rows] = 0 if batch.labels is None else batch.labels
            names = _placed(names, rows, batch.keys)
        return Batch(ranks, labels if "label" in self.columns else None, names, drawn)

    def read_by(self, readers: Sequence[Any]) -> "MixedSplit":
        """The same samples, read by others than the splits: `RecordsInMemory` of each, say."""
        other = copy.copy(self)
        other.splits = tuple(readers)
        return other

    def labels_of(self, indices: ArrayLike) -> Numbers | None:
        """See `Split.labels_of`; None where the splits' classes differ."""
        if "label" not in self.columns:
            return None
        numbers = self.resolve(indices)
        labels = np.empty(len(numbers), np.int64)
        for split, rows, samples in self._parts(numbers):
            known = split.labels_of(samples)
            labels[rows] = 0 if known is None else known
        return labels

    def keys(self, indices: ArrayLike) -> list[str] | None:
        """See `Split.keys`; None where one of the splits has none."""
        numbers = self.resolve(indices)
        names: list[str] | None = [""] * len(numbers)
        for split, rows, samples in self._parts(numbers):
            names = _placed(names, rows, split.keys(samples))
        return names

    def resolve(self, indices: ArrayLike) -> Numbers:
        """See `Split.resolve`."""
        numbers = np.asarray(indices, np.int64)
        outside = (numbers < -len(self)) | (numbers >= len(self))
        if outside.any():
            raise OutOfRange(
                f"sample {int(numbers[outside][0])} lies outside the mixture of "
                f"'{self.store.url}', which has {len(self)} samples"
            )
        return np.where(numbers < 0, numbers + len(self), numbers)

    def _parts(self, numbers: Numbers) -> list[tuple[Split, Numbers, Numbers]]:
        """The splits that have some of these numbers, their rows and numbers in the split."""
        owner = np.searchsorted(self._ends, numbers, side="right")
        parts = []
        for number in np.unique(owner).tolist():
            rows = np.flatnonzero(owner == number)
            first = self._ends[number] - self.sizes[number]
            parts.append((self.splits[number], rows, numbers[rows] - first))
        return parts


AnySplit = Split | MixedSplit


def parts_of(split: AnySplit) -> tuple[Split, ...]:
    """The splits that a mixed one consists of, or the split itself."""
    return split.splits if isinstance(split, MixedSplit) else (split,)


def mask_shape(split: AnySplit) -> tuple[int, int]:
    """Height and width of the masks of a split that has some: those of its first one."""
    some = split.read([0], masks=True).masks if len(split) else None
    height, width = (1, 1) if some is None else some.shape[1:]
    return height, width


def _placed(names: list[str] | None, rows: Numbers, some: list[str] | None) -> list[str] | None:
    """Names with `some` of them at `rows`; None as soon as one part has none."""
    if names is None or some is None:
        return None
    for row, name in zip(rows.tolist(), some, strict=True):
        names[row] = name
    return names


def _common_columns(splits: Sequence[Split], *, labelled: bool) -> tuple[str, ...]:
    """Columns of all splits; those that speak of classes only where all mean the same ones."""
    names = [n for n in splits[0].columns if all(n in split.columns for split in splits)]
    meanings = {(s.store.manifest.classes, s.store.manifest.ignore_index) for s in splits}
    lacking = {"label": not labelled, "mask": len(meanings) > 1}
    return tuple(name for name in names if not lacking.get(name, False))


def _refuse_other_codes(store: Store, leading: Store) -> None:
    ours, theirs = store.manifest.tokenizer, leading.manifest.tokenizer
    ids: NDArray[np.int32] = store.vocabulary.ids
    same = (ours.name, ours.weights) == (theirs.name, theirs.weights)
    if not same or not np.array_equal(ids, leading.vocabulary.ids[: len(ids)]):
        raise Mismatch(
            f"'{store.url}' has vocabulary {store.vocabulary_fingerprint[:12]} of tokenizer "
            f"'{ours.name}', '{leading.url}' has {leading.vocabulary_fingerprint[:12]} of "
            f"'{theirs.name}', and neither begins with the other: their ranks mean different "
            f"codes. Build one with --vocabulary of the other to mix them."
        )
    if store.manifest.grid != leading.manifest.grid:
        raise Mismatch(
            f"'{store.url}' has grids {list(store.manifest.grid)}, '{leading.url}' has "
            f"{list(leading.manifest.grid)}; build them at one image size to mix them"
        )
