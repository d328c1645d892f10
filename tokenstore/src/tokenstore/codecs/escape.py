"""The escape code: ranks as bytes, the common ones one byte long. Shared by the byte codecs.

Equation 1 of SeiT writes rank r as [r] when r < 255, and as [255, r - 255] otherwise; here the
rest is written in steps of 255 until it fits, so that any vocabulary works:

    254 -> fe      255 -> ff 00      300 -> ff 2d      509 -> ff fe      510 -> ff ff 00

Symbol 255 thus means "add 255 and read on". Every rank ends with a byte below 255, so a grid of n
ranks holds exactly n such bytes. This is no codec by itself: it knows no compressor and no records.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tokenstore.compiled import compiled
from tokenstore.errors import CodecError

ESCAPE = 255

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Ranks = NDArray[np.uint16]  # [n, *grid]


def escape(ranks: Ranks) -> tuple[Bytes, Offsets]:
    """Grids as escape code: the bytes of all of them, and the end of each, int64 [n]."""
    longer = ranks // ESCAPE
    tokens = math.prod(ranks.shape[1:])
    ends = np.cumsum(longer.reshape(len(ranks), tokens).sum(axis=1, dtype=np.int64) + tokens)
    escaped = np.full(int(ends[-1]) if len(ends) else 0, ESCAPE, np.uint8)
    last = np.cumsum(longer.ravel().astype(np.int64) + 1) - 1
    escaped[last] = (ranks % ESCAPE).ravel()
    return escaped, ends


def unescape(
    escaped: Bytes, starts: Offsets, ends: Offsets, vocabulary_size: int, out: Ranks
) -> None:
    """Read escaped[starts[i]:ends[i]] into `out[i]`, uint16 [n, *grid], C-contiguous.

    Raises:
        CodecError: a row is not the code of one grid of ranks below `vocabulary_size`; names it.
    """
    tokens = math.prod(out.shape[1:])
    bad = _unescape(escaped, starts, ends, vocabulary_size, out.reshape(len(out), tokens))
    if bad >= 0:
        raise CodecError(
            f"row {bad} is not the escape code of {tokens} ranks below {vocabulary_size}"
        )


def longest(grid: tuple[int, ...], vocabulary_size: int) -> int:
    """Bytes that the escape code of one grid can have at most."""
    return math.prod(grid) * ((vocabulary_size - 1) // ESCAPE + 1)


@compiled
def _unescape(
    escaped: Bytes, starts: Offsets, ends: Offsets, vocabulary_size: int, out: Ranks
) -> int:
    """The first row that is wrong, or -1."""
    tokens = out.shape[1]
    for row in range(len(starts)):
        part = escaped[starts[row] : ends[row]]
        found = 0
        for byte in part:
            found += byte != ESCAPE
        if found != tokens or part[-1] == ESCAPE:
            return row
        # The count above bounds `token`, so the loop needs no test: a byte 255 writes a rank that
        # the next byte overwrites.
        token = 0
        rank = 0
        largest = 0
        for byte in part:
            rank += byte
            largest = max(largest, rank)
            out[row, token] = rank
            token += byte != ESCAPE
            rank *= byte == ESCAPE
        if largest >= vocabulary_size:
            return row
    return -1
