"""The entropy codecs as docs/format.md writes them: whole numbers, lists, one token at a time.

The twins of the kernels in tokenstore/codecs. Nothing here is shared with them.
"""

from math import isqrt

import zstandard


class Table:
    """Frequencies of symbols that sum to 2^bits."""

    def __init__(self, frequencies):
        self.frequencies = [int(f) for f in frequencies]
        self.bits = sum(self.frequencies).bit_length() - 1
        self.firsts = [sum(self.frequencies[:s]) for s in range(len(self.frequencies))]

    def symbol_of(self, slot):
        return next(
            s
            for s, (first, f) in enumerate(zip(self.firsts, self.frequencies, strict=True))
            if first <= slot < first + f
        )


class Refused(Exception):
    """No encoder wrote these bytes."""


def encoded_slowly(pairs, low):
    """Payload of (symbol, its table) pairs in the order in which they are decoded."""
    state, words = 1 << low, []
    for symbol, table in reversed(pairs):
        f, first = table.frequencies[symbol], table.firsts[symbol]
        while state >= f << (low - table.bits + 16):
            words.append(state % 65536)
            state >>= 16
        state = (state // f << table.bits) + state % f + first
    head = state.to_bytes(4 if low == 16 else 5, "little")
    return head + b"".join(word.to_bytes(2, "little") for word in reversed(words))


class Reader:
    """Decodes one payload, one symbol a call."""

    def __init__(self, payload, low):
        head = 4 if low == 16 else 5
        if len(payload) < head:
            raise Refused
        self.low, self.state = low, int.from_bytes(payload[:head], "little")
        self.rest = payload[head:]
        if not 1 << low <= self.state < 1 << (low + 16):
            raise Refused

    def next(self, table):
        slot = self.state % (1 << table.bits)
        symbol = table.symbol_of(slot)
        share = table.frequencies[symbol] * (self.state >> table.bits)
        self.state = share + slot - table.firsts[symbol]
        while self.state < 1 << self.low:
            if len(self.rest) < 2:
                raise Refused
            self.state = self.state << 16 | int.from_bytes(self.rest[:2], "little")
            self.rest = self.rest[2:]
        return symbol

    def finish(self):
        if self.state != 1 << self.low or self.rest:
            raise Refused


class SlowRans:
    """One table for all ranks."""

    def __init__(self, tables, size, grid):
        self.table = Table(tables["frequencies"])
        self.low = max(16, self.table.bits)

    def encode(self, grid):
        return encoded_slowly([(int(rank), self.table) for rank in grid.ravel()], self.low)

    def decode(self, payload, shape):
        reader = Reader(payload, self.low)
        count = shape[0] * shape[1] if len(shape) == 2 else shape[0] * shape[1] * shape[2]
        ranks = [reader.next(self.table) for _ in range(count)]
        reader.finish()
        return ranks


def power(k):
    """floor(2^(30 + k/32)), found by trying."""
    number = round(2 ** (30 + k / 32))
    while number**32 > 2 ** (960 + k):
        number -= 1
    while (number + 1) ** 32 <= 2 ** (960 + k):
        number += 1
    return number


assert power(16) == isqrt(2**61)


class SlowContext:
    """A table for each pair of clusters."""

    def __init__(self, tables, size, grid):
        self.left, self.up = (row.tolist() for row in tables["clusters"])
        self.popularity = tables["popularity"].tolist()
        self.size = len(self.popularity)
        self.sides = max(self.left + self.up) + 2
        content = zstandard.ZstdDecompressor().decompress(tables["weights"].tobytes())
        signed = [byte - 256 if byte > 127 else byte for byte in content]
        self.weights = [signed[i : i + self.size] for i in range(0, len(signed), self.size)]
        self.order = sorted(range(self.size), key=lambda x: (self.up[x], self.left[x], x))
        self.bits = 15 if self.size <= 1024 else 16
        self.tail = Table(tables["tail"]) if "tail" in tables else None
        self.low = 20 if self.tail else 16
        self.made = {}

    def table(self, up, left):
        """The table of a context, its symbols in their order."""
        if (up, left) not in self.made:
            self.made[up, left] = Table(self.frequencies(up, left))
        return self.made[up, left]

    def frequencies(self, up, left):
        exponents = [
            self.popularity[x] + 4 * self.weights[left][x] + 4 * self.weights[self.sides + up][x]
            for x in self.order
        ]
        top = max(exponents)
        shares = [power((e - top) % 32) >> min(62, -((e - top) // 32)) for e in exponents]
        mean = sum(shares) >> self.bits
        shares = [max(share - mean, 0) for share in shares]
        spare, total = (1 << self.bits) - self.size, sum(shares)
        ends = [sum(shares[: i + 1]) * spare // total for i in range(self.size)]
        return [1 + end - before for end, before in zip(ends, [0, *ends], strict=False)]

    def contexts(self, symbols, at, width, height):
        line, column = divmod(at, width)
        left = self.left[symbols[at - 1]] if column else self.sides - 1
        up = self.up[symbols[at - width]] if line % height else self.sides - 1
        return up, left

    def encode(self, grid):
        ranks, last = [int(rank) for rank in grid.ravel()], self.size - 1
        symbols = [min(rank, last) for rank in ranks]
        pairs = []
        for at, symbol in enumerate(symbols):
            table = self.table(*self.contexts(symbols, at, grid.shape[-1], grid.shape[-2]))
            pairs.append((self.order.index(symbol), table))
        if self.tail:
            pairs += [(rank - last, self.tail) for rank in ranks if rank >= last]
        return encoded_slowly(pairs, self.low)

    def decode(self, payload, shape):
        reader, symbols = Reader(payload, self.low), []
        planes = shape[0] if len(shape) == 3 else 1
        for at in range(planes * shape[-2] * shape[-1]):
            table = self.table(*self.contexts(symbols, at, shape[-1], shape[-2]))
            symbols.append(self.order[reader.next(table)])
        last = self.size - 1
        if self.tail:
            symbols = [s + reader.next(self.tail) if s == last else s for s in symbols]
        reader.finish()
        return symbols
