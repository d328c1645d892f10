"""Range asymmetric numeral systems (Duda, arXiv 1311.2540): what the entropy codecs share.

    table    integer frequencies of S symbols that sum to 2^bits, each at least 1
    state    a whole number x, low <= x < low << 16, where low = 2^max(16, bits)
    encode   while x >= f << (log2 low - bits + 16): write x mod 2^16, x >>= 16
             x = (x / f << bits) + x mod f + cumulative;          symbols last to first
    decode   slot = x mod 2^bits; the symbol whose range holds it; x = f * (x >> bits) + slot - cum
             while x < low: x = x << 16 | next word;              symbols first to last

    payload  the state at the end of encoding, 4 bytes (6 where bits > 16), then the words in the
             order in which they are read; all little-endian

Every payload is a stream of its own that begins and ends in the state `low`, so a decoder that
does not come back to `low` at the last byte has read something that no encoder wrote. What a symbol
is and which table it is coded with is the business of the codecs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Offsets, Payloads
from tokenstore.compiled import compiled

Frequencies = NDArray[np.int64]  # [tables, S], or [S]
Tokens = NDArray[np.uint16]  # [n, tokens of an image]

WORD = 16  # bits
LANES = 4  # payloads decoded in turn, so that one's latency hides behind the others'
FLOOR_ROUNDS = 8  # of finding which symbols are too rare for a share of their own
AT_ONCE = 1024  # images encoded into one buffer of the largest possible size


class Precision(NamedTuple):
    """The numbers of a stream: bits of a table, log2 of the smallest state, bytes of the head."""

    bits: int
    low: int
    head: int

    @classmethod
    def of(cls, bits: int, most: int | None = None) -> "Precision":
        """For tables of 2^bits, where other tables of the same stream have up to 2^most."""
        low = max(WORD, bits, most or 0)
        return cls(bits, low, 4 if low == WORD else 6)


class Coder(NamedTuple):
    """Tables that share a precision: int64 [tables, S], and the sums before each frequency."""

    frequencies: Frequencies
    cumulative: Frequencies
    precision: Precision

    @classmethod
    def of(cls, frequencies: Frequencies, precision: Precision) -> "Coder":
        """Prepare tables, each row of which sums to 2^bits."""
        wide = np.ascontiguousarray(frequencies, np.int64)
        return cls(wide, np.cumsum(wide, axis=-1) - wide, precision)

    def packed(self) -> NDArray[np.uint64]:
        """cumulative << 32 | frequency, [tables, S]: one load for a decoder."""
        return (self.cumulative << 32 | self.frequencies).astype(np.uint64)


def quantised(weights: NDArray[np.float64], bits: int) -> Frequencies:
    """Integer frequencies in proportion to weights [..., S], each at least 1, rows sum to 2^bits.

    What the rare symbols get above their share is taken from the others in proportion; then the
    largest remainders are rounded up, the lowest symbol first among equals.

    Args:
        weights: positive; at most 2^bits of them in a row.
        bits: of precision.
    """
    total = 1 << bits
    scaled = weights * (total / weights.sum(-1, keepdims=True))
    for _ in range(FLOOR_ROUNDS):
        is_rare = scaled <= 1
        left = total - is_rare.sum(-1, keepdims=True)
        common = np.where(is_rare, 0, scaled)
        sums = common.sum(-1, keepdims=True)
        scaled = np.where(is_rare, 1, common * (left / np.where(sums > 0, sums, 1)))
    frequencies = np.maximum(1, np.floor(scaled)).astype(np.int64)
    missing = total - frequencies.sum(-1, keepdims=True)
    order = np.argsort(frequencies - scaled, axis=-1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(weights.shape[-1]), order.shape), -1)
    frequencies += places < missing
    return _settled(frequencies, total)


def _settled(frequencies: Frequencies, total: int) -> Frequencies:
    """Give to or take from the largest frequency of each row what rounding left over."""
    rows = frequencies.reshape(-1, frequencies.shape[-1])
    for row in rows[rows.sum(-1) != total]:
        while surplus := int(row.sum()) - total:
            largest = int(row.argmax())
            row[largest] -= min(surplus, int(row[largest]) - 1)
    return frequencies


def slots(frequencies: Frequencies, first: int = 0) -> Tokens:
    """The symbol of each slot of a table [S], uint16 [2^bits]; symbols count from `first`."""
    symbols = np.arange(first, first + len(frequencies)).astype(np.uint16)
    return np.repeat(symbols, frequencies)


def encoded(tokens: Tokens, tables: NDArray[np.int32], coder: Coder, tail: Coder) -> Payloads:
    """Code images of ranks.

    Args:
        tokens: uint16 [n, m].
        tables: int32 [n, m], which table of `coder` each token is coded with.
        coder: its last symbol stands for all ranks from there on, if `tail` has any.
        tail: one table of the ranks from there on; of no columns where there are none.
    """
    parts, sizes = [], []
    words = 2 if tail.frequencies.shape[1] or coder.precision.bits > WORD else 1
    room = coder.precision.head + 2 * 2 * words * tokens.shape[1]
    for start in range(0, len(tokens), AT_ONCE):
        some = tokens[start : start + AT_ONCE]
        buffer = np.empty((len(some), room), np.uint8)
        lengths = np.empty(len(some), np.int64)
        _encode(some, tables[start : start + AT_ONCE], coder, tail, buffer, lengths)
        parts += [row[room - length :] for row, length in zip(buffer, lengths, strict=True)]
        sizes.append(lengths)
    if not parts:
        return Payloads.joined([])
    return Payloads(np.concatenate(parts), np.cumsum(np.concatenate(sizes)))


@compiled
def _encode(
    tokens: Tokens,
    tables: NDArray[np.int32],
    coder: Coder,
    tail: Coder,
    buffer: NDArray[np.uint8],
    lengths: Offsets,
) -> None:
    """Write each image's payload so that it ends where its row of the buffer ends."""
    low, head, room = coder.precision.low, coder.precision.head, buffer.shape[1]
    has_tail = tail.frequencies.shape[1] > 0
    last = coder.frequencies.shape[1] - 1
    for row in range(len(tokens)):
        at = room
        state = np.int64(1) << low
        for place in range(tokens.shape[1] - 1, -1, -1):
            rank = np.int64(tokens[row, place])
            symbol = min(rank, last)
            # Backwards: a decoder meets the symbol before the rank that it hides.
            for step in range(2):
                if step == 0:
                    if not has_tail or symbol < last:
                        continue
                    frequency = tail.frequencies[0, rank - last]
                    before, bits = tail.cumulative[0, rank - last], tail.precision.bits
                else:
                    table = tables[row, place]
                    frequency = coder.frequencies[table, symbol]
                    before, bits = coder.cumulative[table, symbol], coder.precision.bits
                while state >= frequency << (low - bits + 16):
                    at -= 2
                    buffer[row, at] = state & 0xFF
                    buffer[row, at + 1] = (state >> 8) & 0xFF
                    state >>= 16
                quotient = state // frequency
                state = (quotient << bits) + (state - quotient * frequency) + before
        at -= head
        for byte in range(head):
            buffer[row, at + byte] = (state >> (8 * byte)) & 0xFF
        lengths[row] = room - at


NO_TAIL = Coder.of(np.zeros((1, 0), np.int64), Precision.of(WORD))
