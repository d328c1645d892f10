"""Range asymmetric numeral systems (Duda, arXiv 1311.2540): what the entropy codecs share.

    table    integer frequencies of S symbols that sum to 2^bits, each at least 1; symbol s holds
             the slots first(s) .. first(s) + f(s) - 1, where first(s) sums the frequencies before
    state    a whole number x, 2^low <= x < 2^(low + 16), where low = max(16, bits)
    encode   while x >= f << (low - bits + 16): write x mod 2^16, x >>= 16
             x = (x div f << bits) + x mod f + first;             symbols last to first
    decode   slot = x mod 2^bits; the symbol that holds it; x = f * (x >> bits) + slot - first
             while x < 2^low: x = x << 16 | next word;            symbols first to last

    payload  the state at the end of encoding, 4 bytes (5 where low > 16), then the words in the
             order in which they are read, 2 bytes each; all little-endian

Every payload is a stream of its own that begins and ends in the state 2^low, so a decoder that
does not come back to 2^low at the last byte has read something that no encoder wrote. What a symbol
is and which table it is coded with is the business of the codecs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Bytes, Offsets, Payloads
from tokenstore.compiled import compiled

Frequencies = NDArray[np.int64]  # [S]
Symbols = NDArray[np.uint16]  # [n, tokens of an image]

WORD = 16  # bits
LANES = 4  # payloads decoded in turn, so that one's latency hides behind the others'
SEARCHED = 8  # symbols among which a decoder searches without a branch
UNSEEN = 0.5  # added to every count, so that a code outside the sample has a price
FLOOR_ROUNDS = 8  # of finding which symbols are too rare for a share of their own
AT_ONCE = 1024  # images encoded into one buffer of the largest possible size


class Coder(NamedTuple):
    """Tables of one precision.

    Attributes:
        ends: [tables, S + 1 + SEARCHED]: all ones, the last slot of each symbol, all ones; uint16
            up to 16 bits, else uint32. All ones is -1, the last slot before the first symbol.
        bits: of the tables' precision.
        low: log2 of the smallest state.
    """

    ends: NDArray[np.unsignedinteger]
    bits: int
    low: int

    @classmethod
    def of(cls, lasts: NDArray[np.int64], bits: int, low: int = WORD) -> "Coder":
        """For the last slots of each symbol, int64 [tables, S]; each row ends with 2^bits - 1."""
        kind = np.uint16 if bits <= WORD else np.uint32
        ends = np.full((len(lasts), lasts.shape[1] + 1 + SEARCHED), np.iinfo(kind).max, kind)
        ends[:, 1 : 1 + lasts.shape[1]] = lasts
        return cls(ends, bits, max(low, bits))


def head_bytes(low: int) -> int:
    """Bytes of a state."""
    return 4 if low == WORD else 5


def quantised(counts: NDArray[np.integer], bits: int) -> Frequencies:
    """Frequencies in proportion to counts [S] plus a half, each at least 1, that sum to 2^bits.

    What the rare symbols get above their share is taken from the others in proportion; then the
    largest remainders are rounded up, the lowest symbol first among equals.

    Args:
        counts: at most 2^bits of them.
        bits: of precision.
    """
    total = 1 << bits
    weights = counts + UNSEEN
    scaled = weights * (total / weights.sum())
    for _ in range(FLOOR_ROUNDS):
        is_rare = scaled <= 1
        common = np.where(is_rare, 0, scaled)
        scaled = np.where(is_rare, 1, common * ((total - is_rare.sum()) / max(common.sum(), 1)))
    frequencies: Frequencies = np.maximum(1, np.floor(scaled)).astype(np.int64)
    missing = max(0, total - int(frequencies.sum()))
    frequencies[np.argsort(frequencies - scaled, kind="stable")[:missing]] += 1
    while surplus := int(frequencies.sum()) - total:
        largest = int(frequencies.argmax())
        frequencies[largest] -= min(surplus, int(frequencies[largest]) - 1)
    return frequencies


class Slots(NamedTuple):
    """One table for a decoder: the symbol of each slot, and first << 32 | frequency of each."""

    symbols: NDArray[np.uint16]
    packed: NDArray[np.uint64]

    @classmethod
    def of(cls, frequencies: Frequencies) -> "Slots":
        """Of frequencies [S]; nothing where there are none."""
        firsts = np.cumsum(frequencies) - frequencies
        symbols = np.repeat(np.arange(len(frequencies)).astype(np.uint16), frequencies)
        return cls(symbols, (firsts << 32 | frequencies).astype(np.uint64))


class Stream(NamedTuple):
    """Symbols of every image that one coder codes: uint16 [n, m], and int32 [n, m] which table.

    A table of -1 leaves its symbol out.
    """

    symbols: Symbols
    tables: NDArray[np.int32]
    coder: Coder


def encoded(*streams: Stream) -> Payloads:
    """Code images: the symbols of the first stream, then those of the next; all of one `low`."""
    parts, sizes = [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    low = streams[0].coder.low
    head, tokens = head_bytes(low), sum(stream.symbols.shape[1] for stream in streams)
    room = head + 2 * tokens * (1 if low == WORD else 2)
    for start in range(0, len(streams[0].symbols), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        some = [Stream(symbols[part], tables[part], coder) for symbols, tables, coder in streams]
        count = len(some[0].symbols)
        buffer, at = np.empty((count, room), np.uint8), np.full(count, room - head)
        states = np.full(count, 1 << low)
        for stream in reversed(some):  # the decoder meets last what was coded first
            _encode(stream, states, at, head, buffer)
        lengths = room - at
        payloads = np.empty(lengths.sum(), np.uint8)
        _pack(buffer, states, at, head, payloads)
        parts.append(payloads)
        sizes.append(lengths)
    return Payloads(np.concatenate(parts), np.cumsum(np.concatenate(sizes)))


@compiled
def _encode(stream: Stream, states: Offsets, at: Offsets, head: int, buffer: Bytes) -> None:
    """Write each image's words towards the beginning of its row, `head` bytes behind `at`."""
    symbols, tables, coder = stream
    ends, bits, spare = coder.ends, coder.bits, coder.low - coder.bits + 16
    for row in range(len(symbols)):
        state, here = states[row], at[row]
        for place in range(symbols.shape[1] - 1, -1, -1):
            table, symbol = tables[row, place], np.int64(symbols[row, place])
            if table < 0:
                continue
            first = np.int64(ends[table, symbol]) + 1 if symbol else 0
            frequency = np.int64(ends[table, symbol + 1]) + 1 - first
            while state >= frequency << spare:
                here -= 2
                buffer[row, here + head] = state & 0xFF
                buffer[row, here + head + 1] = (state >> 8) & 0xFF
                state >>= 16
            quotient = np.int64(np.uint64(state) // np.uint64(frequency))
            state = (quotient << bits) + (state - quotient * frequency) + first
        states[row], at[row] = state, here


@compiled
def _pack(buffer: Bytes, states: Offsets, at: Offsets, head: int, payloads: Bytes) -> None:
    """Put each state before its words, and one payload behind the other."""
    used = 0
    for row in range(len(buffer)):
        for byte in range(head):
            buffer[row, at[row] + byte] = (states[row] >> (8 * byte)) & 0xFF
        length = buffer.shape[1] - at[row]
        payloads[used : used + length] = buffer[row, at[row] :]
        used += length


class Cursor(NamedTuple):
    """Where the decoding of some payloads stands.

    Attributes:
        states: uint64 [n].
        at: uint64 [n], the place of the next word; beyond the payload if too many were asked for.
        last: uint64 [n], the place of the payload's last word; nothing behind it is read.
        low: log2 of the smallest state.
    """

    states: NDArray[np.uint64]
    at: NDArray[np.uint64]
    last: NDArray[np.uint64]
    low: int

    @classmethod
    def begin(cls, data: Bytes, starts: Offsets, ends: Offsets, low: int) -> "Cursor":
        """Read the states of payloads up to the first that is too short or begins with none."""
        stand = np.empty((3, len(starts)), np.uint64)
        states, at, last = stand[:, : _begin(data, starts, ends, low, head_bytes(low), stand)]
        return cls(states, at, last, low)

    def first_bad(self) -> int:
        """The first payload that is not used up exactly, or how many there are."""
        bad = (self.states != 1 << self.low) | (self.at != self.last + np.uint64(2))
        return int(bad.argmax()) if bad.any() else len(bad)


@compiled
def _begin(
    data: Bytes,
    starts: Offsets,
    ends: Offsets,
    low: int,
    head: int,
    stand: NDArray[np.uint64],
) -> int:
    """Fill states, places and last places, uint64 [3, n]; how many payloads begin with a state.

    Compiled, because in numpy it cost an image alone as much as half of its decoding.
    """
    for row in range(len(starts)):
        start, end = starts[row], ends[row]
        if end - start < head or start < 0 or end > len(data):
            return row
        state = np.uint64(0)
        for byte in range(head):
            state |= np.uint64(data[start + byte]) << np.uint64(8 * byte)
        if state >> np.uint64(low) == 0 or state >> np.uint64(low + WORD) > 0:
            return row
        stand[0, row], stand[1, row], stand[2, row] = state, start + head, end - 2
    return len(starts)
