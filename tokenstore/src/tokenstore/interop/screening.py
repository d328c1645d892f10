"""Screening: what comes in from a format is looked at before anything is made of it.

Every chunk passes here, in both readings: ids lie in the codebook, grids are alike, columns are as
long as the ids, labels and keys can be kept. The first reading surveys: how often each id occurs,
which classes there are, a sample for the codec, and an identity of all that was read.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tokenstore.columns import json_line
from tokenstore.errors import SourceError
from tokenstore.interop.arrays import LARGEST_ID, whole_numbers
from tokenstore.interop.base import Chunk, Incoming
from tokenstore.interop.labels import MOST_CLASSES, Classes
from tokenstore.sources.base import printable

SAMPLE_IMAGES = 8192
COLUMNS = ("labels", "keys", "meta", "views")


def screened(incoming: Incoming, split: str, *, keys: bool) -> Iterator[Chunk]:
    """The chunks of a split, each fit to be kept: ids int32 [n, *grid], keys printable.

    Args:
        incoming: the input.
        split: one of its splits.
        keys: False leaves the keys out.

    Raises:
        SourceError: what is wrong, and with which sample of which file.
    """
    columns: tuple[bool, ...] | None = None
    for chunk in incoming.splits[split]():
        kept = replace(
            chunk,
            ids=_screened_ids(chunk, incoming),
            keys=_screened_keys(chunk) if keys else None,
        )
        _check_columns(kept)
        _check_labels(kept)
        has = tuple(getattr(kept, name) is not None for name in COLUMNS)
        if columns not in (None, has):
            names = [name for name, a, b in zip(COLUMNS, columns or (), has, strict=True) if a != b]
            raise SourceError(
                f"{chunk.where(0)}: {' and '.join(names)} begin or end here, but every sample of a "
                "split has the same columns. Give them to all samples, or to none."
            )
        columns = has
        yield kept


def _screened_ids(chunk: Chunk, incoming: Incoming) -> NDArray[np.int32]:
    ids = whole_numbers(chunk.ids, chunk.where(0))
    if ids.shape[1:] != incoming.grid:
        raise SourceError(
            f"{chunk.where(0)}: a grid is {_times(ids.shape[1:])}, expected "
            f"{_times(incoming.grid)} as the others are. All grids of a store are alike."
        )
    codebook = incoming.codebook
    limit = LARGEST_ID if codebook is None else len(codebook)
    wrong = (ids < 0) | (ids >= limit)
    if codebook is not None and not codebook.has.all():
        wrong |= ~codebook.has[np.where(wrong, 0, ids).astype(np.int64)]
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"{chunk.where(place[0])}: id {ids[place]} at {list(place[1:])}"
        if codebook is None:
            raise SourceError(
                f"{where} is none that can be kept, expected 0 to {limit - 1}. Repair the ids; "
                "padding and special ids are no codes."
            )
        raise SourceError(
            f"{where} has no row in the codebook '{codebook.file}' of {int(codebook.has.sum())} "
            "codes. Repair the ids, or give the codebook of the tokenizer that made them."
        )
    return ids.astype(np.int32)


def _check_columns(chunk: Chunk) -> None:
    for name in COLUMNS:
        column = getattr(chunk, name)
        if column is not None and len(column) != len(chunk.ids):
            raise SourceError(
                f"{chunk.where(0)}: {len(chunk.ids)} images come with {len(column)} {name}, "
                "expected one each."
            )


def _check_labels(chunk: Chunk) -> None:
    labels = chunk.labels
    if isinstance(labels, np.ndarray):
        wrong = np.flatnonzero((labels < 0) | (labels >= MOST_CLASSES))
        if len(wrong):
            raise SourceError(
                f"{chunk.where(int(wrong[0]))}: label {labels[wrong[0]]} is no class number, "
                f"expected 0 to {MOST_CLASSES - 1}. Correct it, or import without labels."
            )


def _screened_keys(chunk: Chunk) -> Sequence[str] | None:
    """Keys on one line of UTF-8 each; one that would lead out of a folder is refused."""
    if chunk.keys is None:
        return None
    keys = [printable(key) for key in chunk.keys]
    for i, key in enumerate(keys):
        path = PurePosixPath(key)
        if not key or "\0" in key or path.is_absolute() or ".." in path.parts:
            raise SourceError(
                f"{chunk.where(i)}: key {key!r} is no path inside a folder. Rename it, or import "
                "with --no-keys."
            )
    return keys


@dataclass
class Counted:
    """One split, surveyed."""

    images: int = 0
    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    columns: frozenset[str] = frozenset()
    hashes: dict[str, Any] = field(default_factory=dict)
    keys: list[NDArray[np.uint64]] = field(default_factory=list)

    def see(self, chunk: Chunk) -> None:
        """Count a chunk, and mix it into the identity of the split."""
        self.images += len(chunk)
        found = np.bincount(chunk.ids.ravel())
        if len(found) > len(self.ids):
            self.ids = np.pad(self.ids, (0, len(found) - len(self.ids)))
        self.ids[: len(found)] += found
        self._mix("ids", np.ascontiguousarray(chunk.ids, "<i4").tobytes())
        for name in COLUMNS:
            column = getattr(chunk, name)
            if column is not None:
                self.columns |= {name}
                values = map(json_line, column) if name == "meta" else map(str, column)
                self._mix(name, "".join(f"{value}\n" for value in values).encode())
        if chunk.keys is not None:
            hashes = [xxhash.xxh3_64_intdigest(key.encode()) for key in chunk.keys]
            self.keys.append(np.array(hashes, np.uint64))

    def _mix(self, name: str, content: bytes) -> None:
        self.hashes.setdefault(name, xxhash.xxh3_128()).update(content)

    @property
    def identity(self) -> str:
        """The same exactly for the same samples in the same order."""
        parts = [f"{name} {self.hashes[name].hexdigest()}" for name in sorted(self.hashes)]
        return f"{self.images} {' '.join(parts)}"


class Survey:
    """What the first reading learns."""

    def __init__(self, incoming: Incoming) -> None:
        """Nothing yet."""
        self.incoming = incoming
        self.splits = {name: Counted() for name in incoming.splits}
        self.classes = Classes(incoming.card.classes)
        self._sample = EvenSample(SAMPLE_IMAGES)
        self._sampled = "train" if "train" in incoming.splits else None

    def see(self, split: str, chunk: Chunk) -> None:
        """Take note of a chunk of screened samples."""
        self.splits[split].see(chunk)
        if chunk.labels is not None:
            self.classes.see(chunk.labels)
        if self._sampled in (None, split):
            self._sample.add(chunk.ids)

    @property
    def images(self) -> int:
        """Samples in all."""
        return sum(split.images for split in self.splits.values())

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """How often each id occurs in each split, all of one length."""
        codebook = self.incoming.codebook
        longest = max(len(split.ids) for split in self.splits.values())
        length = longest if codebook is None else len(codebook)
        return {
            name: np.pad(split.ids, (0, length - len(split.ids)))
            for name, split in self.splits.items()
        }

    def sample(self) -> NDArray[np.int32]:
        """Grids of ids evenly over train, or over all where there is no train: [n, *grid]."""
        return self._sample.grids(self.incoming.grid)

    def listing(self) -> str:
        """SHA-256 that names the input: its samples in order, wherever and however they lie."""
        lines = [f"grid {_times(self.incoming.grid)}", f"classes {self.classes.listed()}"]
        codebook = self.incoming.codebook
        lines += [f"codebook {codebook.sha256 if codebook else None}"]
        lines += [f"split {name} {split.identity}" for name, split in self.splits.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def refuse_repeated_keys(self) -> None:
        """Look whether a key stands twice in a split.

        Raises:
            SourceError: names it and both samples.
        """
        for name, split in self.splits.items():
            hashes = np.concatenate(split.keys) if split.keys else np.zeros(0, np.uint64)
            order = np.argsort(hashes, kind="stable")
            alike = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
            for first, second in ((order[i], order[i + 1]) for i in alike):
                self._compare(name, int(first), int(second))

    def _compare(self, split: str, first: int, second: int) -> None:
        """Read two keys whose hashes are equal again, since hashes can be by chance."""
        found, seen = [], 0
        for chunk in screened(self.incoming, split, keys=True):
            inside = [i - seen for i in (first, second) if seen <= i < seen + len(chunk)]
            found += [(chunk.keys[i], chunk.where(i)) for i in inside if chunk.keys is not None]
            seen += len(chunk)
        (key, where), (other, there) = found
        if key == other:
            raise SourceError(
                f"key '{key}' of split '{split}' stands twice: {where} and {there}. Rename one, or "
                "import with --no-keys, which keeps both."
            )


class EvenSample:
    """Every 1st, 2nd, 4th ... of a stream whose length is not known: `most` or half as many."""

    def __init__(self, most: int) -> None:
        """Keep at most so many."""
        self._most, self._step, self._seen = most, 1, 0
        self._kept: list[NDArray[np.int32]] = []

    def add(self, ids: NDArray[Any]) -> None:
        """Look at some more grids."""
        self._kept.append(ids[-self._seen % self._step :: self._step].astype(np.int32))
        self._seen += len(ids)
        while sum(map(len, self._kept)) > self._most:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._step *= 2

    def grids(self, grid: tuple[int, ...]) -> NDArray[np.int32]:
        """What was kept, [n, *grid]."""
        return np.concatenate([np.zeros((0, *grid), np.int32), *self._kept])


def _times(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))
