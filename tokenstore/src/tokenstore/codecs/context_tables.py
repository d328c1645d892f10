"""What codec `context` ships, and the frequency tables that follow from it in whole numbers.

A context is (cluster of the symbol above, cluster of the symbol to the left); a missing neighbour
is a cluster of its own, number C. How likely a symbol is in a context is a sum of three parts, in
1/32 bit:

    exponent(up, left, x) = popularity[x] + 4 * weights[left, x] + 4 * weights[C + 1 + up, x]

and its frequency follows by powers of two of whole numbers: see `lasts`. So a few kilobytes give
more than a thousand tables, the same on every machine. Where the numbers come from is for
context_fit.py.

The symbols of a table stand in the order of (cluster as upper neighbour, cluster as left neighbour,
symbol), so that those which occur in like places lie beside each other, in few lines of a cache.
"""

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
import zstandard
from numpy.typing import NDArray

from tokenstore.codecs.base import Ranks, Tables
from tokenstore.errors import CodecError

FEW_SYMBOLS = 1024  # up to here 15 bits lose nothing
MOST_CLUSTERS = 64
LEVEL = 19  # of zstd, for the weights
FINE = 32  # units of popularity in a bit
COARSE = 4  # such units in one of weights: 1/8 bit
LARGEST_SHIFT = 62


def _root(k: int) -> int:
    """floor(2^(30 + k/32)), by five exact square roots."""
    number = 1 << (30 * FINE + k)
    for _ in range(5):
        number = isqrt(number)
    return number


POWERS = np.array([_root(k) for k in range(FINE)], np.int64)


@dataclass(frozen=True)
class ContextTables:
    """The shipped numbers of S symbols and C clusters.

    Attributes:
        clusters: uint8 [2, S], of each symbol as left and as upper neighbour, below C.
        popularity: int16 [S], in 1/32 bit.
        weights: int8 [2 (C + 1), S], in 1/8 bit: by left cluster, then by upper cluster.
    """

    clusters: NDArray[np.uint8]
    popularity: NDArray[np.int16]
    weights: NDArray[np.int8]

    @property
    def size(self) -> int:
        """Symbols."""
        return len(self.popularity)

    @property
    def sides(self) -> int:
        """Clusters, and one for a missing neighbour."""
        return len(self.weights) // 2

    @property
    def bits(self) -> int:
        """Precision of the frequencies."""
        return 15 if self.size <= FEW_SYMBOLS else 16

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The symbol at each place of a table, int64 [S]."""
        left, up = self.clusters
        return np.lexsort((left, up))

    @cached_property
    def places(self) -> NDArray[np.uint16]:
        """The place of each symbol, uint16 [S]."""
        places = np.empty(self.size, np.uint16)
        places[self.order] = np.arange(self.size)
        return places

    def contexts(self, symbols: Ranks) -> NDArray[np.int32]:
        """The context of each symbol of planes [..., h, w], of the same shape."""
        left, up = self.clusters.astype(np.int32)
        beside = np.full(symbols.shape, self.sides - 1, np.int32)
        above = np.full(symbols.shape, (self.sides - 1) * self.sides, np.int32)
        beside[..., :, 1:] = left[symbols[..., :, :-1]]
        above[..., 1:, :] = (up * np.int32(self.sides))[symbols[..., :-1, :]]
        return above + beside

    def lasts(self) -> NDArray[np.int64]:
        """Last slot of each symbol, int64 [contexts, S], in the order of the places.

        With the largest exponent of a context taken off, an exponent -32 q + k, 0 <= k < 32,
        stands for w = floor(2^(30 + k/32)) >> q. Each symbol gets one slot; the 2^bits - S others
        go in proportion to what w has above the mean slot's share, sums rounded down.
        """
        own = self.popularity.astype(np.int32)[self.order]
        left, up = np.split(self.weights[:, self.order].astype(np.int32) * COARSE, 2)
        spare = (1 << self.bits) - self.size
        lasts = np.empty((self.sides, self.sides, self.size), np.int64)
        for above in range(self.sides):
            exponents = own + up[above] + left
            exponents -= exponents.max(1, keepdims=True)
            shifts = np.minimum(-(exponents >> 5), LARGEST_SHIFT)
            shares = POWERS[exponents & (FINE - 1)] >> shifts
            shares = np.maximum(shares - (shares.sum(1, keepdims=True) >> self.bits), 0)
            sums = np.cumsum(shares, axis=1)
            lasts[above] = sums * spare // sums[:, -1:] + np.arange(self.size)
        return lasts.reshape(-1, self.size)

    def shipped(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of a store: weights as one zstd frame."""
        frame = zstandard.ZstdCompressor(level=LEVEL).compress(self.weights.tobytes())
        packed = np.frombuffer(frame, np.uint8)
        return {"clusters": self.clusters, "popularity": self.popularity, "weights": packed}

    @classmethod
    def read(cls, tables: Tables, size: int) -> "ContextTables":
        """The inverse of `shipped`, for `size` symbols.

        Raises:
            CodecError: an array is missing, of another kind or shape, or damaged.
        """
        clusters, popularity, packed = (
            tables.get(name, np.zeros(0)) for name in ("clusters", "popularity", "weights")
        )
        found = [(a.dtype.name, *a.shape) for a in (clusters, popularity)]
        if found != [("uint8", 2, size), ("int16", size)] or packed.dtype != np.uint8:
            raise CodecError(
                f"codec context expects clusters uint8 [2, {size}], popularity int16 [{size}] and "
                f"weights uint8, found {found} and {packed.dtype}"
            )
        sides = int(clusters.max()) + 2
        if sides - 1 > MOST_CLUSTERS:
            raise CodecError(f"codec context: {sides - 1} clusters, at most {MOST_CLUSTERS} fit")
        content = _unpacked(packed.tobytes(), 2 * sides * size)
        weights = np.frombuffer(content, np.int8).reshape(2 * sides, size)
        return cls(clusters.astype(np.uint8), popularity.astype(np.int16), weights)


def _unpacked(frame: bytes, expected: int) -> bytes:
    try:
        if zstandard.frame_content_size(frame) != expected:
            raise CodecError(f"codec context: its weights are not {expected} numbers")
        content = zstandard.ZstdDecompressor().decompress(frame, max_output_size=expected)
    except zstandard.ZstdError as error:
        raise CodecError(f"codec context: its weights are damaged: {error}") from error
    return content
