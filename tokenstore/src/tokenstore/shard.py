"""A shard: a plain tar (ustar) whose samples are blocks of images, with an index beside it.

    000000.ranks  000000.label  000000.key ...   000001.ranks ...   two zero blocks of 512 bytes

The number is the block's within the shard; the members of a block stand together in the order of
the split's columns, with times and owners zero and mode 0644. `tar tf` and webdataset read it.
This module moves bytes and checks them; what they mean is for `columns` and the codecs to say.
"""

import functools
import hashlib
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from tokenstore import checks
from tokenstore.columns import packed_strings
from tokenstore.errors import CodecError, CorruptRecord, CorruptStore
from tokenstore.index import BlockBytes, IndexPlace, IndexReader, index_bytes, seed_of
from tokenstore.manifest import Column, ShardEntry
from tokenstore.storage import Fetched, Storage

TAR_BLOCK = 512
END = bytes(2 * TAR_BLOCK)
LARGEST_BLOCK = 2**32 - 1  # ends are <u4

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
NO_TABLES = checks.salt(None)


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member of the tar: no owner, no time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


class ColumnBytes(NamedTuple):
    """One column of one block: its bytes, and where each record ends if it has records."""

    content: bytes
    ends: Offsets | None


class ShardWriter:
    """Appends blocks to a tar; the caller opens and closes the file."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], block: int, first: int) -> None:
        """Begin a shard whose first sample has the number `first` in its split."""
        self._file = file
        self._columns = columns
        self._block = block
        self._first = first
        self._blocks: list[list[BlockBytes]] = []
        self._hash = hashlib.sha256()
        self.bytes = 0

    def append(self, contents: Sequence[ColumnBytes]) -> None:
        """Add a block: the bytes of each column, in the order of the columns.

        Raises:
            CodecError: a column of the block is larger than its index can tell.
        """
        parts = []
        for column, (content, ends) in zip(self._columns, contents, strict=True):
            if len(content) > LARGEST_BLOCK:
                raise CodecError(
                    f"a block of '{column.name}' has {len(content)} bytes, at most "
                    f"{LARGEST_BLOCK} fit; choose a smaller block"
                )
            self._write(member_header(f"{len(self._blocks):06d}.{column.name}", len(content)))
            ends32 = None if ends is None else ends.astype("<u4")
            digest = xxhash.xxh3_64_intdigest(content)
            parts.append(BlockBytes(self.bytes, len(content), digest, ends32))
            self._write(content)
            self._write(bytes(-len(content) % TAR_BLOCK))
        self._blocks.append(parts)

    def finish(self) -> bytes:
        """End the tar; returns the bytes of its index."""
        self._write(END)
        seed = seed_of(self.sha256)
        return index_bytes(self._columns, self._block, self._first, self._blocks, seed)

    @property
    def sha256(self) -> str:
        """Hash of everything written so far."""
        return self._hash.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.bytes += len(content)


@dataclass(frozen=True)
class ShardPlace:
    """Which shard: where it lies, what the manifest says of it, and its place in the split."""

    storage: Storage
    split: str
    shard: ShardEntry
    columns: tuple[Column, ...]
    block: int
    first: int
    tables: str | None


class ShardReader:
    """Records and blocks of one shard, every byte checked before it is used. Thread-safe."""

    def __init__(self, place: ShardPlace) -> None:
        """Check lengths and the header of the index.

        Raises:
            CorruptStore: the shard or its index is missing, cut or of another store.
        """
        self._place = place
        self.url = f"{place.storage.url}/{place.shard.shard.name}"
        self.name = place.shard.shard.name
        self.tables = place.shard.tables
        self.first = place.first
        self.salt = checks.salt(place.tables)
        self._check_length()
        index_place = IndexPlace(
            place.storage, place.shard, place.columns, place.block, place.first
        )
        self.index = IndexReader(index_place)
        self._fixed: dict[str, _FixedColumn] = {}
        self._block_strings = functools.lru_cache(64)(self._read_strings)

    def records(self, column: str, samples: Offsets) -> tuple[Bytes, Offsets]:
        """Checked payloads of the samples with these numbers within the shard.

        Returns:
            The payloads one after the other, uint8, and their ends, int64 [n].

        Raises:
            CorruptRecord: a record does not match its check; names shard and sample.
            CorruptStore: the index is damaged.
        """
        payloads, ends, wrong = self.gather(column, samples)
        if wrong.any():
            raise self._wrong(column, int(samples[int(np.argmax(wrong))]))
        return payloads, ends

    def record(self, column: str, sample: int) -> bytes:
        """As `records`, of one sample: nothing but its payload, without arrays of one."""
        content = self._place.storage.part(self.name, *self.index.span(column, sample))
        tables = self.salt if column == "ranks" else NO_TABLES
        if not checks.fits(content, sample + self.first, tables):
            raise self._wrong(column, sample)
        return content[: -checks.BYTES]

    def sample_name(self, sample: int) -> str:
        """How messages call a sample of this shard."""
        return f"{self.url}: sample {self.first + sample} of split '{self._place.split}'"

    def gather(self, column: str, samples: Offsets) -> tuple[Bytes, Offsets, NDArray[np.bool_]]:
        """As `records`, but tells which records are wrong instead of raising."""
        fetched = self._fetch(*self.index.locate(column, samples))
        numbers = (samples + self._place.first).astype(np.uint64)
        tables = self.salt if column == "ranks" else NO_TABLES
        return checks.gather(*fetched, numbers, tables)

    def fixed(self, column: str, samples: Offsets) -> NDArray[np.int64]:
        """Values of a `fixed` column, int64 [n].

        Raises:
            CorruptStore: a block of the column is damaged.
        """
        return self._numbers(column).values(samples)

    def number(self, column: str, sample: int) -> int:
        """As `fixed`, of one sample."""
        return self._numbers(column).value(sample)

    def strings(self, column: str, samples: Offsets) -> list[str]:
        """Values of a `packed` column, n strings.

        Raises:
            CorruptStore: a block of the column is damaged.
        """
        block = self._place.block
        return [self._block_strings(column, s // block)[s % block] for s in samples.tolist()]

    def string(self, column: str, sample: int) -> str:
        """As `strings`, of one sample."""
        block, slot = divmod(sample, self._place.block)
        return self._block_strings(column, block)[slot]

    def block_count(self, block: int) -> int:
        """Samples in a block: full ones hold the same number, the last one the rest."""
        return min(self._place.block, self._place.shard.count - block * self._place.block)

    def block_bytes(self, column: str, block: int) -> bytes:
        """All bytes of a column of a block, compared with their hash.

        Raises:
            CorruptStore: they differ.
        """
        part = self.index.block(column, block)
        content = self.bytes_at(part.base, part.base + part.size)
        if xxhash.xxh3_64_intdigest(content) != part.hash:
            raise CorruptStore(
                f"{self.url}: '{column}' of block {block} does not match its hash; "
                "restore this file from a copy, or build the store again"
            )
        return content

    def bytes_at(self, start: int, end: int) -> bytes:
        """Bytes of the tar as they are, fewer where it ends before `end`."""
        end = min(end, self._place.shard.shard.bytes)
        if not 0 <= start < end:
            return b""
        return self._place.storage.part(self.name, start, end)

    def _numbers(self, column: str) -> "_FixedColumn":
        if column not in self._fixed:
            dtype = next(c.dtype for c in self._place.columns if c.name == column)
            self._fixed.setdefault(column, _FixedColumn(self, column, str(dtype)))
        return self._fixed[column]

    def _wrong(self, column: str, sample: int) -> CorruptRecord:
        return CorruptRecord(
            f"{self.sample_name(sample)}: its '{column}' does not match its check; "
            "restore this file from a copy, or build the store again"
        )

    def _read_strings(self, column: str, block: int) -> list[str]:
        content = self.block_bytes(column, block)
        where = f"{self.url}: '{column}' of block {block}"
        return packed_strings(content, self.block_count(block), where)

    def _fetch(self, starts: Offsets, ends: Offsets) -> Fetched:
        return self._place.storage.fetch(self._place.shard.shard.name, starts, ends)

    def _check_length(self) -> None:
        expected = self._place.shard.shard.bytes
        try:
            found = self._place.storage.size(self._place.shard.shard.name)
        except FileNotFoundError as error:
            raise CorruptStore(f"{self.url} is missing; the store is not whole") from error
        if found != expected:
            raise CorruptStore(f"{self.url} has {found} bytes, the manifest says {expected}")


class _FixedColumn:
    """Numbers of one column of a shard, read block by block as they are asked for."""

    def __init__(self, shard: ShardReader, column: str, dtype: str) -> None:
        self._shard = shard
        self._column = column
        blocks, block = shard.index.blocks, shard.index.block_size
        self._values = np.zeros((blocks, block), dtype)
        self._read = np.zeros(blocks, np.bool_)

    def values(self, samples: Offsets) -> NDArray[np.int64]:
        blocks, slots = np.divmod(samples, self._values.shape[1])
        for block in np.unique(blocks[~self._read[blocks]]).tolist():
            self._read_block(block)
        return self._values[blocks, slots].astype(np.int64)

    def value(self, sample: int) -> int:
        block, slot = divmod(sample, self._values.shape[1])
        if not self._read[block]:
            self._read_block(block)
        return int(self._values[block, slot])

    def _read_block(self, block: int) -> None:
        content = self._shard.block_bytes(self._column, block)
        count = self._shard.block_count(block)
        if len(content) != count * self._values.itemsize:
            raise CorruptStore(
                f"{self._shard.url}: '{self._column}' of block {block} has {len(content)} "
                f"bytes, expected {count} x {self._values.itemsize}"
            )
        self._values[block, :count] = np.frombuffer(content, self._values.dtype)
        self._read[block] = True
