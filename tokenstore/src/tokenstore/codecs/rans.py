"""Codec `rans`: every rank coded with the frequency it has in the corpus; order-0 entropy.

    record payload = a stream of asymmetric numeral systems, see ans.py, of the grid's ranks in
                     row-major order (channels outermost)

    tables = {"frequencies": int32 [vocabulary size], which sum to a power of two = 2^bits}

Nothing of a token's neighbours is used; `context` does that. What it gains over `zstd` is that it
never loses: on tokens without any repeats it stays within half a percent of their entropy.
"""

from math import prod
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.ans import LANES, Coder, Cursor, Slots, Stream, encoded, quantised
from tokenstore.codecs.base import Bytes, Codec, CodecSpec, Offsets, Payloads, Ranks, Tables
from tokenstore.compiled import compiled
from tokenstore.errors import CodecError

PRECISIONS = range(12, 21)
ENOUGH = 1.0005  # of the entropy: a table of fewer bits decodes faster, from a nearer cache


class Rans(Codec):
    """One frequency table for all tokens."""

    name: ClassVar[str] = "rans"

    def __init__(self, spec: CodecSpec, frequencies: NDArray[np.integer]) -> None:
        """Make the codec of its table [vocabulary size].

        Raises:
            CodecError: not one positive frequency a code, or a sum that is no power of two.
        """
        super().__init__(spec)
        self._frequencies = frequencies.astype(np.int64)
        total = int(self._frequencies.sum())
        bits = total.bit_length() - 1
        wrong = frequencies.shape != (spec.vocabulary_size,) or frequencies.min() < 1
        if wrong or total != 1 << bits or bits > PRECISIONS[-1]:
            raise CodecError(
                f"codec rans expects {spec.vocabulary_size} positive frequencies whose sum is a "
                f"power of two up to 2^{PRECISIONS[-1]}, found {frequencies.shape} with sum {total}"
            )
        self._coder = Coder.of(np.cumsum(self._frequencies)[None] - 1, bits)
        self._slots = Slots.of(self._frequencies)

    @classmethod
    def fit(cls, sample: Ranks, spec: CodecSpec, images: int | None = None) -> Self:
        """Count the sample and round to the smallest precision that loses next to nothing."""
        counts = np.bincount(sample.ravel(), minlength=spec.vocabulary_size)
        if len(counts) != spec.vocabulary_size:
            raise CodecError(
                f"rank {len(counts) - 1} of the sample lies outside the vocabulary of "
                f"{spec.vocabulary_size} codes"
            )
        finest = quantised(counts, PRECISIONS[-1])
        shares = finest / finest.sum()
        entropy = -(shares * np.log2(shares)).sum()
        for bits in PRECISIONS:
            if 1 << bits < 2 * spec.vocabulary_size:
                continue
            frequencies = quantised(counts, bits)
            if (shares * (bits - np.log2(frequencies))).sum() <= entropy * ENOUGH:
                return cls(spec, frequencies)
        return cls(spec, finest)

    @classmethod
    def from_tables(cls, tables: Tables, spec: CodecSpec) -> Self:
        """See `Codec.from_tables`."""
        frequencies = tables.get("frequencies")
        if set(tables) != {"frequencies"} or frequencies is None or frequencies.dtype != np.int32:
            raise CodecError(f"codec rans expects an int32 'frequencies', found {sorted(tables)}")
        return cls(spec, np.asarray(frequencies, np.int32))

    def tables(self) -> dict[str, NDArray[np.generic]]:
        """The frequencies, int32 [vocabulary size]."""
        return {"frequencies": self._frequencies.astype(np.int32)}

    def encode(self, ranks: Ranks) -> Payloads:
        """See `Codec.encode`."""
        self.check_ranks(ranks)
        flat = ranks.reshape(len(ranks), prod(ranks.shape[1:]))
        return encoded(Stream(flat, np.zeros(flat.shape, np.int32), self._coder))

    def decode(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """See `Codec.decode`."""
        cursor = Cursor.begin(data, starts, ends, self._coder.low)
        flat = out.reshape(len(out), prod(out.shape[1:]))
        _decode(data, cursor, self._slots, self._coder.bits, flat)
        bad = cursor.first_bad()
        if bad < len(starts):
            raise CodecError(f"row {bad} is no stream of codec rans: its bytes do not add up")


@compiled
def _decode(data: Bytes, cursor: Cursor, slots: Slots, bits: int, out: Ranks) -> None:
    """Fill `out` [n, m] and move the cursor; whether the bytes add up is for the cursor to say.

    A word that is not needed is read all the same, which is cheaper than a branch; places beyond
    a payload stand for its last word, so that nothing outside is read whatever the bytes say.
    Numbers are unsigned throughout: an index that may be negative costs numba a test each time.
    """
    one, byte, half, shift = np.uint64(1), np.uint64(8), np.uint64(32), np.uint64(bits)
    own, lower, floor = (one << shift) - one, (one << half) - one, one << np.uint64(cursor.low)
    at, last = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    states, rows = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    count = len(cursor.states)
    for first in range(0, count, LANES):
        for lane in range(LANES):
            row = min(first + lane, count - 1)  # the last row again: lanes are never idle
            rows[lane], states[lane] = row, cursor.states[row]
            at[lane], last[lane] = cursor.at[row], cursor.last[row]
        for place in range(out.shape[1]):
            for lane in range(LANES):
                state = states[lane]
                slot = state & own
                symbol = slots.symbols[slot]
                out[rows[lane], place] = symbol
                entry = slots.packed[symbol]
                state = (entry & lower) * (state >> shift) + slot - (entry >> half)
                for _ in range(1 + (cursor.low > 16)):
                    here = min(at[lane], last[lane])
                    word = np.uint64(data[here]) | np.uint64(data[here + one]) << byte
                    short = np.uint64(state < floor)
                    state = state << (short << np.uint64(4)) | word * short
                    at[lane] += short << one
                states[lane] = state
        for lane in range(min(LANES, count - first)):
            cursor.states[first + lane], cursor.at[first + lane] = states[lane], at[lane]


PLUGIN = Rans
