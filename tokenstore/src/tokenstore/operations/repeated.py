"""Keys that occur more than once among samples of several stores.

A first pass holds a 64-bit hash of every key, 8 bytes an image; a second one reads the keys whose
hash occurs twice and compares the keys themselves. So 10^8 images fit in a gigabyte.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tokenstore.operations.repack import Piece
from tokenstore.reader import Split

RUN = 1 << 16  # keys in memory at once


class Repeated(NamedTuple):
    """A sample whose key an earlier one has: both pieces by place, and its place in its own."""

    key: str
    earlier: int
    piece: int
    place: int


def repeated_keys(
    pieces: Sequence[Piece], on_images: Callable[[int], None] = lambda images: None
) -> list[Repeated]:
    """Samples of these pieces whose key occurred before, in order."""
    hashes = np.zeros(sum(map(len, pieces)), np.uint64)
    done = 0
    for _, _, keys in _runs(pieces):
        hashes[done : done + len(keys)] = [xxh3_64_intdigest(key.encode()) for key in keys]
        done += len(keys)
        on_images(len(keys))
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return _compared(pieces, hashes, twice) if len(twice) else []


def _compared(
    pieces: Sequence[Piece], hashes: NDArray[np.uint64], twice: NDArray[np.uint64]
) -> list[Repeated]:
    """The samples among those with such a hash whose very key occurred before."""
    first: dict[str, int] = {}
    found, done = [], 0
    for piece, start, keys in _runs(pieces):
        for offset in np.flatnonzero(np.isin(hashes[done : done + len(keys)], twice)).tolist():
            key = keys[offset]
            if key in first:
                found.append(Repeated(key.partition("\0")[0], first[key], piece, start + offset))
            first.setdefault(key, piece)
        done += len(keys)
    return found


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[int, int, list[str]]]:
    """(which piece, place of the first in it, keys), a run of samples at a time."""
    for number, piece in enumerate(pieces):
        opened = Split(piece.store, piece.split)
        for start in range(0, len(piece), RUN):
            numbers = piece.numbers_of(start, min(start + RUN, len(piece)))
            yield number, start, _named(opened, numbers)


def _named(opened: Split, numbers: NDArray[np.int64]) -> list[str]:
    """Keys; of views that are not the plain image, with their number behind a zero."""
    keys, views = opened.keys(numbers) or [], opened.views(numbers)
    if views is None:
        return keys
    return [f"{key}\0{view}" if view else key for key, view in zip(keys, views, strict=True)]
