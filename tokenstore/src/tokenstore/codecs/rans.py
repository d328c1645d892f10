"""Codec `rans`: every rank coded with the frequency it has in the corpus; order-0 entropy.

    record payload = a stream of asymmetric numeral systems, see ans.py, of the grid's ranks in
                     row-major order (channels outermost)

    tables = {"frequencies": int32 [vocabulary size], which sum to a power of two = 2^bits}

Nothing of a token's neighbours is used; `context` does that. What it gains over `zstd` is that it
never loses: on tokens without any repeats it stays within half a percent of their entropy.
"""

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.ans import LANES, NO_TAIL, Coder, Precision, encoded, quantised, slots
from tokenstore.codecs.base import Bytes, Codec, CodecSpec, Offsets, Payloads, Ranks, Tables
from tokenstore.compiled import compiled
from tokenstore.errors import CodecError

PRECISIONS = range(12, 21)
ENOUGH = 1.0003  # of the entropy: a table of fewer bits decodes faster, from a nearer cache
UNSEEN = 0.5  # added to every count, so that a code outside the sample has a price


class Rans(Codec):
    """One frequency table for all tokens."""

    name: ClassVar[str] = "rans"

    def __init__(self, spec: CodecSpec, frequencies: NDArray[np.int32]) -> None:
        """Make the codec of a frequency table, int32 [vocabulary size].

        Raises:
            CodecError: not one positive frequency a code, or a sum that is no power of two.
        """
        super().__init__(spec)
        total = int(frequencies.sum(dtype=np.int64))
        bits = total.bit_length() - 1
        wrong = frequencies.shape != (spec.vocabulary_size,) or frequencies.min() < 1
        if wrong or total != 1 << bits or bits > PRECISIONS[-1]:
            raise CodecError(
                f"codec rans expects {spec.vocabulary_size} positive frequencies whose sum is a "
                f"power of two up to 2^{PRECISIONS[-1]}, found {frequencies.shape} with sum {total}"
            )
        self._coder = Coder.of(frequencies[None], Precision.of(bits))
        self._slots, self._packed = slots(frequencies), self._coder.packed()[0]

    @classmethod
    def fit(cls, sample: Ranks, spec: CodecSpec, images: int | None = None) -> Self:
        """Count the sample and round to the smallest precision that loses next to nothing."""
        counts = np.bincount(sample.ravel(), minlength=spec.vocabulary_size) + UNSEEN
        shares = counts / counts.sum()
        entropy = -(shares * np.log2(shares)).sum()
        for bits in PRECISIONS:
            if 1 << bits < 2 * spec.vocabulary_size and bits < PRECISIONS[-1]:
                continue
            frequencies = quantised(counts, bits)
            cost = (shares * (bits - np.log2(frequencies))).sum()
            if cost <= entropy * ENOUGH or bits == PRECISIONS[-1]:
                break
        return cls(spec, frequencies.astype(np.int32))

    @classmethod
    def from_tables(cls, tables: Tables, spec: CodecSpec) -> Self:
        """See `Codec.from_tables`."""
        frequencies = tables.get("frequencies")
        if set(tables) != {"frequencies"} or frequencies is None or frequencies.dtype != np.int32:
            raise CodecError(f"codec rans expects a table 'frequencies', found {sorted(tables)}")
        return cls(spec, np.asarray(frequencies, np.int32))

    def tables(self) -> dict[str, NDArray[np.generic]]:
        """The frequencies, int32 [vocabulary size]."""
        return {"frequencies": self._coder.frequencies[0].astype(np.int32)}

    def encode(self, ranks: Ranks) -> Payloads:
        """See `Codec.encode`."""
        self.check_ranks(ranks)
        flat = np.ascontiguousarray(ranks).reshape(len(ranks), -1)
        return encoded(flat, np.zeros(flat.shape, np.int32), self._coder, NO_TAIL)

    def decode(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """See `Codec.decode`."""
        if not len(starts):
            return
        spans, flat = np.stack([starts, ends], 1), out.reshape(len(out), -1)
        bad = _decode(data, spans, self._slots, self._packed, self._coder.precision, flat)
        if bad >= 0:
            raise CodecError(f"row {bad} is no stream of codec rans: its bytes do not add up")


@compiled
def _decode(
    data: Bytes,
    spans: NDArray[np.int64],
    slots: NDArray[np.uint16],
    packed: NDArray[np.uint64],
    precision: Precision,
    out: Ranks,
) -> int:
    """Fill `out` [n, m] from data[spans[i, 0] : spans[i, 1]]; a bad row, or -1.

    Numbers are unsigned throughout: an index that may be negative costs numba a test each time.
    """
    shift, word, byte = np.uint64(precision.bits), np.uint64(16), np.uint64(8)
    one, two, half = np.uint64(1), np.uint64(2), np.uint64(32)
    floor, mask = one << np.uint64(precision.low), (one << shift) - one
    lower, head = (one << half) - one, precision.head
    states, at = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    rows = np.empty(LANES, np.int64)
    for first in range(0, len(spans), LANES):
        for lane in range(LANES):
            row = min(first + lane, len(spans) - 1)  # the last rows again: lanes are never idle
            if spans[row, 1] - spans[row, 0] < head:
                return row
            states[lane] = 0
            for place in range(head):
                states[lane] |= np.uint64(data[spans[row, 0] + place]) << np.uint64(8 * place)
            rows[lane], at[lane] = row, spans[row, 0] + head
            if states[lane] < floor or states[lane] >> word >= floor:
                return row
        for place in range(out.shape[1]):
            for lane in range(LANES):
                state = states[lane]
                slot = state & mask
                symbol = slots[slot]
                out[rows[lane], place] = symbol
                entry = packed[symbol]
                state = (entry & lower) * (state >> shift) + slot - (entry >> half)
                while state < floor:
                    here = at[lane]
                    if here + two > np.uint64(spans[rows[lane], 1]):
                        return rows[lane]
                    state = state << word | np.uint64(data[here])
                    state |= np.uint64(data[here + one]) << byte
                    at[lane] = here + two
                states[lane] = state
        for lane in range(LANES):
            if states[lane] != floor or at[lane] != np.uint64(spans[rows[lane], 1]):
                return rows[lane]
    return -1


PLUGIN = Rans
