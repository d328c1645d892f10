"""Codec `zstd`, the default: a grid's escape code as one zstd frame, with a trained dictionary.

    record payload = zstd frame without its magic number (4 bytes):
        descriptor      1 byte: 0x20, 0x60 or 0xA0: single segment, no checksum, no dictionary id
        content size    1, 2 or 4 bytes, as the zstd format has it
        blocks          of the grid's escape code

    tables = {"dictionary": uint8 [bytes]}, a zstd dictionary; absent where none pays for itself

Any zstd library reads a payload: put the bytes 28 b5 2f fd before it, or ask for the format
"magicless". The check beside the record replaces zstd's own.
"""

import threading
from typing import Any, ClassVar, Self

import numpy as np
import zstandard
from numpy.typing import NDArray

from tokenstore.codecs.base import Bytes, Codec, CodecSpec, Offsets, Payloads, Ranks, Tables
from tokenstore.codecs.escape import escape, longest, unescape
from tokenstore.compiled import compiled
from tokenstore.errors import CodecError

LEVEL = 19
MAGIC_BYTES = b"\x28\xb5\x2f\xfd"
# Descriptor -> bytes of the content size behind it, and what is to be added to it (RFC 8878).
CONTENT_SIZES = {b"\x20": (1, 0), b"\x60": (2, 256), b"\xa0": (4, 0)}
SHORTEST = 5  # bytes of a payload: descriptor, content size, and the header of a block
FEW = 16  # below, the contexts that zstd makes for a batch cost more than they save
DICTIONARY_SIZES = (4096, 16384, 65536)
# From less there is nothing to learn; and libzstd 1.5.7 crashes on samples of a few bytes.
SAMPLE_TO_DICTIONARY = 4
LARGEST_SAMPLE = 8192  # grids; more do not change a dictionary of this size


class Zstd(Codec):
    """A zstd frame an image, with what images share in one dictionary."""

    name: ClassVar[str] = "zstd"

    def __init__(self, spec: CodecSpec, dictionary: bytes = b"") -> None:
        """Make the codec with the bytes of a trained dictionary; empty for none.

        Raises:
            CodecError: the bytes are no zstd dictionary.
        """
        super().__init__(spec)
        self._longest = longest(spec.grid, spec.vocabulary_size)
        self._bytes = dictionary
        self._dictionary = None
        if dictionary:
            kind = zstandard.DICT_TYPE_FULLDICT
            self._dictionary = zstandard.ZstdCompressionDict(dictionary, dict_type=kind)
        try:
            self._own = _Decompressor(self._dictionary)
        except zstandard.ZstdError as error:
            raise CodecError(f"the dictionary of codec zstd is damaged: {error}") from error

    @classmethod
    def fit(cls, sample: Ranks, spec: CodecSpec, images: int | None = None) -> Self:
        """Train dictionaries of several sizes and keep the one that saves most, or none.

        A dictionary is judged by what it saves on grids that it was not trained on, for as many
        images as it will serve, against its own size; then it is trained again on all grids.
        """
        plain = cls(spec)
        plain.check_ranks(sample)
        grids = _escaped(sample[:: -(-len(sample) // LARGEST_SAMPLE) or 1])
        learn, judge = grids[::2], grids[1::2]
        served = (len(sample) if images is None else images) / max(len(judge), 1)
        best_size, best_cost = 0, served * sum(map(len, plain._frames(judge)))
        for size in DICTIONARY_SIZES:
            trained = _train(learn, size)
            cost = len(trained) + served * sum(map(len, cls(spec, trained)._frames(judge)))
            if cost < best_cost:
                best_size, best_cost = size, cost
        return cls(spec, _train(grids, best_size)) if best_size else plain

    @classmethod
    def from_tables(cls, tables: Tables, spec: CodecSpec) -> Self:
        """See `Codec.from_tables`."""
        if not tables:
            return cls(spec)
        dictionary = tables.get("dictionary")
        if set(tables) != {"dictionary"} or dictionary is None or dictionary.dtype != np.uint8:
            raise CodecError(f"codec zstd expects a table 'dictionary', found {sorted(tables)}")
        return cls(spec, dictionary.tobytes())

    def tables(self) -> dict[str, NDArray[np.generic]]:
        """The dictionary, if there is one."""
        if not self._bytes:
            return {}
        return {"dictionary": np.frombuffer(self._bytes, np.uint8)}

    def encode(self, ranks: Ranks) -> Payloads:
        """See `Codec.encode`."""
        self.check_ranks(ranks)
        frames = self._frames(_escaped(ranks))
        return Payloads.joined([frame[len(MAGIC_BYTES) :] for frame in frames])

    def decode(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """See `Codec.decode`: one call into zstd for a batch, which releases the GIL throughout."""
        if not len(starts):
            return
        few = len(starts) < FEW
        escaped, sizes = (self._few if few else self._many)(data, starts, ends)
        stops = sizes.cumsum()
        unescape(escaped, stops - sizes, stops, self.spec.vocabulary_size, out)

    def _few(self, data: Bytes, starts: Offsets, ends: Offsets) -> tuple[Bytes, Offsets]:
        """Escape codes one after the other and the bytes of each; a call into zstd for each."""
        grids = []
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            payload = data[start:end].tobytes()
            width, least = CONTENT_SIZES.get(payload[:1], (0, 0))
            size = int.from_bytes(payload[1 : 1 + width], "little") + least
            if not width or len(payload) < SHORTEST or size > self._longest:
                raise self._no_beginning(row)
            try:
                grids.append(self._own.zstd.decompress(MAGIC_BYTES + payload))
            except zstandard.ZstdError as error:
                raise CodecError(f"row {row} is no zstd frame: {error}") from error
        sizes = np.array([len(grid) for grid in grids])
        return np.frombuffer(b"".join(grids), np.uint8), sizes

    def _many(self, data: Bytes, starts: Offsets, ends: Offsets) -> tuple[Bytes, Offsets]:
        """As `_few`, in one call into zstd."""
        segments = np.empty((len(starts), 2), np.uint64)  # offset, length: as zstandard wants them
        segments[:, 1] = ends - starts + len(MAGIC_BYTES)
        segments[:, 0] = np.cumsum(segments[:, 1]) - segments[:, 1]
        frames = np.empty(int(segments[:, 1].sum()), np.uint8)
        sizes = np.empty(len(starts), np.int64)
        bad = _add_magic(data, starts, ends, self._longest, frames, sizes)
        if bad >= 0:
            raise self._no_beginning(bad)
        batch = zstandard.BufferWithSegments(frames.data, segments.tobytes())
        try:
            many: Any = self._own.zstd.multi_decompress_to_buffer
            escaped = np.frombuffer(b"".join(many(batch)), np.uint8)
        except zstandard.ZstdError as error:
            row = self._first_bad(batch)
            raise CodecError(f"row {row} is no zstd frame: {error}") from error
        if len(escaped) != sizes.sum():
            raise CodecError(
                f"row 0 to {len(sizes) - 1} hold {len(escaped)} bytes, not as they say"
            )
        return escaped, sizes

    def _no_beginning(self, row: int) -> CodecError:
        return CodecError(f"row {row} does not begin a zstd frame of <= {self._longest} bytes")

    def _frames(self, grids: list[bytes]) -> list[bytes]:
        """One zstd frame a grid, with content size, without checksum and dictionary id."""
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL,
            source_size=self._longest,
            write_content_size=True,
            write_checksum=False,
            write_dict_id=False,
        )
        compressor = zstandard.ZstdCompressor(
            dict_data=self._dictionary, compression_params=parameters
        )
        return [compressor.compress(grid) for grid in grids]

    def _first_bad(self, frames: Any) -> int:
        """The first frame that zstd refuses."""
        for row, frame in enumerate(frames):
            try:
                self._own.zstd.decompress(frame)
            except zstandard.ZstdError:
                return row
        return len(frames)


class _Decompressor(threading.local):
    """A decompressor for each thread, since one must not serve two at a time."""

    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None) -> None:
        self.zstd = zstandard.ZstdDecompressor(dict_data=dictionary)


def _escaped(ranks: Ranks) -> list[bytes]:
    """The escape code of every grid."""
    escaped, ends = escape(ranks)
    return [grid.tobytes() for grid in np.split(escaped, ends[:-1])] if len(ranks) else []


def _train(grids: list[bytes], size: int) -> bytes:
    """A dictionary of at most `size` bytes, or b"" where the grids are too few or too alike."""
    if sum(map(len, grids)) < SAMPLE_TO_DICTIONARY * size:
        return b""
    try:
        return zstandard.train_dictionary(size, [*grids], level=LEVEL).as_bytes()
    except zstandard.ZstdError:
        return b""


@compiled
def _add_magic(
    data: Bytes, starts: Offsets, ends: Offsets, limit: int, frames: Bytes, sizes: Offsets
) -> int:
    """Copy payloads behind magic numbers and read their content sizes; the first bad row or -1."""
    at = 0
    for row in range(len(starts)):
        payload = data[starts[row] : ends[row]]
        if len(payload) < 5:
            return row
        if payload[0] == 0x20:
            size = np.int64(payload[1])
        elif payload[0] == 0x60:
            size = 256 + (np.int64(payload[1]) | np.int64(payload[2]) << 8)
        elif payload[0] == 0xA0:
            size = np.int64(payload[1]) | np.int64(payload[2]) << 8
            size |= np.int64(payload[3]) << 16 | np.int64(payload[4]) << 24
        else:
            return row
        if size > limit:
            return row
        sizes[row] = size
        frames[at] = 0x28
        frames[at + 1] = 0xB5
        frames[at + 2] = 0x2F
        frames[at + 3] = 0xFD
        frames[at + 4 : at + 4 + len(payload)] = payload
        at += 4 + len(payload)
    return -1


PLUGIN = Zstd
