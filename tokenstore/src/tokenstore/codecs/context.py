"""Codec `context`: every rank coded with the frequency it has beside such neighbours.

    symbol   the rank, or the last symbol S - 1 for all ranks from there on (S = 4,096 at most)
    record payload = a stream of asymmetric numeral systems, see ans.py: the symbols in row-major
             order (planes of a [c, h, w] grid one after the other, not seeing each other), each
             with its context's table; then, where the last symbol stands for several ranks, the
             rank behind each last symbol in the same order, with the table "tail"

    tables = {"clusters", "popularity", "weights": see context_tables.py,
              "tail": int32 [vocabulary size - S + 1], frequencies of the ranks from S - 1 on, which
                      sum to 2^20; absent where there is only one}

The number of clusters is the one with which data and tables together are smallest, for as many
images as the tables will serve; with one cluster this is `rans` plus what the edges save. See
context_fit.py for how the tables are learnt.
"""

from functools import cached_property
from math import prod
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.ans import (
    LANES,
    WORD,
    Coder,
    Cursor,
    Slots,
    Stream,
    encoded,
    quantised,
)
from tokenstore.codecs.base import Bytes, Codec, CodecSpec, Offsets, Payloads, Ranks, Tables
from tokenstore.codecs.context_fit import choose
from tokenstore.codecs.context_tables import FEW_SYMBOLS, ContextTables
from tokenstore.compiled import compiled
from tokenstore.errors import CodecError

MOST_SYMBOLS = 4096  # more would make the tables of 1,089 contexts too large
TAIL_BITS = 20
LARGEST_SAMPLE = 4096  # grids; more change the tables little
FEW_HINTS, MANY_HINTS = 8, 9  # log2; for up to FEW_SYMBOLS symbols, and for more


class Search(NamedTuple):
    """What the decoder looks symbols up with; places are those of context_tables.py.

    Attributes:
        ends: uint16 [contexts * (S + 1 + SEARCHED)], see `Coder`.
        hints: uint16 [contexts << hint_bits], the place of the first slot of each stretch.
        ranks: uint16 [S], the symbol at each place.
        beside, above: uint32 [S + 1], what a symbol at this place, or a missing one, adds to the
            context of its right and of its lower neighbour.
        bits: of the tables' precision.
    """

    ends: NDArray[np.uint16]
    hints: NDArray[np.uint16]
    ranks: NDArray[np.uint16]
    beside: NDArray[np.uint32]
    above: NDArray[np.uint32]
    bits: int
    hint_bits: int


class Context(Codec):
    """A frequency table for each pair of clusters of the upper and left neighbour."""

    name: ClassVar[str] = "context"

    def __init__(
        self, spec: CodecSpec, tables: ContextTables, tail: NDArray[np.int64] | None
    ) -> None:
        """Make the codec of its tables.

        Args:
            spec: as for every codec.
            tables: of the symbols.
            tail: frequencies of the ranks from S - 1 on, or None where that is only one.
        """
        super().__init__(spec)
        self._shipped, self._tail = tables, tail
        low = WORD if tail is None else TAIL_BITS
        self._coder = Coder.of(tables.lasts(), tables.bits, low)

    @classmethod
    def fit(cls, sample: Ranks, spec: CodecSpec, images: int | None = None) -> Self:
        """Learn clusters, weights and how many of them pay; see context_fit.py."""
        some = sample[:: -(-len(sample) // LARGEST_SAMPLE) or 1]
        if some.size and int(some.max()) >= spec.vocabulary_size:
            raise CodecError(
                f"rank {int(some.max())} of the sample lies outside the vocabulary of "
                f"{spec.vocabulary_size} codes"
            )
        size = min(spec.vocabulary_size, MOST_SYMBOLS)
        symbols = np.minimum(_planes(some), np.uint16(size - 1))
        served = len(sample) if images is None else images
        tail = None
        if size < spec.vocabulary_size:
            counts = np.bincount(some.ravel(), minlength=spec.vocabulary_size)[size - 1 :]
            tail = quantised(counts, TAIL_BITS)
        return cls(spec, choose(symbols, size, served), tail)

    @classmethod
    def from_tables(cls, tables: Tables, spec: CodecSpec) -> Self:
        """See `Codec.from_tables`."""
        size = min(spec.vocabulary_size, MOST_SYMBOLS)
        expected = {"clusters", "popularity", "weights"}
        if size < spec.vocabulary_size:
            expected.add("tail")
        if set(tables) != expected:
            raise CodecError(
                f"codec context expects tables {sorted(expected)}, found {sorted(tables)}"
            )
        tail = _read_tail(tables["tail"], spec, size) if "tail" in tables else None
        return cls(spec, ContextTables.read(tables, size), tail)

    def tables(self) -> dict[str, NDArray[np.generic]]:
        """Clusters, popularity, weights and, in large vocabularies, the tail's frequencies."""
        tables = self._shipped.shipped()
        if self._tail is not None:
            tables["tail"] = self._tail.astype(np.int32)
        return tables

    def encode(self, ranks: Ranks) -> Payloads:
        """See `Codec.encode`."""
        self.check_ranks(ranks)
        last = np.uint16(self._shipped.size - 1)
        symbols = np.minimum(_planes(ranks), last)
        shape = (len(ranks), prod(ranks.shape[1:]))
        contexts = self._shipped.contexts(symbols).reshape(shape)
        places = self._shipped.places[symbols].reshape(shape)
        symbols_of_all = Stream(places, contexts, self._coder)
        if self._tail is None:
            return encoded(symbols_of_all)
        flat = ranks.reshape(shape)
        hides = np.where(flat >= last, np.int32(0), np.int32(-1))
        tail = Coder.of(np.cumsum(self._tail)[None] - 1, TAIL_BITS)
        return encoded(symbols_of_all, Stream(np.maximum(flat, last) - last, hides, tail))

    def decode(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """See `Codec.decode`."""
        cursor = Cursor.begin(data, starts, ends, self._coder.low)
        lines = out.reshape(len(out), prod(out.shape[1:-1]), out.shape[-1])
        _decode(data, cursor, self._search, out.shape[-2], lines)
        if self._tail is not None:
            _decode_hidden(data, cursor, self._tail_slots, lines, self._shipped.size - 1)
        bad = cursor.first_bad()
        if bad < len(starts):
            raise CodecError(f"row {bad} is no stream of codec context: its bytes do not add up")

    @cached_property
    def _tail_slots(self) -> Slots:
        assert self._tail is not None  # noqa: S101 - for the type checker
        return Slots.of(self._tail)

    @cached_property
    def _search(self) -> Search:
        """The decoder's tables."""
        shipped, coder = self._shipped, self._coder
        hint_bits = FEW_HINTS if shipped.size <= FEW_SYMBOLS else MANY_HINTS
        stretches = (np.arange(1 << hint_bits) << (coder.bits - hint_bits)).astype(np.uint16)
        lasts = coder.ends[:, 1 : 1 + shipped.size]
        hints = np.stack([np.searchsorted(row, stretches) for row in lasts]).astype(np.uint16)
        left, up = shipped.clusters[:, shipped.order].astype(np.uint32)
        missing = np.uint32(shipped.sides - 1)
        return Search(
            coder.ends.astype(np.uint16, copy=False).reshape(-1),
            hints.ravel(),
            shipped.order.astype(np.uint16),
            np.append(left, missing),
            np.append(up, missing) * np.uint32(shipped.sides),
            coder.bits,
            hint_bits,
        )


def _planes(ranks: Ranks) -> Ranks:
    """[n, h, w] or [n, c, h, w] -> [n, planes, h, w]."""
    return ranks.reshape(len(ranks), prod(ranks.shape[1:-2]), *ranks.shape[-2:])


def _read_tail(tail: NDArray[np.generic], spec: CodecSpec, size: int) -> NDArray[np.int64]:
    expected = (spec.vocabulary_size - size + 1,)
    frequencies = np.asarray(tail)
    if frequencies.dtype != np.int32 or frequencies.shape != expected or frequencies.min() < 1:
        raise CodecError(f"codec context: the tail is no positive int32 {list(expected)}")
    if frequencies.sum(dtype=np.int64) != 1 << TAIL_BITS:
        raise CodecError(f"codec context: the tail's frequencies do not sum to 2^{TAIL_BITS}")
    return frequencies.astype(np.int64)


@compiled
def _decode(data: Bytes, cursor: Cursor, search: Search, height: int, out: Ranks) -> None:
    """Fill `out` [n, planes * height, width] with symbols and move the cursor, as `rans` does."""
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    bits, hint_bits = np.uint64(search.bits), np.uint64(search.hint_bits)
    own, floor, ends = (one << bits) - one, one << np.uint64(cursor.low), search.ends
    wide = np.uint64(len(ends) // (len(search.hints) >> search.hint_bits))
    missing, width, count = len(search.ranks), out.shape[2], len(cursor.states)
    flat, above = out.reshape(out.size), np.empty(width * LANES, np.uint32)
    lanes = np.empty((5, LANES), np.uint64)
    states, at, last, beside, spots = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    for first in range(0, count, LANES):
        for lane in range(LANES):
            row = min(first + lane, count - 1)  # the last row again: lanes are never idle
            states[lane], at[lane] = cursor.states[row], cursor.at[row]
            last[lane], spots[lane] = cursor.last[row], row * out.shape[1] * width
        for line in range(out.shape[1]):
            beside[:] = search.beside[missing]
            if line % height == 0:
                above[:] = search.above[missing]
            for column in range(width):
                for lane in range(LANES):
                    state = states[lane]
                    slot = state & own
                    upper = np.uint64(column * LANES + lane)
                    context = np.uint64(above[upper]) + beside[lane]
                    start = found = context * wide
                    found += search.hints[(context << hint_bits) + (slot >> bits - hint_bits)]
                    key = np.uint16(slot)  # from the hint on, among eight without a branch
                    found += np.uint64(ends[found + four] < key) << two
                    found += np.uint64(ends[found + two] < key) << one
                    found += np.uint64(ends[found + one] < key)
                    while ends[found + one] < key:
                        found += one
                    before = np.uint64(np.uint16(ends[found] + np.uint16(1)))
                    frequency = np.uint64(ends[found + one]) + one - before
                    state = frequency * (state >> bits) + slot - before
                    here = min(at[lane], last[lane])
                    word = np.uint64(data[here]) | np.uint64(data[here + one]) << np.uint64(8)
                    short = np.uint64(state < floor)
                    states[lane] = state << (short << four) | word * short
                    at[lane] += short << one
                    found -= start
                    flat[spots[lane]] = search.ranks[found]
                    spots[lane] += one
                    beside[lane], above[upper] = search.beside[found], search.above[found]
        for lane in range(min(LANES, count - first)):
            cursor.states[first + lane], cursor.at[first + lane] = states[lane], at[lane]


@compiled
def _decode_hidden(data: Bytes, cursor: Cursor, tail: Slots, out: Ranks, last: int) -> None:
    """Replace each symbol `last` in `out` by the rank that stands for it, and move the cursor."""
    one, byte, half = np.uint64(1), np.uint64(8), np.uint64(32)
    bits = np.uint64(TAIL_BITS)
    own, lower, floor = (one << bits) - one, (one << half) - one, one << np.uint64(cursor.low)
    for row in range(len(cursor.states)):
        state, at, end = cursor.states[row], cursor.at[row], cursor.last[row]
        grid = out[row].ravel()
        for place in range(len(grid)):
            if grid[place] != last:
                continue
            slot = state & own
            rank = tail.symbols[slot]
            grid[place] = last + rank
            entry = tail.packed[rank]
            state = (entry & lower) * (state >> bits) + slot - (entry >> half)
            for _ in range(2):
                if state >= floor:
                    break
                here = min(at, end)
                word = np.uint64(data[here]) | np.uint64(data[here + one]) << byte
                state = state << np.uint64(16) | word
                at += np.uint64(2)
        cursor.states[row], cursor.at[row] = state, at


PLUGIN = Context
