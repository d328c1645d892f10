"""The law of the format: how other people's files of tokens become a store, and a store such files.

* `open` looks at the input, decides the grid, and gives for every split a function that reads its
  samples from the first on, in chunks. It is called twice, and must give the same twice.
* Samples keep their order. Ids are those of the input, of any whole type; whether they lie in the
  codebook, whether keys repeat and labels fit is checked by whoever asks (`screening`).
* Memory is bounded by a chunk, whatever the input's size. Nothing of the input is executed or
  unpickled, and no name in it is used as a path.
* What cannot be used is a `SourceError` that names file, sample, value, expectation and cure.
  Nothing is skipped in silence: what a format leaves out is a note.
* `export` writes into an empty folder, a pure function of the store; what the format cannot hold is
  a `UsageError`, or a note where only a column is lost.

A file of this folder defines one subclass and names it in the module constant `PLUGIN`. Formats
know nothing of vocabularies, ranks, codecs and shards.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import UsageError
from tokenstore.interop.card import TokenCard
from tokenstore.interop.codebook import Codebook
from tokenstore.reader import Split, Store

Grid = tuple[int, ...]  # (h, w) or (c, h, w)
Ids = NDArray[np.integer[Any]]

CHUNK = 1024  # samples read at a time
SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class ImportRequest:
    """What a user asks for.

    Attributes:
        place: file or folder.
        split: name of the split, where the input does not tell.
        grid: shape of one image's ids, where the input does not tell; None asks the input.
        codebook: file of the tokenizer's vectors; None takes one that lies in the input.
        labels: file of labels, one an image in the order of the input, for an input of one split;
            `importing` reads it, a format only needs to know that it is none of its own files.
    """

    place: Path
    split: str = "train"
    grid: Grid | None = None
    codebook: Path | None = None
    labels: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a name of a split that shards cannot have."""
        if not SPLIT.fullmatch(self.split):
            raise UsageError(
                f"--split '{self.split}' is no name of a split: letters, digits, _ and - only"
            )


@dataclass(frozen=True)
class Chunk:
    """Some samples in order; a column that the input lacks is None.

    Attributes:
        ids: whole numbers [n, *grid].
        where: what an error calls sample i of the chunk: "'a.npy', image 3".
        labels: class numbers, int64 [n], or class names.
        keys: names of the images.
        meta: JSON objects.
        views: which view of its image each sample is.
    """

    ids: Ids
    where: Callable[[int], str]
    labels: NDArray[np.int64] | Sequence[str] | None = None
    keys: Sequence[str] | None = None
    meta: Sequence[dict[str, Any]] | None = None
    views: NDArray[np.uint16] | None = None

    def __len__(self) -> int:
        """How many samples."""
        return len(self.ids)


@dataclass(frozen=True)
class Incoming:
    """An input that was looked at.

    Attributes:
        grid: shape of one image's ids.
        splits: for each split, in order, what reads its samples from the first on.
        card: what the input says of its tokens.
        codebook: the tokenizer's vectors by id, or None.
        images: how many samples in all, None where only reading tells.
        notes: what is left out, to be told to the user; grows while it is read.
    """

    grid: Grid
    splits: Mapping[str, Callable[[], Iterable[Chunk]]]
    card: TokenCard
    codebook: Codebook | None
    images: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outgoing:
    """A store on its way out.

    Attributes:
        store: what is exported.
        folder: an empty folder to write to.
        splits: the splits to write, none of them empty.
        advance: to be told how many samples were written.
        notes: what the format cannot hold, to be told to the user.
    """

    store: Store
    folder: Path
    splits: tuple[str, ...]
    advance: Callable[[int], None]
    notes: list[str] = field(default_factory=list)

    @property
    def id_dtype(self) -> np.dtype[Any]:
        """The narrowest type of the formats that holds every id: <u2 or <i4."""
        return np.dtype("<u2" if int(self.store.vocabulary.ids.max()) < 1 << 16 else "<i4")

    def chunks(self, split: str) -> Iterator[Chunk]:
        """The samples of a split with their ids, in order; counts them as written."""
        opened = self.store[split]
        for first in range(0, len(opened), CHUNK):
            yield self._chunk(opened, np.arange(first, min(first + CHUNK, len(opened))))

    def _chunk(self, split: Split, numbers: NDArray[np.int64]) -> Chunk:
        batch = split.read(numbers, keys=True)
        views = split.views(numbers)
        self.advance(len(numbers))
        return Chunk(
            ids=self.store.ids(batch.ranks).astype(self.id_dtype),
            where=lambda i: f"sample {numbers[i]} of '{split.name}'",
            labels=batch.labels,
            keys=batch.keys,
            meta=split.meta(numbers),
            views=None if views is None else views.astype(np.uint16),
        )


class Format(ABC):
    """A form in which tokens are kept elsewhere; see the law above."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def open(cls, request: ImportRequest) -> Incoming:
        """Look at an input.

        Raises:
            SourceError: it is not of this format, damaged, or leaves open what --grid decides.
        """

    @classmethod
    @abstractmethod
    def export(cls, outgoing: Outgoing) -> None:
        """Write a store in this format.

        Raises:
            UsageError: the format cannot hold this store.
        """
