"""Codec `context`: every rank coded with the frequency it has beside such neighbours.

    symbol   the rank, or the tail symbol S - 1 for all ranks from there on (more than 4,096 codes)
    context  (cluster of the symbol above, cluster of the symbol to the left); a missing neighbour
             is a cluster of its own; planes of a [c, h, w] grid do not see each other
    record payload = a stream of asymmetric numeral systems, see ans.py, of the symbols in
             row-major order, each with its context's table; a tail symbol is followed by the rank,
             coded with the table "tail"

    tables = {"clusters":    int32 [2, S], of each symbol as left and as upper neighbour,
              "frequencies": uint8, the tables in context order (up, then left): uint16 [contexts,
                             S], frequency - 1, low bytes and then high bytes, as one zstd frame,
              "tail":        int32 [vocabulary size - S + 1], absent where there is no tail}

The number of clusters is the one with which data and tables together are smallest, for as many
images as the tables will serve. With one cluster this is `rans` plus what the edges save. See
context_fit.py for how the tables are learnt.
"""

from typing import ClassVar, NamedTuple, Self

import numpy as np
import zstandard
from numpy.typing import NDArray

from tokenstore.codecs.ans import LANES, NO_TAIL, Coder, Precision, encoded, quantised, slots
from tokenstore.codecs.base import Bytes, Codec, CodecSpec, Offsets, Payloads, Ranks, Tables
from tokenstore.codecs.context_fit import Links, link, mean_bits, quantise_tables, tabulate
from tokenstore.compiled import compiled
from tokenstore.errors import CodecError

MOST_SYMBOLS = 4096  # more would make the tables of 4,225 contexts too large
CLUSTERS = (1, 8, 16, 32, 64)
STRENGTHS = (1000.0, 3000.0, 10000.0, 30000.0)
TAIL_BITS = 20
FEW_SYMBOLS = 1024  # up to here 15 bits lose nothing, and hints of 8 bits suffice
LARGEST_SAMPLE = 8192  # grids; more change the tables little
LEVEL = 19  # of zstd, for the tables
RUN = 8  # ends compared at once


class Search(NamedTuple):
    """What the decoder looks symbols up with.

    Attributes:
        ends: uint16 [contexts, S + RUN], the last slot of each symbol, then 65,535.
        hints: uint16 [contexts, 2^h], the symbol of the first slot of each stretch.
        left, up: int32 [S], clusters.
        tail_slots: uint16 [2^20], the rank of each slot of the tail; empty where there is none.
        tail_packed: uint64 [ranks of the tail].
    """

    ends: NDArray[np.uint16]
    hints: NDArray[np.uint16]
    left: NDArray[np.int32]
    up: NDArray[np.int32]
    tail_slots: NDArray[np.uint16]
    tail_packed: NDArray[np.uint64]


class Context(Codec):
    """A frequency table for each pair of clusters of the upper and left neighbour."""

    name: ClassVar[str] = "context"

    def __init__(
        self, spec: CodecSpec, links: Links, frequencies: NDArray[np.int64], tail: Coder
    ) -> None:
        """Make the codec of its tables.

        Args:
            spec: as for every codec.
            links: the clusters.
            frequencies: int64 [contexts, S]; each row sums to the same power of two.
            tail: one table of the ranks from S - 1 on, or `NO_TAIL`.
        """
        super().__init__(spec)
        self.links = links
        bits = int(frequencies[0].sum()).bit_length() - 1
        most = tail.precision.bits if tail is not NO_TAIL else None
        self._coder, self._tail = Coder.of(frequencies, Precision.of(bits, most)), tail
        self._search = _search(self._coder, links, tail)

    @classmethod
    def fit(cls, sample: Ranks, spec: CodecSpec, images: int | None = None) -> Self:
        """Learn clusters and tables; choose their number and the prior by a fifth of the sample.

        The choice is judged on grids that it was not learnt from, for as many images as the tables
        will serve, tables included; then the tables are counted again on all grids.
        """
        some = sample[:: -(-len(sample) // LARGEST_SAMPLE) or 1]
        size = min(spec.vocabulary_size, MOST_SYMBOLS)
        symbols = np.minimum(_planes(some), size - 1).astype(np.int64)
        served = len(sample) if images is None else images
        links, strength = _choose(symbols, size, served)
        (tables,) = tabulate(symbols, size, links, (strength,))
        return cls(spec, links, quantise_tables(tables, _bits(size)), _tail(some, spec, size))

    @classmethod
    def from_tables(cls, tables: Tables, spec: CodecSpec) -> Self:
        """See `Codec.from_tables`."""
        size = min(spec.vocabulary_size, MOST_SYMBOLS)
        names = {"clusters", "frequencies"} | ({"tail"} if size < spec.vocabulary_size else set())
        if set(tables) != names:
            raise CodecError(
                f"codec context expects tables {sorted(names)}, found {sorted(tables)}"
            )
        clusters = np.asarray(tables["clusters"])
        if clusters.dtype != np.int32 or clusters.shape != (2, size) or clusters.min() < 0:
            raise CodecError(f"codec context: clusters are no int32 [2, {size}] from 0 on")
        links = Links(clusters[0], clusters[1], int(clusters.max()) + 1)
        frequencies = _unpacked(tables["frequencies"], links.contexts, size)
        sums = frequencies.sum(1)
        if (sums != 1 << _bits(size)).any():
            raise CodecError(f"codec context: frequencies do not sum to 2^{_bits(size)}")
        return cls(spec, links, frequencies, _read_tail(tables.get("tail"), spec, size))

    def tables(self) -> dict[str, NDArray[np.generic]]:
        """Clusters, packed frequencies and, in large vocabularies, the tail's frequencies."""
        tables: dict[str, NDArray[np.generic]] = {
            "clusters": np.stack([self.links.left, self.links.up]),
            "frequencies": _packed(self._coder.frequencies),
        }
        if self._tail is not NO_TAIL:
            tables["tail"] = self._tail.frequencies[0].astype(np.int32)
        return tables

    def encode(self, ranks: Ranks) -> Payloads:
        """See `Codec.encode`."""
        self.check_ranks(ranks)
        symbols = np.minimum(_planes(ranks), self._coder.frequencies.shape[1] - 1)
        numbers = self.links.numbers(symbols).reshape(len(ranks), -1)
        flat = np.ascontiguousarray(ranks).reshape(len(ranks), -1)
        return encoded(flat, numbers, self._coder, self._tail)

    def decode(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """See `Codec.decode`."""
        if not len(starts):
            return
        spans = np.stack([starts, ends], 1)
        planes = out.reshape(len(out), -1, out.shape[-1])
        height = out.shape[-2]
        precisions = (self._coder.precision, self._tail.precision)
        bad = _decode(data, spans, self._search, precisions, height, planes)
        if bad >= 0:
            raise CodecError(f"row {bad} is no stream of codec context: its bytes do not add up")


def _bits(size: int) -> int:
    return 15 if size <= FEW_SYMBOLS else 16


def _planes(ranks: Ranks) -> Ranks:
    """[n, h, w] or [n, c, h, w] -> [n, planes, h, w]."""
    return ranks.reshape(len(ranks), -1, *ranks.shape[-2:])


def _choose(symbols: NDArray[np.int64], size: int, served: int) -> tuple[Links, float]:
    """Links and the prior's strength with which data and tables together are smallest."""
    judge, learn = symbols[::5], symbols[np.arange(len(symbols)) % 5 > 0]
    tokens = served * int(np.prod(symbols.shape[1:]))
    best = (np.inf, link(symbols, size, 1), STRENGTHS[1])
    for clusters in CLUSTERS:
        if clusters > 1 and (2 * clusters > size or not len(learn)):
            break
        links = link(learn, size, clusters)
        prices = [
            (mean_bits(judge, links, tables), strength, tables)
            for strength, tables in zip(
                STRENGTHS, tabulate(learn, size, links, STRENGTHS), strict=True
            )
        ]
        bits, strength, tables = min(prices, key=lambda price: price[0])
        shipped = len(_packed(quantise_tables(tables, _bits(size)))) + 8 * size
        cost = tokens * bits / 8 + shipped
        if cost >= best[0]:
            break
        best = (cost, links, strength)
    _, links, strength = best
    return link(symbols, size, links.clusters), strength


def _tail(sample: Ranks, spec: CodecSpec, size: int) -> Coder:
    """The table of the ranks that the last symbol stands for."""
    if size == spec.vocabulary_size:
        return NO_TAIL
    counts = np.bincount(sample.ravel(), minlength=spec.vocabulary_size)[size - 1 :] + 0.5
    return _tail_coder(quantised(counts, TAIL_BITS))


def _tail_coder(frequencies: NDArray[np.int64]) -> Coder:
    return Coder.of(frequencies[None], Precision.of(TAIL_BITS))


def _read_tail(tail: NDArray[np.generic] | None, spec: CodecSpec, size: int) -> Coder:
    if tail is None:
        return NO_TAIL
    frequencies = np.asarray(tail)
    expected = (spec.vocabulary_size - size + 1,)
    if frequencies.dtype != np.int32 or frequencies.shape != expected or frequencies.min() < 1:
        raise CodecError(f"codec context: the tail is no positive int32 {list(expected)}")
    if frequencies.sum(dtype=np.int64) != 1 << TAIL_BITS:
        raise CodecError(f"codec context: the tail's frequencies do not sum to 2^{TAIL_BITS}")
    return _tail_coder(frequencies.astype(np.int64))


def _packed(frequencies: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Frequencies as they are shipped: low bytes, then high bytes, in one zstd frame."""
    lesser = (frequencies - 1).astype("<u2").view(np.uint8).reshape(-1, 2)
    content = np.ascontiguousarray(lesser.T).tobytes()
    return np.frombuffer(zstandard.ZstdCompressor(level=LEVEL).compress(content), np.uint8)


def _unpacked(packed: NDArray[np.generic], contexts: int, size: int) -> NDArray[np.int64]:
    """The inverse of `_packed`."""
    expected = 2 * contexts * size
    try:
        frame = np.asarray(packed, np.uint8).tobytes()
        if zstandard.frame_content_size(frame) != expected:
            raise CodecError(f"codec context: its tables are not {contexts} x {size} frequencies")
        content = zstandard.ZstdDecompressor().decompress(frame, max_output_size=expected)
    except zstandard.ZstdError as error:
        raise CodecError(f"codec context: its tables are damaged: {error}") from error
    low, high = np.frombuffer(content, np.uint8).astype(np.int64).reshape(2, contexts, size)
    frequencies: NDArray[np.int64] = (high << 8 | low) + 1
    return frequencies


def _search(coder: Coder, links: Links, tail: Coder) -> Search:
    """The decoder's tables."""
    contexts, size = coder.frequencies.shape
    bits = coder.precision.bits
    ends = np.full((contexts, size + RUN), 65535, np.uint16)
    ends[:, :size] = coder.cumulative + coder.frequencies - 1
    stretches = np.arange(1 << (8 if size <= FEW_SYMBOLS else 10)) << (
        bits - (8 if size <= FEW_SYMBOLS else 10)
    )
    hints = np.stack([np.searchsorted(row[:size], stretches) for row in ends]).astype(np.uint16)
    has_tail = tail.frequencies.shape[1] > 0
    tail_slots = slots(tail.frequencies[0], size - 1) if has_tail else np.zeros(0, np.uint16)
    return Search(ends, hints, links.left, links.up, tail_slots, tail.packed()[0])


@compiled
def _decode(
    data: Bytes,
    spans: NDArray[np.int64],
    search: Search,
    precisions: tuple[Precision, Precision],
    height: int,
    out: Ranks,
) -> int:
    """Fill `out` [n, planes * height, width] from data[spans[i, 0] : spans[i, 1]]; a bad row or -1.

    Numbers are unsigned throughout: an index that may be negative costs numba a test each time.
    """
    own, tail = precisions
    shift, word, byte = np.uint64(own.bits), np.uint64(16), np.uint64(8)
    one, two, half = np.uint64(1), np.uint64(2), np.uint64(32)
    floor, mask = one << np.uint64(own.low), (one << shift) - one
    tail_shift, lower = np.uint64(tail.bits), (one << half) - one
    tail_mask = (one << tail_shift) - one
    last = np.uint64(search.left.shape[0] - 1)
    outside = np.uint64(search.left.max() + 1)
    sides = outside + one
    hint_shift = np.uint64(own.bits) - np.uint64(np.log2(search.hints.shape[1]) + 0.5)
    has_tail = search.tail_slots.shape[0] > 0
    states, at = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    rows, beside = np.empty(LANES, np.int64), np.empty(LANES, np.uint64)
    for first in range(0, len(spans), LANES):
        for lane in range(LANES):
            row = min(first + lane, len(spans) - 1)  # the last rows again: lanes are never idle
            if spans[row, 1] - spans[row, 0] < own.head:
                return row
            states[lane] = 0
            for place in range(own.head):
                states[lane] |= np.uint64(data[spans[row, 0] + place]) << np.uint64(8 * place)
            rows[lane], at[lane] = row, spans[row, 0] + own.head
            if states[lane] < floor or states[lane] >> word >= floor:
                return row
        for line in range(out.shape[1]):
            beside[:] = outside
            for column in range(out.shape[2]):
                for lane in range(LANES):
                    above = outside
                    if line % height:
                        upper = min(np.uint64(out[rows[lane], line - 1, column]), last)
                        above = np.uint64(search.up[upper])
                    table = above * sides + beside[lane]
                    state = states[lane]
                    slot = state & mask
                    symbol = np.uint64(search.hints[table, slot >> hint_shift])
                    below = np.uint64(0)
                    for step in range(RUN):
                        below += np.uint64(search.ends[table, symbol + np.uint64(step)] < slot)
                    symbol += below
                    while search.ends[table, symbol] < slot:
                        symbol += one
                    before = np.uint64(0)
                    if symbol:
                        before = np.uint64(search.ends[table, symbol - one]) + one
                    frequency = np.uint64(search.ends[table, symbol]) + one - before
                    state = frequency * (state >> shift) + slot - before
                    rank = symbol
                    for step in range(2):
                        while state < floor:
                            here = at[lane]
                            if here + two > np.uint64(spans[rows[lane], 1]):
                                return rows[lane]
                            state = state << word | np.uint64(data[here])
                            state |= np.uint64(data[here + one]) << byte
                            at[lane] = here + two
                        if step == 1 or not has_tail or symbol != last:
                            break
                        slot = state & tail_mask
                        rank = np.uint64(search.tail_slots[slot])
                        entry = search.tail_packed[rank - symbol]
                        state = (entry & lower) * (state >> tail_shift) + slot - (entry >> half)
                    out[rows[lane], line, column] = rank
                    beside[lane] = search.left[symbol]
                    states[lane] = state
        for lane in range(LANES):
            if states[lane] != floor or at[lane] != np.uint64(spans[rows[lane], 1]):
                return rows[lane]
    return -1


PLUGIN = Context
