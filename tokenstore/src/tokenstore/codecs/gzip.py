"""Codec `gzip`: the escape code of a grid as one gzip member, after the paper of SeiT.

Kept for comparison and for exchange with released SeiT files: `zstd` is smaller and faster.

    record payload = gzip member, no name, no time, of the grid's escape code
"""

import zlib
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Bytes, Codec, CodecSpec, Offsets, Payloads, Ranks, Tables
from tokenstore.codecs.escape import escape, longest, unescape
from tokenstore.errors import CodecError

LEVEL = 9
GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say "with the gzip header and trailer"


class Gzip(Codec):
    """A gzip member an image; nothing shared between images."""

    name: ClassVar[str] = "gzip"

    @classmethod
    def fit(cls, sample: Ranks, spec: CodecSpec, images: int | None = None) -> Self:
        """Nothing to learn."""
        return cls(spec)

    @classmethod
    def from_tables(cls, tables: Tables, spec: CodecSpec) -> Self:
        """See `Codec.from_tables`; there are none."""
        if tables:
            raise CodecError(f"codec gzip has no tables, found {', '.join(sorted(tables))}")
        return cls(spec)

    def tables(self) -> dict[str, NDArray[np.generic]]:
        """Nothing is shared."""
        return {}

    def encode(self, ranks: Ranks) -> Payloads:
        """See `Codec.encode`."""
        self.check_ranks(ranks)
        escaped, ends = escape(ranks)
        members = []
        for grid in np.split(escaped, ends[:-1]) if len(ranks) else []:
            compressor = zlib.compressobj(LEVEL, wbits=GZIP)
            members.append(compressor.compress(grid.tobytes()) + compressor.flush())
        return Payloads.joined(members)

    def decode(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """See `Codec.decode`."""
        size = self.spec.vocabulary_size
        limit = longest(self.spec.grid, size)
        grids = []
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            member = zlib.decompressobj(wbits=GZIP)
            try:
                grids.append(member.decompress(data[start:end].tobytes(), limit + 1))
            except zlib.error as error:
                raise CodecError(f"row {row} is no gzip member: {error}") from error
            if not member.eof:
                raise CodecError(f"row {row} is no whole gzip member of at most {limit} bytes")
        escaped = Payloads.joined(grids)
        unescape(escaped.data, escaped.starts, escaped.ends, size, out)


PLUGIN = Gzip
